"""Which processes are at work on one log, by locks on a file beside it.

A process that dies, however it dies, lets go of its locks: the kernel sees to that. So a seat that is
taken is a process that lives, and whoever waits for the turn to write gets it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import threading
from collections.abc import Iterator

_TURN = 0  # the octet of the file whose lock is the turn to write
_SEATS = 1  # the octet of the first seat
_MOST = 1024
_NEXT = _SEATS + _MOST  # the octet whose lock is the place of who is next

# struct flock of 64-bit Linux; the lock belongs to the open file, not to the process as lockf()'s does,
# which any close() of the file would let go.
_FLOCK = struct.Struct("hhqqixxxx")


class Seats:
    """The lock file of a log.

    :param path: of the file, which is made if it is missing. It stays empty.
    :raises OSError: it cannot be opened.
    """

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._own_turn = threading.Lock()  # the file's lock does not part the threads of a process
        self.own = -1

    def take(self) -> int:
        """Take the first free seat, until ``close`` or the end of the process.

        :raises OSError: there is none.
        """
        for seat in range(_MOST):
            if self._lock(_SEATS + seat):
                self.own = seat
                return seat
        raise OSError(f"{_MOST} processes are at work on this log")

    def is_taken(self, seat: int) -> bool:
        """Whether a process that lives has a seat."""
        return seat == self.own or self._is_locked(_SEATS + seat)

    def others(self) -> int:
        """How many other processes that live have a seat."""
        count = 0
        ranges = [(_SEATS, _NEXT)]
        while ranges:
            first, end = ranges.pop()
            taken = self._lock_in(first, end)  # any of them: the kernel keeps them by owner, not by place
            if taken is not None:
                count += 1
                ranges += [(first, taken), (taken + 1, end)]
        return count

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Wait until nobody else writes, and keep the others waiting meanwhile."""
        with self._own_turn:
            # Who has had the turn stands behind who waits. The kernel gives a lock to whoever asks
            # first once it is let go, and that would be the busy process again and again.
            self._wait_for(_NEXT)
            try:
                self._wait_for(_TURN)
            finally:
                self._unlock(_NEXT)
            try:
                yield
            finally:
                self._unlock(_TURN)

    def close(self) -> None:
        """Let go of everything."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = self.own = -1

    def _wait_for(self, octet: int) -> None:
        fcntl.fcntl(self._fd, fcntl.F_OFD_SETLKW, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, octet, 1, 0))

    def _is_locked(self, octet: int) -> bool:
        return self._lock_in(octet, octet + 1) is not None

    def _lock_in(self, first: int, end: int) -> int | None:
        """A place in a part of the file that somebody else has locked, if there is one."""
        if first >= end:
            return None  # to the kernel, a length of 0 is all the rest of the file
        asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, first, end - first, 0)
        kind, _, start, _, _ = _FLOCK.unpack(fcntl.fcntl(self._fd, fcntl.F_OFD_GETLK, asked))
        return None if kind == fcntl.F_UNLCK else int(start)

    def _lock(self, octet: int) -> bool:
        try:
            fcntl.fcntl(self._fd, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, octet, 1, 0))
        except BlockingIOError:
            return False
        return True

    def _unlock(self, octet: int) -> None:
        fcntl.fcntl(self._fd, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_UNLCK, os.SEEK_SET, octet, 1, 0))
