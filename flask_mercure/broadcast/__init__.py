"""Models that are published when they change.

* ``rule`` - what of a model is published, and to whom;
* ``earlier`` - an object before its changes;
* ``models`` - listening to what happens to its objects;
* ``transactions`` - how an application asks for it.

Importing this package loads nothing; ``rule`` and ``models`` load SQLAlchemy.
"""
