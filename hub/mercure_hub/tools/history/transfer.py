"""Export and import of updates as lines of JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, BinaryIO

import sqlalchemy as sa

from mercure_hub.storage.sqlite import schema
from mercure_hub.tools.history import record
from mercure_hub.tools.history.log import HistoryError, Log, Progress
from mercure_hub.tools.history.selection import Selection, select

_BATCH = 500
_BATCH_OCTETS = 4 << 20
_CACHE = 64 << 10  # KiB of the index of topics in memory: rows go to random places in it


def export(log: Log, selection: Selection, out: BinaryIO, progress: Progress) -> int:
    """Write updates, oldest first.

    :returns: how many.
    """
    count = 0
    for row in select(log, selection):
        out.write(record.line(row))
        count += 1
        progress(count)
    out.flush()
    return count


def load(log: Log, lines: BinaryIO, progress: Progress, *, skip_known: bool = False) -> tuple[int, int]:
    """Append updates in the order of their lines, with their ids and times: all of them or none.

    A hub that starts meanwhile waits until this is done.

    :param skip_known: pass over updates whose id is in the log already.
    :returns: how many were imported, and how many passed over.
    :raises HistoryError: a line cannot be used, an id is there already, or a hub is at work.
    """
    with log.writing() as connection:
        if log.seats.others():
            raise HistoryError(
                "a hub is at work on this log and would send the updates to its subscribers as new ones; "
                "stop it before, or publish them"
            )
        position = schema.position
        first, events = connection.execute(sa.select(position.c.last_sequence, position.c.events)).one()
        last, skipped = first, 0
        connection.exec_driver_sql(f"PRAGMA cache_size = -{_CACHE}")
        for batch in _batches(lines):
            fresh = _fresh(connection, batch, first, skip_known=skip_known)
            skipped += len(batch) - len(fresh)
            if fresh:
                _insert(connection, fresh, last, events)
            last += len(fresh)
            progress(last - first)
        connection.execute(sa.update(schema.position).values(last_sequence=last))
    return last - first, skipped


def _batches(lines: BinaryIO) -> Iterator[list[tuple[int, dict[str, Any]]]]:
    """Values of rows with the numbers of their lines."""
    batch: list[tuple[int, dict[str, Any]]] = []
    octets = number = 0
    while found := lines.readline(record.LONGEST):
        number += 1
        if len(found) == record.LONGEST:
            raise HistoryError(f"line {number} has more than {record.LONGEST} octets; nothing was imported")
        if not found.strip():
            continue
        batch.append((number, record.values(found, number)))
        octets += len(found)
        if len(batch) >= _BATCH or octets >= _BATCH_OCTETS:
            yield batch
            batch, octets = [], 0
    if batch:
        yield batch


def _fresh(
    connection: sa.Connection, batch: list[tuple[int, dict[str, Any]]], first: int, *, skip_known: bool
) -> list[dict[str, Any]]:
    table = schema.update
    ids = {row["id"] for _, row in batch}
    there = set(
        connection.scalars(sa.select(table.c.id).where(table.c.id.in_(ids), table.c.sequence <= first))
    )
    if there and not skip_known:
        number, row = next((number, row) for number, row in batch if row["id"] in there)
        raise HistoryError(
            f"line {number} has the id {row['id']!r}, which is in the log already; nothing was imported. "
            "--skip-known passes over such lines"
        )
    return [row for _, row in batch if row["id"] not in there]


def _insert(connection: sa.Connection, rows: list[dict[str, Any]], last: int, events: int) -> None:
    places = list(enumerate(rows, last + 1))
    connection.execute(
        sa.insert(schema.update),
        [{"sequence": place, "events_before": events, **row} for place, row in places],
    )
    connection.execute(
        sa.insert(schema.topic),
        [
            {"topic_hash": hashed, "sequence": place}
            for place, row in places
            for hashed in {schema.topic_hash(topic) for topic in json.loads(row["topics"])}
        ],
    )
