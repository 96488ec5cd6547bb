"""Clients that others wrote, on a hub that runs as a process: ``make foreign``.

* ``clients`` - a script for each of them, all of which are called in one way;
* ``kinds`` - what there is, and why it cannot be tried on this machine;
* ``processes`` - the hub, what holds its port while it is away, a client.
"""
