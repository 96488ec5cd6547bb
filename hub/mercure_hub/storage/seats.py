"""Which processes are at work on one log, by locks on a file beside it.

A process that dies, however it dies, lets go of its locks: the kernel sees to that. So a seat that is
taken is a process that lives, and whoever waits for the turn to write gets it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
import threading
from collections.abc import Iterator
from concurrent.futures import Future, InvalidStateError
from typing import NamedTuple

BOUND = 3.0
"""Seconds to wait for the turn. A publisher that gives up before it is answered, mostly after five, cannot
tell what became of its update."""

_TURN = 0  # the octet of the file whose lock is the turn to write
_SEATS = 1  # the octet of the first seat
_MOST = 1024
_NEXT = _SEATS + _MOST  # the octet whose lock is the place of who is next

# struct flock of 64-bit Linux; the lock belongs to the open file, not to the process as lockf()'s does,
# which any close() of the file would let go.
_FLOCK = struct.Struct("hhqqixxxx")


class TurnTimeout(OSError):
    """The turn to write did not come in time."""


class Seats:
    """The lock file of a log.

    Seat and turn are locked through descriptors of their own: the kernel joins neighbouring locks of one
    descriptor, and letting go of a part of the whole can fail for want of memory.

    :param path: of the file, which is made if it is missing, for its owner only. It stays empty.
    :raises OSError: it cannot be opened.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._turn_fd = -1
        self._own_turn = threading.Lock()  # the file's lock does not part the threads of a process
        self.own = -1

    def take(self) -> int:
        """Take the first free seat, until ``close`` or the end of the process.

        :raises OSError: there is none.
        """
        for seat in range(_MOST):
            if _lock(self._fd, _SEATS + seat):
                self.own = seat
                return seat
        raise OSError(f"all {_MOST} seats in {self._path!r} are taken")

    def is_taken(self, seat: int) -> bool:
        """Whether a process that lives has a seat."""
        return seat == self.own or _held(self._fd, _SEATS + seat, _SEATS + seat + 1) is not None

    def others(self) -> int:
        """How many other processes that live have a seat."""
        count = 0
        ranges = [(_SEATS, _NEXT)]
        while ranges:
            first, end = ranges.pop()
            held = _held(self._fd, first, end)  # any of them: the kernel keeps them by owner, not by place
            if held is not None:
                count += 1
                ranges += [(first, held.first), (held.end, end)]
        return count

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Wait until nobody else writes, however long that takes, and keep the others waiting meanwhile.

        :raises OSError: the file cannot be locked.
        """
        with self._own_turn:
            if self._turn_fd < 0:
                self._turn_fd = self._another_descriptor()
            try:
                _wait_for_turn(self._turn_fd)
            except BaseException:
                self._close_turn()
                raise
            try:
                yield
            finally:
                try:
                    _unlock(self._turn_fd, _TURN)
                except OSError:
                    self._close_turn()

    @contextlib.contextmanager
    def turn_within(self, seconds: float) -> Iterator[None]:
        """As ``turn``, but wait no longer than this.

        :raises TurnTimeout: others had it all the time.
        :raises OSError: the file cannot be locked.
        """
        descriptor = self._another_descriptor()
        turn: Future[None] = Future()

        def wait() -> None:
            try:
                try:
                    _wait_for_turn(descriptor)
                except OSError as error:
                    turn.set_exception(error)
                else:
                    turn.set_result(None)
            except InvalidStateError:  # cancelled: nobody waits any more
                os.close(descriptor)

        try:
            threading.Thread(target=wait, name="mercure-turn", daemon=True).start()
        except RuntimeError as error:
            os.close(descriptor)
            raise OSError(errno.EAGAIN, str(error)) from None
        try:
            try:
                turn.result(seconds)
            except TimeoutError:
                raise TurnTimeout(self.why_no_turn(seconds)) from None
            yield
        finally:
            if not turn.cancel():
                os.close(descriptor)  # which lets go of the turn

    def why_no_turn(self, seconds: float) -> str:
        """Words for a turn that does not come.

        :param seconds: how long it has been waited for.
        """
        held = None
        with contextlib.suppress(OSError):
            held = _held(self._fd, _TURN, _TURN + 1)
        who = f"process {held.pid}" if held is not None and held.pid > 0 else "another process"
        return (
            f"{who} has held the lock on {self._path!r} for more than {seconds:.0f} s: "
            "mercure-hub history at work, or a process that stands still"
        )

    def close(self) -> None:
        """Let go of everything."""
        self._close_turn()
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = self.own = -1

    def _another_descriptor(self) -> int:
        descriptor = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
        if not os.path.sameopenfile(descriptor, self._fd):
            os.close(descriptor)
            raise OSError(f"{self._path!r} was replaced while the hub was running; restart the hub")
        return descriptor

    def _close_turn(self) -> None:
        """Let go of the turn by the way that cannot fail."""
        if self._turn_fd >= 0:
            os.close(self._turn_fd)
        self._turn_fd = -1


class _Held(NamedTuple):
    """A part of the file that somebody else has locked.

    :param pid: -1 when the kernel does not tell, as for locks of a hub.
    """

    first: int
    end: int
    pid: int


def _held(descriptor: int, first: int, end: int) -> _Held | None:
    """What somebody else has locked in a part of the file, or one of several such locks."""
    if first >= end:
        return None  # to the kernel, a length of 0 is all the rest of the file
    asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, first, end - first, 0)
    kind, _, start, length, pid = _FLOCK.unpack(fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, asked))
    if kind == fcntl.F_UNLCK:
        return None
    return _Held(max(start, first), min(start + length, end) if length else end, pid)


def _wait_for_turn(descriptor: int) -> None:
    # A process that has had the turn queues behind those that wait. The kernel gives a free lock to
    # whoever asks first, and that would be the busy process again and again.
    _wait_for(descriptor, _NEXT)
    _wait_for(descriptor, _TURN)
    _unlock(descriptor, _NEXT)


def _wait_for(descriptor: int, octet: int) -> None:
    fcntl.fcntl(descriptor, fcntl.F_OFD_SETLKW, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, octet, 1, 0))


def _lock(descriptor: int, octet: int) -> bool:
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, octet, 1, 0))
    except BlockingIOError:
        return False
    return True


def _unlock(descriptor: int, octet: int) -> None:
    fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_UNLCK, os.SEEK_SET, octet, 1, 0))
