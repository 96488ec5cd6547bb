"""Which HTTP the public address speaks, and how many streams a browser can have there."""

from __future__ import annotations

import socket
import ssl
import struct
import time

from flask_mercure.doctor.connection import Endpoint, Unreachable, dial, time_left
from flask_mercure.doctor.finding import Finding, apache, nginx, note, ok, skipped
from mercure_hub.protocol.errors import Section

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_FRAME_HEAD = struct.Struct("!HBBBL")  # length in 16 + 8 bits, type, flags, stream
_SETTING = struct.Struct("!HL")
_SETTINGS = 4
_MAX_CONCURRENT_STREAMS = 3
_MAX_FRAMES = 16
_FEW = 20


def negotiated(endpoint: Endpoint, trust: ssl.SSLContext | None, server: str, seconds: float) -> Finding:
    """Offer what browsers offer (RFC 7301), and see what the public address takes.

    :param endpoint: the public URL.
    :param trust: for https.
    :param server: its ``Server`` header.
    :param seconds: for all of it.
    """
    chosen: str | None = None
    streams: int | None = None
    if endpoint.scheme == "https":
        deadline = time.monotonic() + seconds
        try:
            with dial(endpoint, trust, deadline, ("h2", "http/1.1")) as sock:
                chosen = sock.selected_alpn_protocol() if isinstance(sock, ssl.SSLSocket) else None
                if chosen == "h2":
                    streams = max_concurrent_streams(sock, deadline)
        except (Unreachable, OSError) as error:
            return skipped("http", f"the protocol could not be negotiated: {error}")
    return connections(endpoint.scheme, chosen, streams, server)


def max_concurrent_streams(sock: socket.socket, deadline: float) -> int | None:
    """Begin HTTP/2 and read what the server allows (RFC 9113 sections 3.4 and 6.5).

    :param sock: after a handshake that chose ``h2``.
    :param deadline: on the monotonic clock.
    :returns: the number; ``None`` when the server names none.
    :raises OSError: the connection breaks.
    """
    sock.settimeout(time_left(deadline))
    sock.sendall(_PREFACE + _FRAME_HEAD.pack(0, 0, _SETTINGS, 0, 0))
    for _ in range(_MAX_FRAMES):
        high, low, kind, flags, _stream = _FRAME_HEAD.unpack(_exactly(sock, 9, deadline))
        payload = _exactly(sock, high << 8 | low, deadline)
        if kind == _SETTINGS and not flags & 1:
            settings = dict(_SETTING.iter_unpack(payload[: len(payload) // 6 * 6]))
            return settings.get(_MAX_CONCURRENT_STREAMS)
    return None


def _exactly(sock: socket.socket, count: int, deadline: float) -> bytes:
    received = b""
    while len(received) < count:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        sock.settimeout(left)
        octets = sock.recv(count - len(received))
        if not octets:
            raise ConnectionResetError
        received += octets
    return received


def connections(scheme: str, protocol: str | None, streams: int | None, server: str) -> Finding:
    """What the protocol means for pages with streams.

    :param scheme: of the public URL.
    :param protocol: that TLS has chosen for a browser.
    :param streams: that HTTP/2 allows at once.
    :param server: the ``Server`` header of the public address.
    """
    if protocol != "h2":
        why = "" if scheme == "https" else ", since browsers speak HTTP/2 over TLS only"
        return note(
            "http",
            f"browsers speak HTTP/1.1 with the public address{why}: they have six connections to a host, "
            "each "
            "open stream takes one, in all tabs together, and the seventh waits. Open one stream for a page",
            Section.CONNECTIONS,
            *(() if scheme == "http" else (nginx("http2 on;"), apache("Protocols h2 http/1.1"))),
        )
    allowed = "as many streams as it likes" if streams is None else f"{streams} streams"
    if "apache" in server.lower():
        return note(
            "http",
            f"HTTP/2 with Apache, which announces {allowed} on a connection and runs six at once on a new "
            "one: six "
            "EventSources hang the site's other requests. Open one stream for a page, or give the hub a host "
            "name of its own",
            Section.CONNECTIONS,
        )
    if streams is not None and streams < _FEW:
        return note(
            "http",
            f"HTTP/2, {allowed} on a connection, which all tabs of a browser share. Open one stream for a "
            "page",
            Section.CONNECTIONS,
            nginx("http2_max_concurrent_streams 128;"),
        )
    return ok("http", f"HTTP/2, {allowed} on a connection")
