"""The way of updates from a view to a hub.

* ``delivery`` - the one way that all take;
* ``settings``, ``reliability`` - what happens when a hub is down;
* ``retry``, ``background`` - when something is tried again, and the thread that does it;
* ``observation``, ``signals``, ``tracing`` - what is told of each publication;
* ``recorder`` - takes the hub's place in tests;
* ``batching``, ``token_stream`` - many updates, and text as it is made;
* ``everywhere`` - one update on several hubs.
"""
