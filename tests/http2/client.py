"""A client of HTTP/2 that sends the frames it is told to, and keeps what arrives."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlencode

import hpack

from mercure_hub.protocol.event_stream import Event, Parser
from tests.http2.frames import (
    ACKNOWLEDGEMENT,
    DEFAULT_FRAME_SIZE,
    DEFAULT_WINDOW,
    GREATEST_WINDOW,
    PREFACE,
    Code,
    Flag,
    Frame,
    Kind,
    Setting,
    block,
    data,
    headers,
    ping,
    reset,
    settings,
    split,
    window,
)
from tests.hub.running import HUB_PATH, TIMEOUT, Form, Frames, Reply, RunningHub, _pairs

Fields = Sequence[tuple[str, str]]


def open_socket(hub: RunningHub, protocols: Sequence[str] = ("h2",)) -> socket.socket:
    """A connection without a byte sent; over TLS it names the protocols (RFC 9113 section 3.2)."""
    sock = socket.create_connection(("127.0.0.1", hub.port), timeout=TIMEOUT)
    if hub.scheme != "https":
        return sock
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(protocols)
    return context.wrap_socket(sock, server_hostname="localhost")


@dataclass
class Answer:
    """What arrived on one stream.

    :ivar content: of the DATA frames, without padding.
    :ivar has_ended: END_STREAM has arrived.
    :ivar reset: the code of RST_STREAM.
    """

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    content: bytearray = field(default_factory=bytearray)
    has_ended: bool = False
    reset: int | None = None

    @property
    def is_over(self) -> bool:
        return self.has_ended or self.reset is not None


class Credit:
    """The windows that a client grants, and whether the server keeps to them (RFC 9113 section 5.2).

    :param initial: for each stream.
    """

    def __init__(self, initial: int = DEFAULT_WINDOW) -> None:
        self._initial = initial
        self._left: dict[int, int] = {0: DEFAULT_WINDOW}
        self._announced: list[int | None] = []

    def announce(self, initial: int | None) -> None:
        """SETTINGS were sent, with a new initial window or without one."""
        self._announced.append(initial)

    def acknowledged(self) -> None:
        """The next SETTINGS count (RFC 9113 section 6.9.2)."""
        initial = self._announced.pop(0)
        if initial is None:
            return
        for stream in self._left:
            if stream:
                self._left[stream] += initial - self._initial
        self._initial = initial

    def grant(self, stream: int, increment: int) -> None:
        self._left[stream] = self._left.get(stream, self._initial) + increment

    def spend(self, stream: int, size: int) -> None:
        """DATA arrived.

        :raises AssertionError: they are more than was granted.
        """
        for one in (0, stream) if size else ():
            left = self._left.get(one, self._initial) - size
            assert left >= 0, f"{-left} bytes more than the window of {one} allows"
            self._left[one] = left


class Connection:
    """One connection; requests have the streams 1, 3, 5 and so on.

    :param sock: closed with the connection.
    :param first: what is sent before anything else.
    :param checks: notice if the server exceeds a window or the size of frames. Only for a client that grants
        windows by the methods of this class.
    """

    def __init__(
        self, sock: socket.socket, first: bytes = PREFACE + settings(), *, checks: bool = False
    ) -> None:
        self.sock = sock
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.frames: list[Frame] = []
        self.answers: dict[int, Answer] = {}
        self.settings: dict[int, int] = {}
        self.is_closed = False
        self.scheme = "https" if isinstance(sock, ssl.SSLSocket) else "http"
        self.authority = f"127.0.0.1:{sock.getpeername()[1]}"
        self._credit = Credit() if checks else None
        self._decoder = hpack.Decoder()
        self._fragments = b""
        self._received = b""
        self._next = 1
        self._sent = 0
        self._fences = 0
        self._streams: dict[int, EventStream] = {}
        if checks:
            self._credit_for_settings(())
        self.send(first)

    @classmethod
    def to(cls, hub: RunningHub, *, window_size: int = GREATEST_WINDOW) -> Connection:
        """A client that behaves.

        :param window_size: of each stream; the connection's is as large as it can be.
        """
        connection = cls(open_socket(hub), PREFACE + settings(), checks=True)
        connection.configure((Setting.INITIAL_WINDOW_SIZE, window_size))
        connection.grant(0, GREATEST_WINDOW - DEFAULT_WINDOW)
        return connection

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.sock.close()

    # Sending

    def send(self, *pieces: bytes) -> None:
        """Send bytes in one piece; that the server has closed is noticed by reading."""
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            self.sock.sendall(b"".join(pieces))

    def configure(self, *given: tuple[int, int]) -> None:
        """Send SETTINGS."""
        self._credit_for_settings(given)
        self.send(settings(*given))

    def _credit_for_settings(self, given: Sequence[tuple[int, int]]) -> None:
        if self._credit is not None:
            self._credit.announce(dict(given).get(Setting.INITIAL_WINDOW_SIZE))

    def grant(self, stream: int, increment: int) -> None:
        """Send WINDOW_UPDATE."""
        if self._credit is not None:
            self._credit.grant(stream, increment)
        self.send(window(stream, increment))

    def reset(self, stream: int, code: int = Code.CANCEL) -> None:
        """Send RST_STREAM."""
        self.send(reset(stream, code))

    def fields(self, method: str, target: str, more: Fields = ()) -> list[tuple[str, str]]:
        """The fields of a request to this server."""
        return [
            (":method", method),
            (":scheme", self.scheme),
            (":path", target),
            (":authority", self.authority),
            *more,
        ]

    def new_stream(self) -> int:
        """The identifier of the next request."""
        stream = self._next
        self._next += 2
        return stream

    def request(self, method: str, target: str, more: Fields = (), body: bytes | None = None) -> int:
        """Send a request, and return its stream."""
        stream = self.new_stream()
        whole = block(self.fields(method, target, more))
        if body is None:
            self.send(headers(stream, whole))
        else:
            self._sent += len(body)
            pieces = [body[at : at + DEFAULT_FRAME_SIZE] for at in range(0, len(body), DEFAULT_FRAME_SIZE)]
            self.send(
                headers(stream, whole, Flag.END_HEADERS),
                *(data(stream, piece) for piece in pieces),
                data(stream, b"", Flag.END_STREAM),
            )
        return stream

    # Reading

    def read(self) -> bool:
        """Read once; at the end of the connection there is nothing more."""
        try:
            piece = self.sock.recv(1 << 18)
        except (ConnectionError, ssl.SSLError):
            piece = b""
        self.is_closed = not piece
        frames, self._received = split(self._received + piece)
        for frame in frames:
            self.frames.append(frame)
            self._take(frame)
        return not self.is_closed

    def until(self, condition: Callable[[], object]) -> bool:
        """Read until something holds; it does not if the connection ends before.

        :raises TimeoutError: nothing arrives.
        """
        while not condition():
            if not self.read():
                return bool(condition())
        return True

    def fence(self) -> bool:
        """Whether the server has understood everything up to here and goes on."""
        self._fences += 1
        opaque = b"fence%03d" % self._fences
        self.send(ping(opaque))
        return self.until(lambda: any(one.payload == opaque for one in self._acknowledged_pings()))

    def answer(self, stream: int) -> Answer:
        """The whole answer.

        :raises EOFError: the connection ended before it.
        """
        if not self.until(lambda: stream in self.answers and self.answers[stream].is_over):
            raise EOFError(f"the connection ended: {self.frames[-3:]}")
        return self.answers[stream]

    def head(self, stream: int) -> Answer:
        """The answer as soon as its fields have arrived."""
        if not self.until(lambda: stream in self.answers):
            raise EOFError(f"the connection ended: {self.frames[-3:]}")
        return self.answers[stream]

    def of(self, kind: Kind) -> list[Frame]:
        """The frames of one type that have arrived."""
        return [one for one in self.frames if one.kind == kind]

    def end(self) -> Frame | None:
        """Wait for the end of the connection; gives the last GOAWAY."""
        while self.read():
            pass
        return next(iter(self.of(Kind.GOAWAY)[::-1]), None)

    def _acknowledged_pings(self) -> list[Frame]:
        return [one for one in self.of(Kind.PING) if one.flags & Flag.ACK]

    def _take(self, frame: Frame) -> None:
        if self._credit is not None:
            assert len(frame.payload) <= DEFAULT_FRAME_SIZE
        match frame.kind:
            case Kind.SETTINGS if frame.flags & Flag.ACK:
                if self._credit is not None:
                    self._credit.acknowledged()
            case Kind.SETTINGS:
                self.settings.update(struct.iter_unpack(">HL", frame.payload))
                self.send(ACKNOWLEDGEMENT)
            case Kind.HEADERS | Kind.CONTINUATION:
                self._take_fields(frame)
            case Kind.DATA:
                self._take_data(frame)
            case Kind.RST_STREAM:
                self.answers.setdefault(frame.stream, Answer()).reset = frame.code

    def _take_fields(self, frame: Frame) -> None:
        self._fragments += frame.payload
        if frame.flags & Flag.END_HEADERS:
            decoded = {str(one[0]): str(one[1]) for one in self._decoder.decode(self._fragments)}
            self._fragments = b""
            answer = self.answers.setdefault(frame.stream, Answer())
            answer.status = int(decoded.pop(":status"))
            answer.headers.update(decoded)
            assert all(name == name.lower() for name in decoded)
        if frame.kind == Kind.HEADERS and frame.flags & Flag.END_STREAM:
            self.answers.setdefault(frame.stream, Answer()).has_ended = True

    def _take_data(self, frame: Frame) -> None:
        if self._credit is not None:
            self._credit.spend(frame.stream, len(frame.payload))
        answer = self.answers[frame.stream]
        assert not answer.is_over, "DATA after the end of the stream"
        content = frame.payload
        if frame.flags & Flag.PADDED:
            content = content[1 : len(content) - content[0]]
        answer.content += content
        answer.has_ended = bool(frame.flags & Flag.END_STREAM)

    # The hub's resources

    def get(self, target: str, token: str | None = None, **more: str) -> Reply:
        """A GET whose answer is not a stream, with ``_`` for ``-`` in the names of fields."""
        return self._reply(self.request("GET", target, _fields(token, more)))

    def publish(self, form: Form, token: str | None, **more: str) -> Reply:
        """One publication."""
        return self._reply(self.publication(form, token, **more))

    def publication(self, form: Form, token: str | None, **more: str) -> int:
        """Send one publication, and return its stream."""
        fields = [("content-type", "application/x-www-form-urlencoded"), *_fields(token, more)]
        return self.request("POST", HUB_PATH, fields, urlencode(_pairs(form)).encode())

    def upload(self, form: Form, token: str) -> Reply:
        """Publish a body that may be larger than the hub's windows, which are waited for."""
        stream = self.begin_upload(form, token)
        self.send(data(stream, b"", Flag.END_STREAM))
        return self._reply(stream)

    def begin_upload(self, form: Form, token: str) -> int:
        """Send all but the end of a publication, or as much as the hub takes; returns its stream."""
        more = [("content-type", "application/x-www-form-urlencoded"), ("authorization", f"Bearer {token}")]
        stream = self.new_stream()
        self.send(headers(stream, block(self.fields("POST", HUB_PATH, more)), Flag.END_HEADERS))
        self.until(lambda: self.settings)
        left = urlencode(_pairs(form)).encode()
        sent = 0
        while left and not self.is_closed:
            room = self._room(stream, sent)
            if room <= 0:
                self.read()
                continue
            piece = left[: min(room, DEFAULT_FRAME_SIZE)]
            self.send(data(stream, piece))
            left = left[len(piece) :]
            sent += len(piece)
            self._sent += len(piece)
        return stream

    def _room(self, stream: int, sent: int) -> int:
        """How much more the server's windows allow, after some bytes on a stream."""
        granted = {0: DEFAULT_WINDOW, stream: self.settings.get(Setting.INITIAL_WINDOW_SIZE, DEFAULT_WINDOW)}
        for one in self.of(Kind.WINDOW_UPDATE):
            if one.stream in granted:
                granted[one.stream] += int.from_bytes(one.payload)
        return min(granted[0] - self._sent, granted[stream] - sent)

    def subscribe(self, query: Form, token: str | None = None, **more: str) -> EventStream:
        """Subscribe, and wait until the stream is open."""
        stream = self.request("GET", f"{HUB_PATH}?{urlencode(_pairs(query))}", _fields(token, more))
        answer = self.head(stream)
        assert answer.status == 200, self.answer(stream)
        return EventStream(self, stream, answer)

    def _reply(self, stream: int) -> Reply:
        answer = self.answer(stream)
        assert answer.reset is None, answer
        return Reply(answer.status, answer.headers, bytes(answer.content))


class EventStream:
    """A subscriber's stream of a connection."""

    def __init__(self, connection: Connection, number: int, answer: Answer) -> None:
        self.number = number
        self.answer = answer
        self._connection = connection
        self._parser = Parser()
        self._ready: list[Event] = []
        self._zstd = Frames() if answer.headers.get("content-encoding") == "zstd" else None

    def next(self) -> Event:
        """The next event.

        :raises EOFError: the stream ended.
        """
        while not self._ready:
            self._connection.until(lambda: self.answer.content or self.answer.is_over)
            if not self.answer.content:
                raise EOFError(f"the stream ended: {self.answer}")
            piece = bytes(self.answer.content)
            self.answer.content.clear()
            if self._zstd is not None:
                piece = self._zstd.decode(piece)
            self._ready += self._parser.feed(piece)
        return self._ready.pop(0)

    def read_until(self, piece: bytes) -> bytearray:
        """Read on until the stream, as it is, holds some bytes; gives all that it holds."""
        assert self._connection.until(lambda: piece in self.answer.content), self.answer
        return self.answer.content

    def take(self, count: int) -> list[str]:
        """The data of the next events."""
        return [self.next().data for _ in range(count)]

    def ended(self) -> bool:
        """Wait for the end of the stream, and say whether it is a regular one."""
        self._connection.until(lambda: self.answer.is_over)
        return self.answer.has_ended and self.answer.reset is None


def _fields(token: str | None, more: Mapping[str, str]) -> list[tuple[str, str]]:
    fields = [(name.replace("_", "-"), value) for name, value in more.items()]
    return fields if token is None else [*fields, ("authorization", f"Bearer {token}")]
