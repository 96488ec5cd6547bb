"""Two hubs on one history, behind one proxy."""
