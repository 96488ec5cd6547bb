"""One reader for all processes of a machine: it keeps a copy of the newest history, which they read."""
