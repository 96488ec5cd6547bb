"""What a transaction of a session publishes when it commits.

Entries are collected in frames, one for the transaction and one for each savepoint. A savepoint that is
released gives its frame to the transaction around it; one that ends in any other way takes it along, and so
does the transaction. Before the commit the entries become updates, while the objects can still be
read. Those for the outbox are written then and there; the others are sent when the commit is done.
"""

from __future__ import annotations

import logging
import time
import weakref
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from sqlalchemy import Table, event
from sqlalchemy.orm import Session, SessionTransaction

from flask_mercure.outbox.rows import write
from flask_mercure.updates import Publication

_KEY = "flask_mercure"
_MOST_ROUNDS = 100  # as SQLAlchemy: hooks that change objects with every flush would never end

_log = logging.getLogger("flask_mercure")


class Way(Protocol):
    """What happens to updates of a transaction that is committed; equal ones get them together."""

    def settled(self, updates: Sequence[Outgoing], /) -> None:
        """Take them, in order."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """An update, and how it leaves.

    :param hub: name of the hub.
    :param publication: the update.
    :param table: the outbox that it is written to, or ``None``.
    :param way: gets it after the commit.
    """

    hub: str
    publication: Publication
    table: Table | None
    way: Way


@dataclass(frozen=True, slots=True)
class Ready:
    """An update that the app has put into a transaction by hand."""

    update: Outgoing

    def after(self, earlier: Entry) -> Entry | None:  # noqa: ARG002 - no two have one key
        return self

    def outgoing(self) -> Sequence[Outgoing]:
        return (self.update,)


class Entry(Protocol):
    """Something to publish at the commit."""

    def after(self, earlier: Entry) -> Entry | None:
        """What this and an earlier entry of the same key come to; ``None``: nothing."""

    def outgoing(self) -> Sequence[Outgoing]:
        """The updates, in the state that is about to be committed."""


Frame = dict[Hashable, Entry]


@dataclass
class _Work:
    """What is under way in one session."""

    frames: dict[SessionTransaction, Frame] = field(default_factory=dict)
    prepared: list[Outgoing] = field(default_factory=list)
    is_preparing: bool = False
    is_committed: bool = False
    is_rolled_back: bool = False

    def collected(self) -> bool:
        return any(self.frames.values())


# Not Session.info: sessions of one sessionmaker share what is given to it there.
_works: weakref.WeakKeyDictionary[Session, _Work] = weakref.WeakKeyDictionary()


def collect(session: Session, key: Hashable, entry: Entry) -> None:
    """Publish something when the transaction of a session commits, and only then.

    :param session: with or without a transaction; it begins one.
    :param key: entries of the same key become one, at the place of the last.
    :param entry: what to publish.
    """
    listen()
    transaction = session.get_nested_transaction() or session.get_transaction() or session.begin()
    work = _works.setdefault(session, _Work())
    _put(work.frames.setdefault(transaction, {}), key, entry)


def _put(frame: Frame, key: Hashable, entry: Entry) -> None:
    earlier = frame.pop(key, None)
    both = entry if earlier is None else entry.after(earlier)
    if both is not None:
        frame[key] = both


def listen() -> None:
    """Attend to the transactions of all sessions; calling it again changes nothing."""
    for name, listener in _LISTENERS.items():
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
    """Turn what is collected into updates, and write those for the outbox."""
    for _ in range(_MOST_ROUNDS):
        if not work.collected():
            return
        frames, work.frames = work.frames, {}
        try:
            # Reading an attribute may flush, and so collect more.
            updates = [
                one for frame in frames.values() for entry in frame.values() for one in entry.outgoing()
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
        for key, entry in frame.items():
            _put(outer, key, entry)


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
        groups: dict[Way, list[Outgoing]] = {}
        for one in work.prepared:
            groups.setdefault(one.way, []).append(one)
        for way, updates in groups.items():
            way.settled(updates)
    elif not work.is_rolled_back and (lost := [one for one in dropped.values() if isinstance(one, Ready)]):
        _log.warning(
            "a session was closed without commit, and %d updates that it was to publish were not: %s",
            len(lost),
            [one.update.publication.topics for one in lost[:5]],
        )


_LISTENERS: dict[str, Callable[..., None]] = {
    "before_commit": _before_commit,
    "after_flush_postexec": _after_flush,
    "after_commit": _after_commit,
    "after_rollback": _after_rollback,
    "after_transaction_end": _after_transaction_end,
}
