"""Publish, replay, dispatch: the one place where the log and the fan-out meet.

An update's way: ``publish`` queues it for the log, the log commits it, ``_collect`` takes the commit
over in the event loop, the publisher gets its answer, ``_dispatch`` gives the update to the engine.
A subscriber's way: ``locate`` finds its cursor, ``replay`` reads what it missed up to a boundary, and
from that boundary on the engine has it; so nothing is missing and nothing comes twice.
"""

from __future__ import annotations

import json
import logging
import ssl
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar

import gevent
from gevent.event import Event
from gevent.hub import Waiter

from mercure_hub.broker.lookups import Lookups, in_thread, reserve_threads
from mercure_hub.broker.replay_budget import ReplayBudget, Share
from mercure_hub.fanout.endings import Ending, Reason, behind
from mercure_hub.fanout.engine import Engine, EngineLimits
from mercure_hub.fanout.quota import Quota
from mercure_hub.fanout.subscriber import State, Subscriber
from mercure_hub.metrics.catalogue import (
    CONNECTED,
    DELIVERIES,
    DELIVERY,
    ENDED,
    FAILED,
    QUEUE,
    SUBSCRIBERS,
    UPDATES,
)
from mercure_hub.metrics.tally import Board, Tally
from mercure_hub.protocol.errors import StorageError
from mercure_hub.protocol.matching.matcher import Matcher
from mercure_hub.protocol.matching.table import Scope
from mercure_hub.protocol.subscription import Subscription, of_subscriber, restored
from mercure_hub.protocol.update import EARLIEST, Update
from mercure_hub.storage.interface import MANY_TOPICS, Beginning, Entry, Page, Presence, Size
from mercure_hub.storage.store import Store

_MAX_BACKLOG = 5_000  # updates committed and not dispatched, before publishers have to wait
_MAX_BACKLOG_CHARACTERS = 64 << 20  # the same for their size, with those that are being dispatched
_PAGE = 500  # updates, or topics, read from the log at once
_REPLAYS = 32 << 20  # bytes of history in memory, for all who read it
_READING = 1 << 20  # bytes that a page of it takes while it is read and encoded
_SMALL_PAGE = 32 << 10  # bytes of history that may be in memory before the replay begins
_UPDATES_PER_TOPIC = 8  # in a part of the log in which it pays to look for topics first
_AT_ONCE = 100  # subscriptions, or topics that patterns are tried on, between two pauses
_TICK = 1.0
_AGAIN = 5.0  # seconds until subscriptions of dead processes are looked for once more
_UNIQUE = "urn:uuid:"  # how ids begin that are made up for one update
_FIRST_LOOK, _LAST_LOOK = 0.001, 0.1  # seconds between two looks at what has been dispatched

_log = logging.getLogger("mercure_hub.subscriber")

Outcome = StorageError | None
T = TypeVar("T")


@dataclass(slots=True)
class Start:
    """Where a subscription begins.

    :param after: sequence of the last update that the subscriber has; ``None`` for "from now on".
    :param last_event_id: value of the ``Mercure-Last-Event-ID`` response header, or ``None``.
    :param page: what comes after it, if that has been read already; ``replay`` takes it out.
    :param takes_events: the subscriber may get events of the hub, about subscriptions.
    :param then: where the log began when the subscriber was told that something may be missing, if it was.
    """

    after: int | None = None
    last_event_id: str | None = None
    page: Page | None = None
    takes_events: bool = False
    then: Beginning | None = None

    def take_page(self) -> Page | None:
        """The page, which is referred to from nowhere else then."""
        page, self.page = self.page, None
        return page


@dataclass(frozen=True, slots=True)
class _Part:
    """A part of the log, as it is asked for; see ``Store.read``."""

    after: int
    upto: int
    topics: frozenset[str] | None


class Outlet(Protocol):
    """Where the history of one subscriber goes."""

    def offer(self, octets: memoryview) -> int:
        """Send as much as goes without waiting.

        :returns: how many bytes that is.
        :raises OSError: the connection is broken.
        """

    def wait(self, seconds: float) -> bool:
        """Wait for a moment, in which the client may make room.

        :param seconds: how long at most.
        :returns: it has made room; if not, it may have a little all the same.
        :raises Exception: it has taken nothing for too long, or left.
        """


class Broker:
    """Connects publishers, the log and the subscribers.

    :param transport: the log, not yet open.
    :param limits: of the engine.
    :param clock: monotonic time in seconds.
    :param quota: how many subscribers there may be.
    :param subscriptions: publish subscription events.
    :param tally: counts what happens.
    """

    def __init__(
        self,
        transport: Store[Waiter | None],
        limits: EngineLimits,
        clock: Callable[[], float],
        quota: Quota,
        *,
        subscriptions: bool,
        tally: Tally | None = None,
    ) -> None:
        self.tally = Board(1).of(0) if tally is None else tally
        self.is_draining = False
        self.clock = clock
        self.quota = quota
        self.last_event_id = self._last_update_id = EARLIEST
        self.engine = Engine(limits, clock, self._gone)
        self._limits = limits
        self._transport = transport
        self._lookups = Lookups()
        self._budget = ReplayBudget(_REPLAYS)
        self._reading: dict[Subscriber, Ending | None] = {}  # history, until they have to end for a reason
        self._announces = subscriptions
        self._backlog: deque[Entry] = deque()
        self._commits: deque[tuple[int, float, int]] = deque()  # last sequence, time, updates
        self._characters = 0  # of the backlog and of what is being dispatched
        self._has_backlog = Event()
        self._has_room = Event()
        self._has_room.set()
        self._idle = Event()
        self._idle.set()
        self._unanswered = 0
        self._is_dispatching = False
        self._accepted: list[tuple[Sequence[Update], Waiter | None, Presence | None]] = []
        self._greenlets: list[gevent.Greenlet] = []
        self._watchers: list[object] = []

    def open(self) -> None:
        """Open the log and start to work.

        :raises StorageError: the log cannot be opened.
        """
        reserve_threads()
        loop = gevent.get_hub().loop
        wake = loop.async_()
        wake.start(self._collect)
        opened = partial(self._transport.open, wake.send, self._is_crowded)
        self.engine.dispatched, newest_id = in_thread(opened)
        self.last_event_id = newest_id or EARLIEST
        self._last_update_id = self._transport.newest_update() or EARLIEST
        sockets = loop.io(self.engine.fileno(), 1)
        sockets.start(self.engine.poll)
        self._watchers = [wake, sockets]
        self._greenlets = [gevent.spawn(self._dispatch), gevent.spawn(self._tick)]
        if self._announces:
            try:
                self._end_of_the_dead()
            except StorageError as error:  # the disk is full, say; streams can go on
                _log.error("subscriptions of processes that died are still listed: %s", error)
                self._greenlets.append(gevent.spawn(self._end_of_the_dead_later))

    def _end_of_the_dead_later(self) -> None:
        while True:
            gevent.sleep(_AGAIN)
            try:
                self._end_of_the_dead()
            except StorageError:
                continue
            _log.info("subscriptions of processes that died are listed no more")
            return

    def _end_of_the_dead(self) -> None:
        """Tell of the end of subscriptions whose process was killed: it could not.

        :raises StorageError: they cannot be written.
        """
        for record in in_thread(self._transport.adopt):
            subscription, identity = restored(record)
            end = subscription.event(identity, active=False)
            self._append((end,), None, Presence(subscription.path(identity), None))

    def close(self) -> None:
        """End all streams, write what is queued, close the log."""
        for subscriber in self.engine:
            self.engine.end(subscriber, Ending(Reason.HUB_STOPS))
        gevent.killall(self._greenlets)
        self._hand_over()
        self._transport.close()
        for watcher in self._watchers:
            watcher.stop()  # type: ignore[attr-defined]
            watcher.close()  # type: ignore[attr-defined]
        self.engine.close()

    @property
    def compresses(self) -> bool:
        """Whether streams can be compressed."""
        return self.engine.compresses

    def drain(self, timeout: float) -> None:
        """Wait until each update that was accepted is committed and written to its subscribers.

        :param timeout: seconds to wait at most.
        """
        with gevent.Timeout(timeout, False):
            try:
                in_thread(self._transport.catch_up)
            except StorageError as error:
                _log.error("updates of other processes may not be sent before the end: %s", error)
            gevent.sleep(0)  # for what is collected then
            self._idle.wait()

    def trust_clock(self) -> None:
        """Discard updates by the wall clock again, however it was set."""
        self._transport.trust_clock()

    def check(self) -> None:
        """Raise ``StorageError`` when updates cannot be stored now."""
        in_thread(self._transport.check)

    # -- publishing ------------------------------------------------------------------------------

    def publish(self, update: Update) -> None:
        """Store an update and have it sent; returns once it is durable.

        :raises StorageError: it could not be stored, and nobody gets it.
        """
        self.publish_all((update,))

    def publish_all(self, updates: Sequence[Update]) -> None:
        """Store updates in one transaction and have them sent in order; returns once they are durable.

        :raises StorageError: they could not be stored, and nobody gets any of them.
        """
        self._has_room.wait()
        waiter = Waiter()
        self._append(updates, waiter)
        outcome: Outcome = waiter.get()
        if outcome is not None:
            self.tally.add(FAILED, len(updates))
            raise outcome
        self.tally.add(UPDATES, len(updates))

    def _append(
        self, updates: Sequence[Update], waiter: Waiter | None, presence: Presence | None = None
    ) -> None:
        self._unanswered += 1
        self._idle.clear()
        if not self._accepted:
            gevent.get_hub().loop.run_callback(self._hand_over)
        self._accepted.append((updates, waiter, presence))

    def _hand_over(self) -> None:
        """Give the log what this turn of the event loop brought.

        All at once: given one by one, the log's thread would begin a transaction for the first of a
        hundred, and then fight for the interpreter with the loop that reads the others.
        """
        accepted, self._accepted = self._accepted, []
        for updates, waiter, presence in accepted:
            self._transport.append(updates, waiter, presence)

    def _collect(self) -> None:
        for commit in self._transport.collect():
            self._unanswered -= len(commit.tickets)
            if commit.entries:
                self._idle.clear()
                self._backlog.extend(commit.entries)
                self._commits.append((commit.entries[-1].sequence, commit.at, len(commit.entries)))
                self._characters += _size(commit.entries)
                self._has_backlog.set()
                if self._is_crowded():
                    self._has_room.clear()
            for waiter in commit.tickets:
                if waiter is not None:
                    waiter.switch(commit.error)
        self._note_idle()

    def _is_crowded(self) -> bool:
        """Whether there is so much to be dispatched, by number or by size, that more has to wait."""
        return len(self._backlog) > _MAX_BACKLOG or self._characters > _MAX_BACKLOG_CHARACTERS

    def _dispatch(self) -> None:
        while True:
            self._has_backlog.wait()
            entries = list(self._backlog)
            self._backlog.clear()
            self._is_dispatching = True
            self._has_backlog.clear()
            if not self._is_crowded():
                self._has_room.set()
            self.last_event_id = entries[-1].update.id
            updates = (entry.update for entry in reversed(entries) if not entry.is_event)
            self._last_update_id = next((update.id for update in updates), self._last_update_id)
            try:
                for unbroken in _unbroken(entries, self.engine.dispatched):
                    if unbroken[0].sequence != self.engine.dispatched + 1:
                        self._end_incomplete()  # the follower says why
                    for _ in self.engine.dispatch(unbroken):
                        gevent.sleep(0)
            except Exception:
                _log.exception("updates were not sent to all; this is a defect of the hub")
                self.engine.dispatched = entries[-1].sequence
                self._end_incomplete()
            self._is_dispatching = False
            self._note_dispatched(entries[-1].sequence)
            self._characters -= _size(entries)
            if not self._is_crowded():
                self._has_room.set()
            self._note_idle()

    def _end_incomplete(self) -> None:
        """End all streams, for each may lack an update: their clients come back and resume."""
        for number, subscriber in enumerate(self.engine.everyone(), 1):
            try:
                self.end(subscriber, Ending(Reason.INCOMPLETE))
            except Exception:  # whatever it is: the others have to be ended, and updates sent from then on
                _log.exception("a stream could not be ended; this is a defect of the hub")
            if number % _AT_ONCE == 0:
                gevent.sleep(0)

    def end(self, subscriber: Subscriber, ending: Ending) -> None:
        """End a stream, also one that still reads history; its client may come back."""
        if subscriber in self._reading:
            self._reading[subscriber] = ending  # its replay ends when it sees that
            self.engine.release(subscriber)
        else:
            self.engine.end(subscriber, ending)

    def _note_dispatched(self, sequence: int) -> None:
        now = self.clock()
        while self._commits and self._commits[0][0] <= sequence:
            _, committed, count = self._commits.popleft()
            self.tally.observe(DELIVERY, max(now - committed, 0.0), count)
        self.tally.add(DELIVERIES, self.engine.delivered)
        self.engine.delivered = 0

    def sample(self) -> None:
        """Note how much there is of what comes and goes."""
        websockets = min(self.engine.websockets, len(self.engine))
        self.tally.put(CONNECTED, len(self.engine) - websockets, "sse")
        self.tally.put(CONNECTED, websockets, "websocket")
        self.tally.put(QUEUE, self._unanswered, "commit")
        self.tally.put(QUEUE, len(self._backlog), "dispatch")

    def size(self) -> Size:
        """How much history there is.

        :raises StorageError: the log cannot be read.
        """
        return in_thread(self._transport.size)

    def _note_idle(self) -> None:
        if not self._unanswered and not self._backlog and not self._is_dispatching:
            self._idle.set()

    def _tick(self) -> None:
        while True:
            gevent.sleep(_TICK)
            try:
                self._transport.expire(self.clock())
                for _ in self.engine.tick():
                    gevent.sleep(0)
            except Exception:
                _log.exception("heartbeats failed; this is a defect of the hub")

    # -- subscribing -----------------------------------------------------------------------------

    def new_subscriber_id(self) -> str:
        """Identifier of a new connection: random, and only where somebody can ask for it."""
        return f"urn:uuid:{uuid.uuid4()}" if self._announces else ""

    def locate(
        self, cursor: str | None, matchers: tuple[Matcher, ...], *, takes_events: bool = False
    ) -> Start:
        """Find the update after which a subscriber wants to resume.

        An id that is not in the log stands for an update that was discarded, or never was: all that
        is left comes after it (spec, Reconciliation). So does one after which something was discarded.

        :param cursor: the requested event id, ``earliest``, empty, or ``None``.
        :param matchers: what the subscriber listens to.
        :param takes_events: it may get events of the hub; to the others it is nothing that some are gone.
        """
        if not cursor:  # an empty one starts now as well, and is answered with where that is
            here = self.last_event_id if takes_events else self._last_update_id
            return Start(None, None if cursor is None else here)
        from_the_beginning = Start(0, EARLIEST, takes_events=takes_events)
        if cursor == EARLIEST:
            return from_the_beginning
        topics = _exact_topics(matchers)
        upto = self.engine.dispatched

        # Of an empty log too, it is known that nothing follows the newest update: after a quiet night no
        # subscriber has missed anything. An id that publishers use again is no proof of that.
        newest = {self.last_event_id} if takes_events else {self.last_event_id, self._last_update_id}
        is_newest = cursor in newest and cursor.startswith(_UNIQUE) and not self._is_dispatching

        def look() -> Start:
            found = self._transport.find(cursor)
            if found is None:
                if is_newest:
                    return Start(upto, cursor, takes_events=takes_events)
                return from_the_beginning
            page = None
            if found < upto and (topics is not None or upto - found <= _PAGE):
                page = self._transport.read(found, upto, topics, _PAGE)  # while we are in the thread
            beginning = self._transport.beginning(upto) if page is None else page.beginning
            if found < upto and beginning.lacks(found, events=takes_events):
                return from_the_beginning
            if page is not None and page.weight > _SMALL_PAGE:
                page = None  # of thousands that come back at once each would have one
            return Start(found, cursor, page, takes_events)

        return self._lookups.do(look)

    def enter(self, subscriber: Subscriber) -> None:
        """Take note of a subscriber whose stream begins, so that it can be ended from now on.

        ``start`` or ``abandon`` has to follow.
        """
        self._reading[subscriber] = None

    def replay(self, subscriber: Subscriber, start: Start, outlet: Outlet) -> bool:
        """Send a subscriber that was entered what it missed; afterwards ``start`` it.

        :param start: what ``locate`` found.
        :returns: false when the stream has to end: its time is over, or somebody ended it, or updates were
            discarded that it should still get. Its client comes back, and is told so.
        :raises StorageError: the log cannot be read; the connection has to end.
        :raises Exception: what the outlet raises.
        """
        if start.after is None:
            return not self._is_over(subscriber)
        after = start.after
        topics = _exact_topics(subscriber.matchers)
        wanted = Scope(subscriber.matchers)
        pause = _FIRST_LOOK
        while self.engine.dispatched < after:  # its last update is stored and not yet sent to the others
            if self._is_over(subscriber):
                return False
            gevent.sleep(pause)  # ever longer: there may be thousands, and a process with much to do
            pause = min(2 * pause, _LAST_LOOK)
        boundary = self.engine.dispatched  # what comes later may have other topics
        selected: frozenset[str] | None = None
        if start.page is not None:
            reached = self._pass_on(
                subscriber, wanted, _Part(after, start.page.reached, topics), start, outlet
            )
            if reached is None:
                return False
            after = reached
        elif topics is None:
            selected = self._selected(subscriber.matchers, wanted, after, boundary)
        is_held = False
        while True:
            if not is_held:
                upto = self.engine.dispatched
                is_held = upto - after <= _PAGE
                if is_held:  # what comes after this boundary is collected by the engine
                    self.engine.hold(subscriber)
            if after >= upto:
                return not self._is_over(subscriber)
            part = _Part(after, upto, topics)
            if selected is not None and after < boundary:
                part = _Part(after, min(upto, boundary), selected)
            reached = self._pass_on(subscriber, wanted, part, start, outlet)
            if reached is None:
                return False
            after = reached

    def _is_over(self, subscriber: Subscriber) -> bool:
        """Whether a subscriber that reads history has to end; the reason is noted."""
        ending = self._reading[subscriber]
        if ending is None and self.clock() >= subscriber.ends_at:
            ending = Ending(Reason.TIME_IS_OVER)
        elif ending is None and subscriber.state is State.GONE:  # the engine holds no more
            ending = behind(self._limits.buffer)
        self._reading[subscriber] = ending
        return ending is not None

    def _pass_on(
        self, subscriber: Subscriber, wanted: Scope, part: _Part, start: Start, outlet: Outlet
    ) -> int | None:
        """Send a part of the history, as much as one page has.

        While the client takes its time, nothing but the bytes to be sent is in memory, and when others need
        the memory not even those: then they are read again.

        :param start: may have the page.
        :returns: up to where, or ``None`` when the stream has to end.
        """
        share = Share()
        page = start.take_page()
        if page is not None and not self._budget.take(share, page.weight, 0):
            page = None
        sent = 0
        first_hash: int | None = None  # of what was offered, of which TLS may send some and say none
        try:
            while not self._is_over(subscriber):
                if share.octets is None:
                    if page is None and not self._take_memory(share, subscriber):
                        continue
                    page = page or self._lookups.do(partial(self._read, part, start))
                    part = _Part(part.after, page.reached, part.topics)
                    octets = self._encoded(subscriber, wanted, page)
                    # Of the first page too: it is read by several statements.
                    lacks = page.beginning.lacks(part.after, start.then, events=start.takes_events)
                    if lacks or first_hash not in (None, hash(octets)):
                        self._note_discarded(subscriber, part)
                        return None
                    share.octets = octets
                    self._budget.resize(share, len(octets))
                    page = None
                    del octets
                sent += outlet.offer(memoryview(share.octets)[sent:])
                if sent == len(share.octets):
                    return part.upto
                first_hash = hash(share.octets)
                self._budget.lend(share)
                has_room = outlet.wait(_TICK)
                while not (self._budget.keep(share) or has_room or self._is_over(subscriber)):
                    has_room = outlet.wait(_TICK)
        finally:
            self._budget.release(share)
        return None

    def _read(self, part: _Part, start: Start) -> Page:
        """Read a page, in a thread; for one who gets all that there is, note where that begins."""
        if not part.after and start.then is None:
            start.then = self._transport.beginning(part.upto)  # first: what goes meanwhile is missing then
        return self._transport.read(part.after, part.upto, part.topics, _PAGE)

    def _take_memory(self, share: Share, subscriber: Subscriber) -> bool:
        """Wait for memory to read a page, until the subscriber's time is over."""
        left = subscriber.ends_at - self.clock()
        return self._budget.take(share, _READING, None if left == float("inf") else left)

    def _encoded(self, subscriber: Subscriber, wanted: Scope, page: Page) -> bytes:
        """What a subscriber gets of a page, in its form; the same for the same page."""
        updates = [entry.update for entry in page.entries if _is_for(subscriber, wanted, entry.update)]
        pieces = []
        for octets in self.engine.history(updates, subscriber.form):
            pieces.append(octets)
            gevent.sleep(0)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _note_discarded(self, subscriber: Subscriber, part: _Part) -> None:
        self._reading[subscriber] = Ending(Reason.DISCARDED)
        _log.warning(
            "the replay for %s is ended: updates after %d were discarded before they could be sent; "
            "keep more history (MERCURE_HISTORY_SIZE, MERCURE_HISTORY_MAX_AGE)",
            subscriber.peer,
            part.after,
        )

    def _selected(
        self, matchers: Sequence[Matcher], wanted: Scope, after: int, upto: int
    ) -> frozenset[str] | None:
        """The topics in the log that patterns select: of a long history, only their updates need be read.

        :returns: ``None`` when it is no less work to read everything.
        """
        most = (upto - after) // _UPDATES_PER_TOPIC
        if most < _PAGE or any(matcher.is_wildcard for matcher in matchers):
            return None
        found: list[str] = []
        beyond = None
        count = 0
        for _ in range(0, most, _PAGE):
            page = self._lookups.do(partial(self._transport.topics, after, upto, beyond, _PAGE))
            count += len(page.topics)
            found += filter(wanted.covers, _with_pauses(page.topics))
            if len(found) > MANY_TOPICS:
                return None
            if page.beyond is None:
                return frozenset(found) if len(found) <= count // 2 else None
            beyond = page.beyond
        return None

    def start(self, subscriber: Subscriber, fd: int, tls: ssl.SSLSocket | None) -> None:
        """Send a subscriber all updates from now on, and tell of its subscriptions.

        :param fd: descriptor of its socket.
        :param tls: the TLS layer over it.
        """
        # First, for the engine may find that it has left, and then its end is announced.
        self._note_accepted(subscriber)
        self._announce(subscriber, active=True)
        self._reading.pop(subscriber, None)
        self.engine.start(subscriber, fd, tls)

    def abandon(self, subscriber: Subscriber, ending: Ending) -> None:
        """Forget a subscriber that left before ``start``.

        :param ending: why, unless the broker knows better.
        """
        self.engine.release(subscriber)
        self.quota.leave(subscriber)
        self._note_accepted(subscriber)
        self._note_end(subscriber, self._reading.pop(subscriber, None) or ending)

    def subscriptions(self, value: str | None = None) -> Iterator[Subscription]:
        """The subscriptions that are active now, in all processes; with pauses, for there may be many.

        :param value: only those with this matcher.
        :raises StorageError: those of other processes cannot be read.
        """
        others = in_thread(lambda: _others(self._transport.others(), value))
        subscribers = list(self.engine) if value is None else self.engine.listening_with(value)
        for subscriber in _with_pauses(subscribers):
            yield from _subscriptions(subscriber)
        yield from _with_pauses(others)

    def end_replays(self, ending: Ending) -> None:
        """End the streams that still read history, within a second."""
        for subscriber in list(self._reading):
            self.end(subscriber, ending)

    def everyone(self) -> list[Subscriber]:
        """All subscribers, with those that still read history."""
        return [*self._reading, *self.engine]

    def _gone(self, subscriber: Subscriber, ending: Ending) -> None:
        self.quota.leave(subscriber)
        self._announce(subscriber, active=False)
        self._note_end(subscriber, ending)

    def _note_accepted(self, subscriber: Subscriber) -> None:
        self.tally.add(SUBSCRIBERS, 1, "sse" if subscriber.websocket is None else "websocket")

    def _note_end(self, subscriber: Subscriber, ending: Ending) -> None:
        self.tally.add(ENDED, 1, ending.reason.label)
        if _log.isEnabledFor(logging.INFO):
            _log.info(
                "subscriber %s left after %.0f s: %s",
                subscriber.peer,
                self.clock() - subscriber.connected_at,
                ending.text,
            )

    def _announce(self, subscriber: Subscriber, *, active: bool) -> None:
        if not self._announces:
            return
        identity = subscriber.identity
        for subscription in _subscriptions(subscriber):
            record = subscription.record(identity) if active else None
            presence = Presence(subscription.path(identity), record)
            self._append((subscription.event(identity, active=active),), None, presence)


def _subscriptions(subscriber: Subscriber) -> Iterator[Subscription]:
    return of_subscriber(subscriber.matchers, subscriber.id, subscriber.grant.payload_for)


def _with_pauses(items: Iterable[T]) -> Iterator[T]:
    for number, item in enumerate(items, 1):
        if number % _AT_ONCE == 0:
            gevent.sleep(0)
        yield item


def _others(records: Sequence[str], value: str | None) -> list[Subscription]:
    if value is not None:
        encoded = json.dumps(value)  # as in the record; to read each one takes forty times as long
        records = [record for record in records if encoded in record]
    return [restored(record)[0] for record in records]


def _unbroken(entries: Sequence[Entry], before: int) -> Iterator[Sequence[Entry]]:
    """Parts of some updates in which none is missing.

    :param before: sequence of the last update before them.
    """
    start = 0
    for index, entry in enumerate(entries):
        if entry.sequence != before + 1 and index > start:
            yield entries[start:index]
            start = index
        before = entry.sequence
    yield entries[start:]


def _size(entries: Sequence[Entry]) -> int:
    return sum(len(entry.update.data) for entry in entries)


def _is_for(subscriber: Subscriber, wanted: Scope, update: Update) -> bool:
    if update.private and not subscriber.grant.subscribe.covers_any(update.topics):
        return False
    return wanted.covers_any(update.topics)


def _exact_topics(matchers: tuple[Matcher, ...]) -> frozenset[str] | None:
    """The topics of matchers that are all exact; ``None`` when one of them is not."""
    exact = [matcher.exact for matcher in matchers]
    return None if None in exact else frozenset(topic for topic in exact if topic is not None)
