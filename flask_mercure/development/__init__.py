"""A hub beside the application, on a developer's machine.

* ``launch`` - the command line and environment of a hub, made from that of the app;
* ``local_hub`` - a hub for tests.
"""
