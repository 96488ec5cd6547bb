"""Updates in the application's own database, written with the change that they tell of.

* ``binding`` - which database: engine, table, session;
* ``table``, ``rows`` - the table, an update as a row, writing it in a transaction;
* ``transaction`` - what a session publishes when it commits;
* ``app``, ``writer`` - the outbox of an app, ``mercure.outbox(session).publish(...)``;
* ``order`` - which updates may be sent now;
* ``claims``, ``settlement`` - taking them from other relays' reach, recording what became of them;
* ``relay``, ``wakeup`` - the loop that sends, what it waits with;
* ``service``, ``thread`` - the relay as a process, as a thread;
* ``contents``, ``metrics`` - what is in it, for people and monitoring.

Importing this package loads SQLAlchemy; ``flask_mercure`` does it where an application asks for an outbox.
"""

from flask_mercure.outbox.binding import Outbox
from flask_mercure.outbox.metrics import OutboxCollector, outbox_stats
from flask_mercure.outbox.table import outbox_table

__all__ = ["Outbox", "OutboxCollector", "outbox_stats", "outbox_table"]
