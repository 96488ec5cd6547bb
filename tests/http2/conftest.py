"""A hub for a module, over plain connections and over TLS, and a connection to it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.certificates import self_signed
from tests.examples.conftest import chromium
from tests.http2.client import Connection
from tests.hub.running import RunningHub, running_hub

__all__ = ["chromium", "connection", "hub"]


@pytest.fixture(scope="module", params=["h2c", "TLS"])
def hub(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningHub]:
    """Tests that share it use topics of their own."""
    folder = tmp_path_factory.mktemp("hub")
    certificate = self_signed(folder) if request.param == "TLS" else ""
    settings: dict[str, Any] = {"anonymous": 1, "subscriptions": 1, "debugger": 1, "compression": "zstd"}
    with running_hub(folder, tls_cert=certificate, cors_origins="https://app.example", **settings) as running:
        yield running


@pytest.fixture
def connection(hub: RunningHub) -> Iterator[Connection]:
    """A client that behaves."""
    with Connection.to(hub) as running:
        yield running
