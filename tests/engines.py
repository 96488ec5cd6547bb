"""Private servers of the engines that several machines share: PostgreSQL, Valkey and Redis.

Each is in a folder of its own, on a free port of loopback, and can be killed, frozen and started again.
"""

from __future__ import annotations

import os
import pwd
import selectors
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import pytest

from tests.needs import need

_BINARIES = Path("/usr/lib/postgresql")
_PATIENCE = 60.0
_LOOK = 0.02
_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"}


class EngineServer(ABC):
    """A server of an engine in a folder of its own.

    :param host: address that it listens on.
    :param port: by default a free one, which it keeps when it is started again.
    """

    stop_signal = signal.SIGINT

    def __init__(self, host: str = "127.0.0.1", port: int | None = None) -> None:
        self.host = host
        self.port = port or _free_port(host)
        self.folder = Path(tempfile.mkdtemp(prefix="mercure-engine-"))  # short, for the path of a socket
        self.process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def command(self) -> list[str]:
        """What starts it."""

    @abstractmethod
    def answers(self) -> bool:
        """Whether it takes requests."""

    @abstractmethod
    def url(self) -> str:
        """``MERCURE_TRANSPORT_URL`` of a new, empty history."""

    def start(self) -> None:
        """Start it, and wait until it takes requests."""
        entry = _somebody()
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                self.command(),
                user=None if entry is None else entry.pw_uid,
                group=None if entry is None else entry.pw_gid,
                extra_groups=None if entry is None else (),
                cwd=self.folder,
                stdout=log,
                stderr=log,
                env=_ENVIRONMENT,
                start_new_session=True,
            )
        deadline = time.monotonic() + _PATIENCE
        while not self.answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError((self.folder / "log").read_text(errors="replace"))
            time.sleep(_LOOK)  # it gives no other sign

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to all of its processes; those of PostgreSQL have process groups of their own."""
        for pid in self._processes():
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def kill(self) -> None:
        """End it without a chance to write anything, and wait until none of its processes is left.

        A backend that outlived its parent would still take a statement.
        """
        assert self.process is not None
        with ExitStack() as stack, selectors.DefaultSelector() as running:
            for pid in self._processes():
                with suppress(ProcessLookupError):
                    handle = os.pidfd_open(pid)
                    stack.callback(os.close, handle)
                    running.register(handle, selectors.EVENT_READ)  # readable once it has ended
            self.signal(signal.SIGKILL)
            while running.get_map():
                ended = running.select(_PATIENCE)
                assert ended, "a process of the server survived SIGKILL"
                for key, _ in ended:
                    running.unregister(key.fileobj)
        self.process.wait(_PATIENCE)

    def _processes(self) -> list[int]:
        assert self.process is not None
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return [self.process.pid, *map(int, children)]

    def stop(self) -> None:
        """End it, and remove its folder."""
        if self.process is not None and self.process.poll() is None:
            self.signal(signal.SIGCONT)
            self.process.send_signal(self.stop_signal)
            try:
                self.process.wait(_PATIENCE)
            except subprocess.TimeoutExpired:
                self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


class PostgresqlServer(EngineServer):
    """A PostgreSQL, durable as Debian's is.

    :param settings: of ``postgresql.conf``.
    """

    stop_signal = signal.SIGQUIT  # without a checkpoint, which takes a minute for the databases of many tests

    def __init__(
        self,
        settings: Mapping[str, str] | None = None,
        host: str = "127.0.0.1",
        port: int | None = None,
    ) -> None:
        super().__init__(host, port)
        self._settings = {"max_connections": "200", **(settings or {})}
        # Debian does not have it on the path.
        self._binaries = max(
            _BINARIES.glob("*/bin/postgres"), key=lambda path: float(path.parts[-3]), default=_BINARIES
        ).parent

    def start(self) -> None:
        """Make the cluster if it is not there yet, and start it."""
        if not (self.folder / "data").exists():
            entry = _somebody()
            if entry is not None:
                os.chown(self.folder, entry.pw_uid, entry.pw_gid)
            self.make_data()
        super().start()

    def make_data(self) -> None:
        """Make the folder with its data."""
        data = str(self.folder / "data")
        self.run_tool("initdb", "-D", data, "-U", "hub", "--auth=trust", "--no-sync", "-E", "UTF8")

    def run_tool(self, name: str, *arguments: str) -> None:
        """Run a program of PostgreSQL as the one who runs the server.

        :raises subprocess.CalledProcessError: it fails.
        """
        entry = _somebody()
        subprocess.run(
            [self._binaries / name, *arguments],
            user=None if entry is None else entry.pw_uid,
            group=None if entry is None else entry.pw_gid,
            extra_groups=None if entry is None else (),
            cwd=self.folder,
            check=True,
            capture_output=True,
            timeout=_PATIENCE,
            env=_ENVIRONMENT,
        )

    def command(self) -> list[str]:
        settings = [word for name, value in self._settings.items() for word in ("-c", f"{name}={value}")]
        return [
            *(str(self._binaries / "postgres"), "-D", str(self.folder / "data"), "-k", str(self.folder)),
            *("-p", str(self.port), "-c", f"listen_addresses={self.host}", *settings),
        ]

    def run(self, statement: str, database: str = "postgres") -> list[str]:
        """Run SQL.

        :returns: the rows, as ``psql`` prints them unaligned.
        :raises subprocess.CalledProcessError: it fails.
        """
        done = subprocess.run(
            [
                *(
                    self._binaries / "psql",
                    "-X",
                    "-A",
                    "-t",
                    "-h",
                    self.folder,
                    "-p",
                    str(self.port),
                    "-U",
                    "hub",
                ),
                *("-d", database, "-c", statement),
            ],
            check=True,
            capture_output=True,
            timeout=_PATIENCE,
            env=_ENVIRONMENT,
            text=True,
        )
        return done.stdout.splitlines()

    def answers(self) -> bool:
        try:
            self.run("SELECT 1")
        except subprocess.CalledProcessError:
            return False
        return True

    def url(self) -> str:
        name = f"hub_{uuid.uuid4().hex[:12]}"
        self.run(f"CREATE DATABASE {name}")
        return f"postgresql://hub@{self.host}:{self.port}/{name}"

    def quick_url(self) -> str:
        """The same in a schema, which is made and removed in no time, unlike a database."""
        name = f"hub_{uuid.uuid4().hex[:12]}"
        self.run(f"CREATE SCHEMA {name}")
        return f"postgresql://hub@{self.host}:{self.port}/postgres?options=-csearch_path%3D{name}"


class RedisServer(EngineServer):
    """A Valkey or Redis that writes each command to the disk before it answers.

    :param program: ``valkey-server`` or ``redis-server``.
    :param settings: words of its command line.
    """

    def __init__(
        self,
        program: str = "valkey-server",
        settings: tuple[str, ...] = (),
        host: str = "127.0.0.1",
        port: int | None = None,
    ) -> None:
        super().__init__(host, port)
        self._program = program
        self._settings = settings
        entry = _somebody()
        if entry is not None:
            os.chown(self.folder, entry.pw_uid, entry.pw_gid)

    def command(self) -> list[str]:
        return [
            *(self._program, "--bind", self.host, "--port", str(self.port), "--dir", str(self.folder)),
            *("--save", "", "--appendonly", "yes", "--appendfsync", "always", "--protected-mode", "no"),
            *self._settings,
        ]

    def run(self, *words: str) -> str:
        """Run a command whose reply is one line.

        :raises OSError: it cannot be reached.
        """
        with closing(socket.create_connection((self.host, self.port), 1)) as connection:
            connection.sendall(" ".join(words).encode() + b"\r\n")
            return connection.recv(1000).decode().rstrip()

    def answers(self) -> bool:
        try:
            return self.run("PING") == "+PONG"  # -LOADING while it reads its log
        except OSError:
            return False

    def url(self) -> str:
        return f"redis://{self.host}:{self.port}/0?name={uuid.uuid4().hex[:12]}"


@contextmanager
def running(server: EngineServer) -> Iterator[EngineServer]:
    """The server runs for the length of a ``with`` block."""
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def postgresql_engine() -> Iterator[PostgresqlServer]:
    """A PostgreSQL for many tests, each of which takes a ``url()`` of its own."""
    need("postgresql")
    server = PostgresqlServer()
    with running(server):
        yield server


@pytest.fixture(scope="session")
def valkey_engine() -> Iterator[RedisServer]:
    """A Valkey for many tests, each of which takes a ``url()`` of its own."""
    need("valkey-server")
    server = RedisServer()
    with running(server):
        yield server


def _somebody() -> pwd.struct_passwd | None:
    """Who runs the servers, of which PostgreSQL refuses to run as root; ``None``: whoever runs this."""
    if os.geteuid() != 0:
        return None
    users = {entry.pw_name: entry for entry in pwd.getpwall()}
    return users.get("postgres", users["nobody"])


def _free_port(host: str) -> int:
    with closing(socket.socket()) as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port
