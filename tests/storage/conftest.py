"""What the tests of the log share."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mercure_hub.storage.interface import Retention
from tests.storage.log import Log, no_thread_left

Opener = Callable[..., Log]


@pytest.fixture
def open_log(tmp_path: Path) -> Iterator[Opener]:
    """Opens logs on one file; afterwards no thread and no connection is left."""
    opened: list[Log] = []

    def open_one(retention: Retention | None = None) -> Log:
        log = Log(tmp_path / "mercure.db", retention)
        log.open()
        opened.append(log)
        return log

    with no_thread_left():
        yield open_one
        for log in opened:
            log.close()
    gc.collect()  # a forgotten connection warns now, and the warning is an error


@pytest.fixture
def log(open_log: Opener) -> Log:
    """A log that keeps everything."""
    return open_log()
