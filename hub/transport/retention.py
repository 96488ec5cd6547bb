"""Discards what is too old, in bounded steps, and gives its space back to the file system."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import sqlalchemy as sa

from hub.transport import schema

STEP = 1000  # as many as one batch brings, so that trimming keeps up
_PAGES_TO_RETURN = 200


@dataclass(frozen=True, slots=True)
class Retention:
    """How much history to keep.

    :param size: updates, 0 for all.
    :param max_age: seconds, 0 for ever.
    """

    size: int = 0
    max_age: float = 0.0

    @property
    def is_bounded(self) -> bool:
        """Whether anything is ever discarded."""
        return self.size > 0 or self.max_age > 0


def discard(connection: sa.Connection, retention: Retention, now: float, grace: float) -> int:
    """Discard one step of what is too old, in a transaction that writes.

    :param now: seconds since the epoch.
    :param grace: seconds for which every update stays: other processes read it here.
    :returns: how many updates are gone.
    """
    table = schema.update
    last: int = connection.execute(sa.select(schema.position.c.last_sequence)).scalar_one()
    rows = connection.execute(
        sa.select(table.c.sequence, table.c.topics, table.c.published_at)
        .order_by(table.c.sequence)
        .limit(STEP)
    ).all()
    before = last - retention.size if retention.size else 0
    oldest = now - retention.max_age if retention.max_age else float("-inf")
    times = _times([row.published_at for row in rows], now)
    old = [
        row
        for row, _ in takewhile(
            lambda pair: (pair[0].sequence <= before or pair[1] < oldest) and pair[1] <= now - grace,
            zip(rows, times, strict=True),
        )
    ]  # always the beginning of the log: a reader could not tell that something is missing in the middle
    return delete(connection, old) if old else 0


def _times(stamps: Sequence[float], now: float) -> list[float]:
    """When updates were published: what a clock stamped that was ahead is as old as what came after it.

    :param stamps: of the clock, in the order of the log.
    """
    times = [now]
    for stamp in reversed(stamps):
        times.append(stamp if stamp <= now else times[-1])
    return times[:0:-1]


def delete(connection: sa.Connection, rows: Sequence[Any]) -> int:
    """Discard updates, in a transaction that writes.

    :param rows: at least one, with sequence and topics.
    :returns: how many were still there.
    """
    connection.execute(
        _DELETE_TOPIC,
        [
            {"hashed": schema.topic_hash(value), "at": row.sequence}
            for row in rows
            for value in json.loads(row.topics)
        ],
    )
    return connection.execute(_DELETE_UPDATE, [{"at": row.sequence} for row in rows]).rowcount


def return_space(connection: sa.Connection) -> None:
    """Give some free pages of an SQLite file back to the file system."""
    driver: Any = connection.connection.driver_connection
    # Each step of this statement frees one page and returns a row without columns, so that execute()
    # takes one step only (fetchall() takes the others from Python 3.12 on). A script runs to its end.
    driver.executescript(f"PRAGMA incremental_vacuum({_PAGES_TO_RETURN})").close()


_DELETE_UPDATE = sa.delete(schema.update).where(schema.update.c.sequence == sa.bindparam("at"))
_DELETE_TOPIC = sa.delete(schema.topic).where(
    schema.topic.c.topic_hash == sa.bindparam("hashed"), schema.topic.c.sequence == sa.bindparam("at")
)
