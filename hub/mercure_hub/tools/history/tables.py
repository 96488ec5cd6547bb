"""The tables of an SQLite database for SQLAlchemy, and its connections.

Only the commands use SQLAlchemy: in a hub it would take 15 MiB. ``storage/sqlite/schema.py`` makes the
tables, and says what they are for.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from sqlalchemy import BigInteger, Boolean, Column, Float, Integer, LargeBinary, MetaData, Table, Text

from mercure_hub.storage.sqlite.database import configure

metadata = MetaData()

position = Table(
    "mercure_position",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("last_sequence", Integer, nullable=False),
    Column("events", Integer, nullable=False, server_default="0"),
    Column("updates_gone", Integer, nullable=False, server_default="0"),
    Column("events_gone", Integer, nullable=False, server_default="0"),
)

update = Table(
    "mercure_update",
    metadata,
    Column("sequence", Integer, primary_key=True, autoincrement=False),
    Column("id", Text, nullable=False),
    Column("topics", Text, nullable=False),
    Column("data", LargeBinary, nullable=False),
    Column("private", Boolean, nullable=False),
    Column("type", Text),
    Column("retry", BigInteger),
    Column("published_at", Float, nullable=False),
    Column("events_before", Integer, nullable=False, server_default="0"),
    Column("event_bytes", Integer),
)
is_event = update.c.event_bytes.is_not(None)

topic = Table(
    "mercure_topic",
    metadata,
    Column("topic_hash", Integer, primary_key=True, autoincrement=False),
    Column("sequence", Integer, primary_key=True, autoincrement=False),
    sqlite_with_rowid=False,
)


def make_engine(path: str) -> sa.Engine:
    """An engine whose transactions begin as ``writing`` says.

    :param path: of the database.
    """
    engine = sa.create_engine(sa.URL.create("sqlite", database=path), pool_size=4, max_overflow=4)
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


def driver_of(connection: sa.Connection) -> sqlite3.Connection:
    """The driver's own connection, in the same transaction."""
    driver = connection.connection.driver_connection
    assert isinstance(driver, sqlite3.Connection)
    return driver


def _begin(connection: sa.Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.info.get("writing") else "BEGIN")


def _configure(connection: Any, _record: object) -> None:
    configure(connection)
