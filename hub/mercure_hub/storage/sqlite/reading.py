"""Reads parts of the history: cost follows what is wanted, not what is there."""

from __future__ import annotations

import contextlib
import heapq
import json
import sqlite3
import threading
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from mercure_hub.storage.encoding import bounded, decoded_topics, topic_hash, topic_page
from mercure_hub.storage.interface import (
    MANY_TOPICS,
    Beginning,
    Discarded,
    Entry,
    Outline,
    Page,
    Resume,
    Resumed,
    TopicPage,
)
from mercure_hub.storage.sqlite import schema
from mercure_hub.storage.sqlite.database import Database

Row = Sequence[Any]

_FEW = 128  # topics that are looked up one by one: more than one request can name
_WINDOW = 10_000  # sequences that are searched for many topics at once, to begin with
_BLOCK = 16  # sequences that one statement reads
_ROWS = 10  # fetched at once: large updates must not all be in memory
_NO_END = (1 << 63) - 1  # the largest sequence

_FIND = """
    SELECT min(sequence) FROM (
        SELECT min(sequence) AS sequence FROM mercure_update WHERE id = ?1
        UNION ALL SELECT min(sequence) FROM mercure_past WHERE id = ?1
    )
"""
_LAST = "SELECT last_sequence FROM mercure_position"
_ID_AT = """
    SELECT id FROM mercure_update WHERE sequence = ?1
    UNION ALL SELECT id FROM mercure_past WHERE sequence = ?1 LIMIT 1
"""
_BEGINNING = """
    SELECT updates_gone, events_gone, (SELECT min(sequence) FROM mercure_update),
        rules, rest_before, before, forgotten,
        CASE WHEN rules <> '' OR discards > 0 THEN (
            SELECT json_group_array(json_array(gone, strays)) FROM (
                SELECT gone, strays FROM mercure_rule WHERE number > 0 ORDER BY number
            )
        ) END
    FROM mercure_position, mercure_retention
"""
_GONE = (
    "SELECT coalesce(max(sequence), 0) FROM mercure_gone WHERE topic_hash IN (SELECT value FROM json_each(?))"
)


def _entries_of(source: str) -> str:
    """A statement whose rows ``schema.entry`` takes."""
    columns = ", ".join(f"u.{name}" for name in schema.ENTRY)
    return f"SELECT {columns} FROM {source}"  # noqa: S608 - constants


_OF_RANGE = _entries_of("mercure_update u WHERE sequence > ? AND sequence <= ? ORDER BY sequence LIMIT ?")
_OF_TOPIC = _entries_of("""
    mercure_topic t JOIN mercure_update u ON t.sequence = u.sequence
    WHERE t.topic_hash = ? AND t.sequence > ? AND t.sequence <= ? ORDER BY t.sequence LIMIT ?
""")
_OF_SEQUENCES = _entries_of(
    f"mercure_update u WHERE sequence IN ({', '.join('?' * _BLOCK)}) ORDER BY sequence"
)
_SEQUENCES = """
    SELECT sequence FROM mercure_topic WHERE topic_hash = ? AND sequence > ? AND sequence <= ?
    ORDER BY sequence LIMIT ?
"""
_SEQUENCES_OF_MANY = """
    SELECT DISTINCT sequence FROM mercure_topic WHERE topic_hash IN ({}) AND sequence > ? AND sequence <= ?
    ORDER BY sequence
"""
_NEWEST = """
    SELECT u.sequence, u.topics, u.private, length(u.data)
    FROM mercure_topic t JOIN mercure_update u ON t.sequence = u.sequence
    WHERE t.topic_hash = ? AND t.sequence <= ? AND u.event_bytes IS NULL ORDER BY t.sequence DESC LIMIT ?
"""
# Skips through the index of topics from one to the next: each costs one look-up, however many updates it has.
_TOPICS = """
    WITH RECURSIVE distinct_topic(topic_hash, number) AS (
        SELECT min(topic_hash), 1 FROM mercure_topic WHERE topic_hash > :beyond
        UNION ALL
        SELECT (SELECT min(topic_hash) FROM mercure_topic t WHERE t.topic_hash > d.topic_hash), d.number + 1
        FROM distinct_topic d WHERE d.topic_hash IS NOT NULL AND d.number < :limit
    )
    SELECT d.topic_hash, u.topics FROM distinct_topic d LEFT JOIN mercure_update u ON u.sequence = (
        SELECT min(sequence) FROM mercure_topic t
        WHERE t.topic_hash = d.topic_hash AND t.sequence > :after AND t.sequence <= :upto
    )
    WHERE d.topic_hash IS NOT NULL ORDER BY d.number
"""


class Reader:
    """Finds and reads updates over the driver's connections.

    :param database: gives the connections.
    :param connections: how many to use at most.
    """

    def __init__(self, database: Database, connections: int) -> None:
        self._database = database
        self._idle: deque[sqlite3.Connection] = deque()
        self._is_closed = False
        self._free = threading.Semaphore(connections)

    def last(self) -> int:
        """Sequence of the newest update ever stored."""
        with self._cursor() as cursor:
            return int(cursor.execute(_LAST).fetchone()[0])

    def id_at(self, sequence: int) -> str | None:
        """The id of one update, if it is there."""
        with self._cursor() as cursor:
            row = cursor.execute(_ID_AT, (sequence,)).fetchone()
            return None if row is None else str(row[0])

    def after(self, sequence: int, limit: int, size: int) -> list[Entry]:
        """The entries after a sequence; see ``Link.after``."""
        entries: list[Entry] = []
        with self._cursor() as cursor:
            for row in _rows(cursor.execute(_OF_RANGE, (sequence, _NO_END, limit))):
                entries.append(schema.entry(row))
                size -= len(entries[-1].update.data)
                if size <= 0:
                    break
        return entries

    def find(self, event_id: str) -> int | None:
        """Sequence of the earliest update with an id (spec, Reconciliation)."""
        with self._cursor() as cursor:
            sequence: int | None = cursor.execute(_FIND, (event_id,)).fetchone()[0]
            return sequence

    def resume(self, wanted: Resume) -> Resumed:
        """Where a subscriber goes on; see ``Link.resume``."""
        after = self.find(wanted.event_id)
        if after is None or not wanted.has_page(after):
            return Resumed(after, None, self.beginning(wanted.upto, wanted.topics))
        page = self.page(after, wanted.upto, wanted.topics, wanted.limit)
        return Resumed(after, page, page.beginning)

    def page(self, after: int, upto: int, topics: Collection[str] | None, limit: int) -> Page:
        """Updates in their order; see ``Link.read``."""
        entries, reached = self._entries(after, upto, topics, limit)
        # After the entries: what is discarded meanwhile must not be missed.
        return Page(entries, reached, self.beginning(upto, topics))

    def _entries(
        self, after: int, upto: int, topics: Collection[str] | None, limit: int
    ) -> tuple[list[Entry], int]:
        """The entries of a page, and up to where they are all."""
        with self._cursor() as cursor:
            if topics is None or len(topics) > MANY_TOPICS:
                return bounded(_entries(cursor.execute(_OF_RANGE, (after, upto, limit))), upto, limit)
            hashes = {topic_hash(one) for one in topics}
            if len(hashes) == 1:
                return bounded(
                    _entries(cursor.execute(_OF_TOPIC, (*hashes, after, upto, limit))), upto, limit
                )
            if len(hashes) > _FEW:
                sequences, upto = _in_windows(cursor, after, upto, hashes, limit)
            else:
                by_topic: list[list[int]] = []
                for hashed in hashes:  # each costs what it returns, however long the history
                    cursor.execute(_SEQUENCES, (hashed, after, upto, limit))
                    by_topic.append([row[0] for row in cursor.fetchall()])
                sequences, upto = _cut(list(dict.fromkeys(heapq.merge(*by_topic))), upto, limit)
            return bounded(_entries_at(cursor, sequences), upto, limit)

    def beginning(self, upto: int, topics: Collection[str] | None = None) -> Beginning:
        """Where the history begins; see ``Link.beginning``."""
        of_topics = 0
        with self._cursor() as cursor:
            row = cursor.execute(_BEGINNING).fetchone()
            updates, events, oldest, rules, rest_before, before, forgotten, by_rule = row
            if by_rule is None:
                return Beginning.noted(updates, events, oldest, upto)
            if topics is not None and len(topics) <= MANY_TOPICS:
                hashes = json.dumps([topic_hash(one) for one in topics])
                (of_topics,) = cursor.execute(_GONE, (hashes,)).fetchone()
        of_rules = tuple((gone, strays) for gone, strays in json.loads(by_rule))
        return Beginning(
            updates + 1, events + 1, Discarded(rules, of_rules, rest_before, before, of_topics, forgotten)
        )

    def topics(self, after: int, upto: int, beyond: int | None, limit: int) -> TopicPage:
        """Topics of updates in a part of the history; see ``Link.topics``."""
        before_all = -(1 << 63)
        bounds = {"after": after, "upto": upto, "limit": limit}
        bounds["beyond"] = before_all if beyond is None else beyond
        with self._cursor() as cursor:
            return topic_page(cursor.execute(_TOPICS, bounds).fetchall(), limit)

    def newest_of(self, wanted: Sequence[tuple[str, int]], limit: int) -> list[Sequence[Outline]]:
        """The newest updates of topics; see ``Link.newest_of``."""
        with self._cursor() as cursor:
            return [
                [
                    Outline(sequence, decoded_topics(topics), bool(private), size)
                    for sequence, topics, private, size in cursor.execute(
                        _NEWEST, (topic_hash(topic), upto, limit)
                    ).fetchall()
                ]
                for topic, upto in wanted
            ]

    def at(self, sequences: Sequence[int]) -> list[Entry]:
        """The entries with some sequences; see ``Link.at``."""
        with self._cursor() as cursor:
            entries, _ = bounded(_entries_at(cursor, sequences), 0, len(sequences))
            return entries

    @contextlib.contextmanager
    def _cursor(self) -> Iterator[Any]:
        with self._free:
            try:
                connection = self._idle.pop()
            except IndexError:
                connection = self._database.connect()
            try:
                cursor = connection.cursor()
                yield cursor
                cursor.close()
            except BaseException:
                connection.close()
                raise
            self._idle.append(connection)
            if self._is_closed:  # meanwhile, in another thread
                self.close()

    def close(self) -> None:
        """Close the connections that nobody uses."""
        self._is_closed = True
        while self._idle:
            self._idle.pop().close()


def _rows(cursor: Any) -> Iterator[Row]:
    while rows := cursor.fetchmany(_ROWS):
        yield from rows


def _entries(cursor: Any) -> Iterator[Entry]:
    return map(schema.entry, _rows(cursor))


def _entries_at(cursor: Any, sequences: Sequence[int]) -> Iterator[Entry]:
    for start in range(0, len(sequences), _BLOCK):
        some = list(sequences[start : start + _BLOCK])
        some += some[-1:] * (_BLOCK - len(some))  # as many as the statement has parameters
        yield from _entries(cursor.execute(_OF_SEQUENCES, some))


def _in_windows(
    cursor: Any, after: int, upto: int, hashes: Collection[int], limit: int
) -> tuple[list[int], int]:
    """The sequences of many topics, with few statements.

    One over the whole history would sort all sequences of all topics for each page.

    :returns: the sequences, and up to where they are all.
    """
    statement = _SEQUENCES_OF_MANY.format(", ".join("?" * len(hashes)))
    sequences: list[int] = []
    window = _WINDOW
    while after < upto and len(sequences) < limit:
        end = min(after + window, upto)
        sequences += [row[0] for row in cursor.execute(statement, (*hashes, after, end)).fetchall()]
        after = end
        window *= 2
    return _cut(sequences, after, limit)


def _cut(sequences: list[int], upto: int, limit: int) -> tuple[list[int], int]:
    """No more than the limit.

    :returns: the sequences, and up to where they are all.
    """
    return (sequences[:limit], sequences[limit - 1]) if len(sequences) > limit else (sequences, upto)
