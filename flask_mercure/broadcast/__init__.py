"""Models that are published when they change.

* ``rule`` - what of a model is published, and to whom;
* ``models`` - listening to what happens to its objects;
* ``transaction`` - what a transaction publishes when it commits.

Importing this package loads nothing; its modules load SQLAlchemy.
"""
