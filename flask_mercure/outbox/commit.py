"""Writing at the commit of a plain connection.

In PostgreSQL a writer takes locks on its topics and keeps them to its commit. Taken earlier, they could
close a circle with locks of the app's own: one transaction has a topic and wants a row, another has the row
and wants the topic. A session collects what it publishes (see ``transaction``); this does it for a connection
without one.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Table, event

from flask_mercure.outbox.rows import write
from flask_mercure.updates import Publication

_Updates = Sequence[tuple[str, Publication]]


@dataclass
class _Pending:
    """What a transaction is to write, and how much of it there was when each savepoint was set."""

    writes: list[tuple[Table, _Updates]] = field(default_factory=list)
    marks: list[int] = field(default_factory=list)


_pending: weakref.WeakKeyDictionary[Connection, _Pending] = weakref.WeakKeyDictionary()


def write_at_commit(connection: Connection, table: Table, updates: _Updates) -> None:
    """Write updates as the last thing that the transaction of a connection does.

    Engines without such locks, and connections in the mode of autocommit, get them at once.

    :param connection: in a transaction.
    :param table: made by :func:`~flask_mercure.outbox.table.outbox_table`.
    :param updates: name of the hub, and the update, which has an id.
    """
    driver = connection.connection.dbapi_connection
    if connection.dialect.name != "postgresql" or getattr(driver, "autocommit", False):
        write(connection, table, updates, time.time())
        return
    pending = _pending.get(connection)
    if pending is None:
        pending = _pending[connection] = _Pending()
        for name, listener in _LISTENERS.items():
            event.listen(connection, name, listener)
    pending.writes.append((table, updates))


def _write(connection: Connection) -> None:
    pending = _pending[connection]
    writes, pending.writes = pending.writes, []
    pending.marks.clear()
    for table in dict.fromkeys(table for table, _ in writes):
        updates = [one for other, some in writes if other is table for one in some]
        write(connection, table, updates, time.time())


def _forget(connection: Connection) -> None:
    pending = _pending[connection]
    pending.writes.clear()
    pending.marks.clear()


def _prepare(connection: Connection, _xid: Any) -> None:
    _write(connection)


def _commit_prepared(connection: Connection, _xid: Any, is_prepared: bool) -> None:
    if not is_prepared:
        _write(connection)


def _forget_prepared(connection: Connection, _xid: Any, _is_prepared: bool) -> None:
    _forget(connection)


def _mark(connection: Connection, _name: str | None) -> None:
    pending = _pending[connection]
    pending.marks.append(len(pending.writes))


def _end_mark(connection: Connection) -> int:
    """Where the innermost savepoint began; one that is not known was set before the first update."""
    marks = _pending[connection].marks
    return marks.pop() if marks else 0


def _roll_back(connection: Connection, _name: str, _context: None) -> None:
    begin = _end_mark(connection)
    del _pending[connection].writes[begin:]


def _release(connection: Connection, _name: str, _context: None) -> None:
    _end_mark(connection)


_LISTENERS: dict[str, Callable[..., None]] = {
    "commit": _write,
    "rollback": _forget,
    "prepare_twophase": _prepare,
    "commit_twophase": _commit_prepared,
    "rollback_twophase": _forget_prepared,
    "savepoint": _mark,
    "rollback_savepoint": _roll_back,
    "release_savepoint": _release,
}
