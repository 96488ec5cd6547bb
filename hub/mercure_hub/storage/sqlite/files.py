"""The files of an SQLite database: where they may be, who may read them, whether they are still there."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sqlite3
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

from mercure_hub.protocol.errors import StorageError, StorageUnusable

# SQLite's write-ahead log is a file that all processes map into memory, and its order rests on locks and on
# fsync. SQLite says that this does not work over a network file system (sqlite.org/wal.html).
_NETWORK = frozenset(
    {
        *("9p", "afs", "cifs", "coda", "davfs", "ncpfs", "nfs", "nfs4", "smb3", "smbfs"),
        *("fuse.curlftpfs", "fuse.davfs2", "fuse.rclone", "fuse.sshfs"),
        *("fuse.blobfuse", "fuse.blobfuse2", "fuse.gcsfuse", "fuse.goofys", "fuse.mount-s3", "fuse.s3fs"),
    }
)
"""The files are on another machine: locks may be missing, and what fsync wrote may be gone."""

_SHARED = frozenset(
    {
        *("beegfs", "ceph", "gfs2", "glusterfs", "gpfs", "lustre", "ocfs2", "orangefs"),
        *("drvfs", "fakeowner", "prl_fs", "vboxsf", "virtiofs", "vmhgfs"),
    }
)
"""Several machines may use the files: safe as long as only one does."""

_LOCAL_FUSE = frozenset({"fuse.fuse-overlayfs", "fuseblk"})
_ESCAPE = re.compile(r"\\([0-7]{3})")
_MAGIC = b"SQLite format 3\0"  # how a database file begins (https://sqlite.org/fileformat.html)
_OTHERS = 0o007  # the bits of a mode that are for everyone
_FILE_HEADER, _FRAME_HEADER = 32, 24  # bytes in a write-ahead log (SQLite, WAL-mode File Format)
_NUMBER = 4  # bytes: what the file begins with, and the page of a frame
_ZERO = bytes(_NUMBER)
_SETTLED = 1.0  # seconds after which the time of a folder tells of each change: it is as coarse as a tick

_log = logging.getLogger("mercure_hub.storage")


def lock_path(database: str) -> str:
    """The file with whose locks processes on this database find one another (``locks.Seats``)."""
    return f"{database}-lock"


def make_file(database: str) -> None:
    """Create the file of a new database, readable by its owner only: private updates will be in it.

    SQLite gives the write-ahead log and its index the mode of the database. An error here is left to SQLite,
    which fails to open the file with a better message.
    """
    if _is_file(database):
        with contextlib.suppress(OSError):
            os.close(os.open(database, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))


def close_to_others(database: str) -> None:
    """Take away everyone's access but that of owner and group, and log it.

    Earlier versions made the files readable by everyone. The group keeps its rights: it may be one that reads
    backups.
    """
    if not _is_file(database):
        return
    for suffix in ("", "-wal", "-shm", "-lock"):
        path = f"{database}{suffix}"
        try:
            mode = stat.S_IMODE(os.stat(path).st_mode)  # noqa: PTH116
            if mode & _OTHERS:
                os.chmod(path, mode & ~_OTHERS)  # noqa: PTH101
                _log.warning(
                    "%r was open to every user of this machine; now only owner and group may use it", path
                )
        except FileNotFoundError:
            pass
        except OSError as error:
            _log.warning(
                "%r is open to every user of this machine: %s; change its mode", path, error.strerror
            )


def obstacle(database: str, name: str) -> str | None:
    """Why a database cannot be opened, as far as its path tells; opens nothing for writing.

    :param name: of the database, in words.
    """
    if not _is_file(database):
        return None
    path = Path(database)
    if not path.parent.is_dir():
        what = f"cannot be opened: there is no folder {str(path.parent)!r}; make it"
    elif path.is_dir():
        what = "is a folder; give the path of a file"
    elif not is_writable(database):
        what = "cannot be written by this user; check who may write to the file and its folder"
    else:
        what = _flaw(path)
    return f"{name} {what}" if what else None


def _flaw(path: Path) -> str:
    try:
        with path.open("rb") as file:
            begins = file.read(len(_MAGIC))
    except FileNotFoundError:
        return ""
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return "" if begins in (b"", _MAGIC) else "is not an SQLite database; choose another path"


def is_writable(database: str) -> bool:
    """Whether this process may write a database, as far as the modes of its file and folder tell."""
    if not database:
        return True
    path = Path(database)
    may_be_made = os.access(path.parent, os.W_OK | os.X_OK) and not path.is_dir()
    return may_be_made and (not path.exists() or os.access(path, os.W_OK))


def _is_file(database: str) -> bool:
    return database not in ("", ":memory:") and not database.startswith("file:")


@dataclass(frozen=True, slots=True)
class FileSystem:
    """The file system of a file.

    :param kind: its type, as in /proc/filesystems; empty when it is unknown.
    :param mounted_at: path of the mount.
    """

    kind: str
    mounted_at: str = ""

    @property
    def is_network(self) -> bool:
        """SQLite loses updates on it."""
        return self.kind in _NETWORK

    @property
    def is_doubtful(self) -> bool:
        """SQLite loses updates on it if another machine uses it too."""
        return self.kind in _SHARED or (
            self.kind.partition(".")[0] in ("fuse", "fuseblk")
            and self.kind not in _LOCAL_FUSE
            and not self.is_network
        )


def check_file_system(database: str) -> None:
    """Refuse a file system on which SQLite loses updates; warn of one on which it may.

    :raises StorageUnusable: the files of the database are, or would be, on another machine.
    """
    if not _is_file(database):
        return
    system = file_system_of(database)
    where = f"{database!r} is on a file system of type {system.kind}, mounted at {system.mounted_at!r}"
    if system.is_network:
        raise StorageUnusable(
            f"{where}: over a network, SQLite's locks and write-ahead log do not work; put it on a local disk"
        )
    if system.is_doubtful:
        _log.warning(
            "%s: updates may be lost if another machine uses it too, or if it keeps locks and fsync back; "
            "a local disk is safe",
            where,
        )


def file_system_of(path: str) -> FileSystem:
    """The file system that a file is on, or would be."""
    try:
        table = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return FileSystem("")
    return find_mount(table, os.path.realpath(path))


def find_mount(table: str, path: str) -> FileSystem:
    """The mount that a path is under.

    :param table: the contents of /proc/self/mountinfo (proc(5)).
    :param path: absolute and without symbolic links.
    """
    nearest = FileSystem("")
    for line in table.splitlines():
        mount, _, rest = line.partition(" - ")
        fields = mount.split(" ")
        if len(fields) < 5 or not rest:
            continue
        point = _ESCAPE.sub(lambda octal: chr(int(octal[1], 8)), fields[4])
        is_above = point in ("/", path) or path.startswith(f"{point}/")
        if is_above and len(point) >= len(nearest.mounted_at):  # of two at one point the later one is seen
            nearest = FileSystem(rest.split(" ")[0], point)
    return nearest


class DatabaseFiles:
    """Detects that the files of an open database were removed, replaced or cut.

    What is written to such a file would be acknowledged, and gone after the next start.

    :param path: of the database; ``None``: nothing is looked at.
    """

    def __init__(self, path: str | None) -> None:
        self._database = _OpenFile(path)
        self._lock_file = _OpenFile(None if path is None else lock_path(path))
        self._wal = _WriteAheadLog(path)
        self._folder = Folder(path)
        self._is_astray = False

    @property
    def identity(self) -> str:
        """Names the file: another one at its path has another identity."""
        return self._database.identity

    def check(self) -> None:
        """Look at all files, without a connection.

        :raises StorageError: one of them is not the one that was opened.
        """
        self._database.check()
        self._wal.check()
        self._lock_file.check()  # without it, processes that come later cannot detect crashed peers

    def check_before(self, connection: sqlite3.Connection) -> None:
        """Look before a transaction that writes.

        Whether the files are still at their places is looked at after it; before it only if they were not.

        :param connection: to the database, in no transaction.
        :raises StorageError: a file is not what it was.
        """
        if self._is_astray:
            self._look()
        self._wal.check_before(connection)

    def check_after(self) -> None:
        """Look after a commit: what it wrote will be there after a restart, or this raises.

        :raises StorageError: a file is not what it was.
        """
        self._look()
        self._wal.check_after()

    def close(self) -> None:
        """Close the descriptor of the write-ahead log."""
        self._wal.close()

    def _look(self) -> None:
        if not self._folder.is_as_before():
            self._is_astray = True
            self._database.check()
            self._wal.check()
            self._folder.confirm()
            self._is_astray = False


class Folder:
    """The folder of a file: while nothing comes, goes or changes its name in it, the file is still there.

    One look at the folder is cheaper than one at each file in it.

    :param path: of the file. If that is a link, the folder says nothing.
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
        status = None if self._is_link else _status(self._path)
        if status is None:
            return False
        seen = (status.st_dev, status.st_ino, status.st_ctime_ns)  # nobody can set this time
        if seen != self._seen:
            self._seen, self._seen_at, self._is_confirmed = seen, self._clock(), False
        return self._is_confirmed

    def confirm(self) -> None:
        """Note that the files were looked at after ``is_as_before``, and are there."""
        self._is_confirmed = self._seen is not None and self._clock() - self._seen_at > _SETTLED


class _OpenFile:
    """A file, as it was when it was opened.

    :param path: of the file. What is no file, such as a database in memory, is never missed.
    """

    def __init__(self, path: str | None) -> None:
        self._path = path or ""
        self._before = _identity(_status(self._path))

    @property
    def identity(self) -> str:
        return "" if self._before is None else "{}:{}".format(*self._before)

    def check(self) -> None:
        """Compare it with the file that has its name now.

        :raises StorageError: that is another one, or there is none.
        """
        if self._before is not None and _identity(_status(self._path)) != self._before:
            raise self._error("removed or replaced")

    def _error(self, what: str) -> StorageError:
        return StorageError(
            f"{str(Path(self._path).absolute())!r} was {what} while the hub was running; restart the hub"
        )


class _WriteAheadLog(_OpenFile):
    """The write-ahead log of a database that is in use, and its index.

    :param database: path of the database.
    """

    def __init__(self, database: str | None) -> None:
        super().__init__(f"{database}-wal" if database else None)
        self._index = _OpenFile(f"{database}-shm" if database else None)
        self._size = 0  # the largest seen since SQLite last cut it
        self._frame = 0  # bytes of one change of a page
        self._is_cut = False
        # The locks of SQLite are on the other files: closing this descriptor takes none of them away.
        self._fd = -1 if self._before is None else os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)

    def check(self) -> None:
        super().check()
        self._index.check()
        self._measure()

    def check_before(self, connection: sqlite3.Connection) -> None:
        """Look for what was written to the log before more is written."""
        if self._frame and self._size == self._length() and not self._is_cut:
            return  # nobody has written since: who finds the log cut writes behind the end that it had
        if not self._frame:
            self._frame = _FRAME_HEADER + int(connection.execute("PRAGMA page_size").fetchone()[0])
        size = self._measure()
        if size < self._size and size < self._needed(connection):
            self._is_cut = True
            raise self._error("cut")
        self._size = size

    def check_after(self) -> None:
        """Look for what was written just now.

        If the log was cut before, zeros are between its end and what was written: also in the last frame
        that was there.
        """
        size = self._length()
        if size < self._size:
            return  # the next look before a write finds out whether SQLite did that
        last = (self._size - _FILE_HEADER) // self._frame if self._frame else 0
        if last > 0 and self._is_empty(_FILE_HEADER + (last - 1) * self._frame):
            self._is_cut = True
            raise self._error("cut")
        self._size = size

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _length(self) -> int:
        return os.fstat(self._fd).st_size if self._fd >= 0 else 0

    def _measure(self) -> int:
        size = self._length()
        if self._is_cut or (size and self._is_empty(0)):
            self._is_cut = True
            raise self._error("cut")
        return size

    def _is_empty(self, offset: int) -> bool:
        """Whether zeros are where a number that is never 0 has to be: the file was cut and grew again."""
        try:
            return self._fd >= 0 and os.pread(self._fd, _NUMBER, offset) == _ZERO
        except OSError:  # SQLite has reported it as written, and nothing contradicts that
            return False

    def _needed(self, connection: sqlite3.Connection) -> int:
        """How long it has to be by its index. SQLite itself cuts it when all of it is copied.

        A checkpoint tells how many frames the index has; it fails if it cannot read what should be there.
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


def _identity(status: os.stat_result | None) -> tuple[int, int] | None:
    return None if status is None else (status.st_dev, status.st_ino)
