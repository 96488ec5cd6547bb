"""The layers of the tests, and a hub with everything switched on, which the tests of a module share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from chaos import hosts
from tests.chosen_engine import pytest_configure, pytest_itemcollected, pytest_unconfigure
from tests.engines import postgresql_engine, valkey_engine
from tests.hub.running import RunningHub, running_hub
from tests.layers import (
    pytest_collection_modifyitems,
    pytest_runtest_call,
    pytest_runtest_protocol,
    pytest_runtest_setup,
    pytest_runtest_teardown,
)
from tests.needs import need, pytest_runtest_makereport, pytest_sessionfinish

__all__ = [
    "postgresql_engine",
    "pytest_collection_modifyitems",
    "pytest_configure",
    "pytest_itemcollected",
    "pytest_runtest_call",
    "pytest_runtest_makereport",
    "pytest_runtest_protocol",
    "pytest_runtest_setup",
    "pytest_runtest_teardown",
    "pytest_sessionfinish",
    "pytest_unconfigure",
    "valkey_engine",
]


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningHub]:
    """Tests that share it use topics of their own."""
    with running_hub(tmp_path_factory.mktemp("hub"), anonymous=1, subscriptions=1) as running:
        yield running


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder for the database of a hub that one test has for itself."""
    return tmp_path


@pytest.fixture(scope="session")
def other_hosts() -> None:
    """There can be clients with addresses of their own (``chaos.hosts``)."""
    need("iproute2")
    obstacle = hosts.obstacle()
    if obstacle:
        pytest.skip(f"there can be no other host here: {obstacle}")
