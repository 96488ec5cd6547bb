"""Commands that are not the hub itself: history, installation, conversion."""
