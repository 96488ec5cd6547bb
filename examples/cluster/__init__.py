"""Two hubs on one log, behind one proxy."""
