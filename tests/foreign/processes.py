"""The hub as a process, what holds its port while it is away, and a client."""

from __future__ import annotations

import json
import os
import queue
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from mercure_hub.protocol.subscription import requested_cursor
from tests.foreign.kinds import ROOT, Kind
from tests.hub.running import HUB_PATH, RunningHub, process_environment

WITHIN = 60.0  # seconds for something to happen
LIMIT = 300.0  # seconds after which a client ends, whatever happens to the tests


def bound(command: Sequence[str]) -> list[str]:
    """A command that is killed when the process that starts it ends, however it ends."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "KILL", *command] if setpriv else list(command)


def wait(what: Callable[[], str], condition: Callable[[], bool]) -> None:
    """Wait until a condition holds.

    :param what: tells what is missing, when it does not come to hold.
    """
    deadline = time.monotonic() + WITHIN
    while not condition():
        assert time.monotonic() < deadline, f"not within {WITHIN:.0f} s: {what()}"
        time.sleep(0.02)


class Hub:
    """A hub that can be ended and started again, with its database."""

    def __init__(self, folder: Path, **variables: str) -> None:
        self._folder = folder
        self._variables = {"MERCURE_ANONYMOUS": "1", "MERCURE_SUBSCRIPTIONS": "1", **variables}
        self._process: subprocess.Popen[bytes] | None = None
        self._log = folder / "hub.log"

    def start(self, port: int = 0) -> RunningHub:
        """Start it, on a free port unless one is given."""
        assert self._process is None
        environment = process_environment(
            self._folder, **{**self._variables, "MERCURE_LISTEN": f"127.0.0.1:{port}"}
        )
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                bound([sys.executable, "-m", "mercure_hub"]),
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stderr=log,
            )
        wait(self._log.read_text, lambda: "listens on" in self._log.read_text() or not self.is_alive)
        found = re.search(r"listens on https?://127\.0\.0\.1:(\d+)", self._log.read_text())
        assert found, self._log.read_text()
        return RunningHub(int(found[1]))

    @property
    def is_alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def end(self, number: signal.Signals = signal.SIGKILL) -> None:
        """End it, if it runs."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(WITHIN)
            self._process = None


@contextmanager
def hub_process(folder: Path, **variables: str) -> Iterator[Hub]:
    """A hub that is not started yet, and is ended."""
    hub = Hub(folder, **variables)
    try:
        yield hub
    finally:
        hub.end()


@dataclass(frozen=True)
class Attempt:
    """A request for a hub that is away."""

    target: str
    headers: Mapping[str, str]

    @property
    def cursor(self) -> str | None:
        """After which update the hub would go on."""
        query = parse_qsl(urlsplit(self.target).query)
        return requested_cursor(self.headers.get("last-event-id"), query, old_names=True)


class StandIn:
    """Holds the port of a hub that is away. Connections wait until ``refuse`` is called."""

    def __init__(self, port: int) -> None:
        self.attempts: list[Attempt] = []
        self._server = socket.create_server(("127.0.0.1", port))
        self._thread = threading.Thread(target=self._serve)

    def refuse(self) -> None:
        """From now on keep each request, and close its connection without an answer."""
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection = self._server.accept()[0]
            except OSError:
                return
            with connection:
                connection.settimeout(5)
                received = b""
                while b"\r\n\r\n" not in received and (raw := connection.recv(65536)):
                    received += raw
            self._keep(received.decode("latin-1"))

    def _keep(self, head: str) -> None:
        first, *lines = head.split("\r\n")
        words = first.split(" ")
        if len(words) == 3:
            fields = (line.partition(":") for line in lines if line)
            self.attempts.append(
                Attempt(words[1], {name.lower(): value.strip() for name, _, value in fields})
            )

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        if self._thread.ident is not None:
            self._thread.join(WITHIN)
        self._server.close()


@contextmanager
def stand_in(port: int) -> Iterator[StandIn]:
    """Hold a port for the length of a ``with`` block."""
    standing = StandIn(port)
    try:
        yield standing
    finally:
        standing.close()


Received = tuple[str, str]
"""Id and data of an update."""


class Client:
    """A client that receives.

    :param scripts: folder with the scripts in JavaScript.
    """

    def __init__(self, kind: Kind, scripts: Path, hub: RunningHub, token: str, *topics: str) -> None:
        self.received: list[Received] = []
        self._kind = kind
        self._topics = set(topics)
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._process = subprocess.Popen(
            bound([*kind.command, hub.url, *topics]),
            cwd=ROOT if kind.script.endswith(".py") else scripts,
            env=_environment(kind, TOKEN=token),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._errors: list[str] = []
        self._threads = [
            threading.Thread(target=self._read_lines), threading.Thread(target=self._read_errors)
        ]  # fmt: skip
        for thread in self._threads:
            thread.start()

    def _read_lines(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)

    def _read_errors(self) -> None:
        assert self._process.stderr is not None
        self._errors.extend(self._process.stderr)

    def _take(self) -> None:
        while not self._lines.empty():
            line = self._lines.get()
            told = json.loads(line)
            self.received.append((told["id"], told["data"]))

    def wait_until_connected(self, hub: RunningHub) -> None:
        """Wait for the subscriptions to its topics."""

        def is_connected() -> bool:
            assert self._process.poll() is None, self.story()
            reply = hub.get(path=f"{HUB_PATH}/subscriptions", token=hub.token())
            return self._topics <= {one["match"] for one in reply.json()["subscriptions"]}

        wait(self.story, is_connected)

    def wait_for(self, update: Received) -> list[Received]:
        """Wait for an update.

        :returns: all that it has received.
        """

        def is_there() -> bool:
            self._take()
            return update in self.received

        wait(self.story, is_there)
        return self.received

    def story(self) -> str:
        """What it did, for a message."""
        status = self._process.poll()
        return (
            f"{self._kind.name}: received {self.received}, status {status}\n{''.join(self._errors)[-4000:]}"
        )

    def close(self) -> None:
        """Close its standard input, at which it ends."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for thread in self._threads:
            thread.join(WITHIN)
        for stream in (self._process.stdout, self._process.stderr):
            assert stream is not None
            stream.close()


@contextmanager
def client(kind: Kind, scripts: Path, hub: RunningHub, token: str, *topics: str) -> Iterator[Client]:
    """A client that receives, for the length of a ``with`` block."""
    running = Client(kind, scripts, hub, token, *topics)
    try:
        yield running
    finally:
        running.close()


def run(kind: Kind, scripts: Path, arguments: Sequence[str], **variables: str) -> dict[str, str]:
    """Run a script that ends by itself, such as a publisher's.

    :returns: what it told.
    """
    done = subprocess.run(
        bound([*kind.command, *arguments]),
        cwd=ROOT if kind.script.endswith(".py") else scripts,
        env=_environment(kind, **variables),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=WITHIN,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    told: dict[str, str] = json.loads(done.stdout)
    return told


def _environment(kind: Kind, **variables: str) -> dict[str, str]:
    own = {"LIMIT": str(int(LIMIT)), "PYTHONDONTWRITEBYTECODE": "1", **dict(kind.variables), **variables}
    return {"PATH": os.environ["PATH"], **own}
