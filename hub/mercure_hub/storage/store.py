"""The pump between the event loop and an engine's ``Link``: it queues, batches, orders and answers.

One thread does all the writing. It takes whatever updates wait and appends them as one batch, so that a
hundred publishers cost one fsync. Another thread follows what other processes store. Both hand commits to the
event loop in the order of their sequences, under one lock: a process that finds earlier commits of others
reads them, and its own updates after them.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Generic, NamedTuple

from mercure_hub.protocol.errors import StorageAway, StorageError, StorageInDoubt
from mercure_hub.protocol.revocation import Revocation
from mercure_hub.protocol.update import Update
from mercure_hub.storage.interface import (
    AlreadyStored,
    Batch,
    Beginning,
    Break,
    Commit,
    Copy,
    Entry,
    Lag,
    LeaseLost,
    Link,
    Outline,
    Page,
    Presence,
    Records,
    Resume,
    Resumed,
    Revoked,
    Seen,
    Size,
    Ticket,
    TopicPage,
    Unstorable,
)

_log = logging.getLogger("mercure_hub.storage")


class _Waiting(NamedTuple, Generic[Ticket]):
    """What one call of ``append`` brought."""

    updates: Sequence[Update]
    ticket: Ticket
    presence: Presence | None


@dataclass(slots=True)
class _Wait(Generic[Ticket]):
    """The writer waits for the engine.

    :param since: monotonic time in seconds.
    :param bound: seconds after which publications are answered.
    :param batch: what it has taken; ``expire`` takes publications out of it.
    :param explain: makes the answer, from the seconds waited.
    :param is_sent: it may have been stored.
    """

    since: float
    bound: float
    batch: list[_Waiting[Ticket]]
    explain: Callable[[float], StorageError]
    is_sent: bool = False

    def failure(self, now: float) -> StorageError | None:
        """What publications are answered, if it has taken too long."""
        waited = now - self.since
        return None if waited < self.bound else self.explain(waited)


class _Pauses:
    """Pauses between attempts, which become longer.

    :param first: seconds.
    :param last: seconds at most.
    """

    def __init__(self, first: float, last: float) -> None:
        self._next, self._last = first, last

    def next(self) -> float:
        """Seconds until the next attempt."""
        pause, self._next = self._next, min(2 * self._next, self._last)
        # Not all processes at once: they have lost the engine at the same moment.
        return pause * random.uniform(0.5, 1.0)  # noqa: S311 - no secret


class _Absence:
    """The engine is away: attempts to reach it become rarer.

    :param detail: why it cannot be reached.
    :param pauses: between the attempts.
    """

    def __init__(self, detail: str, pauses: _Pauses) -> None:
        self.since = time.monotonic()
        self._pauses = pauses
        self.goes_on(detail)

    def goes_on(self, detail: str) -> None:
        """Note that an attempt has failed."""
        self.detail = detail
        self.retry_at = time.monotonic() + self._pauses.next()


class _NotStored(StorageError):
    """An append that was in doubt was not stored, and will not be."""


class _Abandoned(BaseException):
    """The store was closed while its writer waited for the engine."""


class Store(Generic[Ticket]):
    """Stores updates, and collects those of all processes.

    ``append``, ``collect``, ``expire``, ``absence``, ``lag`` and ``trust_clock`` never block; all else may.

    :param link: to the engine, not yet open.
    :param copy: of the history, if the link reads from one. All updates are delivered when they are in it,
        also those of this process.

    ``on_append``, which can be replaced, is called in the writer's thread with the seconds that an append
    took, and its number of updates. ``absences`` counts how often the engine went away, ``doubts`` the
    appends that it did not answer, ``lease`` the leases that this process has lost.
    """

    max_batch = 1000
    """Updates that are appended at once."""
    max_batch_characters = 8 << 20
    """The same for the size of their data."""
    max_read = 500
    """Updates of other processes that are read at once."""
    max_read_characters = 8 << 20
    """The same for the size of their data, give or take some updates."""
    max_commits = 100
    """Commits that may wait for ``collect`` before updates of other processes are left in the engine."""
    turn_timeout = 3.0
    """Seconds that a publication waits for the turn to write. A publisher that gives up before the answer,
    mostly after five, cannot tell what became of its update."""
    doubt_timeout = 5.0
    """Seconds that a publication waits for the outcome of an append that was not answered."""
    first_retry, last_retry = 0.1, 2.0
    """Seconds between two attempts while the engine is away or does not answer, at first and later."""
    repeat_within = 1.0
    """Seconds after which a batch is not sent again if the engine was away: its publishers waited enough."""
    renew_interval = 5.0
    """Seconds after which the lease of this process is renewed."""
    look_interval = 1.0
    """Seconds after which updates of other processes, and what is too old, are looked for unasked."""
    crowded_pause = 0.02
    """Seconds between two looks at whether the caller is still crowded."""
    copy_timeout = 2.0
    """Seconds that ``catch_up`` waits for updates of this process to be in the copy of the history."""

    def __init__(self, link: Link, copy: Copy | None = None) -> None:
        self._link = link
        self._copy = copy
        self._waiting: queue.SimpleQueue[_Waiting[Ticket] | None] = queue.SimpleQueue()
        self._commits: deque[Commit[Ticket]] = deque()
        self._wake: Callable[[], None] = lambda: None
        self._is_caller_crowded: Callable[[], bool] = lambda: False
        self._writer = threading.Thread(target=self._write, name="mercure-store-writer", daemon=True)
        self._follower = threading.Thread(target=self._follow, name="mercure-store-follower", daemon=True)
        self._owed: dict[str, tuple[Sequence[Update], Presence]] = {}
        self.on_append: Callable[[float, int], None] = lambda _seconds, _updates: None
        self.absences = self.doubts = self.lease = 0
        self._number = 0  # of the last batch
        self._failure: StorageError | None = None
        self._absence: _Absence | None = None
        self._renew_at = 0.0
        self._has_lost_presence = False  # with the newest updates of the engine
        self._is_ending = False  # the writer has taken the last that was queued
        self._closing = threading.Event()
        self._claim = threading.Lock()  # for the next one, and for taking something out of its batch
        self._wait: _Wait[Ticket] | None = None
        self._order = threading.Lock()  # for the next ones, and for the order of commits
        self._seen = 0  # the sequence up to which everything was delivered
        self._seen_id: str | None = None
        self._stored = 0  # the sequence of this process's newest update
        self._epoch = ""
        self._compare_at = 0.0  # when to look for a break although nothing has failed
        self._is_link_suspect = False  # something has failed since the last look
        self._current_at = time.monotonic()  # when nothing of others was left to read
        self._behind = 0  # updates of others that were left at the last look
        self._stuck_since: float | None = None  # when others' updates could not be read any more
        self._is_stuck_told = False

    # -- for the event loop ----------------------------------------------------------------------

    def open(
        self,
        wake: Callable[[], None],
        is_crowded: Callable[[], bool] = lambda: False,
        since: Seen | None = None,
    ) -> tuple[int, str | None]:
        """Open the link and begin to write and to follow.

        :param wake: called, from any thread, when ``collect`` has something to return.
        :param is_crowded: whether the caller has collected more than it can deal with at the moment: then the
            updates of other processes stay in the engine. Asked from any thread.
        :param since: where to begin; by default where the history ends.
        :returns: sequence and id of the update before the first that is collected; as ``newest``.
        :raises StorageError: the link cannot be opened.
        """
        self._wake, self._is_caller_crowded = wake, is_crowded
        self._link.open()
        if self._closing.is_set():  # while this waited
            self._link.close(is_writer_left=False)
            raise StorageError(f"{self._link.name} was closed")
        if self._copy is not None:
            self._copy.began_anew()  # first: what it has now is where this begins
        if since is None:
            position = self._link.position()
            since = Seen(position.epoch, position.last, self._link.id_at(position.last))
        else:
            self._is_link_suspect = True  # until it is known to be the same history
        self._epoch, self._seen, self._seen_id = since.epoch, since.last, since.event_id
        self._current_at = time.monotonic()
        self._compare_at = self._current_at + self.renew_interval
        self._writer.start()
        self._follower.start()
        return self._seen, self._seen_id

    def append(self, updates: Sequence[Update], ticket: Ticket, presence: Presence | None = None) -> None:
        """Queue updates that become durable together, one after the other, or not at all.

        The commit that answers them comes back through ``collect``.

        :param presence: becomes durable with them; the updates are events of the hub then.
        """
        self._waiting.put(_Waiting(updates, ticket, presence))

    def collect(self) -> list[Commit[Ticket]]:
        """The commits since the last call, in order, with those of other processes."""
        commits: list[Commit[Ticket]] = []
        while self._commits:
            commits.append(self._commits.popleft())
        return commits

    def expire(self, now: float) -> None:
        """Fail publications that cannot be stored in time. Presence stays, and is written later.

        To be called regularly. The writer itself goes on waiting: nothing can interrupt the wait for a lock.

        :param now: monotonic time in seconds.
        """
        with self._claim:
            wait = self._wait
            if wait is None:
                return
            failure = wait.failure(now)
            refusal: StorageError | None = failure
            if wait.is_sent:  # what is queued was not sent
                refusal = self.absence or (None if failure is None else StorageAway(str(failure)))
            if refusal is None:
                return
            taken: list[Ticket] = []
            if failure is not None:
                taken = [one.ticket for one in wait.batch if one.presence is None]
                wait.batch[:] = [one for one in wait.batch if one.presence is not None]
            queued = self._take_publications()
        if failure is not None:
            if self._failure is None and not taken and not queued:
                _log.error("%s", failure)
            self._failure = StorageError(str(failure))
        if wait.is_sent and taken:
            self._deliver(Commit((), taken, StorageInDoubt(f"{failure}; the update may be stored")))
            taken = []
        if taken or queued:
            self._deliver(Commit((), [*taken, *queued], refusal))

    def _take_publications(self) -> list[Ticket]:
        """Take publications out of the queue; the rest of it stays in order."""
        taken: list[Ticket] = []
        for _ in range(self._waiting.qsize()):
            one = self._waiting.get_nowait()
            if one is None or one.presence is not None:
                self._waiting.put(one)
            else:
                taken.append(one.ticket)
        return taken

    @property
    def absence(self) -> StorageAway | None:
        """Why nothing can be stored now, if the engine is known to be away."""
        absence = self._absence
        # Always a new one: each time that an error is raised, it keeps more frames alive.
        return None if absence is None else StorageAway(absence.detail)

    @property
    def name(self) -> str:
        """The engine in words, without credentials."""
        return self._link.name

    @property
    def is_relaxed(self) -> bool:
        """Whether the engine may lose what it has acknowledged."""
        return self._link.is_relaxed

    def lag(self, now: float) -> Lag:
        """How far this process is behind the history.

        :param now: monotonic time in seconds.
        """
        absence = self._absence
        is_away = absence is not None or self._stuck_since is not None
        seconds = max(now - self._current_at - self.look_interval, 0.0)
        if absence is not None:
            seconds = max(seconds, now - absence.since)
        if self._copy is None:
            return Lag(seconds, self._behind, is_away)
        copy = self._copy.lag(now)
        return Lag(max(seconds, copy.seconds), self._behind + copy.updates, is_away or copy.is_away)

    @property
    def epoch(self) -> str:
        """Of the history that is followed."""
        return self._epoch

    def trust_clock(self) -> None:
        """Discard by the clock again, however it was set: an administrator has checked it."""
        self._link.trust_clock()

    # -- for other threads: these may block ------------------------------------------------------

    def newest(self) -> tuple[int, str | None]:
        """Sequence of the newest update ever stored (0: none), and its id if it is still there."""
        last = self._link.position().last
        return last, self._link.id_at(last)

    def newest_update(self) -> str | None:
        """Id of the newest update of a publisher, if one is there."""
        return self._link.newest_update()

    def resume(self, wanted: Sequence[Resume]) -> list[Resumed]:
        """Look up where subscribers go on; see ``Link.resume``."""
        return self._link.resume(wanted)

    def beginning(self, upto: int, topics: Collection[str] | None = None) -> Beginning:
        """Where the history begins; see ``Link.beginning``."""
        return self._link.beginning(upto, topics)

    def read(self, after: int, upto: int, topics: Collection[str] | None, limit: int) -> Page:
        """Read a part of the history; see ``Link.read``."""
        return self._link.read(after, upto, topics, limit)

    def topics(self, after: int, upto: int, beyond: int | None, limit: int) -> TopicPage:
        """Topics in a part of the history; see ``Link.topics``."""
        return self._link.topics(after, upto, beyond, limit)

    def newest_of(self, wanted: Sequence[tuple[str, int]], limit: int) -> list[Sequence[Outline]]:
        """The newest updates of topics; see ``Link.newest_of``."""
        return self._link.newest_of(wanted, limit)

    def at(self, sequences: Sequence[int]) -> list[Entry]:
        """The entries with some sequences; see ``Link.at``."""
        return self._link.at(sequences)

    def others(self, value: str | None, beyond: str | None, limit: int) -> Records:
        """The subscriptions that other processes have; see ``Link.others``."""
        return self._link.others(value, beyond, limit)

    def adopt(self, limit: int) -> list[str]:
        """Take over subscriptions of processes that died; see ``Link.adopt``.

        :returns: their records; each has to be ended with an update.
        """
        return self._link.adopt(limit)

    def revoke(self, revocations: Sequence[Revocation], now: float) -> None:
        """Store revocations; see ``Link.revoke``."""
        self._link.revoke(revocations, now)

    def revocations(self, after: int, limit: int) -> Revoked:
        """The revocations after a version; see ``Link.revocations``."""
        return self._link.revocations(after, limit)

    def size(self) -> Size:
        """How much history there is."""
        return self._link.size()

    def check(self) -> None:
        """Raise ``StorageError`` when nothing can be read, or written after a failure.

        After a failure it is tried: a balancer sends no publisher to a hub that reports a failure.
        """
        if not self._writer.is_alive():
            raise StorageError(f"the writer of {self._link.name} has stopped")
        if not self._follower.is_alive():
            raise StorageError(f"the follower of {self._link.name} has stopped")
        absence = self.absence
        if absence is not None:
            raise absence
        wait = self._wait
        failure = None if wait is None else wait.failure(time.monotonic())
        if failure is not None:  # doubt about one batch means that the engine is away for others
            raise StorageAway(failure.detail) if isinstance(failure, StorageInDoubt) else failure
        is_after_failure = self._failure is not None
        self._link.check(by_writing=is_after_failure)
        if is_after_failure:
            self._failure = None

    def catch_up(self) -> None:
        """Have everything collected that is stored by now; from a copy, at least what this process stored."""
        deadline = time.monotonic() + self.copy_timeout
        more = True
        while more and not self._closing.is_set():
            with self._order:
                more = self._try_to_read_on()
                is_behind = self._copy is not None and self._seen < self._stored
            if is_behind and not more and time.monotonic() < deadline:
                self._closing.wait(self.crowded_pause)
                more = True

    def close(self) -> None:
        """Store what is queued, and disconnect.

        A writer that cannot go on in time is left behind: it ends with the process, or when it can.
        """
        self._closing.set()
        self._waiting.put(None)
        if self._follower.is_alive():
            self._link.interrupt()  # it ends while the writer does
        is_late = False
        while self._writer.is_alive() and not is_late:
            self._writer.join(self.look_interval / 2)
            wait = self._wait
            is_late = wait is not None and wait.failure(time.monotonic()) is not None
        if self._follower.is_alive():
            self._link.interrupt()
            self._follower.join()
        self._link.close(is_writer_left=is_late)

    # -- the writer's thread ---------------------------------------------------------------------

    def _write(self) -> None:
        while not self._is_ending:
            batch = self._first()
            try:
                if self._is_away():
                    self._fill(batch)
                    self._refuse(batch)
                    continue
                if batch or self._owed:
                    self._append(batch)
                if not self._closing.is_set():
                    self._tend()
            except _Abandoned:
                return
            except Exception as error:  # whatever it is: this thread must live on
                self._fail([], error)

    def _first(self) -> list[_Waiting[Ticket]]:
        """Wait for something to write, until something else is due."""
        try:
            first = self._waiting.get(timeout=self._pause())
        except queue.Empty:
            return []
        if first is None:
            self._is_ending = True
            return []
        return [first]

    def _pause(self) -> float:
        """Seconds for which the writer has nothing to do unasked."""
        absence, now = self._absence, time.monotonic()
        if absence is not None:
            return max(absence.retry_at - now, 0.0)
        if self._owed and self._failure is None:  # there is more than fitted into one batch
            return 0.0
        return max(min(now + self.look_interval, self._renew_at) - now, 0.0)

    def _is_away(self) -> bool:
        """Whether the engine is away; tries to reach it if that is due."""
        absence = self._absence
        if absence is None:
            return False
        if time.monotonic() < absence.retry_at or self._closing.is_set():
            return True
        try:
            self._renew()
        except Exception as error:  # whatever it is: waiting publications have to be answered
            absence.goes_on(self._reason(error))
            return True
        self._end_absence()
        return False

    def _note_absence(self, detail: str) -> None:
        absence = self._absence
        if absence is None:
            self._absence = _Absence(detail, _Pauses(self.first_retry, self.last_retry))
            self.absences += 1
            _log.error("%s; publications are refused until it answers", detail)
        else:
            absence.goes_on(detail)

    def _end_absence(self) -> None:
        absence, self._absence = self._absence, None
        if absence is not None:
            self._failure = None  # something was written
            _log.info("%s is back after %.1f s", self._link.name, time.monotonic() - absence.since)
            self._wake()

    def _refuse(self, batch: list[_Waiting[Ticket]]) -> None:
        """Answer publications while the engine is away."""
        self._owe(batch)
        if batch:
            self._deliver(Commit((), [one.ticket for one in batch], self.absence))

    def _tend(self) -> None:
        """Do the regular tasks: renew the lease, and discard."""
        if self._has_lost_presence:
            self._link.leave()
            self._renew()
            self._has_lost_presence = False
        if time.monotonic() >= self._renew_at:
            self._renew()
        if self._link.is_discard_due():
            with self._turn([]):
                self._link.discard()

    def _renew(self) -> None:
        self._renew_at = time.monotonic() + self.look_interval  # if this fails
        is_kept = self._link.renew()
        self._renew_at = time.monotonic() + self.renew_interval
        if not is_kept:
            self.lease += 1
            self._owed.clear()
            reason = "the lease of this process expired, so others end its subscriptions"
            if self._has_lost_presence:
                reason = "the newest subscriptions may be lost"
            _log.warning("%s: %s; this process announces all of them again", self._link.name, reason)
            self._deliver(Commit((), (), lease=self.lease))

    def _append(self, batch: list[_Waiting[Ticket]]) -> None:
        """Append what waits: a batch, what is owed, and more that has come."""
        began = time.monotonic()
        try:
            try:
                sent, first = self._send(batch)
            except LeaseLost:
                self._is_link_suspect = (
                    True  # an engine that lost its newest updates forgets who joined since
                )
                self._renew()
                sent, first = self._send(batch)
            except (_NotStored, StorageAway) as error:
                # The connection broke, as by a restart or a failover, and the engine may be there already.
                is_quick = isinstance(error, _NotStored) or time.monotonic() < began + self.repeat_within
                if self._closing.is_set() or not is_quick:
                    raise
                self._is_link_suspect = True  # it may be there without its newest updates
                sent, first = self._send(batch)
        except Exception as error:  # whatever it is: this thread must live on
            self._fail(batch, error)
            return
        if sent is None:
            if batch:  # the history has all of it
                self._deliver(Commit((), [one.ticket for one in batch]))
            return
        for change in sent.presence:
            self._owed.pop(change.key, None)
        self._failure = None
        self._end_absence()
        sequences = range(first, first + len(sent.updates))
        entries = list(map(Entry, sequences, sent.updates, sent.are_events))
        self._deliver_own(entries, [one.ticket for one in batch])

    def _send(self, batch: list[_Waiting[Ticket]]) -> tuple[Batch | None, int]:
        """Append a batch, without what is to be stored once and is in the history.

        :returns: what was appended, if anything, and its first sequence.
        """
        with self._turn(batch):
            self._fill(batch)  # now, because more came while another process wrote
            if any(one.presence is not None for one in batch):
                self._drop_ended(batch)
                self._queue_behind_owed(batch)
            _drop_repeats(batch)
            while True:
                sent = self._batch_of(batch)
                if not sent.updates:
                    return None, 0
                began = time.monotonic()
                try:
                    first = self._link.append(sent)
                except AlreadyStored as known:
                    _drop(batch, [sent.updates[position] for position in known.positions])
                    continue
                except StorageInDoubt as error:
                    doubt = error
                except StorageError:
                    raise
                except Exception as error:  # a defect, so nobody knows how far it came
                    doubt = StorageInDoubt(self._reason(error))
                else:
                    self.on_append(time.monotonic() - began, len(sent.updates))
                    return sent, first
                break
        return sent, self._outcome(sent, batch, doubt, began)

    def _drop_ended(self, batch: list[_Waiting[Ticket]]) -> None:
        """Leave out the presence of leases that were lost: others have ended it."""
        self._take_out(batch, lambda presence: presence.lease != self.lease, None)

    def _queue_behind_owed(self, batch: list[_Waiting[Ticket]]) -> None:
        """Have changes of presence wait for earlier ones, of which not all may fit into one batch."""
        if self._owed:
            self._owe(self._take_out(batch, lambda _: True, self._failure))

    def _take_out(
        self, batch: list[_Waiting[Ticket]], which: Callable[[Presence], bool], error: StorageError | None
    ) -> list[_Waiting[Ticket]]:
        """Take some changes of presence out of a batch, and answer them."""
        taken = [one for one in batch if one.presence is not None and which(one.presence)]
        if taken:
            batch[:] = [one for one in batch if one.presence is None or not which(one.presence)]
            self._deliver(Commit((), [one.ticket for one in taken], error))
        return taken

    @contextlib.contextmanager
    def _turn(self, batch: list[_Waiting[Ticket]]) -> Iterator[None]:
        """Wait for the turn to write, and hold it.

        :param batch: will be written; while the turn does not come, ``expire`` may take something out of it.
        """
        # Only this thread sets it; the lock is for taking it away, which nobody must notice too late.
        self._wait = _Wait(time.monotonic(), self.turn_timeout, batch, self._link.why_waiting)
        try:
            with self._link.turn():
                self._end_wait()
                yield
        finally:
            if self._wait is not None:
                with self._claim:
                    self._wait = None

    def _end_wait(self) -> None:
        with self._claim:
            wait, self._wait = self._wait, None
        if self._closing.is_set() and wait is not None and wait.failure(time.monotonic()) is not None:
            raise _Abandoned  # the link may be closed

    def _fill(self, batch: list[_Waiting[Ticket]]) -> None:
        """Add whatever waits, up to a limit."""
        if self._waiting.empty():  # as behind a single publisher
            return
        count = sum(len(one.updates) for one in batch)
        characters = sum(_characters(one.updates) for one in batch)
        while count < self.max_batch and characters < self.max_batch_characters:
            try:
                one = self._waiting.get_nowait()
            except queue.Empty:
                return
            if one is None:
                self._is_ending = True
                return
            batch.append(one)
            count += len(one.updates)
            characters += _characters(one.updates)

    def _batch_of(self, batch: Sequence[_Waiting[Ticket]]) -> Batch:
        """What is owed, or as much of it as fits, and a batch."""
        updates: list[Update] = []
        are_events: list[bool] = []
        presence: list[Presence] = []
        everything = [(one.updates, one.presence) for one in batch]
        owed = islice(self._owed.values(), self.max_batch)
        for some, change in [*owed, *everything] if self._owed else everything:
            updates += some
            are_events += [change is not None] * len(some)
            if change is not None:
                presence.append(change)
        self._number += 1
        return Batch(self._number, updates, are_events, presence)

    def _outcome(
        self, sent: Batch, batch: list[_Waiting[Ticket]], doubt: StorageInDoubt, began: float
    ) -> int:
        """Ask whether an append was committed, until the engine knows.

        :param batch: of which ``expire`` takes something out while there is no answer.
        :param began: monotonic time of the append.
        :returns: the sequence of its first update.
        :raises _NotStored: it was not.
        """
        self.doubts += 1
        self._is_link_suspect = True
        pauses = _Pauses(self.first_retry, self.last_retry)
        wait = _Wait(began, self.doubt_timeout, batch, lambda _: StorageInDoubt(str(doubt)), is_sent=True)
        with self._claim:
            self._wait = wait
        try:
            while not self._closing.is_set():
                try:
                    first = self._link.outcome(sent.number)
                    break
                except Exception as error:  # whatever it is: nobody knows more than before
                    self._note_absence(self._reason(error))
                self._closing.wait(pauses.next())
            else:
                raise _Abandoned  # nobody waits for the answer now, and others end the subscriptions
        finally:
            with self._claim:
                self._wait = None
        self._end_absence()
        if first is None:
            raise _NotStored(f"{doubt}; it was not stored")
        return first

    def _fail(self, batch: Sequence[_Waiting[Ticket]], error: Exception) -> None:
        is_known = self._failure is not None
        text = self._reason(error)
        # Not read again: a health check in another thread may clear it, which would acknowledge the batch.
        # A new one, because the frames of the old one refer to the updates.
        failure = self._failure = StorageError(text)
        if isinstance(error, StorageAway):
            failure = self._failure = StorageAway(text)
            self._note_absence(text)
        elif not is_known and all(one.ticket is None for one in batch):
            # Waiting callers are told, and log it. What is tried again and again is logged once.
            _log.error("%s", failure)
        self._is_link_suspect = True
        if not isinstance(error, Unstorable):
            self._owe(batch)
        elif any(one.presence is None for one in batch):
            self._owe(batch)  # it may be the publications that cannot be stored: without them next time
        else:
            for key in list(islice(self._owed, self.max_batch)):
                del self._owed[key]
        if batch:
            self._deliver(Commit((), [one.ticket for one in batch], failure))

    def _reason(self, error: Exception) -> str:
        text = str(error)
        if isinstance(error, StorageError):
            return text
        return f"{self._link.name} cannot be written: {text or type(error).__name__}"

    def _owe(self, batch: Sequence[_Waiting[Ticket]]) -> None:
        """Keep changes of presence for the next batch.

        Nobody else tries again, and a subscription that has ended would be listed as long as this process
        lives. The end of what was never announced is forgotten with its beginning.
        """
        for one in batch:
            if one.presence is not None and one.presence.lease == self.lease:
                before = self._owed.pop(one.presence.key, None)
                if before is None or one.presence.record is not None or one.presence.replaces:
                    self._owed[one.presence.key] = one.updates, one.presence

    # -- commits, in order -----------------------------------------------------------------------

    def _deliver(self, commit: Commit[Ticket]) -> None:
        """Give a commit to the event loop."""
        self._commits.append(commit)
        self._wake()

    def _deliver_own(self, entries: Sequence[Entry], tickets: Sequence[Ticket]) -> None:
        """Deliver what this process has stored, after what others stored before it.

        :param entries: with consecutive sequences.
        """
        first, last = entries[0].sequence, entries[-1].sequence
        self._stored = last
        if self._copy is not None:
            self._deliver(Commit((), tickets))
            return
        with self._order:
            if first != self._seen + 1 or self._is_link_suspect:
                self._try_to_read_on()
            fresh: Sequence[Entry] = ()
            if first <= self._seen + 1:  # what was missing has been read, maybe more than that
                fresh = entries[self._seen + 1 - first :]
                self._advance(fresh)
            self._deliver(Commit(fresh, tickets))
            is_behind = last > self._seen
            if fresh:
                self._current_at = time.monotonic()
        if is_behind:
            self._link.interrupt()

    def _follow(self) -> None:
        """Deliver what other processes store; this runs in a thread of its own."""
        deaf: _Pauses | None = None  # between looks, while the engine tells nothing
        while not self._closing.is_set():
            try:
                self._link.wait(self._seen, self.look_interval)
                if deaf is not None:
                    _log.info("%s tells again what other processes store", self._link.name)
                deaf = None
            except Exception as error:  # whatever it is: this thread must live on
                self._is_link_suspect = True
                if deaf is None:
                    deaf = _Pauses(self.first_retry, self.last_retry)
                    self._log_deafness(error)
                self._closing.wait(deaf.next())
            more = True
            while more and not self._closing.is_set():
                if self._is_crowded():
                    time.sleep(self.crowded_pause)
                    continue
                with self._order:
                    more = self._try_to_read_on()

    def _log_deafness(self, error: Exception) -> None:
        if isinstance(error, StorageAway):
            self._renew_at = 0.0  # the writer looks too, and logs it if it finds the same
        else:
            _log.error(
                "%s does not tell what other processes store, so this one looks every %g s at most: %s",
                self._link.name,
                self.last_retry,
                error,
            )

    def _is_crowded(self) -> bool:
        """Whether the caller is behind: then updates of others wait in the engine."""
        return self._is_caller_crowded() or len(self._commits) > self.max_commits

    def _try_to_read_on(self) -> bool:
        """Deliver a part of what others have stored.

        :returns: whether there may be more at once.
        """
        try:
            if self._copy is not None and self._copy.began_anew():
                self._is_link_suspect = True
            if self._is_link_suspect or time.monotonic() >= self._compare_at:
                self._look_for_break()
            more = self._read_on()
            self._behind = max(self._link.position().last - self._seen, 0) if more else 0
        except Exception as error:  # whatever it is: its thread must live on
            self._suspect(error)
            return False
        if self._is_stuck_told:
            _log.info("the updates of other processes can be read again")
        self._stuck_since, self._is_stuck_told = None, False
        if not more:
            self._current_at = time.monotonic()
        return more

    def _read_on(self) -> bool:
        entries = self._link.after(self._seen, self.max_read, self.max_read_characters)
        if not entries:
            return False
        broken = None
        if entries[-1].sequence > self._seen + len(entries):
            broken = Break.TRIMMED
            _log.error(
                "updates between %d and %d were discarded before this process could send them: it stood "
                "still or was cut off for too long, or the clock was changed",
                self._seen + 1,
                entries[-1].sequence,
            )
        self._advance(entries)
        self._deliver(Commit(entries, (), broken=broken))
        return (
            len(entries) >= self.max_read
            or _characters([entry.update for entry in entries]) >= self.max_read_characters
        )

    def _look_for_break(self) -> None:
        """Look whether the engine still has the history of which a part was delivered."""
        self._is_link_suspect = False  # first: what fails from now on counts again
        position = self._link.position()
        broken = None
        if position.epoch != self._epoch:
            broken = Break.REPLACED
        elif position.last < self._seen or self._link.id_at(self._seen) not in (None, self._seen_id):
            broken = Break.REWOUND
        if broken is not None:
            _log.error("%s: %s; streams end, so that their clients resume", self._link.name, broken.text)
            self._has_lost_presence = True
            self._epoch, self._seen = position.epoch, position.last
            self._seen_id = self._link.id_at(position.last)
            self._deliver(Commit((), (), broken=broken, newest=(self._seen, self._seen_id)))
        self._compare_at = time.monotonic() + self.renew_interval

    def _advance(self, entries: Sequence[Entry]) -> None:
        if entries:
            self._seen, self._seen_id = entries[-1].sequence, entries[-1].update.id

    def _suspect(self, error: Exception) -> None:
        self._is_link_suspect = True
        now = time.monotonic()
        if self._stuck_since is None:
            self._stuck_since = now
        if isinstance(error, StorageAway):
            self._renew_at = 0.0  # the writer looks too, and logs it if it finds the same
        is_elsewhere = isinstance(error, StorageAway) and now < self._stuck_since + 2 * self.look_interval
        if not (self._is_stuck_told or is_elsewhere or self._absence is not None):
            self._is_stuck_told = True  # what is tried again and again is logged once
            _log.error("the updates of other processes cannot be read: %s", error)


def _drop_repeats(batch: list[_Waiting[Ticket]]) -> None:
    """Take out updates that are to be stored once and are in the batch before."""
    if not any(update.once for one in batch for update in one.updates):
        return
    updates = [update for one in batch for update in one.updates]
    if len({update.id for update in updates}) == len(updates):
        return
    earlier: set[Update] = set()
    repeats: list[Update] = []
    for update in updates:
        if update.once and update in earlier:
            repeats.append(update)
        earlier.add(update)
    _drop(batch, repeats)


def _drop(batch: list[_Waiting[Ticket]], updates: Sequence[Update]) -> None:
    """Take updates out of a batch. What has none left is answered with the rest."""
    dropped = set(map(id, updates))  # these and not others that are equal
    for index, one in enumerate(batch):
        left = [update for update in one.updates if id(update) not in dropped]
        if len(left) < len(one.updates):
            batch[index] = one._replace(updates=left)


def _characters(updates: Sequence[Update]) -> int:
    return sum(len(update.data) for update in updates)
