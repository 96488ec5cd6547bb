"""The hub of the examples."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.hub.running import RunningHub, running_hub


@pytest.fixture(scope="session")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningHub]:
    """With all that an example may use."""
    with running_hub(tmp_path_factory.mktemp("hub"), anonymous=1, subscriptions=1, revocations=1) as running:
        yield running
