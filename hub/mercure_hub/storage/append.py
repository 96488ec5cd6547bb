"""Writes a batch of updates in one transaction.

This is the hub's dearest moment: statements are compiled by SQLAlchemy once, and run on the
driver's own cursor, which halves the time of a transaction.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import sqlalchemy as sa

from mercure_hub.protocol.update import Update
from mercure_hub.storage.interface import Entry
from mercure_hub.storage.sqlite import schema

_encode = json.JSONEncoder(ensure_ascii=False).encode
_ROWS = (64, 16, 4, 1)  # of one statement of SQLite


class Appender:
    """Appends to the log over one connection of the driver.

    :param engine: gives the dialect.
    :param connection: of the driver, in autocommit mode when it is SQLite's.
    """

    def __init__(self, engine: sa.Engine, connection: Any) -> None:
        self._connection = connection
        self._is_sqlite = engine.dialect.name == "sqlite"
        table = schema.position
        advance = sa.update(table).values(
            last_sequence=table.c.last_sequence + sa.bindparam("count", type_=sa.Integer),
            events=table.c.events + sa.bindparam("more_events", type_=sa.Integer),
        )
        self._advance = Statement(engine, advance, ["count", "more_events"])
        self._position = Statement(engine, sa.select(table.c.last_sequence, table.c.events), [])
        event_bytes = sa.select(schema.update.c.event_bytes).where(schema.is_event)
        self._event_bytes = Statement(
            engine, event_bytes.order_by(schema.update.c.sequence.desc()).suffix_with("LIMIT 1"), []
        )
        self._update = Statement(
            engine, sa.insert(schema.update), [column.name for column in schema.update.c]
        )
        self._topic = Statement(engine, sa.insert(schema.topic), [column.name for column in schema.topic.c])

    def append(
        self,
        updates: Sequence[Update],
        now: float,
        also: Callable[[Any], None] | None = None,
        are_events: Sequence[bool] = (),
    ) -> list[Entry]:
        """Store updates; when this returns they are durable.

        :param now: seconds since the epoch.
        :param also: called with the cursor before the commit, for what belongs into the same transaction.
        :param are_events: which of them are the hub's own; empty: none.
        :raises Exception: of the driver; nothing is stored then.
        """
        cursor = self._connection.cursor()
        try:
            if self._is_sqlite:
                cursor.execute("BEGIN IMMEDIATE")
            entries = self._insert(cursor, updates, now, are_events or [False] * len(updates))
            if also is not None:
                also(cursor)
            self._connection.commit()
        except BaseException:
            self._connection.rollback()
            raise
        finally:
            cursor.close()
        return entries

    def _insert(
        self, cursor: Any, updates: Sequence[Update], now: float, are_events: Sequence[bool]
    ) -> list[Entry]:
        number = sum(are_events)
        self._advance.run(cursor, (len(updates), number))
        self._position.run(cursor, ())
        last, events = cursor.fetchone()
        first, events = last - len(updates) + 1, events - number
        entries = [
            Entry(sequence, update, is_event)
            for sequence, (update, is_event) in enumerate(zip(updates, are_events, strict=True), first)
        ]
        event_bytes = 0
        if number:
            self._event_bytes.run(cursor, ())
            found = cursor.fetchone()
            event_bytes = found[0] if found else 0
        rows = []
        for entry in entries:
            update, topics = entry.update, _topics(entry.update.topics)
            data = update.data.encode()
            if entry.is_event:
                event_bytes += len(data) + len(topics.encode())
            rows.append(
                (
                    entry.sequence,
                    update.id,
                    topics,
                    data,
                    update.private,
                    update.type,
                    update.retry,
                    now,
                    events,
                    event_bytes if entry.is_event else None,
                )
            )
            events += entry.is_event
        self._update.run_many(cursor, rows)
        self._topic.run_many(
            cursor,
            [
                (hashed, entry.sequence)
                for entry in entries
                for hashed in {schema.topic_hash(value) for value in entry.update.topics}
            ],
        )
        return entries


def _topics(topics: tuple[str, ...]) -> str:
    return _single(topics) if len(topics) == 1 else _encode(topics)


@lru_cache(maxsize=1024)  # most updates have one topic, and a topic has many updates
def _single(topics: tuple[str]) -> str:
    return _encode(topics)


class Statement:
    """A compiled statement and the order of its parameters."""

    def __init__(self, engine: sa.Engine, statement: Any, parameters: Sequence[str]) -> None:
        compiled = statement.compile(engine, column_keys=list(parameters) or None)
        self._sql = str(compiled)
        self._names = list(parameters)
        order = compiled.positiontup if compiled.positional else None
        self._order = None if order is None else [self._names.index(name) for name in order]
        if self._order == list(range(len(self._names))):
            self._order = []
        self._by_rows: dict[int, str] = {}
        if engine.dialect.name == "sqlite" and self._order == [] and compiled.isinsert:
            row = f", ({', '.join('?' * len(self._names))})"
            self._by_rows = {rows: self._sql + row * (rows - 1) for rows in _ROWS}

    def run(self, cursor: Any, row: tuple[object, ...]) -> None:
        cursor.execute(self._sql, self._arranged(row))

    def run_many(self, cursor: Any, rows: Sequence[tuple[object, ...]]) -> None:
        if self._by_rows:
            self._run_in_blocks(cursor, rows)
            return
        cursor.executemany(self._sql, rows if self._order == [] else [self._arranged(row) for row in rows])

    def _run_in_blocks(self, cursor: Any, rows: Sequence[tuple[object, ...]]) -> None:
        """Insert many rows with few statements.

        SQLite's driver lets go of the interpreter for each step of a statement; with the event loop busy,
        getting it back takes longer than to insert the row.
        """
        start = 0
        for size, sql in self._by_rows.items():
            while len(rows) - start >= size:
                cursor.execute(sql, [value for row in rows[start : start + size] for value in row])
                start += size

    def _arranged(self, row: tuple[object, ...]) -> object:
        if self._order is None:
            return dict(zip(self._names, row, strict=True))
        return [row[place] for place in self._order] if self._order else row
