"""Export and import of updates as lines of JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any, BinaryIO

import sqlalchemy as sa

from mercure_hub.protocol.errors import shown
from mercure_hub.protocol.topics import forbidden_character
from mercure_hub.protocol.update import EARLIEST
from mercure_hub.storage.encoding import topic_hash
from mercure_hub.storage.sqlite import schema
from mercure_hub.tools.history.store import KEYS, History, HistoryError, Progress, Selection, select

_LONGEST = 256 << 20
"""Bytes of a line."""

_MAX_RETRY = 2**53


def _line(row: Any) -> bytes:
    """A row of the table of updates as a line."""
    document = {
        "sequence": row.sequence,
        "id": row.id,
        "topics": json.loads(row.topics),
        "data": row.data.decode(),
        "private": bool(row.private),
        "type": row.type,
        "retry": row.retry,
        "published_at": row.published_at,
    }
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def _values(line: bytes, number: int) -> dict[str, Any]:
    """The values of a row without its sequence.

    The rules for what is published do not all apply: the history also holds the hub's own events.

    :param line: as it is in the file.
    :param number: of the line, for the message.
    :raises HistoryError: it is not a line that an export writes.
    """
    try:
        document = json.loads(line)
    except (ValueError, RecursionError):
        raise _wrong(number, "is not JSON in UTF-8") from None
    if not isinstance(document, dict):
        raise _wrong(number, "is not a JSON object")
    unknown = sorted(document.keys() - set(KEYS))
    if unknown:
        raise _wrong(number, f"has the key {shown(unknown[0])}; known are {', '.join(sorted(KEYS))}")
    topics = document.get("topics")
    if not isinstance(topics, list) or not topics:
        raise _wrong(number, "has no topics, which are an array of strings")
    for topic in topics:
        _check_text(number, "topics", topic)
    id_, type_ = document.get("id"), document.get("type")
    _check_text(number, "id", id_)
    if not id_ or id_ == EARLIEST:
        raise _wrong(number, f"has the id {shown(id_)}, which is none")
    if type_ is not None:
        _check_text(number, "type", type_)
    data, private = document.get("data", ""), document.get("private", False)
    if not isinstance(data, str) or not _is_unicode(data):
        raise _wrong(number, "has data that is not a string")
    if not isinstance(private, bool):
        raise _wrong(number, "has a value of private that is neither true nor false")
    retry: Any = document.get("retry")
    if retry is not None and not (_is_number(retry, int) and 0 <= retry <= _MAX_RETRY):
        raise _wrong(number, f"has the retry {shown(retry)}, which is not a number of milliseconds")
    published_at: Any = document.get("published_at")
    if not (_is_number(published_at, int, float) and 0 <= published_at < _MAX_RETRY):
        raise _wrong(
            number, f"has the published_at {shown(published_at)}, which is not a time in seconds since 1970"
        )
    return {
        "id": id_,
        "topics": json.dumps(topics, ensure_ascii=False),
        "data": data.encode(),
        "private": private,
        "type": type_,
        "retry": retry,
        "published_at": float(published_at),
    }


def _check_text(number: int, key: str, value: object) -> None:
    if not isinstance(value, str) or not _is_unicode(value):
        raise _wrong(number, f"has {key} of another kind than strings")
    found = forbidden_character(value)
    if found:  # an end of line would be one in the stream of each subscriber
        raise _wrong(number, f"has the control or format character {found} in its {key}")


def _is_unicode(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:  # half a surrogate pair
        return False
    return True


def _is_number(value: object, *kinds: type) -> bool:
    return isinstance(value, kinds) and not isinstance(value, bool) and math.isfinite(value)  # type: ignore[arg-type]


def _wrong(number: int, what: str) -> HistoryError:
    return HistoryError(f"line {number} {what}; nothing was imported")


_BATCH = 500
_BATCH_BYTES = 4 << 20
_CACHE = 64 << 10  # KiB of the index of topics in memory: rows go to random places in it


def export(history: History, selection: Selection, out: BinaryIO, progress: Progress) -> int:
    """Write updates, oldest first.

    :returns: how many.
    """
    count = 0
    for row in select(history, selection):
        out.write(_line(row))
        count += 1
        progress(count)
    out.flush()
    return count


def load(
    history: History, lines: BinaryIO, progress: Progress, *, skip_known: bool = False
) -> tuple[int, int]:
    """Append updates in the order of their lines, with their ids and times: all of them or none.

    A hub that starts meanwhile waits until this is done.

    :param skip_known: pass over updates whose id is in the history already.
    :returns: how many were imported, and how many passed over.
    :raises HistoryError: a line cannot be used, an id is there already, or a hub is at work.
    """
    with history.writing() as connection:
        if history.seats.others():
            raise HistoryError(
                "a hub is at work on this history and would send the updates to its subscribers as new ones; "
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
    size = number = 0
    while line := lines.readline(_LONGEST):
        number += 1
        if len(line) == _LONGEST:
            raise HistoryError(f"line {number} has more than {_LONGEST} bytes; nothing was imported")
        if not line.strip():
            continue
        batch.append((number, _values(line, number)))
        size += len(line)
        if len(batch) >= _BATCH or size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
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
            f"line {number} has the id {row['id']!r}, which is in the history already; nothing was imported. "
            "--skip-known passes over such lines"
        )
    return [row for _, row in batch if row["id"] not in there]


def _insert(connection: sa.Connection, rows: list[dict[str, Any]], last: int, events: int) -> None:
    numbered = list(enumerate(rows, last + 1))
    connection.execute(
        sa.insert(schema.update),
        [{"sequence": sequence, "events_before": events, **row} for sequence, row in numbered],
    )
    connection.execute(
        sa.insert(schema.topic),
        [
            {"topic_hash": hashed, "sequence": sequence}
            for sequence, row in numbered
            for hashed in {topic_hash(topic) for topic in json.loads(row["topics"])}
        ],
    )
