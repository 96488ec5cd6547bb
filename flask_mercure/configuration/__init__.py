"""The ``MERCURE_`` keys of ``app.config``.

* ``naming`` - how a setting is called in messages;
* ``conversion`` - one function for each form of value;
* ``settings`` - the configuration of one hub;
* ``registry`` - several hubs.
"""
