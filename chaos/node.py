"""A hub as systemd runs it: started, watched, started again, by the rules of the shipped unit."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from chaos.hosts import Host
from chaos.record import Death, Load

ROOT = Path(__file__).resolve().parents[1]

_MARK = "CHAOS_NODE"
_LOOK = 0.02  # seconds
_START = 30.0
_REAP = 2.0
_STOP = 30.0  # TimeoutStopSec of the unit
_SET_CHILD_SUBREAPER = 36
_CLEAN = (0, -signal.SIGHUP, -signal.SIGINT, -signal.SIGTERM, -signal.SIGPIPE)  # systemd.service(5)
_PAGE = os.sysconf("SC_PAGE_SIZE")
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Unit:
    """What the shipped unit says of new starts.

    :param pause: seconds before one.
    :param final: exit statuses after which there is none.
    """

    pause: float
    final: frozenset[int]

    @classmethod
    def shipped(cls, root: Path) -> Unit:
        """Read the template of a checkout."""
        found = next(root.rglob("mercure-hub.service"), None)
        words = found.read_text() if found else ""
        pause = re.search(r"^RestartSec=(\d+)", words, re.MULTILINE)
        final = re.search(r"^RestartPreventExitStatus=(.*)", words, re.MULTILINE)
        return cls(
            float(pause[1]) if pause else 1.0, frozenset(map(int, final[1].split())) if final else frozenset()
        )


class Node:
    """A hub process with its children, under supervision.

    :param name: names its processes.
    :param root: the checkout whose hub is run.
    :param folder: for its log.
    :param environment: of the hub, without what every process needs.
    :param now: seconds since the run began.
    :param number: among the nodes of a run.
    :param host: on which it runs; by default on this one.
    :param command: what starts the hub, after the interpreter.
    """

    def __init__(
        self,
        name: str,
        root: Path,
        folder: Path,
        environment: Mapping[str, str],
        now: Callable[[], float],
        *,
        number: int = 0,
        host: Host | None = None,
        command: Sequence[str] = ("-m", "mercure_hub"),
    ) -> None:
        self.number = number
        self.host = host
        self._command = command
        self.name = f"{os.getpid()}-{name}"
        self.folder = folder
        self.deaths: list[Death] = []
        self.main = 0
        self.is_serving = False
        self.port = _free_port()
        self._root = root
        self._now = now
        self._unit = Unit.shipped(root)
        self._environment = {
            "PATH": os.environ["PATH"],
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONUNBUFFERED": "1",
            **environment,
            "MERCURE_LISTEN": f"{environment.get('MERCURE_LISTEN', '127.0.0.1')}:{self.port}",
            _MARK: self.name,
        }
        # Short: the path of a socket has 107 characters at most. An abstract one is not seen on another host.
        self._aside = Path(tempfile.mkdtemp(prefix="chaos-"))
        self._environment["NOTIFY_SOCKET"] = str(self._aside / "notify")
        self._notices = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._notices.bind(self._environment["NOTIFY_SOCKET"])
        self._output = (folder / "hub.log").open("ab")
        self._wanted = False
        self._told: set[int] = set()
        self._groups: set[int] = set()  # of its processes; successors are in that of the first one
        self._supervisor: asyncio.Task[None] | None = None
        ctypes.CDLL(None).prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # so that successors are ours to wait for

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens, for clients on this host."""
        return "127.0.0.1" if self.host is None else self.host.client_address, self.port

    async def start(self) -> bool:
        """Start it, wait until it serves, and keep it running from then on.

        :returns: whether it serves; its log tells why not.
        """
        self._wanted = True
        self._launch()
        if self._supervisor is None:
            self._supervisor = asyncio.create_task(self._supervise())
        deadline = time.monotonic() + _START
        while not self.is_serving:
            if time.monotonic() > deadline or not self._wanted:
                return False
            self._read_notices()
            await asyncio.sleep(_LOOK)
        return True

    async def terminate(self) -> None:
        """Stop it as its system would, and leave it stopped."""
        self._wanted = False
        self.tell(signal.SIGTERM, [self.main])
        await self._gone()

    async def kill(self) -> None:
        """Kill all of it and leave it so."""
        self._wanted = False
        self.tell(signal.SIGKILL, self.processes())
        await self._gone()

    async def close(self) -> None:
        """Kill it and forget it."""
        await self.kill()
        if self._supervisor is not None:
            self._supervisor.cancel()
        deadline = time.monotonic() + _REAP
        while self._groups and time.monotonic() < deadline:
            self._buried()
            await asyncio.sleep(_LOOK)
        self._notices.close()
        self._output.close()
        shutil.rmtree(self._aside, ignore_errors=True)

    def tell(self, number: signal.Signals, pids: list[int]) -> None:
        """Send a signal; those that it ends did not die by themselves."""
        for pid in pids:
            if number in (signal.SIGKILL, signal.SIGTERM, signal.SIGUSR2):
                self._told.add(pid)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def processes(self) -> list[int]:
        """All its processes: the main one first, then its children, then what is left of those before."""
        mark = f"{_MARK}={self.name}".encode()
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    if mark in (entry / "environ").read_bytes().split(b"\0") and _state(entry) != "Z":
                        found.append(int(entry.name))
        return sorted(found, key=lambda pid: (pid != self.main, pid not in self.workers_of(found), pid))

    def workers(self) -> list[int]:
        """The children of the main process that serve; empty where it serves itself."""
        return self.workers_of(self.processes())

    def workers_of(self, pids: list[int]) -> list[int]:
        """Those that are children of the main process."""
        return [pid for pid in pids if _parent(pid) == self.main]

    def load(self, streams: int) -> Load:
        """What its processes take at this moment.

        :param streams: that clients have open.
        """
        memory = descriptors = threads = 0
        pids = self.processes()
        for pid in pids:
            with contextlib.suppress(OSError):
                resident, shared = map(int, Path(f"/proc/{pid}/statm").read_text().split()[1:3])
                memory += (resident - shared) * _PAGE
                descriptors += len(list(Path(f"/proc/{pid}/fd").iterdir()))
                threads += len(list(Path(f"/proc/{pid}/task").iterdir()))
        files = tuple(sorted(one.name for one in self.folder.rglob("*") if one.is_file()))
        return Load(self._now(), len(pids), memory, descriptors, threads, files, streams)

    def cpu(self) -> float:
        """Seconds of processor time that its processes have taken."""
        ticks = 0
        for pid in self.processes():
            with contextlib.suppress(OSError):
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                ticks += int(fields[11]) + int(fields[12])
        return ticks / _TICKS

    def _launch(self) -> None:
        self._read_notices()  # what was said by those before
        self.is_serving = False
        started = self._popen() if self.host is None else self.host.inside(self._popen)
        started.returncode = 0  # the supervisor waits for it, among all that end
        self.main = started.pid
        self._groups.add(started.pid)

    def _popen(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(  # noqa: S603 - our own command
            [sys.executable, *self._command],
            cwd=self._root / "hub",
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=self._output,
            start_new_session=True,
        )

    def _read_notices(self) -> None:
        """Take note of what it says: that it serves, that a successor is the main process now."""
        with contextlib.suppress(BlockingIOError):
            while True:
                for line in self._notices.recv(4096).decode().splitlines():
                    name, _, value = line.partition("=")
                    self.is_serving |= name == "READY"
                    if name == "MAINPID":
                        self.main = int(value)

    async def _supervise(self) -> None:
        while True:
            await asyncio.sleep(_LOOK)
            self._read_notices()
            ended = self._buried()
            if self.main not in ended:
                self._note_deaths(ended)
                continue
            main = self.main
            code = ended.pop(main)
            self._read_notices()
            if self.main != main:  # a successor said just before that it is one
                continue
            self._note_deaths(ended)
            served, self.is_serving = self.is_serving, False
            is_again = self._wanted and code not in self._unit.final and code not in _CLEAN
            if self._wanted and self.main not in self._told:
                self.deaths.append(Death(self._now(), "main process", code, is_again, served, self.number))
            await self._clear_away()
            if is_again:
                await asyncio.sleep(self._unit.pause)
                if self._wanted:
                    self._launch()
            elif self.main == main:  # nobody started it anew meanwhile
                self._wanted = False

    def _note_deaths(self, ended: Mapping[int, int]) -> None:
        for pid, code in ended.items():
            if code != 0 and pid not in self._told:
                death = Death(self._now(), "worker or successor", code, True, True, self.number)
                self.deaths.append(death)

    def _buried(self) -> dict[int, int]:
        """Its processes that ended since the last look, with their exit status."""
        ended = {}
        for group in tuple(self._groups):
            try:
                while True:
                    pid, status = os.waitpid(-group, os.WNOHANG)
                    if not pid:
                        break
                    ended[pid] = os.waitstatus_to_exitcode(status)
            except ChildProcessError:
                self._groups.discard(group)
        return ended

    async def _clear_away(self) -> None:
        """End what is left of the group: a stop of the unit would."""
        deadline = time.monotonic() + _STOP
        left = self.processes()
        self.tell(signal.SIGTERM, left)
        while left := [pid for pid in left if _exists(pid)]:
            if time.monotonic() > deadline:
                self.tell(signal.SIGKILL, left)
            await asyncio.sleep(_LOOK)

    async def _gone(self) -> None:
        deadline = time.monotonic() + _STOP
        while left := self.processes():
            if time.monotonic() > deadline:
                self.tell(signal.SIGKILL, left)
            await asyncio.sleep(_LOOK)


def sweep(pid: int) -> None:
    """Kill the hubs that a run left behind.

    :param pid: of the process of that run.
    """
    mark = f"{_MARK}={pid}-".encode()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if any(one.startswith(mark) for one in (entry / "environ").read_bytes().split(b"\0")):
                    os.kill(int(entry.name), signal.SIGKILL)


def _exists(pid: int) -> bool:
    return _state(Path(f"/proc/{pid}")) not in ("", "Z")


def _state(entry: Path) -> str:
    try:
        return (entry / "stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
