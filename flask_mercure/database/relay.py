"""The relay: sends what the outbox holds, in order for each topic, until the hub has taken it.

One pass claims a batch, sends it, records what became of it. When the hub cannot be reached, the relay rests;
when one update fails and others do not, only those that share a topic with it wait. Several relays share the
work.

Between passes a relay waits for its time, for a call from this process, or for a ``NOTIFY`` of PostgreSQL.
All three end one ``poll``: a call writes into a socket pair, which is safe in a signal handler too, and a
notification makes the database's own socket readable.
"""

from __future__ import annotations

import contextlib
import logging
import random
import selectors
import socket
import time
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from sqlalchemy import Connection, Engine, RowMapping, Table
from sqlalchemy.exc import SQLAlchemyError

from flask_mercure.database.claims import LEASE, Claim, Claims
from flask_mercure.database.table import (
    delete_sent,
    publication_of,
    read_stats,
    record_failed,
    record_parked,
    seconds,
    topics_of,
)
from flask_mercure.errors import MercureError, PublishError
from flask_mercure.publishing.retry import Health, Verdict, delay, verdict
from flask_mercure.updates import Publication

BATCH = 100
# A batch ends after this time, so that a claim is short, and little is sent twice after a crash.
LONGEST_BATCH = 2.0
# An update that the hub neither takes nor refuses, while it takes others, is parked after both.
MOST_ATTEMPTS = 10
LONGEST_WAIT = 3600.0
_BETWEEN_REPORTS = 60.0
_SPARE = 10.0

_MOST_CHARACTERS = 1 << 18  # of data in one request: the hub must answer it before the timeout

Send = Callable[[str, Sequence[Publication]], object]

_log = logging.getLogger("flask_mercure.relay")


@dataclass
class Pass:
    """What one pass did, in numbers of updates.

    :param sent: the hub took them.
    :param failed: they are tried again.
    :param parked: the hub will never take them.
    :param claimed: the relay could have sent them.
    """

    sent: int = 0
    failed: int = 0
    parked: int = 0
    claimed: int = 0


@dataclass(frozen=True, slots=True)
class _Failure:
    """An update that is tried again.

    :param is_counted: it alone failed, not the hub.
    :param is_last: it is parked if the hub takes others.
    """

    sequence: int
    hub: str
    error: str
    not_before: float
    is_counted: bool
    is_last: bool = False


@dataclass
class _Batch:
    """Outcomes, until they are recorded.

    ``blocked`` has the lanes that wait for an update that failed. Updates behind one that failed for the last
    time do not wait: ``passable`` has its lanes, ``overtaken`` those after which another was sent.
    """

    deadline: float
    delivered: list[int] = field(default_factory=list)
    failed: list[_Failure] = field(default_factory=list)
    parked: list[tuple[int, str]] = field(default_factory=list)
    blocked: set[tuple[str, str]] = field(default_factory=set)
    passable: dict[int, set[tuple[str, str]]] = field(default_factory=dict)
    overtaken: set[int] = field(default_factory=set)
    is_probe_due: bool = False


class Relay:
    """Sends the updates of one outbox.

    :param engine: of the database.
    :param table: the outbox.
    :param send: publishes updates on the hub of a name.
    :param takes_batches: whether that hub takes several updates in one request, all of them or none.
    :param longest_request: seconds that one request to a hub may take, as its settings allow.
    :param wakeup: what the relay waits with; it belongs to the relay from now on.
    :param interval: seconds between two looks at the table, when nothing wakes the relay.
    :param clock: gives the seconds since the epoch.
    :param chance: gives numbers from 0 to 1.
    """

    def __init__(
        self,
        engine: Engine,
        table: Table,
        send: Send,
        wakeup: Wakeup,
        *,
        takes_batches: Callable[[str], bool] = lambda _hub: False,
        longest_request: float = 7.0,
        interval: float = 1.0,
        clock: Callable[[], float] = time.time,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._engine = engine
        self._table = table
        self._send = send
        self._takes_batches = takes_batches
        self._wakeup = wakeup
        self._interval = interval
        self._clock = clock
        self._chance = chance
        # A request may begin at the end of a batch, after a question whether batches are taken; and a probe
        # makes the batch longer once.
        lease = max(LEASE, 2 * LONGEST_BATCH + 4 * longest_request + _SPARE)
        self._claims = Claims(engine, table, lease=lease)
        self._hubs: defaultdict[str, Health] = defaultdict(Health)
        self._stopped = False
        self._next_report = 0.0

    def stop(self) -> None:
        """End :meth:`run` after the update that is under way; for signal handlers and other threads."""
        self._stopped = True
        self._wakeup.wake()

    def wake(self) -> None:
        """Look at the table now: something was committed."""
        self._wakeup.wake()

    def close(self) -> None:
        """Give back what the relay waits with; :meth:`run` does it at its end."""
        self._wakeup.close()

    def run(self) -> None:
        """Send until :meth:`stop` is called."""
        attempts = 0
        with self._wakeup:
            while not self._stopped:
                began = self._clock()
                try:
                    done = self.step()
                    self._report()
                    attempts = 0
                except SQLAlchemyError as error:
                    attempts += 1
                    pause = delay(attempts, self._chance())
                    _log.warning(
                        "the outbox cannot be read, trying again in %.1f s: %s", pause, _driver_message(error)
                    )
                    self._wakeup.wait(pause, urgent_only=True)
                    continue
                if not done.claimed:
                    # Looking at a long outbox that nothing may leave must not become a job of its own.
                    self._wakeup.wait(max(self._interval, 5 * (self._clock() - began)))

    def run_once(self) -> Pass:
        """Send what may be sent now, and return.

        :returns: the sum of all passes.
        """
        total = Pass()
        while not self._stopped:
            done = self.step()
            total.sent += done.sent
            total.failed += done.failed
            total.parked += done.parked
            if not done.claimed:
                break
        self._report()
        return total

    def step(self) -> Pass:
        """Claim one batch, send it, record it."""
        failing = frozenset(key for health in self._hubs.values() for key in health.failing)
        done = self._pass(failing)
        # Those that failed last are tried again only when there is no other to learn from.
        return done if done.claimed or not failing else self._pass(frozenset())

    def _pass(self, spared: frozenset[Hashable]) -> Pass:
        now = self._clock()
        paused = frozenset(hub for hub, health in self._hubs.items() if health.until > now)
        with self._claims.take(now, BATCH, paused, spared) as claim:
            batch = _Batch(now + LONGEST_BATCH)
            try:
                self._send_all(claim, batch)
            finally:  # whatever happened, what was sent is not to be sent again
                self._record(claim, batch)
        return Pass(len(batch.delivered), len(batch.failed), len(batch.parked), len(claim.rows))

    def _send_all(self, claim: Claim, batch: _Batch) -> None:
        for group in _groups(claim.rows):
            for row in self._send_together(group, batch):
                self._send_one(row, batch)

    def _send_together(self, group: Sequence[RowMapping], batch: _Batch) -> Sequence[RowMapping]:
        """Send the rows of one hub in one request, where that can be.

        :returns: those of them that are to be sent one by one.
        """
        hub = str(group[0]["hub"])
        health = self._hubs[hub]
        # A hub that took nothing just now gets one update first: there may be too much in the request.
        if len(group) == 1 or health.is_in_doubt or self._is_over(batch):
            return group
        lanes = {lane for row in group for lane in _lanes(row)}
        try:
            if not batch.blocked.isdisjoint(lanes) or not self._takes_batches(hub):
                return group
            self._send(hub, [publication_of(dict(row)) for row in group])
        except MercureError as error:
            # some, if another hub answers there since the last request, one without batches
            published = len(error.published) if isinstance(error, PublishError) else 0
            batch.delivered += [row["sequence"] for row in group[:published]]
            rest = group[published:]
            judgement = verdict(error)
            if judgement in (Verdict.REFUSED, Verdict.LATER, Verdict.UNCLEAR):
                # one of them is the reason; or the hub, and then it must not come to the same again
                health.is_batch_in_doubt |= judgement is Verdict.UNCLEAR
                return rest
            self._judge(batch, rest[0], error)
            batch.blocked |= lanes
            return ()
        self._succeeded(batch, hub, group)
        return ()

    def _send_one(self, row: RowMapping, batch: _Batch) -> None:
        hub = str(row["hub"])
        rests = self._hubs[hub].until > self._clock() and not batch.is_probe_due
        if rests or self._is_over(batch):
            return
        lanes = _lanes(row)
        if not batch.blocked.isdisjoint(lanes):
            batch.blocked |= lanes
            return
        batch.is_probe_due = False
        try:
            self._send(hub, [publication_of(dict(row))])
        except MercureError as error:
            if not self._judge(batch, row, error):
                batch.blocked |= lanes
        else:
            self._succeeded(batch, hub, [row])

    def _is_over(self, batch: _Batch) -> bool:
        return self._stopped or self._clock() >= batch.deadline

    def _judge(self, batch: _Batch, row: RowMapping, error: MercureError) -> bool:
        """Decide about an update that was not taken.

        :returns: whether what is behind it may go on.
        """
        sequence, attempts, hub = row["sequence"], row["attempts"] + 1, str(row["hub"])
        if verdict(error) is Verdict.REFUSED:
            _log.error("update %s of the outbox is parked: %s", sequence, error)
            batch.parked.append((sequence, str(error)))
            return True
        now, health = self._clock(), self._hubs[hub]
        waits_since = max(seconds(row["created_at"]), health.recovered_at)
        is_last = attempts >= MOST_ATTEMPTS and now - waits_since >= LONGEST_WAIT
        rest = health.failed(sequence, error, now, self._chance())
        if rest is None:
            pause = delay(attempts, self._chance(), error)
            _log.warning("update %s of the outbox waits %.1f s: %s", sequence, pause, error)
        else:
            pause = 0.0
            self._wakeup.expect(rest)
            level = logging.WARNING if health.outages == 1 else logging.INFO
            _log.log(level, "the hub %r takes nothing now, trying again in %.1f s: %s", hub, rest, error)
        batch.failed.append(
            _Failure(sequence, hub, str(error), now + pause, is_counted=rest is None, is_last=is_last)
        )
        if is_last:  # where all share one topic, only what is behind it can tell whether the hub is well
            batch.is_probe_due = True
            batch.passable[sequence] = _lanes(row)
            batch.deadline = max(batch.deadline, now + LONGEST_BATCH)
        return is_last

    def _succeeded(self, batch: _Batch, hub: str, rows: Sequence[RowMapping]) -> None:
        sequences = [row["sequence"] for row in rows]
        batch.delivered += sequences
        if batch.passable:
            lanes = {lane for row in rows for lane in _lanes(row)}
            batch.overtaken |= {one for one, own in batch.passable.items() if not own.isdisjoint(lanes)}
        if self._hubs[hub].took(sequences, self._clock()):
            _log.warning("the hub %r takes updates again", hub)

    def _record(self, claim: Claim, batch: _Batch) -> None:
        connection, table, now = claim.connection, self._table, self._clock()
        delete_sent(connection, table, batch.delivered)
        for one in batch.failed:
            health = self._hubs[one.hub]
            # One that was overtaken must not come after younger updates of its topic.
            if one.is_last and (one.sequence in health.proved or one.sequence in batch.overtaken):
                health.forget(one.sequence)
                _log.error(
                    "update %s of the outbox is parked after %d attempts and more; the hub takes others: %s",
                    one.sequence,
                    MOST_ATTEMPTS,
                    one.error,
                )
                batch.parked.append((one.sequence, one.error))
                continue
            record_failed(
                connection, table, one.sequence, one.error, one.not_before, is_counted=one.is_counted
            )
            self._wakeup.expect(one.not_before - now)
        for sequence, error in batch.parked:
            record_parked(connection, table, sequence, error)
        connection.commit()

    def _report(self) -> None:
        """Log once a minute how many updates wait."""
        now = self._clock()
        if now < self._next_report:
            return
        self._next_report = now + _BETWEEN_REPORTS
        with self._engine.begin() as connection:
            stats = read_stats(connection, self._table, now)
        if stats.waiting or stats.parked:
            _log.info(
                "outbox: %d waiting, the oldest for %.0f s, %d parked",
                stats.waiting,
                stats.oldest_age,
                stats.parked,
            )


def _groups(rows: Iterable[RowMapping]) -> Iterator[list[RowMapping]]:
    """Consecutive rows of one hub that may leave in one request; one that failed before leaves alone."""
    group: list[RowMapping] = []
    characters = 0
    for row in rows:
        characters += len(row["data"])
        is_alone = row["attempts"] > 0 or (group and group[-1]["attempts"] > 0)
        if group and (is_alone or row["hub"] != group[0]["hub"] or characters > _MOST_CHARACTERS):
            yield group
            group, characters = [], len(row["data"])
        group.append(row)
    if group:
        yield group


def _lanes(row: RowMapping) -> set[tuple[str, str]]:
    """The topics of an update, each of which has an order of its own on each hub."""
    try:
        return {(str(row["hub"]), topic) for topic in topics_of(row["topics"])}
    except ValueError:
        return set()


def _driver_message(error: SQLAlchemyError) -> str:
    """The driver's message, without the statement and its parameters: they hold data."""
    cause = getattr(error, "orig", None)
    return str(cause or type(error).__name__).strip()


class Wakeup:
    """Waits for a time or a call, within a ``with`` block."""

    def __init__(self) -> None:
        self._ours, self._theirs = socket.socketpair()
        self._ours.setblocking(False)
        self._theirs.setblocking(False)
        self._soonest: float | None = None

    def wake(self) -> None:
        """End the wait, or the next one; for any thread and for signal handlers."""
        with contextlib.suppress(OSError):  # full: a call waits already; closed: nobody waits
            self._theirs.send(b".")

    def expect(self, delay: float) -> None:
        """Let the next wait be no longer than this.

        :param delay: seconds.
        """
        self._soonest = delay if self._soonest is None else min(self._soonest, delay)

    def wait(self, longest: float, *, urgent_only: bool = False) -> None:
        """Wait.

        :param longest: seconds.
        :param urgent_only: only a call ends it sooner: the database is what does not work.
        """
        soonest, self._soonest = self._soonest, None
        if soonest is not None:
            longest = min(longest, max(0.0, soonest))
        descriptor = None if urgent_only else self._database()
        with selectors.DefaultSelector() as selector:
            selector.register(self._ours, selectors.EVENT_READ)
            if descriptor is not None:
                selector.register(descriptor, selectors.EVENT_READ)
            ready = selector.select(longest)
        if any(key.fd == descriptor for key, _ in ready):
            self._take_notifications()
        with contextlib.suppress(OSError):
            while self._ours.recv(4096):
                pass

    def _database(self) -> int | None:
        """The descriptor that is readable when the database calls."""
        return None

    def _take_notifications(self) -> None:
        """Read what made it readable."""

    def close(self) -> None:
        self._ours.close()
        self._theirs.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class ListeningWakeup(Wakeup):
    """Waits for ``NOTIFY`` too, on a connection of its own.

    When that connection is lost, it is opened again at the next wait; the relay looks at the table meanwhile.

    :param engine: of PostgreSQL, with psycopg 3.
    :param channel: to listen on.
    """

    def __init__(self, engine: Engine, channel: str) -> None:
        super().__init__()
        self._engine = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._channel = engine.dialect.identifier_preparer.quote(channel)
        self._connection: Connection | None = None

    def _database(self) -> int | None:
        try:
            if self._connection is None:
                self._connection = self._engine.connect()
                # Not back into the pool: a connection that listens is of no use to others.
                self._connection.detach()
                self._connection.exec_driver_sql(f"LISTEN {self._channel}")
                self.wake()  # what was committed before is announced no more: look once again
            # What came while the relay was at work is in the driver's memory, not in the socket.
            if self._pending():
                self.wake()
            return int(self._driver.fileno())
        except (SQLAlchemyError, OSError, self._driver_error()):
            self._disconnect()
            return None

    @property
    def _driver(self) -> Any:
        assert self._connection is not None
        return self._connection.connection.dbapi_connection  # a detached one has no driver_connection

    def _driver_error(self) -> type[Exception]:
        import psycopg  # noqa: PLC0415

        return psycopg.Error

    def _pending(self) -> bool:
        return bool(list(self._driver.notifies(timeout=0)))

    def _take_notifications(self) -> None:
        try:
            self._pending()
        except (OSError, self._driver_error()) as error:
            _log.debug("the connection that listens was lost: %s", type(error).__name__)
            self._disconnect()

    def _disconnect(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(SQLAlchemyError, OSError, self._driver_error()):
                self._connection.close()
            self._connection = None

    def close(self) -> None:
        self._disconnect()
        super().close()


def wakeup_for(engine: Engine, channel: str) -> Wakeup:
    """What fits a database: listening with psycopg 3, else waiting for time and calls."""
    if engine.dialect.name == "postgresql" and engine.dialect.driver == "psycopg":
        return ListeningWakeup(engine, channel)
    return Wakeup()
