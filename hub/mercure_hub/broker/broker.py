"""The broker as endpoints and connections use it: publish, subscribe, and the life of a subscriber."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial

import gevent

from mercure_hub.broker.dispatch import Dispatcher, Storage
from mercure_hub.broker.presence import ActiveSubscriptions
from mercure_hub.broker.replay import Outlet, ReplayLimits, Replays, Start
from mercure_hub.broker.revocation import Revocations
from mercure_hub.broker.threads import in_thread, reserve_threads
from mercure_hub.broker.waiting import WaitingRoom, Watch
from mercure_hub.fanout.endings import Ending, Reason
from mercure_hub.fanout.engine import Engine, EngineLimits
from mercure_hub.fanout.quota import Quota
from mercure_hub.fanout.subscriber import Subscriber
from mercure_hub.fanout.tls import TlsLayer
from mercure_hub.metrics.catalogue import (
    ABSENCES,
    APPEND,
    BATCH,
    BEHIND,
    CONNECTED,
    DOUBTS,
    ENDED,
    ENGINE_STATE,
    LOOKED,
    SUBSCRIBERS,
    Family,
)
from mercure_hub.metrics.tally import Board, Tally
from mercure_hub.protocol.errors import StorageError
from mercure_hub.protocol.matching.matcher import Matcher
from mercure_hub.protocol.subscription import Subscription
from mercure_hub.protocol.update import Update
from mercure_hub.storage.interface import Lag, Size

_TICK = 1.0  # seconds
_ENDS_BETWEEN_PAUSES = 100
_ENDS_PER_SECOND = 500  # at most, while that is quick enough
_LOOK = 0.02  # seconds between two looks at whether the next stream has to end

LOG = "mercure_hub.subscriber"
"""Name of the logger."""

_log = logging.getLogger(LOG)


class Broker:
    """Connects publishers, the history and the subscribers.

    :param storage: the history, not yet open.
    :param limits: of the engine.
    :param clock: monotonic time in seconds.
    :param quota: how many subscribers there may be.
    :param subscriptions: publish subscription events.
    :param tally: counts what happens.
    :param replay_limits: page size and memory of replays.
    :param adoption_interval: seconds between two looks for subscriptions of dead processes.
    :param spread: seconds over which streams that lack updates are ended, so that their clients do not all
        come back at once.
    :param patience: seconds for which a subscriber with a cursor waits for an engine that is away.
    :param log_end: logs, at level info, that a subscriber has left.
    :param revokes: tokens can be revoked.

    ``revocations`` is ``None`` if they cannot. ``is_draining`` is true when the hub stops or hands over: new
    connections are not welcome any more.
    """

    def __init__(
        self,
        storage: Storage,
        limits: EngineLimits,
        clock: Callable[[], float],
        quota: Quota,
        *,
        subscriptions: bool,
        tally: Tally | None = None,
        replay_limits: ReplayLimits | None = None,
        adoption_interval: float = 5.0,
        spread: float = 10.0,
        patience: float = 30.0,
        log_end: Callable[[str], None] = _log.info,
        revokes: bool = False,
    ) -> None:
        self.tally = Board(1).of(0) if tally is None else tally
        self.is_draining = False
        self.clock = clock
        self.quota = quota
        self.engine = Engine(limits, clock, self._gone)
        self._storage = storage
        self._dispatcher = Dispatcher(
            storage,
            self.engine,
            clock,
            self.tally,
            self._end_incomplete,
            on_lease=self._begin_lease,
            on_event=self._take_event,
        )
        self._room = WaitingRoom(storage, clock, patience)
        self._replays = Replays(
            storage,
            self._dispatcher,
            self.engine,
            clock,
            buffer=limits.buffer,
            limits=replay_limits or ReplayLimits(),
        )
        self._active = ActiveSubscriptions(
            storage,
            self._dispatcher,
            self.engine,
            are_announced=subscriptions,
            interval=adoption_interval,
        )
        self.revocations = Revocations(storage, self.everyone, self.end, clock) if revokes else None
        self._spread = spread
        self._second = 0
        self._log_end = log_end
        self._silenced: list[Subscriber] = []
        self._ending: gevent.Greenlet | None = None
        self._counted = Counter[Family]()
        self._ticking: gevent.Greenlet | None = None
        self._counting: gevent.Greenlet | None = None
        self._watchers: list[object] = []

    def open(self) -> None:
        """Open the history and start to work.

        :raises StorageError: the history cannot be opened.
        """
        reserve_threads()
        loop = gevent.get_hub().loop
        wake = loop.async_()
        wake.start(self._wake)
        self._storage.on_append = self._note_append
        newest = in_thread(partial(self._storage.open, wake.send, self._dispatcher.is_crowded))
        if self.revocations is not None:
            self.revocations.open()
        self._dispatcher.start(*newest, in_thread(self._storage.newest_update))
        if self._storage.is_relaxed:
            _log.warning(
                "%s may lose updates that it has acknowledged: its durability is relaxed", self._storage.name
            )
        self.engine.attach(loop)
        self._watchers = [wake]
        self._ticking = gevent.spawn(self._tick)
        if self._active.are_announced:
            self._counting = gevent.spawn(self._tell_counts)
        self._active.end_of_dead_processes()

    def close(self) -> None:
        """End all streams, write what is queued, close the history."""
        self.welcome_nobody()
        for greenlet in (self._ticking, self._counting, self._ending):
            if greenlet is not None:
                greenlet.kill()
        if self.revocations is not None:
            self.revocations.close()
        for subscriber in self.engine:
            self.engine.end(subscriber, Ending(Reason.HUB_STOPS))
        self._active.close()
        self._dispatcher.close()
        self._storage.close()
        for watcher in self._watchers:
            watcher.stop()  # type: ignore[attr-defined]
            watcher.close()  # type: ignore[attr-defined]
        self.engine.close()

    def welcome_nobody(self) -> None:
        """Report that the hub stops or hands over, and refuse the requests that wait for the engine."""
        self.is_draining = True
        self._room.close()

    def _wake(self) -> None:
        self._dispatcher.take_commits()
        self._room.look()

    def drain(self, timeout: float) -> None:
        """Wait until every update that was accepted is committed and written to its subscribers.

        :param timeout: seconds to wait at most.
        """
        with gevent.Timeout(timeout, False):
            try:
                if self._storage.absence is None:
                    in_thread(self._storage.catch_up)
            except StorageError as error:
                _log.error("updates of other processes may not be sent before the end: %s", error)
            gevent.sleep(0)  # so that what was read then is taken over
            self._dispatcher.drain()

    def _tick(self) -> None:
        while True:
            gevent.sleep(_TICK)
            try:
                self._storage.expire(self.clock())
                for _ in self.engine.tick():
                    gevent.sleep(0)
            except Exception:
                _log.exception("heartbeats failed; this is a defect of the hub")

    def _tell_counts(self) -> None:
        """Beside the heartbeats, because it reads: a storage that hangs must not stop those."""
        while True:
            gevent.sleep(_TICK)
            try:
                for _ in self._active.tell_counts():
                    gevent.sleep(0)
            except Exception:
                _log.exception("counts could not be told; this is a defect of the hub")

    # -- the history -----------------------------------------------------------------------------

    def publish(self, updates: Sequence[Update]) -> None:
        """Store updates in one transaction and have them sent in order; returns once they are durable.

        :raises StorageInDoubt: they may be stored, and then all receive them.
        :raises StorageError: they could not be stored; nobody receives any of them.
        """
        self._dispatcher.publish(updates)

    @property
    def last_event_id(self) -> str:
        """Id of the newest update or subscription event; ``earliest`` if there is none."""
        return self._dispatcher.last_event_id

    def check(self) -> None:
        """Raise ``StorageError`` when updates cannot be stored now."""
        in_thread(self._storage.check)

    def lag(self) -> Lag:
        """How far this process is behind the history."""
        return self._storage.lag(self.clock())

    @property
    def is_relaxed(self) -> bool:
        """Whether the engine may lose what it has acknowledged."""
        return self._storage.is_relaxed

    def size(self) -> Size:
        """How much history there is.

        :raises StorageError: the history cannot be read.
        """
        return in_thread(self._storage.size)

    def trust_clock(self) -> None:
        """Discard updates by the wall clock again, whatever it jumped to."""
        self._storage.trust_clock()

    # -- the life of a subscriber ----------------------------------------------------------------

    @property
    def compresses(self) -> bool:
        """Whether streams can be compressed."""
        return self.engine.compresses

    def second(self, now: float) -> int:
        """A time in whole seconds: one object for all subscribers that come within the same second.

        :param now: monotonic time.
        """
        second = int(now)
        if second != self._second:
            self._second = second
        return self._second

    def locate(
        self,
        cursor: str | None,
        matchers: tuple[Matcher, ...],
        *,
        takes_events: bool = False,
        wants_values: bool = False,
        watch: Watch = lambda _: nullcontext(),
    ) -> Start:
        """Find the update after which a subscriber wants to resume; see ``Replays.locate``.

        While the engine is away, a subscriber with a cursor waits.

        :param wants_values: without a cursor, the last value of each topic is to come first.
        :param watch: tells when its client leaves.
        :raises StorageAway: the engine is away for too long.
        :raises StorageError: the history cannot be read.
        """
        locate = self._replays.locate
        if not cursor:
            return locate(cursor, matchers, takes_events=takes_events, wants_values=wants_values)
        return self._room.run(partial(locate, cursor, matchers, takes_events=takes_events), watch)

    def enter(self, subscriber: Subscriber) -> None:
        """Register a subscriber whose stream begins, so that it can be ended from now on.

        ``start`` or ``abandon`` has to follow.
        """
        self._replays.enter(subscriber)
        if self.revocations is not None:
            self.revocations.look(subscriber)

    def replay(self, subscriber: Subscriber, start: Start, outlet: Outlet) -> bool:
        """Send a registered subscriber what it missed, before ``start``; see ``Replays.replay``."""
        return self._replays.replay(subscriber, start, outlet)

    def start(self, subscriber: Subscriber, fd: int = -1, tls: TlsLayer | None = None) -> None:
        """Send a subscriber all updates from now on, and announce its subscriptions.

        :param fd: descriptor of its socket; -1 if it has a stream of a shared connection.
        :param tls: the TLS layer over it.
        """
        # Before the engine has it: if it finds that the client has left, it announces the end.
        self._count_accepted(subscriber)
        self._active.announce(subscriber, active=True)
        self._replays.leave(subscriber)
        self.engine.start(subscriber, fd, tls)
        self._active.tell_watched(subscriber)

    def abandon(self, subscriber: Subscriber, ending: Ending) -> None:
        """Forget a subscriber that left before ``start``.

        :param ending: why, unless the broker ended its stream.
        """
        self.engine.release(subscriber)
        self.quota.leave(subscriber)
        self._count_accepted(subscriber)
        self._note_end(subscriber, self._replays.leave(subscriber) or ending)

    def end(self, subscriber: Subscriber, ending: Ending) -> None:
        """End a stream, also one that still reads history; its client may come back."""
        if subscriber in self._replays:
            self._replays.end(subscriber, ending)
        else:
            self.engine.end(subscriber, ending)

    def end_replays(self, ending: Ending) -> None:
        """End the streams that still read history, within a second."""
        for subscriber in self._replays:
            self._replays.end(subscriber, ending)

    def everyone(self) -> list[Subscriber]:
        """All subscribers, with those that still read history."""
        return [*self._replays, *self.engine]

    def subscriptions(
        self, value: str | None = None, subscriber: str | None = None
    ) -> Iterator[Subscription]:
        """The subscriptions that are active now in all processes; see ``ActiveSubscriptions.matching``.

        :param value: only those with this matcher.
        :param subscriber: only those of the subscriber with this id.
        :raises StorageError: those of other processes cannot be read.
        """
        return self._active.matching(value, subscriber)

    def count(self, path: str) -> int:
        """How many are connected to a topic, in all processes.

        :param path: of the count.
        """
        return self._active.count(path)

    def _take_event(self, event: Update) -> None:
        self._active.take(event)

    def _gone(self, subscriber: Subscriber, ending: Ending) -> None:
        self.quota.leave(subscriber)
        self._active.announce(subscriber, active=False)
        self._note_end(subscriber, ending)

    def _begin_lease(self, lease: int) -> None:
        self._active.begin_lease(lease)

    def _end_incomplete(self) -> None:
        """End all streams that may lack an update: their clients come back and resume.

        None of them gets an update from now on. Those that are replaying end at once, the others one after
        the other.
        """
        self._active.forget_counts()
        for number, subscriber in enumerate(self.everyone(), 1):
            try:
                if subscriber in self._replays:
                    self._replays.end(subscriber, Ending(Reason.INCOMPLETE))
                else:
                    self.engine.silence(subscriber)
                    self._silenced.append(subscriber)
            except Exception:  # whatever it is: the others have to end, and later updates have to be sent
                _log.exception("a stream could not be ended; this is a defect of the hub")
            if number % _ENDS_BETWEEN_PAUSES == 0:
                gevent.sleep(0)
        if self._silenced and (self._ending is None or self._ending.ready()):
            self._ending = gevent.spawn(self._end_silenced)

    def _end_silenced(self) -> None:
        while self._silenced:
            some, self._silenced = self._silenced, []
            began, seconds = self.clock(), min(self._spread, len(some) / _ENDS_PER_SECOND)
            for number, subscriber in enumerate(some):
                while self.clock() < began + seconds * number / len(some):
                    gevent.sleep(_LOOK)
                try:
                    self.engine.end(subscriber, Ending(Reason.INCOMPLETE))
                except Exception:
                    _log.exception("a stream could not be ended; this is a defect of the hub")
                if number % _ENDS_BETWEEN_PAUSES == 0:
                    gevent.sleep(0)

    # -- metrics ---------------------------------------------------------------------------------

    def _count_accepted(self, subscriber: Subscriber) -> None:
        self.tally.add(SUBSCRIBERS, 1, "sse" if subscriber.websocket is None else "websocket")

    def _note_end(self, subscriber: Subscriber, ending: Ending) -> None:
        self.tally.add(ENDED, 1, ending.reason.label)
        if _log.isEnabledFor(logging.INFO):
            seconds = int(self.clock()) - subscriber.connected_at
            self._log_end(f"subscriber {subscriber.peer} left after {seconds} s: {ending.text}")

    def sample(self) -> None:
        """Note the current number of connections and waiting updates."""
        websockets = min(self.engine.websockets, len(self.engine))
        self.tally.put(CONNECTED, len(self.engine) - websockets, "sse")
        self.tally.put(CONNECTED, websockets, "websocket")
        self._dispatcher.sample()
        self._sample_storage()

    def _sample_storage(self) -> None:
        lag = self.lag()
        state = "away" if self._storage.absence is not None else "lagging" if lag.is_long else "up"
        for one in ENGINE_STATE.values:
            self.tally.put(ENGINE_STATE, float(one == state), one)
        self.tally.put(BEHIND, lag.updates)
        self.tally.put(LOOKED, lag.seconds)
        for family, number in ((ABSENCES, self._storage.absences), (DOUBTS, self._storage.doubts)):
            self.tally.add(family, number - self._counted[family])
            self._counted[family] = number

    def _note_append(self, seconds: float, updates: int) -> None:
        """Called in the storage's thread; nobody else writes these metrics."""
        self.tally.observe(APPEND, seconds)
        self.tally.observe(BATCH, updates)
