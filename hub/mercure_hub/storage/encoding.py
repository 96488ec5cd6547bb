"""How updates are written into the rows of an engine, and read from them in bounded pages."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from functools import lru_cache
from hashlib import blake2b

from mercure_hub.storage.interface import Entry, TopicPage

MAX_PAGE = 256 << 10
"""Bytes of a page in memory; one update may be more."""

_MAX_CACHED = 4096  # characters of topics that are remembered: an update may have 200,000
_encode = json.JSONEncoder(ensure_ascii=False).encode


@lru_cache(maxsize=4096)
def topic_hash(value: str) -> int:
    """A stable hash of a topic as a signed 64-bit integer."""
    return int.from_bytes(blake2b(value.encode(), digest_size=8).digest(), "big", signed=True)


def encoded_topics(topics: tuple[str, ...]) -> str:
    """The topics of an update as they are stored."""
    return _single(topics) if len(topics) == 1 else _encode(topics)


@lru_cache(maxsize=1024)  # most updates have one topic, and a topic has many updates
def _single(topics: tuple[str]) -> str:
    return _encode(topics)


def decoded_topics(encoded: str) -> tuple[str, ...]:
    """The topics of an update from what is stored."""
    return _recent_topics(encoded) if len(encoded) <= _MAX_CACHED else tuple(json.loads(encoded))


@lru_cache(maxsize=1024)  # many updates have the same
def _recent_topics(encoded: str) -> tuple[str, ...]:
    return tuple(json.loads(encoded))


def topic_page(rows: Sequence[tuple[int, str | None]], limit: int) -> TopicPage:
    """A page of topics.

    :param rows: hashes in order, each with the topics of an update that has it; ``None``: no update of the
        part of the history does.
    :param limit: hashes that were looked at, at most.
    """
    topics = [
        value
        for hashed, encoded in rows
        if encoded is not None
        for value in decoded_topics(encoded)
        if topic_hash(value) == hashed
    ]
    return TopicPage(topics, rows[-1][0] if len(rows) == limit else None)


def bounded(entries: Iterable[Entry], upto: int, limit: int) -> tuple[list[Entry], int]:
    """As many entries as may be in memory at once.

    :param upto: what is reached when all of them are.
    :param limit: entries at most.
    :returns: and what is reached.
    """
    some: list[Entry] = []
    weight = 0
    for entry in entries:
        some.append(entry)
        weight += entry.weight
        if weight >= MAX_PAGE or len(some) == limit:
            return some, entry.sequence
    return some, upto
