"""Revocation: keeps the list of a process current, and ends the streams of revoked tokens.

Each process reads it from the engine for itself, not from the history: so neither a reader that stands still
nor updates that have to be dispatched before delay it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from functools import partial

import gevent
from gevent.lock import BoundedSemaphore

from mercure_hub.broker.dispatch import Storage
from mercure_hub.broker.threads import in_thread
from mercure_hub.fanout.endings import Ending, Reason
from mercure_hub.fanout.subscriber import Subscriber
from mercure_hub.protocol.errors import StorageAway, StorageError, TooManyRevocations
from mercure_hub.protocol.revocation import MAX_REVOCATIONS, Revocation, RevocationList, bounded
from mercure_hub.protocol.tokens.grant import Grant
from mercure_hub.storage.interface import MAX_LAG

_PAGE = 1000  # revocations that are read or written at once
_BETWEEN_PAUSES = 500  # subscribers that are looked at
_REST = 0.1  # seconds between two looks at all of them
_FORGETTING = 60.0  # seconds between two looks for what is over
_RETRY_AFTER = 3600  # seconds, when the list is full

_log = logging.getLogger("mercure_hub.revocation")


class Revocations:
    """The revocations that this process knows of.

    :param storage: where they are kept.
    :param everyone: gives all subscribers.
    :param end: ends the stream of one.
    :param clock: monotonic time in seconds.
    :param wall_clock: seconds since the epoch.
    :param interval: seconds between two looks for revocations of other processes.
    :param limit: how many are kept at most.
    """

    def __init__(
        self,
        storage: Storage,
        everyone: Callable[[], Sequence[Subscriber]],
        end: Callable[[Subscriber, Ending], None],
        clock: Callable[[], float],
        wall_clock: Callable[[], float] = time.time,
        *,
        interval: float = 0.4,
        limit: int = MAX_REVOCATIONS,
    ) -> None:
        self._storage = storage
        self._everyone = everyone
        self._end = end
        self._clock = clock
        self._wall_clock = wall_clock
        self._interval = interval
        self._limit = limit
        self._list = RevocationList()
        self._reached = 0  # version
        self._epoch = ""
        self._owed: list[Revocation] = []  # to the engine, which has lost them
        self._read_at = 0.0
        self._forget_at = 0.0
        self._is_failing = False
        self._turn = BoundedSemaphore(1)  # to write: each write waits in a thread, and there are few
        self._is_end_due = False
        self._ending: gevent.Greenlet | None = None
        self._watching: gevent.Greenlet | None = None

    def __len__(self) -> int:
        return len(self._list)

    def open(self) -> None:
        """Read all revocations, and follow those of others from now on.

        :raises StorageError: they cannot be read: then nobody can be admitted.
        """
        self._read()
        self._watching = gevent.spawn(self._watch)

    def close(self) -> None:
        """Follow no more."""
        for greenlet in (self._watching, self._ending):
            if greenlet is not None:
                greenlet.kill()

    def refuses(self, grant: Grant) -> bool:
        """Whether the token of a grant is revoked.

        :raises StorageAway: this process has not been able to read the list for ten seconds, so it may be.
        """
        unknown = self._clock() - self._read_at
        if unknown > MAX_LAG and grant.key is not None:
            raise StorageAway(
                f"the revocations of {self._storage.name} could not be read for {unknown:.0f} s, so no token "
                "is accepted"
            )
        return self._list.refuses(grant)

    def revoke(self, revocations: Sequence[Revocation]) -> None:
        """Refuse tokens from now on, in all processes, and end their streams; returns once it is durable.

        :raises TooManyRevocations: there are too many.
        :raises StorageError: they may not be stored.
        """
        with self._turn:
            wanted = bounded(revocations, self._list)
            if self._is_too_much(wanted):
                self._forget()
            if self._is_too_much(wanted):
                raise TooManyRevocations(
                    f"The hub keeps {self._limit} revocations at most. Revoke users instead of single "
                    "tokens, or give a shorter lifetime.",
                    _RETRY_AFTER,
                )
            absence = self._storage.absence
            if absence is not None:
                raise absence
            in_thread(partial(self._storage.revoke, wanted, self._wall_clock()))
            self._take(wanted)

    def look(self, subscriber: Subscriber) -> None:
        """End a stream that begins with a token which was revoked since it was checked."""
        if self._list.refuses(subscriber.grant):
            self._end(subscriber, Ending(Reason.REVOKED))

    def _is_too_much(self, wanted: Sequence[Revocation]) -> bool:
        return len(self._list) + sum(one not in self._list for one in wanted) > self._limit

    def _forget(self) -> None:
        for _ in self._list.prune(self._wall_clock()):
            gevent.sleep(0)

    def _take(self, revocations: Sequence[Revocation]) -> None:
        if self._list.add(revocations):
            self._is_end_due = True
            if self._ending is None or self._ending.ready():
                self._ending = gevent.spawn(self._end_revoked)

    def _end_revoked(self) -> None:
        """End the streams of revoked tokens. What comes meanwhile is looked for in another round."""
        while self._is_end_due:
            self._is_end_due = False
            for number, subscriber in enumerate(self._everyone(), 1):
                try:
                    if self._list.refuses(subscriber.grant):
                        self._end(subscriber, Ending(Reason.REVOKED))
                except Exception:  # whatever it is: the others have to end
                    _log.exception("a stream could not be ended; this is a defect of the hub")
                if number % _BETWEEN_PAUSES == 0:
                    gevent.sleep(0)
            gevent.sleep(_REST)

    # -- those of other processes ----------------------------------------------------------------

    def _watch(self) -> None:
        while True:
            gevent.sleep(self._interval)
            try:
                self._read()
            except StorageError as error:
                if not (self._is_failing or isinstance(error, StorageAway)):
                    _log.error("the revocations cannot be read: %s", error)
                self._is_failing = True
            except Exception:
                _log.exception("the revocations cannot be read; this is a defect of the hub")
            else:
                if self._is_failing:
                    _log.info("the revocations can be read again")
                self._is_failing = False
            if self._clock() >= self._forget_at:
                self._forget_at = self._clock() + _FORGETTING
                self._forget()

    def _read(self) -> None:
        """Read what is new."""
        began = self._clock()
        has_more = True
        while has_more:
            page = in_thread(partial(self._storage.revocations, self._reached, _PAGE))
            if page.newest < self._reached or self._storage.epoch != self._epoch:
                # Another history, or one that lost its end. It gets what this process knows.
                self._reached, self._epoch = 0, self._storage.epoch
                self._owed = list(self._list)
                continue
            self._reached = page.reached
            self._take(page.revocations)
            has_more = len(page.revocations) == _PAGE
        self._read_at = began
        while self._owed:  # what cannot be written now is tried again
            in_thread(partial(self._storage.revoke, self._owed[:_PAGE], self._wall_clock()))
            del self._owed[:_PAGE]
