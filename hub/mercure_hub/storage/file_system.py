"""On which file systems a database must not be.

SQLite's write-ahead log is a file that all processes map into memory, and its order rests on locks and on
fsync. SQLite says that this does not work over a network file system (sqlite.org/wal.html).
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

_NETWORK = frozenset(
    {
        *("9p", "afs", "cifs", "coda", "davfs", "ncpfs", "nfs", "nfs4", "smb3", "smbfs"),
        *("fuse.curlftpfs", "fuse.davfs2", "fuse.rclone", "fuse.sshfs"),
        *("fuse.blobfuse", "fuse.blobfuse2", "fuse.gcsfuse", "fuse.goofys", "fuse.mount-s3", "fuse.s3fs"),
    }
)
"""Another machine has the files: locks may be missing, and what was synchronised may be gone."""

_SHARED = frozenset(
    {
        *("beegfs", "ceph", "gfs2", "glusterfs", "gpfs", "lustre", "ocfs2", "orangefs"),
        *("drvfs", "fakeowner", "prl_fs", "vboxsf", "virtiofs", "vmhgfs"),
    }
)
"""Several machines may have the files: right as long as one of them does."""

_LOCAL_FUSE = frozenset({"fuse.fuse-overlayfs", "fuseblk"})
_ESCAPE = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class FileSystem:
    """Where a file is.

    :param kind: its type, as in /proc/filesystems; empty when it cannot be told.
    :param mounted_at: path of the mount.
    """

    kind: str
    mounted_at: str = ""

    @property
    def is_network(self) -> bool:
        """No place for a database."""
        return self.kind in _NETWORK

    @property
    def is_doubtful(self) -> bool:
        """A place for a database only if no other machine uses it."""
        return self.kind in _SHARED or (
            self.kind.partition(".")[0] in ("fuse", "fuseblk")
            and self.kind not in _LOCAL_FUSE
            and not self.is_network
        )


def file_system_of(path: str) -> FileSystem:
    """The file system that a file is on, or would be.

    :param path: of the file.
    """
    try:
        table = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return FileSystem("")
    return find(table, os.path.realpath(path))


def find(table: str, path: str) -> FileSystem:
    """The mount that a path is under.

    :param table: the contents of /proc/self/mountinfo (proc(5)).
    :param path: absolute and without symbolic links.
    """
    found = FileSystem("")
    for line in table.splitlines():
        mount, _, rest = line.partition(" - ")
        fields = mount.split(" ")
        if len(fields) < 5 or not rest:
            continue
        point = _ESCAPE.sub(lambda octal: chr(int(octal[1], 8)), fields[4])
        is_above = point in ("/", path) or path.startswith(f"{point}/")
        if is_above and len(point) >= len(found.mounted_at):  # of two at one place the later one is seen
            found = FileSystem(rest.split(" ")[0], point)
    return found
