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
from typing import Generic, NamedTuple

from mercure_hub.protocol.errors import StorageAway, StorageError, StorageInDoubt
from mercure_hub.protocol.update import Update
from mercure_hub.storage.interface import (
    GRACE,
    Batch,
    Beginning,
    Break,
    Commit,
    Entry,
    Lag,
    LeaseLost,
    Link,
    Page,
    Presence,
    Records,
    Resume,
    Resumed,
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


class _Absence:
    """The engine is away: attempts to reach it become rarer.

    :param error: why it cannot be reached.
    :param first: seconds until the next attempt.
    :param last: seconds between two attempts at most.
    """

    def __init__(self, error: StorageAway, first: float, last: float) -> None:
        self.error = error
        self.since = time.monotonic()
        self._pause, self._last = first, last
        self.retry_at = self.since + first

    def goes_on(self) -> None:
        """Note that an attempt has failed."""
        # Not all nodes at once: they have lost it at the same moment.
        self._pause = min(2 * self._pause, self._last)
        self.retry_at = time.monotonic() + self._pause * random.uniform(0.5, 1.0)  # noqa: S311 - no secret


class _Abandoned(BaseException):
    """The store was closed while its writer waited for the engine."""


class Store(Generic[Ticket]):
    """Stores updates, and collects those of all processes.

    ``append``, ``collect``, ``expire`` and ``trust_clock`` never block; all else may.

    :param link: to the engine, not yet open.
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
    renew_interval = 5.0
    """Seconds after which the lease of this process is renewed."""
    look_interval = 1.0
    """Seconds after which updates of other processes, and what is too old, are looked for unasked."""
    crowded_pause = 0.02
    """Seconds between two looks at whether the caller is still crowded."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._waiting: queue.SimpleQueue[_Waiting[Ticket] | None] = queue.SimpleQueue()
        self._commits: deque[Commit[Ticket]] = deque()
        self._wake: Callable[[], None] = lambda: None
        self._is_caller_crowded: Callable[[], bool] = lambda: False
        self._writer = threading.Thread(target=self._write, name="mercure-store-writer", daemon=True)
        self._follower = threading.Thread(target=self._follow, name="mercure-store-follower", daemon=True)
        self._owed: dict[str, tuple[Sequence[Update], Presence]] = {}
        self._number = 0  # of the last batch
        self._failure: StorageError | None = None
        self._absence: _Absence | None = None
        self._lease = 0  # how many this process has lost
        self._renew_at = 0.0
        self._closing = threading.Event()
        self._claim = threading.Lock()  # for the next one, and for taking something out of its batch
        self._wait: _Wait[Ticket] | None = None
        self._order = threading.Lock()  # for the next six, and for the order of commits
        self._seen = 0  # the sequence up to which everything was delivered
        self._seen_id: str | None = None
        self._epoch = ""
        self._current_at = time.monotonic()  # when nothing of others was left to read
        self._behind = 0  # updates of others that were left at the last look
        self._is_link_suspect = False  # something has failed since the last look
        self._is_stuck = False  # others' updates cannot be read
        self._is_deaf = False  # the follower cannot wait for them, so it looks again and again

    # -- for the event loop ----------------------------------------------------------------------

    def open(
        self, wake: Callable[[], None], is_crowded: Callable[[], bool] = lambda: False
    ) -> tuple[int, str | None]:
        """Open the link and begin to write and to follow.

        :param wake: called, from any thread, when ``collect`` has something to return.
        :param is_crowded: whether the caller has collected more than it can deal with at the moment: then the
            updates of other processes stay in the engine. Asked from any thread.
        :returns: as ``newest``; all that comes after it is collected.
        :raises StorageError: the link cannot be opened.
        """
        self._wake, self._is_caller_crowded = wake, is_crowded
        self._link.open()
        if self._closing.is_set():  # while this waited
            self._link.close(is_writer_left=False)
            raise StorageError(f"{self._link.name} was closed")
        position = self._link.position()
        self._epoch, self._seen = position.epoch, position.last
        self._seen_id = self._link.id_at(position.last)
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

        To be called now and then. The writer itself goes on waiting: nothing breaks off the wait for a lock.

        :param now: monotonic time in seconds.
        """
        with self._claim:
            wait = self._wait
            failure = None if wait is None else wait.failure(now)
            if wait is None or failure is None:
                return
            taken = [one.ticket for one in wait.batch if one.presence is None]
            wait.batch[:] = [one for one in wait.batch if one.presence is not None]
            queued: list[Ticket] = []
            for _ in range(self._waiting.qsize()):
                one = self._waiting.get_nowait()
                if one is None or one.presence is not None:
                    self._waiting.put(one)
                else:
                    queued.append(one.ticket)
        if self._failure is None and not taken and not queued:
            _log.error("%s", failure)
        failure = self._failure = StorageError(str(failure))
        if wait.is_sent and taken:
            self._deliver(Commit((), taken, StorageInDoubt(f"{failure}; the update may have been stored")))
            taken = []
        if taken or queued:
            self._deliver(Commit((), [*taken, *queued], failure))

    @property
    def absence(self) -> StorageAway | None:
        """Why nothing can be stored now, if the engine is known to be away."""
        absence = self._absence
        return None if absence is None else absence.error

    @property
    def is_relaxed(self) -> bool:
        """Whether the engine may lose what it has acknowledged."""
        return self._link.is_relaxed

    def lag(self, now: float) -> Lag:
        """How far this process is behind the history.

        :param now: monotonic time in seconds.
        """
        return Lag(max(now - self._current_at - self.look_interval, 0.0), self._behind, self._is_stuck)

    def trust_clock(self) -> None:
        """Discard by the clock again, however it was set: somebody has looked after it."""
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

    def beginning(self, upto: int) -> Beginning:
        """Where the history begins; see ``Link.beginning``."""
        return self._link.beginning(upto)

    def read(self, after: int, upto: int, topics: Collection[str] | None, limit: int) -> Page:
        """Read a part of the history; see ``Link.read``."""
        return self._link.read(after, upto, topics, limit)

    def topics(self, after: int, upto: int, beyond: int | None, limit: int) -> TopicPage:
        """Topics in a part of the history; see ``Link.topics``."""
        return self._link.topics(after, upto, beyond, limit)

    def others(self, value: str | None, beyond: str | None, limit: int) -> Records:
        """The subscriptions that other processes have; see ``Link.others``."""
        return self._link.others(value, beyond, limit)

    def adopt(self, limit: int) -> list[str]:
        """Take over subscriptions of processes that died; see ``Link.adopt``.

        :returns: their records; each has to be ended with an update.
        """
        return self._link.adopt(limit)

    def size(self) -> Size:
        """How much history there is."""
        return self._link.size()

    def check(self) -> None:
        """Raise ``StorageError`` when nothing can be read, or written after a failure.

        After a failure it is tried: a balancer sends no publisher to a hub that reports a failure.
        """
        if not self._writer.is_alive():
            raise StorageError(f"the writer of {self._link.name} has stopped")
        wait = self._wait
        failure = None if wait is None else wait.failure(time.monotonic())
        if failure is not None:
            raise failure
        if self.absence is not None:
            raise self.absence
        is_after_failure = self._failure is not None
        self._link.check(by_writing=is_after_failure)
        if is_after_failure:
            self._failure = None

    def catch_up(self) -> None:
        """Have everything collected that other processes have stored by now."""
        more = True
        while more and not self._closing.is_set():
            with self._order:
                more = self._try_to_read_on()

    def close(self) -> None:
        """Store what is queued, and disconnect.

        A writer that cannot go on in time is left behind: it ends with the process, or when it can.
        """
        self._closing.set()
        self._waiting.put(None)
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
        more = True
        while more:
            batch: list[_Waiting[Ticket]] = []
            try:
                first = self._waiting.get(timeout=self._pause())
                more = first is not None
                if first is not None:
                    batch.append(first)
            except queue.Empty:
                pass
            try:
                if self._is_away():
                    more = self._fill(batch) and more
                    self._refuse(batch)
                    continue
                if batch or self._owed:
                    more = self._append(batch) and more
                self._tend()
            except _Abandoned:
                return
            except Exception as error:  # whatever it is: this thread must live on
                self._fail([], error)

    def _pause(self) -> float:
        """Seconds for which the writer has nothing to do unasked."""
        absence, now = self._absence, time.monotonic()
        due = now + self.look_interval if absence is None else absence.retry_at
        return max(min(due, self._renew_at) - now if absence is None else due - now, 0.0)

    def _is_away(self) -> bool:
        """Whether the engine is away; tries to reach it if that is due."""
        absence = self._absence
        if absence is None:
            return False
        if time.monotonic() < absence.retry_at and not self._closing.is_set():
            return True
        try:
            self._renew()
        except StorageError as error:
            if not isinstance(error, StorageAway):
                error = StorageAway(str(error))
            absence.error = error
            absence.goes_on()
            return True
        self._end_absence()
        return False

    def _end_absence(self) -> None:
        absence, self._absence = self._absence, None
        if absence is not None:
            _log.info("%s is back after %.1f s", self._link.name, time.monotonic() - absence.since)

    def _refuse(self, batch: list[_Waiting[Ticket]]) -> None:
        """Answer publications while the engine is away."""
        assert self._absence is not None
        self._owe(batch)
        if batch:
            self._deliver(Commit((), [one.ticket for one in batch], self._absence.error))

    def _tend(self) -> None:
        """Do what has to be done now and then."""
        if time.monotonic() >= self._renew_at:
            self._renew()
        if self._link.is_discard_due():
            with self._turn([]):
                self._link.discard()

    def _renew(self) -> None:
        is_kept = self._link.renew()
        self._renew_at = time.monotonic() + self.renew_interval
        if not is_kept:
            self._lease += 1
            self._owed.clear()
            _log.warning(
                "this process was not heard of for so long that others ended its subscriptions; "
                "they are announced again"
            )
            self._deliver(Commit((), (), lease=self._lease))

    def _append(self, batch: list[_Waiting[Ticket]]) -> bool:
        """Append what waits: a batch, what is owed, and more that has come.

        :returns: whether there will be more.
        """
        more = True
        try:
            try:
                more, sent, first = self._send(batch)
            except LeaseLost:
                self._renew()
                still, sent, first = self._send(batch)
                more = more and still
        except Exception as error:  # whatever it is: this thread must live on
            self._fail(batch, error)
            return more
        if sent is None:
            return more
        self._owed.clear()
        self._failure = None
        self._end_absence()
        sequences = range(first, first + len(sent.updates))
        entries = list(map(Entry, sequences, sent.updates, sent.are_events))
        self._deliver_own(entries, [one.ticket for one in batch])
        return more

    def _send(self, batch: list[_Waiting[Ticket]]) -> tuple[bool, Batch | None, int]:
        """Append a batch.

        :returns: whether there will be more, what was appended, if anything, and its first sequence.
        """
        more = True
        sent: Batch | None = None
        try:
            with self._turn(batch):
                more = self._fill(batch)  # now, because more came while another process wrote
                self._drop_ended(batch)
                if batch or self._owed:
                    sent = self._batch_of(batch)
                return more, sent, self._link.append(sent) if sent is not None else 0
        except StorageInDoubt as doubt:
            assert sent is not None
            return more, sent, self._outcome(sent, batch, doubt)

    def _drop_ended(self, batch: list[_Waiting[Ticket]]) -> None:
        """Leave out the presence of leases that were lost: others have ended it."""
        ended = [one for one in batch if one.presence is not None and one.presence.lease != self._lease]
        if ended:
            batch[:] = [one for one in batch if one not in ended]
            self._deliver(Commit((), [one.ticket for one in ended]))

    @contextlib.contextmanager
    def _turn(self, batch: list[_Waiting[Ticket]]) -> Iterator[None]:
        """Wait for the turn to write, and hold it.

        :param batch: will be written; while the turn does not come, ``expire`` may take something out of it.
        """
        with self._claim:
            self._wait = _Wait(time.monotonic(), self.turn_timeout, batch, self._link.why_waiting)
        try:
            with self._link.turn():
                self._end_wait()
                yield
        finally:
            self._wait = None

    def _end_wait(self) -> None:
        with self._claim:
            wait, self._wait = self._wait, None
        if self._closing.is_set() and wait is not None and wait.failure(time.monotonic()) is not None:
            raise _Abandoned  # the link may be closed

    def _fill(self, batch: list[_Waiting[Ticket]]) -> bool:
        """Add whatever waits, up to a limit.

        :returns: whether there will be more.
        """
        count = sum(len(one.updates) for one in batch)
        characters = sum(_characters(one.updates) for one in batch)
        while count < self.max_batch and characters < self.max_batch_characters:
            try:
                one = self._waiting.get_nowait()
            except queue.Empty:
                break
            if one is None:
                return False
            batch.append(one)
            count += len(one.updates)
            characters += _characters(one.updates)
        return True

    def _batch_of(self, batch: Sequence[_Waiting[Ticket]]) -> Batch:
        """What is owed, and a batch."""
        updates: list[Update] = []
        are_events: list[bool] = []
        presence: list[Presence] = []
        everything = [(one.updates, one.presence) for one in batch]
        for some, change in [*self._owed.values(), *everything] if self._owed else everything:
            updates += some
            are_events += [change is not None] * len(some)
            if change is not None:
                presence.append(change)
        self._number += 1
        return Batch(self._number, updates, are_events, presence)

    def _outcome(self, sent: Batch, batch: list[_Waiting[Ticket]], doubt: StorageInDoubt) -> int:
        """Ask whether an append was committed, until the engine knows.

        :param batch: of which ``expire`` takes something out while there is no answer.
        :returns: the sequence of its first update.
        :raises StorageError: it was not.
        """
        pause = self.first_retry
        wait = _Wait(time.monotonic(), self.doubt_timeout, batch, lambda _: doubt, is_sent=True)
        with self._claim:
            self._wait = wait
        try:
            while True:
                try:
                    first = self._link.outcome(sent.number)
                    break
                except StorageError as error:
                    if self._closing.is_set() and wait.failure(time.monotonic()) is not None:
                        raise _Abandoned from None
                    if isinstance(error, StorageAway):
                        self._note_absence(error)
                time.sleep(pause)
                pause = min(2 * pause, self.last_retry)
        finally:
            with self._claim:
                self._wait = None
        if first is None:
            raise StorageError(str(doubt))
        return first

    def _note_absence(self, error: StorageAway) -> None:
        if self._absence is None:
            self._absence = _Absence(error, self.first_retry, self.last_retry)

    def _fail(self, batch: Sequence[_Waiting[Ticket]], error: Exception) -> None:
        is_known = self._failure is not None
        text = str(error)
        if not isinstance(error, StorageError):
            text = f"{self._link.name} cannot be written: {text or type(error).__name__}"
        # Not read again: a health check in another thread may clear it, which would acknowledge the batch.
        # A new one, because the frames of the old one refer to the updates.
        failure = self._failure = StorageError(text)
        if isinstance(error, StorageAway):
            failure = self._failure = StorageAway(text)
            self._note_absence(failure)
        self._is_link_suspect = True
        # Whoever waits is told, and logs it. What is tried again and again is logged once.
        if not is_known and all(one.ticket is None for one in batch):
            _log.error("%s", failure)
        if isinstance(error, Unstorable):
            self._owed.clear()
        else:
            self._owe(batch)
        if batch:
            self._deliver(Commit((), [one.ticket for one in batch], failure))

    def _owe(self, batch: Sequence[_Waiting[Ticket]]) -> None:
        """Keep changes of presence for the next batch.

        Nobody else tries again, and a subscription that has ended would be listed as long as this process
        lives. The end of what was never announced is forgotten with its beginning.
        """
        for one in batch:
            if one.presence is not None and one.presence.lease == self._lease:
                before = self._owed.pop(one.presence.key, None)
                if before is None or one.presence.record is not None:
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
        with self._order:
            if first != self._seen + 1 or self._is_link_suspect:
                self._try_to_read_on()
            fresh: Sequence[Entry] = ()
            if first <= self._seen + 1:  # what was missing has been read, maybe more than that
                fresh = entries[self._seen + 1 - first :]
                self._advance(fresh)
            self._deliver(Commit(fresh, tickets))
            is_behind = last > self._seen
        if is_behind:
            self._link.interrupt()

    def _follow(self) -> None:
        """Deliver what other processes store; this runs in a thread of its own."""
        pause = self.first_retry
        while not self._closing.is_set():
            try:
                self._link.wait(self._seen, self.look_interval)
                self._is_deaf = False
            except Exception as error:  # whatever it is: this thread must live on
                if not self._is_deaf:
                    self._suspect(error)
                    pause = self.first_retry
                self._is_deaf = True
                self._closing.wait(pause * random.uniform(0.5, 1.0))  # noqa: S311 - no secret
                pause = min(2 * pause, self.last_retry)
            more = True
            while more and not self._closing.is_set():
                if self._is_crowded():
                    time.sleep(self.crowded_pause)
                    continue
                with self._order:
                    more = self._try_to_read_on()

    def _is_crowded(self) -> bool:
        """Whether the caller is behind: then updates of others wait in the engine."""
        return self._is_caller_crowded() or len(self._commits) > self.max_commits

    def _try_to_read_on(self) -> bool:
        """Deliver a part of what others have stored.

        :returns: whether there may be more at once.
        """
        try:
            if self._is_link_suspect:
                self._look_for_break()
            more = self._read_on()
            self._is_stuck = False
            self._behind = max(self._link.position().last - self._seen, 0) if more else 0
            if not more:
                self._current_at = time.monotonic()
            return more
        except Exception as error:  # whatever it is: its thread must live on
            self._suspect(error)
            return False

    def _read_on(self) -> bool:
        entries = self._link.after(self._seen, self.max_read, self.max_read_characters)
        if not entries:
            return False
        broken = None
        if entries[0].sequence > self._seen + 1:
            broken = Break.TRIMMED
            _log.error(
                "updates %d to %d were discarded before this process could send them: it stood still for "
                "more than %d s, or the clock was set",
                self._seen + 1,
                entries[0].sequence - 1,
                GRACE,
            )
        self._advance(entries)
        self._deliver(Commit(entries, (), broken=broken))
        return (
            len(entries) >= self.max_read
            or _characters([entry.update for entry in entries]) >= self.max_read_characters
        )

    def _look_for_break(self) -> None:
        """After a failure, look whether the engine still has the history of which a part was delivered."""
        position = self._link.position()
        broken = None
        if position.epoch != self._epoch:
            broken = Break.REPLACED
        elif position.last < self._seen or self._link.id_at(self._seen) not in (None, self._seen_id):
            broken = Break.REWOUND
        if broken is not None:
            _log.error("%s: %s; streams end, so that their clients resume", self._link.name, broken.value)
            self._epoch, self._seen = position.epoch, position.last
            self._seen_id = self._link.id_at(position.last)
            self._deliver(Commit((), (), broken=broken, newest=(self._seen, self._seen_id)))
        self._is_link_suspect = False

    def _advance(self, entries: Sequence[Entry]) -> None:
        if entries:
            self._seen, self._seen_id = entries[-1].sequence, entries[-1].update.id

    def _suspect(self, error: Exception) -> None:
        self._is_link_suspect = True
        if not self._is_stuck:  # what is tried again and again is logged once
            _log.error("the updates of other processes have to wait: %s", error)
        self._is_stuck = True


def _characters(updates: Sequence[Update]) -> int:
    return sum(len(update.data) for update in updates)
