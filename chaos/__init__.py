"""Runs real hubs under faults and checks what they promise."""
