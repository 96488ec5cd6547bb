"""What the tests of all proxies share: a client, and the site as it looks from outside."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPResponse, HTTPSConnection
from pathlib import Path
from ssl import CERT_NONE, SSLContext, create_default_context
from typing import IO

from requests.structures import CaseInsensitiveDict

from mercure_hub.protocol.event_stream import Event, Parser
from tests.hub.running import TIMEOUT

COOKIE = "__Secure-mercure_access_token"
PATIENCE = 40.0  # seconds: after a reload the first page waits for a process that imports the application


def wait_until(condition: Callable[[], bool], what: str, seconds: float = PATIENCE) -> None:
    """Ask again and again.

    :raises AssertionError: it did not come true in time.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def free_ports(count: int) -> list[int]:
    """Ports that nobody uses now."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


def is_listening(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


def unverified() -> SSLContext:
    """For clients that accept the self-signed certificate."""
    context = create_default_context()
    context.check_hostname = False
    context.verify_mode = CERT_NONE
    return context


class Follower:
    """A subscriber over HTTP/1.1 with whatever transfer coding the proxy chooses.

    :param scheme: ``http`` or ``https``.
    :param port: on 127.0.0.1.
    :param target: path and query.
    :param headers: of the request.
    """

    _context = unverified()

    def __init__(self, scheme: str, port: int, target: str, headers: Mapping[str, str]) -> None:
        self.connection: HTTPConnection
        if scheme == "https":
            self.connection = HTTPSConnection("127.0.0.1", port, timeout=TIMEOUT, context=self._context)
        else:
            self.connection = HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
        self.connection.request("GET", target, headers=dict(headers))
        self.response: HTTPResponse = self.connection.getresponse()
        self._parser = Parser()
        self._ready: list[Event] = []

    def next(self) -> Event:
        """The next event."""
        while not self._ready:
            data = self.response.read1(65536)
            if not data:
                raise EOFError("the stream was closed")
            self._ready += self._parser.feed(data)
        return self._ready.pop(0)

    def close(self) -> None:
        self.response.close()
        self.connection.close()

    def __enter__(self) -> Follower:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextmanager
def curl(*arguments: str) -> Iterator[IO[bytes]]:
    """Run curl without buffering; gives what it prints."""
    with subprocess.Popen(
        ["curl", "-sSNk", "--noproxy", "*", "--max-time", str(TIMEOUT), *arguments], stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        try:
            yield child.stdout
        finally:
            child.kill()


@dataclass
class Front:
    """A proxy with a site and the hub behind it, on ports of its own.

    :param folder: of its configuration and its logs.
    :param http: port of the site without TLS.
    :param https: port of the site with TLS.
    :param path: of the hub's public URL.
    """

    folder: Path
    http: int
    https: int
    path: str
    child: subprocess.Popen[bytes] | None = field(default=None, init=False)

    @property
    def public_url(self) -> str:
        return f"https://127.0.0.1:{self.https}{self.path}"

    def log(self, name: str = "error.log") -> str:
        return (self.folder / "log" / name).read_text()

    def follow(self, query: str, scheme: str = "https", **headers: str) -> Follower:
        """Subscribe as a browser would, with ``_`` for ``-`` in the names of headers."""
        port = self.https if scheme == "https" else self.http
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        return Follower(scheme, port, f"{self.path}?{query}", fields)

    def fetch(
        self, target: str, method: str = "GET", body: str | None = None, **headers: str
    ) -> tuple[int, Mapping[str, str], str]:
        """One request over HTTPS: status, headers and text."""
        connection = HTTPSConnection("127.0.0.1", self.https, timeout=PATIENCE, context=unverified())
        try:
            fields = {name.replace("_", "-"): value for name, value in headers.items()}
            if body is not None:
                fields["Content-Type"] = "application/x-www-form-urlencoded"
            connection.request(method, target, body, fields)
            response = connection.getresponse()
            return (
                response.status,
                CaseInsensitiveDict(reversed(response.headers.items())),  # of several, the first
                response.read().decode(errors="replace"),
            )
        finally:
            connection.close()

    def cookie(self) -> str:
        """What a browser sends to the hub after signing in to the application."""
        status, headers, text = self.fetch("/login")
        assert status == 200, text + self.log()
        cookie, _, attributes = headers["Set-Cookie"].partition(";")
        assert cookie.startswith(COOKIE + "=")
        for wanted in ("Secure", "HttpOnly", "SameSite=Strict", f"Path={self.path}"):
            assert wanted in attributes
        assert "Domain" not in attributes
        return cookie
