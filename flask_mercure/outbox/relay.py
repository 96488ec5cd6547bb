"""The relay: sends what the outbox holds, in order for each topic, until the hub has taken it.

One pass claims a batch, sends it, records what became of it. When the hub cannot be reached the relay rests;
when one update fails, only what shares a topic with it waits. Several relays share the work.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from sqlalchemy import Engine, RowMapping, Table
from sqlalchemy.exc import SQLAlchemyError

from flask_mercure.errors import MercureError, PublishError
from flask_mercure.outbox import settlement
from flask_mercure.outbox.claims import Claim, Claims
from flask_mercure.outbox.contents import stats
from flask_mercure.outbox.rows import publication_of, topics_of
from flask_mercure.outbox.wakeup import Wakeup
from flask_mercure.publishing.retry import Verdict, delay, verdict
from flask_mercure.updates.publication import Publication

BATCH = 100
# A batch ends after this time, so that a claim is short, and little is sent twice after a crash.
LONGEST_BATCH = 2.0
_MOST_FAILURES = 10  # of different topics in a row, without a success: it is the hub that fails
_BETWEEN_REPORTS = 60.0

_MOST_OCTETS = 1 << 18  # of data in one request: it must not take the hub longer than it may be silent

Send = Callable[[str, Sequence[Publication]], object]

_log = logging.getLogger("flask_mercure.relay")


@dataclass
class Pass:
    """What one pass did.

    :param sent: updates that the hub took.
    :param failed: updates that are tried again.
    :param parked: updates that the hub will never take.
    :param claimed: updates that were the relay's to send.
    """

    sent: int = 0
    failed: int = 0
    parked: int = 0
    claimed: int = 0


@dataclass
class _Outage:
    """A hub that takes nothing now."""

    attempts: int = 0
    until: float = 0.0


@dataclass
class _Batch:
    """Outcomes, until they are recorded, and the topics of a hub whose updates wait for one that failed."""

    delivered: list[int] = field(default_factory=list)
    failed: list[tuple[int, str, float]] = field(default_factory=list)
    parked: list[tuple[int, str]] = field(default_factory=list)
    blocked: set[tuple[str, str]] = field(default_factory=set)


class Relay:
    """Sends the updates of one outbox.

    :param engine: of the database.
    :param table: the outbox.
    :param send: publishes updates on the hub of a name.
    :param takes_batches: whether that hub takes several updates in one request, all of them or none.
    :param wakeup: what the relay waits with; it belongs to the relay from now on.
    :param interval: seconds between two looks at the table, when nothing wakes the relay.
    :param keep: seconds for which delivered updates stay in the table; 0 deletes them.
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
        interval: float = 1.0,
        keep: float = 0.0,
        clock: Callable[[], float] = time.time,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._engine = engine
        self._table = table
        self._send = send
        self._takes_batches = takes_batches
        self._wakeup = wakeup
        self._interval = interval
        self._keep = keep
        self._clock = clock
        self._chance = chance
        self._claims = Claims(engine, table)
        self._outages: dict[str, _Outage] = {}
        self._failures = 0  # in a row
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
                    self._housekeep()
                    attempts = 0
                except SQLAlchemyError as error:
                    attempts += 1
                    pause = delay(attempts, self._chance())
                    _log.warning(
                        "the outbox cannot be read, trying again in %.1f s: %s", pause, _words(error)
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
        self._housekeep()
        return total

    def step(self) -> Pass:
        """Claim one batch, send it, record it."""
        now = self._clock()
        paused = frozenset(hub for hub, outage in self._outages.items() if outage.until > now)
        with self._claims.take(now, BATCH, paused) as claim:
            batch = self._send_all(claim, now + LONGEST_BATCH)
            self._record(claim, batch)
        return Pass(len(batch.delivered), len(batch.failed), len(batch.parked), len(claim.rows))

    def _send_all(self, claim: Claim, deadline: float) -> _Batch:
        batch = _Batch()
        for group in _groups(claim.rows):
            for row in self._send_together(group, batch, deadline):
                self._send_one(row, batch, deadline)
        return batch

    def _send_together(
        self, group: Sequence[RowMapping], batch: _Batch, deadline: float
    ) -> Sequence[RowMapping]:
        """Send the rows of one hub in one request, where that can be.

        :returns: those of them that are to be sent one by one.
        """
        hub = str(group[0]["hub"])
        # A hub that took nothing just now gets one update first: there may be too much in the request.
        if len(group) == 1 or hub in self._outages or self._is_over(deadline):
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
            if verdict(error) in (Verdict.REFUSED, Verdict.LATER):
                return rest  # one of them is the reason
            self._judge(batch, rest[0], error)
            batch.blocked |= lanes
            return ()
        self._succeeded(hub)
        batch.delivered += [row["sequence"] for row in group]
        return ()

    def _send_one(self, row: RowMapping, batch: _Batch, deadline: float) -> None:
        hub = str(row["hub"])
        if self._is_over(deadline) or self._is_paused(hub):
            return
        lanes = _lanes(row)
        if not batch.blocked.isdisjoint(lanes):
            batch.blocked |= lanes
            return
        try:
            self._send(hub, [publication_of(dict(row))])
        except MercureError as error:
            if not self._judge(batch, row, error):
                batch.blocked |= lanes
        else:
            self._succeeded(hub)
            batch.delivered.append(row["sequence"])

    def _is_over(self, deadline: float) -> bool:
        return self._stopped or self._clock() >= deadline

    def _judge(self, batch: _Batch, row: RowMapping, error: MercureError) -> bool:
        """Decide about an update that was not taken.

        :returns: whether what is behind it may go on.
        """
        sequence, attempts, hub = row["sequence"], row["attempts"] + 1, str(row["hub"])
        judgement = verdict(error)
        if judgement is Verdict.REFUSED:
            self._failures = 0
            _log.error("update %s of the outbox is parked: %s", sequence, error)
            batch.parked.append((sequence, str(error)))
            return True
        after = error.retry_after if isinstance(error, PublishError) else None
        pause = delay(attempts, self._chance(), after)
        self._failures += 1
        if judgement is Verdict.LATER and self._failures < _MOST_FAILURES:
            _log.warning("update %s of the outbox waits %.1f s: %s", sequence, pause, error)
            batch.failed.append((sequence, str(error), self._clock() + pause))
            return False
        outage = self._outages.setdefault(hub, _Outage())
        outage.attempts += 1
        pause = delay(outage.attempts, self._chance(), after)
        outage.until = self._clock() + pause
        self._wakeup.expect(pause)
        batch.failed.append((sequence, str(error), self._clock()))
        level = logging.WARNING if outage.attempts == 1 else logging.INFO
        _log.log(level, "the hub %r takes nothing now, trying again in %.1f s: %s", hub, pause, error)
        return False

    def _is_paused(self, hub: str) -> bool:
        outage = self._outages.get(hub)
        return outage is not None and outage.until > self._clock()

    def _succeeded(self, hub: str) -> None:
        self._failures = 0
        if self._outages.pop(hub, None) is not None:
            _log.warning("the hub %r takes updates again", hub)

    def _record(self, claim: Claim, batch: _Batch) -> None:
        connection, table, now = claim.connection, self._table, self._clock()
        settlement.delivered(connection, table, batch.delivered, now, keep=self._keep > 0)
        for sequence, error, not_before in batch.failed:
            settlement.failed(connection, table, sequence, error, not_before)
            self._wakeup.expect(not_before - now)
        for sequence, error in batch.parked:
            settlement.parked(connection, table, sequence, error, now)

    def _housekeep(self) -> None:
        """Once a minute: delete what was kept long enough, log how much waits."""
        now = self._clock()
        if now < self._next_report:
            return
        self._next_report = now + _BETWEEN_REPORTS
        with self._engine.begin() as connection:
            if self._keep:
                settlement.clean(connection, self._table, now - self._keep)
            read = stats(connection, self._table, now)
        if read.waiting or read.parked:
            _log.info(
                "outbox: %d waiting, the oldest for %.0f s, %d parked",
                read.waiting,
                read.oldest_age,
                read.parked,
            )


def _groups(rows: Iterable[RowMapping]) -> Iterator[list[RowMapping]]:
    """Consecutive rows of one hub that may leave in one request."""
    group: list[RowMapping] = []
    octets = 0
    for row in rows:
        octets += len(row["data"])
        if group and (row["hub"] != group[0]["hub"] or octets > _MOST_OCTETS):
            yield group
            group, octets = [], len(row["data"])
        group.append(row)
    if group:
        yield group


def _lanes(row: RowMapping) -> set[tuple[str, str]]:
    """The topics of an update, each of which has an order of its own on each hub."""
    try:
        return {(str(row["hub"]), topic) for topic in topics_of(row["topics"])}
    except ValueError:
        return set()


def _words(error: SQLAlchemyError) -> str:
    """The driver's message, without the statement and its parameters: they hold data."""
    cause = getattr(error, "orig", None)
    return str(cause or type(error).__name__).strip()
