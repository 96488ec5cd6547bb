"""HTTP/1.1: from bytes to requests, from answers to bytes, and the addresses that a request names.

The parser is llhttp (through httptools), with all its leniencies off: what two parsers could understand in
two ways is refused, so that no request can be smuggled past a proxy.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address

import httptools

from mercure_hub.protocol.errors import ContentTooLarge, HeaderTooLarge, InvalidRequest, Misdirected
from mercure_hub.protocol.hosts import AUTHORITY
from mercure_hub.protocol.http import Answer, Headers
from mercure_hub.protocol.hub_url import Identity, derived

MAX_HEAD = 64 << 10
MAX_FIELDS = 200
_HEADS = 8 << 10  # bytes of heads to read at once; they may hold three hundred requests
_CONTENT = 64 << 10  # bytes of content that are read at once
_MAX_SILENCE = 64 << 10  # bytes that the parser consumes without a call
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")  # bytes above may be part of UTF-8
ONCE = frozenset({"host", "content-type", "content-length", "origin"})

# The usual spellings of the usual fields, which need no conversion.
_NAMES = {
    spelling.encode(): name.lower()
    for name in (
        *("Accept", "Accept-Encoding", "Accept-Language", "Authorization", "Cache-Control", "Connection"),
        *("Content-Length", "Content-Type", "Cookie", "Host", "Last-Event-ID", "Origin", "Pragma", "Referer"),
        *("Sec-Fetch-Dest", "Sec-Fetch-Mode", "Sec-Fetch-Site", "User-Agent", "X-Forwarded-For"),
        *("X-Forwarded-Host", "X-Forwarded-Proto"),
    )
    for spelling in (name, name.lower())
}


@dataclass(slots=True)
class Message:
    """A request as it was on the wire.

    :param method: in upper case.
    :param target: raw request target.
    :param headers: by lower-case name; bytes decoded as ISO 8859-1.
    :param body: the content, without its framing.
    :param keep_alive: the client may send another request on the connection.
    :param takes_chunks: the client speaks HTTP/1.1.
    :param is_followed: it asks for another protocol, and the client sent more without waiting for the answer.
    """

    method: str = ""
    target: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    keep_alive: bool = True
    takes_chunks: bool = True
    is_followed: bool = field(default=False, compare=False)


_NOTHING = Message()  # before the first request begins


class RequestReader:
    """Parses the requests of a connection.

    :param max_body: bytes of content that are accepted.

    ``ready`` holds the complete requests. ``expects_continue`` is true while a client waits for
    ``100 Continue``. ``started`` is true while a request has begun and is not complete.
    """

    def __init__(self, max_body: int) -> None:
        self.ready: deque[Message] = deque()
        self.expects_continue = False
        self.started = False
        self._max_body = max_body
        self._parser = httptools.HttpRequestParser(self)
        self._error: InvalidRequest | None = None
        self._message = _NOTHING
        self._in_head = False
        self._without_upgrade: Message | None = None
        self._head = 0
        self._fields = 0
        self._body = bytearray()  # one object, because a client may send thousands of pieces
        self._silent = 0

    @property
    def appetite(self) -> int:
        """How many bytes to feed at most: few while requests begin, more while content arrives."""
        return _CONTENT if self.started and not self._in_head else _HEADS

    def check(self) -> None:
        """Tell what was wrong behind the requests that have been taken.

        :raises InvalidRequest: as ``feed`` does.
        """
        if self._error is not None and not self.ready:
            raise self._error

    def feed(self, received: bytes) -> None:
        """Parse what was received.

        :raises InvalidRequest: it is not HTTP, or over a limit; the connection has to be closed. Complete
            requests come first: while some are in ``ready``, the error is kept for the next call.
        """
        self._silent += len(received)
        if self._error is None:
            try:
                self._parser.feed_data(received)
            except httptools.HttpParserUpgrade as pause:
                self._ignore_upgrade(received[pause.args[0] :])
            except httptools.HttpParserError as error:
                self._fail(InvalidRequest(f"This is not HTTP/1.1: {error}."))
        if self._silent > _MAX_SILENCE:
            self._fail(HeaderTooLarge(f"A header field is over {_MAX_SILENCE} bytes."))
        self.check()

    def _ignore_upgrade(self, rest: bytes) -> None:
        """Parse a request as if it did not ask for another protocol (RFC 9110 section 7.8).

        The parser leaves the content of such a request to the other protocol. But clients that hope for
        HTTP/2 (curl, Java) send it right away, framed as the header fields say: a second parser reads it.
        """
        if self._error is not None:
            return
        message = self.ready[-1]
        message.keep_alive = False  # nothing is read after the content
        framing = ["Connection: close\r\n"]
        framing += [
            f"{name}: {message.headers[name]}\r\n"
            for name in ("content-length", "transfer-encoding")
            if message.headers.get(name, "0") != "0"
        ]
        if len(framing) == 1 or message.method == "CONNECT":
            message.is_followed = bool(rest)
            return
        self._without_upgrade = self.ready.pop()
        self._parser = httptools.HttpRequestParser(self)
        self._parser.feed_data(f"{message.method} / HTTP/1.1\r\n{''.join(framing)}\r\n".encode("latin-1"))
        self.feed(rest)

    def close(self) -> None:
        """Free what was received, and the parser: it and this reader refer to each other."""
        self.__dict__.pop("_parser", None)
        self._body = bytearray()
        self.ready.clear()

    # Called by the parser. It would wrap an exception, so errors are kept for feed().

    def on_message_begin(self) -> None:
        """A request begins."""
        self._message = self._without_upgrade or Message()
        self._in_head = self._without_upgrade is None
        self._head = self._fields = self._silent = 0
        self.started = True

    def on_url(self, url: bytes) -> None:
        """A piece of the request target."""
        if self._in_head:
            self._message.target += url
        self._silent = 0
        self._head += len(url)
        if self._head > MAX_HEAD:
            self._fail(_head_too_large())

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header field; trailer fields are counted and ignored (RFC 9110 section 6.5.1)."""
        self._silent = 0
        head = self._head = self._head + len(name) + len(value)
        number = self._fields = self._fields + 1
        if head > MAX_HEAD:
            self._fail(_head_too_large())
        if number > MAX_FIELDS:
            self._fail(HeaderTooLarge(f"More than {MAX_FIELDS} header fields."))
        if not self._in_head:
            return
        key = _NAMES.get(name) or name.decode("latin-1").lower()
        text = value.decode("latin-1").rstrip(" \t")
        headers = self._message.headers
        if key not in headers:
            headers[key] = text
        elif key in ONCE:
            self._fail(InvalidRequest(f"The header field {key} is there twice.", key))
        else:
            headers[key] += ("; " if key == "cookie" else ", ") + text

    def on_headers_complete(self) -> None:
        """The head is complete."""
        self._in_head = False
        headers = self._message.headers
        version = self._parser.get_http_version()
        self._message.takes_chunks = version == "1.1"
        if version not in ("1.0", "1.1"):
            self._fail(InvalidRequest(f"HTTP/{version} is not spoken here; use HTTP/1.1."))
        if "host" not in headers and version != "1.0":
            self._fail(InvalidRequest("The Host header is missing.", "Host"))
        coding = headers.get("transfer-encoding")
        if coding is not None and (coding.lower() != "chunked" or version == "1.0"):
            self._fail(
                InvalidRequest("The only transfer coding is chunked, in HTTP/1.1.", "Transfer-Encoding")
            )
        length = headers.get("content-length")
        if length is not None and length.isdigit() and int(length[:20]) > self._max_body:
            self._fail(_too_large(self._max_body))
        expected = headers.get("expect")
        self.expects_continue = expected is not None and expected.lower() == "100-continue"

    def on_body(self, piece: bytes) -> None:
        """A piece of the content."""
        self._silent = 0
        if len(self._body) + len(piece) > self._max_body:
            self._fail(_too_large(self._max_body))
        else:
            self._body += piece

    def on_message_complete(self) -> None:
        """The request is complete."""
        message = self._message
        message.method = self._parser.get_method().decode("latin-1")
        message.keep_alive = self._parser.should_keep_alive()
        if self._body:
            message.body = bytes(self._body)
            self._body = bytearray()
        self._silent = 0
        self.started = self.expects_continue = False
        if self._error is None:
            self.ready.append(message)

    def _fail(self, error: InvalidRequest) -> None:
        if self._error is None:
            self._error = error


def _head_too_large() -> HeaderTooLarge:
    return HeaderTooLarge(f"The head of the request is over {MAX_HEAD} bytes.")


def _too_large(limit: int) -> ContentTooLarge:
    return ContentTooLarge(f"The body is over {limit} bytes (MERCURE_MAX_REQUEST_BODY_SIZE).")


@lru_cache(maxsize=64)
def _status_line(status: int) -> str:
    return f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n"


@lru_cache(maxsize=2)
def _date(second: int) -> str:
    return f"Date: {formatdate(second, usegmt=True)}\r\n"


def encode_answer(answer: Answer, extra: Headers, now: float, *, keep_alive: bool, head_only: bool) -> bytes:
    """An answer in one piece, to be sent at once.

    :param extra: header fields besides the answer's own.
    :param now: seconds since the epoch.
    :param head_only: leave out the body, for HEAD.
    """
    has_body = answer.status not in (204, 304)
    parts = [
        _status_line(answer.status),
        _date(int(now)),
        _lines(tuple(answer.headers)),
        _lines(tuple(extra)),
    ]
    if has_body:
        parts.append(f"Content-Length: {len(answer.body)}\r\n")
    if not keep_alive:
        parts.append("Connection: close\r\n")
    parts.append("\r\n")
    head = "".join(parts).encode("latin-1", "replace")
    return head if head_only or not has_body else head + answer.body


def encode_stream_head(
    headers: Headers, extra: Headers, now: float, *, is_framed: bool, keep_alive: bool = False
) -> bytes:
    """The head of a stream, which ends when the connection does.

    :param is_framed: the body is sent in chunks.
    :param keep_alive: only the head is sent, for HEAD, and another request may follow.
    """
    return _stream_head((*headers, *extra), int(now), is_framed, keep_alive)


@lru_cache(maxsize=16)  # most streams that begin within a second have the same head
def _stream_head(
    headers: tuple[tuple[str, str], ...], second: int, is_framed: bool, keep_alive: bool
) -> bytes:
    lines = [_status_line(200), _date(second), _lines(headers)]
    if is_framed:
        lines.append("Transfer-Encoding: chunked\r\n")
    if not keep_alive:
        lines.append("Connection: close\r\n")
    return "".join([*lines, "\r\n"]).encode("latin-1", "replace")


def encode_switch(headers: Headers, now: float) -> bytes:
    """The answer that turns a connection into a WebSocket."""
    lines = [_status_line(101), _date(int(now)), "Upgrade: websocket\r\nConnection: Upgrade\r\n"]
    lines += [f"{name}: {one_line(value)}\r\n" for name, value in headers]
    return "".join([*lines, "\r\n"]).encode("latin-1", "replace")


@lru_cache(maxsize=256)  # most answers have the same fields as the one before
def _lines(headers: tuple[tuple[str, str], ...]) -> str:
    return "".join([f"{name}: {one_line(value)}\r\n" for name, value in headers])


def one_line(value: str) -> str:
    """Values contain ids and URLs that others chose: they must not add a line to the head."""
    return value if value.isprintable() else _CONTROL.sub("", value)


Network = IPv4Network | IPv6Network

_MAX_ADDRESS = 64  # anything longer is not an address, and must not fill the cache of _is_in
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}


@dataclass(frozen=True)
class Addressing:
    """Derives who sent a request and which URL it used, through trusted proxies.

    :param scheme: ``https`` when the hub itself terminates TLS.
    :param public: the configured public URL, or ``None`` to derive it from each request.
    :param allowed: public URLs that are served; empty: all.
    :param trusted_proxies: networks whose ``X-Forwarded-*`` fields count.
    """

    scheme: str = "http"
    public: Identity | None = None
    allowed: Collection[str] = ()
    trusted_proxies: Sequence[Network] = ()

    def client(self, peer: str, headers: Mapping[str, str]) -> str:
        """The client's address: the last one in ``X-Forwarded-For`` that is not a trusted proxy.

        :param peer: address at the other end of the connection.
        """
        if not self._trusts(peer):
            return peer
        hops = [hop.strip() for hop in headers.get("x-forwarded-for", "").split(",") if hop.strip()]
        for hop in reversed(hops):
            if not self._trusts(hop):
                return hop[:_MAX_ADDRESS]
        return hops[0][:_MAX_ADDRESS] if hops else peer

    def identity(self, peer: str, headers: Mapping[str, str], *, any_url: bool = False) -> Identity:
        """The hub's public URL for a request.

        :param any_url: serve it whatever its URL: a health check uses an internal one.
        :raises InvalidRequest: the host is not valid.
        :raises Misdirected: the URL is not served (MERCURE_ALLOWED_URLS).
        """
        used = self._derive(peer, headers)
        if self.allowed and not any_url and used.url not in self.allowed:
            raise Misdirected(f"{used.url} is not served here (MERCURE_ALLOWED_URLS).")
        return self.public or used

    def _derive(self, peer: str, headers: Mapping[str, str]) -> Identity:
        scheme, host = self.scheme, headers.get("host", "localhost")
        if ("x-forwarded-proto" in headers or "x-forwarded-host" in headers) and self._trusts(peer):
            # The trusted proxy wrote the last value; those before it may be the client's.
            forwarded = headers.get("x-forwarded-proto", scheme).rpartition(",")[2].strip().lower()
            scheme = forwarded if forwarded in _DEFAULT_PORTS else scheme
            host = headers.get("x-forwarded-host", host).rpartition(",")[2].strip()
        return _derived(scheme, host)

    def _trusts(self, address: str) -> bool:
        if not self.trusted_proxies or len(address) > _MAX_ADDRESS:
            return False
        return _is_in(address, tuple(self.trusted_proxies))


@lru_cache(maxsize=1024)
def _derived(scheme: str, host: str) -> Identity:
    if not AUTHORITY.fullmatch(host):
        raise InvalidRequest("The Host header is not a host and port.", "Host")
    return derived(scheme, host.removesuffix(_DEFAULT_PORTS[scheme]))


@lru_cache(maxsize=4096)
def _is_in(address: str, networks: tuple[Network, ...]) -> bool:
    try:
        parsed = ip_address(address)
    except ValueError:
        return False
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is not None:
        parsed = parsed.ipv4_mapped  # an IPv4 client of a hub that listens on [::]
    return any(parsed in network for network in networks)
