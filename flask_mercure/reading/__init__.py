"""Reading from a hub.

* ``subscriber`` - updates, through every loss of the connection;
* ``presence`` - who is connected;
* ``subscribing`` - both, as an application calls them.
"""
