"""The debugger: a page of the hub's own, on which one sees what the hub does and why it refuses."""
