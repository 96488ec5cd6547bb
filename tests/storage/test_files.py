"""On which file systems a database may be, and when its files need a look of their own."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from mercure_hub.protocol.errors import StorageUnusable
from mercure_hub.storage.sqlite.files import FileSystem, Folder, find_mount
from mercure_hub.tools.history.sqlite import opened
from tests.storage.log import Log


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "folder" / "mercure.db"
    path.parent.mkdir()
    path.write_text("x")
    return path


def settled(file: Path) -> Folder:
    """A folder that has been looked at, and again after it had come to rest."""
    clock = Clock()
    folder = Folder(str(file), clock)
    for _ in range(2):
        assert not folder.is_as_before()
        folder.confirm()
        assert not folder.is_as_before()  # a change may have come in the same tick
        folder.confirm()
    clock.now += 1.01
    assert not folder.is_as_before()
    folder.confirm()
    assert folder.is_as_before()
    return folder


def unlink(file: Path) -> None:
    file.unlink()


def rename(file: Path) -> None:
    file.rename(file.with_name("another"))


def replace(file: Path) -> None:
    file.with_name("copy").write_text("x")
    file.with_name("copy").replace(file)


def rename_the_folder(file: Path) -> None:
    file.parent.rename(file.parent.with_name("another"))


def replace_the_folder(file: Path) -> None:
    rename_the_folder(file)
    file.parent.mkdir()
    file.write_text("x")


def restore(file: Path) -> None:
    """As tar and rsync do with a backup: the folder gets the time that it had."""
    before = file.parent.stat()
    replace(file)
    os.utime(file.parent, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("change", [unlink, rename, replace, rename_the_folder, replace_the_folder, restore])
def test_a_change_asks_for_a_look(file: Path, change: Callable[[Path], None]) -> None:
    folder = settled(file)
    change(file)
    assert not folder.is_as_before()


def test_a_look_that_fails_is_asked_for_again(file: Path) -> None:
    folder = settled(file)
    file.unlink()
    for _ in range(3):
        assert not folder.is_as_before()


def test_what_is_written_asks_for_none(file: Path) -> None:
    folder = settled(file)
    file.write_text("more")
    assert folder.is_as_before()


def test_a_link_says_nothing_of_the_file(file: Path, tmp_path: Path) -> None:
    link = tmp_path / "mercure.db"
    link.symlink_to(file)
    clock = Clock()
    folder = Folder(str(link), clock)
    for _ in range(3):
        assert not folder.is_as_before()
        folder.confirm()
        clock.now += 10


def test_a_link_above_the_folder_does_no_harm(file: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(file.parent)
    folder = settled(tmp_path / "link" / "mercure.db")
    file.unlink()
    assert not folder.is_as_before()


def test_a_database_in_memory_has_no_folder() -> None:
    assert not Folder(None).is_as_before()


TABLE = r"""
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw
30 27 0:40 / /srv rw,relatime shared:9 master:1 - nfs4 server:/export rw,vers=4.2
31 30 0:41 / /srv/fast rw,relatime - xfs /dev/vdb rw
32 27 0:42 / /mnt/with\040space rw - cifs //server/share rw
33 27 0:43 / /over rw - nfs server:/a rw
34 27 0:44 / /over rw - ext4 /dev/vdc rw
35 27 0:45 / /home/me/far rw,nosuid - fuse.sshfs me@far: rw
36 27 0:46 / /data rw - virtiofs data rw
37 27 0:47 / /other rw - fuse.something x rw
38 27 0:48 / /mnt/usb rw - fuseblk /dev/sdb1 rw
a line of another kind
""".strip()


@pytest.mark.parametrize(
    ("path", "kind", "verdict"),
    [
        ("/var/lib/mercure/mercure.db", "ext4", "local"),
        ("/srv/mercure.db", "nfs4", "network"),
        ("/srv/fast/mercure.db", "xfs", "local"),
        ("/srvice/mercure.db", "ext4", "local"),
        ("/mnt/with space/mercure.db", "cifs", "network"),
        ("/over/mercure.db", "ext4", "local"),
        ("/home/me/far/mercure.db", "fuse.sshfs", "network"),
        ("/data/mercure.db", "virtiofs", "doubtful"),
        ("/other/mercure.db", "fuse.something", "doubtful"),
        ("/mnt/usb/mercure.db", "fuseblk", "local"),
    ],
)
def test_the_file_system_of_a_path(path: str, kind: str, verdict: str) -> None:
    found = find_mount(TABLE, path)
    assert found.kind == kind
    assert (found.is_network, found.is_doubtful) == (verdict == "network", verdict == "doubtful")


def test_a_system_that_does_not_tell() -> None:
    assert find_mount("", "/x") == FileSystem("")
    assert not find_mount("", "/x").is_network
    assert not find_mount("", "/x").is_doubtful


class TestStart:
    def on(self, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(
            "mercure_hub.storage.sqlite.files.file_system_of",
            lambda path: FileSystem(kind, str(Path(path).parent)),
        )

    def test_a_network_is_refused_and_nothing_is_made(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.on("nfs4", monkeypatch)
        log = Log(tmp_path / "mercure.db")
        with pytest.raises(StorageUnusable, match=r"of type nfs4, mounted at .*put it on a local disk"):
            log.open()
        log.close()
        with pytest.raises(StorageUnusable), opened(f"sqlite:///{log.path}", is_made=True):
            pass
        assert list(tmp_path.iterdir()) == []

    def test_a_doubtful_one_is_told(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        self.on("virtiofs", monkeypatch)
        log = Log(tmp_path / "mercure.db")
        log.open()
        log.close()
        assert "is on a file system of type virtiofs" in caplog.text
