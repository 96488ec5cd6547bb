"""The link to an SQLite database that the processes of one machine share.

Writers take turns by a lock on a file beside the database; a bell wakes the others.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sqlite3
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager

from mercure_hub.protocol.errors import StorageError, StorageUnusable
from mercure_hub.protocol.revocation import Revocation
from mercure_hub.protocol.update import Update
from mercure_hub.storage import trimming
from mercure_hub.storage.doorbell import Bell, Doorbell
from mercure_hub.storage.encoding import encoded_topics, topic_hash
from mercure_hub.storage.interface import (
    GRACE,
    MOST_COMPARED,
    AlreadyStored,
    Batch,
    Beginning,
    Entry,
    Outline,
    Page,
    Position,
    Records,
    Resume,
    Resumed,
    Retention,
    Revoked,
    Size,
    TopicPage,
    Unstorable,
)
from mercure_hub.storage.sqlite import by_rules, retention, schema
from mercure_hub.storage.sqlite.database import Database, is_database, migrate, path_of, reason, writing
from mercure_hub.storage.sqlite.files import (
    DatabaseFiles,
    check_file_system,
    close_to_others,
    is_writable,
    lock_path,
    make_file,
    obstacle,
)
from mercure_hub.storage.sqlite.locks import Seats
from mercure_hub.storage.sqlite.reading import Reader
from mercure_hub.storage.sqlite.retention import ClockWatch, Trim, Trimmer, since_boot

_ROWS = (64, 16, 4, 1)  # inserted by one statement
_LARGEST_NUMBER = 1 << 31  # of user_version, which nothing else uses
_OF_VALUES = (sqlite3.DataError, sqlite3.IntegrityError, sqlite3.InterfaceError, sqlite3.ProgrammingError)
_ERRORS = (sqlite3.Error, OSError)

_log = logging.getLogger("mercure_hub.storage")


class SqliteLink:
    """Implements ``Link`` for SQLite.

    :param url: of the database, for example ``sqlite:////var/lib/mercure/mercure.db``.
    :param kept: how much history to keep.
    :param clock: returns seconds since the epoch.
    :param doorbell: wakes the other processes of this hub and is rung by them; ``None`` when there are none.
    :param boot: returns seconds since the machine started, including sleep.
    :param offset: by how much ``clock`` is ahead of ``boot`` when it is right; by default by as much as now.
    """

    turn_timeout = 3.0
    """Seconds that ``adopt`` waits for the turn to write."""
    patience = 2.0
    """Seconds that ``check`` waits for it, and ``open`` before the log tells why."""
    discard_interval = 1.0
    """Seconds between two looks for what is too old."""
    blind_interval = 0.05
    """Seconds after which ``wait`` returns while a process is at work that does not ring, such as the hub
    that this one takes over from."""

    def __init__(
        self,
        url: str,
        kept: Retention,
        clock: Callable[[], float],
        doorbell: Doorbell | None = None,
        *,
        boot: Callable[[], float] = since_boot,
        offset: float | None = None,
    ) -> None:
        self._url = url
        self._path = path_of(url)
        self._kept = kept
        self._clock = clock
        self._watch = ClockWatch(clock, boot, offset)
        self._trimmer = Trimmer(kept)
        self._discarded_at = self._looked_at = 0.0
        self._has_events = False
        self._database = Database(self._path)
        self._reader = Reader(self._database, connections=3)
        self._follower = Reader(self._database, connections=1)
        self._appender: Appender | None = None
        self._own_bell: Bell | None = None
        if doorbell is None:
            self._own_bell = Bell()
            doorbell = Doorbell(self._own_bell, ())
        self._doorbell = doorbell
        self._seats: Seats | None = None
        self._files = DatabaseFiles(None)
        self._own: set[str] | None = set()  # keys of its presence, until that of the dead is told from it
        self._newest_batch = (0, 0)  # number and first sequence

    @property
    def name(self) -> str:
        """The database in words."""
        return f"the database {self._url}"

    @property
    def is_relaxed(self) -> bool:
        """Never: each commit is synchronous."""
        return False

    def open(self) -> None:
        """Check the file system, bring the tables up to date and take a seat."""
        seats: Seats | None = None
        writer: sqlite3.Connection | None = None
        try:
            check_file_system(self._path)
            make_file(self._path)
            writer = self._database.connect()  # first: its error says best what is wrong with the folder
            seats = Seats(lock_path(self._path))
            with self._noticed_turn(seats), writing(writer):
                migrate(writer)
                by_rules.declare(writer, self._trimmer.rules)
                seats.take()  # in the same turn: whoever works on the database meanwhile has to know of us
            close_to_others(self._path)
            self._seats, self._turn = seats, _Turn(seats, self._error)
            self._files = DatabaseFiles(self._path)
            first_event = "SELECT 1 FROM mercure_update WHERE event_bytes IS NOT NULL LIMIT 1"
            self._has_events = writer.execute(first_event).fetchone() is not None
            self._appender = Appender(writer, seats.own)
        except (*_ERRORS, StorageError) as error:
            if writer is not None:
                writer.close()
            if seats is not None:
                seats.close()
            if isinstance(error, StorageError):
                raise
            in_the_way = obstacle(self._path, self.name)
            if in_the_way is not None:
                raise StorageUnusable(in_the_way) from None
            failure = self._error("opened", error)
            kind = StorageError if is_writable(self._path) and is_database(error) else StorageUnusable
            raise kind(f"{failure}; check the path and who may write there") from None

    @contextlib.contextmanager
    def _noticed_turn(self, seats: Seats) -> Iterator[None]:
        """Take the turn; log a warning if that takes more than two seconds."""

        def warn() -> None:
            _log.warning("the hub waits to open its database: %s", seats.why_no_turn(self.patience))

        notice = threading.Timer(self.patience, warn)
        notice.daemon = True
        notice.start()
        try:
            with seats.turn():
                notice.cancel()
                yield
        finally:
            notice.cancel()

    # -- writing ---------------------------------------------------------------------------------

    def turn(self) -> AbstractContextManager[None]:
        """The lock on the lock file."""
        return self._turn

    def why_waiting(self, seconds: float) -> StorageError:
        """Name the process that has the lock."""
        return self._error("written", OSError(self._opened.why_no_turn(seconds)))

    def append(self, batch: Batch) -> int:
        """Store a batch in one transaction."""
        number, first = self._newest_batch
        if number == batch.number:
            return first
        try:
            writer = self._writer
            self._files.check_before(writer.driver)
            first = writer.append(batch, self._clock())
            self._files.check_after()
        except AlreadyStored:
            self._files.check_after()  # they are durable if these are the files
            raise
        except (ValueError, TypeError, OverflowError, *_OF_VALUES) as error:
            raise Unstorable(str(self._error("written", error))) from None
        except (*_ERRORS, StorageError) as error:
            raise self._error("written", error) from None
        self._newest_batch = batch.number, first
        self._doorbell.ring()
        if batch.presence:
            self._has_events = True
            own = self._own  # another thread may be in adopt()
            if own is not None:
                own.update(change.key for change in batch.presence)
        return first

    def outcome(self, number: int) -> int | None:
        """Repeat what ``append`` returned: SQLite leaves nothing in doubt."""
        newest, first = self._newest_batch
        return first if newest == number else None

    def renew(self) -> bool:
        """The lock on the seat tells that this process lives."""
        return True

    def leave(self) -> None:
        """Do nothing: the rows of this process are there as long as its seat is taken."""

    def is_discard_due(self) -> bool:
        """Whether a second has passed since there was nothing more to discard."""
        if not (self._kept.is_bounded or self._has_events):
            return False
        self._looked_at = self._clock()
        return abs(self._looked_at - self._discarded_at) >= self.discard_interval

    def discard(self) -> None:
        """Discard one step; not by age, or not at all, after the clock was set."""
        now = self._clock()
        allowed = self._watch.allowed()
        if allowed is Trim.NOTHING:
            self._discarded_at = self._looked_at
            return
        try:
            connection = self._writer.driver
            grace = GRACE if self._opened.others() else 0.0
            with self._same_files(connection), writing(connection):
                discarded = self._trimmer.step(connection, now, grace, by_age=allowed is Trim.ALL)
            if discarded < trimming.STEP:
                self._discarded_at = self._looked_at
            retention.return_space(connection)
        except (*_ERRORS, StorageError) as error:
            self._discarded_at = self._looked_at
            self._trimmer = Trimmer(self._kept)  # what it discarded is there again
            raise self._error("written", error) from None

    def trust_clock(self) -> None:
        """Discard by the wall clock as it is now."""
        self._watch.trust()

    @contextlib.contextmanager
    def _same_files(self, connection: sqlite3.Connection) -> Iterator[None]:
        """What is written in here is there after a restart, or this raises.

        :param connection: writes, and is in no transaction yet.
        """
        self._files.check_before(connection)
        yield
        self._files.check_after()

    # -- following -------------------------------------------------------------------------------

    def wait(self, after: int, timeout: float) -> None:  # noqa: ARG002 - the bell rings for everything
        """Wait for the doorbell; not for long while a process is at work that does not ring it."""
        self._doorbell.wait(min(timeout, self.blind_interval) if self._is_blind() else timeout)

    def _is_blind(self) -> bool:
        try:
            return self._opened.others() > self._doorbell.others
        except OSError:  # of the lock file: unknown for now
            return True

    def interrupt(self) -> None:
        """Ring the own doorbell."""
        self._doorbell.ring_own()

    def after(self, sequence: int, limit: int, size: int) -> list[Entry]:
        """Read from a connection of its own, so that it waits for no reader."""
        with self._read_errors():
            return self._follower.after(sequence, limit, size)

    # -- reading ---------------------------------------------------------------------------------

    def position(self) -> Position:
        """The newest sequence; the epoch is the identity of the file."""
        with self._read_errors():
            return Position(self._files.identity, self._reader.last())

    def id_at(self, sequence: int) -> str | None:
        """The id of one update."""
        with self._read_errors():
            return self._reader.id_at(sequence)

    def newest_update(self) -> str | None:
        """The id of the newest update of a publisher."""
        with self._reading() as connection:
            row = connection.execute(_NEWEST_UPDATE).fetchone()
            return None if row is None else str(row[0])

    def resume(self, wanted: Sequence[Resume]) -> list[Resumed]:
        """Look up where subscribers go on."""
        with self._read_errors():
            return [self._reader.resume(one) for one in wanted]

    def beginning(self, upto: int, topics: Collection[str] | None = None) -> Beginning:
        """Where the history begins."""
        with self._read_errors():
            return self._reader.beginning(upto, topics)

    def read(self, after: int, upto: int, topics: Collection[str] | None, limit: int) -> Page:
        """Read a part of the history."""
        with self._read_errors():
            return self._reader.page(after, upto, topics, limit)

    def topics(self, after: int, upto: int, beyond: int | None, limit: int) -> TopicPage:
        """Topics in a part of the history."""
        with self._read_errors():
            return self._reader.topics(after, upto, beyond, limit)

    def newest_of(self, wanted: Sequence[tuple[str, int]], limit: int) -> list[Sequence[Outline]]:
        """The newest updates of topics."""
        with self._read_errors():
            return self._reader.newest_of(wanted, limit)

    def at(self, sequences: Sequence[int]) -> list[Entry]:
        """The entries with some sequences."""
        with self._read_errors():
            return self._reader.at(sequences)

    def others(self, value: str | None, beyond: str | None, limit: int) -> Records:
        """The records with the seats of others."""
        statement = "SELECT key, record FROM mercure_presence WHERE seat <> ?"
        values: list[object] = [self._opened.own]
        if value is not None:
            statement += " AND (value = ? OR value IS NULL)"
            values.append(value)
        if beyond is not None:
            statement += " AND key > ?"
            values.append(beyond)
        statement += " ORDER BY key LIMIT ?"
        values.append(limit)
        with self._reading() as connection:
            rows = connection.execute(statement, values).fetchall()
            return Records([record for _, record in rows], rows[-1][0] if len(rows) == limit else None)

    def adopt(self, limit: int) -> list[str]:
        """Make rows of dead processes those of this one.

        A row with this process's seat is of a dead one too, unless this process wrote or adopted it.
        """
        own = self._own  # None: all that have its seat
        try:
            with self._database.reading() as connection:
                if not self._dead(connection):  # mostly; and to look needs no turn
                    self._own = None
                    return []
            with (
                self._database.connection() as connection,
                self._opened.turn_within(self.turn_timeout),
                self._same_files(connection),
                writing(connection),
            ):
                rows = [
                    row
                    for seat in self._dead(connection)
                    for row in connection.execute(
                        "SELECT key, record FROM mercure_presence WHERE seat = ? ORDER BY key", (seat,)
                    )
                ]
                taken = [row for row in rows if own is None or row[0] not in own][:limit]
                keys = [key for key, _ in taken]
                connection.executemany(
                    "UPDATE mercure_presence SET seat = ? WHERE key = ?",
                    [(self._opened.own, key) for key in keys],
                )
        except _ERRORS as error:
            raise self._error("written", error) from None
        if len(taken) < limit:
            self._own = None
        elif own is not None:
            own.update(keys)
        return [record for _, record in taken]

    def _dead(self, connection: sqlite3.Connection) -> list[int]:
        """The seats of dead processes that have rows, which may be the own one."""
        seats = self._opened
        known = connection.execute("SELECT DISTINCT seat FROM mercure_presence").fetchall()
        return [
            seat
            for (seat,) in known
            if (self._own is not None if seat == seats.own else not seats.is_taken(seat))
        ]

    def revoke(self, revocations: Sequence[Revocation], now: float) -> None:
        """Write rows, in one transaction."""
        try:
            with (
                self._database.connection() as connection,
                self._opened.turn_within(self.turn_timeout),
                self._same_files(connection),
                writing(connection),
            ):
                (version,) = connection.execute(_NEWEST_REVOCATION).fetchone()
                connection.execute(_DISCARD_REVOCATIONS, (now, version))
                connection.executemany(
                    _REVOKE,
                    [
                        (one.key, one.name, one.topic, one.before, one.until, version + number)
                        for number, one in enumerate(revocations, 1)
                    ],
                )
        except (*_ERRORS, StorageError) as error:
            raise self._error("written", error) from None

    def revocations(self, after: int, limit: int) -> Revoked:
        """Rows in the order of their versions."""
        with self._reading() as connection:
            (newest,) = connection.execute(_NEWEST_REVOCATION).fetchone()
            if newest == after:  # mostly
                return Revoked((), after, newest)
            rows = connection.execute(schema.REVOCATIONS, (after, limit)).fetchall()
        return Revoked(
            [Revocation(*columns) for *columns, _ in rows], rows[-1][-1] if rows else after, newest
        )

    def size(self) -> Size:
        """Count by the first and the last sequence; the bytes are those of the database's pages."""
        with self._reading() as connection:
            updates = retention.count(connection)
            pages, page = (
                int(connection.execute(f"PRAGMA {name}").fetchone()[0])
                for name in ("page_count", "page_size")
            )
            return Size(updates, pages * page)

    def check(self, *, by_writing: bool) -> None:
        """Look at the files, and read, or write as far as a commit."""
        self._files.check()
        if not by_writing:
            self.position()
            return
        try:
            with (
                self._database.connection() as connection,
                self._opened.turn_within(self.patience),
                self._same_files(connection),
                writing(connection),
            ):
                connection.execute("UPDATE mercure_position SET last_sequence = last_sequence")
                # SQLite writes no page for a value that stays the same.
                (number,) = connection.execute("PRAGMA user_version").fetchone()
                connection.execute(f"PRAGMA user_version = {(number + 1) % _LARGEST_NUMBER}")
        except _ERRORS as error:
            raise self._error("written", error) from None

    def close(self, *, is_writer_left: bool) -> None:
        """Close the connections; a writer that is left keeps the lock file."""
        if self._appender is not None:
            self._appender.driver.close()
            self._appender = None
        self._follower.close()
        self._reader.close()
        self._database.close()
        if not is_writer_left:
            self._files.close()
            if self._seats is not None:
                self._seats.close()
        if self._own_bell is not None:
            self._own_bell.close()

    @property
    def _opened(self) -> Seats:
        assert self._seats is not None, "the link is not open"
        return self._seats

    @property
    def _writer(self) -> Appender:
        assert self._appender is not None, "the link is not open"
        return self._appender

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._read_errors(), self._database.reading() as connection:
            yield connection

    @contextlib.contextmanager
    def _read_errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise self._error("read", error) from error

    def _error(self, participle: str, error: Exception) -> StorageError:
        return StorageError(f"{self.name} cannot be {participle}: {reason(error)}")


class _Turn:
    """The turn to write, as a context that costs less than a generator: each batch enters it."""

    def __init__(self, seats: Seats, failure: Callable[[str, Exception], StorageError]) -> None:
        self._seats = seats
        self._failure = failure

    def __enter__(self) -> None:
        try:
            self._seats.take_turn()
        except OSError as error:
            raise self._failure("written", error) from None

    def __exit__(self, *_: object) -> None:
        self._seats.return_turn()


class Appender:
    """Stores batches over one connection.

    :param connection: is used for nothing else meanwhile.
    :param seat: of this process, for its rows of presence.
    """

    def __init__(self, connection: sqlite3.Connection, seat: int) -> None:
        self.driver = connection
        self._cursor = connection.cursor()
        self._seat = seat
        self._position = (0, 0)  # last sequence and number of events, after its last batch
        self._is_alone = False  # nobody else wrote between the last two batches

    def append(self, batch: Batch, now: float) -> int:
        """Store a batch; when this returns it is durable.

        :param now: seconds since the epoch.
        :returns: the sequence of its first update.
        :raises AlreadyStored: see ``Link.append``.
        :raises Exception: of the driver; nothing is stored then.
        """
        cursor = self._cursor
        try:
            cursor.execute("BEGIN IMMEDIATE")
            position = last, events = self._advance(cursor, batch)
            first = last - len(batch.updates) + 1
            event_bytes = 0
            if batch.presence:
                events -= sum(batch.are_events)
                newest = cursor.execute(_EVENT_BYTES).fetchone()
                event_bytes = newest[0] if newest else 0
            rows: list[tuple[object, ...]] = []
            topic_rows: list[tuple[int, int]] = []
            sequence = first
            for update, is_event in zip(batch.updates, batch.are_events, strict=True):
                topics = update.topics
                encoded, data = encoded_topics(topics), update.data.encode()
                if is_event:
                    event_bytes += len(data) + len(encoded.encode())
                # fmt: off
                rows.append((
                    sequence, update.id, encoded, data, update.private, update.type, update.retry, now,
                    events, event_bytes if is_event else None,
                ))
                # fmt: on
                events += is_event
                if len(topics) == 1:
                    topic_rows.append((topic_hash(topics[0]), sequence))
                else:
                    topic_rows += [(hashed, sequence) for hashed in set(map(topic_hash, topics))]
                sequence += 1
            _insert(cursor, _INSERT_UPDATES, rows)
            _insert(cursor, _INSERT_TOPICS, topic_rows)
            for change in batch.presence:
                cursor.execute("DELETE FROM mercure_presence WHERE key = ?", (change.key,))
                if change.record is not None:
                    cursor.execute(_INSERT_PRESENCE, (change.key, self._seat, change.record, change.value))
            cursor.execute("COMMIT")
        except BaseException:
            self.driver.rollback()
            raise
        self._position = position
        return first

    def _advance(self, cursor: sqlite3.Cursor, batch: Batch) -> tuple[int, int]:
        """Count a batch in the position.

        :returns: the last sequence, and the number of events, with those of the batch.
        """
        count, more_events = len(batch.updates), sum(batch.are_events)
        before = self._position
        if not self._is_alone:
            before = cursor.execute("SELECT last_sequence, events FROM mercure_position").fetchone()
            self._is_alone = before == self._position
        after = before[0] + count, before[1] + more_events
        once = batch.once
        if once:
            # Looking for the ids costs least in a statement that has to be executed anyway.
            ids = [batch.updates[position].id for position in once]
            statement, wanted = (_ADVANCE_ONE, ids[0]) if len(ids) == 1 else (_ADVANCE_MANY, json.dumps(ids))
            if cursor.execute(statement, (*after, *before, wanted)).rowcount == 1:
                return after
            known = [position for position in once if _has(cursor, batch.updates[position])]
            if known:
                raise AlreadyStored(known)
        if cursor.execute(_ADVANCE, (*after, *before)).rowcount != 1:
            self._is_alone = False
            return self._advance(cursor, batch)
        return after


_ADVANCE = """
    UPDATE mercure_position SET last_sequence = ?, events = ? WHERE last_sequence = ? AND events = ?
"""
_ADVANCE_ONE = f"{_ADVANCE} AND NOT EXISTS (SELECT 1 FROM mercure_update WHERE id = ?)"  # noqa: S608 - constants
_ADVANCE_MANY = f"""
    {_ADVANCE} AND NOT EXISTS (SELECT 1 FROM mercure_update WHERE id IN (SELECT value FROM json_each(?)))
"""  # noqa: S608 - constants
_WITH_ID = f"""
    SELECT {", ".join(schema.ENTRY)} FROM mercure_update
    WHERE id = ? ORDER BY sequence DESC LIMIT {MOST_COMPARED}
"""  # noqa: S608 - constants
_EVENT_BYTES = """
    SELECT event_bytes FROM mercure_update WHERE event_bytes IS NOT NULL ORDER BY sequence DESC LIMIT 1
"""


_NEWEST_REVOCATION = "SELECT coalesce(max(version), 0) FROM mercure_revocation"
_DISCARD_REVOCATIONS = "DELETE FROM mercure_revocation WHERE kept_until < ? AND version < ?"
_REVOKE = """
    INSERT INTO mercure_revocation (key, name, topic, issued_before, kept_until, version)
    VALUES (?, ?, ?, ?, ?, ?)
    ON CONFLICT (key) DO UPDATE SET
        issued_before = max(issued_before, excluded.issued_before),
        kept_until = max(kept_until, excluded.kept_until),
        version = excluded.version
"""

_NEWEST_UPDATE = """
    SELECT id FROM (
        SELECT * FROM (
            SELECT sequence, id FROM mercure_update WHERE event_bytes IS NULL ORDER BY sequence DESC LIMIT 1
        ) UNION ALL SELECT * FROM (
            SELECT sequence, id FROM mercure_past ORDER BY sequence DESC LIMIT 1
        )
    ) ORDER BY sequence DESC LIMIT 1
"""


def _inserts(table: str) -> dict[int, str]:
    """Statements that insert a number of rows.

    SQLite's driver releases the interpreter lock for each step of a statement; with the event loop busy,
    getting it back takes longer than inserting the row.
    """
    columns = schema.COLUMNS[table]
    row = f"({', '.join('?' * len(columns))})"
    into = f"INSERT INTO {table} ({', '.join(columns)}) VALUES "  # noqa: S608 - constants
    return {size: into + ", ".join([row] * size) for size in _ROWS}


_INSERT_UPDATES = _inserts("mercure_update")
_INSERT_TOPICS = _inserts("mercure_topic")
_INSERT_PRESENCE = _inserts("mercure_presence")[1]


def _has(cursor: sqlite3.Cursor, update: Update) -> bool:
    """Whether an update that is to be stored once is there."""
    entries = map(schema.entry, cursor.execute(_WITH_ID, (update.id,)))
    return any(one.update == update and not one.is_event for one in entries)


def _insert(cursor: sqlite3.Cursor, statements: dict[int, str], rows: Sequence[tuple[object, ...]]) -> None:
    if len(rows) == 1:  # as for a single publisher
        cursor.execute(statements[1], rows[0])
        return
    start = 0
    for size, sql in statements.items():
        while len(rows) - start >= size:
            cursor.execute(sql, [value for row in rows[start : start + size] for value in row])
            start += size
