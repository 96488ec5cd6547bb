"""Who is connected, kept beside the log: for the other processes, and for those that come after a crash."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import sqlalchemy as sa

from mercure_hub.protocol.update import Update
from mercure_hub.storage.append import Statement
from mercure_hub.storage.interface import Presence
from mercure_hub.storage.sqlite import schema
from mercure_hub.storage.sqlite.locks import Seats

_SEAT = schema.presence.c.seat


class PresenceWriter:
    """Stores changes of presence in the transaction of the updates that tell of them.

    :param engine: gives the dialect.
    :param seat: of this process.
    """

    def __init__(self, engine: sa.Engine, seat: int) -> None:
        self._seat = seat
        table = schema.presence
        self._insert = Statement(engine, sa.insert(table), [column.name for column in table.c])
        self._delete = Statement(
            engine, sa.delete(table).where(table.c.key == sa.bindparam("the_key", type_=sa.Text)), ["the_key"]
        )

    def write(self, cursor: Any, changes: Sequence[Presence]) -> None:
        """Store changes, in order.

        :param cursor: of the driver, in a transaction.
        """
        for change in changes:
            self._delete.run(cursor, (change.key,))
            if change.record is not None:
                self._insert.run(cursor, (change.key, self._seat, change.record))


class Owed:
    """Changes whose commit failed, with their updates: they come with the next one.

    Nobody would try again, and a subscription that has ended would be listed as long as its process lives.
    """

    def __init__(self) -> None:
        self._by_key: dict[str, tuple[Sequence[Update], Presence]] = {}

    def __bool__(self) -> bool:
        return bool(self._by_key)

    def add(self, updates: Sequence[Update], change: Presence) -> None:
        """Take note of a change; the end of what was never told of is forgotten with its beginning."""
        before = self._by_key.pop(change.key, None)
        if before is None or change.record is not None:
            self._by_key[change.key] = updates, change

    def take(self) -> list[tuple[Sequence[Update], Presence]]:
        """All of them, in order; they are owed no more."""
        owed = list(self._by_key.values())
        self._by_key.clear()
        return owed


def others(connection: sa.Connection, seat: int) -> list[str]:
    """The records of all processes but one."""
    return list(connection.scalars(sa.select(schema.presence.c.record).where(_SEAT.is_distinct_from(seat))))


def adopt(connection: sa.Connection, seats: Seats, own: Collection[str] | None) -> list[str]:
    """Make the rows of dead processes those of this one, in a transaction that writes.

    A row with this process's seat is of one that died too, unless this process wrote it.

    :param own: keys of the rows that this process wrote; ``None``: all that have its seat.
    :returns: their records.
    """
    known = list(connection.scalars(sa.select(_SEAT).distinct()))
    dead = [seat for seat in known if (own is not None if seat == seats.own else not seats.is_taken(seat))]
    if not dead:
        return []
    rows = connection.execute(
        sa.select(schema.presence.c.key, schema.presence.c.record).where(_SEAT.in_(dead))
    ).all()
    connection.execute(sa.update(schema.presence).where(_SEAT.in_(dead)).values(seat=seats.own))
    return [row.record for row in rows if own is None or row.key not in own]
