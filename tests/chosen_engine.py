"""The engine on which the hubs under test run: SQLite, or the one that the variable ``ENGINE`` names.

Each folder that a test takes has a history of its own: a second hub with the same folder continues it.
A test that is about SQLite has the mark ``sqlite`` with a reason, and is skipped on the others.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.engines import EngineServer, PostgresqlServer, RedisServer
from tests.needs import need

ENGINES = ("sqlite", "postgresql", "valkey", "redis")
NAME = os.environ.get("ENGINE") or ENGINES[0]
IS_SQLITE = NAME == "sqlite"
NETWORK_LEASE = 15.0
"""Seconds that a killed hub's subscriptions stay, where other machines may have them."""

_servers: list[EngineServer] = []
_urls: dict[Path, str] = {}


def transport_url(folder: Path) -> str:
    """``MERCURE_TRANSPORT_URL`` of the history that belongs to a folder."""
    if IS_SQLITE:
        return f"sqlite:///{folder}/hub.db"
    if folder not in _urls:
        _urls[folder] = _server().url()
    return _urls[folder]


def _server() -> EngineServer:
    """The server of this run, which ends with it."""
    if not _servers:
        _servers.append(_new_server())
        _servers[0].start()
    return _servers[0]


def _new_server() -> EngineServer:
    if NAME == "postgresql":
        need("postgresql")
        return PostgresqlServer()
    if NAME == "valkey":
        need("valkey-server")
    return RedisServer(f"{NAME}-server")


def pytest_configure() -> None:
    if NAME not in ENGINES:
        raise pytest.UsageError(f"ENGINE is {NAME!r}; it can be {', '.join(ENGINES)}")


def pytest_itemcollected(item: pytest.Item) -> None:
    """Skip what is about SQLite."""
    mark = item.get_closest_marker("sqlite")
    if mark is not None and not IS_SQLITE:
        item.add_marker(pytest.mark.skip(reason=f"SQLite only: {mark.args[0]}"))


def pytest_unconfigure() -> None:
    while _servers:
        _servers.pop().stop()
