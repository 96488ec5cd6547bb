"""Discards updates on demand; the hub may be at work meanwhile."""

from __future__ import annotations

from typing import Any

from mercure_hub.storage.interface import GRACE
from mercure_hub.storage.sqlite import retention, schema
from mercure_hub.tools.history.copying import return_space
from mercure_hub.tools.history.log import Log, Progress
from mercure_hub.tools.history.selection import Selection, select

_COLUMNS = (schema.update.c.published_at,)


def prune(
    log: Log, selection: Selection, keep: int, now: float, progress: Progress, *, only_count: bool = False
) -> int:
    """Discard updates.

    What is younger than half a minute stays while a hub is at work: its processes read it here.

    :param keep: the newest of the selected ones stay, as many as this.
    :param now: seconds since the epoch.
    :param only_count: discard nothing.
    :returns: how many are gone.
    """
    boundary = _boundary(log, selection, keep)
    gone = 0
    step: list[Any] = []
    for row in select(log, selection, _COLUMNS):
        if row.sequence > boundary:
            break
        step.append(row)
        if len(step) == retention.STEP:
            gone += _discard(log, step, now, only_count=only_count)
            step = []
            progress(gone)
    gone += _discard(log, step, now, only_count=only_count)
    if gone and not only_count:
        return_space(log)
    return gone


def _boundary(log: Log, selection: Selection, keep: int) -> int:
    """The place of the newest update that goes, 0 if none does."""
    for number, row in enumerate(select(log, selection, _COLUMNS, newest_first=True)):
        if number == keep:
            return int(row.sequence)
    return 0


def _discard(log: Log, rows: list[Any], now: float, *, only_count: bool) -> int:
    grace = GRACE if log.seats.others() else 0.0
    old = [row for row in rows if not now - grace < row.published_at <= now]
    if old and not only_count:
        with log.writing() as connection:
            gone = retention.delete(connection, old)
            if log.of_publishers:
                retention.note_beginning(connection)
            return gone
    return len(old)
