"""Log files that are renamed by size and by time."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mercure_hub.server import logs
from mercure_hub.server.rotation import Rotation, RotationRule

NOON = time.mktime((2026, 11, 24, 12, 30, 0, 0, 0, -1))
HOUR = 3600.0


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Path]:
    """A file that the hub logs to."""
    logger = logging.getLogger("mercure_hub")
    before = logger.handlers[:], logger.level, logger.propagate
    logger.handlers[:] = []
    path = tmp_path / "hub.log"
    logs.configure("info", "text", str(path))
    yield path
    for handler in logger.handlers:
        handler.close()
    logger.handlers[:], logger.level, logger.propagate = before


def write(words: str) -> None:
    logging.getLogger("mercure_hub.server").info("%s", words)


def last_words(path: Path) -> list[str]:
    return [line.split()[-1] for line in path.read_text(encoding="utf-8").splitlines()]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_large_file_is_renamed_and_the_next_line_begins_a_new_one(log: Path) -> None:
    rotation = Rotation([log], RotationRule(size=200, keep=2), NOON)
    write("small")
    rotation.check(NOON)
    assert names(log.parent) == ["hub.log"]
    for number in range(5):
        write(f"line{number}" + "x" * 200)
        rotation.check(NOON + number)
    write("last")
    assert names(log.parent) == ["hub.log", "hub.log.1", "hub.log.2"]
    assert last_words(log) == ["last"]
    assert last_words(log.with_name("hub.log.1")) == ["line4" + "x" * 200]
    assert last_words(log.with_name("hub.log.2")) == ["line3" + "x" * 200]


@pytest.mark.parametrize(
    ("interval", "before", "after"),
    [
        ("hourly", NOON + HOUR / 2 - 1, NOON + HOUR / 2),
        ("daily", NOON + 11.5 * HOUR - 1, NOON + 11.5 * HOUR),
    ],
)
def test_a_file_is_renamed_at_the_end_of_its_time(
    log: Path, interval: str, before: float, after: float
) -> None:
    write("first")
    os.utime(log, (NOON, NOON))
    rotation = Rotation([log], RotationRule(interval=interval), NOON)
    rotation.check(before)
    assert names(log.parent) == ["hub.log"]
    rotation.check(after)
    write("second")
    rotation.check(after + 1)
    assert last_words(log.with_name("hub.log.1")) == ["first"]
    assert last_words(log) == ["second"]


def test_a_file_of_yesterday_is_renamed_at_the_start(log: Path) -> None:
    write("yesterday")
    os.utime(log, (NOON - 24 * HOUR, NOON - 24 * HOUR))
    Rotation([log], RotationRule(interval="daily"), NOON).check(NOON)
    assert names(log.parent) == ["hub.log.1"]


def test_an_empty_file_is_not_renamed(log: Path) -> None:
    rotation = Rotation([log], RotationRule(interval="hourly"), NOON)
    rotation.check(NOON + 2 * HOUR)
    assert names(log.parent) == ["hub.log"]


def test_without_kept_files_a_due_file_is_removed(log: Path) -> None:
    write("gone")
    rotation = Rotation([log], RotationRule(size=1, keep=0), NOON)
    rotation.check(NOON)
    assert names(log.parent) == []
    write("here")
    assert last_words(log) == ["here"]


def test_each_file_is_due_at_its_own_time(tmp_path: Path, log: Path) -> None:
    access = tmp_path / "access.log"
    logs.configure("info", "text", str(log), str(access))
    logging.getLogger("mercure_hub.access").info("request")
    write("event")
    assert last_words(access) == ["request"]
    assert last_words(log) == ["event"]
    access.write_text("x" * 1000, encoding="utf-8")
    Rotation([log, access], RotationRule(size=500), NOON).check(NOON)
    assert names(tmp_path) == ["access.log.1", "hub.log"]


def test_requests_are_logged_whatever_the_level(tmp_path: Path, log: Path) -> None:
    access = tmp_path / "access.log"
    logs.configure("error", "text", str(log), str(access))
    assert logging.getLogger("mercure_hub.access").isEnabledFor(logging.INFO)
    logging.getLogger("mercure_hub.access").info("request")
    assert last_words(access) == ["request"]
    logs.configure("error", "text", str(log))
    assert not logging.getLogger("mercure_hub.access").isEnabledFor(logging.INFO)


def test_a_file_that_cannot_be_renamed_is_reported_once(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "replace", refuse)
    rotation = Rotation([log], RotationRule(size=1), NOON)
    write("x")
    for second in range(3):
        rotation.check(NOON + second)
    text = log.read_text(encoding="utf-8")
    assert text.count("cannot be rotated: Permission denied") == 1
    write("goes on")
    assert last_words(log)[-1] == "on"


def test_another_process_renames_and_no_line_is_lost(log: Path) -> None:
    for number in range(100):
        write(f"n{number}")
        if number % 10 == 9:
            log.rename(log.with_name(f"moved.{number}"))
            if number % 20 == 9:
                logs.reopen()
    found = [word for path in log.parent.iterdir() for word in last_words(path)]
    assert sorted(found) == sorted(f"n{number}" for number in range(100))


def test_lines_go_on_into_the_old_file_while_a_new_one_cannot_be_opened(
    tmp_path: Path, log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    path, moved = folder / "hub.log", tmp_path / "moved"
    logs.configure("info", "text", str(path))
    write("before")
    folder.rename(moved)
    for number in range(3):
        write(f"n{number}")
        logs.reopen()
    Rotation([path], RotationRule(size=1), NOON).check(NOON)
    assert last_words(moved / "hub.log") == ["before", "n0", "n1", "n2"]
    told = capsys.readouterr().err
    assert told.count("cannot be opened anew: No such file or directory") == 1
    assert len(told.splitlines()) == 1
    folder.mkdir()
    write("after")
    assert last_words(path) == ["after"]
