"""Numbered locks that belong to a lock file, which the kernel releases when their process dies.

Each belongs to the descriptor that took it, not to the process, as those of POSIX do: they part threads, and
closing another descriptor of the file releases nothing. Linux has such locks on single bytes (F_OFD_SETLK).
Elsewhere only whole files have them (flock), so there each number has a file of its own.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
import sys
from typing import NamedTuple, Protocol


class NumberedLocks(Protocol):
    """What one holder has of the locks of a file. Not to be used by several threads at once."""

    def lock(self, number: int) -> bool:
        """Take a lock, unless another holder has it."""

    def wait(self, number: int) -> None:
        """Take a lock, as soon as nobody else has it."""

    def unlock(self, number: int) -> None:
        """Give a lock back."""

    def is_taken(self, number: int) -> bool:
        """Whether another holder has a lock."""

    def count_taken(self, first: int, end: int) -> int:
        """How many holders have a lock of these numbers, besides this one.

        Each takes one of them at most, and the lowest that is free.
        """

    def pid_of_holder(self, number: int) -> int | None:
        """The process of the holder, where the kernel tells."""

    def is_of_same_file(self, other: NumberedLocks) -> bool:
        """Whether both were opened before the file was replaced, or both after that."""

    def fileno(self) -> int:
        """Descriptor of the file."""

    def close(self) -> None:
        """Give back all."""


def numbered_locks(path: str, *, create: bool) -> NumberedLocks:
    """The locks of a file, in the way of this system.

    :param create: make the file if it is missing, for its owner only. It stays empty.
    :raises OSError: it cannot be opened.
    """
    flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0)
    descriptor = os.open(path, flags, 0o600)
    # Another system may have the name, but the layout of its struct flock is another one.
    is_linux = sys.platform == "linux" and hasattr(fcntl, "F_OFD_SETLK")
    return ByteLocks(descriptor) if is_linux else FileLocks(descriptor, path)


# struct flock of 64-bit Linux
_FLOCK = struct.Struct("hhqqixxxx")


class _Held(NamedTuple):
    """A part of the file that another holder has locked.

    :param pid: -1 when the kernel does not tell, as for locks of a hub.
    """

    first: int
    end: int
    pid: int


class ByteLocks:
    """Numbers are bytes of the file.

    The kernel joins neighbouring locks of one holder, and unlocking a part of the whole can fail for want of
    memory; so nobody should hold neighbours.

    :param descriptor: of the file.
    """

    def __init__(self, descriptor: int) -> None:
        self._fd = descriptor

    def lock(self, number: int) -> bool:
        """Lock one byte."""
        try:
            self._set(fcntl.F_OFD_SETLK, fcntl.F_WRLCK, number)
        except BlockingIOError:
            return False
        return True

    def wait(self, number: int) -> None:
        """Lock one byte, however long that takes."""
        self._set(fcntl.F_OFD_SETLKW, fcntl.F_WRLCK, number)

    def unlock(self, number: int) -> None:
        """Unlock one byte."""
        self._set(fcntl.F_OFD_SETLK, fcntl.F_UNLCK, number)

    def is_taken(self, number: int) -> bool:
        """Ask the kernel."""
        return self._held(number, number + 1) is not None

    def count_taken(self, first: int, end: int) -> int:
        """Ask the kernel for any such lock, then on both sides of it: it sorts them by owner."""
        count = 0
        ranges = [(first, end)]
        while ranges:
            first, end = ranges.pop()
            held = self._held(first, end)
            if held is not None:
                count += 1
                ranges += [(first, held.first), (held.end, end)]
        return count

    def pid_of_holder(self, number: int) -> int | None:
        """Known of those that use locks of POSIX."""
        held = self._held(number, number + 1)
        return held.pid if held is not None and held.pid > 0 else None

    def is_of_same_file(self, other: NumberedLocks) -> bool:
        """Compare the files."""
        return os.path.sameopenfile(self._fd, other.fileno())

    def fileno(self) -> int:
        """Descriptor of the file, -1 after ``close``."""
        return self._fd

    def close(self) -> None:
        """Close the file, which cannot fail to unlock."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _set(self, command: int, kind: int, number: int) -> None:
        fcntl.fcntl(self._fd, command, _FLOCK.pack(kind, os.SEEK_SET, number, 1, 0))

    def _held(self, first: int, end: int) -> _Held | None:
        if first >= end:
            return None  # to the kernel, a length of 0 is all the rest of the file
        asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, first, end - first, 0)
        kind, _, start, length, pid = _FLOCK.unpack(fcntl.fcntl(self._fd, fcntl.F_OFD_GETLK, asked))
        if kind == fcntl.F_UNLCK:
            return None
        return _Held(max(start, first), min(start + length, end) if length else end, pid)


class FileLocks:
    """Number 0 is the file itself, the others are files beside it.

    They stay: if one were removed, nobody would see the lock of its holder.

    :param descriptor: of the file.
    :param path: of the file.
    """

    def __init__(self, descriptor: int, path: str) -> None:
        self._path = path
        self._open = {0: descriptor}
        self._locked: set[int] = set()

    def lock(self, number: int) -> bool:
        """Lock a file."""
        try:
            fcntl.flock(self._descriptor(number), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._open.pop(number))
            return False
        self._locked.add(number)
        return True

    def wait(self, number: int) -> None:
        """Lock a file, however long that takes."""
        fcntl.flock(self._descriptor(number), fcntl.LOCK_EX)
        self._locked.add(number)

    def unlock(self, number: int) -> None:
        """Unlock a file."""
        if number not in self._open:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        fcntl.flock(self._open[number], fcntl.LOCK_UN)
        self._locked.discard(number)

    def is_taken(self, number: int) -> bool:
        """Try a lock that others may try at the same time."""
        if number in self._locked:
            return False
        try:
            descriptor = os.open(self._name(number), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    def count_taken(self, first: int, end: int) -> int:
        """Try those that have a file: they were made in order."""
        count = 0
        for number in range(first, end):
            if not os.path.exists(self._name(number)):  # noqa: PTH110 - as cheap as can be
                break
            count += self.is_taken(number)
        return count

    def pid_of_holder(self, number: int) -> int | None:  # noqa: ARG002 - flock() does not tell
        """Unknown."""
        return None

    def is_of_same_file(self, other: NumberedLocks) -> bool:
        """Compare the files with number 0."""
        return os.path.sameopenfile(self.fileno(), other.fileno())

    def fileno(self) -> int:
        """Descriptor of number 0, -1 after ``close``."""
        return self._open.get(0, -1)

    def close(self) -> None:
        """Close all files, which unlocks them."""
        descriptors = list(self._open.values())
        self._open.clear()
        self._locked.clear()
        for descriptor in descriptors:
            with contextlib.suppress(OSError):
                os.close(descriptor)

    def _name(self, number: int) -> str:
        return f"{self._path}.{number}" if number else self._path

    def _descriptor(self, number: int) -> int:
        if number not in self._open:
            descriptor = os.open(self._name(number), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            self._open[number] = descriptor
            if os.geteuid() == 0:  # "mercure-hub history" of root must not shut the hub out
                owner = os.fstat(self.fileno())
                os.fchown(descriptor, owner.st_uid, owner.st_gid)
        return self._open[number]
