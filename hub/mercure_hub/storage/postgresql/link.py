"""The link to a PostgreSQL database that several machines share.

Each append is one statement in one round trip: the lock on the position is the turn to write, and it is never
held across a round trip. psycopg runs it without SQLAlchemy, which would double its cost.
"""

from __future__ import annotations

import contextlib
import logging
import select
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any
from uuid import UUID, uuid4

import psycopg

from mercure_hub.protocol.errors import StorageAway, StorageError, StorageInDoubt, StorageUnusable
from mercure_hub.protocol.revocation import Revocation
from mercure_hub.storage import trimming
from mercure_hub.storage.address import Address
from mercure_hub.storage.doorbell import Bell
from mercure_hub.storage.encoding import topic_hash
from mercure_hub.storage.interface import (
    LEASE,
    RESUMPTION,
    AlreadyStored,
    Batch,
    Beginning,
    Entry,
    LeaseLost,
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
from mercure_hub.storage.postgresql import by_rules, statements
from mercure_hub.storage.postgresql.appending import STORED, append_of
from mercure_hub.storage.postgresql.connection import (
    Connection,
    Connector,
    blobs,
    is_answer,
    is_away,
    texts,
)
from mercure_hub.storage.postgresql.reading import Reader, following, is_storable
from mercure_hub.storage.postgresql.retention import Trimmer
from mercure_hub.storage.postgresql.schema import CHANNEL, migrate

_NOT_IN_SYNC = ("off", "local")
_ISOLATIONS = ("read committed", "read uncommitted")  # the same in PostgreSQL
_OF_VALUES = ("22", "54")  # classes of errors: data exceptions, limits of the program
_LOOKUPS = 4  # connections for reading at once
_IS_ANOTHER = "was restarted, or another server has taken over"

_log = logging.getLogger("mercure_hub.storage")


class PostgresqlLink:
    """Implements ``Link`` for PostgreSQL.

    :param address: of the database.
    :param kept: how much history to keep.
    :param follows: whether ``wait`` will be called.
    :param ahead: seconds by which the server's clock counts as fast, for tests.
    """

    oldest_server = 130000
    """The oldest version that is known to work: PostgreSQL 13."""
    discard_interval = 1.0
    """Seconds between two looks for what is too old."""
    listen_patience = 3.0
    """Seconds after which NOTIFY counts as not arriving: a busy machine may take one."""
    poll_interval = 0.05
    """Seconds after which ``wait`` returns where NOTIFY does not arrive."""

    def __init__(
        self,
        address: Address,
        kept: Retention,
        *,
        follows: bool = True,
        ahead: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self._address = address
        self._kept = kept
        self._follows = follows
        self._ahead = ahead
        self._connector = Connector(address.url, address.shown)
        self._reader = Reader(self._connector, _LOOKUPS)
        self._trimmer = Trimmer(kept, ahead)
        self._discarded_at = float("-inf")  # monotonic time
        self._resumed_at = float("-inf")  # when the own lease was renewed that had ended
        self._has_events = False
        self._adopted: list[bytes] = []  # hashes of keys, by a commit that was not answered
        self._node = uuid4()
        # Of the server that was written to, and of that which was read: each sees for itself when it changes.
        self._written: float | None = None
        self._read: float | None = None
        self._known = 0  # the newest sequence that was stored or read
        self._writer: Connection | None = None
        self._follower: Connection | None = None
        self._ear: Connection | None = None
        self._bell = Bell()
        self._is_open = False
        self._names_server = False
        self._needs_sync = False  # the server's commits are not synchronous by default

    @property
    def name(self) -> str:
        """The database in words, without credentials."""
        return self._address.shown

    @property
    def node(self) -> str:
        """A random UUID."""
        return str(self._node)

    @property
    def is_relaxed(self) -> bool:
        """Whether the URL allows a server that may lose what it has acknowledged."""
        return self._address.is_relaxed

    def open(self) -> None:
        """Check the server, bring the tables up to date, register, and find out whether NOTIFY arrives."""
        writer = self._writer = self._connector.connect()
        try:
            self._check_server(writer)
            self._find_sessions(writer)
            migrate(writer)
            by_rules.declare(writer, self._trimmer.rules)
            ((self._written, self._has_events),) = writer.ask(statements.START)
            self._read = self._written
            ((self._names_server,),) = writer.ask(statements.MAY_NAME_SERVER)
            self._register(writer)
            if self._follows and self._connector.has_sessions:
                self._ear = self._listening(CHANNEL)
            self._is_open = True
        except psycopg.Error as error:
            failure = self._connector.failure("opened", error)
            if isinstance(error, (psycopg.errors.InsufficientPrivilege, psycopg.errors.InvalidSchemaName)):
                role = writer.info.user
                self._disconnect()
                raise StorageUnusable(
                    f"{failure}; the role needs the rights to create tables in the schema and to use them: "
                    f"GRANT CREATE, USAGE ON SCHEMA public TO {role}, or make the role its owner"
                ) from None
            self._disconnect()
            raise failure from None
        except StorageError:
            self._disconnect()
            raise

    def _check_server(self, connection: Connection) -> None:
        """Refuse a server that is too old, or that loses what it has acknowledged."""
        version = connection.info.server_version
        if version < self.oldest_server:
            raise StorageUnusable(
                f"{self.name} is PostgreSQL {version // 10000}; the hub needs {self.oldest_server // 10000} "
                "or newer: upgrade the server"
            )
        ((encoding, fsync, commit),) = connection.ask(statements.SETTINGS)
        if encoding != "UTF8":
            raise StorageUnusable(
                f"{self.name} has the encoding {encoding}; create one with CREATE DATABASE ... "
                "ENCODING 'UTF8' TEMPLATE template0"
            )
        if self.is_relaxed:
            return
        if fsync != "on":
            raise StorageUnusable(
                f"{self.name} has fsync={fsync}: a crash would lose updates that were acknowledged; set "
                "fsync=on, or accept this with durability=relaxed in MERCURE_TRANSPORT_URL"
            )
        if commit in _NOT_IN_SYNC:
            self._needs_sync = True
            self._connector.settings["synchronous_commit"] = "on"

    def _find_sessions(self, writer: Connection) -> None:
        """Find out whether NOTIFY arrives: behind a pooler that shares sessions, it does not."""
        channel = f"{CHANNEL}_{self._node.hex}"  # not the usual one: the session may pass to others
        ear = self._listening(channel)
        try:
            writer.ask("SELECT pg_notify(%(channel)s, '')", {"channel": channel})
            end = time.monotonic() + self.listen_patience
            is_heard = False
            while not is_heard and (left := end - time.monotonic()) > 0:
                poller = select.poll()
                poller.register(ear.pgconn.socket, select.POLLIN)
                poller.poll(left * 1000)
                is_heard = bool(ear.heard())
        finally:
            ear.close()
        self._connector.has_sessions = is_heard
        if is_heard:
            self._connector.configure(writer)
        else:
            _log.warning(
                "%s: NOTIFY does not arrive, as behind PgBouncer with pool_mode=transaction; the hub looks "
                "for new updates %d times a second instead, and prepares no statements: connect to the "
                "server itself, or set pool_mode=session",
                self.name,
                1 / self.poll_interval,
            )
            ((isolation,),) = writer.ask("SHOW default_transaction_isolation")
            if isolation not in _ISOLATIONS:
                raise StorageUnusable(
                    f"{self.name} has default_transaction_isolation={isolation}, with which one hub refuses "
                    "updates while another one stores some: set it to 'read committed' for the role or the "
                    "database, or connect to the server itself"
                )

    def _register(self, connection: Connection) -> None:
        connection.ask(statements.REGISTER, {"node": self._node, "expires": self._ahead() + LEASE})

    # -- writing ---------------------------------------------------------------------------------

    def turn(self) -> AbstractContextManager[None]:
        """Do nothing: the server orders appends."""
        return nullcontext()

    def why_waiting(self, seconds: float) -> StorageError:
        """Say that the server does not answer."""
        return StorageError(f"{self.name} has not answered for {seconds:.0f} s")

    def append(self, batch: Batch) -> int:
        """Store a batch with one statement."""
        return self._append(batch, 0)

    def _append(self, batch: Batch, compared: int) -> int:
        """Store a batch.

        :param compared: as in ``append_of``.
        """
        try:
            statement, values = append_of(
                batch, compared=compared, in_sync=self._needs_sync and not self._connector.has_sessions
            )
        except (ValueError, TypeError, OverflowError) as error:
            raise Unstorable(f"{self.name} cannot be written: {error}") from None
        values.update(node=self._node, incarnation=self._written, known=self._known, ahead=self._ahead())
        connection = self._writing()
        try:
            rows = connection.ask(statement, values)
        except psycopg.Error as error:
            raise self._append_failure(connection, error) from None
        first: int = rows[0][0] if rows else self._why_not_stored(batch, compared)
        self._known = max(self._known, first + len(batch.updates) - 1)
        self._has_events = self._has_events or any(batch.are_events)
        return first

    def _append_failure(self, connection: Connection, error: psycopg.Error) -> StorageError:
        failure = self._connector.failure("written", error)
        if is_answer(error):
            if (error.sqlstate or "")[:2] in _OF_VALUES:
                return Unstorable(failure.detail)
            if is_away(error):
                connection.close()  # a standby stays one; another attempt may find the primary
            return failure
        connection.close()
        if isinstance(error, (psycopg.DataError, psycopg.ProgrammingError)):
            return Unstorable(failure.detail)
        return StorageInDoubt(failure.detail)

    def _why_not_stored(self, batch: Batch, compared: int) -> int:
        """Find out why an append stored nothing.

        :returns: the first sequence of the batch, if it was stored before, or is now.
        """
        number = batch.number
        with self._writing_errors() as connection:
            rows = connection.ask(statements.STATE, {"node": self._node})
        newest, first, incarnation, last = rows[0] if rows else (None, None, None, None)
        if newest is None:
            raise LeaseLost(f"{self.name}: the lease of this process has expired")
        if newest >= number:
            if newest == number and first is not None:
                return int(first)
            raise StorageError(f"{self.name} cannot be written: batch {number} has been given up")
        if incarnation != self._written or last < self._known:
            self._written, self._known = incarnation, last
            self._trimmer = Trimmer(self._kept, self._ahead)  # what it discarded may be there again
            raise StorageAway(f"{self.name} {_IS_ANOTHER}")
        once = batch.once
        if not once or last <= compared:
            raise StorageError(f"{self.name} has not stored batch {number}")
        _, values = append_of(batch)
        with self._writing_errors() as connection:
            numbers = {row[0] for row in connection.ask(STORED, values)}
            stored = [position for position in once if position + 1 in numbers]
            if stored:  # write: this commit waits for replicas, which that of these updates may not have done
                connection.ask(statements.CLAIM, {"node": self._node, "number": number})
        if stored:
            raise AlreadyStored(stored)
        return self._append(batch, last)  # the ids are there with other content

    def outcome(self, number: int) -> int | None:
        """Claim the number, so that an append that is still on its way finds it taken."""
        values = {"node": self._node, "number": number}
        with self._writing_errors() as connection:
            connection.ask(statements.CLAIM, values)  # waits for an append that has begun
            rows = connection.ask(statements.OUTCOME, values)
        return None if not rows else rows[0][0]

    def renew(self) -> bool:
        """Extend the lease, or register under a new identity."""
        with self._writing_errors() as connection:
            ahead = self._ahead()
            values = {"node": self._node, "expires": ahead + LEASE, "ahead": ahead}
            rows = connection.ask(statements.RENEW, values)
            if rows:
                if rows[0][0]:
                    self._resumed_at = time.monotonic() + ahead
                return True
            self._node = uuid4()
            self._register(connection)
            return False

    def end_lease(self, node: str) -> None:
        """Let the lease of a node expire at once."""
        with self._reader.connection("written") as connection:
            connection.ask(statements.LEAVE, {"node": UUID(node)})

    def leave(self) -> None:
        """Let the lease expire, and forget the identity that it belongs to."""
        with self._writing_errors() as connection:
            connection.ask(statements.LEAVE, {"node": self._node})
        self._node = uuid4()

    def is_discard_due(self) -> bool:
        """Whether a second has passed since there was nothing more to discard."""
        if not (self._kept.is_bounded or self._has_events):
            return False
        return time.monotonic() - self._discarded_at >= self.discard_interval

    def discard(self) -> None:
        """Discard one step, unless another process does."""
        try:
            with self._writing_errors() as connection:
                discarded = self._trimmer.step(connection, self._node)
        except StorageError:
            self._discarded_at = time.monotonic()
            raise
        if discarded < trimming.STEP:
            self._discarded_at = time.monotonic()

    def trust_clock(self) -> None:
        """Do nothing: the server's clock is trusted."""

    def _writing(self) -> Connection:
        """The connection of the writer's thread."""
        connection = self._writer
        if connection is None or connection.is_stale():
            self._writer = None
            if connection is not None:
                connection.close()
                if self.is_relaxed:  # a server that has just recovered from a crash may have lost updates
                    raise StorageAway(f"{self.name} cannot be written: the connection was lost")
            connection = self._writer = self._connector.connect()
            self._trimmer = Trimmer(self._kept, self._ahead)  # maybe to a server that has discarded less
        return connection

    @contextlib.contextmanager
    def _writing_errors(self) -> Iterator[Connection]:
        connection = self._writing()
        try:
            yield connection
        except psycopg.Error as error:
            if is_away(error):
                connection.close()
            raise self._connector.failure("written", error) from None

    # -- following -------------------------------------------------------------------------------

    def wait(self, after: int, timeout: float) -> None:  # noqa: ARG002 - NOTIFY comes for everything
        """Wait for NOTIFY from another process."""
        if not self._connector.has_sessions:
            poller = select.poll()
            poller.register(self._bell, select.POLLIN)
            poller.poll(min(timeout, self.poll_interval) * 1000)
            self._bell.silence()
            return
        ear = self._ear
        if ear is None or ear.closed:
            self._ear = self._listening(CHANNEL)
            return  # what was stored meanwhile has woken nobody
        end = time.monotonic() + timeout
        poller = select.poll()
        poller.register(ear.pgconn.socket, select.POLLIN)
        poller.register(self._bell, select.POLLIN)
        try:
            while set(ear.heard()) <= {self._own_session()}:
                found = dict(poller.poll(max(end - time.monotonic(), 0.0) * 1000))
                if self._bell.fileno() in found or not found:
                    self._bell.silence()
                    return
        except psycopg.Error as error:
            ear.close()
            raise StorageAway(f"{self.name} cannot be listened to: {self._connector.reason(error)}") from None

    def _own_session(self) -> int:
        """Whose notifications are the own ones."""
        writer = self._writer
        return 0 if writer is None or writer.closed else writer.pgconn.backend_pid

    def _listening(self, channel: str) -> Connection:
        connection = self._connector.connect()
        try:
            connection.ask(f"LISTEN {channel}")
        except psycopg.Error as error:
            connection.close()
            raise self._connector.failure("listened to", error) from None
        return connection

    def interrupt(self) -> None:
        """Ring the own bell."""
        self._bell.ring()

    def after(self, sequence: int, limit: int, size: int) -> list[Entry]:
        """Read over a connection of its own, so that it waits for no reader."""
        connection = self._follower
        if connection is None or connection.closed:
            connection = self._follower = self._connector.connect()
        try:
            entries, incarnation = following(connection, sequence, limit, size)
        except psycopg.Error as error:
            connection.close()
            raise self._connector.failure("read", error) from None
        if entries:
            if incarnation != self._read:
                self._read = incarnation
                raise StorageAway(f"{self.name} {_IS_ANOTHER}")
            self._known = max(self._known, entries[-1].sequence)
        return entries

    # -- reading ---------------------------------------------------------------------------------

    @property
    def _position(self) -> str:
        return statements.POSITION_WITH_SERVER if self._names_server else statements.POSITION

    def position(self) -> Position:
        """The newest sequence, and the epoch."""
        with self._reader.connection() as connection:
            ((epoch, last),) = connection.ask(self._position)
            return Position(epoch, last)

    def id_at(self, sequence: int) -> str | None:
        """The id of one update."""
        with self._reader.connection() as connection:
            rows = connection.ask(statements.ID_AT, {"sequence": sequence})
            return rows[0][0] if rows else None

    def newest_update(self) -> str | None:
        """The id of the newest update of a publisher."""
        with self._reader.connection() as connection:
            rows = connection.ask(statements.NEWEST_UPDATE)
            return rows[0][0] if rows else None

    def resume(self, wanted: Sequence[Resume]) -> list[Resumed]:
        """Look up where subscribers go on."""
        return self._reader.resume(wanted)

    def beginning(self, upto: int, topics: Collection[str] | None = None) -> Beginning:
        """Where the history begins."""
        return self._reader.beginning(upto, topics)

    def read(self, after: int, upto: int, topics: Collection[str] | None, limit: int) -> Page:
        """Read a part of the history."""
        return self._reader.page(after, upto, topics, limit)

    def topics(self, after: int, upto: int, beyond: int | None, limit: int) -> TopicPage:
        """Topics in a part of the history."""
        return self._reader.topics(after, upto, beyond, limit)

    def newest_of(self, wanted: Sequence[tuple[str, int]], limit: int) -> list[Sequence[Outline]]:
        """The newest updates of topics."""
        return self._reader.newest_of(wanted, limit)

    def at(self, sequences: Sequence[int]) -> list[Entry]:
        """The entries with some sequences."""
        return self._reader.at(sequences)

    def others(self, value: str | None, beyond: str | None, limit: int) -> Records:
        """The records of other nodes."""
        values: dict[str, Any] = {"node": self._node, "beyond": beyond or "", "limit": limit}
        if any(one is not None and not is_storable(one) for one in (value, beyond)):
            return Records([], None)
        statement = statements.OTHERS
        if value is not None:
            statement = statements.OTHERS_OF_VALUE
            values.update(value=value, hash=topic_hash(value))
        with self._reader.connection() as connection:
            rows = connection.ask(statement, values)
        return Records([record for _, record in rows], rows[-1][0] if len(rows) == limit else None)

    def adopt(self, limit: int) -> list[str]:
        """Mark the nodes whose leases have expired as dead, and take their records.

        They are known before that is committed: if the answer to the commit is lost, the next call looks for
        them.
        """
        ahead = self._ahead()
        values = {"node": self._node, "ahead": ahead, "limit": limit}
        with self._reader.connection("written") as connection:
            if self._adopted:
                rows = connection.ask(statements.ADOPTED, {"hashes": blobs(self._adopted)})
                self._adopted = []
                found = [record for node, record in rows if node == self._node]
                if found:
                    return found
            ((has_expired, has_own_expired),) = connection.ask(statements.HAS_EXPIRED, values)
            if not has_expired:
                return []
            now = time.monotonic() + ahead
            if has_own_expired:
                self._resumed_at = now
            is_resuming = now < self._resumed_at + RESUMPTION
            connection.ask(statements.BURY, {**values, "only_left": is_resuming})
            connection.ask(statements.FORGET, values)
            with connection.transaction():
                rows = connection.ask(statements.ADOPT, values)
                self._adopted = [key_hash for key_hash, _ in rows]
            self._adopted = []
            return [record for _, record in rows]

    def revoke(self, revocations: Sequence[Revocation], now: float) -> None:
        """Write rows, in one transaction."""
        values = {
            "keys": blobs([one.key for one in revocations]),
            "names": blobs([one.name for one in revocations]),
            "topics": texts([one.topic for one in revocations]),
            "before": texts([repr(one.before) for one in revocations]),
            "until": texts([repr(one.until) for one in revocations]),
        }
        with self._reader.connection("written") as connection, connection.transaction():
            if self._needs_sync:
                connection.ask(statements.SYNCHRONOUS)
            connection.ask(statements.LOCK_REVOCATIONS)
            connection.ask(statements.DISCARD_REVOCATIONS, {"now": now})
            connection.ask(statements.REVOKE, values)

    def revocations(self, after: int, limit: int) -> Revoked:
        """Rows in the order of their versions."""
        with self._reader.connection() as connection:
            ((newest,),) = connection.ask(statements.NEWEST_REVOCATION)
            if newest == after:  # mostly
                return Revoked((), after, newest)
            rows = connection.ask(statements.REVOCATIONS, {"after": after, "limit": limit})
        return Revoked(
            [Revocation(*columns) for *columns, _ in rows], rows[-1][-1] if rows else after, newest
        )

    def size(self) -> Size:
        """Count by the first and the last sequence; the bytes are those of the tables' files."""
        with self._reader.connection() as connection:
            ((updates, size),) = connection.ask(statements.SIZE)
            return Size(updates, size)

    def check(self, *, by_writing: bool) -> None:
        """Read, or write the own row as it is."""
        with self._reader.connection("written" if by_writing else "read") as connection:
            connection.ask(
                statements.TOUCH if by_writing else statements.POSITION,
                {"node": self._node} if by_writing else None,
            )

    def close(self, *, is_writer_left: bool) -> None:
        """Let the lease expire, and close the connections."""
        is_away = self._writer is None or self._writer.closed  # then the attempt would take seconds
        if self._is_open and not is_away:
            with contextlib.suppress(StorageError), self._reader.connection("written") as connection:
                connection.ask(statements.LEAVE, {"node": self._node})
        self._is_open = False
        self._disconnect(is_writer_left=is_writer_left)
        self._bell.close()

    def _disconnect(self, *, is_writer_left: bool = False) -> None:
        for connection in (None if is_writer_left else self._writer, self._follower, self._ear):
            if connection is not None:
                connection.close()
        self._follower = self._ear = None
        self._reader.close()
