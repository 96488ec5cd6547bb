"""A bounded queue of updates that a thread of this process sends.

The caller never waits for the hub. Order is kept: an update that can be sent again holds back those behind
it. What is in the queue when the process is killed is lost; the outbox is for what must not be.
"""

from __future__ import annotations

import atexit
import logging
import os
import random
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

from flask_mercure.errors import MercureError
from flask_mercure.publishing import retry
from flask_mercure.updates.publication import Publication

DRAIN = 5.0

_log = logging.getLogger("flask_mercure")


@dataclass(frozen=True, slots=True)
class BackgroundCounters:
    """What became of the updates of this process.

    :param waiting: in the queue now.
    :param sent: taken by the hub.
    :param retried: attempts after the first.
    :param dropped: came while the queue was full.
    :param failed: refused by the hub, given up, or left over at the end of the process.
    """

    waiting: int = 0
    sent: int = 0
    retried: int = 0
    dropped: int = 0
    failed: int = 0


class BackgroundQueue:
    """Sends updates of one hub from a daemon thread, which begins with the first update.

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
        self._send = send
        self._size = size
        self._drain = drain
        self._chance = chance
        self._clock = clock
        self._begin()
        _queues.add(self)

    def _begin(self) -> None:
        """A queue without updates; in a forked child those of the parent stay the parent's."""
        self._changed = threading.Condition()
        self._waiting: deque[Publication] = deque()
        self._thread: threading.Thread | None = None
        self._deadline: float | None = None
        self._closed = False
        self._counters = BackgroundCounters()

    @property
    def counters(self) -> BackgroundCounters:
        """The numbers of this process."""
        with self._changed:
            return replace(self._counters, waiting=len(self._waiting))

    def put(self, publication: Publication) -> bool:
        """Queue an update.

        :param publication: with an id, by which subscribers recognise a repeat.
        :returns: whether there was room; if not, it was logged and counted.
        """
        reason = ""
        with self._changed:
            if self._closed:
                reason = "the process ends"
            elif len(self._waiting) >= self._size:
                reason = f"the queue is full (MERCURE_BACKGROUND_QUEUE={self._size})"
            if reason:
                self._count(dropped=1)
            else:
                self._waiting.append(publication)
                if self._thread is None:
                    self._thread = threading.Thread(target=self._run, name="mercure background", daemon=True)
                    self._thread.start()
                self._changed.notify_all()
        if reason:
            log_failure(publication, reason)
        return not reason

    def join(self, timeout: float) -> bool:
        """Wait until the queue is empty.

        :param timeout: seconds.
        :returns: whether it is.
        """
        with self._changed:
            return self._changed.wait_for(lambda: not self._waiting, timeout)

    def close(self, timeout: float | None = None) -> None:
        """Send what waits, for a bounded time; what is left then is logged and counted.

        :param timeout: seconds; by default those of the constructor.
        """
        with self._changed:
            self._closed = True
            self._deadline = self._clock() + (self._drain if timeout is None else timeout)
            self._changed.notify_all()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            # A request that hangs must not hang the end of the process: the thread is a daemon.
            thread.join(max(0.0, self._deadline - self._clock()) + 0.1)
        with self._changed:
            left = list(self._waiting)
            self._waiting.clear()
            self._count(failed=len(left))
        for publication in left:
            log_failure(publication, "the process ended before the hub could be reached")

    def _run(self) -> None:
        attempts = 0
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if not self._waiting:
                    return
                publication = self._waiting[0]
            pause = self._attempt(publication, attempts + 1)
            with self._changed:
                if pause is None:
                    attempts = 0
                    if self._waiting:  # close() may have given up on it
                        self._waiting.popleft()
                    self._changed.notify_all()
                    continue
                attempts += 1
                self._count(retried=1)
                self._rest(pause)
                if self._deadline is not None and self._clock() >= self._deadline:
                    return

    def _attempt(self, publication: Publication, attempt: int) -> float | None:
        """Send an update once: ``None`` when it is done with, else seconds until the next time."""
        try:
            self._send(publication)
        except MercureError as error:
            pause = retry.pause(error, attempt, self._chance())
            if pause is not None:
                return pause
            log_failure(publication, str(error))
        except Exception:
            _log.exception("update %s was not published", publication.id)
        else:
            with self._changed:
                self._count(sent=1)
            return None
        with self._changed:
            self._count(failed=1)
        return None

    def _rest(self, seconds: float) -> None:
        """Wait, with the lock, for the next attempt; shorter when the process ends meanwhile."""
        until = self._clock() + seconds
        closed = self._closed
        while (left := until - self._clock()) > 0 and self._closed is closed:
            self._changed.wait(left)
        if self._closed and self._deadline is not None:
            # The last seconds: one more attempt at once, then a short rest between attempts.
            self._changed.wait(min(0.1, max(0.0, self._deadline - self._clock())))

    def _count(self, sent: int = 0, retried: int = 0, dropped: int = 0, failed: int = 0) -> None:
        was = self._counters
        self._counters = BackgroundCounters(
            0, was.sent + sent, was.retried + retried, was.dropped + dropped, was.failed + failed
        )


def log_failure(publication: Publication, reason: str) -> None:
    """Log that an update was not published: its topics, id and the reason, never its data.

    :param publication: the update.
    :param reason: in words, without secrets, as our errors are.
    """
    _log.error(
        "update %s on %s was not published: %s", publication.id or "without id", publication.topics, reason
    )


_queues: weakref.WeakSet[BackgroundQueue] = weakref.WeakSet()


def _after_fork() -> None:
    """The thread and the state of the lock did not come along into the child."""
    for queue in _queues:
        queue._begin()


def _at_exit() -> None:
    for queue in list(_queues):
        queue.close()


os.register_at_fork(after_in_child=_after_fork)
atexit.register(_at_exit)
