"""Connections to the database of the log, configured the same for the hub and for the commands."""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from mercure_hub.protocol.errors import StorageUnusable
from mercure_hub.storage.file_system import file_system_of

_BUSY = 5  # seconds to wait for the database's lock
_PRIMARY = 0xFF  # the part of SQLite's error codes that says what kind it is
_OTHERS = 0o007  # the bits of a mode that are for everyone

_log = logging.getLogger("mercure_hub.storage")


def make_engine(url: sa.URL) -> sa.Engine:
    """An engine whose transactions are ours.

    :param url: of the database.
    """
    engine = sa.create_engine(url, pool_size=4, max_overflow=4)
    if url.get_backend_name() == "sqlite":
        sa.event.listen(engine, "connect", _configure_sqlite)
        sa.event.listen(engine, "begin", _begin_sqlite)
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


def lock_path(url: sa.URL) -> str:
    """The file by whose locks processes on this database find one another (``mercure_hub.storage.seats``)."""
    return f"{url.database}-lock"


def check_place(url: sa.URL) -> None:
    """Refuse a file system on which SQLite loses updates; warn of one that may be such.

    :raises StorageUnusable: the files of the database are, or would be, on another machine.
    """
    if not _is_file(url):
        return
    place = file_system_of(str(url.database))
    where = f"{str(url.database)!r} is on a file system of type {place.kind}, mounted at {place.mounted_at!r}"
    if place.is_network:
        raise StorageUnusable(
            f"{where}: over a network, SQLite's locks and write-ahead log do not work; put it on a local disk"
        )
    if place.is_doubtful:
        _log.warning(
            "%s: updates may be lost if another machine uses it too, or if it keeps locks and fsync back; "
            "a local disk is safe",
            where,
        )


def make_file(url: sa.URL) -> None:
    """Make the file of a new SQLite database for its owner only: private updates will be in it.

    SQLite gives the write-ahead log and its index the mode of the database. What keeps this from making the
    file keeps SQLite from opening it, with better words.
    """
    if _is_file(url):
        with contextlib.suppress(OSError):
            os.close(os.open(str(url.database), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))


def close_to_others(url: sa.URL) -> None:
    """Take the files of an SQLite database away from everyone but owner and group, and log it.

    Earlier versions made them readable by everyone. The group keeps its rights: it may be one that reads
    backups.
    """
    if not _is_file(url):
        return
    for suffix in ("", "-wal", "-shm", "-lock"):
        path = f"{url.database}{suffix}"
        try:
            mode = stat.S_IMODE(os.stat(path).st_mode)  # noqa: PTH116
            if mode & _OTHERS:
                os.chmod(path, mode & ~_OTHERS)  # noqa: PTH101
                _log.warning(
                    "%r was open to every user of this machine; now only owner and group may use it", path
                )
        except FileNotFoundError:
            pass
        except OSError as error:
            _log.warning(
                "%r is open to every user of this machine: %s; change its mode", path, error.strerror
            )


def _is_file(url: sa.URL) -> bool:
    name = url.database or ""
    return (
        url.get_backend_name() == "sqlite" and name not in ("", ":memory:") and not name.startswith("file:")
    )


def is_writable(url: sa.URL) -> bool:
    """Whether this process may write a database, as far as its file and folder tell."""
    if url.get_backend_name() != "sqlite" or not url.database:
        return True
    path = Path(url.database)
    may_be_made = os.access(path.parent, os.W_OK | os.X_OK) and not path.is_dir()
    return may_be_made and (not path.exists() or os.access(path, os.W_OK))


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


def _begin_sqlite(connection: sa.Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.info.get("writing") else "BEGIN")


def _configure_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # transactions are begun by _begin_sqlite
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {_BUSY * 1000}")
    if not cursor.execute("PRAGMA page_count").fetchone()[0]:
        # Only for a new file, where it counts: setting it takes the lock of those who write, each time.
        cursor.execute("PRAGMA auto_vacuum = INCREMENTAL")
    _use_write_ahead_log(cursor)
    for pragma in ("synchronous = FULL", "journal_size_limit = 16777216"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _use_write_ahead_log(cursor: Any) -> None:
    """Two that do it to one file at once would wait for each other: SQLite refuses one of them at once."""
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
