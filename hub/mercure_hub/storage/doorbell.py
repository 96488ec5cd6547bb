"""Tells sibling processes that something was appended to their common log.

The bell carries nothing: who hears it reads the log. Many rings before somebody listens are one.
"""

from __future__ import annotations

import contextlib
import os
import select
from collections.abc import Sequence

_ONE = (1).to_bytes(8, "little")


class Doorbell:
    """One eventfd for each process, shared with all of them when they are forked.

    :param own: descriptor that this process listens to.
    :param others: descriptors of the others.
    """

    def __init__(self, own: int, others: Sequence[int]) -> None:
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
        for fd in self._others:
            _add_one(fd)

    def ring_own(self) -> None:
        """Wake the thread of this process that waits."""
        _add_one(self._own)

    def wait(self, timeout: float) -> None:
        """Return when the bell has rung since the last call.

        :param timeout: seconds to wait at most.
        """
        if self._poll.poll(timeout * 1000):
            with contextlib.suppress(BlockingIOError):
                os.read(self._own, 8)


def _add_one(fd: int) -> None:
    with contextlib.suppress(BlockingIOError):  # it rang 2 ** 64 times and nobody heard
        os.write(fd, _ONE)


def bells(count: int) -> list[int]:
    """Descriptors for a number of processes, to be inherited by fork."""
    return [os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for _ in range(count)]
