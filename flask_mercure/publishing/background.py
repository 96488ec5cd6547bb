"""A bounded queue of updates that a thread of this process sends.

The caller never waits for the hub. Updates that share a topic keep their order: one that failed holds back
those behind it, and the others go on. The queue is lost when the process is killed; the outbox keeps updates.

Each process has a queue and a thread of its own, since threads do not survive a fork. Processes are told
apart by their ids: ``os.register_at_fork`` would miss the workers of uWSGI, which forks without calling the
hooks, and Windows has none. ``atexit`` alone would miss processes that end with ``os._exit``.
"""

from __future__ import annotations

import atexit
import logging
import math
import os
import random
import sys
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Generic, TypeVar

from flask_mercure.errors import MercureError
from flask_mercure.publishing.events import log_failure
from flask_mercure.publishing.retry import LONGEST_DELAY, MAX_ATTEMPTS, Health, Verdict, delay, verdict
from flask_mercure.updates import Publication

DRAIN = 5.0
"""Seconds that the end of a process waits for its queues."""

_SHORT_REST = 0.1
"""Seconds between attempts while a caller waits for the queue to empty."""

_T = TypeVar("_T")

_log = logging.getLogger("flask_mercure")


@dataclass(frozen=True, slots=True)
class BackgroundCounters:
    """Counts of the updates of this process.

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


class PerProcess(Generic[_T]):
    """A value of which each process has its own.

    :param make: makes the value on first use in a process; two threads that call it at once get the same one.
    """

    def __init__(self, make: Callable[[], _T]) -> None:
        self._make = make
        # The parent's value stays, unused: a thread of the parent may have held its locks at the fork.
        self._values: dict[int, _T] = {}

    def get(self) -> _T:
        process = os.getpid()
        value = self._values.get(process)
        return self._values.setdefault(process, self._make()) if value is None else value

    def existing(self) -> _T | None:
        """The value, if this process has one."""
        return self._values.get(os.getpid())


class AtExit:
    """Calls a function at the end of each process that ends with notice.

    :param function: may be called more than once.
    """

    def __init__(self, function: Callable[[], object]) -> None:
        self._function = function
        self._registered = PerProcess(self._register)
        self._is_connected_to_celery = False
        atexit.register(function)

    def register(self) -> None:
        """Include this process, which may be a child that multiprocessing or Celery has forked."""
        self._registered.get()

    def _register(self) -> bool:
        # Both libraries end their children with os._exit, after these calls. Import neither: if it is not
        # loaded, it has not made this process.
        process = sys.modules.get("multiprocessing.process")
        if process is not None and process.parent_process() is not None:
            import_module("multiprocessing.util").Finalize(None, self._function, exitpriority=0)
        if "celery" in sys.modules and not self._is_connected_to_celery:
            self._is_connected_to_celery = True
            import_module("celery.signals").worker_process_shutdown.connect(self._of_celery, weak=False)
        return True

    def _of_celery(self, **_: object) -> None:
        self._function()


def ends_without_notice() -> bool:
    """Whether this is a job of RQ, whose process ends with ``os._exit`` right after it and calls nothing."""
    rq = sys.modules.get("rq")
    return rq is not None and rq.get_current_job() is not None


class BackgroundQueue:
    """Sends updates to one hub; in each process, a daemon thread starts with the first update.

    :param send: publishes one update, from any thread.
    :param size: updates that may wait.
    :param drain: seconds that the end of the process waits for the queue.
    :param longest_delay: seconds between two attempts at most, unless the hub asks for more.
    :param ends_without_notice: whether the current process ends without calling anything.
    :param chance: gives random numbers from 0 to 1.
    :param clock: monotonic time in seconds.
    """

    def __init__(
        self,
        send: Callable[[Publication], object],
        size: int,
        *,
        drain: float = DRAIN,
        longest_delay: float = LONGEST_DELAY,
        ends_without_notice: Callable[[], bool] = ends_without_notice,
        chance: Callable[[], float] = random.random,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        # In a forked child, the updates of the parent stay the parent's.
        self._workers = PerProcess(
            lambda: _Worker(send, size, drain=drain, longest_delay=longest_delay, chance=chance, clock=clock)
        )
        self._drain = drain
        self._ends_without_notice = ends_without_notice
        _queues.add(self)

    @property
    def counters(self) -> BackgroundCounters:
        """The counts of this process."""
        return self._workers.get().counters

    def put(self, publication: Publication) -> bool:
        """Queue an update.

        :param publication: with an id, by which subscribers recognise a repeat.
        :returns: whether there was room; otherwise the update was logged and counted.
        """
        _at_exit.register()
        return self._workers.get().put(publication)

    def join(self, timeout: float) -> bool:
        """Wait until the queue is empty.

        :param timeout: seconds.
        :returns: whether it is.
        """
        return self._workers.get().join(timeout)

    def flush(self, timeout: float) -> bool:
        """Send what waits, without the pauses between attempts, and wait until it is sent.

        :param timeout: seconds.
        :returns: whether the queue is empty.
        """
        worker = self._workers.existing()
        return worker is None or worker.flush(timeout)

    def save(self) -> None:
        """In a process that ends without notice, flush; all calls together wait as long as an end would."""
        if self._ends_without_notice():
            self._workers.get().save()

    def close(self, timeout: float | None = None) -> None:
        """Send what waits, for a limited time; then log and count the rest as failed.

        :param timeout: seconds; by default those of the constructor.
        """
        worker = self._workers.existing()
        if worker is not None:
            worker.close(self._drain if timeout is None else timeout)


@dataclass(slots=True, eq=False)
class _Entry:
    """An update that waits.

    :param attempts: that failed while its hub may have taken others.
    :param not_before: time at which it may be tried again, in seconds.
    """

    publication: Publication
    attempts: int = 0
    not_before: float = -math.inf


class _Worker:
    """The queue of one process and the thread that empties it."""

    def __init__(
        self,
        send: Callable[[Publication], object],
        size: int,
        *,
        drain: float,
        longest_delay: float,
        chance: Callable[[], float],
        clock: Callable[[], float],
    ) -> None:
        self._send = send
        self._size = size
        self._patience = drain
        self._longest_delay = longest_delay
        self._chance = chance
        self._clock = clock
        self._changed = threading.Condition()
        self._waiting: list[_Entry] = []
        self._health = Health(longest_delay)
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
        """Start the thread if it does not run; call it with the lock held."""
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
            "are lost if the hub does not take them before. The outbox keeps updates",
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
        """The update to send now; updates that failed since the hub last took one come after the others."""
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
            # If all share one topic, only an update behind this one can show whether the hub is well.
            if entry.attempts < MAX_ATTEMPTS:
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
        """Note the outcome of an attempt, with the lock held."""
        if entry not in self._waiting:
            return  # close() has given up on it
        if error is None:
            self._settle_sent(entry)
        elif not isinstance(error, MercureError):
            self._give_up(entry, type(error).__name__, error)
        elif verdict(error) in (Verdict.REFUSED, Verdict.MISCONFIGURED):
            self._give_up(entry, str(error))
        else:
            self._settle_failed(entry, error)

    def _settle_sent(self, entry: _Entry) -> None:
        health, topics = self._health, entry.publication.topics
        self._waiting.remove(entry)
        self._count(sent=1)
        if health.took([entry], self._clock()):
            _log.warning("updates in the background are sent again")
        for other in [one for one in self._waiting if one.attempts >= MAX_ATTEMPTS]:
            # On a topic of the entry, the other would now be out of order. Those on other topics are tried
            # once more: they may have failed while the hub was away.
            if other in health.proved and not set(topics).isdisjoint(other.publication.topics):
                self._give_up(other, f"{MAX_ATTEMPTS} attempts failed, and the hub takes others")

    def _settle_failed(self, entry: _Entry, error: MercureError) -> None:
        now, health = self._clock(), self._health
        self._tried_at = now
        self._count(retried=1)
        rest = health.failed(entry, error, now, self._chance())
        if rest is not None:
            if health.outages == 1:
                _log.warning("updates in the background wait, trying again in %.1f s: %s", rest, error)
            return
        if now >= self._hurried_until:  # a hurried attempt does not count: it came too soon after the last
            entry.attempts += 1
        if entry.attempts >= MAX_ATTEMPTS and entry in health.proved:
            self._give_up(entry, str(error))
            return
        entry.not_before = now + delay(max(1, entry.attempts), self._chance(), error, self._longest_delay)

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


_queues: weakref.WeakSet[BackgroundQueue] = weakref.WeakSet()


def flush(timeout: float = DRAIN) -> bool:
    """Send what waits in the background queues of this process, and wait until it is sent.

    :param timeout: seconds, for all queues together.
    :returns: whether all of them are empty.
    """
    until = time.monotonic() + timeout
    are_empty = [queue.flush(max(0.0, until - time.monotonic())) for queue in list(_queues)]
    return all(are_empty)


def _close_all() -> None:
    until = time.monotonic() + DRAIN
    for queue in list(_queues):
        queue.close(max(0.0, until - time.monotonic()))


_at_exit = AtExit(_close_all)
