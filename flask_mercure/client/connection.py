"""A connection that an answer streams in over: HTTP/1.1 on a socket of its own (RFC 9112).

``requests`` cannot stop waiting for the next octets and wait again later, nor be woken by another thread; a
subscriber needs both.
"""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from requests.structures import CaseInsensitiveDict
from requests.utils import DEFAULT_CA_BUNDLE_PATH

_MAX_HEAD = 65536
_PIECE = 65536
_STATUS = re.compile(rb"HTTP/1\.[01] ([0-9]{3})(?: .*)?")
_CHUNK = re.compile(rb"[ \t]*([0-9A-Fa-f]{1,8})[ \t]*(?:;.*)?")


class ConnectionBroken(OSError):
    """The connection was lost, or what came over it is not HTTP."""


class Connection:
    """An answer to a GET request; the head has arrived.

    :param sock: the connection, after the request was sent.
    :param timeout: seconds for the head.
    :raises OSError: it did not arrive, or is none.

    ``status`` and ``headers`` are of the answer. Header values are ISO 8859-1, as they came.
    """

    def __init__(self, sock: socket.socket, timeout: float) -> None:
        self._sock = sock
        head, self._rest = self._read_head(timeout)
        first, *lines = head.split(b"\r\n")
        found = _STATUS.fullmatch(first)
        if found is None:
            raise ConnectionBroken("something else than HTTP/1.1 answers there")
        self.status = int(found[1])
        self.headers: CaseInsensitiveDict[str] = CaseInsensitiveDict()
        for line in lines:
            name, _, value = line.decode("latin-1").partition(":")
            self.headers[name] = value.strip()
        length = self.headers.get("Content-Length", "")
        self._left = int(length) if length.isascii() and length.isdigit() else None
        is_chunked = self.headers.get("Transfer-Encoding", "").lower() == "chunked"
        self._chunks = Chunks() if is_chunked else None
        self._is_over = False

    def read(self, timeout: float | None) -> bytes:
        """What arrives next of the content.

        :param timeout: seconds to wait, ``None`` for ever. After a ``TimeoutError`` it can be called again.
        :returns: octets; none at the end of the answer.
        :raises TimeoutError: nothing came in that time.
        :raises OSError: the connection broke.
        """
        while not self._is_over and self._left != 0:
            octets, self._rest = self._rest, b""
            if not octets:
                octets = self._receive(timeout)
                if not octets:
                    return self._end()
            if self._chunks is not None:
                octets = self._chunks.feed(octets)
                self._is_over = self._chunks.is_over
            elif self._left is not None:
                octets = octets[: self._left]
                self._left -= len(octets)
            if octets:
                return octets
        return b""

    def wake(self) -> None:
        """Let a ``read`` in another thread return; the connection is of no more use."""
        with contextlib.suppress(OSError):
            # Not the method of SSLSocket, which forgets its state while another thread may use it.
            socket.socket.shutdown(self._sock, socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the socket."""
        self._sock.close()

    def _receive(self, timeout: float | None) -> bytes:
        # Of a timeout of 0 the socket module makes a non-blocking socket.
        self._sock.settimeout(None if timeout is None else max(timeout, 0.001))
        return self._sock.recv(_PIECE)

    def _end(self) -> bytes:
        if self._chunks is not None or self._left:
            raise ConnectionBroken("the connection ended in the middle of the answer")
        self._is_over = True
        return b""

    def _read_head(self, timeout: float) -> tuple[bytes, bytes]:
        received = b""
        while b"\r\n\r\n" not in received:
            octets = self._receive(timeout)
            if not octets:
                raise ConnectionBroken("the connection was closed without an answer")
            received += octets
            if len(received) > _MAX_HEAD:
                raise ConnectionBroken("the head of the answer has no end")
        head, _, rest = received.partition(b"\r\n\r\n")
        return head, rest


class Chunks:
    """Takes the framing off a chunked content (RFC 9112 section 7.1).

    ``is_over`` is true once the last chunk has arrived.
    """

    def __init__(self) -> None:
        self.is_over = False
        self._held = b""
        self._left = 0  # of the current chunk, with the line end behind it

    def feed(self, octets: bytes) -> bytes:
        """Take octets, cut anywhere.

        :returns: what there is of the content in them.
        :raises ConnectionBroken: this is no chunk.
        """
        held = self._held + octets
        content: list[bytes] = []
        while held and not self.is_over:
            if self._left:
                piece = held[: self._left]
                content.append(piece[: max(0, self._left - 2)])
                self._left -= len(piece)
                held = held[len(piece) :]
                continue
            line, end, rest = held.partition(b"\r\n")
            if not end:
                if len(held) > _MAX_HEAD:
                    raise ConnectionBroken("the answer has a chunk without a size")
                break
            found = _CHUNK.fullmatch(line)
            if found is None:
                raise ConnectionBroken("the answer has a chunk without a size")
            size = int(found[1], 16)
            self.is_over = not size
            self._left = size + 2
            held = rest
        self._held = held
        return b"".join(content)


def get(
    url: str,
    headers: Mapping[str, str],
    *,
    verify: bool | str,
    connect_timeout: float,
    answer_timeout: float,
) -> Connection:
    """Send a GET request and wait for the head of the answer.

    :param url: http or https.
    :param headers: beside ``Host``; sent as UTF-8.
    :param verify: check the certificate: True, False, or the path of a CA file or folder.
    :param connect_timeout: seconds for the connection.
    :param answer_timeout: seconds for the head.
    :raises OSError: there is no connection, or no answer.
    """
    parts = urlsplit(url)
    head = _head(parts, headers)
    sock = _connected(parts, verify, connect_timeout)
    try:
        sock.settimeout(answer_timeout)
        sock.sendall(head)
        return Connection(sock, answer_timeout)
    except BaseException:
        sock.close()
        raise


def _head(parts: SplitResult, headers: Mapping[str, str]) -> bytes:
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    lines = [f"GET {target} HTTP/1.1", f"Host: {parts.netloc.rpartition('@')[2]}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    if any("\r" in line or "\n" in line for line in lines):
        raise ValueError("a header of the request holds a line end")
    return "\r\n".join([*lines, "Connection: close", "", ""]).encode()


def _connected(parts: SplitResult, verify: bool | str, timeout: float) -> socket.socket:
    is_tls = parts.scheme == "https"
    address = (parts.hostname or "", parts.port or (443 if is_tls else 80))
    sock = socket.create_connection(address, timeout)
    if not is_tls:
        return sock
    try:
        return _tls_context(verify).wrap_socket(sock, server_hostname=parts.hostname)
    except BaseException:
        sock.close()
        raise


def _tls_context(verify: bool | str) -> ssl.SSLContext:
    if verify is False:
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context
    where = DEFAULT_CA_BUNDLE_PATH if verify is True else verify
    if Path(where).is_dir():
        return ssl.create_default_context(capath=where)
    return ssl.create_default_context(cafile=where)
