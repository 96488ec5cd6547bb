"""The link to a PostgreSQL database that several machines share.

A statement is a round trip, and each append is one statement: the row of the position is the turn to write, and
nobody holds it across a round trip. psycopg runs it without SQLAlchemy, which would double its cost.
"""

from __future__ import annotations

import contextlib
import os
import select
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from hashlib import blake2b
from typing import Any
from uuid import uuid4

import psycopg

from mercure_hub.protocol.errors import StorageAway, StorageError, StorageInDoubt, StorageUnusable
from mercure_hub.storage.address import Address
from mercure_hub.storage.encoding import encoded_topics, topic_hash
from mercure_hub.storage.interface import (
    LEASE,
    Batch,
    Beginning,
    Entry,
    LeaseLost,
    Page,
    Position,
    Presence,
    Records,
    Resume,
    Resumed,
    Retention,
    Size,
    TopicPage,
    Unstorable,
)
from mercure_hub.storage.postgresql import retention
from mercure_hub.storage.postgresql.connection import (
    Connection,
    Connector,
    bigints,
    blobs,
    bools,
    is_answer,
    is_away,
    texts,
)
from mercure_hub.storage.postgresql.reading import Reader, following, is_storable
from mercure_hub.storage.postgresql.retention import Trimmer
from mercure_hub.storage.postgresql.schema import CHANNEL, migrate

_OLDEST_SERVER = 130000  # PostgreSQL 13
_LISTEN_PATIENCE = 1.0  # seconds
_OF_VALUES = ("22", "54")  # classes of errors: data exceptions, limits of the program
_LOOKUPS = 4  # connections for reading at once


class PostgresqlLink:
    """Implements ``Link`` for PostgreSQL.

    :param address: of the database.
    :param kept: how much history to keep.
    :param ahead: seconds by which the server's clock counts as fast, for tests.
    """

    discard_interval = 1.0
    """Seconds between two looks for what is too old."""
    poll_interval = 0.05
    """Seconds after which ``wait`` returns where NOTIFY does not arrive."""

    def __init__(
        self, address: Address, kept: Retention, *, ahead: Callable[[], float] = lambda: 0.0
    ) -> None:
        self._address = address
        self._kept = kept
        self._ahead = ahead
        self._connector = Connector(address.url, address.shown)
        self._reader = Reader(self._connector, _LOOKUPS)
        self._trimmer = Trimmer(kept, ahead)
        self._discarded_at = float("-inf")  # monotonic time
        self._has_events = False
        self._node = uuid4()
        self._incarnation: object = None  # of the server: when it was started
        self._known = 0  # the newest sequence that was stored or read
        self._writer: Connection | None = None
        self._follower: Connection | None = None
        self._ear: Connection | None = None
        self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._is_open = False

    @property
    def name(self) -> str:
        """The database in words, without credentials."""
        return self._address.shown

    @property
    def is_relaxed(self) -> bool:
        """Whether the URL allows a server that may lose what it has acknowledged."""
        return self._address.is_relaxed

    def open(self) -> None:
        """Check the server, bring the tables up to date, register, and find out whether NOTIFY arrives."""
        try:
            writer = self._writer = self._connector.connect()
            self._check_server(writer)
            migrate(writer)
            ((self._incarnation,),) = writer.ask(_INCARNATION)
            ((self._has_events,),) = writer.ask(_HAS_EVENTS)
            self._register(writer)
            self._ear = self._listening()
            self._is_open = True
        except psycopg.Error as error:
            self._disconnect()
            failure = self._connector.failure("opened", error)
            if isinstance(error, psycopg.errors.InsufficientPrivilege):
                raise StorageUnusable(
                    f"{failure}; the role needs the rights to create tables in the schema, and to use them: "
                    "GRANT CREATE, USAGE ON SCHEMA public TO the role, or make it the owner of the database"
                ) from None
            raise failure from None
        except StorageError:
            self._disconnect()
            raise

    def _check_server(self, connection: Connection) -> None:
        """Refuse a server that is too old, or that loses what it has acknowledged."""
        version = connection.info.server_version
        if version < _OLDEST_SERVER:
            raise StorageUnusable(
                f"{self.name} is PostgreSQL {version // 10000}; the hub needs 13 at least: upgrade the server"
            )
        ((encoding, fsync, commit),) = connection.ask(_SETTINGS)
        if encoding != "UTF8":
            raise StorageUnusable(
                f"{self.name} has the encoding {encoding}; make one with CREATE DATABASE ... ENCODING 'UTF8' "
                "TEMPLATE template0"
            )
        if self.is_relaxed:
            return
        if fsync != "on":
            raise StorageUnusable(
                f"{self.name} has fsync={fsync}: a crash would lose updates that were acknowledged; set fsync=on, "
                "or accept that with durability=relaxed in the URL"
            )
        if commit in ("off", "local"):
            self._connector.settings["synchronous_commit"] = "on"
            connection.ask("SELECT set_config('synchronous_commit', 'on', false)")

    def _register(self, connection: Connection) -> None:
        connection.ask(_REGISTER, {"node": self._node, "expires": self._ahead() + LEASE})

    # -- writing ---------------------------------------------------------------------------------

    def turn(self) -> AbstractContextManager[None]:
        """Nothing: the server orders appends."""
        return nullcontext()

    def why_waiting(self, seconds: float) -> StorageError:
        """Say that the server does not answer."""
        return StorageError(f"{self.name} has not answered for {seconds:.0f} s")

    def append(self, batch: Batch) -> int:
        """Store a batch with one statement."""
        try:
            statement, values = _append_of(batch)
        except (ValueError, TypeError, OverflowError) as error:
            raise Unstorable(f"{self.name} cannot be written: {error}") from None
        values.update(node=self._node, incarnation=self._incarnation, known=self._known, ahead=self._ahead())
        connection = self._writing()
        try:
            rows = connection.ask(statement, values)
        except psycopg.Error as error:
            raise self._append_failure(connection, error) from None
        first: int = rows[0][0] if rows else self._why_not_stored(batch.number)
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

    def _why_not_stored(self, number: int) -> int:
        """Find out why an append stored nothing.

        :returns: the first sequence of the batch, if it was stored before.
        """
        with self._writing_errors() as connection:
            rows = connection.ask(_STATE, {"node": self._node})
        newest, first, incarnation, last = rows[0] if rows else (None, None, None, None)
        if newest is None:
            raise LeaseLost(f"{self.name} took this process for dead")
        if newest >= number:
            if newest == number and first is not None:
                return int(first)
            raise StorageError(f"{self.name} was told not to store this batch")
        if incarnation != self._incarnation or last < self._known:
            self._incarnation, self._known = incarnation, last
            raise StorageAway(f"{self.name} is on another server, or was restarted or replaced")
        raise StorageError(f"{self.name} has not stored a batch")

    def outcome(self, number: int) -> int | None:
        """Claim the number, so that an append that is still on its way finds it taken."""
        values = {"node": self._node, "number": number}
        with self._writing_errors() as connection:
            connection.ask(_CLAIM, values)  # waits for an append that has begun
            rows = connection.ask(_OUTCOME, values)
        return None if not rows else rows[0][0]

    def renew(self) -> bool:
        """Extend the lease, or register under a new identity."""
        with self._writing_errors() as connection:
            values = {"node": self._node, "expires": self._ahead() + LEASE}
            if connection.ask(_RENEW, values):
                return True
            self._node = uuid4()
            self._register(connection)
            return False

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
        if discarded < retention.STEP:
            self._discarded_at = time.monotonic()

    def trust_clock(self) -> None:
        """Nothing: the server's clock is trusted."""

    def _writing(self) -> Connection:
        """The connection of the writer's thread."""
        connection = self._writer
        if connection is None or connection.is_stale():
            if connection is not None:
                connection.close()
            connection = self._writer = self._connector.connect()
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
        if self._connector.is_pooled:
            poller = select.poll()
            poller.register(self._bell, select.POLLIN)
            poller.poll(min(timeout, self.poll_interval) * 1000)
            self._silence()
            return
        ear = self._ear
        if ear is None or ear.closed:
            self._ear = self._listening()
            return  # what was stored meanwhile rang nobody
        end = time.monotonic() + timeout
        try:
            while not _is_rung(ear, self._own_session()):
                poller = select.poll()
                poller.register(ear.pgconn.socket, select.POLLIN)
                poller.register(self._bell, select.POLLIN)
                found = dict(poller.poll(max(end - time.monotonic(), 0.0) * 1000))
                if self._bell in found or not found:
                    self._silence()
                    return
                ear.pgconn.consume_input()
        except psycopg.Error as error:
            ear.close()
            raise StorageAway(f"{self.name} cannot be listened to: {self._connector.reason(error)}") from None

    def _own_session(self) -> int:
        """Whose notifications are the own ones."""
        writer = self._writer
        return 0 if writer is None or writer.closed else writer.pgconn.backend_pid

    def _silence(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._bell)

    def _listening(self) -> Connection:
        connection = self._connector.connect()
        try:
            connection.ask(f"LISTEN {CHANNEL}")
        except psycopg.Error as error:
            connection.close()
            raise self._connector.failure("listened to", error) from None
        return connection

    def interrupt(self) -> None:
        """Ring the own bell."""
        os.eventfd_write(self._bell, 1)

    def after(self, sequence: int, limit: int, size: int) -> list[Entry]:
        """Read over a connection of its own, so that it waits for no reader."""
        connection = self._follower
        if connection is None or connection.closed:
            connection = self._follower = self._connector.connect()
        try:
            entries = following(connection, sequence, limit, size)
        except psycopg.Error as error:
            connection.close()
            raise self._connector.failure("read", error) from None
        if entries:
            self._known = max(self._known, entries[-1].sequence)
        return entries

    # -- reading ---------------------------------------------------------------------------------

    def position(self) -> Position:
        """The newest sequence, and the epoch."""
        with self._reader.connection() as connection:
            ((epoch, last),) = connection.ask(_POSITION)
            return Position(epoch, last)

    def id_at(self, sequence: int) -> str | None:
        """The id of one update."""
        with self._reader.connection() as connection:
            rows = connection.ask(_ID_AT, {"sequence": sequence})
            return rows[0][0] if rows else None

    def newest_update(self) -> str | None:
        """The id of the newest update of a publisher."""
        with self._reader.connection() as connection:
            rows = connection.ask(_NEWEST_UPDATE)
            return rows[0][0] if rows else None

    def resume(self, wanted: Sequence[Resume]) -> list[Resumed]:
        """Look up where subscribers go on."""
        return self._reader.resume(wanted)

    def beginning(self, upto: int) -> Beginning:
        """Where the history begins."""
        return self._reader.beginning(upto)

    def read(self, after: int, upto: int, topics: Collection[str] | None, limit: int) -> Page:
        """Read a part of the history."""
        return self._reader.page(after, upto, topics, limit)

    def topics(self, after: int, upto: int, beyond: int | None, limit: int) -> TopicPage:
        """Topics in a part of the history."""
        return self._reader.topics(after, upto, beyond, limit)

    def others(self, value: str | None, beyond: str | None, limit: int) -> Records:
        """The records of other nodes."""
        values: dict[str, Any] = {"node": self._node, "beyond": beyond or "", "limit": limit}
        if any(one is not None and not is_storable(one) for one in (value, beyond)):
            return Records([], None)
        statement = _OTHERS
        if value is not None:
            statement = _OTHERS_OF_VALUE
            values.update(value=value, hash=topic_hash(value))
        with self._reader.connection() as connection:
            rows = connection.ask(statement, values)
        return Records([record for _, record in rows], rows[-1][0] if len(rows) == limit else None)

    def adopt(self, limit: int) -> list[str]:
        """Bury the nodes whose leases have expired, and take their records."""
        values = {"node": self._node, "ahead": self._ahead(), "limit": limit}
        with self._reader.connection("written") as connection:
            ((has_expired,),) = connection.ask(_HAS_EXPIRED, values)
            if not has_expired:
                return []
            connection.ask(_BURY, values)
            connection.ask(_FORGET, values)
            return [record for (record,) in connection.ask(_ADOPT, values)]

    def size(self) -> Size:
        """Count by the first and the last sequence; the bytes are those of the tables' files."""
        with self._reader.connection() as connection:
            ((updates, size),) = connection.ask(_SIZE)
            return Size(updates, size)

    def check(self, *, by_writing: bool) -> None:
        """Read, or write the own row as it is."""
        with self._reader.connection("written" if by_writing else "read") as connection:
            connection.ask(_TOUCH if by_writing else _POSITION, {"node": self._node} if by_writing else None)

    def close(self, *, is_writer_left: bool) -> None:
        """Let the lease expire, and close the connections."""
        if self._is_open:
            self._is_open = False
            with contextlib.suppress(StorageError), self._reader.connection("written") as connection:
                connection.ask(_LEAVE, {"node": self._node})
        self._disconnect(is_writer_left=is_writer_left)
        if self._bell >= 0:
            os.close(self._bell)
            self._bell = -1

    def _disconnect(self, *, is_writer_left: bool = False) -> None:
        for connection in (None if is_writer_left else self._writer, self._follower, self._ear):
            if connection is not None:
                connection.close()
        self._follower = self._ear = None
        self._reader.close()


def _is_rung(ear: Connection, own: int) -> bool:
    """Whether another session has notified.

    :param own: the session whose notifications do not count.
    """
    is_rung = False
    while (notification := ear.pgconn.notifies()) is not None:
        is_rung = is_rung or notification.be_pid != own
    return is_rung


_INCARNATION = "SELECT pg_postmaster_start_time()"
_HAS_EVENTS = "SELECT EXISTS (SELECT FROM mercure_update WHERE event_bytes IS NOT NULL)"
_SETTINGS = """
    SELECT current_setting('server_encoding'), current_setting('fsync'), current_setting('synchronous_commit')
"""
_NOW = "clock_timestamp() + make_interval(secs => %(ahead)s)"
_EXPIRES = "clock_timestamp() + make_interval(secs => %(expires)s)"
_REGISTER = f"INSERT INTO mercure_node VALUES (%(node)s, 0, NULL, {_EXPIRES}, false)"
_RENEW = f"UPDATE mercure_node SET expires = {_EXPIRES} WHERE id = %(node)s AND NOT dead RETURNING 1"
_LEAVE = "UPDATE mercure_node SET expires = '-infinity' WHERE id = %(node)s"
_TOUCH = "UPDATE mercure_node SET number = number WHERE id = %(node)s"
_STATE = """
    SELECT n.number, n.first, pg_postmaster_start_time(), p.last_sequence FROM mercure_position p
    LEFT JOIN mercure_node n ON n.id = %(node)s AND NOT n.dead
"""
_CLAIM = (
    "UPDATE mercure_node SET number = %(number)s, first = NULL WHERE id = %(node)s AND number < %(number)s"
)
_OUTCOME = "SELECT first FROM mercure_node WHERE id = %(node)s AND number = %(number)s"
_POSITION = "SELECT epoch, last_sequence FROM mercure_position"
_ID_AT = "SELECT id FROM mercure_update WHERE sequence = %(sequence)s"
_NEWEST_UPDATE = """
    SELECT id FROM mercure_update WHERE event_bytes IS NULL ORDER BY sequence DESC LIMIT 1
"""
_OF_OTHERS = """
    SELECT key, record FROM mercure_presence
    WHERE node <> %(node)s AND left(key, 256) >= left(%(beyond)s, 256) AND key > %(beyond)s
"""
_IN_ORDER = "ORDER BY left(key, 256), key LIMIT %(limit)s"
_OTHERS = f"{_OF_OTHERS} {_IN_ORDER}"
_OTHERS_OF_VALUE = f"{_OF_OTHERS} AND value_hash = %(hash)s AND value = %(value)s {_IN_ORDER}"

_HAS_EXPIRED = f"SELECT EXISTS (SELECT FROM mercure_node WHERE dead OR expires < {_NOW})"
# A node that appends at this moment is alive.
_BURY = f"""
    UPDATE mercure_node SET dead = true WHERE id IN (
        SELECT id FROM mercure_node WHERE NOT dead AND expires < {_NOW} FOR UPDATE SKIP LOCKED
    )
"""
# Their numbers are kept for a day: they may still ask what became of a batch.
_FORGET = f"""
    DELETE FROM mercure_node n WHERE dead AND expires < {_NOW} - interval '1 day'
    AND NOT EXISTS (SELECT FROM mercure_presence p WHERE p.node = n.id)
"""
_ADOPT = """
    WITH own AS (
        SELECT id FROM mercure_node WHERE id = %(node)s AND NOT dead FOR SHARE
    ), left_over AS (
        SELECT p.key_hash FROM mercure_presence p
        WHERE p.node IN (SELECT id FROM mercure_node WHERE dead) LIMIT %(limit)s FOR UPDATE SKIP LOCKED
    )
    UPDATE mercure_presence p SET node = own.id FROM own, left_over
    WHERE p.key_hash = left_over.key_hash RETURNING p.record
"""
# An update or an event: the number of events before it is the same.
_SIZE = """
    SELECT coalesce(p.last_sequence - p.events - (f.sequence - f.events_before) + 1, 0), (
        SELECT sum(pg_total_relation_size(name))::bigint
        FROM unnest(ARRAY['mercure_update', 'mercure_topic', 'mercure_presence']::regclass[]) name
    ) FROM mercure_position p CROSS JOIN mercure_discarded d LEFT JOIN LATERAL (
        SELECT u.sequence, u.events_before FROM mercure_update u
        WHERE u.sequence > d.updates_gone ORDER BY u.sequence LIMIT 1
    ) f ON true
"""

# The locks are taken in one order everywhere: of the own node, of the position, of the rows of presence. Both
# conditions on the node are looked at again when the lock had to be waited for (READ COMMITTED), so whoever
# claimed the number first wins. The others follow from the position, whose lock is the turn to write: it is
# freed when the commit is durable.
_APPEND = """
    WITH node AS (
        SELECT id FROM mercure_node WHERE id = %(node)s AND number < %(number)s AND NOT dead
        AND pg_postmaster_start_time() = %(incarnation)s FOR UPDATE
    ), place AS (
        UPDATE mercure_position p SET last_sequence = p.last_sequence + %(count)s,
            events = p.events + %(events)s, event_bytes = p.event_bytes + %(bytes)s
        FROM node WHERE p.last_sequence >= %(known)s
        RETURNING p.last_sequence - %(count)s AS last, p.events - %(events)s AS events,
            p.event_bytes - %(bytes)s AS event_bytes,
            extract(epoch FROM clock_timestamp())::double precision + %(ahead)s AS now
    ), claimed AS (
        UPDATE mercure_node n SET number = %(number)s, first = place.last + 1 FROM place
        WHERE n.id = %(node)s
    ), stored AS (
        INSERT INTO mercure_update
        SELECT place.last + u.number, u.id_hash, u.id, u.topics, u.data, u.private, u.type, u.retry, place.now,
            place.events + u.events_before, place.event_bytes + u.event_bytes
        FROM place, unnest(
            %(id_hashes)s, %(ids)s, %(topics)s, %(data)s, %(private)s, %(types)s, %(retries)s,
            %(events_before)s, %(bytes_before)s
        ) WITH ORDINALITY
        u(id_hash, id, topics, data, private, type, retry, events_before, event_bytes, number)
    ), indexed AS (
        INSERT INTO mercure_topic SELECT t.hash, place.last + t.number
        FROM place, unnest(%(hashes)s, %(numbers)s) t(hash, number)
    )
"""
_RESULT = f" SELECT place.last + 1, pg_notify('{CHANNEL}', '') FROM place"
_PRESENCE = """, ended AS (
        DELETE FROM mercure_presence USING place WHERE key_hash = ANY(%(ended)s)
    ), begun AS (
        INSERT INTO mercure_presence
        SELECT b.key_hash, b.key, %(node)s, b.record, b.value_hash, b.value FROM place, unnest(
            %(begun)s, %(keys)s, %(records)s, %(value_hashes)s, %(values)s
        ) b(key_hash, key, record, value_hash, value)
        ON CONFLICT (key_hash) DO UPDATE SET node = excluded.node, record = excluded.record,
            value_hash = excluded.value_hash, value = excluded.value
    )
"""
_APPEND_UPDATES = _APPEND + _RESULT
_APPEND_PRESENCE = _APPEND + _PRESENCE + _RESULT


def _append_of(batch: Batch) -> tuple[str, dict[str, Any]]:
    """The statement that stores a batch, and its values.

    :raises ValueError: they cannot be stored.
    """
    updates = batch.updates
    encoded = [encoded_topics(one.topics) for one in updates]
    data = [one.data.encode() for one in updates]
    hashes: list[int] = []
    numbers: list[int] = []
    for number, one in enumerate(updates, 1):
        for hashed in {topic_hash(topic) for topic in one.topics}:
            hashes.append(hashed)
            numbers.append(number)
    events, size = 0, 0
    events_before: list[int] = []
    event_bytes: list[int | None] = []
    for is_event, topics, content in zip(batch.are_events, encoded, data, strict=True):
        events_before.append(events)
        if is_event:
            events += 1
            size += len(content) + len(topics.encode())
        event_bytes.append(size if is_event else None)
    values: dict[str, Any] = {
        "number": batch.number,
        "count": len(updates),
        "events": events,
        "bytes": size,
        "id_hashes": bigints([topic_hash(one.id) for one in updates]),
        "ids": texts([one.id for one in updates]),
        "topics": texts(encoded),
        "data": blobs(data),
        "private": bools([one.private for one in updates]),
        "types": texts([one.type for one in updates]),
        "retries": bigints([one.retry for one in updates]),
        "events_before": bigints(events_before),
        "bytes_before": bigints(event_bytes),
        "hashes": bigints(hashes),
        "numbers": bigints(numbers),
    }
    if not batch.presence:
        return _APPEND_UPDATES, values
    values.update(_presence_of(batch.presence))
    return _APPEND_PRESENCE, values


def _presence_of(changes: Sequence[Presence]) -> dict[str, Any]:
    """The values of presence in the statement: the last change of each key counts."""
    last = {one.key: one for one in changes}
    ended = [one for one in last.values() if one.record is None]
    begun = [one for one in last.values() if one.record is not None]
    return {
        "ended": blobs([_key_hash(one.key) for one in ended]),
        "begun": blobs([_key_hash(one.key) for one in begun]),
        "keys": texts([one.key for one in begun]),
        "records": texts([one.record for one in begun]),
        "value_hashes": bigints([topic_hash(one.value) for one in begun]),
        "values": texts([one.value for one in begun]),
    }


def _key_hash(key: str) -> bytes:
    return blake2b(key.encode(), digest_size=16).digest()
