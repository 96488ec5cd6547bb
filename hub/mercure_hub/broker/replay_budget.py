"""The memory in which history waits for its readers: bounded, however many there are and however slow.

A replay takes a share before it reads a part of the log. While its client takes nothing, the share is lent:
another replay that needs memory takes it away, and the first one reads that part again when its client goes
on. So clients that stall keep nobody waiting but themselves.
"""

from __future__ import annotations

from collections import deque

from gevent.event import Event


class Share:
    """What one replay has in memory.

    ``octets`` are a part of the history as its client gets it; ``None`` before it is read, and when another
    replay has taken the memory. ``size`` is what is counted for it, in bytes.
    """

    __slots__ = ("octets", "size")

    def __init__(self) -> None:
        self.octets: bytes | None = None
        self.size = 0


class ReplayBudget:
    """The memory of all replays of a process.

    :param most: bytes.

    ``taken`` is how much of it is in use.
    """

    def __init__(self, most: int) -> None:
        self.taken = 0
        self._most = most
        self._lent: dict[Share, None] = {}  # for the longest time first
        self._waiting: deque[tuple[Share, int, Event]] = deque()

    def take(self, share: Share, size: int, timeout: float | None = None) -> bool:
        """Wait until there is memory for a share that has none, behind those who wait already.

        :param size: bytes; one that is more than all memory is admitted alone.
        :param timeout: seconds to wait at most; ``None``: for ever.
        :returns: false when the time is over.
        """
        if not self._waiting and self._make_room(size):
            self.resize(share, size)
            return True
        request = share, size, Event()
        self._waiting.append(request)
        try:
            return request[2].wait(timeout) is True
        finally:
            if not request[2].is_set():
                self._waiting.remove(request)
                self._admit()  # a smaller one behind it may fit

    def resize(self, share: Share, size: int) -> None:
        """Count what a share really needs; never waits, for it is in memory already."""
        self.taken += size - share.size
        share.size = size
        self._admit()

    def lend(self, share: Share) -> None:
        """Let others take a share away, for its client takes nothing now."""
        self._lent[share] = None
        self._admit()

    def keep(self, share: Share) -> bool:
        """Lend a share no more.

        :returns: false when it was taken away.
        """
        self._lent.pop(share, None)
        return share.octets is not None

    def release(self, share: Share) -> None:
        """Give the memory of a share back."""
        self._lent.pop(share, None)
        share.octets = None
        self.resize(share, 0)

    def _admit(self) -> None:
        while self._waiting and self._make_room(self._waiting[0][1]):
            share, size, admitted = self._waiting.popleft()
            self.taken += size - share.size
            share.size = size
            admitted.set()

    def _make_room(self, size: int) -> bool:
        while self.taken and self.taken + size > self._most and self._lent:
            lent = next(iter(self._lent))
            del self._lent[lent]
            lent.octets = None
            self.taken -= lent.size
            lent.size = 0
        return not self.taken or self.taken + size <= self._most
