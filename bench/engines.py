"""Private servers of the engines that several machines share, for the length of a measurement."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from bench.history import History, fill, filled
from bench.model import Skipped
from tests.packages import missing

if TYPE_CHECKING:
    from tests.engines import EngineServer

SQLITE, POSTGRESQL, VALKEY = "SQLite", "PostgreSQL", "Valkey"
SHARED = (POSTGRESQL, VALKEY)
_DRIVERS = {POSTGRESQL: "psycopg", VALKEY: "redis"}
_PACKAGES = {POSTGRESQL: "postgresql", VALKEY: "valkey-server"}


@dataclass(slots=True)
class Engines:
    """Servers that are started when they are needed, each with the durability that the hub asks for.

    :param folder: for the files of SQLite.
    """

    folder: Path
    _stack: ExitStack = field(default_factory=ExitStack)
    _servers: dict[str, EngineServer] = field(default_factory=dict)
    _histories: dict[tuple[str, int], History] = field(default_factory=dict)

    def close(self) -> None:
        """Stop the servers."""
        self._stack.close()

    def require(self, name: str) -> None:
        """Make sure that an engine can be started.

        :raises Skipped: it is not installed.
        """
        if name not in self._servers:
            _require(name)

    def server(self, name: str) -> EngineServer:
        """The server of an engine.

        :raises Skipped: it is not installed.
        """
        if name not in self._servers:
            self._servers[name] = _start(name, self._stack)
        return self._servers[name]

    def fresh(self, name: str) -> str:
        """``MERCURE_TRANSPORT_URL`` of an empty history; what was there before is deleted.

        :raises Skipped: the engine is not installed.
        """
        if name == SQLITE:
            for old in self.folder.glob("engines.db*"):
                old.unlink()
            return f"sqlite:///{self.folder}/engines.db"
        server = self.server(name)
        _empty(server)
        return server.url()

    def history(self, name: str, size: int) -> History:
        """A history with so many updates, made once on a server of its own.

        :raises Skipped: the engine is not installed.
        """
        if name == SQLITE:
            return filled(self.folder, size)
        if (name, size) not in self._histories:
            self._histories[name, size] = fill(_start(name, self._stack).url(), size)
        return self._histories[name, size]

    @contextmanager
    def cpu_of(self, name: str) -> Iterator[list[float]]:
        """CPU seconds that the engine's server takes meanwhile, in a list when that is over."""
        took: list[float] = []
        if name == SQLITE:  # it has no server
            yield took
            return
        process = self.server(name).process
        assert process is not None
        before = _cpu(process.pid)
        yield took
        took.append(_cpu(process.pid) - before)


def _require(name: str) -> None:
    """Raise ``Skipped`` if an engine, its driver or pytest is missing, none of which the other rows need."""
    for module in (_DRIVERS[name], "pytest"):
        if find_spec(module) is None:
            raise Skipped(f"{name} needs {module}; pip install '.[hub,test]'")
    if missing([_PACKAGES[name]]):
        raise Skipped(f"{name} is not here; apt-get install {_PACKAGES[name]}")


def _start(name: str, stack: ExitStack) -> EngineServer:
    _require(name)
    from tests import engines  # noqa: PLC0415 - needs pytest

    server = engines.PostgresqlServer() if name == POSTGRESQL else engines.RedisServer()
    stack.enter_context(engines.running(server))
    return server


def _empty(server: EngineServer) -> None:
    """Delete all histories: what an earlier run has left is no load of the next one."""
    from tests.engines import PostgresqlServer, RedisServer  # noqa: PLC0415

    if isinstance(server, PostgresqlServer):
        for name in server.run("SELECT datname FROM pg_database WHERE datname LIKE 'hub\\_%'"):
            server.run(f"DROP DATABASE {name} WITH (FORCE)")
        server.run("CHECKPOINT")
    elif isinstance(server, RedisServer):
        server.run("FLUSHALL")


def _cpu(parent: int) -> float:
    """CPU seconds of a process and its children, with those that have ended."""
    ticks = 0
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        if parent in (int(entry.name), int(fields[1])):
            ticks += int(fields[11]) + int(fields[12])
            if int(entry.name) == parent:
                ticks += int(fields[13]) + int(fields[14])
    return ticks / os.sysconf("SC_CLK_TCK")
