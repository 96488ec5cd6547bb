"""Where the log and the fan-out meet."""
