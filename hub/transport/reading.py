"""Reads parts of the log: cost follows what is wanted, not what is there."""

from __future__ import annotations

import heapq
import json
from collections.abc import Collection, Iterable, Sequence

import sqlalchemy as sa

from hub.transport import schema
from hub.transport.interface import Entry, Page, TopicPage

_FEW = 128  # topics that are looked up one by one: more than one request can name
_MOST = 1000  # topics that are looked up; of more, everything is read
_WINDOW = 10_000  # places that are looked through for many topics at once, to begin with
_ROWS = 50  # fetched at once: large updates must not all be in memory
_MAX_PAGE = 4 << 20


def page(
    connection: sa.Connection, after: int, upto: int, topics: Collection[str] | None, limit: int
) -> Page:
    """Updates in their order; see ``Transport.read``."""
    table = schema.update
    if topics is None or len(topics) > _MOST:
        wanted = table.c.sequence.between(after + 1, upto)
    else:
        hashes = {schema.topic_hash(value) for value in topics}
        look_up = _one_by_one if len(hashes) <= _FEW else _in_windows
        found, upto = look_up(connection, after, upto, hashes, limit)
        wanted = table.c.sequence.in_(found)
    statement = sa.select(table).where(wanted).order_by(table.c.sequence).limit(limit)
    entries: list[Entry] = []
    octets = 0
    with connection.execution_options(yield_per=_ROWS).execute(statement) as rows:
        for row in rows:
            entries.append(schema.entry(row))
            octets += len(row.data)
            if octets >= _MAX_PAGE or len(entries) == limit:
                return Page(entries, row.sequence)
    return Page(entries, upto)


def _one_by_one(
    connection: sa.Connection, after: int, upto: int, hashes: Iterable[int], limit: int
) -> tuple[list[int], int]:
    """The first places of these topics: each read costs what it returns, whatever the history.

    :returns: the places, and up to where they are all.
    """
    table = schema.topic
    found: list[Sequence[int]] = [
        connection.scalars(
            sa.select(table.c.sequence)
            .where(table.c.topic_hash == hashed, table.c.sequence.between(after + 1, upto))
            .order_by(table.c.sequence)
            .limit(limit)
        ).all()
        for hashed in hashes
    ]
    return _cut(list(dict.fromkeys(heapq.merge(*found))), upto, limit)


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
        for value in json.loads(values)
        if schema.topic_hash(value) == hashed
    ]
    return TopicPage(found, rows[-1].topic_hash if len(rows) == limit else None)
