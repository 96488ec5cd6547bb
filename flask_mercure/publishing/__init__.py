"""The way of updates from a view to a hub.

* ``delivery`` - the one way that all take;
* ``settings``, ``reliability`` - what happens when a hub is down;
* ``retry``, ``health`` - what a failure says: of the update, of the hub, and when to try again;
* ``background``, ``processes`` - the thread that does it, in each process and to its end;
* ``observation``, ``signals``, ``tracing`` - what is told of each publication;
* ``recorder`` - takes the hub's place in tests;
* ``batching``, ``token_stream`` - many updates, and text as it is made;
* ``everywhere`` - one update on several hubs.
"""
