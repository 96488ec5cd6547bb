"""What a subscriber missed: found in the history, sent page by page, then handed over to live updates.

``locate`` finds the update that the subscriber has. ``replay`` reads what comes after it, up to what the
engine has dispatched. Within one page of that boundary it lets the engine hold newer updates, reads the rest,
and the subscriber goes live: nothing is missing, and nothing comes twice. A subscriber without a cursor may
ask for the last value of each topic first.
"""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

import gevent
from gevent.event import Event

from mercure_hub.broker.dispatch import Dispatcher, Storage
from mercure_hub.broker.last_values import Depth, Search, Values
from mercure_hub.broker.threads import Lookups
from mercure_hub.fanout.encoding import Form
from mercure_hub.fanout.endings import Ending, Reason, behind
from mercure_hub.fanout.engine import Engine
from mercure_hub.fanout.receivers import named_topics
from mercure_hub.fanout.subscriber import State, Subscriber
from mercure_hub.protocol.matching.matcher import Matcher
from mercure_hub.protocol.matching.table import Scope
from mercure_hub.protocol.update import EARLIEST, Update
from mercure_hub.storage.interface import MANY_TOPICS, Beginning, Page, Resume, Resumed
from mercure_hub.storage.rules import Interest

_GONE = State.GONE  # looking up a member in its class is slow before Python 3.12
_READING = 1 << 20  # bytes that a page takes while it is read and encoded
_SMALL_PAGE = 32 << 10  # bytes of history that may be in memory before the replay begins
_UPDATES_PER_TOPIC = 8  # in a range of the history where it pays to look for topics first
_TOPICS_BETWEEN_PAUSES = 100  # that patterns are tried on
_UNIQUE = "urn:uuid:"  # prefix of ids that are generated for one update
_FIRST_LOOK, _LAST_LOOK = 0.001, 0.1  # seconds between two looks at what has been dispatched
_WAIT = 1.0  # seconds between two looks at whether a replay has to end while its client takes nothing

_log = logging.getLogger("mercure_hub.subscriber")


@dataclass(frozen=True, slots=True)
class ReplayLimits:
    """Limits of the replays of a process.

    :param page: updates, or topics, that are read from the history at once.
    :param memory: bytes of history in memory, for all replays together.
    :param values: last values that one subscriber is sent at most.
    """

    page: int = 500
    memory: int = 32 << 20
    values: int = 10_000


@dataclass(slots=True)
class Start:
    """Where a subscription begins.

    :param after: sequence of the last update that the subscriber has; ``None`` for "from now on".
    :param last_event_id: value of the ``Mercure-Last-Event-ID`` response header, or ``None``.
    :param page: the first page after it, if that has been read already; ``take_page`` removes it.
    :param has_values: the last value of each topic up to there comes first.
    :param takes_events: the subscriber may get subscription events.
    :param then: where the history began when the subscriber was told that updates may be missing, if it was.
    :param told: sequence of the newest update at that time: what came up to there may be missing.
    :param interest: what it could have got of what rules discard.
    :param generation: of the dispatcher at that time.
    """

    after: int | None = None
    last_event_id: str | None = None
    page: Page | None = None
    takes_events: bool = False
    then: Beginning | None = None
    told: int = 0
    interest: Interest | None = None
    generation: int = 0
    has_values: bool = False

    def lacks(self, beginning: Beginning, after: int) -> bool:
        """Whether something was discarded that the subscriber should have got after a sequence.

        :param beginning: of the history, as of now.
        """
        discarded, interest = beginning.discarded, self.interest
        if discarded is None or interest is None:
            return beginning.lacks(after, self.then, events=self.takes_events)
        if interest.newest(discarded) > max(after, self.told):
            return True
        has_rest = interest.has_rest(discarded)
        return beginning.lacks(after, self.then, events=self.takes_events, updates=has_rest)

    def take_page(self) -> Page | None:
        """The first page; forgotten here, so that its memory can be freed."""
        page, self.page = self.page, None
        return page


class Outlet(Protocol):
    """Where the history of one subscriber goes."""

    def offer(self, content: memoryview) -> int:
        """Send as much as possible without waiting.

        :returns: bytes sent.
        :raises OSError: the connection is broken.
        """

    def wait(self, seconds: float) -> bool:
        """Wait until the client makes room.

        :param seconds: at most.
        :returns: it has made room; if false, it may still have made a little.
        :raises Exception: it has taken nothing for too long, or left.
        """


@dataclass(frozen=True, slots=True)
class _Span:
    """A span of the history to read; see ``Store.read``.

    :param sequences: only these, of which it does not matter whether they are there; see ``Store.at``.
    """

    after: int
    upto: int
    topics: frozenset[str] | None
    sequences: Sequence[int] | None = None


class Replays:
    """Finds where subscribers resume, and sends them what they missed.

    :param storage: the history.
    :param dispatcher: knows the newest updates.
    :param engine: encodes updates, and holds new ones back while the history is read.
    :param clock: monotonic time in seconds.
    :param buffer: bytes of new updates that the engine holds for a subscriber.
    :param limits: page size and memory.
    """

    def __init__(
        self,
        storage: Storage,
        dispatcher: Dispatcher,
        engine: Engine,
        clock: Callable[[], float],
        *,
        buffer: int,
        limits: ReplayLimits,
    ) -> None:
        self._storage = storage
        self._dispatcher = dispatcher
        self._engine = engine
        self._clock = clock
        self._buffer = buffer
        self._page = limits.page
        self._most_values = limits.values
        self._lookups = Lookups()
        self._budget = ReplayBudget(limits.memory)
        self._encoded_last: dict[Form, tuple[list[Update], bytes]] = {}  # many lack the same updates
        self._reading: dict[Subscriber, Ending | None] = {}  # and why its stream has to end, if it has to

    # -- where it begins -------------------------------------------------------------------------

    def locate(
        self,
        cursor: str | None,
        matchers: tuple[Matcher, ...],
        *,
        takes_events: bool,
        wants_values: bool = False,
    ) -> Start:
        """Find the update after which a subscriber wants to resume.

        An unknown id stands for an update that was discarded, or never existed: everything that is left comes
        after it (spec, Reconciliation). The same holds for an id after which something was discarded.

        :param cursor: the requested event id, ``earliest``, empty, or ``None``.
        :param matchers: what the subscriber listens to.
        :param takes_events: it may get subscription events; discarded ones do not matter to others.
        :param wants_values: without a cursor, the last value of each topic is to come first.
        """
        dispatcher = self._dispatcher
        if not cursor and wants_values:
            # No position is told: whoever leaves before it has all values asks for them again.
            return Start(
                self._engine.dispatched,
                takes_events=takes_events,
                interest=Interest(matchers),
                generation=dispatcher.generation,
                has_values=True,
            )
        if not cursor:  # an empty cursor also starts now, and the answer says where that is
            here = dispatcher.last_event_id if takes_events else dispatcher.last_update_id
            return Start(None, None if cursor is None else here, generation=dispatcher.generation)
        if cursor == EARLIEST:
            return Start(
                0,
                EARLIEST,
                takes_events=takes_events,
                told=self._engine.dispatched,
                interest=Interest(matchers),
                generation=dispatcher.generation,
            )
        topics = _exact_topics(matchers)
        while True:
            generation, upto = dispatcher.generation, self._engine.dispatched
            # Nothing follows the newest update, even if the history is empty: after a quiet night no
            # subscriber has missed anything. An id that publishers can use twice proves nothing.
            newest = {dispatcher.last_event_id} | (set() if takes_events else {dispatcher.last_update_id})
            is_newest = cursor in newest and cursor.startswith(_UNIQUE) and not dispatcher.is_dispatching
            wanted = Resume(cursor, upto, topics, self._page)
            resumed = self._lookups.run_jointly(self._resume, wanted)
            if dispatcher.generation == generation:  # else this is a sequence of a history that is lost
                begin = Start(takes_events=takes_events, interest=Interest(matchers), generation=generation)
                return _placed(begin, wanted, resumed, is_newest=is_newest)

    def _resume(self, wanted: Sequence[Resume]) -> list[Resumed]:
        """Look up where subscribers go on, in a thread."""
        # Thousands may come back at once. Many lack the same: their connections broke at the same moment.
        distinct = list(dict.fromkeys(wanted))
        found = dict(zip(distinct, map(_without_large_page, self._storage.resume(distinct)), strict=True))
        return [found[one] for one in wanted]

    # -- streams that read history ---------------------------------------------------------------

    def __contains__(self, subscriber: Subscriber) -> bool:
        return subscriber in self._reading

    def __iter__(self) -> Iterator[Subscriber]:
        """The subscribers that read history."""
        return iter(list(self._reading))

    def enter(self, subscriber: Subscriber) -> None:
        """Register a subscriber whose stream begins; ``leave`` has to follow."""
        self._reading[subscriber] = None

    def end(self, subscriber: Subscriber, ending: Ending) -> None:
        """Have the replay of a registered subscriber end as soon as it notices."""
        self._reading[subscriber] = ending
        self._engine.release(subscriber)

    def leave(self, subscriber: Subscriber) -> Ending | None:
        """Forget a subscriber that reads no more history.

        :returns: why its stream had to end; ``None`` if it did not.
        """
        return self._reading.pop(subscriber, None)

    def replay(self, subscriber: Subscriber, start: Start, outlet: Outlet) -> bool:
        """Send a registered subscriber what it missed. Afterwards, the engine holds what is new for it.

        :param start: what ``locate`` returned.
        :returns: false when the stream has to end: its time is over, somebody ended it, or updates that it
            should get were discarded. Its client comes back, and learns about that.
        :raises StorageError: the history cannot be read; the connection has to end.
        :raises Exception: what the outlet raises.
        """
        after = start.after
        if start.generation != self._dispatcher.generation:
            self._reading[subscriber] = Ending(Reason.INCOMPLETE)
        if after is None:
            return not self._is_over(subscriber)
        wanted = Scope(subscriber.matchers)
        if not (
            self._wait_until_dispatched(subscriber, after)
            and self._send_values(subscriber, wanted, start, after, outlet)
        ):
            return False
        topics = _exact_topics(subscriber.matchers)
        boundary = self._engine.dispatched  # later updates may have other topics
        selected: frozenset[str] | None = None
        reached: int | None
        if start.page is not None:
            first = _Span(after, start.page.reached, topics)
            reached = self._send_page(subscriber, wanted, first, start, outlet)
            if reached is None:
                return False
            after = reached
        elif topics is None:
            selected = self._selected_topics(subscriber.matchers, wanted, after, boundary)
        is_held = False
        while True:
            if not is_held:
                upto = self._engine.dispatched
                is_held = upto - after <= self._page
                if is_held:
                    self._engine.hold(subscriber)
            if after >= upto:
                return not self._is_over(subscriber)
            rest = _Span(after, upto, topics)
            if selected is not None and after < boundary:
                rest = _Span(after, min(upto, boundary), selected)
            reached = self._send_page(subscriber, wanted, rest, start, outlet)
            if reached is None:
                return False
            after = reached

    def _send_values(
        self, subscriber: Subscriber, wanted: Scope, start: Start, upto: int, outlet: Outlet
    ) -> bool:
        """Send the newest update of each topic that the subscriber listens to and may read, if it asked.

        :param upto: sequence of the last update that counts.
        :returns: false when the stream has to end.
        """
        if not start.has_values:
            return True
        values, deeper = Values(self._most_values), Depth()
        for topics in self._listened_to(subscriber.matchers, wanted, upto):
            if self._is_over(subscriber):
                return False
            search = Search(
                topics, upto, lambda one: not one.private or _may_read(subscriber, one.topics), deeper
            )
            for question in search.questions():
                if self._is_over(subscriber):
                    return False
                answers = self._lookups.run(partial(self._storage.newest_of, *question))
                for outline in search.take(answers):
                    values.add(outline)
        if deeper.is_used_up:
            _log.warning(
                "%s asked for the last values of many topics whose newest updates it may not read; only for "
                "some of them, older ones were looked at: its matchers should select what its token grants",
                subscriber.peer,
            )
        if values.is_cut:
            _log.warning(
                "%s asked for the last values of more topics than one subscriber is sent; it gets the newest "
                "ones, %d updates: its matchers should select fewer",
                subscriber.peer,
                len(values.sequences),
            )
        sequences = values.sequences
        while sequences:
            some, after = sequences[: self._page], sequences[0] - 1
            span = _Span(after, some[-1], None, some)
            reached = self._send_page(subscriber, wanted, span, start, outlet)
            if reached is None:
                return False
            sequences = sequences[bisect_right(sequences, reached) :]
        return True

    def _listened_to(self, matchers: Sequence[Matcher], wanted: Scope, upto: int) -> Iterator[Sequence[str]]:
        """The topics of the history that matchers select, some at a time."""
        exact = dict.fromkeys(matcher.exact for matcher in matchers if matcher.exact is not None)
        if exact:
            yield list(exact)
        if len(exact) == len(matchers):
            return
        beyond, is_last = None, False
        while not is_last:
            page = self._lookups.run(partial(self._storage.topics, 0, upto, beyond, self._page))
            beyond, is_last = page.beyond, page.beyond is None
            selected = []
            for number, topic in enumerate(page.topics, 1):
                if topic not in exact and wanted.covers(topic):
                    selected.append(topic)
                if number % _TOPICS_BETWEEN_PAUSES == 0:
                    gevent.sleep(0)
            yield selected

    def _wait_until_dispatched(self, subscriber: Subscriber, sequence: int) -> bool:
        """Wait for an update that is stored, but not yet sent to others; false if the stream has to end."""
        pause = _FIRST_LOOK
        while self._engine.dispatched < sequence:
            if self._is_over(subscriber):
                return False
            gevent.sleep(pause)  # increasingly long: thousands may wait in a busy process
            pause = min(2 * pause, _LAST_LOOK)
        return True

    def _is_over(self, subscriber: Subscriber) -> bool:
        """Whether a subscriber that reads history has to end; the reason is noted."""
        ending = self._reading[subscriber]
        if ending is None and self._clock() >= subscriber.ends_at:
            ending = Ending(Reason.TIME_IS_OVER)
        elif ending is None and subscriber.state is _GONE:  # the engine stopped holding updates for it
            ending = behind(self._buffer)
        self._reading[subscriber] = ending
        return ending is not None

    def _send_page(
        self, subscriber: Subscriber, wanted: Scope, span: _Span, start: Start, outlet: Outlet
    ) -> int | None:
        """Send a range of the history, or as much of it as fits into one page.

        While the client is slow, only the bytes to be sent are in memory. If others need the memory, they are
        dropped and read again.

        :param start: may have the page.
        :returns: the sequence reached, or ``None`` when the stream has to end.
        """
        share = Share()
        page = start.take_page()
        if page is not None and not self._budget.take(share, page.weight, 0):
            page = None
        sent = 0
        offered: int | None = None  # hash of the content; TLS may have sent more of it than it says
        try:
            while not self._is_over(subscriber):
                if share.content is None:
                    if page is None and not self._take_memory(share, subscriber):
                        continue
                    page = page or self._lookups.run(partial(self._read, span, start))
                    span = _Span(span.after, page.reached, span.topics, span.sequences)
                    content = self._encoded(subscriber, wanted, page)
                    # Also for the first page: it is read by several statements.
                    lacks = span.sequences is None and start.lacks(page.beginning, span.after)
                    if lacks or offered not in (None, hash(content)):
                        self._end_discarded(subscriber, span)
                        return None
                    share.content = content
                    self._budget.resize(share, len(content))
                    page = None
                    del content
                sent += outlet.offer(memoryview(share.content)[sent:])
                if sent == len(share.content):
                    return span.upto
                offered = hash(share.content)
                self._budget.lend(share)
                has_room = outlet.wait(_WAIT)
                while not (self._budget.keep(share) or has_room or self._is_over(subscriber)):
                    has_room = outlet.wait(_WAIT)
        finally:
            self._budget.release(share)
        return None

    def _take_memory(self, share: Share, subscriber: Subscriber) -> bool:
        """Wait for memory to read a page, until the subscriber's time is over."""
        left = subscriber.ends_at - self._clock()
        return self._budget.take(share, _READING, None if left == float("inf") else left)

    def _read(self, span: _Span, start: Start) -> Page:
        """Read a page, in a thread. Before the first page of the whole history, note where that begins."""
        if span.sequences is not None:
            entries = self._storage.at(span.sequences)
            return Page(entries, entries[-1].sequence if entries else span.upto, Beginning(0, 0))
        if not span.after and start.then is None:
            start.then = self._storage.beginning(span.upto)  # first: what is discarded later is missing
        return self._storage.read(span.after, span.upto, span.topics, self._page)

    def _encoded(self, subscriber: Subscriber, wanted: Scope, page: Page) -> bytes:
        """What a subscriber gets of a page, as it is sent; always the same for the same page."""
        updates = [entry.update for entry in page.entries if _is_for(subscriber, wanted, entry.update)]
        form = subscriber.form
        known = self._encoded_last.get(form)
        if known is not None and known[0] == updates:
            return known[1]
        pieces = []
        named = partial(named_topics, subscriber, wanted)
        for piece in self._engine.history(updates, form, named):
            pieces.append(piece)
            gevent.sleep(0)
        content = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        if page.weight <= _SMALL_PAGE and not form.names_topics:
            self._encoded_last[form] = updates, content
        return content

    def _end_discarded(self, subscriber: Subscriber, span: _Span) -> None:
        self._reading[subscriber] = Ending(Reason.DISCARDED)
        _log.warning(
            "the replay for %s ends: updates after %d were discarded before they could be sent; "
            "keep more history (MERCURE_HISTORY_SIZE, MERCURE_HISTORY_MAX_AGE)",
            subscriber.peer,
            span.after,
        )

    def _selected_topics(
        self, matchers: Sequence[Matcher], wanted: Scope, after: int, upto: int
    ) -> frozenset[str] | None:
        """The topics in a long range that patterns select: only their updates have to be read.

        :returns: ``None`` when reading everything is no more work.
        """
        most = (upto - after) // _UPDATES_PER_TOPIC
        if most < self._page or any(matcher.is_wildcard for matcher in matchers):
            return None
        selected: list[str] = []
        beyond = None
        seen = 0
        for _ in range(0, most, self._page):
            page = self._lookups.run(partial(self._storage.topics, after, upto, beyond, self._page))
            for topic in page.topics:
                seen += 1
                if wanted.covers(topic):
                    selected.append(topic)
                if seen % _TOPICS_BETWEEN_PAUSES == 0:
                    gevent.sleep(0)
            if len(selected) > MANY_TOPICS:
                return None
            if page.beyond is None:
                return frozenset(selected) if len(selected) <= seen // 2 else None
            beyond = page.beyond
        return None


def _without_large_page(resumed: Resumed) -> Resumed:
    page = resumed.page
    return resumed if page is None or page.weight <= _SMALL_PAGE else replace(resumed, page=None)


def _placed(start: Start, wanted: Resume, resumed: Resumed, *, is_newest: bool) -> Start:
    """A start with the place where it is, after its cursor was looked up."""
    after, page, cursor = resumed.after, resumed.page, wanted.event_id
    if after is None and is_newest:
        after = wanted.upto
    elif after is None or (after < wanted.upto and start.lacks(resumed.beginning, after)):
        after, page, cursor = 0, None, EARLIEST
        start.told = wanted.upto
    start.after, start.page, start.last_event_id = after, page, cursor
    return start


def _is_for(subscriber: Subscriber, wanted: Scope, update: Update) -> bool:
    if update.private and not _may_read(subscriber, update.topics):
        return False
    return wanted.covers_any(update.topics)


def _may_read(subscriber: Subscriber, topics: Sequence[str]) -> bool:
    """Whether its token covers a private update with these topics."""
    return subscriber.grant.subscribe.covers_any(topics)


def _exact_topics(matchers: tuple[Matcher, ...]) -> frozenset[str] | None:
    """The topics of matchers that are all exact; ``None`` when one of them is not."""
    exact = [matcher.exact for matcher in matchers]
    return None if None in exact else frozenset(topic for topic in exact if topic is not None)


class Share:
    """The part of the replay memory that one replay holds.

    ``content`` is the bytes for its client; ``None`` before they are read, and after another replay took the
    memory. ``size`` is what is counted for it, in bytes.
    """

    __slots__ = ("content", "size")

    def __init__(self) -> None:
        self.content: bytes | None = None
        self.size = 0


class ReplayBudget:
    """The memory of all replays of a process: bounded, however many there are and however slow their clients.

    A replay takes a share before it reads a page, and lends it while its client takes nothing. Another replay
    that needs memory takes lent shares away; their owners read that page again when their clients go on. So a
    client that stalls delays only itself.

    :param limit: bytes.

    ``taken`` is how much of it is in use.
    """

    def __init__(self, limit: int) -> None:
        self.taken = 0
        self._limit = limit
        self._lent: dict[Share, None] = {}  # the longest lent first
        self._waiting: deque[tuple[Share, int, Event]] = deque()

    def take(self, share: Share, size: int, timeout: float | None = None) -> bool:
        """Wait until there is memory for an empty share, first come, first served.

        :param size: bytes; more than the whole budget is admitted when nothing else is in use.
        :param timeout: seconds to wait at most; ``None``: no limit.
        :returns: false when the time is over.
        """
        if not self._waiting and self._make_room(size):
            self.resize(share, size)
            return True
        admitted = Event()
        request = share, size, admitted
        self._waiting.append(request)
        try:
            return admitted.wait(timeout) is True
        finally:
            if not admitted.is_set():
                self._waiting.remove(request)
                self._admit()  # a smaller one behind it may fit

    def resize(self, share: Share, size: int) -> None:
        """Count what a share really takes; never waits, because it is in memory already."""
        self.taken += size - share.size
        share.size = size
        self._admit()

    def lend(self, share: Share) -> None:
        """Let others take a share away while its client takes nothing."""
        self._lent[share] = None
        self._admit()

    def keep(self, share: Share) -> bool:
        """Stop lending a share.

        :returns: false when it was taken away.
        """
        self._lent.pop(share, None)
        return share.content is not None

    def release(self, share: Share) -> None:
        """Give the memory of a share back."""
        self._lent.pop(share, None)
        share.content = None
        self.resize(share, 0)

    def _admit(self) -> None:
        while self._waiting and self._make_room(self._waiting[0][1]):
            share, size, admitted = self._waiting.popleft()
            self.taken += size - share.size
            share.size = size
            admitted.set()

    def _make_room(self, size: int) -> bool:
        while self.taken and self.taken + size > self._limit and self._lent:
            lent = next(iter(self._lent))
            del self._lent[lent]
            lent.content = None
            self.taken -= lent.size
            lent.size = 0
        return not self.taken or self.taken + size <= self._limit
