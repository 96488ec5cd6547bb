"""The engine on which the hubs under test run: SQLite, or the one that the variable ``ENGINE`` names.

Each folder that a test takes has a history of its own: a second hub with the same folder continues it.
A test that is about SQLite has the mark ``sqlite`` with a reason, and is skipped on the others.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mercure_hub.storage.address import Address, address_of
from mercure_hub.storage.interface import EVENTS_MAX_AGE, Link, Retention
from tests.engines import EngineServer, PostgresqlServer, RedisServer
from tests.needs import need
from tests.portability import skip_if_about_linux
from tests.storage.log import beside, broken

ENGINES = ("sqlite", "postgresql", "valkey", "redis")
NAME = os.environ.get("ENGINE") or ENGINES[0]
IS_SQLITE = NAME == "sqlite"

_servers: list[EngineServer] = []
_urls: dict[Path, str] = {}


def transport_url(folder: Path) -> str:
    """``MERCURE_TRANSPORT_URL`` of the history that belongs to a folder."""
    if IS_SQLITE:
        return f"sqlite:///{folder}/hub.db"
    if folder not in _urls:
        _urls[folder] = _server().url()
    return _urls[folder]


def place_of(folder: Path) -> str:
    """What a message names that says where a history is."""
    return str(folder) if IS_SQLITE else f"127.0.0.1:{_server().port}"


def discard_all(folder: Path) -> None:
    """Discard the history of a folder, as retention does when everything has become too old."""
    if IS_SQLITE:
        with beside(folder / "hub.db") as database:
            database.execute("DELETE FROM mercure_update")
        return
    link = _link_of_the_future(address_of(transport_url(folder)))
    link.open()
    try:
        with link.turn():
            link.discard()
    finally:
        link.close(is_writer_left=False)


@contextmanager
def refusing(folder: Path) -> Iterator[None]:
    """An engine that refuses to be written for the length of a ``with`` block, as one without space does."""
    server = None if IS_SQLITE else _server()
    if isinstance(server, PostgresqlServer):
        name = transport_url(folder).rpartition("/")[2]
        server.run(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql "
            "AS $$ BEGIN RAISE EXCEPTION 'no space left on device'; END $$; "
            "CREATE TRIGGER refuse BEFORE UPDATE ON mercure_position EXECUTE FUNCTION refuse()",
            name,
        )
        yield
        server.run("DROP TRIGGER refuse ON mercure_position; DROP FUNCTION refuse", name)
    elif isinstance(server, RedisServer):
        server.run("CONFIG", "SET", "maxmemory", "1")
        yield
        server.run("CONFIG", "SET", "maxmemory", "0")
    else:
        with broken(folder / "hub.db"):
            yield


def _link_of_the_future(address: Address) -> Link:
    kept = Retention(max_age=1.0)
    if NAME == "postgresql":
        from mercure_hub.storage.postgresql.link import PostgresqlLink

        return PostgresqlLink(address, kept, ahead=lambda: 2 * EVENTS_MAX_AGE)
    from mercure_hub.storage.redis.link import RedisLink

    return RedisLink(address, kept, ahead=lambda: 2 * EVENTS_MAX_AGE)


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
    skip_if_about_linux(item)


def pytest_unconfigure() -> None:
    while _servers:
        _servers.pop().stop()
