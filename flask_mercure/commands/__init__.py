"""``flask mercure``, at the shell.

* ``words`` - errors as messages, and the option that names a hub;
* ``hub`` - the hub for development;
* ``updates`` - publishing, subscribing and tokens;
* ``outbox`` - the relay and what waits for it.
"""
