"""The durable log of updates: the seam between the hub and its storage."""
