"""The stored updates as the commands use them: selection, statistics, pruning, copies, free space."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from mercure_hub.protocol.errors import MercureError, StorageError
from mercure_hub.protocol.matching.matcher import Matcher
from mercure_hub.storage.encoding import topic_hash
from mercure_hub.storage.interface import GRACE
from mercure_hub.storage.sqlite import retention, schema
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
class History:
    """The history of a hub, opened for a command.

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
        """The sequence of the newest update ever."""
        with self.engine.connect() as connection:
            return connection.scalar(sa.select(schema.position.c.last_sequence)) or 0


@contextmanager
def opened(url: str, *, create: bool = False) -> Iterator[History]:
    """Open a history for one command.

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
            yield History(engine, path, seats, version or 0)
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


_PAGE = 1000  # rows of one transaction: a long one would keep the write-ahead log from being emptied
_ROWS = 20  # rows in memory: an update can have a mebibyte
KEYS = ("sequence", "id", "topics", "data", "private", "type", "retry", "published_at")
"""What a line has: columns of the table of updates."""
_UPDATE = schema.update
_EXPORTED = [_UPDATE.c[name] for name in KEYS]
_TOPIC = schema.topic


@dataclass(frozen=True, slots=True)
class Selection:
    """Updates by topic and time.

    :param topics: one of these, exactly.
    :param patterns: or matched by one of these; without topics and patterns all of publishers are meant.
    :param since: published at this time or later, in seconds since the epoch.
    :param until: published before this time.
    """

    topics: frozenset[str] = frozenset()
    patterns: Sequence[Matcher] = ()
    since: float | None = None
    until: float | None = None

    def matches(self, topics: Sequence[str]) -> bool:
        """Whether an update with these topics is meant."""
        if not self.topics and not self.patterns:
            return True
        if not self.topics.isdisjoint(topics):
            return True
        return any(pattern.matches(topic) for pattern in self.patterns for topic in topics)

    def where(self) -> list[sa.ColumnElement[bool]]:
        """What the database can decide itself."""
        found: list[sa.ColumnElement[bool]] = []
        if self.since is not None:
            found.append(_UPDATE.c.published_at >= self.since)
        if self.until is not None:
            found.append(_UPDATE.c.published_at < self.until)
        if self.topics and not self.patterns:
            hashes = [topic_hash(topic) for topic in self.topics]
            places = sa.select(_TOPIC.c.sequence).where(_TOPIC.c.topic_hash.in_(hashes))
            found.append(_UPDATE.c.sequence.in_(places))
        return found


EVERYTHING = Selection()


def select(
    history: History,
    selection: Selection,
    columns: Sequence[sa.Column[Any]] = (),
    *,
    newest_first: bool = False,
) -> Iterator[Any]:
    """The rows of the updates that are meant, up to the newest one of now.

    :param columns: of the table of updates, besides sequence and topics; by default all that are exported.
    """
    wanted = [_UPDATE.c.sequence, _UPDATE.c.topics, *columns] if columns else _EXPORTED
    meant = selection.where()
    if not selection.topics and not selection.patterns:
        meant += history.of_publishers
    statement = sa.select(*wanted).where(*meant).limit(_PAGE)
    sequence = _UPDATE.c.sequence
    reached, upto = 0, history.last_sequence()
    while True:
        if newest_first:
            page = statement.where(sequence <= upto).order_by(sequence.desc())
        else:
            page = statement.where(sequence > reached, sequence <= upto).order_by(sequence)
        count = 0
        with history.engine.connect() as connection:
            for row in connection.execution_options(yield_per=_ROWS).execute(page):
                count += 1
                if newest_first:
                    upto = row.sequence - 1
                else:
                    reached = row.sequence
                if selection.matches(json.loads(row.topics)):
                    yield row
        if count < _PAGE:
            return


_POSITION = schema.position
_EXAMPLES = 20  # updates looked at to find the name of a topic of which only the hash is known


def statistics(history: History, top: int) -> dict[str, Any]:
    """The statistics of a history, in one consistent reading.

    :param top: topics with the most updates, as many as this.
    :returns: a JSON document; times in seconds since the epoch.
    """
    with history.engine.connect() as connection, connection.begin():
        count, size, private, first, last = connection.execute(
            sa.select(
                sa.func.count(),
                sa.func.coalesce(sa.func.sum(sa.func.length(_UPDATE.c.data)), 0),
                sa.func.count().filter(_UPDATE.c.private),
                sa.func.min(_UPDATE.c.sequence),
                sa.func.max(_UPDATE.c.sequence),
            ).where(*history.of_publishers)
        ).one()
        events, event_bytes, events_ever = _events(connection) if history.of_publishers else (0, 0, 0)
        return {
            "database": str(history.path),
            "version": history.version,
            "hubs": history.seats.others(),
            "updates": count,
            "bytes": size,
            "private": private,
            "ever_published": (connection.scalar(sa.select(_POSITION.c.last_sequence)) or 0) - events_ever,
            "subscription_events": events,
            "subscription_event_bytes": event_bytes,
            "oldest": _ends(connection, first),
            "newest": _ends(connection, last),
            "sizes": sizes(connection, history.path),
            "topics": [_topic(connection, hashed, found) for hashed, found in _most(connection, top)],
        }


def _events(connection: sa.Connection) -> tuple[int, int, int]:
    """How many events of the hub there are, the size of their data, and how many there ever were."""
    count, size = connection.execute(
        sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(sa.func.length(_UPDATE.c.data)), 0)).where(
            schema.is_event
        )
    ).one()
    return count, size, connection.scalar(sa.select(_POSITION.c.events)) or 0


def _ends(connection: sa.Connection, sequence: int | None) -> dict[str, Any] | None:
    if sequence is None:
        return None
    row = connection.execute(
        sa.select(_UPDATE.c.id, _UPDATE.c.published_at).where(_UPDATE.c.sequence == sequence)
    ).one()
    return {"id": row.id, "published_at": row.published_at}


def _most(connection: sa.Connection, top: int) -> list[tuple[int, int]]:
    """Hashes of topics and their numbers of updates; the index is in the order of the hashes."""
    number = sa.func.count().label("number")
    statement = (
        sa.select(_TOPIC.c.topic_hash, number)
        .group_by(_TOPIC.c.topic_hash)
        .order_by(number.desc(), _TOPIC.c.topic_hash)
        .limit(top)
    )
    return [(hashed, count) for hashed, count in connection.execute(statement)]


def _topic(connection: sa.Connection, hashed: int, count: int) -> dict[str, Any]:
    of_topic = sa.select(_TOPIC.c.sequence).where(_TOPIC.c.topic_hash == hashed)
    size = connection.scalar(
        sa.select(sa.func.sum(sa.func.length(_UPDATE.c.data))).where(_UPDATE.c.sequence.in_(of_topic))
    )
    examples = connection.scalars(
        sa.select(_UPDATE.c.topics).where(_UPDATE.c.sequence.in_(of_topic)).limit(_EXAMPLES)
    )
    names = (name for topics in examples for name in json.loads(topics))
    name = next((name for name in names if topic_hash(name) == hashed), "?")
    return {"topic": name, "updates": count, "bytes": size or 0}


_PAGES = 2000  # of a step of the copy
_RETURNED = 1000  # free pages in one transaction


def backup(history: History, target: Path, progress: Progress) -> int:
    """Copy the history as it is at one moment, and check the copy.

    The copy reads in one transaction, so that no publication makes it start over, and gets its name only
    when it is whole.

    :param target: path of the copy; nothing may be there.
    :param progress: takes how many of a hundred parts are done.
    :returns: its size in bytes.
    :raises HistoryError: there is something, no space, or the copy is damaged.
    """
    part = target.with_name(target.name + ".part")
    for path in (target, part):
        if os.path.lexists(path):
            raise HistoryError(f"{str(path)!r} is there already; name another path, or remove it")
    try:
        mode = history.path.stat().st_mode & 0o660 | 0o600  # who is in a group that may read the database
        os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode))
    except OSError as error:
        raise HistoryError(f"{str(target)!r} cannot be written: {error.strerror}") from None
    try:
        _copy(history, part, progress)
        _give_name(part, target)
    except sqlite3.Error as error:
        raise HistoryError(
            f"{str(history.path)!r} cannot be copied to {str(target)!r}: {reason(error)}"
        ) from None
    finally:
        for suffix in ("", "-wal", "-shm", "-journal"):
            Path(f"{part}{suffix}").unlink(missing_ok=True)
    return target.stat().st_size


def _copy(history: History, part: Path, progress: Progress) -> None:
    def tell(_status: int, remaining: int, total: int) -> None:
        progress(100 * (total - remaining) // max(total, 1))

    with (
        closing(sqlite3.connect(history.path, timeout=5, isolation_level=None)) as source,
        closing(sqlite3.connect(part, isolation_level=None)) as copy,
    ):
        source.execute("BEGIN")
        source.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        source.backup(copy, pages=_PAGES, progress=tell)
        source.execute("COMMIT")
        # One file to carry away, without -wal beside it; the hub turns it back when it opens it.
        copy.execute("PRAGMA journal_mode = DELETE")
        found = copy.execute("PRAGMA integrity_check(1)").fetchone()[0]
        if found != "ok":
            raise HistoryError(
                f"the copy is damaged, and with it probably {str(history.path)!r}: {found}; nothing was kept"
            )


def _give_name(part: Path, target: Path) -> None:
    with part.open("rb") as written:
        os.fsync(written.fileno())
    try:
        os.link(part, target)  # unlike a renaming, it never replaces what came there meanwhile
    except FileExistsError:
        raise HistoryError(f"{str(target)!r} is there already; name another path") from None
    except OSError:  # a file system without links
        part.rename(target)
    folder = os.open(target.absolute().parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def vacuum(history: History) -> tuple[int, int]:
    """Rewrite the file without its free pages. Publications wait meanwhile.

    :returns: bytes before and after.
    :raises HistoryError: there is not enough space on the disk.
    """
    before = history.path.stat().st_size
    free = shutil.disk_usage(history.path.absolute().parent).free
    if free < 2 * before:
        raise HistoryError(
            f"this needs up to {2 * before} bytes beside the database, and {free} are free; history prune "
            "gives back space without"
        )
    with history.seats.turn_within(BOUND), history.engine.connect() as connection:
        driver = connection.connection.driver_connection
        assert isinstance(driver, sqlite3.Connection)
        driver.execute("VACUUM").close()
        _checkpoint(driver)
    return before, history.path.stat().st_size


def return_space(history: History) -> None:
    """Give free pages back to the file system, some at a time."""
    with history.engine.connect() as connection:
        driver = connection.connection.driver_connection
        assert isinstance(driver, sqlite3.Connection)
        free = _free_pages(driver)
        while free:
            with history.seats.turn_within(BOUND):
                driver.executescript(f"PRAGMA incremental_vacuum({_RETURNED})").close()
            left = _free_pages(driver)
            if left >= free:  # a file that was made without that possibility
                break
            free = left
        _checkpoint(driver)


def _free_pages(driver: sqlite3.Connection) -> int:
    return int(driver.execute("PRAGMA freelist_count").fetchone()[0])


def _checkpoint(driver: sqlite3.Connection) -> None:
    """Move the write-ahead log into the file; where readers are in the way, the hub does it later."""
    with suppress(sqlite3.OperationalError):
        driver.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def sizes(connection: sa.Connection, path: Path) -> dict[str, int]:
    """Bytes of the file and of its write-ahead log, and of the free pages in the file."""
    page: int = connection.exec_driver_sql("PRAGMA page_size").scalar_one()
    free: int = connection.exec_driver_sql("PRAGMA freelist_count").scalar_one()
    wal = Path(f"{path}-wal")
    return {
        "file": path.stat().st_size,
        "wal": wal.stat().st_size if wal.exists() else 0,
        "free": page * free,
    }


_COLUMNS = (schema.update.c.published_at,)


def prune(
    history: History,
    selection: Selection,
    keep: int,
    now: float,
    progress: Progress,
    *,
    only_count: bool = False,
) -> int:
    """Discard updates.

    What is younger than half a minute stays while a hub is at work: its processes read it here.

    :param keep: the newest of the selected ones stay, as many as this.
    :param now: seconds since the epoch.
    :param only_count: discard nothing.
    :returns: how many are gone.
    """
    boundary = _boundary(history, selection, keep)
    gone = 0
    step: list[Any] = []
    for row in select(history, selection, _COLUMNS):
        if row.sequence > boundary:
            break
        step.append(row)
        if len(step) == retention.STEP:
            gone += _discard(history, step, now, only_count=only_count)
            step = []
            progress(gone)
    gone += _discard(history, step, now, only_count=only_count)
    if gone and not only_count:
        return_space(history)
    return gone


def _boundary(history: History, selection: Selection, keep: int) -> int:
    """The sequence of the newest update that goes, 0 if none does."""
    for number, row in enumerate(select(history, selection, _COLUMNS, newest_first=True)):
        if number == keep:
            return int(row.sequence)
    return 0


def _discard(history: History, rows: list[Any], now: float, *, only_count: bool) -> int:
    grace = GRACE if history.seats.others() else 0.0
    old = [row for row in rows if not now - grace < row.published_at <= now]
    if old and not only_count:
        with history.writing() as connection:
            gone = retention.delete(connection, old)
            if history.of_publishers:
                retention.note_beginning(connection)
            return gone
    return len(old)
