"""Connections to the database, configured alike for hub and commands, and the version of its tables.

A hub that starts brings the tables to the version that it knows, in one transaction and while it holds the
write turn: of several processes one does it, and the others find it done. During an upgrade the old hub is
still at work for some seconds, so a step must leave tables that it can go on with. What cannot, such as
dropping a column, is for the version after.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import sqlalchemy as sa

from mercure_hub.protocol.errors import StorageUnusable
from mercure_hub.storage.sqlite import schema

_BUSY = 5  # seconds to wait for the database's lock
_PRIMARY = 0xFF  # the part of SQLite's error codes that says what kind it is

_PRAGMAS = (
    "synchronous = FULL",
    # fsync() of macOS leaves the data in the disk's cache; elsewhere these change nothing.
    "fullfsync = ON",
    "checkpoint_fullfsync = ON",
    "journal_size_limit = 16777216",
)

_log = logging.getLogger("mercure_hub.storage")


def make_engine(url: sa.URL) -> sa.Engine:
    """An engine whose transactions begin as ``writing`` says.

    :param url: of the database.
    """
    engine = sa.create_engine(url, pool_size=4, max_overflow=4)
    sa.event.listen(engine, "connect", _configure)
    sa.event.listen(engine, "begin", _begin)
    return engine


@contextlib.contextmanager
def writing(connection: sa.Connection) -> Iterator[None]:
    """A transaction that takes the write lock at once, so that it cannot fail half-way for want of it."""
    connection.info["writing"] = True
    try:
        with connection.begin():
            yield
    finally:
        connection.info.pop("writing", None)


def is_database(error: Exception) -> bool:
    """Whether an error leaves it possible that the file is a database."""
    return getattr(getattr(error, "orig", None), "sqlite_errorcode", None) != sqlite3.SQLITE_NOTADB


def reason(error: Exception) -> str:
    """The database's own words; SQLAlchemy's would add the statement and its values."""
    cause = getattr(error, "orig", None) or error
    words = next(iter(str(cause).splitlines()), type(cause).__name__)
    if getattr(cause, "sqlite_errorcode", 0) & _PRIMARY == sqlite3.SQLITE_CORRUPT:
        words += ", or the disk failed to read it, which SQLite reports alike: the log of the kernel tells"
    return words


def _begin(connection: sa.Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.info.get("writing") else "BEGIN")


def _configure(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # transactions are begun by _begin
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {_BUSY * 1000}")
    if not cursor.execute("PRAGMA page_count").fetchone()[0]:
        # Only for a new file, where it counts: each time it is set it takes the write lock.
        cursor.execute("PRAGMA auto_vacuum = INCREMENTAL")
    _use_write_ahead_log(cursor)
    for pragma in _PRAGMAS:
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


def _add_missing_tables(connection: sa.Connection) -> None:
    """To version 1: before it there was no table of presence, and none with a version."""
    schema.metadata.create_all(connection)


def _tell_events_apart(connection: sa.Connection) -> None:
    """To version 2: events of the hub are told from updates; those stored before count as updates."""
    for table, names in (
        (schema.position, ("events", "updates_gone", "events_gone")),
        (schema.update, ("events_before", "event_bytes")),
    ):
        for name in names:
            column = sa.schema.CreateColumn(table.c[name]).compile(connection)
            connection.exec_driver_sql(f"ALTER TABLE {table.name} ADD COLUMN {column}")
    schema.events.create(connection)


def _name_matchers(connection: sa.Connection) -> None:
    """To version 3: subscriptions are found by the value of their matcher."""
    if any(one["name"] == "value" for one in sa.inspect(connection).get_columns(schema.presence.name)):
        return  # the first step has just made the table
    column = sa.schema.CreateColumn(schema.presence.c.value).compile(connection)
    connection.exec_driver_sql(f"ALTER TABLE {schema.presence.name} ADD COLUMN {column}")
    for index in schema.presence.indexes:
        index.create(connection)


STEPS: Mapping[int, Callable[[sa.Connection], None]] = {
    1: _add_missing_tables,
    schema.KNOWS_EVENTS: _tell_events_apart,
    3: _name_matchers,
}
"""What leads to a version from the one before."""


def version_of(connection: sa.Connection) -> int | None:
    """The version of the tables: 0 before there were versions, ``None`` when there are no tables yet."""
    tables = sa.inspect(connection)
    if tables.has_table(schema.version.name):
        version: int | None = connection.scalar(sa.select(schema.version.c.version))
        if version is not None:
            return version
    return 0 if tables.has_table(schema.update.name) else None


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


def migrate(connection: sa.Connection, steps: Mapping[int, Callable[[sa.Connection], None]] = STEPS) -> int:
    """Bring the tables to the newest version, in a transaction that writes.

    :param steps: what leads to each version.
    :returns: the version.
    :raises StorageUnusable: they are of a newer one.
    """
    newest = max(steps)
    before = version_of(connection)
    if before is None:
        schema.metadata.create_all(connection)
    else:
        check_version(before, newest)
        for version in range(before + 1, newest + 1):
            steps[version](connection)
    if before != newest:
        connection.execute(sa.delete(schema.version))
        connection.execute(sa.insert(schema.version).values(id=1, version=newest))
        if before is not None:
            _log.info("the tables of the database were brought from version %d to %d", before, newest)
    if connection.scalar(sa.select(schema.position.c.id)) is None:
        connection.execute(sa.insert(schema.position).values(id=1, last_sequence=0))
    return newest
