"""What tests with a real hub share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from flask import Flask

from tests.flask_mercure.fake_hub import FakeHub, running
from tests.flask_mercure.real_hub import app_on
from tests.hub.running import RunningHub


@pytest.fixture(scope="module")
def app(request: pytest.FixtureRequest, hub: RunningHub) -> Iterator[Flask]:
    """An app on the hub of the module, for the module's ``mercure``."""
    with app_on(hub, request.module.mercure) as app:
        yield app


@pytest.fixture
def other() -> Iterator[FakeHub]:
    """Another hub, which answers as it is told."""
    with running() as hub:
        yield hub
