"""Topics, as an application writes them.

* ``building`` - topics and patterns with a user's text in them;
* ``matchers`` - topics and patterns, and their form on the wire;
* ``characters`` - what may stand in topics, ids and types;
* ``address`` - the URL to subscribe with.
"""
