"""Topics, as an application writes them.

* ``matchers`` - topics and patterns, and their form on the wire;
* ``characters`` - what may stand in topics, ids and types;
* ``address`` - the URL to subscribe with.
"""
