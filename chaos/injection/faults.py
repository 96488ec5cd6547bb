"""What can go wrong, as values."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Call(enum.IntFlag):
    """Calls of the C library; several may be meant at once."""

    OPEN = enum.auto()  # open, openat, creat
    READ = enum.auto()  # read, pread
    WRITE = enum.auto()  # write, pwrite, writev
    SYNC = enum.auto()  # fsync, fdatasync
    TRUNCATE = enum.auto()  # ftruncate
    UNLINK = enum.auto()  # unlink, unlinkat
    MAP = enum.auto()  # mmap of a file: SQLite's -shm
    LOCK = enum.auto()  # fcntl that asks for a lock or about one, of a process or of an open file
    UNLOCK = enum.auto()  # fcntl that lets go; its failure leaves the lock to those who hold it
    CLOCK = enum.auto()  # clock_gettime(CLOCK_REALTIME), gettimeofday, time
    THREAD = enum.auto()  # pthread_create


class File(enum.IntFlag):
    """Files of the store, by the ends of their names."""

    DATABASE = enum.auto()  # .db, .sqlite, .sqlite3
    WAL = enum.auto()  # -wal
    SHM = enum.auto()  # -shm
    LOCK = enum.auto()  # -lock
    OTHER = enum.auto()  # whatever else is in the folder, and the folder itself
    ANY = DATABASE | WAL | SHM | LOCK | OTHER


class Action(enum.IntEnum):
    """What happens to a call."""

    NONE = 0
    FAIL = 1  # nothing is done
    SLOW = 2  # it is done later
    SHORT = 3  # half of the bytes are read or written, and the caller is told so
    FULL = 4  # no file grows and none is made
    JUMP = 5  # the clock tells another time


ON_FILES = Call.OPEN | Call.READ | Call.WRITE | Call.SYNC | Call.TRUNCATE | Call.UNLINK | Call.MAP | Call.LOCK
_SUITABLE = {
    Action.FAIL: ON_FILES | Call.UNLOCK | Call.THREAD,
    Action.SLOW: ON_FILES | Call.UNLOCK | Call.THREAD,
    Action.SHORT: Call.READ | Call.WRITE,
    Action.FULL: Call.OPEN | Call.WRITE | Call.TRUNCATE,
    Action.JUMP: Call.CLOCK,
}


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault.

    :param action: what happens.
    :param calls: to which calls.
    :param files: of which files of the store; without meaning for clocks and threads.
    :param error: number of the error with which a call fails.
    :param seconds: by which a call is late, or the clock is ahead.
    :param probability: from 0 to 1.
    :param count: how often it happens at most, in all processes together; 0 for no limit.
    :param pid: of the only process to which it happens; 0 for all.
    :raises ValueError: they do not go together.
    """

    action: Action
    calls: Call
    files: File = File.ANY
    error: int = 0
    seconds: float = 0.0
    probability: float = 1.0
    count: int = 0
    pid: int = 0

    def __post_init__(self) -> None:
        if not self.calls or self.calls & ~_SUITABLE.get(self.action, Call(0)):
            raise ValueError(f"{self.action.name} does not happen to {self.calls!r}")
        if (self.action is Action.FAIL) != (self.error > 0):
            raise ValueError("a call that fails needs the number of an error, and no other one has one")
        if self.action is Action.SLOW and self.seconds <= 0:
            raise ValueError("a call can be late by more than 0 seconds only")
        if not 0 <= self.probability <= 1:
            raise ValueError(f"a probability is from 0 to 1, not {self.probability}")
        if self.action is Action.JUMP and (self.count or self.probability < 1):
            raise ValueError("a clock that jumps does so for each look at it")
        if self.count < 0 or self.pid < 0 or not self.files:
            raise ValueError("count and pid are 0 or more, and at least one kind of file is needed")
