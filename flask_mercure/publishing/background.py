"""A bounded queue of updates that a thread of this process sends.

The caller never waits for the hub. Updates that share a topic keep their order: one that failed holds back
those behind it, and the others go on. What is in the queue when the process is killed is lost; the outbox is
for what must not be.
"""

from __future__ import annotations

import logging
import math
import random
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace

from flask_mercure.errors import MercureError, PublishError
from flask_mercure.publishing.health import Health
from flask_mercure.publishing.processes import AtEnd, OfProcess, ends_without_notice
from flask_mercure.publishing.retry import MOST_REFUSALS, Verdict, delay, verdict
from flask_mercure.updates import Publication

DRAIN = 5.0
_SHORT_REST = 0.1  # between attempts while somebody waits for the queue

_log = logging.getLogger("flask_mercure")


@dataclass(frozen=True, slots=True)
class BackgroundCounters:
    """What became of the updates of this process.

    :param waiting: in the queue now.
    :param sent: taken by the hub.
    :param retried: attempts after the first.
    :param dropped: came while the queue was full, or no thread could be started.
    :param failed: refused by the hub, given up, or left over at the end of the process.
    """

    waiting: int = 0
    sent: int = 0
    retried: int = 0
    dropped: int = 0
    failed: int = 0


@dataclass(slots=True, eq=False)
class _Entry:
    """An update that waits.

    :param attempts: that failed while its hub may have taken others.
    :param not_before: when it may be tried again.
    """

    publication: Publication
    attempts: int = 0
    not_before: float = -math.inf


class BackgroundQueue:
    """Sends updates of one hub, in each process from a daemon thread that begins with the first update.

    :param send: publishes one update, from any thread.
    :param size: updates that may wait.
    :param drain: seconds that the end of the process waits for the queue.
    :param chance: gives numbers from 0 to 1.
    :param clock: gives seconds; need not be those of the day.
    """

    def __init__(
        self,
        send: Callable[[Publication], object],
        size: int,
        *,
        drain: float = DRAIN,
        chance: Callable[[], float] = random.random,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        # In a forked child, the updates of the parent stay the parent's.
        self._lines = OfProcess(lambda: _Line(send, size, drain, chance, clock))
        self._drain = drain
        _queues.add(self)

    @property
    def counters(self) -> BackgroundCounters:
        """The numbers of this process."""
        return self._lines.get().counters

    def put(self, publication: Publication) -> bool:
        """Queue an update.

        :param publication: with an id, by which subscribers recognise a repeat.
        :returns: whether there was room; if not, it was logged and counted.
        """
        _at_end.attend()
        return self._lines.get().put(publication)

    def join(self, timeout: float) -> bool:
        """Wait until the queue is empty.

        :param timeout: seconds.
        :returns: whether it is.
        """
        return self._lines.get().join(timeout)

    def flush(self, timeout: float) -> bool:
        """Send what waits, without the pauses between attempts, and wait until it is sent.

        :param timeout: seconds.
        :returns: whether the queue is empty.
        """
        line = self._lines.known()
        return line is None or line.flush(timeout)

    def save(self) -> None:
        """Wait for what was queued, where the process ends without notice; in all as long as at an end."""
        if ends_without_notice():
            self._lines.get().save()

    def close(self, timeout: float | None = None) -> None:
        """Send what waits, for a bounded time; what is left then is logged and counted.

        :param timeout: seconds; by default those of the constructor.
        """
        line = self._lines.known()
        if line is not None:
            line.close(self._drain if timeout is None else timeout)


class _Line:
    """The queue of one process."""

    def __init__(
        self,
        send: Callable[[Publication], object],
        size: int,
        drain: float,
        chance: Callable[[], float],
        clock: Callable[[], float],
    ) -> None:
        self._send = send
        self._size = size
        self._patience = drain
        self._chance = chance
        self._clock = clock
        self._changed = threading.Condition()
        self._waiting: list[_Entry] = []
        self._health = Health()
        self._thread: threading.Thread | None = None
        self._tried_at = -math.inf
        self._hurried_until = -math.inf
        self._closed = False
        self._counters = BackgroundCounters()

    @property
    def counters(self) -> BackgroundCounters:
        with self._changed:
            return replace(self._counters, waiting=len(self._waiting))

    def put(self, publication: Publication) -> bool:
        reason = ""
        with self._changed:
            if self._closed:
                reason = "the process ends"
            elif len(self._waiting) >= self._size:
                reason = f"the queue is full (MERCURE_BACKGROUND_QUEUE={self._size})"
            elif not self._has_thread():
                reason = "no thread can be started"
            if reason:
                self._count(dropped=1)
            else:
                self._waiting.append(_Entry(publication))
                self._changed.notify_all()
        if reason:
            log_failure(publication, reason)
        return not reason

    def _has_thread(self) -> bool:
        """Start it where it does not run yet; with the lock."""
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="mercure background", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # at the limit of the system, or while the interpreter ends
                return False
            self._thread = thread
        return True

    def join(self, timeout: float) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: not self._waiting, timeout)

    def flush(self, timeout: float) -> bool:
        with self._changed:
            self._hurried_until = max(self._hurried_until, self._clock() + timeout)
            self._changed.notify_all()
        return self.join(timeout)

    def save(self) -> None:
        began = self._clock()
        if self._patience <= 0 or self.flush(self._patience):
            self._patience -= self._clock() - began
            return
        self._patience = 0
        with self._changed:
            count = len(self._waiting)
        _log.warning(
            "the process of this job ends without notice, and %d updates of it still wait for the hub: they "
            "are lost if it does not take them before. The outbox keeps updates",
            count,
        )

    def close(self, timeout: float) -> None:
        with self._changed:
            self._closed = True
            self._hurried_until = self._clock() + timeout
            self._changed.notify_all()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            # A request that hangs must not hang the end of the process: the thread is a daemon.
            thread.join(max(0.0, self._hurried_until - self._clock()) + 0.1)
        with self._changed:
            left = [one.publication for one in self._waiting]
            self._waiting.clear()
            self._count(failed=len(left))
        for publication in left:
            log_failure(publication, "the process ended before the hub could be reached")

    def _run(self) -> None:
        while True:
            with self._changed:
                while (entry := self._next()) is None:
                    if self._closed and (not self._waiting or self._clock() >= self._hurried_until):
                        return
                    self._rest()
            error = self._attempt(entry)
            with self._changed:
                self._settle(entry, error)
                self._changed.notify_all()

    def _next(self) -> _Entry | None:
        """The update to send now; one that failed since the hub last took one comes after the others."""
        now = self._clock()
        is_hurried = now < self._hurried_until and now >= self._tried_at + _SHORT_REST
        if (now < self._health.until and not is_hurried) or (self._closed and now >= self._hurried_until):
            return None
        failing = None
        blocked: set[str] = set()
        for entry in self._waiting:
            topics = entry.publication.topics
            if blocked.isdisjoint(topics) and (entry.not_before <= now or is_hurried):
                if entry not in self._health.failing:
                    return entry
                failing = failing or entry
            # Where all share one topic, only what is behind an update can tell whether the hub is well.
            if entry.attempts < MOST_REFUSALS:
                blocked.update(topics)
        return failing

    def _rest(self) -> None:
        """Wait, with the lock, until something may be due or has changed."""
        now = self._clock()
        if not self._waiting:
            self._changed.wait()
            return
        until = max(self._health.until, min(entry.not_before for entry in self._waiting))
        if until <= now:  # what is due is behind what is not
            until = min((one.not_before for one in self._waiting if one.not_before > now), default=now)
        if now < self._hurried_until:
            until = min(until, self._hurried_until, max(now, self._tried_at + _SHORT_REST))
        self._changed.wait(max(0.001, until - now))

    def _attempt(self, entry: _Entry) -> Exception | None:
        try:
            self._send(entry.publication)
        except Exception as error:
            return error
        return None

    def _settle(self, entry: _Entry, error: Exception | None) -> None:
        """Note what became of an update, with the lock."""
        if entry not in self._waiting:
            return  # close() has given up on it
        now, health, topics = self._clock(), self._health, entry.publication.topics
        if error is None:
            self._waiting.remove(entry)
            self._count(sent=1)
            if health.took([entry], now):
                _log.warning("updates in the background are sent again")
            for other in [one for one in self._waiting if one.attempts >= MOST_REFUSALS]:
                # Behind this one it would come too late. Others are tried once more: they may have failed
                # while the hub was away.
                if other in health.proved and not set(topics).isdisjoint(other.publication.topics):
                    self._give_up(other, f"{MOST_REFUSALS} attempts failed, and the hub takes others")
            return
        if not isinstance(error, MercureError):
            self._give_up(entry, type(error).__name__, error)
            return
        judgement = verdict(error)
        if judgement in (Verdict.REFUSED, Verdict.MISCONFIGURED):
            self._give_up(entry, str(error))
            return
        self._tried_at = now
        self._count(retried=1)
        rest = health.failed(entry, error, now, self._chance())
        if rest is not None:
            if health.outages == 1:
                _log.warning("updates in the background wait, trying again in %.1f s: %s", rest, error)
            return
        if now >= self._hurried_until:  # else it had not the time that an attempt needs
            entry.attempts += 1
        if entry.attempts >= MOST_REFUSALS and entry in health.proved:
            self._give_up(entry, str(error))
            return
        after = error.retry_after if isinstance(error, PublishError) else None
        entry.not_before = now + delay(max(1, entry.attempts), self._chance(), after)

    def _give_up(self, entry: _Entry, reason: str, error: Exception | None = None) -> None:
        self._waiting.remove(entry)
        self._health.forget(entry)
        self._count(failed=1)
        log_failure(entry.publication, reason, error)

    def _count(self, sent: int = 0, retried: int = 0, dropped: int = 0, failed: int = 0) -> None:
        was = self._counters
        self._counters = BackgroundCounters(
            0, was.sent + sent, was.retried + retried, was.dropped + dropped, was.failed + failed
        )


def log_failure(publication: Publication, reason: str, error: Exception | None = None) -> None:
    """Log that an update was not published: its topics, id and the reason, never its data.

    :param publication: the update.
    :param reason: in words, without secrets, as our errors are.
    :param error: not of ours, to be shown with its traceback.
    """
    _log.error(
        "update %s on %s was not published: %s",
        publication.id or "without id",
        publication.topics,
        reason,
        exc_info=error,
    )


_queues: weakref.WeakSet[BackgroundQueue] = weakref.WeakSet()


def flush(timeout: float = DRAIN) -> bool:
    """Send what waits in the background queues of this process, and wait until it is sent.

    :param timeout: seconds, for all queues together.
    :returns: whether all of them are empty.
    """
    until = time.monotonic() + timeout
    are_empty = [queue.flush(max(0.0, until - time.monotonic())) for queue in list(_queues)]
    return all(are_empty)


def _end() -> None:
    until = time.monotonic() + DRAIN
    for queue in list(_queues):
        queue.close(max(0.0, until - time.monotonic()))


_at_end = AtEnd(_end)
