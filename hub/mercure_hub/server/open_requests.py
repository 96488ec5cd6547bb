"""Connections that wait for their client and are no subscribers: bounded in memory, whoever opens them.

They cost before anybody looks at a token. When they take too much together, those end that have waited
longest: a client that sends its request at once is never among them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

_EACH = 32 << 10  # bytes that a connection takes, whatever it has sent
_NOTICE = 60.0  # seconds between two lines of the log

_log = logging.getLogger("mercure_hub.server")

Key = TypeVar("Key", bound=Hashable)


class OpenRequests(Generic[Key]):
    """Those that wait, for the longest time first.

    :param most: bytes that they may take together.
    :param clock: monotonic time in seconds.
    :param end: ends one of them, which is no longer counted.

    ``taken`` is how much they take.
    """

    def __init__(self, most: int, clock: Callable[[], float], end: Callable[[Key], None]) -> None:
        self.taken = 0
        self._most = most
        self._end = end
        self._clock = clock
        self._waiting: dict[Key, int] = {}
        self._ended = 0
        self._noticed_at: float | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    def begin(self, one: Key, size: int = 0) -> None:
        """Count a connection that waits for its client from now on; one that has waited, only anew.

        :param size: bytes that it holds meanwhile.
        """
        self.finish(one)
        self._waiting[one] = 0
        self.grow(one, _EACH + size)

    def grow(self, one: Key, size: int) -> None:
        """Count what has come from a connection that goes on waiting.

        :param size: bytes.
        """
        if one not in self._waiting:  # it was ended, and has not noticed
            return
        self._waiting[one] += size
        self.taken += size
        while self.taken > self._most:
            self._end_oldest()

    def finish(self, one: Key) -> None:
        """Count a connection no more."""
        self.taken -= self._waiting.pop(one, 0)

    def make_room(self, number: int) -> None:
        """End some, for the process has no descriptor left.

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
                "connections that waited for their clients were ended to make room for others: %d up to now, "
                "%d are left",
                self._ended,
                len(self._waiting),
            )
            self._noticed_at = now
