"""A hub and the scripts, for the tests with clients that others wrote."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.foreign.kinds import CLIENTS, MODULES
from tests.foreign.processes import hub_process
from tests.hub.running import RunningHub


@pytest.fixture(scope="session")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scripts beside what npm installed: Node looks for modules where a script is."""
    folder = tmp_path_factory.mktemp("scripts")
    for script in (*CLIENTS.glob("*.mjs"), *CLIENTS.glob("*.php")):
        shutil.copy(script, folder)
    (folder / "node_modules").symlink_to(MODULES)
    return folder


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningHub]:
    """A process, which the tests of a module share; each has topics of its own."""
    with hub_process(tmp_path_factory.mktemp("hub")) as process:
        running = process.start()
        yield running
        running.close()
