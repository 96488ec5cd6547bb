"""Export and import of updates as lines of JSON."""

from __future__ import annotations

import contextlib
import json
import math
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, BinaryIO

from mercure_hub.protocol.errors import shown
from mercure_hub.protocol.topics import forbidden_character
from mercure_hub.protocol.update import EARLIEST, Update
from mercure_hub.tools.history.history import (
    History,
    HistoryError,
    Progress,
    Row,
    Selection,
    Writer,
    select,
)

KEYS = ("sequence", "id", "topics", "data", "private", "type", "retry", "published_at")
"""What a line has."""

_LONGEST = 256 << 20
"""Bytes of a line."""

_MAX_RETRY = 2**53


def _line(row: Row) -> bytes:
    """An update as a line."""
    update = row.update
    values = (
        *(row.sequence, update.id, update.topics, update.data),
        *(update.private, update.type, update.retry, row.published_at),
    )
    document = dict(zip(KEYS, values, strict=True))
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def _row(line: bytes, number: int) -> Row:
    """An update without its sequence.

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
    update = Update(tuple(topics), data, id_, private, type_, retry)
    return Row(0, update, float(published_at))


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
_Numbered = tuple[int, Row]


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

    :param skip_known: pass over updates whose id is in the history already.
    :returns: how many were imported, and how many passed over.
    :raises HistoryError: a line cannot be used, an id is there already, or a hub is at work.
    """
    with history.writing() as writer, _whole(lines, writer, skip_known=skip_known) as wanted:
        marks, skipped = writer.marks, 0
        first = last = marks.last
        for batch in _batches(wanted):
            fresh = _fresh(writer, batch, skip_known=skip_known)
            skipped += len(batch) - len(fresh)
            rows = [
                replace(row, sequence=sequence, events_before=marks.events)
                for sequence, row in enumerate(fresh, last + 1)
            ]
            last += len(rows)
            if rows:
                writer.store(rows, replace(marks, last=last))
            progress(last - first)
    return last - first, skipped


@contextlib.contextmanager
def _whole(lines: BinaryIO, writer: Writer, *, skip_known: bool) -> Iterator[BinaryIO]:
    """Lines that are known to be valid.

    An engine without transactions cannot take back what it has stored, so that they are all looked at first.
    """
    if writer.is_atomic:
        yield lines
        return
    with tempfile.TemporaryFile() as copy:  # private updates are in it
        shutil.copyfileobj(lines, copy)
        copy.seek(0)
        for batch in _batches(copy):
            _fresh(writer, batch, skip_known=skip_known)
        copy.seek(0)
        yield copy


def _batches(lines: BinaryIO) -> Iterator[list[_Numbered]]:
    """Updates with the numbers of their lines."""
    batch: list[_Numbered] = []
    size = number = 0
    while line := lines.readline(_LONGEST):
        number += 1
        if len(line) == _LONGEST:
            raise HistoryError(f"line {number} has more than {_LONGEST} bytes; nothing was imported")
        if not line.strip():
            continue
        batch.append((number, _row(line, number)))
        size += len(line)
        if len(batch) >= _BATCH or size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _fresh(writer: Writer, batch: list[_Numbered], *, skip_known: bool) -> list[Row]:
    there = writer.known({row.update.id for _, row in batch})
    if there and not skip_known:
        number, row = next((number, row) for number, row in batch if row.update.id in there)
        raise HistoryError(
            f"line {number} has the id {row.update.id!r}, which is in the history already; nothing was "
            "imported. --skip-known passes over such lines"
        )
    return [row for _, row in batch if row.update.id not in there]
