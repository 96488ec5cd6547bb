"""Recording what became of updates that were sent; each function is one or few statements, no commit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Table, delete, select, update

from flask_mercure.outbox.table import DELIVERED, PARKED, moment, portions

_LONGEST_ERROR = 1000


def delivered(
    connection: Connection, table: Table, sequences: Sequence[int], now: float, *, keep: bool
) -> None:
    """Delete updates that the hub has taken, or mark them.

    :param connection: in a transaction.
    :param sequences: of the updates.
    :param now: seconds since the epoch.
    :param keep: whether to mark them only; :func:`clean` deletes them later.
    """
    for some in portions(sequences):
        which = table.c.sequence.in_(some)
        if keep:
            done = {table.c.state: DELIVERED, table.c.finished_at: moment(now), table.c.error: None}
            connection.execute(update(table).where(which).values(done))
        else:
            connection.execute(delete(table).where(which))


def failed(
    connection: Connection, table: Table, sequence: int, error: str, not_before: float, *, is_counted: bool
) -> None:
    """Note a failure after which the update is tried again.

    :param connection: in a transaction.
    :param sequence: of the update.
    :param error: in words.
    :param not_before: seconds since the epoch of the next attempt.
    :param is_counted: whether this is an attempt of the update; not where its hub takes nothing.
    """
    values: dict[str, Any] = {"error": error[:_LONGEST_ERROR], "not_before": moment(not_before)}
    if is_counted:
        values["attempts"] = table.c.attempts + 1
    connection.execute(update(table).where(table.c.sequence == sequence).values(values))


def parked(connection: Connection, table: Table, sequence: int, error: str, now: float) -> None:
    """Put an update aside that the hub will never take; what is behind it goes on.

    :param connection: in a transaction.
    :param sequence: of the update.
    :param error: in words.
    :param now: seconds since the epoch.
    """
    connection.execute(
        update(table)
        .where(table.c.sequence == sequence)
        .values(
            state=PARKED,
            attempts=table.c.attempts + 1,
            error=error[:_LONGEST_ERROR],
            finished_at=moment(now),
            leased_by=None,
            leased_until=None,
        )
    )


def clean(connection: Connection, table: Table, before: float, most: int = 1000) -> int:
    """Delete updates that were delivered before a time, the oldest first.

    :param connection: in a transaction.
    :param before: seconds since the epoch.
    :param most: updates to delete in one go.
    :returns: how many were deleted.
    """
    old = connection.scalars(
        select(table.c.sequence)
        .where(table.c.state == DELIVERED, table.c.finished_at < moment(before))
        .order_by(table.c.sequence)
        .limit(most)
    ).all()
    for some in portions(old):
        connection.execute(delete(table).where(table.c.sequence.in_(some)))
    return len(old)
