"""How threads and processes that share a history wake each other."""

from __future__ import annotations

import contextlib
import os
import select
from collections.abc import Sequence

_ONE = (1).to_bytes(8, "little")
_SIZE = 1 << 16  # bytes of a pipe at most; a read of an eventfd takes all rings at once


class Bell:
    """Wakes whoever waits for its descriptor; many rings are heard as one.

    An eventfd, or a pipe where there is none. Forked processes share it.

    :param inherited: the descriptors to listen at and to ring, from the process that made it.
    """

    __slots__ = ("_ear", "_hand")

    def __init__(self, inherited: tuple[int, int] | None = None) -> None:
        if inherited is not None:
            self._ear, self._hand = inherited
        elif hasattr(os, "eventfd"):
            self._ear = self._hand = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        else:
            self._ear, self._hand = os.pipe()
            for fd in (self._ear, self._hand):
                os.set_blocking(fd, False)

    def fileno(self) -> int:
        """The descriptor that is readable once it has rung; -1 after ``close``."""
        return self._ear

    def ring(self) -> None:
        """Wake whoever waits; nothing after ``close``."""
        if self._hand >= 0:
            with contextlib.suppress(BlockingIOError):  # it rang so often, and nobody heard
                os.write(self._hand, _ONE)

    def silence(self) -> None:
        """Forget that it has rung."""
        with contextlib.suppress(BlockingIOError):
            os.read(self._ear, _SIZE)

    def close(self) -> None:
        """Close its descriptors. A second call does nothing."""
        descriptors = {self._ear, self._hand} - {-1}
        self._ear = self._hand = -1
        for fd in descriptors:
            os.close(fd)


def bells(count: int) -> list[Bell]:
    """Bells for a number of processes, to be inherited by fork."""
    return [Bell() for _ in range(count)]


class Doorbell:
    """Tells the other processes of a hub that something was stored.

    :param own: what this process listens to, shared when the processes are forked.
    :param others: those of the others.
    """

    def __init__(self, own: Bell, others: Sequence[Bell]) -> None:
        self._own = own
        self._others = tuple(others)
        self._poll = select.poll()
        self._poll.register(own, select.POLLIN)

    @property
    def others(self) -> int:
        """How many it wakes."""
        return len(self._others)

    def ring(self) -> None:
        """Wake the others."""
        for bell in self._others:
            bell.ring()

    def ring_own(self) -> None:
        """Wake the thread of this process that waits."""
        self._own.ring()

    def wait(self, timeout: float) -> None:
        """Return when the bell has rung since the last call.

        :param timeout: seconds to wait at most.
        """
        if self._poll.poll(timeout * 1000):
            self._own.silence()
