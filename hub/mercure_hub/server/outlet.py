"""Sends history to a client, which may be slow, but may not stand still."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from mercure_hub.server.channel import Timeout


class Sending(Protocol):
    """What an outlet needs of a ``Channel``."""

    def offer(self, octets: memoryview) -> int:
        """Send as much as goes without waiting."""

    def has_room(self, seconds: float) -> bool:
        """Wait until more can be sent; false when it takes longer."""

    def unsent(self) -> int:
        """Bytes that the other side has not acknowledged."""


class Outlet:
    """The way of one subscriber's history.

    Whether it stands still is told by what it has acknowledged, see ``mercure_hub.fanout.writer.unsent``.

    :param channel: to the client.
    :param patience: seconds for which it may take nothing.
    :param clock: monotonic time in seconds.
    """

    def __init__(self, channel: Sending, patience: float, clock: Callable[[], float]) -> None:
        self._channel = channel
        self._patience = patience
        self._clock = clock
        self._still_since: float | None = None
        self._unsent = 0

    def offer(self, octets: memoryview) -> int:
        """Send as much as goes without waiting.

        :returns: how many bytes that is.
        :raises OSError: the connection is broken.
        """
        sent = self._channel.offer(octets)
        if sent:
            self._still_since = None
        return sent

    def wait(self, seconds: float) -> bool:
        """Wait for a moment, in which the client may make room.

        :param seconds: how long at most.
        :returns: it has made room; if not, it may have a little all the same.
        :raises Timeout: it has taken nothing for too long.
        :raises OSError: the connection is broken.
        """
        if self._still_since is None:
            self._still_since = self._clock()
            self._unsent = self._channel.unsent()
        if self._channel.has_room(min(seconds, self._patience)):
            self._still_since = None
            return True
        unsent = self._channel.unsent()
        if unsent < self._unsent:
            self._still_since = self._clock()
        elif self._clock() - self._still_since >= self._patience:
            raise Timeout
        self._unsent = unsent
        return False
