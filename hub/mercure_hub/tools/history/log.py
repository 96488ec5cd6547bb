"""The log as a command opens it: beside a hub that may be at work on it."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from mercure_hub.protocol.errors import MercureError, StorageError
from mercure_hub.storage.sqlite import schema
from mercure_hub.storage.sqlite.database import (
    check_version,
    make_engine,
    migrate,
    reason,
    version_of,
    writing,
)
from mercure_hub.storage.sqlite.files import check_file_system, lock_path, make_file
from mercure_hub.storage.sqlite.locks import BOUND, Seats

Progress = Callable[[int], None]
"""Takes how many are done."""


class HistoryError(MercureError):
    """A command cannot do what it was asked for; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Log:
    """An open log.

    :param engine: of its database.
    :param path: of its file.
    :param seats: tells who else is at work, and gives the turn to write.
    :param version: of its tables.
    """

    engine: sa.Engine
    path: Path
    seats: Seats
    version: int

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """A transaction that writes, while no other process does.

        :raises OSError: another one does for too long.
        """
        with self.seats.turn_within(BOUND), self.engine.connect() as connection, writing(connection):
            yield connection

    @property
    def of_publishers(self) -> list[sa.ColumnElement[bool]]:
        """What is true of the updates of publishers; older tables do not tell the hub's own events apart."""
        return [~schema.is_event] if self.version >= schema.KNOWS_EVENTS else []

    def last_sequence(self) -> int:
        """The place of the newest update ever."""
        with self.engine.connect() as connection:
            return connection.scalar(sa.select(schema.position.c.last_sequence)) or 0


@contextmanager
def opened(url: str, *, create: bool = False) -> Iterator[Log]:
    """Open a log for one command.

    :param url: of the database (MERCURE_TRANSPORT_URL).
    :param create: make the file if it is missing, and bring its tables up to date.
    :raises HistoryError: there is none, or it is something else.
    :raises StorageError: it cannot be read or written.
    """
    parsed = sa.make_url(url)
    path = Path(str(parsed.database))
    if not create and not path.is_file():
        raise HistoryError(f"there is no database {str(path)!r}; name it with --transport-url")
    check_file_system(parsed)
    engine = make_engine(parsed)
    if create:
        make_file(parsed)
    try:
        with engine.connect() as connection:
            version = version_of(connection)
        if version is None and not create:
            raise HistoryError(f"{str(path)!r} is a database, but not one of mercure-hub")
        if version is not None:
            check_version(version)
        with closing(_seats(path, lock_path(parsed))) as seats:
            if create:
                with seats.turn_within(BOUND), engine.connect() as connection, writing(connection):
                    version = migrate(connection)
            yield Log(engine, path, seats, version or 0)
    except BrokenPipeError:
        raise
    except (SQLAlchemyError, sqlite3.Error, OSError) as error:
        raise StorageError(f"the database {str(path)!r} cannot be used: {reason(error)}") from None
    finally:
        engine.dispose()


def _seats(path: Path, lock: str) -> Seats:
    """The lock file; made by root it belongs to the owner of the database, or the hub could not open it."""
    seats = Seats(lock)
    if os.geteuid() == 0:
        owner = path.stat()
        os.chown(lock, owner.st_uid, owner.st_gid)
    return seats
