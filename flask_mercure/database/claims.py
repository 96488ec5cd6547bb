"""Which updates a relay may send, and how it takes them from other relays meanwhile.

Two updates that share a topic of a hub keep their order. So an update waits for every earlier one with which
it shares a topic, and for nothing else.

Where the engine can, a relay locks the rows at the head of their topics (``FOR UPDATE SKIP LOCKED``) and
holds its transaction while it sends: a relay that dies loses its connection and with it the locks. SQLite
has no row locks. There a relay writes its name and a time into them, and another one takes them when that
time has passed, or at once when the process of that name no longer runs on this machine.
"""

from __future__ import annotations

import os
import socket
import sys
import uuid
from collections.abc import Container, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, RowMapping, Select, Table, or_, select, update

from flask_mercure.database.table import WAITING, moment, portions, seconds, topics_of

_PAGE = 500
_WITH_ROW_LOCKS = frozenset({"postgresql", "mysql", "mariadb", "oracle"})

LEASE = 30.0
"""Seconds; longer where requests may take longer: a relay stops sending well before its lease ends."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """A waiting update, as far as the order depends on it.

    :param sequence: position in the outbox.
    :param lanes: hub and topic, for each topic.
    :param is_due: its time has come; an update that failed waits before it is tried again.
    """

    sequence: int
    lanes: tuple[tuple[str, str], ...]
    is_due: bool


class Order:
    """The order of the updates that wait, read page after page from the oldest on.

    Earlier pages are remembered, so that a page need not hold the whole outbox.
    """

    def __init__(self) -> None:
        self._seen: set[tuple[str, str]] = set()
        self._updates: list[Waiting] = []

    def add(self, updates: Iterable[Waiting]) -> list[int]:
        """Take the next page.

        :param updates: in the order of the outbox, after those of the pages before.
        :returns: the sequences of its heads: due, with nothing before them on any of their topics.
        """
        heads = []
        for one in updates:
            if one.is_due and self._seen.isdisjoint(one.lanes):
                heads.append(one.sequence)
            self._seen.update(one.lanes)
            self._updates.append(one)
        return heads

    def sendable(self, held: Container[int]) -> list[int]:
        """The updates that the holder of some heads may send, in order.

        These are the heads and the updates that only they hold back, which nobody else can take meanwhile.

        :param held: sequences of heads that nobody else can send now.
        """
        ours: set[tuple[str, str]] = set()
        others: set[tuple[str, str]] = set()
        sendable = []
        for one in self._updates:
            follows = one.is_due and not ours.isdisjoint(one.lanes) and others.isdisjoint(one.lanes)
            if one.sequence in held or follows:
                sendable.append(one.sequence)
                ours.update(one.lanes)
            else:
                others.update(one.lanes)
        return sendable


@dataclass
class Claim:
    """Updates that one relay may send now.

    :param connection: records what becomes of them.
    :param rows: of the updates, in order.
    """

    connection: Connection
    rows: list[RowMapping] = field(default_factory=list)


class Claims:
    """Takes updates for one relay.

    :param engine: of the database with the outbox.
    :param table: the outbox.
    :param owner: name of the relay; by default from machine and process.
    :param lease: seconds for which updates are taken where there are no locks on rows.
    """

    def __init__(
        self, engine: Engine, table: Table, owner: str | None = None, *, lease: float = LEASE
    ) -> None:
        self._table = table
        self._owner = owner or f"{machine()}:{os.getpid()}:{uuid.uuid4().hex[:12]}"
        self._lease = lease
        self._has_row_locks = engine.dialect.name in _WITH_ROW_LOCKS
        # Not stricter: what other relays have committed since must be seen.
        self._engine = (
            engine.execution_options(isolation_level="READ COMMITTED") if self._has_row_locks else engine
        )

    @contextmanager
    def take(
        self,
        now: float,
        limit: int,
        paused: frozenset[str] = frozenset(),
        spared: Container[object] = frozenset(),
    ) -> Iterator[Claim]:
        """Take updates for the length of a ``with`` block, oldest first.

        :param now: seconds since the epoch.
        :param limit: most updates to take.
        :param paused: hubs whose updates stay.
        :param spared: sequences of updates that stay, with what waits for them.
        """
        with self._engine.connect() as connection:
            claim = Claim(connection)
            self._fill(claim, now, limit, paused, spared)
            if self._has_row_locks:
                yield claim
                connection.commit()
                return
            connection.commit()
            try:
                yield claim
                connection.commit()
            finally:
                connection.rollback()  # what an error in the block left open
                if claim.rows:
                    self._release(connection)
                    connection.commit()

    def _fill(
        self, claim: Claim, now: float, limit: int, paused: frozenset[str], spared: Container[object]
    ) -> None:
        connection, table = claim.connection, self._table
        order, after = Order(), -1
        held: set[int] = set()
        dead: set[str] = set()
        while not held:
            page = connection.execute(self._page(after, paused)).all()
            dead.update(name for name in {row.leased_by for row in page} if name and _is_gone(name))
            heads = order.add(self._waiting(row, now, dead, spared) for row in page)
            if not self._has_row_locks:
                connection.commit()  # SQLite refuses to turn a transaction that read into one that writes
            held.update(self._hold(connection, heads[:limit], now, dead))
            if len(page) < _PAGE:
                break
            after = page[-1].sequence
        wanted = order.sendable(held)[:limit]
        for some in portions(wanted):
            rows = select(table).where(table.c.sequence.in_(some), table.c.state == WAITING)
            rows = rows.order_by(table.c.sequence)
            claim.rows += connection.execute(rows).mappings()

    def _page(self, after: int, paused: frozenset[str]) -> Select[Any]:
        columns = self._table.c
        return (
            select(
                columns.sequence,
                columns.hub,
                columns.topics,
                columns.not_before,
                columns.leased_by,
                columns.leased_until,
            )
            .where(columns.state == WAITING, columns.sequence > after, columns.hub.not_in(sorted(paused)))
            .order_by(columns.sequence)
            .limit(_PAGE)
        )

    def _waiting(self, row: Any, now: float, dead: set[str], spared: Container[object]) -> Waiting:
        try:
            topics = topics_of(row.topics)
        except ValueError:
            topics = []  # not ours; the relay parks it
        is_due = row.sequence not in spared and (row.not_before is None or seconds(row.not_before) <= now)
        if row.leased_until is not None and row.leased_by not in dead:
            is_due = is_due and seconds(row.leased_until) <= now
        return Waiting(row.sequence, tuple((row.hub, topic) for topic in topics), is_due)

    def _hold(
        self, connection: Connection, heads: Sequence[int], now: float, dead: set[str]
    ) -> Iterator[int]:
        """Make heads ours, those that still can be."""
        columns = self._table.c
        for some in portions(heads):
            ours = select(columns.sequence).where(columns.sequence.in_(some), columns.state == WAITING)
            if self._has_row_locks:
                # In order, so that relays which lock the same rows do not wait in a circle.
                locking = ours.order_by(columns.sequence).with_for_update(skip_locked=True)
                yield from connection.execute(locking).scalars()
                continue
            lease = {columns.leased_by: self._owner, columns.leased_until: moment(now + self._lease)}
            connection.execute(
                update(self._table)
                .where(columns.sequence.in_(some), columns.state == WAITING, self._is_free(now, dead))
                .values(lease)
            )
            yield from connection.execute(ours.where(columns.leased_by == self._owner)).scalars()

    def _is_free(self, now: float, dead: set[str]) -> Any:
        columns = self._table.c
        until: datetime = moment(now)
        return or_(
            columns.leased_by.is_(None), columns.leased_until <= until, columns.leased_by.in_(sorted(dead))
        )

    def _release(self, connection: Connection) -> None:
        columns = self._table.c
        connection.execute(
            update(self._table)
            .where(columns.leased_by == self._owner)
            .values({columns.leased_by: None, columns.leased_until: None})
        )


def machine() -> str:
    """Names the scope of process ids: a machine since its boot, and a container on it.

    The host name is not enough: two containers may share a name and a volume.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        namespace = str(Path("/proc/self/ns/pid").readlink())
    except OSError:  # of another system, which has no such containers
        return f"{socket.gethostname()[:64]}/{uuid.getnode():x}"
    return f"{boot}/{namespace.strip('pid:[]')}"


def _is_gone(owner: str) -> bool:
    """Whether a relay was a process of this machine that has ended."""
    scope, _, rest = owner.partition(":")
    pid = rest.partition(":")[0]
    if scope != machine() or not pid.isdigit() or int(pid) == os.getpid():
        return False
    if sys.platform == "win32":  # where signal 0 is Ctrl-C; its lease runs out by itself
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False
