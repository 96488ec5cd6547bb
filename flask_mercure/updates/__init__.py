"""Updates, before they are on their way.

* ``content`` - what an application publishes, as text;
* ``publication`` - the form that is sent;
* ``update`` - many updates, to be published together.
"""
