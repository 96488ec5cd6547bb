"""What the doctor does on sockets: requests with a deadline, and event streams that stay open.

Each step is told apart - the name, the connection, TLS, the answer - since each has another remedy.
"""

from __future__ import annotations

import selectors
import socket
import ssl
import threading
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any
from urllib.parse import urlsplit

from flask_mercure.client.connection import Exchange, Head, NotHTTP, describe, receive_head, tls_context
from flask_mercure.client.session import USER_AGENT
from mercure_hub.protocol.event_stream import Parser

_PORTS = {"http": 80, "https": 443}
_MAX_BODY = 65536
_PIECE = 65536
_NO_TLS = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST")  # names of OpenSSL's errors
_ACCEPTED = {"Accept": "text/event-stream", "Accept-Encoding": "gzip", "Cache-Control": "no-cache"}


class Stage(Enum):
    """The step at which a request failed."""

    NAME = auto()
    CONNECT = auto()
    TLS = auto()
    ANSWER = auto()
    NOT_HTTP = auto()


class Unreachable(Exception):
    """There is no answer.

    :param stage: the step that failed.
    :param reason: why, in the words of the system.
    :param code: of a certificate that was refused (OpenSSL's ``X509_V_ERR_``), else 0.
    """

    def __init__(self, stage: Stage, reason: str, code: int = 0) -> None:
        super().__init__(reason)
        self.stage = stage
        self.reason = reason
        self.code = code


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A URL of the hub.

    :param url: checked by the configuration.
    :param setting: the configuration key that it comes from.
    """

    url: str
    setting: str

    @property
    def scheme(self) -> str:
        """``http`` or ``https``."""
        return urlsplit(self.url).scheme

    @property
    def host(self) -> str:
        """Name or address, without brackets."""
        return urlsplit(self.url).hostname or ""

    @property
    def port(self) -> int:
        """The port, also when the URL leaves it out."""
        return urlsplit(self.url).port or _PORTS[self.scheme]

    @property
    def path(self) -> str:
        """The path."""
        return urlsplit(self.url).path

    @property
    def origin(self) -> str:
        """Scheme and authority."""
        return origin_of(self.url)

    @property
    def named(self) -> str:
        """Setting and URL, for messages."""
        return f"{self.setting} {self.url}"


def origin_of(url: str) -> str:
    """The origin of a URL as browsers write it: host in lower case, no default port."""
    parts = urlsplit(url)
    host = (parts.hostname or "").lower()
    host = f"[{host}]" if ":" in host else host
    port = "" if parts.port in (None, _PORTS.get(parts.scheme)) else f":{parts.port}"
    return f"{parts.scheme}://{host}{port}"


def dial(
    endpoint: Endpoint, trust: ssl.SSLContext | None, deadline: float, protocols: Sequence[str] = ()
) -> socket.socket:
    """Connect, with TLS when the URL is https.

    :param trust: for https.
    :param deadline: on the monotonic clock.
    :param protocols: to offer by ALPN (RFC 7301).
    :raises Unreachable: there is no connection.
    """
    sock = _first_that_answers(endpoint, deadline)
    if endpoint.scheme == "http" or trust is None:
        return sock
    trust.set_alpn_protocols(list(protocols or ("http/1.1",)))
    try:
        sock.settimeout(time_left(deadline))
        return trust.wrap_socket(sock, server_hostname=endpoint.host)
    except ssl.SSLCertVerificationError as error:
        sock.close()
        raise Unreachable(Stage.TLS, error.verify_message, error.verify_code) from None
    except OSError as error:
        sock.close()
        speaks_plainly = isinstance(error, ssl.SSLError) and error.reason in _NO_TLS
        why = "the server speaks no TLS on this port" if speaks_plainly else describe(error)
        raise Unreachable(Stage.TLS, why) from None


def certificate(endpoint: Endpoint, deadline: float) -> bytes | None:
    """The certificate that the server presents, in DER, verified or not; only the handshake is sent.

    :returns: ``None`` when there is none.
    """
    try:
        with dial(endpoint, tls_context(verify=False), deadline) as sock:
            return sock.getpeercert(binary_form=True) if isinstance(sock, ssl.SSLSocket) else None
    except (Unreachable, OSError):
        return None


def _first_that_answers(endpoint: Endpoint, deadline: float) -> socket.socket:
    failure = "no address"
    for family, address in _addresses(endpoint, deadline):
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.settimeout(time_left(deadline))
            sock.connect(address)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError as error:
            sock.close()
            failure = describe(error)
        else:
            return sock
    raise Unreachable(Stage.CONNECT, failure)


def _addresses(endpoint: Endpoint, deadline: float) -> list[tuple[int, Any]]:
    """Ask the resolver, in a thread that is left behind at the deadline: the resolver has no time limit."""
    addresses: list[tuple[int, Any]] = []
    failure: list[str] = []

    def resolve() -> None:
        try:
            answers = socket.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM)
            addresses.extend((family, address) for family, _, _, _, address in answers)
        except (OSError, UnicodeError) as error:
            failure.append(describe(error))

    thread = threading.Thread(target=resolve, name="resolver", daemon=True)
    thread.start()
    thread.join(time_left(deadline))
    if addresses:
        return addresses
    raise Unreachable(Stage.NAME, failure[0] if failure else "the resolver gave no answer in time")


def time_left(deadline: float) -> float:
    """Seconds until a deadline, for a socket: never 0, which would not wait at all."""
    return max(deadline - time.monotonic(), 0.001)


@dataclass(frozen=True, slots=True)
class DatedAnswer(Head):
    """A complete answer, and when it came.

    :param body: the content, or the beginning of it.
    :param at: the middle between request and answer, in seconds since the epoch.
    """

    body: bytes
    at: float


@dataclass(frozen=True, slots=True)
class HubClient:
    """Sends requests to a URL, each on a connection of its own.

    :param endpoint: the URL.
    :param trust: for https.
    :param seconds: for each answer.
    """

    endpoint: Endpoint
    trust: ssl.SSLContext | None
    seconds: float

    def ask(
        self,
        method: str,
        headers: Mapping[str, str] | None = None,
        *,
        path: str | None = None,
        body: bytes = b"",
        clock: Callable[[], float] = time.time,
    ) -> DatedAnswer:
        """Send a request and read the answer; of an event stream only the head.

        :param path: instead of that of the URL.
        :param clock: returns the seconds since the epoch.
        :raises Unreachable: there is no answer.
        """
        deadline = time.monotonic() + self.seconds
        target = self.endpoint.path if path is None else path
        exchange = self._exchange(method, target, {"Connection": "close", **(headers or {})}, body)
        with dial(self.endpoint, self.trust, deadline) as sock:
            started = clock()
            head, received = answer(sock, exchange, deadline)
            at = (started + clock()) / 2
            if head.media_type != "text/event-stream":
                received = _read_content(sock, exchange, received, deadline)
            content = Decoder(head).feed(received)[:_MAX_BODY]
            return DatedAnswer(head.status, head.headers, content, at)

    def subscribe(self, query: str, headers: Mapping[str, str]) -> Stream | Head:
        """Open a subscription.

        :param query: with its matchers, encoded.
        :param headers: with the token.
        :returns: the stream, or the head of an answer that is not a stream.
        :raises Unreachable: there is no answer.
        """
        deadline = time.monotonic() + self.seconds
        exchange = self._exchange("GET", f"{self.endpoint.path}?{query}", {**_ACCEPTED, **headers})
        sock = dial(self.endpoint, self.trust, deadline)
        sent_at = time.monotonic()
        try:
            head, content = answer(sock, exchange, deadline)
            if head.status == 200 and head.media_type == "text/event-stream":
                return Stream(self.endpoint.setting, sock, exchange, content, sent_at)
        except BaseException:
            sock.close()
            raise
        sock.close()
        return head

    def _exchange(self, method: str, target: str, headers: Mapping[str, str], body: bytes = b"") -> Exchange:
        fields = {"User-Agent": USER_AGENT, "Accept": "*/*", **headers}
        return Exchange(method, self.endpoint.origin + target, fields, body)


def answer(sock: socket.socket, exchange: Exchange, deadline: float) -> tuple[Head, bytes]:
    """Send a request and wait for the head of the answer.

    :returns: the head and what has come after it.
    :raises Unreachable: it does not come, or is not HTTP/1.1.
    """
    try:
        sock.settimeout(time_left(deadline))
        sock.sendall(exchange.request)
        return receive_head(sock, exchange, deadline)
    except NotHTTP as error:
        raise Unreachable(Stage.NOT_HTTP, str(error)) from None
    except TimeoutError:
        raise Unreachable(Stage.ANSWER, "no complete answer in time") from None
    except OSError as error:
        raise Unreachable(Stage.ANSWER, describe(error)) from None


def _read_content(sock: socket.socket, exchange: Exchange, body: bytes, deadline: float) -> bytes:
    """The content of an answer, or what there is of it until the deadline."""
    while len(body) < _MAX_BODY and not exchange.is_over:
        left = deadline - time.monotonic()
        if left <= 0:
            break
        sock.settimeout(left)
        try:
            body += exchange.feed(sock.recv(_PIECE))
        except OSError:
            break
    return body


class Decoder:
    """Decodes gzip, piece by piece; content without it passes through.

    :param head: of the answer.

    ``is_broken`` tells that something came that cannot be decoded.
    """

    def __init__(self, head: Head) -> None:
        is_gzip = head.headers.get("Content-Encoding", "").lower() in ("gzip", "x-gzip")
        self._gzip = zlib.decompressobj(31) if is_gzip else None
        self.is_broken = False

    def feed(self, received: bytes) -> bytes:
        """Decode what arrived.

        :returns: what can be read of it; nothing after something that cannot be decoded.
        """
        if self._gzip is None:
            return received
        plain = b""
        while received and not self.is_broken:
            try:
                plain += self._gzip.decompress(received, _MAX_BODY)
            except zlib.error:
                self.is_broken = True
                break
            received = self._gzip.unconsumed_tail
            if self._gzip.eof:  # another member follows
                received = self._gzip.unused_data
                self._gzip = zlib.decompressobj(31)
        return plain


class Stream:
    """An open subscription; times are on the monotonic clock.

    :param name: for messages.
    :param sock: connected.
    :param exchange: its request was sent, and the head of the answer has arrived.
    :param content: what came with the head.
    :param sent_at: when the request went out.
    """

    def __init__(
        self, name: str, sock: socket.socket, exchange: Exchange, content: bytes, sent_at: float
    ) -> None:
        assert exchange.head is not None
        self.name = name
        self.head = exchange.head
        self.opened_at = time.monotonic()
        self.head_after = self.opened_at - sent_at
        self.last_at = self.opened_at
        self.ended_at: float | None = None
        self.events: dict[str, float] = {}
        self.comments: list[float] = []
        self.has_begun = False
        self._sock = sock
        self._exchange = exchange
        self._decoder = Decoder(self.head)
        self._parser = Parser()
        sock.setblocking(False)
        self._take(content)

    def fileno(self) -> int:
        """The descriptor, for selectors."""
        return self._sock.fileno()

    @property
    def is_open(self) -> bool:
        """Whether it has not ended."""
        return self.ended_at is None

    def read(self) -> None:
        """Read what has arrived, without waiting."""
        while self.is_open:
            try:
                received = self._sock.recv(_PIECE)
            except (BlockingIOError, ssl.SSLWantReadError):
                return
            except OSError:
                received = b""
            if received:
                self.last_at = time.monotonic()
            self._take(self._exchange.feed(received))
            if self._exchange.is_over or self._decoder.is_broken:
                self.ended_at = time.monotonic()

    def close(self) -> None:
        """Close the connection."""
        self._sock.close()

    def _take(self, content: bytes) -> None:
        plain = self._decoder.feed(content)
        if not plain:
            return
        self.has_begun = True
        now = time.monotonic()
        events = list(self._parser.feed(plain))
        for event in events:
            self.events.setdefault(event.data, now)
        if not events and plain.lstrip().startswith(b":"):
            self.comments.append(now)


def listen(streams: Sequence[Stream], seconds: float, is_enough: Callable[[], bool]) -> None:
    """Read from streams until there is enough, all have ended, or the time is over."""
    deadline = time.monotonic() + seconds
    with selectors.DefaultSelector() as selector:
        for stream in dict.fromkeys(streams):
            stream.read()
            if stream.is_open:
                selector.register(stream, selectors.EVENT_READ, stream)
        while not is_enough() and selector.get_map():
            left = deadline - time.monotonic()
            if left <= 0:
                return
            for key, _ in selector.select(left):
                stream = key.data
                stream.read()
                if not stream.is_open:
                    selector.unregister(stream)
