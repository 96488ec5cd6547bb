"""Where a database may be."""

from __future__ import annotations

from pathlib import Path

import pytest

from mercure_hub.protocol.errors import StorageUnusable
from mercure_hub.storage.sqlite.files import FileSystem, find_mount
from mercure_hub.tools.history.log import opened
from tests.storage.log import Log

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
        with pytest.raises(StorageUnusable), opened(f"sqlite:///{log.path}", create=True):
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
