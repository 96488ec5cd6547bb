"""The link to a Redis or Valkey server that several machines share.

A batch is one call of a script. It wakes the other nodes by a message (PUBLISH) that carries only the node
and the sequence, so that a node does not read back its own updates. Messages can get lost; the pump looks
each second anyway.
"""

from __future__ import annotations

import contextlib
import json
import select
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import lru_cache
from typing import Any

from redis.connection import Connection
from redis.exceptions import BusyLoadingError, RedisError

from mercure_hub.protocol.errors import StorageAway, StorageError, StorageInDoubt, StorageUnusable
from mercure_hub.protocol.revocation import Revocation
from mercure_hub.protocol.update import Update
from mercure_hub.storage import trimming
from mercure_hub.storage.address import Address
from mercure_hub.storage.doorbell import Bell
from mercure_hub.storage.encoding import MAX_PAGE, decoded_topics, encoded_topics, topic_hash
from mercure_hub.storage.interface import (
    MANY_TOPICS,
    OVERHEAD,
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
from mercure_hub.storage.redis import scripts
from mercure_hub.storage.redis.by_rules import RedisTables, beginning_from, declaration
from mercure_hub.storage.redis.connection import Broken, Line, Lines, Server, exchange
from mercure_hub.storage.redis.scripts import SCHEMA, Argument, Command, columns
from mercure_hub.storage.trimming import RuleTrimmer

_READERS = 3  # connections for other threads
_STEP = 256  # updates that one step of retention discards: more than a batch brings, mostly
_AT_ONCE = 256  # updates that are read by their sequences, or sequences in all
_END = (1 << 63) - 1  # above any sequence
_REPLICA_TIMEOUT = 2000  # milliseconds
_ERRORS = (RedisError, OSError)

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


class RedisLink:
    """Implements ``Link`` for Redis and Valkey.

    :param address: of the engine.
    :param kept: how much history to keep.
    :param ahead: seconds by which the server's clock counts as fast, for tests.
    """

    discard_interval = 1.0
    """Seconds between two looks for what is too old."""

    def __init__(
        self, address: Address, kept: Retention, *, ahead: Callable[[], float] = lambda: 0.0
    ) -> None:
        self._address = address
        self._kept = kept
        self._ahead = ahead
        self._server = Server(address)
        self._prefix = self._server.prefix
        self._node = _identity()
        self._writer = Line(self._server)
        self._follower = Line(self._server)
        self._readers = Lines(self._server, _READERS)
        self._bell = _Bell(self._server, self._key("bell"))
        self._epoch: bytes | None = None  # of what ``after`` has read
        self._adoptions = 0  # calls
        self._known_adoption = 0  # the last one whose answer was received
        self._has_events = False
        self._discard_at = 0.0
        self._by_rules = RuleTrimmer(kept)
        self._turn = contextlib.nullcontext()

    @property
    def name(self) -> str:
        """The keys and the server, without credentials."""
        return self._server.name

    @property
    def node(self) -> str:
        """A random name."""
        return self._node

    @property
    def is_relaxed(self) -> bool:
        """Whether the URL asks for it."""
        return self._server.is_relaxed

    def open(self) -> None:
        """Connect, make the state if it is not there, and take a lease."""
        try:
            self.renew()
            self._declare()
            self._epoch = self.position().epoch.encode()
            self._has_events = bool(self._ask(("EXISTS", self._key("events"))))
        except StorageError:
            self.close(is_writer_left=False)
            raise

    def _declare(self) -> None:
        """Put the rules in force, unless they are."""
        with self._errors("written"):
            self._writer.ask(declaration(self._prefix, self._by_rules.rules))

    def _key(self, name: str) -> bytes:
        return self._prefix + name.encode()

    def _call(self, script: scripts.Script, *arguments: Argument) -> Command:
        return script.call(self._prefix, *arguments)

    def _ask(self, command: Command) -> Any:
        with self._errors("read"):
            return self._readers.ask(command)[0]

    @property
    def _milliseconds(self) -> int:
        return int(self._ahead() * 1000)

    @contextlib.contextmanager
    def _errors(self, participle: str) -> Iterator[None]:
        try:
            yield
        except _ERRORS as error:
            raise self._server.failure(participle, error) from None

    # -- writing ---------------------------------------------------------------------------------

    def turn(self) -> AbstractContextManager[None]:
        """Do nothing: the server orders appends."""
        return self._turn

    def why_waiting(self, seconds: float) -> StorageError:
        """Say that the server does not answer: there is no turn to wait for."""
        return StorageAway(f"{self.name} did not answer for {seconds:.0f} s")

    def append(self, batch: Batch) -> int:
        """Store a batch by one call of a script."""
        try:
            arguments = _arguments(batch)
        except (ValueError, TypeError, OverflowError) as error:
            raise Unstorable(f"{self.name} cannot be written: {error}") from None
        call = self._call(
            scripts.APPEND, self._node, batch.number, self._milliseconds, len(batch.updates), *arguments
        )
        try:
            first, *acknowledged = self._writer.replies(call, *self._await_replicas())
        except BusyLoadingError as error:
            raise self._server.failure("written", error) from None
        except Broken as error:
            raise StorageInDoubt(str(self._server.failure("written", error))) from None
        if isinstance(first, RedisError):
            raise self._server.failure("written", first)
        if first == -1:
            raise LeaseLost(f"{self.name}: the lease of this process has expired")
        if first == 0:
            raise StorageError(f"{self.name} cannot be written: batch {batch.number} has been given up")
        if batch.presence and not isinstance(first, list):
            self._has_events = True
        lacking = self._lacking(acknowledged)
        if lacking is not None:
            raise StorageInDoubt(lacking)
        if isinstance(first, list):
            raise AlreadyStored(first)
        return int(first)

    def outcome(self, number: int) -> int | None:
        """Look at the number of the node's last batch, and claim this one if that is below it."""
        with self._errors("read"):
            call = self._call(scripts.OUTCOME, self._node, number)
            first, *acknowledged = self._writer.replies(call, *self._await_replicas())
            if isinstance(first, RedisError):
                raise first
        lacking = self._lacking(acknowledged) if first else None
        if lacking is not None:
            raise StorageError(lacking)
        return int(first) or None

    def _await_replicas(self) -> list[Command]:
        """The command that waits until replicas have what was written before it over the same connection."""
        count = self._address.replicas
        if not count:
            return []
        if self.is_relaxed:
            return [("WAIT", count, _REPLICA_TIMEOUT)]
        return [("WAITAOF", 1, count, _REPLICA_TIMEOUT)]

    def _lacking(self, acknowledged: Sequence[Any]) -> str | None:
        """Why an append must not be acknowledged, though the primary has it.

        :param acknowledged: the reply to ``_await_replicas``.
        """
        if not acknowledged:
            return None
        (reply,) = acknowledged
        if isinstance(reply, RedisError):
            return str(self._server.failure("written", reply))
        local, replicas = (1, reply) if self.is_relaxed else reply
        if local and replicas >= self._address.replicas:
            return None
        where = f"only {replicas} of {self._address.replicas} replicas" if local else "no disk"
        seconds = _REPLICA_TIMEOUT // 1000
        return f"{self.name} stored a batch that {where} acknowledged within {seconds} s"

    def renew(self) -> bool:
        """Set the lease to end later; a dead node becomes another one."""
        fresh = _identity()
        call = self._call(scripts.RENEW, self._node, fresh, self._milliseconds, uuid.uuid4().hex)
        with self._errors("written"):
            is_kept, schema = self._writer.ask(call)[0]
        if int(schema) != SCHEMA:
            raise StorageUnusable(
                f"{self.name} cannot be used: it has version {int(schema)}, and this hub knows {SCHEMA}; it "
                "was made by a newer mercure-hub, so install that version of flask-mercure"
            )
        if not is_kept:
            self._node = fresh
        return bool(is_kept)

    def end_lease(self, node: str) -> None:
        """Let the lease of a node expire at once."""
        self._ask(self._end_of(node))

    def _end_of(self, node: str) -> Command:
        """The command that ends a lease."""
        return "ZADD", self._key("leases"), "XX", 0, node

    def leave(self) -> None:
        """Let the lease end, and forget the identity that it belongs to."""
        with self._errors("written"):
            self._writer.ask(self._end_of(self._node))
        self._node = _identity()

    def is_discard_due(self) -> bool:
        """Whether a second has passed since there was nothing more to discard."""
        return (self._kept.is_bounded or self._has_events) and time.monotonic() >= self._discard_at

    def discard(self) -> None:
        """Discard one step, unless another node is doing so."""
        self._discard_at = time.monotonic() + self.discard_interval
        call = self._call(
            scripts.DISCARD,
            self._node,
            self._milliseconds,
            self._kept.size,
            int(self._kept.max_age * 1000),
            _STEP,
            self._by_rules.rules.text,
        )
        with self._errors("written"):
            more, text = self._writer.ask(call)[0]
            if self._kept.rules:
                more = self._discard_by_rules() or more
        if self._kept.is_bounded and not self._kept.rules:
            self._by_rules.is_in_force(text.decode())  # or it says that this hub discards nothing
        if more:
            self._discard_at = 0.0

    def _discard_by_rules(self) -> bool:
        """Discard one step by rules, and tell whether there may be more."""
        tables = RedisTables(self._writer, self._prefix, self._node, self._milliseconds)
        if tables.is_taken:
            return False
        if not tables.is_declared:  # the history was deleted
            self._declare()
            return True
        done = self._by_rules.step(tables, tables.now, tables.grace, by_age=True)
        tables.finish()
        return done >= trimming.STEP

    def trust_clock(self) -> None:
        """Do nothing: the clock is the server's."""

    # -- following -------------------------------------------------------------------------------

    def wait(self, after: int, timeout: float) -> None:
        """Wait for a message of another node."""
        with self._errors("read"):
            self._bell.wait(self._node, after, timeout)

    def interrupt(self) -> None:
        """Wake the thread that waits, without the server."""
        self._bell.interrupt()

    def after(self, sequence: int, limit: int, size: int) -> list[Entry]:
        """Read over a connection of its own; notice if the history was deleted or replaced."""
        entries: list[Entry] = []
        epoch = ("HGET", self._key("state"), "epoch")
        is_full = True
        while is_full and len(entries) < limit and size > 0:
            wanted = limit - len(entries)
            page = self._call(scripts.PAGE, size, 0, sequence, _END, wanted)
            with self._errors("read"):
                known, parts = self._follower.ask(epoch, page)
            if known is None or known != self._epoch:  # told once: the caller looks for itself
                self._epoch = known
                raise StorageAway(f"{self.name} was deleted or replaced")
            some = _entries(parts)
            entries += some
            characters = sum(len(entry.update.data) for entry in some)
            # The server counts bytes: of characters there may be fewer.
            is_full = len(some) < wanted and len(parts[1]) >= size > characters
            size -= characters
            if some:
                sequence = some[-1].sequence
                self._has_events = self._has_events or any(entry.is_event for entry in some)
        return entries

    # -- reading ---------------------------------------------------------------------------------

    def position(self) -> Position:
        """The newest sequence, and the epoch, which the first node has made."""
        epoch, last = self._ask(("HMGET", self._key("state"), "epoch", "last"))
        if epoch is None:
            raise StorageAway(f"{self.name} was deleted")
        return Position(epoch.decode(), int(last))

    def id_at(self, sequence: int) -> str | None:
        """The id of one update."""
        for index in ("updates", "events"):
            rows = self._ask(("XRANGE", self._key(index), f"0-{sequence}", f"0-{sequence}"))
            if rows:
                return str(rows[0][1][1].decode())
        past = self._ask(("ZRANGEBYSCORE", self._key("past"), sequence, sequence))
        return str(past[0].partition(b" ")[2].decode()) if past else None

    def newest_update(self) -> str | None:
        """The id of the newest update of a publisher."""
        rows = self._ask(("XREVRANGE", self._key("updates"), "+", "-", "COUNT", 1))
        newest = int(rows[0][0][2:]) if rows else 0
        past = self._ask(("ZREVRANGEBYSCORE", self._key("past"), "+inf", f"({newest}", "LIMIT", 0, 1))
        if past:
            return str(past[0].partition(b" ")[2].decode())
        return rows[0][1][1].decode() if rows else None

    def resume(self, wanted: Sequence[Resume]) -> list[Resumed]:
        """Look up where subscribers resume, all of them in three round trips."""
        ids = [_bytes(one.event_id) for one in wanted]
        known = [one for one in ids if one is not None]
        found = self._ask(("HMGET", self._key("ids"), *known)) if known else []
        sequences = dict(zip(known, found, strict=True))
        afters = [None if one is None or sequences[one] is None else int(sequences[one]) for one in ids]
        parts = [
            None
            if after is None or not one.has_page(after)
            else _Part(after, one.upto, one.topics, one.limit)
            for one, after in zip(wanted, afters, strict=True)
        ]
        beginnings = self._read([part for part in parts if part is not None], [one.topics for one in wanted])
        return [
            Resumed(after, None if part is None else part.page(beginning), beginning)
            for after, part, beginning in zip(afters, parts, beginnings, strict=True)
        ]

    def beginning(self, upto: int, topics: Collection[str] | None = None) -> Beginning:  # noqa: ARG002 - retention always notes it
        """Where the history begins, as retention noted it."""
        (beginning,) = self._read([], [topics])
        return beginning

    def read(self, after: int, upto: int, topics: Collection[str] | None, limit: int) -> Page:
        """Read a part of the history."""
        part = _Part(after, upto, topics, limit)
        (beginning,) = self._read([part], [topics])
        return part.page(beginning)

    def _read(self, parts: Sequence[_Part], of_topics: Sequence[Collection[str] | None]) -> list[Beginning]:
        """Read parts of the history in two round trips; where there are rules, in three.

        :param of_topics: for whose subscribers to look up where it begins.
        :returns: where it begins for each of them, looked up last.
        """
        look = self._call(scripts.GONE)
        with self._errors("read"), self._readers.line() as line:
            *replies, gone = line.ask(
                *[command for part in parts for command in part.commands(self._prefix)], look
            )
            for part in parts:
                count = part.count
                part.take(replies[:count])
                del replies[:count]
            lookups = [part for part in parts if part.sequences]
            if lookups:
                *replies, gone = line.ask(*[part.lookup(self._prefix) for part in lookups], look)
                for part, reply in zip(lookups, replies, strict=True):
                    part.entries = _entries(reply)
            asked = [_hashes(topics) for topics in of_topics]
            newest = [0] * len(asked)
            if len(gone) > 2 and any(asked):  # there are rules, or were
                *newest, gone = line.ask(*[self._call(scripts.OF_TOPICS, one) for one in asked], look)
        return [beginning_from(gone, one) for one in newest]

    def topics(self, after: int, upto: int, beyond: int | None, limit: int) -> TopicPage:
        """Topics in a part of the history, in the order of their hashes."""
        low = b"-" if beyond is None else b"(" + _hash(beyond) + b"\xff"
        with self._errors("read"), self._readers.line() as line:
            (members,) = line.ask(("ZRANGEBYLEX", self._key("topics"), low, b"+", "LIMIT", 0, limit))
            found = line.ask(
                *[
                    (*("ZRANGEBYSCORE", self._key("t:") + one[:8], f"({after}", upto), "LIMIT", 0, 1)
                    for one in members
                ]
            )
        topics = [one[8:].decode() for one, there in zip(members, found, strict=True) if there]
        more = int.from_bytes(members[-1][:8], "big", signed=True) if len(members) == limit else None
        return TopicPage(topics, more)

    def newest_of(self, wanted: Sequence[tuple[str, int]], limit: int) -> list[Sequence[Outline]]:
        """The newest updates of topics, from a few topics with each call of a script."""
        found: list[list[Outline]] = [[] for _ in wanted]
        at_once = max(_AT_ONCE // limit, 1)
        with self._errors("read"), self._readers.line() as line:
            for start in range(0, len(wanted), at_once):
                arguments: list[Argument] = []
                for topic, upto in wanted[start : start + at_once]:
                    arguments += (_hash(topic_hash(topic)), upto)
                (reply,) = line.ask(self._call(scripts.NEWEST, limit, *arguments))
                for number, sequence, topics, size, rest in columns(reply, 5):
                    private, _, _, is_event = decoded_rest(rest) if rest else _USUAL
                    if not is_event:
                        outline = Outline(int(sequence), decoded_topics(topics.decode()), private, int(size))
                        found[start + int(number)].append(outline)
        return list(found)

    def at(self, sequences: Sequence[int]) -> list[Entry]:
        """The entries with some sequences."""
        entries: list[Entry] = []
        with self._errors("read"), self._readers.line() as line:
            for start in range(0, len(sequences), _AT_ONCE):
                some = sequences[start : start + _AT_ONCE]
                (reply,) = line.ask(self._call(scripts.ENTRIES, MAX_PAGE, OVERHEAD, *some))
                entries += _entries(reply)
                if sum(OVERHEAD + len(entry.update.data.encode()) for entry in entries) >= MAX_PAGE:
                    break
        return entries

    def others(self, value: str | None, beyond: str | None, limit: int) -> Records:
        """The records of other nodes."""
        try:
            hashed = b"" if value is None else _hash(topic_hash(value))
        except UnicodeEncodeError:
            return Records((), None)
        is_first = beyond is None
        call = self._call(
            scripts.OTHERS, self._node, hashed, "" if is_first else "1", (beyond or "").encode(), limit
        )
        last, *records = self._ask(call)
        return Records([one.decode() for one in records], last.decode() if last else None)

    def adopt(self, limit: int) -> list[str]:
        """Count nodes without a lease as dead, and take over what they left."""
        self._adoptions = number = self._adoptions + 1
        call = self._call(scripts.ADOPT, self._node, self._milliseconds, limit, number, self._known_adoption)
        with self._errors("written"), self._readers.line() as line:
            records = line.ask(call)[0]
        self._known_adoption = number
        return [one.decode() for one in records]

    def revoke(self, revocations: Sequence[Revocation], now: float) -> None:
        """Store them by one call of a script."""
        arguments: list[Argument] = []
        for one in revocations:
            rest = f"{one.name.hex()} {one.topic}".encode()
            arguments += (one.key, rest, repr(one.before), repr(one.until))
        with self._errors("written"), self._readers.line() as line:
            call = self._call(scripts.REVOKE, repr(now), *arguments)
            done, *acknowledged = line.replies(call, *self._await_replicas())
            if isinstance(done, RedisError):
                raise done
        lacking = self._lacking(acknowledged)
        if lacking is not None:
            raise StorageError(lacking)

    def revocations(self, after: int, limit: int) -> Revoked:
        """Read them by one call of a script."""
        newest, *parts = self._ask(self._call(scripts.REVOCATIONS, after, limit))
        found = [decoded_revocation(text) for text in parts[::2]]
        return Revoked(found, int(parts[-1]) if parts else after, int(newest))

    def size(self) -> Size:
        """The number of updates; the bytes of the largest keys, from some samples."""
        keys = [self._key(name) for name in ("log", "updates", "events", "ids", "past")]
        with self._errors("read"), self._readers.line() as line:
            count, *sizes = line.replies(
                ("XLEN", self._key("updates")), *[("MEMORY", "USAGE", key) for key in keys]
            )
            if isinstance(count, RedisError):
                raise count
        if any(isinstance(one, RedisError) for one in sizes):  # this user may not ask
            return Size(count)
        return Size(count, sum(one or 0 for one in sizes))

    def check(self, *, by_writing: bool) -> None:
        """Read, or write a number that is never read."""
        if not by_writing:
            self.position()
            return
        with self._errors("written"):
            self._readers.ask(self._call(scripts.CHECK))

    def close(self, *, is_writer_left: bool) -> None:
        """Let the lease end, and disconnect."""
        if self._writer.is_open and not is_writer_left:
            with contextlib.suppress(StorageError, *_ERRORS):
                self._writer.ask(self._end_of(self._node))
        if not is_writer_left:
            self._writer.close()
        self._follower.close()
        self._readers.close()
        self._bell.close()


class _Bell:
    """Tells what other nodes have stored.

    :param server: to subscribe at.
    :param channel: on which each append tells its node and its last sequence.
    """

    def __init__(self, server: Server, channel: bytes) -> None:
        self._server = server
        self._channel = channel
        self._connection: Connection | None = None
        self._generation = 0
        self._interrupt = Bell()

    def wait(self, node: str, after: int, timeout: float) -> None:
        """Return when another node has told of a sequence, or when it is interrupted."""
        connection = self._connection
        if connection is None or self._generation != self._server.generation:
            self._disconnect()
            self._subscribe()
            return  # for what came before
        own = node.encode()
        deadline = time.monotonic() + timeout
        try:
            while True:
                while connection.can_read(0):
                    teller, _, last = connection.read_response()[2].partition(b" ")
                    if teller != own and int(last) > after:
                        return
                left = deadline - time.monotonic()
                if left <= 0 or self._is_interrupted(connection, left):
                    return
        except BaseException:
            self._disconnect()
            self._server.doubt()
            raise

    def _subscribe(self) -> None:
        self._generation = self._server.generation
        connection = self._server.connect()
        (reply,) = exchange(connection, [("SUBSCRIBE", self._channel)])
        if isinstance(reply, RedisError):
            connection.disconnect()
            raise reply
        self._connection = connection

    def _is_interrupted(self, connection: Connection, timeout: float) -> bool:
        """Wait for either of them."""
        waiting = select.poll()
        waiting.register(self._interrupt, select.POLLIN)
        sock: Any = connection._sock  # the driver cannot wait for something else at the same time
        waiting.register(sock, select.POLLIN)
        ready = [fd for fd, _ in waiting.poll(timeout * 1000)]
        if self._interrupt.fileno() not in ready:
            return False
        self._interrupt.silence()
        return True

    def interrupt(self) -> None:
        """Have ``wait`` return."""
        self._interrupt.ring()

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(RedisError, OSError):
                connection.disconnect()

    def close(self) -> None:
        """Disconnect."""
        self._disconnect()
        self._interrupt.close()


class _Part:
    """A part of the history that is being read."""

    def __init__(self, after: int, upto: int, topics: Collection[str] | None, limit: int) -> None:
        self.entries: list[Entry] = []
        self.sequences: list[int] = []
        """To be looked up."""
        self._after, self._upto, self._limit = after, upto, limit
        self._reached = upto
        self._hashes: list[bytes] | None = None
        if topics is not None and len(topics) <= MANY_TOPICS:
            hashes = _hashes(topics)
            self._hashes = [hashes[start : start + 8] for start in range(0, len(hashes), 8)]
            self._limit = min(limit, _AT_ONCE)
            self._each = max(min(self._limit, 4 * self._limit // max(len(self._hashes), 1)), 16)

    @property
    def count(self) -> int:
        """How many commands read it first."""
        return 1 if self._hashes is None else len(self._hashes)

    def commands(self, prefix: bytes) -> list[Command]:
        """Commands that read it, or the sequences of its topics."""
        if self._hashes is None:
            arguments = MAX_PAGE, OVERHEAD, self._after, self._upto, self._limit
            return [scripts.PAGE.call(prefix, *arguments)]
        bounds = f"({self._after}", self._upto, "LIMIT", 0, self._each
        return [("ZRANGEBYSCORE", prefix + b"t:" + one, *bounds) for one in self._hashes]

    def take(self, replies: Sequence[Any]) -> None:
        """Take the replies to the commands."""
        if self._hashes is None:
            self.entries = _entries(replies[0])
            return
        by_topic = [list(map(int, reply)) for reply in replies]
        # Of a topic with more than that, what comes later is not known yet.
        self._reached = min([some[-1] for some in by_topic if len(some) == self._each], default=self._upto)
        sequences = sorted({one for some in by_topic for one in some if one <= self._reached})
        if len(sequences) > self._limit:
            del sequences[self._limit :]
            self._reached = sequences[-1]
        self.sequences = sequences

    def lookup(self, prefix: bytes) -> Command:
        """The command that reads the sequences."""
        return scripts.ENTRIES.call(prefix, MAX_PAGE, OVERHEAD, *self.sequences)

    def page(self, beginning: Beginning) -> Page:
        """What was read."""
        weight = sum(OVERHEAD + len(entry.update.data.encode()) for entry in self.entries)
        if self.entries and (
            weight >= MAX_PAGE or (self._hashes is None and len(self.entries) == self._limit)
        ):
            return Page(self.entries, self.entries[-1].sequence, beginning)
        return Page(self.entries, self._reached, beginning)


def _identity() -> str:
    return uuid.uuid4().hex


def _bytes(text: str) -> bytes | None:
    """As it would be stored; ``None``: it could not be."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        return None


def _hash(value: int) -> bytes:
    """A hash as it is in keys."""
    return value.to_bytes(8, "big", signed=True)


def _hashes(topics: Collection[str] | None) -> bytes:
    """The hashes of topics, each once, in one string; none of too many."""
    if topics is None or len(topics) > MANY_TOPICS:
        return b""
    return b"".join(sorted({_single_hash(one) for one in topics if _bytes(one) is not None}))


@lru_cache(maxsize=4096)  # most updates have one topic, and a topic has many updates
def _single_hash(topic: str) -> bytes:
    return _hash(topic_hash(topic))


def _arguments(batch: Batch) -> list[bytes]:
    """The updates and the presence of a batch, for ``scripts.APPEND``, behind the positions with ``once``.

    :raises ValueError: a text cannot be encoded.
    """
    arguments = [b" ".join(b"%d" % position for position in batch.once)]
    for update, is_event in zip(batch.updates, batch.are_events, strict=True):
        topics = encoded_topics(update.topics).encode()
        data = update.data.encode()
        arguments += (
            update.id.encode(),
            topics,
            b"".join(map(_single_hash, update.topics)),
            data,
            encoded_rest(update.private, update.type, update.retry, is_event),
            b"%d" % (len(data) + len(topics)) if is_event else b"",
        )
    for change in batch.presence:
        arguments += (
            change.key.encode(),
            b"" if change.record is None else b"1",
            _hash(topic_hash(change.value)),
            (change.record or "").encode(),
        )
    return arguments


@lru_cache(maxsize=1024)
def encoded_rest(private: bool, type_: str | None, retry: int | None, is_event: bool) -> bytes:
    """What few updates have, as it is stored."""
    if not private and type_ is None and retry is None and not is_event:
        return b""
    return _encode([private, type_, retry, is_event]).encode()


@lru_cache(maxsize=1024)
def decoded_rest(encoded: bytes) -> tuple[bool, str | None, int | None, bool]:
    """What few updates have, from what is stored."""
    private, type_, retry, is_event = json.loads(encoded)
    return private, type_, retry, is_event


_USUAL = (False, None, None, False)  # the rest of an update that has none


def _entries(reply: Sequence[bytes]) -> list[Entry]:
    """The entries that ``scripts.PAGE`` and ``scripts.ENTRIES`` return."""
    entries: list[Entry] = []
    for sequence, id_, topics, data, rest in columns(reply, 5):
        texts = decoded_topics(topics.decode()), data.decode(), id_.decode()
        if rest:
            private, type_, retry, is_event = decoded_rest(rest)
            entries.append(Entry(int(sequence), Update(*texts, private, type_, retry), is_event))
        else:
            entries.append(Entry(int(sequence), Update(*texts)))
    return entries


def decoded_revocation(stored: bytes) -> Revocation:
    """A revocation, from what is stored."""
    before, until, name, topic = stored.split(b" ", 3)
    return Revocation(bytes.fromhex(name.decode()), topic.decode(), float(before), float(until))
