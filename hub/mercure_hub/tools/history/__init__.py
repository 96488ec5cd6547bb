"""Work on the stored updates from the command line: look, carry over, discard, copy."""
