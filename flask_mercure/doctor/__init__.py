"""``flask mercure doctor``: whether app, hub, proxy and browser fit together, found out by doing it.

* ``finding`` - what a check has to say, and ``report``, ``command`` - how it is shown;
* ``connection``, ``exchange``, ``streams`` - sockets with deadlines, requests, event streams that stay open;
* ``door``, ``admission`` - going to a URL, presenting a token;
* ``addresses``, ``certificates``, ``clock``, ``delivery``, ``browser``, ``protocols``, ``verdicts`` - from
  what was observed (``observation``, ``trials``) to findings;
* ``examination`` - the order of the checks, and what each one sends.
"""
