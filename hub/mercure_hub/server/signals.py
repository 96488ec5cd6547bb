"""Waits for signals and descriptors at the same time, on every system of POSIX."""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Sequence

_PIECE = 4096  # bytes that are read at once; each is the number of a signal


class Signals:
    """Signals that arrive only while somebody waits for them.

    Only Linux can wait for blocked signals with a time limit (sigtimedwait), and not for descriptors besides.
    Here, signals are unblocked for the length of ``wait``, and their handler writes to a pipe. That a signal
    has a handler also keeps it pending while it is blocked: on other systems, SIGCHLD would be discarded.

    :param numbers: of the signals, which have to be blocked. Only the main thread can have them.
    """

    def __init__(self, numbers: Sequence[signal.Signals]) -> None:
        self._arrived: list[int] = []
        self._pipe = os.pipe()
        for descriptor in self._pipe:
            os.set_blocking(descriptor, False)
        self._wakeup = signal.set_wakeup_fd(self._pipe[1], warn_on_full_buffer=False)
        self._handlers = {number: signal.signal(number, _nothing) for number in numbers}

    def wait(
        self, timeout: float, numbers: Sequence[signal.Signals], descriptors: Sequence[int] = ()
    ) -> int | None:
        """Wait for one of some signals, or until a descriptor is readable.

        :param timeout: seconds to wait at most.
        :param numbers: of the signals; the others stay blocked.
        :returns: the signal, which counts as handled; ``None`` if there was none.
        """
        received = self._take(numbers)
        if received is not None:
            return received
        poll = select.poll()
        for descriptor in (self._pipe[0], *descriptors):
            poll.register(descriptor, select.POLLIN)
        deadline = time.monotonic() + max(timeout, 0.0)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)
        try:
            poll.poll(max(deadline - time.monotonic(), 0.0) * 1000)
        finally:
            signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
        return self._take(numbers)

    def have_come(self, numbers: Sequence[signal.Signals]) -> bool:
        """Whether ``wait`` would return one of these at once."""
        self._read()
        return not signal.sigpending().union(self._arrived).isdisjoint(numbers)

    def close(self) -> None:
        """Give the signals back; they stay blocked. Also for a child after its fork."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup)
        for descriptor in self._pipe:
            os.close(descriptor)

    def _take(self, numbers: Sequence[signal.Signals]) -> int | None:
        self._read()
        for received in self._arrived:
            if received in numbers:
                self._arrived.remove(received)
                return received
        return None

    def _read(self) -> None:
        try:
            for number in os.read(self._pipe[0], _PIECE):
                if number not in self._arrived:
                    self._arrived.append(number)
        except BlockingIOError:
            pass


def _nothing(*_: object) -> None:
    """The handler: what counts is that the number is in the pipe."""
