"""A client for HTTP/1.1, event streams and WebSockets, which shares no code with the hub."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import h11
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

HUB_PATH = "/.well-known/mercure"

_READ = 65536
_NUMBER = re.compile(rb'^\{"n": (\d+)')
_NO_LINGER = struct.pack("ii", 1, 0)


class Closed(Exception):
    """The connection ended before the answer was complete."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer of HTTP.

    :param headers: with names in lower case.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes = b""


def reset_at_close(sock: socket.socket) -> None:
    """Have a socket say RST instead of FIN when it is closed."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)


class Connection:
    """One connection for HTTP/1.1.

    :param sock: connected and non-blocking; ``close`` closes it.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._http = h11.Connection(h11.CLIENT)

    async def request(
        self, method: str, target: str, headers: Mapping[str, str] | None = None, body: bytes = b""
    ) -> Answer:
        """Send a request and read the whole answer.

        :raises Closed: it did not come.
        """
        await self._send(method, target, headers or {}, body)
        answer = await self._head()
        parts = []
        while part := await self.data():
            parts.append(part)
        return Answer(answer.status, answer.headers, b"".join(parts))

    async def open(self, target: str, headers: Mapping[str, str]) -> Answer:
        """Send a GET and read the head of the answer; ``data`` reads on.

        :raises Closed: there was no head.
        """
        await self._send("GET", target, headers, b"")
        return await self._head()

    async def data(self, most: int = _READ) -> bytes:
        """The next part of the body; empty at its end.

        :param most: bytes to take from the socket at once.
        :raises Closed: the connection ended before the body.
        """
        while True:
            match await self._event(most):
                case h11.Data(data=data):
                    return bytes(data)
                case h11.EndOfMessage():
                    return b""
                case h11.ConnectionClosed():
                    raise Closed("the hub closed the connection")

    @property
    def is_reusable(self) -> bool:
        """Whether another request may follow; if so, this makes the connection ready for it."""
        if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
            return False
        self._http.start_next_cycle()
        return True

    def close(self) -> None:
        """Close the connection."""
        self._sock.close()

    async def _send(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> None:
        fields = [("Host", "hub.example"), *headers.items()]
        if body:
            fields.append(("Content-Length", str(len(body))))
        message = self._http.send(h11.Request(method=method, target=target, headers=fields)) or b""
        if body:
            message += self._http.send(h11.Data(data=body)) or b""
        message += self._http.send(h11.EndOfMessage()) or b""
        try:
            await asyncio.get_running_loop().sock_sendall(self._sock, message)
        except OSError as error:
            raise Closed(f"while the request was sent: {error.strerror}") from None

    async def _head(self) -> Answer:
        while True:
            match await self._event(_READ):
                case h11.Response(status_code=status, headers=headers):
                    return Answer(status, {name.decode(): value.decode("latin-1") for name, value in headers})
                case h11.ConnectionClosed():
                    raise Closed("the hub closed the connection")

    async def _event(self, most: int) -> Any:
        while True:
            try:
                event = self._http.next_event()
            except h11.RemoteProtocolError as error:
                raise Closed(str(error)) from None
            if event is not h11.NEED_DATA:
                return event
            try:
                received = await asyncio.get_running_loop().sock_recv(self._sock, most)
            except OSError as error:
                raise Closed(error.strerror or "reset") from None
            self._http.receive_data(received)


class Events:
    """Reads an event stream, as it comes, to pairs of event id and number of the update."""

    def __init__(self) -> None:
        self._rest = b""
        self._id = b""

    def feed(self, received: bytes) -> list[tuple[str, int]]:
        """Take the next bytes.

        :returns: the events that they complete; a number is -1 if the data has none.
        """
        self._rest += received
        *blocks, self._rest = self._rest.split(b"\n\n")
        found = []
        for block in blocks:
            data = None
            for line in block.split(b"\n"):
                name, _, value = line.partition(b":")
                if name == b"id":
                    self._id = value.removeprefix(b" ")
                elif name == b"data" and data is None:
                    data = value.removeprefix(b" ")
            if data is not None:
                found.append((self._id.decode(), number_of(data)))
        return found


def number_of(data: bytes) -> int:
    """The number of the update that some data belongs to; -1: it is none of ours."""
    found = _NUMBER.match(data)
    return int(found[1]) if found else -1


class WebSocket:
    """A WebSocket to a hub.

    :param connection: open.
    """

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        head = connection.response
        self.headers = (
            {} if head is None else {name.lower(): value for name, value in head.headers.raw_items()}
        )

    @classmethod
    async def open(cls, sock: socket.socket, target: str, headers: Mapping[str, str]) -> WebSocket | int:
        """Shake hands.

        :returns: the status of the answer, when the hub refuses.
        :raises Closed: there was no answer.
        """
        try:
            connection = await connect(
                f"ws://hub.example{target}",
                sock=sock,
                additional_headers=dict(headers),
                compression=None,
                proxy=None,
                ping_interval=None,
                open_timeout=None,
                close_timeout=1,
                max_size=None,
            )
        except InvalidHandshake as error:
            response = getattr(error, "response", None)
            if response is None:
                raise Closed(str(error)) from None
            return int(response.status_code)
        except (OSError, EOFError) as error:
            raise Closed(str(error)) from None
        return cls(connection)

    async def event(self) -> tuple[str, int]:
        """The next update: its event id and its number.

        :raises Closed: the connection ended.
        """
        try:
            message = json.loads(await self._connection.recv())
        except ConnectionClosed as error:
            raise Closed(str(error)) from None
        return message["id"], number_of(message["data"].encode())

    def close(self) -> None:
        """Let go of the connection at once."""
        self._connection.transport.abort()
