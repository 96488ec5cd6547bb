"""The connected subscribers: who they are, which updates they get, and the engine that writes to them."""
