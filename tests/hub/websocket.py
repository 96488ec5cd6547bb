"""Two clients for WebSockets: a library that browsers' peers use, and one that breaks every rule."""

from __future__ import annotations

import json
import select
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import urlencode

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection
from websockets.sync.client import connect as library_connect
from websockets.typing import Origin

from tests.hub.running import HUB_PATH, TIMEOUT, Form, Reply, RunningHub, _pairs, read_reply

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="  # for this key, in RFC 6455 section 1.3
HANDSHAKE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": KEY,
}
TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


@contextmanager
def client(
    hub: RunningHub, query: Form, token: str | None = None, origin: str | None = None, **headers: str
) -> Iterator[ClientConnection]:
    """A subscriber with the library ``websockets``, without the compression that it offers by default."""
    fields = dict(headers)
    if token is not None:
        fields["Authorization"] = f"Bearer {token}"
    url = hub.url.replace(hub.scheme, "ws", 1) + "?" + urlencode(_pairs(query))
    with (
        one_thread(hub.connect()) as sock,
        library_connect(
            url,
            sock=sock,
            origin=None if origin is None else Origin(origin),
            additional_headers=fields,
            compression=None,
            proxy=None,
            open_timeout=TIMEOUT,
            close_timeout=TIMEOUT,
        ) as connection,
    ):
        yield connection


@contextmanager
def one_thread(sock: socket.socket) -> Iterator[socket.socket]:
    """A socket without TLS, whose bytes go through one that may have it.

    The library reads and writes in two threads. OpenSSL does not allow that: a request was lost now and then,
    when the tickets of TLS 1.3 came while it was sent.
    """
    inner, outer = socket.socketpair()
    sock.settimeout(0)

    def receive() -> bytes | None:
        """What is there; ``None`` for nothing yet."""
        try:
            return sock.recv(65536)
        except (ssl.SSLWantReadError, BlockingIOError):
            return None

    def relay() -> None:
        with sock, outer, suppress(OSError):
            while True:
                ready, _, _ = select.select([sock, outer], [], [])
                if sock in ready:
                    while (data := receive()) is not None:
                        if not data:
                            outer.shutdown(socket.SHUT_WR)
                            while outer.recv(65536):  # the answer to a close frame must not fail
                                pass
                            return
                        outer.sendall(data)
                if outer in ready:
                    data = outer.recv(65536)
                    if not data:
                        return
                    sock.settimeout(TIMEOUT)
                    sock.sendall(data)
                    sock.settimeout(0)

    thread = threading.Thread(target=relay)
    thread.start()
    try:
        yield inner
    finally:
        inner.close()
        thread.join()


def messages(connection: ClientConnection, count: int = 1) -> list[dict[str, Any]]:
    """The next messages."""
    return [json.loads(connection.recv(timeout=TIMEOUT)) for _ in range(count)]


def end(connection: ClientConnection) -> tuple[int | None, str | None]:
    """Wait for the end: code and reason of the close frame."""
    try:
        while True:
            connection.recv(timeout=TIMEOUT)
    except ConnectionClosed:
        return connection.close_code, connection.close_reason


def frame(opcode: int, content: bytes = b"", *, fin: bool = True, masked: bool = True) -> bytes:
    """A client's frame; its mask is the one that changes nothing."""
    size = len(content)
    length = bytes([size]) if size < 126 else b"\x7e" + size.to_bytes(2, "big")
    if size > 65535:
        length = b"\x7f" + size.to_bytes(8, "big")
    head = bytes([opcode | 0x80 * fin, length[0] | 0x80 * masked]) + length[1:]
    return head + (b"\0\0\0\0" if masked else b"") + content


class Raw:
    """A WebSocket of which the test sees each byte."""

    def __init__(self, sock: socket.socket, received: bytes) -> None:
        self.sock = sock
        self._received = received

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def frame(self) -> tuple[int, bytes]:
        """The next frame of the hub: opcode and content."""
        first, second = self._take(2)
        assert first & 0xF0 == 0x80
        assert second & 0x80 == 0
        length = second
        if second == 126:
            length = int.from_bytes(self._take(2), "big")
        elif second == 127:
            length = int.from_bytes(self._take(8), "big")
        return first & 0x0F, self._take(length)

    def close_code(self) -> int:
        """Read on until the close frame, and until the end of the connection behind it."""
        opcode, content = self.frame()
        while opcode != CLOSE:
            opcode, content = self.frame()
        assert self._received == b""
        assert self.sock.recv(1) == b""
        return int.from_bytes(content[:2], "big")

    def _take(self, count: int) -> bytes:
        while len(self._received) < count:
            data = self.sock.recv(65536)
            if not data:
                raise EOFError("the hub closed the connection")
            self._received += data
        taken, self._received = self._received[:count], self._received[count:]
        return taken


def ask(
    hub: RunningHub, query: Form, headers: Mapping[str, str] = HANDSHAKE, *, then: bytes = b""
) -> tuple[Reply, Raw]:
    """Send a handshake, and bytes right behind it."""
    fields = {"Host": f"127.0.0.1:{hub.port}", **headers}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    sock = hub.connect()
    sock.settimeout(TIMEOUT)
    sock.sendall(f"GET {HUB_PATH}?{urlencode(_pairs(query))} HTTP/1.1\r\n{head}\r\n".encode() + then)
    _, rest, reply = read_reply(sock, only_head=True)
    return reply, Raw(sock, rest)


@contextmanager
def raw(hub: RunningHub, query: Form) -> Iterator[Raw]:
    """An open WebSocket."""
    reply, connection = ask(hub, query)
    with connection.sock:
        assert reply.status == 101, reply
        yield connection
