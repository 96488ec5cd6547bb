"""The log in an SQL database, through SQLAlchemy Core.

One thread does all the writing. It takes whatever updates wait and commits them as one
transaction, so that a hundred publishers cost one fsync. Readers have connections of their own.
"""

from __future__ import annotations

import contextlib
import heapq
import json
import logging
import queue
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from hub.protocol.errors import StorageError
from hub.protocol.update import Update
from hub.transport import schema
from hub.transport.append import Appender
from hub.transport.interface import Commit, Entry, Page

Ticket = TypeVar("Ticket")

_MAX_BATCH = 1000
_MAX_BATCH_CHARACTERS = 8 << 20
_TRIM_STEP = 1000  # as many as one batch brings, so that trimming keeps up
_TRIM_INTERVAL = 1.0
_PAGES_TO_RETURN = 200
_MAX_TOPICS_BY_INDEX = 128  # more than one request can name
_ROWS = 50  # fetched at once: large updates must not all be in memory
_MAX_PAGE = 4 << 20

_log = logging.getLogger("hub.transport")


@dataclass(frozen=True, slots=True)
class Retention:
    """How much history to keep.

    :param size: updates, 0 for all.
    :param max_age: seconds, 0 for ever.
    """

    size: int = 0
    max_age: float = 0.0

    @property
    def is_bounded(self) -> bool:
        """Whether anything is ever discarded."""
        return self.size > 0 or self.max_age > 0


class SqlTransport(Generic[Ticket]):
    """A log in an SQL database.

    :param url: SQLAlchemy URL, for example ``sqlite:////var/lib/mercure/mercure.db``.
    :param retention: how much history to keep.
    :param clock: returns seconds since the epoch.
    """

    def __init__(self, url: str, retention: Retention, clock: Callable[[], float]) -> None:
        self._url = sa.make_url(url)
        self._retention = retention
        self._clock = clock
        self._engine = sa.create_engine(self._url, pool_size=4, max_overflow=4)
        if self._url.get_backend_name() == "sqlite":
            sa.event.listen(self._engine, "connect", _configure_sqlite)
            sa.event.listen(self._engine, "begin", _begin_sqlite)
        self._waiting: queue.SimpleQueue[tuple[Sequence[Update], Ticket] | None] = queue.SimpleQueue()
        self._committed: deque[Commit[Ticket]] = deque()
        self._wake: Callable[[], None] = lambda: None
        self._writer = threading.Thread(target=self._write, name="mercure-log", daemon=True)
        self._trimmed_at = 0.0
        self._failure: StorageError | None = None

    @property
    def place(self) -> str:
        """The database in words, without credentials."""
        return self._url.render_as_string(hide_password=True)

    def open(self, wake: Callable[[], None]) -> None:
        """Create what is missing in the database and start the writer."""
        self._wake = wake
        try:
            with self._engine.connect() as connection, _writing(connection):
                schema.metadata.create_all(connection)
                if connection.scalar(sa.select(schema.position.c.id)) is None:
                    connection.execute(sa.insert(schema.position).values(id=1, last_sequence=0))
        except SQLAlchemyError as error:
            self._engine.dispose()
            raise self._error("opened", error) from None
        self._writer.start()

    def append(self, update: Update, ticket: Ticket) -> None:
        """Queue an update for the writer."""
        self._waiting.put(((update,), ticket))

    def append_all(self, updates: Sequence[Update], ticket: Ticket) -> None:
        """Queue updates for one transaction of the writer."""
        self._waiting.put((updates, ticket))

    def collect(self) -> list[Commit[Ticket]]:
        """The commits since the last call."""
        commits: list[Commit[Ticket]] = []
        while self._committed:
            commits.append(self._committed.popleft())
        return commits

    def newest(self) -> tuple[int, str | None]:
        """Sequence and id of the newest update."""
        with self._reading() as connection:
            sequence = connection.scalar(sa.select(schema.position.c.last_sequence)) or 0
            found = connection.scalar(
                sa.select(schema.update.c.id).where(schema.update.c.sequence == sequence)
            )
            return sequence, found

    def find(self, event_id: str) -> int | None:
        """Sequence of the earliest update with an id."""
        with self._reading() as connection:
            found: int | None = connection.scalar(
                sa.select(sa.func.min(schema.update.c.sequence)).where(schema.update.c.id == event_id)
            )
            return found

    def read(self, after: int, upto: int, topics: Collection[str] | None, limit: int) -> Page:
        """Read a part of the log."""
        table = schema.update
        with self._reading() as connection:
            if topics is None or len(topics) > _MAX_TOPICS_BY_INDEX:
                wanted = table.c.sequence.between(after + 1, upto)
            else:
                found = self._sequences(connection, after, upto, topics, limit)
                wanted = table.c.sequence.in_(found)
            statement = sa.select(table).where(wanted).order_by(table.c.sequence).limit(limit)
            entries: list[Entry] = []
            octets = 0
            with connection.execution_options(yield_per=_ROWS).execute(statement) as rows:
                for row in rows:
                    entries.append(_entry(row))
                    octets += len(row.data)
                    if octets >= _MAX_PAGE or len(entries) == limit:
                        return Page(entries, row.sequence)
            return Page(entries, upto)

    def check(self) -> None:
        """Raise ``StorageError`` when the log cannot be read, or cannot be written after a failure."""
        if not self._writer.is_alive():
            raise StorageError(f"the writer of {self.place} has stopped")
        if self._failure is None:
            self.newest()
        else:
            self._try_to_write()

    def _try_to_write(self) -> None:
        """Nobody may publish to a hub that reports a failure: it has to find out itself that it is over."""
        table = schema.position
        try:
            with self._engine.connect() as connection, _writing(connection):
                connection.execute(sa.update(table).values(last_sequence=table.c.last_sequence))
        except SQLAlchemyError as error:
            raise self._error("written", error) from None
        self._failure = None

    def close(self) -> None:
        """Commit what is queued and close the connections."""
        self._waiting.put(None)
        if self._writer.is_alive():
            self._writer.join()
        self._engine.dispose()

    @staticmethod
    def _sequences(
        connection: sa.Connection, after: int, upto: int, topics: Iterable[str], limit: int
    ) -> list[int]:
        """The first places of these topics: each read costs what it returns, whatever the history."""
        table = schema.topic
        found: list[Sequence[int]] = [
            connection.scalars(
                sa.select(table.c.sequence)
                .where(table.c.topic_hash == hashed, table.c.sequence.between(after + 1, upto))
                .order_by(table.c.sequence)
                .limit(limit)
            ).all()
            for hashed in {schema.topic_hash(value) for value in topics}
        ]
        merged = dict.fromkeys(heapq.merge(*found))
        return list(merged)[:limit]

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sa.Connection]:
        try:
            with self._engine.connect() as connection:
                yield connection
        except SQLAlchemyError as error:
            raise self._error("read", error) from error

    def _error(self, participle: str, error: Exception) -> StorageError:
        return StorageError(f"the database {self.place} cannot be {participle}: {_reason(error)}")

    # What follows runs in the writer's thread.

    def _write(self) -> None:
        connection: sa.Connection | None = None
        appender: Appender | None = None
        more = True
        while more:
            batch, more = self._next_batch()
            try:
                if connection is None or appender is None:
                    connection = self._engine.connect()
                    appender = Appender(self._engine, connection.connection.driver_connection)
                if batch:
                    self._commit(appender, batch)
            except SQLAlchemyError as error:
                self._fail(batch, error)
            else:
                self._trim(connection)
        if connection is not None:
            connection.close()

    def _next_batch(self) -> tuple[list[tuple[Sequence[Update], Ticket]], bool]:
        """Whatever waits, up to a limit; and whether there will be more."""
        batch: list[tuple[Sequence[Update], Ticket]] = []
        count = characters = 0
        try:
            waiting = self._waiting.get(timeout=_TRIM_INTERVAL if self._retention.is_bounded else None)
            while waiting is not None:
                batch.append(waiting)
                count += len(waiting[0])
                characters += sum(len(update.data) for update in waiting[0])
                if count >= _MAX_BATCH or characters >= _MAX_BATCH_CHARACTERS:
                    return batch, True
                waiting = self._waiting.get_nowait()
        except queue.Empty:
            return batch, True
        return batch, False

    def _commit(self, appender: Appender, batch: Sequence[tuple[Sequence[Update], Ticket]]) -> None:
        try:
            entries = appender.append([update for updates, _ in batch for update in updates], self._clock())
        except Exception as error:  # whatever it is: this thread must live on
            self._fail(batch, error)
            return
        self._failure = None
        self._committed.append(Commit(entries, [ticket for _, ticket in batch]))
        self._wake()

    def _fail(self, batch: Sequence[tuple[Sequence[Update], Ticket]], error: Exception) -> None:
        self._failure = self._error("written", error)
        _log.error("%s", self._failure)
        if batch:
            self._committed.append(Commit((), [ticket for _, ticket in batch], self._failure))
            self._wake()

    def _trim(self, connection: sa.Connection) -> None:
        """Discard one step of what is too old; the next step comes after the next batch."""
        now = self._clock()
        if not self._retention.is_bounded or abs(now - self._trimmed_at) < _TRIM_INTERVAL:
            return
        try:
            if self._discard(connection, now) < _TRIM_STEP:
                self._trimmed_at = now
            if self._url.get_backend_name() == "sqlite":
                _return_space(connection)
            self._failure = None
        except Exception as error:
            self._trimmed_at = now
            self._fail((), error)

    def _discard(self, connection: sa.Connection, now: float) -> int:
        table = schema.update
        with _writing(connection):
            last: int = connection.execute(sa.select(schema.position.c.last_sequence)).scalar_one()
            rows = connection.execute(
                sa.select(table.c.sequence, table.c.topics, table.c.published_at)
                .order_by(table.c.sequence)
                .limit(_TRIM_STEP)
            ).all()
            before = last - self._retention.size if self._retention.size else 0
            oldest = now - self._retention.max_age if self._retention.max_age else float("-inf")
            old = [row for row in rows if row.sequence <= before or row.published_at < oldest]
            if old:
                connection.execute(
                    _DELETE_TOPIC,
                    [
                        {"hashed": schema.topic_hash(value), "at": row.sequence}
                        for row in old
                        for value in json.loads(row.topics)
                    ],
                )
                connection.execute(_DELETE_UPDATE, [{"at": row.sequence} for row in old])
        return len(old)


_DELETE_UPDATE = sa.delete(schema.update).where(schema.update.c.sequence == sa.bindparam("at"))
_DELETE_TOPIC = sa.delete(schema.topic).where(
    schema.topic.c.topic_hash == sa.bindparam("hashed"), schema.topic.c.sequence == sa.bindparam("at")
)


@contextlib.contextmanager
def _writing(connection: sa.Connection) -> Iterator[None]:
    """A transaction that takes the write lock at once, so that it cannot fail half-way for want of it."""
    connection.info["writing"] = True
    try:
        with connection.begin():
            yield
    finally:
        connection.info.pop("writing", None)


def _return_space(connection: sa.Connection) -> None:
    """Give some free pages back to the file system."""
    driver: Any = connection.connection.driver_connection
    # Each step of this statement frees one page and returns a row without columns, so that execute()
    # takes one step only (fetchall() takes the others from Python 3.12 on). A script runs to its end.
    driver.executescript(f"PRAGMA incremental_vacuum({_PAGES_TO_RETURN})").close()


def _begin_sqlite(connection: sa.Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.info.get("writing") else "BEGIN")


def _configure_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # transactions are begun by _begin_sqlite
    cursor = connection.cursor()
    for pragma in (
        "auto_vacuum = INCREMENTAL",  # counts when the file is created
        "busy_timeout = 5000",
        "journal_mode = WAL",
        "synchronous = FULL",
        "journal_size_limit = 16777216",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _entry(row: Any) -> Entry:
    return Entry(
        row.sequence,
        Update(tuple(json.loads(row.topics)), row.data.decode(), row.id, row.private, row.type, row.retry),
    )


def _reason(error: Exception) -> str:
    """The database's own words; SQLAlchemy's would add the statement and its values."""
    cause = getattr(error, "orig", None)
    return str(cause if cause is not None else error).splitlines()[0]
