"""Which updates are meant, and reading them in their order without having them all in memory."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from mercure_hub.protocol.matching.matcher import Matcher
from mercure_hub.storage.sqlite import schema
from mercure_hub.tools.history import record
from mercure_hub.tools.history.log import Log

_PAGE = 1000  # rows of one transaction: a long one would keep the write-ahead log from being emptied
_ROWS = 20  # rows in memory: an update can have a mebibyte
_UPDATE = schema.update
_EXPORTED = [_UPDATE.c[name] for name in record.KEYS]
_TOPIC = schema.topic


@dataclass(frozen=True, slots=True)
class Selection:
    """Updates by topic and time.

    :param topics: one of these, exactly.
    :param patterns: or matched by one of these; without topics and patterns all of publishers are meant.
    :param since: published at this time or later, in seconds since the epoch.
    :param until: published before this time.
    """

    topics: frozenset[str] = frozenset()
    patterns: Sequence[Matcher] = ()
    since: float | None = None
    until: float | None = None

    def matches(self, topics: Sequence[str]) -> bool:
        """Whether an update with these topics is meant."""
        if not self.topics and not self.patterns:
            return True
        if not self.topics.isdisjoint(topics):
            return True
        return any(pattern.matches(topic) for pattern in self.patterns for topic in topics)

    def where(self) -> list[sa.ColumnElement[bool]]:
        """What the database can decide itself."""
        found: list[sa.ColumnElement[bool]] = []
        if self.since is not None:
            found.append(_UPDATE.c.published_at >= self.since)
        if self.until is not None:
            found.append(_UPDATE.c.published_at < self.until)
        if self.topics and not self.patterns:
            hashes = [schema.topic_hash(topic) for topic in self.topics]
            places = sa.select(_TOPIC.c.sequence).where(_TOPIC.c.topic_hash.in_(hashes))
            found.append(_UPDATE.c.sequence.in_(places))
        return found


EVERYTHING = Selection()


def select(
    log: Log, selection: Selection, columns: Sequence[sa.Column[Any]] = (), *, newest_first: bool = False
) -> Iterator[Any]:
    """The rows of the updates that are meant, up to the newest one of now.

    :param columns: of the table of updates, besides sequence and topics; by default all that are exported.
    """
    wanted = [_UPDATE.c.sequence, _UPDATE.c.topics, *columns] if columns else _EXPORTED
    meant = selection.where()
    if not selection.topics and not selection.patterns:
        meant += log.of_publishers
    statement = sa.select(*wanted).where(*meant).limit(_PAGE)
    place = _UPDATE.c.sequence
    reached, upto = 0, log.last_sequence()
    while True:
        if newest_first:
            page = statement.where(place <= upto).order_by(place.desc())
        else:
            page = statement.where(place > reached, place <= upto).order_by(place)
        count = 0
        with log.engine.connect() as connection:
            for row in connection.execution_options(yield_per=_ROWS).execute(page):
                count += 1
                if newest_first:
                    upto = row.sequence - 1
                else:
                    reached = row.sequence
                if selection.matches(json.loads(row.topics)):
                    yield row
        if count < _PAGE:
            return
