"""HTTP with a hub.

* ``session`` - pooled connections of requests, without the environment's proxies and passwords;
* ``answer`` - what the answer to a publication means, and what a missing answer means;
* ``publisher`` - the request that publishes, and whether the hub takes batches;
* ``connection`` - one connection on a socket of its own, for a stream.
"""
