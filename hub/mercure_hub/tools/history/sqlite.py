"""The history in a database of SQLite, and what only such a one needs: vacuum and backup."""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from mercure_hub.protocol.errors import StorageError
from mercure_hub.protocol.revocation import MAX_REVOCATIONS, Revocation
from mercure_hub.protocol.update import Update
from mercure_hub.storage.encoding import decoded_topics, encoded_topics, topic_hash
from mercure_hub.storage.interface import GRACE
from mercure_hub.storage.sqlite import by_rules, retention
from mercure_hub.storage.sqlite.database import check_version, migrate, path_of, reason, version_of
from mercure_hub.storage.sqlite.files import check_file_system, lock_path, make_file
from mercure_hub.storage.sqlite.locks import BOUND, Seats
from mercure_hub.storage.sqlite.schema import KNOWS_EVENTS, KNOWS_RULES, REVOCATIONS, has_table
from mercure_hub.tools.history import tables
from mercure_hub.tools.history.history import (
    EXAMPLES,
    PAGE,
    HistoryError,
    Marks,
    Progress,
    Row,
    Selection,
    at_work,
    topic_named,
)
from mercure_hub.tools.history.tables import driver_of, make_engine, writing

_ROWS = 20  # rows in memory: an update can have a mebibyte
_CACHE = 64 << 10  # KiB of the index of topics in memory: rows go to random places in it
_UPDATE, _POSITION, _TOPIC = tables.update, tables.position, tables.topic
_NOTHING = sa.literal("").label("data")
_ROW = [_UPDATE.c[name] for name in ("sequence", "id", "topics", "private", "type", "retry", "published_at")]


class SqliteHistory:
    """Implements ``History``.

    :param engine: of the database.
    :param path: of its file.
    :param seats: tells who else is at work, and gives the turn to write.
    :param version: of its tables.
    """

    def __init__(self, engine: sa.Engine, path: Path, seats: Seats, version: int) -> None:
        self.engine, self.path, self.seats, self.version = engine, path, seats, version
        self._knows_events = version >= KNOWS_EVENTS

    @property
    def name(self) -> str:
        """The path of the file."""
        return repr(str(self.path))

    def hubs(self) -> int:
        """Those that have a seat."""
        return self.seats.others()

    def grace(self) -> float:
        """Half a minute while a hub is at work."""
        return GRACE if self.seats.others() else 0.0

    def now(self) -> float:
        """The time of this machine."""
        return time.time()

    def marks(self) -> Marks:
        """The row of the position; what rules discarded counts as gone from the beginning."""
        with self.engine.connect() as connection:
            marks = self._marks(connection)
            if self.version < KNOWS_RULES:
                return marks
            gone = by_rules.newest_gone(driver_of(connection))
            return replace(marks, updates_gone=max(marks.updates_gone, gone))

    def _marks(self, connection: sa.Connection) -> Marks:
        columns = [_POSITION.c.last_sequence]
        if self._knows_events:
            columns += [_POSITION.c.events, _POSITION.c.updates_gone, _POSITION.c.events_gone]
        row = connection.execute(sa.select(*columns)).first()
        return Marks() if row is None else Marks(*row)

    @property
    def _of_publishers(self) -> list[sa.ColumnElement[bool]]:
        """What is true of the updates of publishers; older tables do not tell the hub's own events apart."""
        return [~tables.is_event] if self._knows_events else []

    def page(
        self, after: int, upto: int, selection: Selection, *, is_backward: bool = False, has_data: bool = True
    ) -> Iterator[Row]:
        """One statement; a longer transaction would keep the write-ahead log from being emptied."""
        columns = [*_ROW, _UPDATE.c.data if has_data else _NOTHING]
        if self._knows_events:
            columns += [_UPDATE.c.events_before, _UPDATE.c.event_bytes]
        sequence = _UPDATE.c.sequence
        page = (
            sa.select(*columns)
            .where(*self._conditions(selection), sequence > after, sequence <= upto)
            .order_by(sequence.desc() if is_backward else sequence)
            .limit(PAGE)
        )
        with self.engine.connect() as connection:
            for row in connection.execution_options(yield_per=_ROWS).execute(page):
                yield _row(row)

    def _conditions(self, selection: Selection) -> list[sa.ColumnElement[bool]]:
        """What the database can decide itself."""
        found: list[sa.ColumnElement[bool]] = []
        if selection.since is not None:
            found.append(_UPDATE.c.published_at >= selection.since)
        if selection.until is not None:
            found.append(_UPDATE.c.published_at < selection.until)
        if not selection.names_topics:
            return found if selection.has_events else found + self._of_publishers
        if not selection.patterns:
            hashes = [topic_hash(topic) for topic in selection.topics]
            places = sa.select(_TOPIC.c.sequence).where(_TOPIC.c.topic_hash.in_(hashes))
            found.append(_UPDATE.c.sequence.in_(places))
        return found

    def revocations(self) -> list[Revocation]:
        """One statement; tables of before know none."""
        with self.engine.connect() as connection:
            driver = driver_of(connection)
            if not has_table(driver, "mercure_revocation"):
                return []
            rows = driver.execute(REVOCATIONS, (0, MAX_REVOCATIONS)).fetchall()
        return [Revocation(*columns) for *columns, _ in rows]

    def delete(self, rows: Sequence[Row]) -> int:
        """Discard updates in one transaction."""
        with self._turn() as connection:
            keys = [_Key(row.sequence, encoded_topics(row.update.topics)) for row in rows]
            gone = retention.delete(driver_of(connection), keys)
            if self.version >= KNOWS_RULES:
                by_rules.unassign(driver_of(connection), [row.sequence for row in rows])
            if self._knows_events:
                retention.note_beginning(driver_of(connection))
            return gone

    @contextmanager
    def _turn(self) -> Iterator[sa.Connection]:
        """A transaction that writes, while no other process does.

        :raises OSError: another one does for too long.
        """
        with self.seats.turn_within(BOUND), self.engine.connect() as connection, writing(connection):
            yield connection

    @contextmanager
    def writing(self) -> Iterator[SqliteWriter]:
        """Have the turn all the time: a hub that starts waits."""
        with self.seats.turn_within(BOUND), self.engine.connect() as connection:
            if self.seats.others():
                raise at_work(self.name, "stop it before, or publish them")
            writer = SqliteWriter(connection)
            try:
                yield writer
                writer.commit()
            finally:
                writer.close()

    def statistics(self, top: int) -> dict[str, Any]:
        """Count in one consistent reading."""
        with self.engine.connect() as connection, connection.begin():
            count, size, private, first, last = connection.execute(
                sa.select(
                    sa.func.count(),
                    sa.func.coalesce(sa.func.sum(sa.func.length(_UPDATE.c.data)), 0),
                    sa.func.count().filter(_UPDATE.c.private),
                    sa.func.min(_UPDATE.c.sequence),
                    sa.func.max(_UPDATE.c.sequence),
                ).where(*self._of_publishers)
            ).one()
            events, event_bytes = _events(connection) if self._knows_events else (0, 0)
            marks = self._marks(connection)
            return {
                "database": str(self.path),
                "version": self.version,
                "hubs": self.seats.others(),
                "updates": count,
                "bytes": size,
                "private": private,
                "ever_published": marks.last - marks.events,
                "subscription_events": events,
                "subscription_event_bytes": event_bytes,
                "oldest": _ends(connection, first),
                "newest": _ends(connection, last),
                "sizes": _sizes(connection, self.path),
                "topics": [_topic(connection, hashed, found) for hashed, found in _most(connection, top)],
            }

    def return_space(self) -> None:
        """Give free pages back to the file system, some at a time."""
        with self.engine.connect() as connection:
            driver = driver_of(connection)
            free = _free_pages(driver)
            while free:
                with self.seats.turn_within(BOUND):
                    driver.executescript(f"PRAGMA incremental_vacuum({_RETURNED})").close()
                left = _free_pages(driver)
                if left >= free:  # a file that was made without that possibility
                    break
                free = left
            _checkpoint(driver)


class _Key(NamedTuple):
    """What ``retention.delete`` takes."""

    sequence: int
    topics: str


def _row(columns: Sequence[Any]) -> Row:
    sequence, id_, topics, private, type_, retry, published_at, data, *rest = columns
    text = data if isinstance(data, str) else data.decode()
    update = Update(decoded_topics(topics), text, id_, bool(private), type_, retry)
    return Row(sequence, update, published_at, *rest)


class SqliteWriter:
    """Implements ``Writer``.

    :param connection: that the transactions are of.
    """

    is_atomic = True

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection
        connection.exec_driver_sql(f"PRAGMA cache_size = -{_CACHE}")
        connection.rollback()
        connection.info["writing"] = True
        self._marks = Marks(
            *connection.execute(
                sa.select(
                    *(_POSITION.c.last_sequence, _POSITION.c.events),
                    *(_POSITION.c.updates_gone, _POSITION.c.events_gone),
                )
            ).one()
        )
        self._first = self._marks.last

    @property
    def marks(self) -> Marks:
        """Where the history ends and begins."""
        return self._marks

    def known(self, ids: Collection[str]) -> set[str]:
        """Look ids up."""
        there = sa.select(_UPDATE.c.id).where(_UPDATE.c.id.in_(ids), _UPDATE.c.sequence <= self._first)
        return set(self._connection.scalars(there))

    def store(self, rows: Sequence[Row], marks: Marks) -> None:
        """Insert rows."""
        if rows:
            self._connection.execute(
                sa.insert(_UPDATE),
                [
                    {
                        "sequence": row.sequence,
                        "id": row.update.id,
                        "topics": encoded_topics(row.update.topics),
                        "data": row.update.data.encode(),
                        "private": row.update.private,
                        "type": row.update.type,
                        "retry": row.update.retry,
                        "published_at": row.published_at,
                        "events_before": row.events_before,
                        "event_bytes": row.event_bytes,
                    }
                    for row in rows
                ],
            )
            self._connection.execute(
                sa.insert(_TOPIC),
                [
                    {"topic_hash": hashed, "sequence": row.sequence}
                    for row in rows
                    for hashed in {topic_hash(topic) for topic in row.update.topics}
                ],
            )
        self._connection.execute(
            sa.update(_POSITION).values(
                last_sequence=marks.last,
                events=marks.events,
                updates_gone=marks.updates_gone,
                events_gone=marks.events_gone,
            )
        )
        self._marks = marks

    def commit(self) -> None:
        """Commit the transaction; the next statement begins another."""
        self._connection.commit()

    def close(self) -> None:
        """Roll back what was not committed."""
        self._connection.rollback()
        self._connection.info.pop("writing", None)


@contextmanager
def opened(url: str, *, is_made: bool = False) -> Iterator[SqliteHistory]:
    """Open a history for one command.

    :param url: of the database.
    :param is_made: make the file if it is missing, and bring its tables up to date.
    :raises HistoryError: there is none, or it is something else.
    :raises StorageError: it cannot be read or written.
    """
    name = path_of(url)
    path = Path(name)
    if not is_made and not path.is_file():
        raise HistoryError(f"there is no database {str(path)!r}; name it with --transport-url")
    check_file_system(name)
    engine = make_engine(name)
    if is_made:
        make_file(name)
    try:
        with engine.connect() as connection:
            version = version_of(driver_of(connection))
        if version is None and not is_made:
            raise HistoryError(f"{str(path)!r} is a database, but not one of mercure-hub")
        if version is not None:
            check_version(version)
        with closing(_seats(path, lock_path(name))) as seats:
            if is_made:
                with seats.turn_within(BOUND), engine.connect() as connection, writing(connection):
                    version = migrate(driver_of(connection))
            yield SqliteHistory(engine, path, seats, version or 0)
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


def _events(connection: sa.Connection) -> tuple[int, int]:
    """How many events of the hub there are, and the size of their data."""
    count, size = connection.execute(
        sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(sa.func.length(_UPDATE.c.data)), 0)).where(
            tables.is_event
        )
    ).one()
    return count, size


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
        sa.select(_UPDATE.c.topics).where(_UPDATE.c.sequence.in_(of_topic)).limit(EXAMPLES)
    )
    return {"topic": topic_named(hashed, examples), "updates": count, "bytes": size or 0}


_PAGES = 2000  # of a step of the copy
_RETURNED = 1000  # free pages in one transaction


def backup(history: SqliteHistory, target: Path, progress: Progress) -> int:
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


def _copy(history: SqliteHistory, part: Path, progress: Progress) -> None:
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


def vacuum(history: SqliteHistory) -> tuple[int, int]:
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


def _free_pages(driver: sqlite3.Connection) -> int:
    return int(driver.execute("PRAGMA freelist_count").fetchone()[0])


def _checkpoint(driver: sqlite3.Connection) -> None:
    """Move the write-ahead log into the file; where readers are in the way, the hub does it later."""
    with suppress(sqlite3.OperationalError):
        driver.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def _sizes(connection: sa.Connection, path: Path) -> dict[str, int]:
    """Bytes of the file and of its write-ahead log, and of the free pages in the file."""
    page: int = connection.exec_driver_sql("PRAGMA page_size").scalar_one()
    free: int = connection.exec_driver_sql("PRAGMA freelist_count").scalar_one()
    wal = Path(f"{path}-wal")
    return {
        "file": path.stat().st_size,
        "wal": wal.stat().st_size if wal.exists() else 0,
        "free": page * free,
    }
