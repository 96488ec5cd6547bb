"""HTTP with a hub.

* ``session`` - the session of requests, without the environment's proxies and passwords;
* ``answer`` - what a hub says, in words;
* ``batch_support`` - whether a hub takes batches;
* ``publisher`` - the request that publishes;
* ``connection`` - a connection that is read as it goes, for a stream.
"""
