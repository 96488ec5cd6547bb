"""Scripts, one for each client: each subscribes with it or publishes with it.

A subscriber is called with the hub's URL and the topics. ``TOKEN`` is in the environment. It prints
``{"id": ..., "data": ...}`` for each update, and connects again when the stream breaks.

A publisher is called with the hub's URL, the data and the topics. ``TOKEN`` is in the environment, or
``SECRET`` for those that sign; ``PRIVATE`` makes the update private. It prints ``{"id": ...}``.

Each ends after ``LIMIT`` seconds, a subscriber when its standard input ends.
"""
