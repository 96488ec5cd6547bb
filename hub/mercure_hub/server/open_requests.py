"""The memory of connections that wait for their clients, bounded for all of them together."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

OPEN_REQUEST = 32 << 10
"""Bytes that a connection takes while it waits for its client, besides what it has received."""

OVER_TLS = 48 << 10
"""Bytes that it takes besides over TLS, in the handshake; later less."""

_NOTICE = 60.0  # seconds between two log lines about ended connections

_log = logging.getLogger("mercure_hub.server")

Key = TypeVar("Key", bound=Hashable)


class OpenRequests(Generic[Key]):
    """The connections that wait for their clients and are no subscribers, bounded in memory.

    They take memory before a token is checked. When they take too much together, those end that have waited
    longest; a client that sends its request at once is never among them.

    :param limit: bytes that they may take together.
    :param clock: monotonic time in seconds.
    :param end: ends a connection, which is no longer counted.

    ``taken`` is how many bytes they take.
    """

    def __init__(self, limit: int, clock: Callable[[], float], end: Callable[[Key], None]) -> None:
        self.taken = 0
        self._limit = limit
        self._end = end
        self._clock = clock
        self._waiting: dict[Key, int] = {}  # the longest waiting first
        self._ended = 0
        self._noticed_at: float | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    def begin(self, one: Key, size: int = 0) -> None:
        """Count a connection as waiting from now on, also if it has waited before.

        :param size: bytes that it holds meanwhile.
        """
        self.finish(one)
        self._waiting[one] = 0
        self.grow(one, OPEN_REQUEST + size)

    def grow(self, one: Key, size: int) -> None:
        """Count what was received from a connection that goes on waiting.

        :param size: bytes.
        """
        if one not in self._waiting:  # it was ended, and has not noticed yet
            return
        self._waiting[one] += size
        self.taken += size
        while self.taken > self._limit:
            self._end_oldest()

    def resize(self, one: Key, size: int) -> None:
        """Count what a connection that goes on waiting holds now.

        :param size: bytes.
        """
        if one in self._waiting:
            self.grow(one, OPEN_REQUEST + size - self._waiting[one])

    def finish(self, one: Key) -> None:
        """Stop counting a connection."""
        self.taken -= self._waiting.pop(one, 0)

    def make_room(self, number: int) -> None:
        """End some connections, because the process has no descriptor left.

        :param number: how many at most.
        """
        for _ in range(min(number, len(self._waiting))):
            self._end_oldest()

    def _end_oldest(self) -> None:
        oldest = next(iter(self._waiting))
        self.finish(oldest)
        self._end(oldest)
        self._ended += 1
        now = self._clock()
        if self._noticed_at is None or now - self._noticed_at >= _NOTICE:
            _log.warning(
                "connections that waited for their clients were ended to make room for others: %d so far, "
                "%d are left",
                self._ended,
                len(self._waiting),
            )
            self._noticed_at = now
