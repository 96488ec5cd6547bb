"""Reading from a hub.

* ``subscriber`` - updates, through every loss of the connection;
* ``presence`` - who is connected;
* ``position`` - the hub's newest update, after which the stream of a page begins.
"""
