"""What is in the outbox, for people and monitoring: numbers, a list, trying again, deleting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, Table, and_, case, delete, func, select, update

from flask_mercure.outbox.rows import topics_of
from flask_mercure.outbox.table import DELIVERED, PARKED, WAITING, moment, seconds

STATES = (WAITING, PARKED, DELIVERED)


@dataclass(frozen=True, slots=True)
class Stats:
    """Numbers to watch.

    :param waiting: updates that are to be sent.
    :param oldest_age: seconds since the oldest of these was written; 0 when there is none.
    :param failing: those of ``waiting`` that have failed while the hub took others.
    :param parked: updates that the hub refused for good, and those that were given up.
    :param delivered: updates that are kept after delivery.
    """

    waiting: int
    oldest_age: float
    failing: int
    parked: int
    delivered: int


@dataclass(frozen=True, slots=True)
class Stored:
    """A row of the outbox, without its data.

    :param sequence: place in the outbox, by which the commands name it.
    :param created_at: seconds since the epoch.
    """

    sequence: int
    state: str
    hub: str
    id: str
    topics: Sequence[str]
    private: bool
    attempts: int
    created_at: float
    error: str | None


def stats(connection: Connection, table: Table, now: float) -> Stats:
    """Read the numbers.

    :param now: seconds since the epoch.
    """
    columns = table.c
    counted = {
        state: (count, failing)
        for state, count, failing in connection.execute(
            select(
                columns.state, func.count(), func.count(case((columns.attempts > 0, columns.sequence)))
            ).group_by(columns.state)
        )
    }
    waiting, failing = counted.get(WAITING, (0, 0))
    oldest = connection.scalar(
        select(columns.created_at).where(columns.state == WAITING).order_by(columns.sequence).limit(1)
    )
    age = 0.0 if oldest is None else max(0.0, now - seconds(oldest))
    return Stats(waiting, age, failing, counted.get(PARKED, (0, 0))[0], counted.get(DELIVERED, (0, 0))[0])


def listing(connection: Connection, table: Table, state: str | None = None, most: int = 50) -> list[Stored]:
    """The oldest rows.

    :param state: ``waiting``, ``parked`` or ``delivered``; ``None`` for all.
    :param most: rows.
    """
    columns = table.c
    query = select(*(columns[name] for name in Stored.__dataclass_fields__)).order_by(columns.sequence)
    if state is not None:
        query = query.where(columns.state == state)
    return [
        Stored(
            row.sequence,
            row.state,
            row.hub,
            row.id,
            _shown_topics(row.topics),
            bool(row.private),
            row.attempts,
            seconds(row.created_at),
            row.error,
        )
        for row in connection.execute(query.limit(most))
    ]


def _shown_topics(stored: str) -> list[str]:
    try:
        return topics_of(stored)
    except ValueError:
        return [stored]


def retry(connection: Connection, table: Table, sequences: Sequence[int] = ()) -> int:
    """Have parked updates, and those that wait after a failure, tried again at once.

    Subscribers may see a parked one after younger updates of its topics, which have passed it.

    :param sequences: of the updates; none stands for all.
    :returns: how many there were.
    """
    columns = table.c
    which: ColumnElement[bool] = columns.state.in_((PARKED, WAITING)) & (
        (columns.state == PARKED) | columns.not_before.is_not(None)
    )
    if sequences:
        which = and_(which, columns.sequence.in_(sequences))
    again: dict[Any, Any] = {
        columns.state: WAITING,
        columns.attempts: 0,
        columns.not_before: None,
        columns.finished_at: None,
    }
    return connection.execute(update(table).where(which).values(again)).rowcount


def purge(
    connection: Connection,
    table: Table,
    sequences: Sequence[int] = (),
    *,
    states: Sequence[str] = (PARKED, DELIVERED),
    before: float | None = None,
) -> int:
    """Delete updates; those that wait are lost to their subscribers.

    :param sequences: of the updates; none stands for all of the states.
    :param states: that may be deleted.
    :param before: only what was written before this time, in seconds since the epoch.
    :returns: how many there were.
    """
    columns = table.c
    which: ColumnElement[bool] = columns.state.in_(states)
    if sequences:
        which = and_(which, columns.sequence.in_(sequences))
    if before is not None:
        which = and_(which, columns.created_at < moment(before))
    return connection.execute(delete(table).where(which)).rowcount
