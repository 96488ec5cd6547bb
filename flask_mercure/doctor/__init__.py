"""``flask mercure doctor``: tries out whether app, hub, proxy and browser fit together.

* ``command`` - the command, and findings as text and as JSON;
* ``examination`` - the order of the checks, and what each one sends;
* ``addresses``, ``certificates``, ``tokens``, ``delivery``, ``browser`` - what the answers mean;
* ``findings`` - what a check has to say;
* ``connection`` - sockets with deadlines, requests, event streams that stay open.
"""
