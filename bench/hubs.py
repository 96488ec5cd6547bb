"""The hubs that are measured: ours, nchan, and any other that runs already."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol
from urllib.parse import quote, urlsplit

import requests

from bench.history import History, filled
from bench.tokens import EVERYTHING, Generation, Matcher, Mint, selector, write_header

HERE = Path(__file__).parent
NCHAN_MODULE = Path("/usr/lib/nginx/modules/ngx_nchan_module.so")
PATH = "/.well-known/mercure"
_SECRET = "a secret for benchmarks on the loopback only"
_START = 30.0  # seconds
# A hub that compiles itself at each start leaves room in its heap, so that subscribers seem to take less.
_OF_OTHERS = ("MERCURE_", "PYTHONDONTWRITEBYTECODE")


class Refused(Exception):
    """A hub does not start with these settings; the text says why in its own words."""


class Running(Protocol):
    """A hub that serves: how ``sseload`` has to talk to it."""

    @property
    def mint(self) -> Mint | None:
        """Makes tokens for it, if we can."""

    def where(self) -> list[str]:
        """Options for its address and its processes."""

    def subscribe(self, *matchers: Matcher, tokens: Path | None = None) -> list[str]:
        """Options for subscribers.

        :param matchers: what each listens to; ``%d`` stands for its index modulo ``-k``.
        :param tokens: file with a header for each; without it they are anonymous.
        """

    def publish(self, topic: str, *, private: bool = False) -> list[str]:
        """Options for publishers."""


class Contestant(Protocol):
    """A hub that can be measured."""

    @property
    def name(self) -> str:
        """Its column in the table."""

    def start(self, **settings: str) -> AbstractContextManager[Running]:
        """A hub, fresh if that is in our hands, for the length of a ``with`` block."""


@dataclass(frozen=True, slots=True)
class Mercure:
    """A running Mercure hub.

    :param address: host and port.
    :param pid: its (parent) process, or ``None`` if that is not known.
    :param path: of its URL.
    :param publisher: file with the header of publishers.
    :param subscriber: file with the header of subscribers that have no token of their own, or ``None``.
    :param mint: makes tokens for it, if its secret is known.
    :param is_secure: it speaks TLS.
    """

    address: str
    pid: int | None
    path: str
    publisher: Path
    mint: Mint | None
    generation: Generation = "1.0"
    subscriber: Path | None = None
    is_secure: bool = False

    def where(self) -> list[str]:
        secure = ["-tls"] if self.is_secure else []
        return ["-a", self.address, *secure, *([] if self.pid is None else ["-pid", str(self.pid)])]

    def subscribe(self, *matchers: Matcher, tokens: Path | None = None) -> list[str]:
        query = "&".join(self._parameter(matcher) for matcher in matchers)
        header: list[str] = []
        if tokens is not None:
            header = ["-HF", str(tokens)]
        elif self.subscriber is not None:
            header = ["-H", f"@{self.subscriber}"]
        return ["-path", f"{self.path}?{query}", *header]

    def _parameter(self, matcher: Matcher) -> str:
        if self.generation == "0.x":
            return f"topic={_quoted(selector(matcher))}"
        kind, value = matcher
        return f"{'match' if kind == 'exact' else f'match_{kind}'}={_quoted(value)}"

    def publish(self, topic: str, *, private: bool = False) -> list[str]:
        extra = ["-form", "private=on"] if private else []
        return ["-pubpath", self.path, "-topic", topic, "-PH", f"@{self.publisher}", *extra]


@dataclass(frozen=True, slots=True)
class OurHub:
    """A fresh hub of this project for each run, at the default settings.

    It logs as it does under systemd or supervisord: to its standard error, which is a file here.

    :param folder: where its database and its log go.
    :param settings: ``MERCURE_...`` variables that are not the default.
    :param tree: checkout whose hub it is; another than this one shows what has changed since then.
    :param python: interpreter that runs it, with what the hub needs installed.
    """

    folder: Path
    name: str = "hub"
    settings: Mapping[str, str] = field(default_factory=dict)
    tree: Path = HERE.parent
    python: str = sys.executable

    @property
    def is_of_this_tree(self) -> bool:
        """Whether it can do what is measured of this revision only."""
        return self.tree == HERE.parent

    @property
    def mint(self) -> Mint:
        """Makes tokens for it."""
        return Mint(_SECRET, f"http://127.0.0.1{PATH}")

    def history(self, size: int) -> History:
        """A history with so many updates, made once, in the form that this revision has on disk."""
        if self.is_of_this_tree:
            return filled(self.folder, size)
        folder = self.folder / self.name
        folder.mkdir(exist_ok=True)
        code = "import sys; from pathlib import Path; from bench.history import filled\n"
        code += "history = filled(Path(sys.argv[1]), int(sys.argv[2])); print(history.url, history.behind)"
        done = subprocess.run(
            [self.python, "-c", code, str(folder), str(size)], env={**os.environ, "PYTHONPATH": self._path},
            cwd=self.tree, capture_output=True, text=True, check=True,
        )  # fmt: skip
        return History(*done.stdout.split())

    @property
    def _path(self) -> str:
        """Where Python finds this revision before the one that is installed."""
        return f"{self.tree / 'hub'}{os.pathsep}{self.tree}"

    @contextmanager
    def start(self, **settings: str) -> Iterator[Mercure]:
        """Start it.

        :param settings: ``MERCURE_...`` variables.
        :raises Refused: it does not start.
        """
        address = f"127.0.0.1:{free_port()}"
        database = self.folder / "hub.db"
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(_OF_OTHERS)},
            "MERCURE_LISTEN": address,
            "MERCURE_TRANSPORT_URL": f"sqlite:///{database}",
            "MERCURE_PUBLISHER_JWT_KEY": _SECRET,
            "MERCURE_PUBLIC_URL": f"http://127.0.0.1{PATH}",
            "MERCURE_ANONYMOUS": "1",
            "PYTHONPATH": self._path,
            **self.settings,
            **settings,
        }
        certificate = environment.get("MERCURE_TLS_CERT")
        for old in self.folder.glob("hub.db*"):
            old.unlink()
        publisher = write_header(self.folder / "publisher", self.mint.token("publish", [EVERYTHING]))
        with (self.folder / "hub.log").open("w+") as log:
            child = subprocess.Popen(
                [self.python, "-m", "mercure_hub"], env=environment, stderr=log, cwd=self.folder
            )
            try:
                scheme = "https" if certificate else "http"
                _await(f"{scheme}://{address}/healthz", child, self.folder / "hub.log", certificate)
                yield Mercure(
                    address, child.pid, PATH, publisher, self.mint, is_secure=certificate is not None
                )
            finally:
                _stop(child)


@dataclass(frozen=True, slots=True)
class NchanRunning:
    """nginx with nchan: one channel for each topic, no tokens."""

    address: str
    pid: int
    mint: None = None

    def where(self) -> list[str]:
        return ["-a", self.address, "-pid", str(self.pid)]

    def subscribe(self, *matchers: Matcher, tokens: Path | None = None) -> list[str]:
        (matcher,) = matchers
        assert tokens is None and matcher[0] == "exact", "nchan has neither tokens nor patterns here"
        return ["-path", f"/sub/{matcher[1]}"]

    def publish(self, topic: str, *, private: bool = False) -> list[str]:
        assert not private, "nchan has no private updates here"
        return ["-pubpath", f"/pub/{topic}", "-body", "raw"]


@dataclass(frozen=True, slots=True)
class Nchan:
    """A fresh nginx with the nchan module and one worker for each run.

    :param folder: where its files go.
    """

    folder: Path
    name: str = "nchan"

    @contextmanager
    def start(self, **settings: str) -> Iterator[NchanRunning]:  # noqa: ARG002
        """Start it.

        :param settings: of a Mercure hub, which mean nothing to it.
        """
        port = free_port()
        prefix = self.folder / "nchan"
        prefix.mkdir(exist_ok=True)
        configuration = prefix / "nchan.conf"
        text = (HERE / "nchan.conf").read_text().replace("127.0.0.1:8101", f"127.0.0.1:{port}")
        configuration.write_text(text)
        command = [nginx(), "-p", f"{prefix}/", "-c", str(configuration), "-g", "worker_processes 1;"]
        with (prefix / "stderr").open("w+") as log:
            child = subprocess.Popen(command, stderr=log)
            try:
                _await(f"http://127.0.0.1:{port}/status", child, prefix / "stderr")
                yield NchanRunning(f"127.0.0.1:{port}", child.pid)
            finally:
                _stop(child)


@dataclass(frozen=True, slots=True)
class GivenHub:
    """A Mercure hub that somebody else started: never fresh, and on the loopback.

    :param url: of the hub.
    :param publisher: file with the header of publishers.
    :param subscriber: file with the header of subscribers, or ``None`` if they are admitted without.
    :param pid: its process, for CPU and memory.
    :param mint: makes tokens for it, or ``None`` if its secret is not known.
    """

    name: str
    url: str
    publisher: Path
    generation: Generation
    subscriber: Path | None = None
    pid: int | None = None
    mint: Mint | None = None

    @contextmanager
    def start(self, **settings: str) -> Iterator[Mercure]:  # noqa: ARG002
        """Use it as it is.

        :param settings: not ours to change.
        """
        parts = urlsplit(self.url)
        address = f"{parts.hostname}:{parts.port or 80}"
        yield Mercure(
            address, self.pid, parts.path or PATH, self.publisher, self.mint, self.generation, self.subscriber
        )


@dataclass(frozen=True, slots=True)
class Hubs:
    """Who is measured.

    :param variants: the same load on ours in another form: of another revision, or with another Python.
    :param absent: why a hub is not among them, in words.
    """

    ours: OurHub
    others: Sequence[Contestant] = ()
    absent: Sequence[str] = field(default=())
    variants: Sequence[OurHub] = ()

    @property
    def own(self) -> list[OurHub]:
        """Ours, and its variants."""
        return [self.ours, *self.variants]

    @property
    def current(self) -> list[OurHub]:
        """Those of this revision: what older ones cannot do is measured of these only."""
        return [one for one in self.own if one.is_of_this_tree]

    @property
    def all(self) -> list[Contestant]:
        """Ours and the others."""
        return [*self.own, *self.others]

    @property
    def mercure(self) -> list[OurHub | GivenHub]:
        """Those that speak Mercure."""
        return [one for one in self.all if isinstance(one, OurHub | GivenHub)]

    @property
    def minted(self) -> list[OurHub | GivenHub]:
        """Those that we can make tokens for."""
        return [one for one in self.mercure if one.mint is not None]


def nginx() -> str:
    """The program, also where root's path has it; empty if it is not there."""
    return shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin") or ""


def nchan_is_missing() -> str:
    """Why nchan cannot be measured, or nothing."""
    if nginx() and NCHAN_MODULE.exists():
        return ""
    return "nchan is not here, its column is empty (Debian: apt-get install nginx libnginx-mod-nchan)"


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def _quoted(value: str) -> str:
    """URL-encoded, except for the places that sseload fills in."""
    encoded = quote(value, safe="/:*")
    return encoded.replace("%25d", "%d").replace("%25u", "%u")


def _await(url: str, child: subprocess.Popen[bytes], log: Path, certificate: str | None = None) -> None:
    until = time.monotonic() + _START
    while child.poll() is None and time.monotonic() < until:
        try:
            requests.get(url, timeout=5, verify=certificate or True).raise_for_status()
        except requests.ConnectionError:
            time.sleep(0.02)
        else:
            return
    words = log.read_text(errors="replace").strip().splitlines()
    if child.poll() is None:
        raise Refused(f"no answer on {url} for {_START:g} s")
    raise Refused(words[-1] if words else f"it ended without a word, status {child.returncode}")


def _stop(child: subprocess.Popen[bytes]) -> None:
    child.send_signal(signal.SIGTERM)
    try:
        child.wait(15)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
