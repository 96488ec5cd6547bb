"""Connections to the database, configured alike for hub and commands, and the version of its tables.

A hub that starts brings the tables to the version that it knows, in one transaction and while it holds the
write turn: of several processes one does it, and the others find it done. During an upgrade the old hub is
still at work for some seconds, so a step must leave tables that it can go on with. What cannot, such as
dropping a column, is for the version after.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal
from urllib.parse import unquote

from mercure_hub.protocol.errors import StorageUnusable
from mercure_hub.storage.sqlite import schema

_BUSY = 5  # seconds to wait for the database's lock
_PRIMARY = 0xFF  # the part of SQLite's error codes that says what kind it is

_PRAGMAS = (
    # fsync() of macOS leaves the data in the disk's cache; elsewhere these change nothing.
    "fullfsync = ON",
    "checkpoint_fullfsync = ON",
    "journal_size_limit = 16777216",
)
_AFTER_PATH = re.compile(r"[?#]")

_log = logging.getLogger("mercure_hub.storage")


def path_of(url: str) -> str:
    """The path of the file that a URL names.

    :param url: such as ``sqlite:////var/lib/mercure/mercure.db``.
    """
    return unquote(_AFTER_PATH.split(url.partition(":///")[2], 1)[0])


class Database:
    """Connections to a database, which several threads may use, one after the other.

    :param path: of its file.
    :param synchronous: ``FULL``: what is committed is on the disk; ``OFF``: nothing is flushed.
    """

    def __init__(self, path: str, synchronous: Literal["FULL", "OFF"] = "FULL") -> None:
        self._path = path
        self._synchronous = synchronous
        self._idle: deque[sqlite3.Connection] = deque()
        self._is_closed = False

    def connect(self) -> sqlite3.Connection:
        """A connection for the caller alone, who closes it.

        :raises sqlite3.Error: the database cannot be opened.
        """
        is_uri = self._path.startswith("file:")
        path = self._path if is_uri else os.path.abspath(self._path)  # noqa: PTH100
        connection = sqlite3.connect(path, check_same_thread=False, uri=is_uri)
        try:
            configure(connection, self._synchronous)
        except BaseException:
            connection.close()
            raise
        return connection

    @contextlib.contextmanager
    def connection(self) -> Iterator[sqlite3.Connection]:
        """A connection for a while, in no transaction."""
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = self.connect()
        try:
            yield connection
        except BaseException:
            connection.close()
            raise
        self._idle.append(connection)
        if self._is_closed:  # meanwhile, in another thread
            self.close()

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A connection in a transaction that reads: all statements see the same."""
        with self.connection() as connection:
            connection.execute("BEGIN")
            try:
                yield connection
            finally:
                connection.rollback()

    def close(self) -> None:
        """Close the connections that nobody uses."""
        self._is_closed = True
        while self._idle:
            self._idle.pop().close()


@contextlib.contextmanager
def writing(connection: sqlite3.Connection) -> Iterator[None]:
    """A transaction that takes the write lock at once, so that it cannot fail half-way for want of it."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.commit()
    except BaseException:
        connection.rollback()
        raise


def is_database(error: Exception) -> bool:
    """Whether an error leaves it possible that the file is a database."""
    return getattr(error, "sqlite_errorcode", None) != sqlite3.SQLITE_NOTADB


def reason(error: Exception) -> str:
    """The database's own words; SQLAlchemy's would add the statement and its values."""
    cause = getattr(error, "orig", None) or error
    words = next(iter(str(cause).splitlines()), type(cause).__name__)
    if getattr(cause, "sqlite_errorcode", 0) & _PRIMARY == sqlite3.SQLITE_CORRUPT:
        words += ", or the disk failed to read it, which SQLite reports alike: the log of the kernel tells"
    return words


def configure(connection: sqlite3.Connection, synchronous: Literal["FULL", "OFF"] = "FULL") -> None:
    """Set up a new connection.

    :param synchronous: see ``Database``.
    :raises sqlite3.Error: the database cannot be used.
    """
    connection.isolation_level = None  # transactions are begun by ``writing`` and ``reading``
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {_BUSY * 1000}")
    if not cursor.execute("PRAGMA page_count").fetchone()[0]:
        # Only for a new file, where it counts: each time it is set it takes the write lock.
        cursor.execute("PRAGMA auto_vacuum = INCREMENTAL")
    _use_write_ahead_log(cursor)
    for pragma in (f"synchronous = {synchronous}", *_PRAGMAS):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _use_write_ahead_log(cursor: Any) -> None:
    """Retry: of two processes that switch one file at once, SQLite refuses one immediately."""
    end = time.monotonic() + _BUSY
    while True:
        try:
            cursor.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > end:
                raise
            time.sleep(0.01)
        else:
            return


def _add_missing_tables(connection: sqlite3.Connection) -> None:
    """To version 1: before it there was no table of presence, and none with a version."""
    schema.create(connection)


def _tell_events_apart(connection: sqlite3.Connection) -> None:
    """To version 2: events of the hub are told from updates; those stored before count as updates."""
    for table, column in (
        ("mercure_position", "events INTEGER DEFAULT '0' NOT NULL"),
        ("mercure_position", "updates_gone INTEGER DEFAULT '0' NOT NULL"),
        ("mercure_position", "events_gone INTEGER DEFAULT '0' NOT NULL"),
        ("mercure_update", "events_before INTEGER DEFAULT '0' NOT NULL"),
        ("mercure_update", "event_bytes INTEGER"),
    ):
        connection.execute(f"ALTER TABLE {table} ADD COLUMN {column}")
    connection.execute(schema.EVENT_INDEX)


def _name_matchers(connection: sqlite3.Connection) -> None:
    """To version 3: subscriptions are found by the value of their matcher."""
    if any(row[1] == "value" for row in connection.execute("PRAGMA table_info(mercure_presence)")):
        return  # the first step has just made the table
    connection.execute("ALTER TABLE mercure_presence ADD COLUMN value TEXT")
    connection.execute(schema.VALUE_INDEX)


def _keep_revocations_and_rules(connection: sqlite3.Connection) -> None:
    """To version 4: revocations are kept, and updates by topic."""
    schema.create(connection)


Step = Callable[[sqlite3.Connection], None]

STEPS: Mapping[int, Step] = {
    1: _add_missing_tables,
    schema.KNOWS_EVENTS: _tell_events_apart,
    3: _name_matchers,
    schema.KNOWS_RULES: _keep_revocations_and_rules,
}
"""What leads to a version from the one before."""


def version_of(connection: sqlite3.Connection) -> int | None:
    """The version of the tables: 0 before there were versions, ``None`` when there are no tables yet."""
    if schema.has_table(connection, "mercure_schema"):
        row = connection.execute("SELECT version FROM mercure_schema").fetchone()
        if row is not None:
            return int(row[0])
    return 0 if schema.has_table(connection, "mercure_update") else None


def check_version(version: int, known: int | None = None) -> None:
    """Refuse tables of a hub that is newer than this one.

    :param known: the newest version that is known.
    :raises StorageUnusable: they are.
    """
    newest = max(STEPS) if known is None else known
    if version > newest:
        raise StorageUnusable(
            f"the database has tables of version {version}, made by a newer mercure-hub; this one knows "
            f"version {newest}: upgrade it again, or put back the backup from before the upgrade"
        )


def migrate(connection: sqlite3.Connection, steps: Mapping[int, Step] = STEPS) -> int:
    """Bring the tables to the newest version, in a transaction that writes.

    :param steps: what leads to each version.
    :returns: the version.
    :raises StorageUnusable: they are of a newer one.
    """
    newest = max(steps)
    before = version_of(connection)
    if before is None:
        schema.create(connection)
    else:
        check_version(before, newest)
        for version in range(before + 1, newest + 1):
            steps[version](connection)
    if before != newest:
        connection.execute("DELETE FROM mercure_schema")
        connection.execute("INSERT INTO mercure_schema (id, version) VALUES (1, ?)", (newest,))
        if before is not None:
            _log.info("the tables of the database were brought from version %d to %d", before, newest)
    if connection.execute("SELECT id FROM mercure_position").fetchone() is None:
        connection.execute("INSERT INTO mercure_position (id, last_sequence) VALUES (1, 0)")
    return newest
