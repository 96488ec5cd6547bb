"""The way of an update: from its publisher into the history, and from there to the subscribers.

1. ``publish`` queues the update and waits.
2. ``submit`` gives everything that the event loop has queued meanwhile to the storage.
3. ``take_commits`` answers the publishers of what is durable now and appends it to the backlog, together with
   the updates that other processes committed.
4. ``dispatch`` gives the backlog to the engine, in the order of the history.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence

import gevent
from gevent.event import Event
from gevent.hub import Waiter

from mercure_hub.fanout.engine import Engine
from mercure_hub.metrics.catalogue import BREAKS, DELIVERIES, DELIVERY, FAILED, LEASES_LOST, QUEUE, UPDATES
from mercure_hub.metrics.tally import Tally
from mercure_hub.protocol.errors import StorageError
from mercure_hub.protocol.update import EARLIEST, Update
from mercure_hub.storage.interface import Entry, Presence
from mercure_hub.storage.store import Store

_MAX_BACKLOG = 5_000  # committed updates that are not dispatched yet, before publishers have to wait
_MAX_CHARACTERS = 64 << 20  # the same for their size, with those that are being dispatched
_MAX_UNANSWERED = 2_000  # publications and announcements that wait for the storage, before more are made
_LOOK = 0.005  # seconds between two looks at whether everything is dispatched
_GATHERING = 0.001  # seconds for which publications wait for others, if the event loop is busy for so long

_log = logging.getLogger("mercure_hub.subscriber")

Storage = Store[Waiter | None]


class Dispatcher:
    """Takes updates from publishers through the storage to the engine.

    :param storage: the history.
    :param engine: sends updates to subscribers.
    :param clock: monotonic time in seconds.
    :param tally: counts what happens.
    :param on_gap: called when streams lack updates, because these could not be sent or read, or because the
        storage lost updates or has another history.
    :param on_lease: called when this process counted as dead, with the number of leases that it has lost.
    :param on_event: called with each event of the hub that is dispatched, of whichever process.
    :param max_characters: size of the updates that may wait for dispatch before publishers have to wait.

    ``generation`` changes with each gap. ``last_event_id`` is the id of the last update that the engine was
    given, or that was stored before the start; ``last_update_id`` is the same without subscription events.
    ``is_dispatching`` is true while the engine has updates that it has not sent to everyone yet.
    """

    def __init__(
        self,
        storage: Storage,
        engine: Engine,
        clock: Callable[[], float],
        tally: Tally,
        on_gap: Callable[[], None],
        *,
        on_lease: Callable[[int], None] = lambda _: None,
        on_event: Callable[[Update], None] = lambda _: None,
        max_characters: int = _MAX_CHARACTERS,
    ) -> None:
        self.last_event_id = self.last_update_id = EARLIEST
        self.is_dispatching = False
        self.generation = 0
        self._storage = storage
        self._engine = engine
        self._clock = clock
        self._tally = tally
        self._on_gap = on_gap
        self._on_lease = on_lease
        self._on_event = on_event
        self._max_characters = max_characters
        self._queued: list[tuple[Sequence[Update], Waiter | None, Presence | None]] = []
        self._unanswered = 0  # publications that are queued or being committed
        self._lull: _Lull | None = None
        self._are_many = False  # were answered by the last commit
        self._backlog: deque[Entry] = deque()
        self._characters = 0  # of the backlog and of what is being dispatched
        self._has_room = Event()
        self._has_room.set()
        self._commits: deque[tuple[int, float, int]] = deque()  # last sequence, time, updates
        self._idle: Waiter | None = None  # of the greenlet that dispatches, while it has nothing to do
        self._newest: tuple[int, str | None] | None = None  # where the history ends since a break
        self._dispatching: gevent.Greenlet | None = None

    def start(self, sequence: int, newest_event: str | None, newest_update: str | None) -> None:
        """Begin to dispatch what comes after the updates that are in the history already.

        :param sequence: of the newest update.
        :param newest_event: its id, if it is still stored.
        :param newest_update: id of the newest update that is no subscription event, if it is still stored.
        """
        self._engine.dispatched = sequence
        self.last_event_id = newest_event or EARLIEST
        self.last_update_id = newest_update or EARLIEST
        self._dispatching = gevent.spawn(self._keep_dispatching)
        self._lull = _Lull(self.submit)

    def publish(self, updates: Sequence[Update]) -> None:
        """Store updates in one transaction and have them sent in order; returns once they are durable.

        :raises StorageAway: the engine is known to be away.
        :raises StorageInDoubt: they may be stored, and then all receive them.
        :raises StorageError: they could not be stored; nobody receives any of them.
        """
        if not self._has_room.is_set():
            self._has_room.wait()
        absence = self._storage.absence
        if absence is not None:
            self._tally.add(FAILED, len(updates))
            raise absence
        waiter = Waiter()
        self._queue(updates, waiter, None)
        error: StorageError | None = waiter.get()
        if error is not None:
            self._tally.add(FAILED, len(updates))
            raise type(error)(error.detail)  # a new one for each: a raised one keeps frames alive
        self._tally.add(UPDATES, len(updates))

    def announce(self, event: Update, presence: Presence) -> None:
        """Store a subscription event, and who is connected, without waiting for either."""
        self._queue((event,), None, presence)

    @property
    def is_slow(self) -> bool:
        """Whether many updates are unanswered."""
        return self._unanswered > _MAX_UNANSWERED

    def wait_for_answers(self) -> None:
        """Wait while many updates are unanswered: announcing thousands must not fill the memory."""
        while self.is_slow:
            gevent.sleep(_LOOK)

    def _queue(self, updates: Sequence[Update], waiter: Waiter | None, presence: Presence | None) -> None:
        self._unanswered += 1
        if not self._queued:
            if self._are_many and self._lull is not None:  # they come back, in one turn of the loop or some
                self._lull.begin()
            else:
                gevent.get_hub().loop.run_callback(self.submit)
        self._queued.append((updates, waiter, presence))

    def submit(self) -> None:
        """Give the storage what is queued.

        All at once: given one by one, the storage's thread would begin a transaction for the first of a
        hundred, and then compete for the interpreter with the loop that reads the others.
        """
        queued, self._queued = self._queued, []
        for updates, waiter, presence in queued:
            self._storage.append(updates, waiter, presence)

    def take_commits(self) -> None:
        """Answer publishers whose updates are committed, and dispatch what is new in the history."""
        for commit in self._storage.collect():
            self._unanswered -= len(commit.tickets)
            if commit.broken is not None:
                self._tally.add(BREAKS, 1, commit.broken.label)
            if commit.lease is not None:
                self._tally.add(LEASES_LOST)
                self._on_lease(commit.lease)
            if commit.newest is not None:
                self._forget_backlog()
                self._newest = commit.newest
            if commit.entries:
                self._backlog.extend(commit.entries)
                self._commits.append((commit.entries[-1].sequence, commit.at, len(commit.entries)))
                self._characters += _characters(commit.entries)
                if self.is_crowded():
                    self._has_room.clear()
            if commit.tickets:  # else of another process
                self._are_many = len(commit.tickets) > 1
            for waiter in commit.tickets:
                if waiter is not None:
                    waiter.switch(commit.error)
        idle = self._idle
        if idle is not None and (self._backlog or self._newest is not None):
            self._idle = None
            gevent.get_hub().loop.run_callback(idle.switch, None)

    def is_crowded(self) -> bool:
        """Whether so much is waiting for dispatch, by number or by size, that more has to wait."""
        return len(self._backlog) > _MAX_BACKLOG or self._characters > self._max_characters

    def _keep_dispatching(self) -> None:
        while True:
            self.dispatch()
            idle = self._idle = Waiter()
            idle.get()

    def dispatch(self) -> None:
        """Give the backlog to the engine until nothing is left of it."""
        while self._backlog or self._newest is not None:
            if self._newest is not None:
                (sequence, newest_id), self._newest = self._newest, None
                self.last_event_id = self.last_update_id = newest_id or EARLIEST
                self._note_gap(sequence)
                continue
            entries = list(self._backlog)
            self._backlog.clear()
            self._let_publishers_in()
            self.is_dispatching = True
            self.last_event_id = entries[-1].update.id
            updates = (entry.update for entry in reversed(entries) if not entry.is_event)
            self.last_update_id = next((update.id for update in updates), self.last_update_id)
            for entry in entries:
                if entry.is_event:
                    self._on_event(entry.update)
            self._send(entries)
            self.is_dispatching = False
            self._note_dispatched(entries[-1].sequence)
            self._characters -= _characters(entries)
            self._let_publishers_in()

    def _forget_backlog(self) -> None:
        """Dispatch nothing that the storage has lost."""
        self._characters -= _characters(self._backlog)
        self._backlog.clear()
        self._commits.clear()
        self._let_publishers_in()

    def _send(self, entries: Sequence[Entry]) -> None:
        try:
            for run in unbroken_runs(entries, self._engine.dispatched):
                if run[0].sequence != self._engine.dispatched + 1:
                    self._note_gap(run[0].sequence - 1)  # the storage has logged why
                for _ in self._engine.dispatch(run):
                    gevent.sleep(0)
        except Exception:
            _log.exception("updates were not sent to all; this is a defect of the hub")
            self._note_gap(entries[-1].sequence)

    def _note_gap(self, sequence: int) -> None:
        """Continue after a sequence; streams that are open now lack something before it."""
        self._engine.dispatched = sequence  # first: streams that begin from now on read the history as it is
        self.generation += 1
        self._on_gap()

    def _let_publishers_in(self) -> None:
        if not self.is_crowded():
            self._has_room.set()

    def _note_dispatched(self, sequence: int) -> None:
        now = self._clock()
        while self._commits and self._commits[0][0] <= sequence:
            _, committed, count = self._commits.popleft()
            self._tally.observe(DELIVERY, max(now - committed, 0.0), count)
        self._tally.add(DELIVERIES, self._engine.delivered)
        self._engine.delivered = 0

    def sample(self) -> None:
        """Note how much is waiting."""
        self._tally.put(QUEUE, self._unanswered, "commit")
        self._tally.put(QUEUE, len(self._backlog), "dispatch")

    def drain(self) -> None:
        """Wait until every update that was accepted is committed and written to its subscribers."""
        while self._unanswered or self._backlog or self.is_dispatching:
            gevent.sleep(_LOOK)

    def close(self) -> None:
        """Dispatch no more, and give what is queued to the storage."""
        if self._dispatching is not None:
            self._dispatching.kill()
        if self._lull is not None:
            self._lull.close()
            self._lull = None
        self.submit()


class _Lull:
    """Calls a function as soon as the event loop has nothing else to do, or after ``_GATHERING`` seconds."""

    def __init__(self, action: Callable[[], None]) -> None:
        loop = gevent.get_hub().loop
        self._action = action
        self._idle = loop.idle()
        self._late = loop.timer(_GATHERING, _GATHERING)

    def begin(self) -> None:
        self._idle.start(self._end)
        self._late.again(self._end)

    def _end(self) -> None:
        self._idle.stop()
        self._late.stop()
        self._action()

    def close(self) -> None:
        self._idle.close()
        self._late.close()


def unbroken_runs(entries: Sequence[Entry], before: int) -> Iterator[Sequence[Entry]]:
    """Runs of entries in which no sequence number is missing.

    :param before: sequence of the entry before the first.
    """
    start = 0
    for index, entry in enumerate(entries):
        if entry.sequence != before + 1 and index > start:
            yield entries[start:index]
            start = index
        before = entry.sequence
    yield entries[start:]


def _characters(entries: Iterable[Entry]) -> int:
    return sum(len(entry.update.data) for entry in entries)
