"""One request and its answer, within a deadline; the framing of streams."""

from __future__ import annotations

import json
import socket
import ssl
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

from flask_mercure.client.session import USER_AGENT
from flask_mercure.doctor.connection import Endpoint, Unreachable, close, dial, time_left, words

_MAX_HEAD = 65536
_MAX_BODY = 65536


@dataclass(frozen=True, slots=True)
class Head:
    """Status line and headers of an answer.

    :param status: status code.
    :param version: ``HTTP/1.1`` and the like.
    :param fields: names in lower case, and values, in their order.
    """

    status: int
    version: str
    fields: tuple[tuple[str, str], ...]

    def all(self, name: str) -> list[str]:
        """The values of each field of a name."""
        return [value for one, value in self.fields if one == name]

    def get(self, name: str) -> str:
        """The first value, or an empty string."""
        return next(iter(self.all(name)), "")

    @property
    def media_type(self) -> str:
        """Without parameters, in lower case."""
        return self.get("content-type").partition(";")[0].strip().lower()

    @property
    def date(self) -> float | None:
        """The ``Date``, in seconds since the epoch."""
        try:
            return parsedate_to_datetime(self.get("date")).timestamp()
        except ValueError:
            return None


@dataclass(frozen=True, slots=True)
class Reply:
    """A complete answer.

    :param head: see there.
    :param body: its content, or the beginning of it.
    :param at: when it arrived and the request was under way, in the middle: seconds since the epoch.
    """

    head: Head
    body: bytes
    at: float

    @property
    def status(self) -> int:
        """Status code."""
        return self.head.status

    @property
    def document(self) -> dict[str, Any]:
        """The JSON object in the body; empty if there is none."""
        try:
            found = json.loads(self.body)
        except (ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}


def request(
    endpoint: Endpoint, method: str, target: str, headers: Mapping[str, str], body: bytes = b""
) -> bytes:
    """The octets of a request."""
    host = endpoint.origin.partition("://")[2]
    fields = {"Host": host, "User-Agent": USER_AGENT, "Accept": "*/*", **headers}
    if body or method == "POST":
        fields["Content-Length"] = str(len(body))
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + body


def ask(
    endpoint: Endpoint,
    trust: ssl.SSLContext | None,
    method: str,
    target: str,
    headers: Mapping[str, str] | None = None,
    *,
    body: bytes = b"",
    seconds: float,
    clock: Callable[[], float] = time.time,
) -> Reply:
    """Send a request on a connection of its own and read the answer; of an event stream only the head.

    :param seconds: for all of it.
    :raises Unreachable: there is no answer.
    """
    deadline = time.monotonic() + seconds
    sock = dial(endpoint, trust, deadline)
    started = clock()
    try:
        sock.settimeout(time_left(deadline))
        sock.sendall(request(endpoint, method, target, {"Connection": "close", **(headers or {})}, body))
        head, rest = read_head(sock, deadline)
        at = (started + clock()) / 2
        has_body = method != "HEAD" and head.media_type != "text/event-stream"
        return Reply(head, _read_body(sock, head, rest, deadline) if has_body else b"", at)
    except OSError as error:
        raise Unreachable("answer", words(error)) from None
    finally:
        close(sock)


def read_head(sock: socket.socket, deadline: float) -> tuple[Head, bytes]:
    """Read an answer's head, passing over interim ones.

    :returns: the head and what has come after it.
    :raises Unreachable: it does not come, or is no HTTP.
    """
    received = b""
    while True:
        while b"\r\n\r\n" not in received:
            left = deadline - time.monotonic()
            if left <= 0 or len(received) > _MAX_HEAD:
                raise Unreachable(
                    "answer", "no complete answer in time" if left <= 0 else "no end of the head"
                )
            sock.settimeout(left)
            try:
                octets = sock.recv(65536)
            except OSError as error:
                raise Unreachable("answer", words(error)) from None
            if not octets:
                cause = "the server closed the connection without an answer"
                raise Unreachable("answer", cause)
            received += octets
        raw, _, received = received.partition(b"\r\n\r\n")
        head = _parse_head(raw)
        if head.status >= 200:
            return head, received


def _parse_head(raw: bytes) -> Head:
    first, *lines = raw.decode("latin-1").split("\r\n")
    version, _, rest = first.partition(" ")
    if not version.startswith("HTTP/") or not rest[:3].isdigit():
        raise Unreachable("answer", "the answer is no HTTP/1.1")
    pairs = (line.partition(":") for line in lines)
    return Head(
        int(rest[:3]), version, tuple((name.strip().lower(), value.strip()) for name, _, value in pairs)
    )


def _read_body(sock: socket.socket, head: Head, received: bytes, deadline: float) -> bytes:
    framing = Framing(head)
    body = framing.feed(received)
    length = int(head.get("content-length")) if head.get("content-length").isdigit() else _MAX_BODY
    while len(body) < min(length, _MAX_BODY) and not framing.is_complete:
        left = deadline - time.monotonic()
        if left <= 0:
            break
        sock.settimeout(left)
        try:
            octets = sock.recv(65536)
        except OSError:
            break
        if not octets:
            break
        body += framing.feed(octets)
    return body[:_MAX_BODY]


class Framing:
    """Takes off transfer and content coding, piece by piece.

    :param head: of the answer.
    """

    def __init__(self, head: Head) -> None:
        self._is_chunked = "chunked" in head.get("transfer-encoding").lower()
        self._is_gzip = head.get("content-encoding").lower() in ("gzip", "x-gzip")
        self._gzip = zlib.decompressobj(31)
        self._pending = b""
        self._size: int | None = None
        self.is_complete = False

    def feed(self, octets: bytes) -> bytes:
        """Decode what arrived.

        :returns: what can be read of it; nothing after something that cannot be decoded.
        """
        plain = self._chunks(octets) if self._is_chunked else octets
        return self._inflate(plain) if self._is_gzip else plain

    def _chunks(self, octets: bytes) -> bytes:
        self._pending += octets
        plain = b""
        while not self.is_complete:
            if self._size is None:
                line, end, rest = self._pending.partition(b"\r\n")
                if not end:
                    break
                try:
                    self._size = int(line.partition(b";")[0], 16)
                except ValueError:
                    self.is_complete = True
                    break
                self._pending = rest
                if self._size == 0:
                    self.is_complete = True
                    break
            taken, self._pending = self._pending[: self._size], self._pending[self._size :]
            plain += taken
            self._size -= len(taken)
            if self._size or len(self._pending) < 2:
                break
            self._pending = self._pending[2:]
            self._size = None
        return plain

    def _inflate(self, octets: bytes) -> bytes:
        plain = b""
        while octets:
            try:
                plain += self._gzip.decompress(octets, _MAX_BODY)
            except zlib.error:
                self.is_complete = True
                return plain
            octets = self._gzip.unconsumed_tail
            if self._gzip.eof:  # another member
                octets = self._gzip.unused_data
                self._gzip = zlib.decompressobj(31)
        return plain
