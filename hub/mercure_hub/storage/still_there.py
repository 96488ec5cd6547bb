"""Notices that files of the database were removed, replaced or cut while they are open.

What is written to such a file would be acknowledged, and gone after the next start.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from time import monotonic

from mercure_hub.protocol.errors import StorageError

_FILE_HEADER, _FRAME_HEADER = 32, 24  # bytes in a write-ahead log (SQLite, WAL-mode File Format)

_NUMBER = 4  # bytes: what the file begins with, and the page of a frame
_SETTLED = 1.0  # seconds after which the time of a folder tells of each change: it is as coarse as a tick


class StillThere:
    """A file, as it was when it was opened.

    :param path: of the file. What is no file, such as a database in memory, is never missed.
    """

    def __init__(self, path: str | None) -> None:
        self._path = path or ""
        self._before = _identity(_status(self._path))

    def check(self) -> None:
        """Look for it, which takes some microseconds.

        :raises StorageError: another one has its name, or none.
        """
        self._check(_status(self._path))

    def _check(self, found: os.stat_result | None) -> None:
        if self._before is not None and _identity(found) != self._before:
            raise self._error("removed or replaced")

    def _error(self, what: str) -> StorageError:
        return StorageError(
            f"{str(Path(self._path).absolute())!r} was {what} while the hub was running; restart the hub"
        )


class Folder:
    """The folder of a file: while nothing comes, goes or changes its name there, the file is still there.

    One look at the folder is cheaper than one at each file in it.

    :param path: of the file. Where that is a link, the folder tells nothing.
    :param clock: monotonic time in seconds.
    """

    def __init__(self, path: str | None, clock: Callable[[], float] = monotonic) -> None:
        self._path = os.path.dirname(os.path.abspath(path)) if path else ""  # noqa: PTH100, PTH120
        self._is_link = not path or os.path.realpath(path) != os.path.join(  # noqa: PTH118
            os.path.realpath(self._path),
            os.path.basename(path),  # noqa: PTH119
        )
        self._clock = clock
        self._seen: tuple[int, int, int] | None = None
        self._seen_at = 0.0
        self._is_confirmed = False

    def is_as_before(self) -> bool:
        """Whether the files need no look of their own."""
        found = None if self._is_link else _status(self._path)
        if found is None:
            return False
        seen = (found.st_dev, found.st_ino, found.st_ctime_ns)  # nobody can set this time
        if seen != self._seen:
            self._seen, self._seen_at, self._is_confirmed = seen, self._clock(), False
        return self._is_confirmed

    def confirm(self) -> None:
        """The files were looked at after ``is_as_before``, and are there."""
        self._is_confirmed = self._seen is not None and self._clock() - self._seen_at > _SETTLED


class WriteAheadLog(StillThere):
    """The write-ahead log of an SQLite database that is in use, and its index.

    :param database: path of the database.
    """

    def __init__(self, database: str | None) -> None:
        super().__init__(f"{database}-wal" if database else None)
        self._index = StillThere(f"{database}-shm" if database else None)
        self._size = 0  # that it has had
        self._frame = 0  # bytes of one change of a page
        self._is_cut = False
        # The locks of SQLite are on the other files: closing this descriptor takes none of them away.
        self._fd = -1 if self._before is None else os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)

    def check(self) -> None:
        """Look for both files, without a connection.

        :raises StorageError: one of them is another one, is gone, or the log was found to be cut.
        """
        self._check(_status(self._path))
        self._index.check()
        self._measure()

    def check_before(self, connection: sqlite3.Connection) -> None:
        """Look for what was written to the log before more is written.

        :param connection: to the database, in no transaction.
        :raises StorageError: the log was cut.
        """
        if not self._frame:
            self._frame = _FRAME_HEADER + int(connection.execute("PRAGMA page_size").fetchone()[0])
        size = self._measure()
        if size < self._size and size < self._needed(connection):
            self._is_cut = True
            raise self._error("cut")
        self._size = size

    def check_after(self) -> None:
        """Look at the log again: what was written is in it.

        :raises StorageError: it is not.
        """
        size = self._measure()
        if size < self._size:
            return  # the next look before a write finds out whether SQLite did that
        last = (self._size - _FILE_HEADER) // self._frame if self._frame else 0
        if last > 0 and self._is_empty(_FILE_HEADER + (last - 1) * self._frame):
            self._is_cut = True
            raise self._error("cut")
        self._size = size

    def close(self) -> None:
        """Let go of the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _measure(self) -> int:
        size = os.fstat(self._fd).st_size if self._fd >= 0 else 0
        if self._is_cut or (size and self._is_empty(0)):
            self._is_cut = True
            raise self._error("cut")
        return size

    def _is_empty(self, offset: int) -> bool:
        """Whether nothing is where a number that is never 0 has to be: the file was cut and is long again."""
        try:
            return self._fd >= 0 and os.pread(self._fd, _NUMBER, offset) == bytes(_NUMBER)
        except OSError:  # SQLite has said that it is written, and nothing speaks against that
            return False

    def _needed(self, connection: sqlite3.Connection) -> int:
        """How long it has to be by its index. SQLite makes it shorter itself, when all of it is copied.

        The checkpoint is how SQLite tells that; it fails where it cannot read what should be there.
        """
        try:
            frames = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()[1]
        except sqlite3.Error:
            return self._size
        return _FILE_HEADER + frames * self._frame if frames > 0 else 0


def _status(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)  # noqa: PTH116 - for each transaction
    except OSError:
        return None


def _identity(found: os.stat_result | None) -> tuple[int, int] | None:
    return None if found is None else (found.st_dev, found.st_ino)
