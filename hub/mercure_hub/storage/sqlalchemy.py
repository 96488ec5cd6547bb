"""The log in an SQL database, through SQLAlchemy Core.

One thread does all the writing. It takes whatever updates wait and commits them as one
transaction, so that a hundred publishers cost one fsync. Readers have connections of their own.

Several processes may be at work on one log. They take turns to write, by a lock on a file beside it,
and a doorbell tells the others to read what is new. Updates are collected in the order of the log
everywhere: who finds that others wrote before it has its own updates read from the log with theirs.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Generic, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from mercure_hub.protocol.errors import StorageError, StorageUnusable
from mercure_hub.protocol.update import Update
from mercure_hub.storage import presence
from mercure_hub.storage.append import Appender
from mercure_hub.storage.follower import Follower
from mercure_hub.storage.interface import GRACE, Beginning, Commit, Page, Presence, Retention, Size, TopicPage
from mercure_hub.storage.presence import Owed, PresenceWriter
from mercure_hub.storage.sqlite import reading, retention, schema
from mercure_hub.storage.sqlite.database import is_database, make_engine, migrate, reason, writing
from mercure_hub.storage.sqlite.files import (
    DatabaseFiles,
    check_file_system,
    close_to_others,
    is_writable,
    lock_path,
    make_file,
)
from mercure_hub.storage.sqlite.locks import BOUND, Doorbell, Seats, TurnTimeout
from mercure_hub.storage.sqlite.reading import Reader
from mercure_hub.storage.sqlite.retention import Trim, Trimmer, believed, look, since_boot

Ticket = TypeVar("Ticket")
_Waiting = tuple[Sequence[Update], Ticket, Presence | None]

_PATIENCE = 2.0  # seconds to wait for the turn before the log tells why
_LOOK = 0.5  # seconds between two looks at a writer that should end
_MAX_BATCH = 1000
_MAX_BATCH_CHARACTERS = 8 << 20
_TRIM_INTERVAL = 1.0
_MAX_COMMITS = 100
_LARGEST_NUMBER = 1 << 31  # of user_version, which nothing else uses

_log = logging.getLogger("mercure_hub.storage")


class _Abandoned(BaseException):
    """The log was closed while its writer waited for the turn."""


class SqlTransport(Generic[Ticket]):
    """A log in an SQL database.

    :param url: SQLAlchemy URL, for example ``sqlite:////var/lib/mercure/mercure.db``.
    :param kept: how much history to keep.
    :param clock: returns seconds since the epoch.
    :param doorbell: rings when another process on this log has written; ``None`` when there is no other.
    :param boot: returns seconds since the machine started, with those in which it slept.
    :param offset: by how much ``clock`` is ahead of ``boot`` where it is right; by default by as much as now.
    """

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
        self._url = sa.make_url(url)
        self._retention = kept
        self._trimmer = Trimmer(kept)
        self._clock = clock
        self._engine = make_engine(self._url)
        self._reader = Reader(self._engine)
        self._driver_error: type[Exception] = getattr(
            self._engine.dialect.loaded_dbapi, "Error", SQLAlchemyError
        )
        self._seats: Seats | None = None
        self._files = DatabaseFiles(None)
        self._waiting: queue.SimpleQueue[_Waiting[Ticket] | None] = queue.SimpleQueue()
        self._committed: deque[Commit[Ticket]] = deque()
        self._wake: Callable[[], None] = lambda: None
        self._caller_is_crowded: Callable[[], bool] = lambda: False
        self._writer = threading.Thread(target=self._run, name="mercure-log", daemon=True)
        self._follower: Follower[Ticket] | None = None
        if doorbell is not None:
            self._follower = Follower(
                self._engine, doorbell, self._hand_over, self._is_crowded, self._companions
            )
        self._trimmed_at = 0.0
        self._boot = boot
        self._belief = believed(clock() - boot() if offset is None else offset)
        self._is_clock_trusted = False
        self._owed = Owed()
        self._own: set[str] | None = set()  # keys of its presence, until that of the dead is told from it
        self._failure: StorageError | None = None
        self._is_closed = False
        self._claim = threading.Lock()  # for the next two
        self._waits_since: float | None = None  # monotonic time since when the writer waits for the turn
        self._claimable: list[_Waiting[Ticket]] = []  # what it will write then
        self._has_events = False

    @property
    def _discards(self) -> bool:
        """Whether something in the log may get too old."""
        return self._retention.is_bounded or self._has_events

    @property
    def place(self) -> str:
        """The database in words, without credentials."""
        return self._url.render_as_string(hide_password=True)

    def open(
        self, wake: Callable[[], None], is_crowded: Callable[[], bool] = lambda: False
    ) -> tuple[int, str | None]:
        """Bring the tables of the database up to date, take a seat and start the writer."""
        self._wake, self._caller_is_crowded = wake, is_crowded
        self._seats = self._prepare()
        if self._is_closed:  # while this waited for the turn
            raise StorageError(f"the database {self.place} was closed")
        self._files = DatabaseFiles(self._url)
        newest = self.newest()
        with self._reading() as connection:
            self._has_events = (
                connection.scalar(sa.select(schema.update.c.sequence).where(schema.is_event).limit(1))
                is not None
            )
        self._writer.start()
        if self._follower is not None:
            self._follower.start(newest[0])
        return newest

    def _prepare(self) -> Seats:
        seats: Seats | None = None
        try:
            check_file_system(self._url)
            make_file(self._url)
            self._engine.connect().close()  # first: it says best what is wrong with the folder
            seats = Seats(lock_path(self._url))
            with self._noticed_turn(seats), self._engine.connect() as connection, writing(connection):
                migrate(connection)
                seats.take()  # in one turn with it: who works on the database meanwhile needs to know of us
            close_to_others(self._url)
        except (SQLAlchemyError, OSError, StorageError) as error:
            self._engine.dispose()
            if seats is not None:
                seats.close()
            if isinstance(error, StorageError):
                raise
            failure = self._error("opened", error)
            kind = StorageError if is_writable(self._url) and is_database(error) else StorageUnusable
            raise kind(f"{failure}; check the path and who may write there") from None
        return seats

    @contextlib.contextmanager
    def _noticed_turn(self, seats: Seats) -> Iterator[None]:
        """The turn; while it does not come, the log tells why."""

        def tell() -> None:
            _log.warning("the hub waits to open its database: %s", seats.why_no_turn(_PATIENCE))

        notice = threading.Timer(_PATIENCE, tell)
        notice.daemon = True
        notice.start()
        try:
            with seats.turn():
                notice.cancel()
                yield
        finally:
            notice.cancel()

    def append(self, updates: Sequence[Update], ticket: Ticket, presence: Presence | None = None) -> None:
        """Queue updates for one transaction of the writer."""
        self._waiting.put((updates, ticket, presence))

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

    def newest_update(self) -> str | None:
        """Id of the newest update of a publisher."""
        table = schema.update
        with self._reading() as connection:
            found: str | None = connection.scalar(
                sa.select(table.c.id).where(~schema.is_event).order_by(table.c.sequence.desc()).limit(1)
            )
            return found

    def find(self, event_id: str) -> int | None:
        """Sequence of the earliest update with an id."""
        with self._read_errors():
            return self._reader.find(event_id)

    def beginning(self, upto: int) -> Beginning:
        """Where the log begins."""
        with self._read_errors():
            return self._reader.beginning(upto)

    def read(self, after: int, upto: int, topics: Collection[str] | None, limit: int) -> Page:
        """Read a part of the log."""
        with self._read_errors():
            return self._reader.page(after, upto, topics, limit)

    def topics(self, after: int, upto: int, beyond: int | None, limit: int) -> TopicPage:
        """Topics of the updates in a part of the log."""
        with self._reading() as connection:
            return reading.topics(connection, after, upto, beyond, limit)

    def trust_clock(self) -> None:
        """Discard by the wall clock as it is now: somebody has looked after it."""
        self._is_clock_trusted = True

    def catch_up(self) -> None:
        """Have everything collected that other processes have written by now."""
        if self._follower is not None:
            self._follower.catch_up()

    def others(self) -> list[str]:
        """The records of the subscriptions that other processes have."""
        with self._reading() as connection:
            return presence.others(connection, self._seat)

    def adopt(self) -> list[str]:
        """Take over the subscriptions of processes that died."""
        if self._seats is None:
            return []
        try:
            with (
                self._engine.connect() as connection,
                self._seats.turn_within(BOUND),
                self._same_files(connection),
                writing(connection),
            ):
                records = presence.adopt(connection, self._seats, self._own)
        except (SQLAlchemyError, OSError) as error:
            raise self._error("written", error) from None
        self._own = None
        return records

    @property
    def _seat(self) -> int:
        return -1 if self._seats is None else self._seats.own

    def size(self) -> Size:
        """How much history there is: updates are numbered, so two look-ups tell; see ``Size``."""
        with self._reading() as connection:
            updates = retention.count(connection)
            if self._url.get_backend_name() != "sqlite":
                return Size(updates)
            used, page = (
                int(connection.exec_driver_sql(f"PRAGMA {name}").scalar_one())
                for name in ("page_count", "page_size")
            )
            return Size(updates, used * page)

    def check(self) -> None:
        """Raise ``StorageError`` when the log cannot be read, or cannot be written after a failure."""
        if not self._writer.is_alive():
            raise StorageError(f"the writer of {self.place} has stopped")
        self._files.check()
        late = self._late(time.monotonic())
        if late is not None:
            raise late
        if self._failure is None:
            self.newest()
        else:
            self._try_to_write()

    def _try_to_write(self) -> None:
        """Nobody may publish to a hub that reports a failure: it has to find out itself that it is over."""
        table = schema.position
        try:
            with (
                self._engine.connect() as connection,
                contextlib.nullcontext() if self._seats is None else self._seats.turn_within(_PATIENCE),
                self._same_files(connection),
                writing(connection),
            ):
                connection.execute(sa.update(table).values(last_sequence=table.c.last_sequence))
                _change_something(connection)
        except (SQLAlchemyError, OSError) as error:
            raise self._error("written", error) from None
        self._failure = None

    def expire(self, now: float) -> None:
        """Answer publications for which the turn does not come. Presence stays, and is written when it does.

        The writer itself goes on waiting: nothing breaks off the wait for a lock.
        """
        with self._claim:
            failure = self._late(now)
            if failure is None:
                return
            tickets = [ticket for _, ticket, change in self._claimable if change is None]
            self._claimable[:] = [one for one in self._claimable if one[2] is not None]
            for _ in range(self._waiting.qsize()):
                one = self._waiting.get_nowait()
                if one is None or one[2] is not None:
                    self._waiting.put(one)
                else:
                    tickets.append(one[1])
        if self._failure is None and not tickets:
            _log.error("%s", failure)
        self._failure = failure
        if tickets:
            self._hand_over(Commit((), tickets, failure))

    def _late(self, now: float) -> StorageError | None:
        since = self._waits_since
        if since is None or self._seats is None or now - since < BOUND:
            return None
        return self._error("written", TurnTimeout(self._seats.why_no_turn(now - since)))

    def close(self) -> None:
        """Commit what is queued and close the connections.

        A writer for which the turn does not come is left behind: it ends with the process, or at its turn.
        """
        self._is_closed = True
        self._waiting.put(None)
        is_late = False
        while self._writer.is_alive() and not is_late:
            self._writer.join(_LOOK)
            is_late = self._late(time.monotonic()) is not None
        if self._follower is not None:
            self._follower.close()
        self._reader.close()
        self._engine.dispose()
        if not is_late:
            self._files.close()
            if self._seats is not None:
                self._seats.close()

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sa.Connection]:
        with self._read_errors(), self._engine.connect() as connection:
            yield connection

    @contextlib.contextmanager
    def _read_errors(self) -> Iterator[None]:
        try:
            yield
        except (SQLAlchemyError, self._driver_error) as error:
            raise self._error("read", error) from error

    def _error(self, participle: str, error: Exception) -> StorageError:
        return StorageError(f"the database {self.place} cannot be {participle}: {reason(error)}")

    # What follows runs in the writer's thread.

    def _run(self) -> None:
        with contextlib.suppress(_Abandoned):
            self._write()

    def _write(self) -> None:
        connection: sa.Connection | None = None
        pens: tuple[Appender, PresenceWriter] | None = None
        more = True
        while more:
            batch: list[_Waiting[Ticket]] = []
            try:
                is_restless = self._discards or self._owed
                first = self._waiting.get(timeout=_TRIM_INTERVAL if is_restless else None)
                more = first is not None
                if first is not None:
                    batch.append(first)
            except queue.Empty:
                pass
            try:
                if connection is None or pens is None:
                    connection = self._engine.connect()
                    driver = connection.connection.driver_connection
                    pens = Appender(self._engine, driver), PresenceWriter(self._engine, self._seat)
                if batch or self._owed:
                    more = self._commit(connection, *pens, batch) and more
            except Exception as error:  # whatever it is: this thread must live on
                self._fail(batch, error)
            else:
                self._trim(connection)
        if connection is not None:
            connection.close()

    def _fill(self, batch: list[_Waiting[Ticket]]) -> bool:
        """Add whatever waits, up to a limit.

        :returns: whether there will be more.
        """
        count = sum(len(updates) for updates, _, _ in batch)
        characters = sum(_characters(updates) for updates, _, _ in batch)
        try:
            while count < _MAX_BATCH and characters < _MAX_BATCH_CHARACTERS:
                waiting = self._waiting.get_nowait()
                if waiting is None:
                    return False
                batch.append(waiting)
                count += len(waiting[0])
                characters += _characters(waiting[0])
        except queue.Empty:
            pass
        return True

    def _commit(
        self,
        connection: sa.Connection,
        appender: Appender,
        present: PresenceWriter,
        batch: list[_Waiting[Ticket]],
    ) -> bool:
        more = True
        owed = self._owed.take()
        try:
            with self._turn_to_write(connection, batch):
                more = self._fill(batch)  # now, for more has come while another process wrote
                if not batch and not owed:
                    return more
                everything = [*owed, *((updates, change) for updates, _, change in batch)]
                changes = [change for _, change in everything if change is not None]
                entries = appender.append(
                    [update for updates, _ in everything for update in updates],
                    self._clock(),
                    (lambda cursor: present.write(cursor, changes)) if changes else None,
                    [change is not None for updates, change in everything for _ in updates],
                )
                self._has_events = self._has_events or bool(changes)
                if self._own is not None:
                    self._own.update(change.key for change in changes)
        except Exception as error:  # whatever it is: this thread must live on
            for updates, change in owed if self._is_passing(error) else ():
                self._owed.add(updates, change)
            self._fail(batch, error)
            return more
        self._failure = None
        tickets = [ticket for _, ticket, _ in batch]
        if self._follower is None:
            self._hand_over(Commit(entries, tickets))
        else:
            self._follower.committed(entries, tickets)
        return more

    def _hand_over(self, commit: Commit[Ticket]) -> None:
        self._committed.append(commit)
        self._wake()

    def _is_crowded(self) -> bool:
        """Whether the caller has more to do than it should have: what others wrote can wait."""
        return self._caller_is_crowded() or len(self._committed) > _MAX_COMMITS

    def _companions(self) -> int:
        return 0 if self._seats is None else self._seats.others()

    @contextlib.contextmanager
    def _turn_to_write(self, connection: sa.Connection, batch: list[_Waiting[Ticket]]) -> Iterator[None]:
        """Wait for the turn, and hold it; what is written is there after a restart, or this raises.

        :param connection: writes, and is in no transaction.
        :param batch: will be written; while the turn does not come, ``expire`` may take something away.
        :raises StorageError: a file of the database is not what it was.
        """
        if self._seats is None:
            with self._same_files(connection):
                yield
            return
        with self._claim:
            self._claimable, self._waits_since = batch, time.monotonic()
        try:
            with self._seats.turn():
                with self._claim:
                    has_come_late = self._is_closed and self._late(time.monotonic()) is not None
                    self._claimable, self._waits_since = [], None
                if has_come_late:  # everything else that this thread needs may be closed
                    connection.invalidate()
                    raise _Abandoned
                with self._same_files(connection):
                    yield
        finally:
            self._claimable, self._waits_since = [], None

    @contextlib.contextmanager
    def _same_files(self, connection: sa.Connection) -> Iterator[None]:
        """What is written in here is there after a restart, or this raises.

        :param connection: writes, and is in no transaction.
        :raises StorageError: a file of the database is not what it was.
        """
        self._files.check_before(connection.connection.driver_connection)  # type: ignore[arg-type]
        yield
        self._files.check_after()

    def _fail(self, batch: Sequence[_Waiting[Ticket]], error: Exception) -> None:
        is_known = self._failure is not None
        # Not read again: a health check in another thread may clear it, and None would acknowledge the batch.
        failure = self._failure = self._error("written", error)
        # Whoever waits is told, and logs who that was. What is tried again and again is told once.
        if not is_known and all(ticket is None for _, ticket, _ in batch):
            _log.error("%s", failure)
        if batch:
            for updates, _, change in batch if self._is_passing(error) else ():
                if change is not None:
                    self._owed.add(updates, change)
            self._hand_over(Commit((), [ticket for _, ticket, _ in batch], failure))

    def _is_passing(self, error: Exception) -> bool:
        """Whether something else than the values that should be stored is to blame: a full disk, a lock."""
        names = ("DataError", "IntegrityError", "InterfaceError", "ProgrammingError")
        of_values = [getattr(self._engine.dialect.loaded_dbapi, name, ValueError) for name in names]
        return not isinstance(error, (ValueError, TypeError, OverflowError, *of_values))

    def _trim(self, connection: sa.Connection) -> None:
        """Discard one step of what is too old; the next step comes after the next batch."""
        now = self._clock()
        if not self._discards:
            return
        allowed = self._allowed(now)
        if allowed is Trim.NOTHING or abs(now - self._trimmed_at) < _TRIM_INTERVAL:
            return
        try:
            grace = GRACE if self._companions() else 0.0
            with self._turn_to_write(connection, []), writing(connection):
                discarded = self._trimmer.step(connection, now, grace, by_age=allowed is Trim.ALL)
            if discarded < retention.STEP:
                self._trimmed_at = now
            if self._url.get_backend_name() == "sqlite":
                retention.return_space(connection)
        except Exception as error:
            self._trimmed_at = now
            self._trimmer = Trimmer(self._retention)  # what it discarded is there again
            self._fail((), error)

    def _allowed(self, now: float) -> Trim:
        """What may be discarded: while the clock is doubted, nothing by its age."""
        boot = self._boot()
        before = self._belief
        if self._is_clock_trusted:
            self._is_clock_trusted = False
            before = believed(now - boot)
        self._belief = look(before, now, boot)
        if self._belief.doubted_since is None:
            if before.doubted_since is not None:
                _log.info("updates are discarded by their age again")
        elif self._belief.doubted_since != before.doubted_since:
            _log.error(
                "the clock was set by %+.0f s; for an hour no updates are discarded by their age: "
                "correct the clock, or reload the hub (SIGHUP) if it is right now",
                self._belief.seen - self._belief.believed,
            )
        return self._belief.allows(boot, GRACE)


def _change_something(connection: sa.Connection) -> None:
    """Have a transaction write a page: for a value that stays the same SQLite writes nothing."""
    if connection.dialect.name == "sqlite":
        number = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
        connection.exec_driver_sql(f"PRAGMA user_version = {(number + 1) % _LARGEST_NUMBER}")


def _characters(updates: Sequence[Update]) -> int:
    return sum(len(update.data) for update in updates)
