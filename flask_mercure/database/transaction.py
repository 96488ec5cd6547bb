"""What a transaction publishes when it commits: of a session, and of a plain connection.

A session collects pending updates in frames, one for the transaction and one for each savepoint. A savepoint
that is released gives its frame to the transaction around it; one that ends in any other way discards it, and
so does the transaction. Before the commit, while the objects can still be read, pending updates become final.
Those for the outbox are written then; the others are sent after the commit.

A connection writes at its commit too. In PostgreSQL a writer locks its topics until the commit. Taken
earlier, these locks could close a circle with locks of the app's own: one transaction has a topic and wants a
row, another has the row and wants the topic.
"""

from __future__ import annotations

import logging
import time
import weakref
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from sqlalchemy import Connection, Table, event
from sqlalchemy.orm import Session, SessionTransaction

from flask_mercure.database.table import write
from flask_mercure.updates import Publication

_MOST_ROUNDS = 100  # as SQLAlchemy: hooks that change objects with every flush would never end

_log = logging.getLogger("flask_mercure")


class Destination(Protocol):
    """Where updates go once their transaction is committed; equal destinations get them together."""

    def committed(self, updates: Sequence[Outgoing], /) -> None:
        """Take the updates, in order."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A final update.

    :param hub: name of the hub.
    :param publication: the update.
    :param table: the outbox that it is written to, or ``None``.
    :param destination: gets it after the commit.
    """

    hub: str
    publication: Publication
    table: Table | None
    destination: Destination


class Pending(Protocol):
    """Something to publish at the commit."""

    def merged(self, earlier: Pending) -> Pending | None:
        """This together with an earlier one of the same key; ``None`` if nothing is left to publish."""

    def outgoing(self) -> Sequence[Outgoing]:
        """The updates, in the state that is about to be committed."""


@dataclass(frozen=True, slots=True)
class PublishedUpdate:
    """An update that the app publishes by hand; each has a key of its own."""

    update: Outgoing

    def merged(self, earlier: Pending) -> Pending | None:  # noqa: ARG002 - no two have one key
        return self

    def outgoing(self) -> Sequence[Outgoing]:
        return (self.update,)


_Frame = dict[Hashable, Pending]


@dataclass
class _Work:
    """What is under way in one session."""

    frames: dict[SessionTransaction, _Frame] = field(default_factory=dict)
    prepared: list[Outgoing] = field(default_factory=list)
    is_preparing: bool = False
    is_committed: bool = False
    is_rolled_back: bool = False

    def is_pending(self) -> bool:
        return any(self.frames.values())


# Not Session.info: sessions of one sessionmaker share what is given to it there.
_works: weakref.WeakKeyDictionary[Session, _Work] = weakref.WeakKeyDictionary()


def collect(session: Session, key: Hashable, pending: Pending) -> None:
    """Publish something when the transaction of a session commits, and only then.

    :param session: with or without a transaction; it begins one.
    :param key: those with the same key become one, in the position of the last.
    :param pending: what to publish.
    """
    listen()
    transaction = session.get_nested_transaction() or session.get_transaction() or session.begin()
    work = _works.setdefault(session, _Work())
    _put(work.frames.setdefault(transaction, {}), key, pending)


def _put(frame: _Frame, key: Hashable, pending: Pending) -> None:
    earlier = frame.pop(key, None)
    both = pending if earlier is None else pending.merged(earlier)
    if both is not None:
        frame[key] = both


def listen() -> None:
    """Listen to the transactions of all sessions; further calls change nothing."""
    for name, listener in _SESSION_LISTENERS.items():
        if not event.contains(Session, name, listener):
            event.listen(Session, name, listener)


def _before_commit(session: Session) -> None:
    if session.get_nested_transaction() is not None:
        return
    session.flush()  # what is only pending yet is part of the commit
    work = _works.get(session)
    if work is not None:
        work.is_preparing = True
        _prepare(session, work)


def _after_flush(session: Session, _context: Any) -> None:
    """A hook of the app that runs after ours may change objects; they are flushed within the commit."""
    work = _works.get(session)
    if work is not None and work.is_preparing and session.get_nested_transaction() is None:
        _prepare(session, work)


def _prepare(session: Session, work: _Work) -> None:
    """Make pending updates final, and write those for the outbox."""
    for _ in range(_MOST_ROUNDS):
        if not work.is_pending():
            return
        frames, work.frames = work.frames, {}
        try:
            # Reading an attribute may flush, and so collect more.
            updates = [
                one for frame in frames.values() for pending in frame.values() for one in pending.outgoing()
            ]
        except BaseException:
            work.frames = frames  # the app may mend it and commit again
            raise
        tables: dict[Table, list[tuple[str, Publication]]] = {}
        for one in updates:
            if one.table is not None:
                tables.setdefault(one.table, []).append((one.hub, one.publication))
        for table, rows in tables.items():
            write(session.connection(bind_arguments={"clause": table}), table, rows, time.time())
        work.prepared += updates
    raise RuntimeError(
        f"{_MOST_ROUNDS} rounds of changes within one commit: does a serializer change an object?"
    )


def _after_commit(session: Session) -> None:
    work = _works.get(session)
    if work is None:
        return
    nested = session.get_nested_transaction()
    if nested is None:
        work.is_committed = True
        return
    frame = work.frames.pop(nested, None)
    around = nested.parent
    while around is not None and not around.nested and around.parent is not None:
        around = around.parent
    if frame and around is not None:
        outer = work.frames.setdefault(around, {})
        for key, pending in frame.items():
            _put(outer, key, pending)


def _after_rollback(session: Session) -> None:
    work = _works.get(session)
    if work is not None:
        work.is_rolled_back = True


def _after_transaction_end(session: Session, transaction: SessionTransaction) -> None:
    work = _works.get(session)
    if work is None:
        return
    dropped = work.frames.pop(transaction, {})
    if transaction.parent is not None:
        return
    del _works[session]
    if work.is_committed:
        groups: dict[Destination, list[Outgoing]] = {}
        for one in work.prepared:
            groups.setdefault(one.destination, []).append(one)
        for destination, updates in groups.items():
            destination.committed(updates)
    elif not work.is_rolled_back and (
        lost := [one for one in dropped.values() if isinstance(one, PublishedUpdate)]
    ):
        _log.warning(
            "a session was closed without commit, and %d updates that it was to publish were not: %s",
            len(lost),
            [one.update.publication.topics for one in lost[:5]],
        )


_SESSION_LISTENERS: dict[str, Callable[..., None]] = {
    "before_commit": _before_commit,
    "after_flush_postexec": _after_flush,
    "after_commit": _after_commit,
    "after_rollback": _after_rollback,
    "after_transaction_end": _after_transaction_end,
}


# Connections without a session

_Updates = Sequence[tuple[str, Publication]]


@dataclass
class _Writes:
    """What a transaction is to write, and how much of it there was when each savepoint was set."""

    writes: list[tuple[Table, _Updates]] = field(default_factory=list)
    marks: list[int] = field(default_factory=list)


_writes: weakref.WeakKeyDictionary[Connection, _Writes] = weakref.WeakKeyDictionary()


def write_at_commit(connection: Connection, table: Table, updates: _Updates) -> None:
    """Write updates as the last thing that the transaction of a connection does.

    Engines without locks on topics, and connections in autocommit mode, get them at once.

    :param connection: in a transaction.
    :param table: made by :func:`~flask_mercure.database.table.outbox_table`.
    :param updates: pairs of a hub's name and an update, which has an id.
    """
    driver = connection.connection.dbapi_connection
    if connection.dialect.name != "postgresql" or getattr(driver, "autocommit", False):
        write(connection, table, updates, time.time())
        return
    pending = _writes.get(connection)
    if pending is None:
        pending = _writes[connection] = _Writes()
        for name, listener in _CONNECTION_LISTENERS.items():
            event.listen(connection, name, listener)
    pending.writes.append((table, updates))


def _write(connection: Connection) -> None:
    pending = _writes[connection]
    writes, pending.writes = pending.writes, []
    pending.marks.clear()
    for table in dict.fromkeys(table for table, _ in writes):
        updates = [one for other, some in writes if other is table for one in some]
        write(connection, table, updates, time.time())


def _discard(connection: Connection) -> None:
    pending = _writes[connection]
    pending.writes.clear()
    pending.marks.clear()


def _prepare_two_phases(connection: Connection, _xid: Any) -> None:
    _write(connection)


def _commit_two_phases(connection: Connection, _xid: Any, is_prepared: bool) -> None:
    if not is_prepared:
        _write(connection)


def _roll_back_two_phases(connection: Connection, _xid: Any, _is_prepared: bool) -> None:
    _discard(connection)


def _set_savepoint(connection: Connection, _name: str | None) -> None:
    pending = _writes[connection]
    pending.marks.append(len(pending.writes))


def _end_savepoint(connection: Connection) -> int:
    """Where the innermost savepoint began; one that is not known was set before the first update."""
    marks = _writes[connection].marks
    return marks.pop() if marks else 0


def _roll_back_savepoint(connection: Connection, _name: str, _context: None) -> None:
    begin = _end_savepoint(connection)
    del _writes[connection].writes[begin:]


def _release_savepoint(connection: Connection, _name: str, _context: None) -> None:
    _end_savepoint(connection)


_CONNECTION_LISTENERS: dict[str, Callable[..., None]] = {
    "commit": _write,
    "rollback": _discard,
    "prepare_twophase": _prepare_two_phases,
    "commit_twophase": _commit_two_phases,
    "rollback_twophase": _roll_back_two_phases,
    "savepoint": _set_savepoint,
    "rollback_savepoint": _roll_back_savepoint,
    "release_savepoint": _release_savepoint,
}
