"""How processes on one database find each other and take turns to write.

Both rest on the kernel: a process that dies, however it dies, loses its locks. So a locked seat is a living
process, and whoever waits for the turn gets it.
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

_TURN = 0  # the byte of the lock file whose lock is the turn to write
_SEATS = 1  # the byte of the first seat
_MOST = 1024
_NEXT = _SEATS + _MOST  # the byte whose lock is the head of the queue for the turn

# struct flock of 64-bit Linux; the lock belongs to the open file, not to the process as lockf()'s does,
# which any close() of the file would release.
_FLOCK = struct.Struct("hhqqixxxx")


class TurnTimeout(OSError):
    """The turn to write did not come in time."""


class Seats:
    """The lock file of a database.

    Seat and turn are locked through descriptors of their own: the kernel joins neighbouring locks of one
    descriptor, and unlocking a part of the whole can fail for want of memory.

    :param path: of the file, which is made if it is missing, for its owner only. It stays empty.
    :raises OSError: it cannot be opened.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._turn_fd = -1
        self._own_turn = threading.Lock()  # the file's lock does not separate the threads of a process
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
        """Whether a living process has a seat."""
        return seat == self.own or _held(self._fd, _SEATS + seat, _SEATS + seat + 1) is not None

    def others(self) -> int:
        """How many other living processes have a seat."""
        count = 0
        ranges = [(_SEATS, _NEXT)]
        while ranges:
            first, end = ranges.pop()
            held = _held(self._fd, first, end)  # any of them: the kernel sorts them by owner, not by position
            if held is not None:
                count += 1
                ranges += [(first, held.first), (held.end, end)]
        return count

    def take_turn(self) -> None:
        """Wait until nobody else writes, however long that takes; the others wait until ``return_turn``.

        :raises OSError: the file cannot be locked.
        """
        self._own_turn.acquire()
        try:
            if self._turn_fd < 0:
                self._turn_fd = self._another_descriptor()
            _wait_for_turn(self._turn_fd)
        except BaseException:
            self._close_turn()
            self._own_turn.release()
            raise

    def return_turn(self) -> None:
        """Let the next one write."""
        try:
            _unlock(self._turn_fd, _TURN)
        except OSError:
            self._close_turn()
        finally:
            self._own_turn.release()

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """``take_turn`` and ``return_turn`` as a context."""
        self.take_turn()
        try:
            yield
        finally:
            self.return_turn()

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
                os.close(descriptor)  # which gives the turn back

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
        """Give back the seat and the turn."""
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
        """Give back the turn in the way that cannot fail."""
        if self._turn_fd >= 0:
            os.close(self._turn_fd)
        self._turn_fd = -1


class _Held(NamedTuple):
    """A part of the file that another open file has locked.

    :param pid: -1 when the kernel does not tell, as for locks of a hub.
    """

    first: int
    end: int
    pid: int


def _held(descriptor: int, first: int, end: int) -> _Held | None:
    """What others have locked in a part of the file, or one of several such locks."""
    if first >= end:
        return None  # to the kernel, a length of 0 is all the rest of the file
    asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, first, end - first, 0)
    kind, _, start, length, pid = _FLOCK.unpack(fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, asked))
    if kind == fcntl.F_UNLCK:
        return None
    return _Held(max(start, first), min(start + length, end) if length else end, pid)


def _wait_for_turn(descriptor: int) -> None:
    # Queue behind waiting processes: the kernel gives a free lock to whoever asks first, and a busy writer
    # would starve the others.
    _wait_for(descriptor, _NEXT)
    _wait_for(descriptor, _TURN)
    _unlock(descriptor, _NEXT)


def _wait_for(descriptor: int, byte: int) -> None:
    fcntl.fcntl(descriptor, fcntl.F_OFD_SETLKW, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0))


def _lock(descriptor: int, byte: int) -> bool:
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0))
    except BlockingIOError:
        return False
    return True


def _unlock(descriptor: int, byte: int) -> None:
    fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_UNLCK, os.SEEK_SET, byte, 1, 0))
