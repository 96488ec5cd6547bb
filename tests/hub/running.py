"""A real hub for a test: its own thread and event loop, a port of its own, a database file."""

from __future__ import annotations

import json
import os
import socket
import ssl
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import gevent
import jwt

from mercure_hub.config.loading import load_settings
from mercure_hub.protocol.event_stream import Event, Parser
from mercure_hub.server.assembly import Limits
from mercure_hub.server.lifecycle import Process
from tests.chosen_engine import IS_SQLITE, transport_url
from tests.portability import ENVIRONMENT

if sys.version_info >= (3, 14):
    from compression.zstd import ZstdDecompressor
else:
    from backports.zstd import ZstdDecompressor

SECRET = "a secret that is long enough for HMAC-SHA-256"
HUB_PATH = "/.well-known/mercure"
TIMEOUT = 10.0 if IS_SQLITE else 30.0  # on other engines, those of killed hubs end after a lease

Form = Mapping[str, object] | Sequence[tuple[str, str]]


@dataclass
class Reply:
    """An HTTP answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    def json(self) -> Any:
        return json.loads(self.body)


class Frames:
    """Decodes frames of Zstandard, one after another, as they arrive."""

    def __init__(self) -> None:
        self._decoder = ZstdDecompressor()
        self.count = 0

    def decode(self, piece: bytes) -> bytes:
        decoded = b""
        while piece:
            decoded += self._decoder.decompress(piece)
            piece = b""
            if self._decoder.eof:
                self.count += 1
                piece = self._decoder.unused_data
                self._decoder = ZstdDecompressor()
        return decoded


class Stream:
    """A subscriber's connection.

    ``wire`` counts what arrived, ``raw`` is the content, decoded.
    """

    def __init__(self, sock: socket.socket, received: bytes, reply: Reply) -> None:
        self.sock = sock
        self.reply = reply
        self._parser = Parser()
        self._ready: list[Event] = []
        self._chunks = b""
        self._frames = Frames() if reply.headers.get("content-encoding") == "zstd" else None
        self.wire = 0
        self.raw = b""
        self._take(received)

    def next(self) -> Event:
        """The next event."""
        while not self._ready:
            piece = self.sock.recv(65536)
            if not piece:
                raise EOFError("the hub closed the stream")
            self._take(piece)
        return self._ready.pop(0)

    def take(self, count: int) -> list[str]:
        """The data of the next events."""
        return [self.next().data for _ in range(count)]

    def read_until(self, piece: bytes) -> None:
        """Read on until the raw stream holds some bytes."""
        while piece not in self.raw:
            received = self.sock.recv(65536)
            if not received:
                raise EOFError(f"the hub closed the stream before {piece!r}")
            self._take(received)

    def _take(self, received: bytes) -> None:
        """Take off the framing of chunks, if there is one, and parse."""
        piece = received
        self.wire += len(received)
        if self.reply.headers.get("transfer-encoding") == "chunked":
            self._chunks += received
            piece = b""
            while b"\r\n" in self._chunks:
                size, _, rest = self._chunks.partition(b"\r\n")
                length = int(size, 16)
                if len(rest) < length + 2:
                    break
                piece += rest[:length]
                self._chunks = rest[length + 2 :]
        if self._frames is not None:
            piece = self._frames.decode(piece)
        self.raw += piece
        self._ready += self._parser.feed(piece)

    def ended(self) -> bool:
        """Wait for the end of the stream."""
        try:
            while self.sock.recv(65536):
                pass
        except ConnectionResetError:
            pass
        return True

    def close(self) -> None:
        self.sock.close()


@dataclass
class RunningHub:
    """A client's view of the hub under test."""

    port: int
    scheme: str = "http"
    secret: str = SECRET
    public_url: str = ""
    """That is configured; tokens name it in aud."""
    stop_after: Callable[[Callable[[], None]], None] | None = None
    """Does something in the hub's event loop, and tells the hub to stop before the loop goes on."""
    _open: list[Stream] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}{HUB_PATH}"

    def connect(self) -> socket.socket:
        sock = socket.create_connection(("127.0.0.1", self.port), timeout=TIMEOUT)
        if self.scheme == "https":
            context = ssl.create_default_context()
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            return context.wrap_socket(sock, server_hostname="localhost")
        return sock

    def raw(self, piece: bytes) -> bytes:
        """Send bytes and read until the hub closes or answers completely."""
        with self.connect() as sock:
            sock.sendall(piece)
            return read_reply(sock)[0]

    def request(
        self, method: str, target: str, headers: Mapping[str, str] | None = None, body: bytes = b""
    ) -> Reply:
        """One request on a connection of its own."""
        fields = {"Host": f"127.0.0.1:{self.port}", "Connection": "close", **(headers or {})}
        if body:
            fields["Content-Length"] = str(len(body))
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items() if value)
        with self.connect() as sock:
            sock.sendall(f"{method} {target} HTTP/1.1\r\n{head}\r\n".encode("latin-1") + body)
            _, _, reply = read_reply(sock, is_head=method == "HEAD")
            return reply

    def publish(
        self, fields: Form, token: str | None = "", headers: Mapping[str, str] | None = None
    ) -> Reply:
        """Publish with a token that allows everything, unless another one or ``None`` is given."""
        given = {"Content-Type": "application/x-www-form-urlencoded", **(headers or {})}
        if token is not None:
            given["Authorization"] = f"Bearer {token or self.token()}"
        return self.request("POST", HUB_PATH, given, urlencode(_pairs(fields)).encode())

    def send(self, topic: str, data: str = "", **fields: str) -> str:
        """Publish one update and return its id."""
        reply = self.publish({"topic": topic, "data": data, **fields})
        assert reply.status == 200, reply.text
        return reply.text

    def get(self, query: Form = (), token: str | None = None, path: str = HUB_PATH, **headers: str) -> Reply:
        """A GET whose answer is not a stream."""
        target = path + ("?" + urlencode(_pairs(query)) if query else "")
        return self.request("GET", target, _headers(token, headers))

    def subscribe(
        self, query: Form, token: str | None = None, *, version: str = "1.1", **headers: str
    ) -> Stream:
        """Subscribe, and wait until the stream is open."""
        target = HUB_PATH + "?" + urlencode(_pairs(query))
        fields = {"Host": f"127.0.0.1:{self.port}", **_headers(token, headers)}
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        sock = self.connect()
        sock.sendall(f"GET {target} HTTP/{version}\r\n{head}\r\n".encode("latin-1"))
        _, rest, reply = read_reply(sock, only_head=True)
        stream = Stream(sock, rest, reply)
        self._open.append(stream)
        assert reply.status == 200, read_rest(sock, rest, reply)
        return stream

    def token(
        self,
        *,
        publish: Sequence[object] = ("*",),
        subscribe: Sequence[object] = ("*",),
        lifetime: float = 600,
        payload: object = None,
        **claims: Any,
    ) -> str:
        """A token of protocol 1.0."""
        details: list[dict[str, object]] = []
        for action, topics in (("publish", publish), ("subscribe", subscribe)):
            if topics:
                detail: dict[str, object] = {
                    "type": "https://mercure.rocks/authorization-detail",
                    "actions": [action],
                    "topics": [one if isinstance(one, dict) else {"match": one} for one in topics],
                }
                if action == "subscribe" and payload is not None:
                    detail["payload"] = payload
                details.append(detail)
        now = time.time()
        content = {
            "iss": "urn:flask-mercure",
            "aud": self.public_url or self.url,
            "sub": "somebody",
            "client_id": "tests",
            "iat": int(now),
            "exp": now + lifetime,
            "jti": str(uuid.uuid4()),
            "authorization_details": details,
            **claims,
        }
        return jwt.encode(content, self.secret, "HS256", headers={"typ": "at+jwt"})

    def old_token(self, **mercure: object) -> str:
        """A token of protocol 0.x."""
        return jwt.encode({"mercure": mercure}, self.secret, "HS256")

    def close(self) -> None:
        for stream in self._open:
            stream.close()


def process_environment(folder: Path, **variables: str) -> dict[str, str]:
    """The environment of a hub that runs as a process: the least it needs, and what the test adds."""
    return {
        "PATH": os.environ["PATH"],
        **ENVIRONMENT,
        "MERCURE_LISTEN": "127.0.0.1:0",
        "MERCURE_TRANSPORT_URL": transport_url(folder),
        "MERCURE_PUBLISHER_JWT_KEY": SECRET,
        **variables,
    }


def read_reply(
    sock: socket.socket, *, is_head: bool = False, only_head: bool = False
) -> tuple[bytes, bytes, Reply]:
    """Read an answer: all bytes, what follows the head, and the answer."""
    received = b""
    while b"\r\n\r\n" not in received:
        piece = sock.recv(65536)
        if not piece:
            return received, b"", Reply(0, {}, received)
        received += piece
    head, _, rest = received.partition(b"\r\n\r\n")
    status_line, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    reply = Reply(int(status_line.split()[1]), headers, rest)
    if not only_head and not is_head:
        reply.body = read_rest(sock, rest, reply)
    return received, rest, reply


def read_rest(sock: socket.socket, rest: bytes, reply: Reply) -> bytes:
    length = int(reply.headers.get("content-length", "0"))
    while len(rest) < length:
        piece = sock.recv(65536)
        if not piece:
            break
        rest += piece
    return rest


def _pairs(fields: Form) -> list[tuple[str, str]]:
    if not isinstance(fields, Mapping):
        return list(fields)
    pairs: list[tuple[str, str]] = []
    for name, value in fields.items():
        values = value if isinstance(value, list | tuple) else [value]
        pairs += [(name, str(one)) for one in values]
    return pairs


def _headers(token: str | None, headers: Mapping[str, str]) -> dict[str, str]:
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    if token is not None:
        fields["Authorization"] = f"Bearer {token}"
    return fields


@contextmanager
def running_hub(
    path: Path, *, port: int = 0, limits: Limits | None = None, **settings: object
) -> Iterator[RunningHub]:
    """Run a hub for the length of a ``with`` block.

    :param path: folder of its history; a second hub with the same one continues it.
    :param limits: those that are no settings.
    :param settings: by their names in the TOML file.
    """
    environment = {
        "MERCURE_LISTEN": f"127.0.0.1:{port}",
        "MERCURE_TRANSPORT_URL": transport_url(path),
        "MERCURE_PUBLISHER_JWT_KEY": SECRET,
        **{f"MERCURE_{name.upper()}": str(value) for name, value in settings.items()},
    }
    loaded = load_settings(environment, {})
    ready = threading.Event()
    parts: list[tuple[Process, Callable[[Callable[[], None]], object]]] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            process = Process(loaded, limits=limits)
            process.start()
            loop = gevent.get_hub().loop
            parts.append((process, loop.run_callback_threadsafe))
            ready.set()
            process.wait()
            process.close()
        except BaseException as error:
            failure.append(error)
        finally:
            ready.set()
            gevent.get_hub().destroy(destroy_loop=True)

    thread = threading.Thread(target=run, name="hub under test")
    thread.start()
    is_in_time = ready.wait(TIMEOUT)
    ready.wait()  # a hub that is late has to end, too
    if failure:
        raise failure[0]
    process, in_loop = parts[0]

    def stop_after(action: Callable[[], None]) -> None:
        def both() -> None:
            action()
            process.stop()

        in_loop(both)

    hub = RunningHub(
        process.address[1],
        "https" if loaded.tls_cert else "http",
        public_url="" if loaded.public_url is None else loaded.public_url.url,
        stop_after=stop_after,
    )
    try:
        assert is_in_time, f"the hub was not ready within {TIMEOUT:.0f} s"
        yield hub
    finally:
        in_loop(process.stop)
        thread.join(TIMEOUT)
        hub.close()
        assert not thread.is_alive(), "the hub did not end"
        if failure:
            raise failure[0]
