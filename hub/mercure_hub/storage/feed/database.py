"""The copy of the newest history: an SQLite database on one machine that is not needed after a restart.

It has the sequences of the engine. Nothing in it is flushed to the disk.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mercure_hub.protocol.errors import StorageError
from mercure_hub.storage.encoding import encoded_topics, topic_hash
from mercure_hub.storage.interface import Beginning, Entry, Seen
from mercure_hub.storage.sqlite import schema
from mercure_hub.storage.sqlite.database import Database, reason, writing
from mercure_hub.storage.sqlite.reading import Reader


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much a copy holds.

    :param updates: at most, give or take a step; the newest ones.
    :param bytes: of the database.
    :param step: updates that are discarded at once.
    """

    updates: int = 100_000
    bytes: int = 64 << 20
    step: int = 1000


def copy_at(path: Path) -> Database:
    """Gives connections to a copy."""
    return Database(str(path), "OFF")


def failure(error: Exception) -> StorageError:
    """What went wrong with the copy."""
    return StorageError(f"the copy of the newest history for the workers cannot be used: {reason(error)}")


class CopyReader(Reader):
    """Reads a copy as ``Reader`` reads the history, and what it is a copy of."""

    def seen(self) -> Seen:
        """Where the copy ends."""
        with self._cursor() as cursor:
            epoch, base, base_id, last, last_id = cursor.execute(_SEEN).fetchone()
            return Seen(epoch, last, base_id if last == base else last_id)

    def id_at(self, sequence: int) -> str | None:
        """The id of one update, which may be the one before the first."""
        with self._cursor() as cursor:
            row = cursor.execute(_ID_AT, (sequence, sequence)).fetchone()
            return None if row is None else row[0]

    def newest_update(self) -> str | None:
        """The id of the newest update of a publisher."""
        with self._cursor() as cursor:
            row = cursor.execute(_NEWEST_UPDATE).fetchone()
            return None if row is None else str(row[0])


class CopyWriter:
    """Keeps a copy; used by one thread of one process.

    :param path: of the database, which is made if it is not there.
    :param bounds: how much it holds.
    :raises StorageError: it cannot be opened.

    ``base`` is the sequence after which it begins, ``last`` that of its last update.
    """

    def __init__(self, path: Path, bounds: Bounds) -> None:
        self._bounds = bounds
        self.base = self.last = 0
        self._beginning = Beginning(0, 0)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        try:
            self._driver = copy_at(path).connect()
            try:
                with writing(self._driver):
                    schema.create(self._driver, _TABLES)
                    self._driver.execute(_COPIED)
                self._page_size = self._pragma("page_size")
            except BaseException:
                self._driver.close()
                raise
        except sqlite3.Error as error:
            raise failure(error) from None

    def seen(self) -> Seen | None:
        """Where the copy ends; ``None``: it was never begun."""
        row = self._driver.execute(_SEEN).fetchone()
        if row is None:
            return None
        epoch, self.base, base_id, self.last, last_id = row
        return Seen(epoch, self.last, base_id if self.last == self.base else last_id)

    def begin_anew(self, seen: Seen) -> None:
        """Forget everything.

        :param seen: what comes after this will be appended.
        """
        with self._driver:
            self._driver.execute("BEGIN IMMEDIATE")
            for table in ("mercure_update", "mercure_topic", "mercure_position", "mercure_copy"):
                self._driver.execute(f"DELETE FROM {table}")  # noqa: S608 - constants
            self._driver.execute(
                "INSERT INTO mercure_position (id, last_sequence) VALUES (1, ?)", (seen.last,)
            )
            self._driver.execute(
                "INSERT INTO mercure_copy (epoch, base, base_id) VALUES (?, ?, ?)",
                (seen.epoch, seen.last, seen.event_id),
            )
        self.base = self.last = seen.last
        self._beginning = Beginning(0, 0)

    def append(self, entries: Sequence[Entry]) -> None:
        """Add what comes next.

        :param entries: the first has the sequence after ``last``.
        """
        rows: list[tuple[object, ...]] = []
        topics: list[tuple[int, int]] = []
        for sequence, update, is_event in ((one.sequence, one.update, one.is_event) for one in entries):
            # fmt: off
            rows.append((
                sequence, update.id, encoded_topics(update.topics), update.data.encode(), update.private,
                update.type, update.retry, 0 if is_event else None,
            ))
            # fmt: on
            if len(update.topics) == 1:
                topics.append((topic_hash(update.topics[0]), sequence))
            else:
                topics += [(hashed, sequence) for hashed in set(map(topic_hash, update.topics))]
        last = entries[-1].sequence
        with self._driver:
            self._driver.execute("BEGIN IMMEDIATE")
            self._driver.executemany(_INSERT_UPDATE, rows)
            self._driver.executemany(_INSERT_TOPIC, topics)
            self._driver.execute("UPDATE mercure_position SET last_sequence = ?", (last,))
        self.last = last

    def surplus(self) -> int:
        """The sequence up to which one step has to discard updates, to keep the bounds; 0: none."""
        bounds = self._bounds
        if self.last - self.base >= bounds.updates + bounds.step:
            return self.base + bounds.step
        used = self._pragma("page_count") - self._pragma("freelist_count")
        if used * self._page_size <= bounds.bytes:
            return 0
        return min(self.base + bounds.step, self.last) if self.base < self.last else 0

    def _pragma(self, name: str) -> int:
        return int(self._driver.execute(f"PRAGMA {name}").fetchone()[0])

    def trim(self, base: int) -> None:
        """Discard the updates up to a sequence."""
        (base_id,) = self._driver.execute(_ID_AT, (base, base)).fetchone() or (None,)
        rows = self._driver.execute(_UP_TO, (base,)).fetchall()
        with self._driver:
            self._driver.execute("BEGIN IMMEDIATE")
            self._delete(rows)
            self._driver.execute("UPDATE mercure_copy SET base = ?, base_id = ?", (base, base_id))
        self.base = base

    def discard(self, beginning: Beginning) -> None:
        """Discard, in one step, what the history itself no longer has.

        :param beginning: of the history.
        """
        if beginning == self._beginning:
            return
        step = self._bounds.step
        is_done = True
        for first, old, gone in (
            (beginning.updates, _OLD_UPDATES, _UPDATES_GONE),
            (beginning.events, _OLD_EVENTS, _EVENTS_GONE),
        ):
            rows = self._driver.execute(old, (first, step)).fetchall()
            is_last = len(rows) < step
            with self._driver:
                self._driver.execute("BEGIN IMMEDIATE")
                self._delete(rows)
                self._driver.execute(gone, (first - 1 if is_last else rows[-1][0],))
            is_done = is_done and is_last
        if is_done:
            self._beginning = beginning

    def _delete(self, rows: Sequence[tuple[int, str]]) -> None:
        """Delete updates, given as sequence and topics."""
        topics = [
            (topic_hash(topic), sequence) for sequence, encoded in rows for topic in json.loads(encoded)
        ]
        self._driver.executemany("DELETE FROM mercure_topic WHERE topic_hash = ? AND sequence = ?", topics)
        self._driver.executemany("DELETE FROM mercure_update WHERE sequence = ?", [row[:1] for row in rows])

    def close(self) -> None:
        """Close the connection."""
        self._driver.close()


_TABLES = (
    *("mercure_position", "mercure_update", "mercure_topic"),
    *("mercure_retention", "mercure_rule", "mercure_past", "mercure_gone"),
)
_COPIED = """
    CREATE TABLE IF NOT EXISTS mercure_copy (epoch TEXT NOT NULL, base INTEGER NOT NULL, base_id TEXT)
"""
_SEEN = """
    SELECT epoch, base, base_id, last_sequence, (SELECT id FROM mercure_update WHERE sequence = last_sequence)
    FROM mercure_copy, mercure_position
"""
_ID_AT = """
    SELECT id FROM mercure_update WHERE sequence = ? UNION ALL
    SELECT base_id FROM mercure_copy WHERE base = ? AND base_id IS NOT NULL
"""
_NEWEST_UPDATE = "SELECT id FROM mercure_update WHERE event_bytes IS NULL ORDER BY sequence DESC LIMIT 1"
_INSERT_UPDATE = """
    INSERT INTO mercure_update
        (sequence, id, topics, data, private, type, retry, event_bytes, published_at)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, 0)
"""
_INSERT_TOPIC = "INSERT INTO mercure_topic (topic_hash, sequence) VALUES (?, ?)"
_UP_TO = "SELECT sequence, topics FROM mercure_update WHERE sequence <= ?"
_OLD_UPDATES = """
    SELECT sequence, topics FROM mercure_update WHERE sequence < ? AND event_bytes IS NULL
    ORDER BY sequence LIMIT ?
"""
_OLD_EVENTS = """
    SELECT sequence, topics FROM mercure_update WHERE sequence < ? AND event_bytes IS NOT NULL
    ORDER BY sequence LIMIT ?
"""
_UPDATES_GONE = "UPDATE mercure_position SET updates_gone = ?"
_EVENTS_GONE = "UPDATE mercure_position SET events_gone = ?"
