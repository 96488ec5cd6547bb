"""The rules of the Mercure protocol, as plain values and functions.

Nothing below this package opens a socket, reads a clock, touches a database or imports gevent or
Flask: what a function needs, the time included, is passed in. ``spec`` in a docstring is the
Mercure draft (draft-dunglas-mercure-08), ``0.x`` the protocol that earlier hubs speak.
"""
