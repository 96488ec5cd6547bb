"""Reads parts of the log: cost follows what is wanted, not what is there."""

from __future__ import annotations

import contextlib
import heapq
import threading
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

import sqlalchemy as sa

from mercure_hub.storage.append import Statement
from mercure_hub.storage.interface import MANY_TOPICS, Beginning, Entry, Page, TopicPage
from mercure_hub.storage.sqlite import schema

Row = Sequence[Any]

_FEW = 128  # topics that are looked up one by one: more than one request can name
_WINDOW = 10_000  # places that are looked through for many topics at once, to begin with
_CONNECTIONS = 3  # of the engine's, which has some more
_BLOCK = 16  # places that one statement reads
_ROWS = 10  # fetched at once: large updates must not all be in memory
_MAX_PAGE = 256 << 10  # bytes in memory; one update may be more


class Reader:
    """Finds and reads updates over connections of the driver, with statements that are compiled once.

    A client that comes back costs some of these, and thousands come back together: SQLAlchemy's own way
    takes ten times as long as the database.

    :param engine: of the log.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._idle: deque[sa.PoolProxiedConnection] = deque()
        self._free = threading.Semaphore(_CONNECTIONS)
        self._is_sqlite = engine.dialect.name == "sqlite"
        self._limited: dict[int, _Limited] = {}
        table = schema.update
        names = [f"place{number}" for number in range(_BLOCK)]
        places = [sa.bindparam(name, type_=sa.BigInteger) for name in names]
        first = sa.select(sa.func.min(table.c.sequence)).where(table.c.id == sa.bindparam("id"))
        of_places = sa.select(table).where(table.c.sequence.in_(places)).order_by(table.c.sequence)
        self._find = Statement(engine, first, ["id"])
        oldest = sa.select(sa.func.min(table.c.sequence)).scalar_subquery()
        position = schema.position
        self._beginning = Statement(
            engine, sa.select(position.c.updates_gone, position.c.events_gone, oldest), []
        )
        self._of_places = Statement(engine, of_places, names)

    def find(self, event_id: str) -> int | None:
        """Sequence of the earliest update with an id."""
        with self._cursor() as cursor:
            self._find.run(cursor, (event_id,))
            found: int | None = cursor.fetchone()[0]
            return found

    def page(self, after: int, upto: int, topics: Collection[str] | None, limit: int) -> Page:
        """Updates in their order; see ``Transport.read``."""
        entries, reached = self._entries(after, upto, topics, limit)
        # After the entries: what is discarded meanwhile must not be missed.
        return Page(entries, reached, self.beginning(upto))

    def beginning(self, upto: int) -> Beginning:
        """Where the log begins; see ``Transport.beginning``."""
        with self._cursor() as cursor:
            self._beginning.run(cursor, ())
            updates_gone, events_gone, oldest = cursor.fetchone()
        # What is gone from the beginning though retention took no note of it, as after ``history prune`` and
        # beside an older hub during an upgrade, may have been of both kinds.
        all_gone = upto if oldest is None else oldest - 1
        if max(updates_gone, events_gone) < all_gone:
            updates_gone = events_gone = all_gone
        return Beginning(updates_gone + 1, events_gone + 1)

    def _entries(
        self, after: int, upto: int, topics: Collection[str] | None, limit: int
    ) -> tuple[list[Entry], int]:
        hashes = (
            None
            if topics is None or len(topics) > MANY_TOPICS
            else {schema.topic_hash(one) for one in topics}
        )
        if hashes is not None and len(hashes) > _FEW:
            with self._engine.connect() as connection:
                places, upto = _in_windows(connection, after, upto, hashes, limit)
            with self._cursor() as cursor:
                return _page(self._rows_of(cursor, places), upto, limit)
        statements = self._limited.get(limit)
        if statements is None:
            statements = self._limited[limit] = _Limited(self._engine, limit)
        with self._cursor() as cursor:
            if hashes is None:
                statements.of_range.run(cursor, (after, upto))
                return _page(_rows(cursor), upto, limit)
            if len(hashes) == 1:
                statements.of_topic.run(cursor, (after, upto, *hashes))
                return _page(_rows(cursor), upto, limit)
            found: list[list[int]] = []
            for hashed in hashes:  # each costs what it returns, whatever the history
                statements.places.run(cursor, (after, upto, hashed))
                found.append([row[0] for row in cursor.fetchall()])
            places, upto = _cut(list(dict.fromkeys(heapq.merge(*found))), upto, limit)
            return _page(self._rows_of(cursor, places), upto, limit)

    def _rows_of(self, cursor: Any, places: Sequence[int]) -> Iterator[Row]:
        for start in range(0, len(places), _BLOCK):
            some = list(places[start : start + _BLOCK])
            some += some[-1:] * (_BLOCK - len(some))  # as many as the statement has parameters
            self._of_places.run(cursor, tuple(some))
            yield from _rows(cursor)

    @contextlib.contextmanager
    def _cursor(self) -> Iterator[Any]:
        with self._free:
            try:
                connection = self._idle.pop()
            except IndexError:
                connection = self._engine.raw_connection()
            try:
                cursor = connection.cursor()
                yield cursor
                cursor.close()
                if not self._is_sqlite:
                    connection.rollback()
            except BaseException:
                connection.invalidate()
                raise
            self._idle.append(connection)

    def close(self) -> None:
        """Close the connections that nobody uses."""
        while self._idle:
            self._idle.pop().close()


class _Limited:
    """Statements that return a number of rows at most, which cannot be a parameter everywhere."""

    def __init__(self, engine: sa.Engine, limit: int) -> None:
        table, topic = schema.update, schema.topic
        after, upto, hashed = (
            sa.bindparam(name, type_=sa.BigInteger) for name in ("after", "upto", "hashed")
        )
        here = (topic.c.sequence > after, topic.c.sequence <= upto, topic.c.topic_hash == hashed)
        most = f"LIMIT {limit}"
        self.of_range = Statement(
            engine,
            sa.select(table)
            .where(table.c.sequence > after, table.c.sequence <= upto)
            .order_by(table.c.sequence)
            .suffix_with(most),
            ["after", "upto"],
        )
        self.of_topic = Statement(
            engine,
            sa.select(table)
            .join_from(topic, table, topic.c.sequence == table.c.sequence)
            .where(*here)
            .order_by(topic.c.sequence)
            .suffix_with(most),
            ["after", "upto", "hashed"],
        )
        self.places = Statement(
            engine,
            sa.select(topic.c.sequence).where(*here).order_by(topic.c.sequence).suffix_with(most),
            ["after", "upto", "hashed"],
        )


def _rows(cursor: Any) -> Iterator[Row]:
    while rows := cursor.fetchmany(_ROWS):
        yield from rows


def _page(rows: Iterable[Row], upto: int, limit: int) -> tuple[list[Entry], int]:
    """The entries of these rows, as much as may be in memory at once.

    :param upto: what is reached when all of them are in it.
    :returns: and what is reached.
    """
    entries: list[Entry] = []
    weight = 0
    for row in rows:
        entries.append(schema.entry(row))
        weight += entries[-1].weight
        if weight >= _MAX_PAGE or len(entries) == limit:
            return entries, entries[-1].sequence
    return entries, upto


def _in_windows(
    connection: sa.Connection, after: int, upto: int, hashes: Iterable[int], limit: int
) -> tuple[list[int], int]:
    """The same for many topics, with few statements.

    One over the whole history would sort all places of all topics for each page.

    :returns: the places, and up to where they are all.
    """
    table = schema.topic
    found: list[int] = []
    wanted = list(hashes)
    window = _WINDOW
    while after < upto and len(found) < limit:
        end = min(after + window, upto)
        found += connection.scalars(
            sa.select(table.c.sequence)
            .where(table.c.topic_hash.in_(wanted), table.c.sequence.between(after + 1, end))
            .order_by(table.c.sequence)
            .distinct()
        ).all()
        after = end
        window *= 2
    return _cut(found, after, limit)


def _cut(found: list[int], upto: int, limit: int) -> tuple[list[int], int]:
    """No more places than the limit.

    :returns: the places, and up to where they are all.
    """
    return (found[:limit], found[limit - 1]) if len(found) > limit else (found, upto)


def topics(connection: sa.Connection, after: int, upto: int, beyond: int | None, limit: int) -> TopicPage:
    """Topics of updates in a part of the log; see ``Transport.topics``.

    The index of topics is skipped through from one to the next: each costs one look-up, however many updates
    it has.
    """
    table = schema.topic.alias("here")
    further = schema.topic.alias("further")
    following = sa.select(sa.func.min(table.c.topic_hash).label("topic_hash"), sa.literal(1).label("number"))
    if beyond is not None:
        following = following.where(table.c.topic_hash > beyond)
    distinct = following.cte("distinct_topic", recursive=True)
    distinct = distinct.union_all(
        sa.select(
            sa.select(sa.func.min(further.c.topic_hash))
            .where(further.c.topic_hash > distinct.c.topic_hash)
            .scalar_subquery(),
            distinct.c.number + 1,
        ).where(distinct.c.topic_hash.is_not(None), distinct.c.number < limit)
    )
    first = (
        sa.select(sa.func.min(schema.topic.c.sequence))
        .where(
            schema.topic.c.topic_hash == distinct.c.topic_hash,
            schema.topic.c.sequence.between(after + 1, upto),
        )
        .scalar_subquery()
    )
    statement = (
        sa.select(distinct.c.topic_hash, schema.update.c.topics)
        .select_from(distinct.outerjoin(schema.update, schema.update.c.sequence == first))
        .where(distinct.c.topic_hash.is_not(None))
        .order_by(distinct.c.number)
    )
    rows = connection.execute(statement).all()
    found = [
        value
        for hashed, values in rows
        if values is not None
        for value in schema.topics_of(values)
        if schema.topic_hash(value) == hashed
    ]
    return TopicPage(found, rows[-1].topic_hash if len(rows) == limit else None)
