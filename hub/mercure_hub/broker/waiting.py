"""Where requests wait while the engine is away: a browser that gets 503 never reconnects by itself."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TypeVar

from gevent.event import Event

from mercure_hub.broker.dispatch import Storage
from mercure_hub.protocol.errors import StorageAway

_LOOK = 2.0  # seconds between two attempts while only the attempts tell that the engine is away

T = TypeVar("T")
Watch = Callable[[Callable[[], None]], AbstractContextManager[object]]
"""A context manager; calls a function if the client leaves meanwhile."""


class WaitingRoom:
    """The requests that wait until the engine is back.

    :param storage: knows whether it is.
    :param clock: monotonic time in seconds.
    :param patience: seconds for which a request waits.
    """

    def __init__(self, storage: Storage, clock: Callable[[], float], patience: float) -> None:
        self._storage = storage
        self._clock = clock
        self._patience = patience
        self._waiting: set[_Seat] = set()
        self._is_closed = False

    def __len__(self) -> int:
        return len(self._waiting)

    def run(self, attempt: Callable[[], T], watch: Watch) -> T:
        """Do something that needs the engine, as soon as the engine is there.

        :param attempt: is made again after a ``StorageAway``.
        :param watch: tells when the client leaves.
        :raises StorageAway: the engine is away for too long, the client has left, or the hub stops.
        """
        ends_at = self._clock() + self._patience
        while True:
            absence = self._storage.absence
            longest = self._patience
            if absence is None:
                try:
                    return attempt()
                except StorageAway as error:
                    absence, longest = StorageAway(error.detail), _LOOK
            left = ends_at - self._clock()
            if left <= 0 or not self._wait(min(left, longest), watch):
                raise absence

    def _wait(self, seconds: float, watch: Watch) -> bool:
        """Wait until the engine is back; false when there is nothing more to wait for."""
        if self._is_closed:
            return False
        seat = _Seat()
        self._waiting.add(seat)
        try:
            with watch(seat.leave):
                seat.called.wait(seconds)
        finally:
            self._waiting.discard(seat)
        return not (seat.has_left or self._is_closed)

    def look(self) -> None:
        """Let the waiting requests go on if the engine is back."""
        if self._waiting and self._storage.absence is None:
            self._call()

    def close(self) -> None:
        """Refuse the waiting requests, because the hub stops."""
        self._is_closed = True
        self._call()

    def _call(self) -> None:
        for seat in self._waiting:
            seat.called.set()


class _Seat:
    """A request that waits."""

    __slots__ = ("called", "has_left")

    def __init__(self) -> None:
        self.called = Event()
        self.has_left = False

    def leave(self) -> None:
        self.has_left = True
        self.called.set()
