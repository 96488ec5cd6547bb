"""The cookie that carries an access token to the hub, and what browsers make of it.

* ``policy`` - the cookie of a hub: its name, attributes and domain;
* ``hosts`` - hosts, as browsers judge them;
* ``caching`` - responses with a cookie, and shared caches.
"""
