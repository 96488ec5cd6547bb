"""When the files of a database need a look of their own."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from mercure_hub.storage.sqlite.files import Folder


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
