"""Notes that are encrypted on their way."""
