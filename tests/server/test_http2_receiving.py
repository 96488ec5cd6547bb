"""HTTP/2 without a socket: bytes in, requests and frames out."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import dataclass, field

import hpack
import pytest

from mercure_hub.fanout.multiplexed import Multiplexed, Reader, Stream
from mercure_hub.protocol import http2
from mercure_hub.protocol.http2 import PREFACE, WINDOW, Code
from mercure_hub.server.http2.receiving import MAX_STREAMS, Asked, Event, Fault, Receiver

MAX_BODY = 100_000
GET = [(":method", "GET"), (":scheme", "http"), (":authority", "hub.test"), (":path", "/?a=1")]
POST = [(":method", "POST"), *GET[1:]]


class Notes(Reader):
    """Passes on to the receiver what a session would."""

    receiver: Receiver

    def receive(self) -> None:
        raise AssertionError

    def ended(self, stream: Stream) -> None:
        self.receiver.ended(stream)

    def postpone(self) -> None:
        raise AssertionError

    def lost(self) -> None:
        pass


@dataclass
class Client:
    """A client whose bytes the test sends by hand."""

    connection: Multiplexed
    receiver: Receiver
    sock: socket.socket
    now: float = 0.0
    encoder: hpack.Encoder = field(default_factory=hpack.Encoder)

    def send(self, *frames: bytes) -> list[Event]:
        return [event for frame in frames for event in self.receiver.feed(frame, self.now)]

    def headers(self, number: int, fields: list[tuple[str, str]], flags: int = 0x5) -> bytes:
        return http2.frame(http2.HEADERS, flags, number, self.encoder.encode(fields))

    def asked(self, *frames: bytes) -> Asked:
        (event,) = self.send(*frames)
        assert isinstance(event, Asked)
        return event

    def received(self) -> list[tuple[int, int, int, bytes]]:
        """What the hub has sent: kind, flags, stream and content of each frame."""
        self.connection.flush(self.now)
        self.sock.setblocking(False)
        try:
            data = self.sock.recv(1 << 20)
        except BlockingIOError:
            data = b""
        frames = []
        while data:
            size = int.from_bytes(data[:3], "big")
            frames.append((data[3], data[4], int.from_bytes(data[5:9], "big"), data[9 : 9 + size]))
            data = data[9 + size :]
        return frames


@pytest.fixture
def raw() -> Iterator[Client]:
    """A client that has sent nothing."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    notes = Notes()
    with ours, theirs:
        connection = Multiplexed(ours.fileno(), None, 0.0, notes, lambda _, __: None)
        notes.receiver = Receiver(connection, MAX_BODY, 0.0)
        yield Client(connection, notes.receiver, theirs)


@pytest.fixture
def client(raw: Client) -> Client:
    assert raw.send(PREFACE, http2.settings(())) == []
    raw.received()
    return raw


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_a_request_may_arrive_in_pieces(raw: Client, size: int) -> None:
    content = b"x" * 500
    data = PREFACE + http2.settings(()) + raw.headers(1, POST, http2.END_HEADERS)
    data += http2.frame(http2.DATA, http2.END_STREAM, 1, content)
    events = raw.send(*[data[at : at + size] for at in range(0, len(data), size)])
    (asked,) = events
    assert isinstance(asked, Asked)
    assert (asked.message.method, asked.message.target, asked.message.body) == ("POST", b"/?a=1", content)
    assert asked.message.headers == {"host": "hub.test"}


def test_cookies_are_joined(client: Client) -> None:
    fields = [*GET, ("cookie", "a=1"), ("cookie", "b=2"), ("x", "1"), ("x", "2")]
    asked = client.asked(client.headers(1, fields))
    assert asked.message.headers == {"host": "hub.test", "cookie": "a=1; b=2", "x": "1, 2"}


@pytest.mark.parametrize(
    "fields",
    [
        GET[1:],
        GET[:-1],
        [*GET, (":path", "/")],
        [*GET, ("Upper", "1")],
        [*GET, ("connection", "close")],
        [*GET, ("te", "gzip")],
        [*GET, ("host", "other.test")],
        [*GET, ("x", "a\r\nb")],
        [*GET, ("content-length", "-1")],
        [*GET, ("content-length", "5")],
        [("x", "1"), *GET],
        [*GET[:-1], (":path", "x")],
        [*GET[:-1], (":path", "/a b")],
    ],
)
def test_a_malformed_request_costs_its_stream_only(client: Client, fields: list[tuple[str, str]]) -> None:
    assert client.send(client.headers(1, fields)) == []
    assert client.received() == [(http2.RST_STREAM, 0, 1, Code.PROTOCOL_ERROR.to_bytes(4, "big"))]
    assert client.asked(client.headers(3, GET)).error is None


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ([*GET, *[("x", str(number)) for number in range(200)]], 431),
        ([one for one in GET if one[0] != ":authority"], 400),
        ([*GET, ("origin", "https://a.test"), ("origin", "https://b.test")], 400),
        ([*POST, ("content-length", str(MAX_BODY + 1))], 413),
    ],
)
def test_some_requests_are_refused_with_a_reason(
    client: Client, fields: list[tuple[str, str]], status: int
) -> None:
    asked = client.asked(client.headers(1, fields, http2.END_HEADERS))
    assert asked.error is not None
    assert asked.error.status == status


def test_content_over_the_limit_is_refused_and_what_follows_is_ignored(client: Client) -> None:
    piece = http2.frame(http2.DATA, 0, 1, bytes(16_000))
    events = client.send(client.headers(1, POST, http2.END_HEADERS), *[piece] * 9)
    assert [type(event) for event in events] == [Asked]
    assert client.receiver.buffered == 0
    updates = [frame for frame in client.received() if frame[0] == http2.WINDOW_UPDATE and frame[2] == 0]
    assert sum(int.from_bytes(content, "big") for *_, content in updates) >= 8 * 16_000


def test_content_must_be_as_long_as_announced(client: Client) -> None:
    head = client.headers(1, [*POST, ("content-length", "5")], http2.END_HEADERS)
    assert client.send(head, http2.frame(http2.DATA, http2.END_STREAM, 1, b"four")) == []
    assert client.received() == [(http2.RST_STREAM, 0, 1, Code.PROTOCOL_ERROR.to_bytes(4, "big"))]


def test_more_streams_than_allowed_are_refused(client: Client) -> None:
    for number in range(MAX_STREAMS):
        client.asked(client.headers(1 + 2 * number, GET))
    assert client.send(client.headers(1 + 2 * MAX_STREAMS, GET)) == []
    assert client.received()[-1][3] == Code.REFUSED_STREAM.to_bytes(4, "big")


@pytest.mark.parametrize(
    ("block", "code"),
    [
        (b"\x20\x3f\xe1\x1f", Code.PROTOCOL_ERROR),  # two changes, and then nothing
        (b"\x20" * 3, Code.COMPRESSION_ERROR),
        (b"\x20" * 16_000, Code.COMPRESSION_ERROR),
        (b"\x7f" + b"\xff" * 16_000, Code.COMPRESSION_ERROR),
        (b"\x20\x82\x20", Code.COMPRESSION_ERROR),
        (b"\xff\x80\x01", Code.COMPRESSION_ERROR),
        (b"\x40\x01a\x7f\xa1\x1e" + b"b" * 4000 + b"\xbe" * 30, Code.ENHANCE_YOUR_CALM),
    ],
    ids=["two", "three", "many", "long", "late", "no entry", "bomb"],
)
def test_field_sections_that_cost_much_or_cannot_be_decoded(client: Client, block: bytes, code: Code) -> None:
    frame = http2.frame(http2.HEADERS, 0x5, 1, block)
    if code is Code.PROTOCOL_ERROR:
        assert client.send(frame) == []
        assert client.received()[-1][3] == code.to_bytes(4, "big")
        return
    with pytest.raises(Fault) as caught:
        client.send(frame)
    assert caught.value.code is code


@pytest.mark.parametrize(
    "frame",
    [
        http2.frame(http2.PING, 0, 0, bytes(8)),
        http2.settings(()),
        http2.frame(http2.PRIORITY, 0, 1, b"\0\0\0\x03\x10"),
        http2.window_update(0, 1),
        http2.frame(0x99, 0, 0),
    ],
)
def test_floods_end_the_connection(client: Client, frame: bytes) -> None:
    with pytest.raises(Fault) as caught:
        client.send(*[frame] * 5000)
    assert caught.value.code is Code.ENHANCE_YOUR_CALM


def test_windows_may_be_opened_after_each_piece_of_data(client: Client) -> None:
    stream = client.asked(client.headers(1, GET)).stream
    for _ in range(5000):
        assert client.connection.offer(stream, memoryview(bytes(200))) == 200
        assert client.send(http2.window_update(0, 200), http2.window_update(1, 200)) == []
        client.received()
    assert (client.connection.window, stream.window) == (WINDOW, WINDOW)


def test_requests_that_are_given_up_have_a_budget(client: Client) -> None:
    with pytest.raises(Fault) as caught:
        for number in range(1, 4000, 2):
            client.send(client.headers(number, GET), http2.rst_stream(number, Code.CANCEL))
    assert caught.value.code is Code.ENHANCE_YOUR_CALM
    assert len(client.connection.streams) == 1  # the one whose end was too much


def test_a_request_that_does_not_arrive_is_overdue(client: Client) -> None:
    client.now = 10.0
    assert client.send(client.headers(1, POST, http2.END_HEADERS)) == []
    assert client.receiver.overdue(39.0, 30.0) == []
    (asked,) = client.receiver.overdue(40.0, 30.0)
    assert asked.error is not None
    assert asked.error.status == 408
    assert client.receiver.overdue(41.0, 30.0) == []


def test_a_change_of_the_initial_window_changes_all_windows(client: Client) -> None:
    stream = client.asked(client.headers(1, GET)).stream
    client.connection.offer(stream, memoryview(bytes(1000)))
    client.send(http2.settings([(http2.INITIAL_WINDOW_SIZE, 500)]))
    assert stream.window == -500
    assert client.connection.offer(stream, memoryview(b"more")) == 0
    with pytest.raises(Fault) as caught:
        client.send(
            http2.window_update(1, 2000), http2.settings([(http2.INITIAL_WINDOW_SIZE, http2.MAX_WINDOW)])
        )
    assert caught.value.code is Code.FLOW_CONTROL_ERROR
