"""An update as a line of JSON, as ``history export`` writes and ``history import`` reads it."""

from __future__ import annotations

import json
import math
from typing import Any

from mercure_hub.protocol.errors import shown
from mercure_hub.protocol.topics import forbidden_character
from mercure_hub.protocol.update import EARLIEST
from mercure_hub.tools.history.log import HistoryError

LONGEST = 256 << 20
"""Octets of a line."""

KEYS = ("sequence", "id", "topics", "data", "private", "type", "retry", "published_at")
"""What a line has: columns of the table of updates."""
_MAX_RETRY = 2**53


def line(row: Any) -> bytes:
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


def values(octets: bytes, number: int) -> dict[str, Any]:
    """The values of a row without its sequence.

    The rules for what is published do not all apply: the log also holds the hub's own events.

    :param octets: the line.
    :param number: of the line, for the message.
    :raises HistoryError: it is none that an export writes.
    """
    try:
        document = json.loads(octets)
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
