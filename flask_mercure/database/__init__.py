"""Publishing with the commits of the application's own database.

A commit writes rows, a relay sends them: ``transaction`` collects what a transaction publishes and writes it
to the ``table``; the ``relay`` takes rows by ``claims``, publishes them and records what became of them.

* ``table`` - the columns, an update as a row, and all statements;
* ``transaction`` - what a session or a connection writes when it commits;
* ``claims``, ``relay`` - which updates may be sent, and the loop that sends them;
* ``outbox`` - the outbox of an app: its database, its relay thread, ``mercure.outbox(session).publish(...)``;
* ``rules``, ``models`` - ``@mercure.broadcast``: what of a model is published, and when.

Importing this package loads SQLAlchemy; ``flask_mercure`` does it where an application asks for it.
"""

from flask_mercure.database.outbox import Outbox, OutboxCollector, outbox_stats
from flask_mercure.database.rules import topic_url
from flask_mercure.database.table import outbox_table

__all__ = ["Outbox", "OutboxCollector", "outbox_stats", "outbox_table", "topic_url"]
