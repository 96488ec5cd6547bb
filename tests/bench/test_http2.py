"""The load generator over HTTP/2, with a server that says what it is told to, byte by byte."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import pytest

from tests.bench.test_sseload import run

pytestmark = pytest.mark.minutes

DATA, HEADERS, RESET, SETTINGS, PING, WINDOW, CONTINUATION = 0, 1, 3, 4, 6, 8, 9
END_STREAM, ACK, END_HEADERS, PADDED, PRIORITY = 1, 1, 4, 8, 32
OK = b"\x88"
"""The header block of a response: an entry of the static table."""


def frame(kind: int, flags: int, stream: int, content: bytes) -> bytes:
    return struct.pack(">I", len(content))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + content


def event(number: int) -> bytes:
    return b"data: T%016x\n\n" % number


def padded(size: int, content: bytes) -> bytes:
    return frame(DATA, PADDED, 1, bytes([size]) + content + bytes(size))


def answer(block: bytes, *more: bytes) -> bytes:
    """What the first stream gets."""
    return frame(HEADERS, END_HEADERS, 1, block) + b"".join(more)


class Server:
    """Sends its answer when it has read as many requests, in pieces of a size.

    :ivar seen: kind, flags, stream and content of each frame of the client.
    """

    def __init__(self, answer: bytes, requests: int, piece: int) -> None:
        self.seen: list[tuple[int, int, int, bytes]] = []
        self._answer, self._requests, self._piece = answer, requests, piece
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listening.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def join(self) -> None:
        self._thread.join(10)
        assert not self._thread.is_alive()

    def kinds(self) -> list[int]:
        return [kind for kind, *_ in self.seen]

    def _serve(self) -> None:
        with self._listening:
            sock, _ = self._listening.accept()
        with sock, sock.makefile("rb") as stream:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            assert stream.read(24) == b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
            sock.sendall(frame(SETTINGS, 0, 0, b""))
            while len(head := self._read(stream, 9)) == 9:
                length, kind, flags, number = struct.unpack(">IBBI", b"\0" + head)
                self.seen.append((kind, flags, number, self._read(stream, length)))
                if self.kinds().count(HEADERS) == self._requests and kind == HEADERS:
                    self._send(sock)

    def _read(self, stream: IO[bytes], size: int) -> bytes:
        try:
            return stream.read(size)
        except ConnectionError:
            return b""

    def _send(self, sock: socket.socket) -> None:
        with suppress(ConnectionError):  # a client that has seen enough
            for start in range(0, len(self._answer), self._piece):
                sock.sendall(self._answer[start : start + self._piece])


@contextmanager
def serving(answer: bytes, requests: int = 1, piece: int = 1 << 16) -> Iterator[Server]:
    server = Server(answer, requests, piece)
    try:
        yield server
    finally:
        server.join()


def replay(sseload: Path, server: Server, *options: object) -> dict[str, Any]:
    """Subscribers that wait for three events."""
    words = ("-h2", 1, "-n", 1, "-events", 3, "-settle", 0.02)
    return run(sseload, "replay", "-a", server.address, *words, *options)


EVENTS = frame(DATA, 0, 1, event(1) + event(2) + event(3))


@pytest.mark.parametrize(
    "block",
    [
        OK,
        b"\x08\x03200",  # a literal whose name is in the table
        b"\x08\x82\x10\x01",  # in Huffman's code
        b"\x48\x03200",
        b"\x00\x07:status\x03200",
        b"\x00\x85\xb8\x84\x8d\x36\xa3\x03200",
        b"\x3f\xe1\x1f" + OK,  # after the size of the dynamic table
        OK + b"\x40\x0ccontent-type\x11text/event-stream",
        OK + b"\x0f\x10\x11text/event-stream" + b"\x5f\x01a",  # names in the table, one of a long number
    ],
)
@pytest.mark.parametrize("piece", [1, 1 << 16])
def test_the_status_of_a_response(sseload: Path, block: bytes, piece: int) -> None:
    with serving(answer(block, EVENTS), piece=piece) as server:
        result = replay(sseload, server)
    assert (result["exit"], result["complete"], result["connections"]) == (0, 1, 1)


@pytest.mark.parametrize(
    "block",
    [
        b"\x8d",
        b"\x08\x03503",
        b"\x08\x83\x6c\x0c\xff",
        b"\x08\x83\x6d\xf7\x7f",
        b"\x48\x03404",
        b"",
        b"\xff\xff",
        b"\x08\x7f",
    ],
)
def test_another_status_is_no_connection(sseload: Path, block: bytes) -> None:
    with serving(answer(block, EVENTS)) as server:
        result = replay(sseload, server)
    assert (result["exit"], result["complete"]) == (1, 0)


def test_the_dynamic_table(sseload: Path) -> None:
    """The second response refers to what the first one has brought: its newest entry is another field."""
    first = frame(HEADERS, END_HEADERS, 1, b"\x48\x03200\x40\x01a\x01b")
    second = frame(HEADERS, END_HEADERS, 3, b"\xbf\xbe")
    events = EVENTS + frame(DATA, 0, 3, event(1) + event(2) + event(3))
    with serving(first + second + events, requests=2) as server:
        result = replay(sseload, server, "-n", 2, "-c", 2)
    assert (result["exit"], result["complete"]) == (0, 2)


PARTS = [event(1)[:7], event(1)[7:] + b": comment\n" + event(2)[:1], event(2)[1:] + event(3)]


@pytest.mark.parametrize("piece", [1, 7, 1 << 16])
@pytest.mark.parametrize(
    "frames",
    [
        [frame(DATA, 0, 1, part) for part in PARTS],
        [padded(size, part) for size, part in zip((0, 3, 255), PARTS, strict=True)],
        [frame(DATA, 0, 1, b""), padded(2, b""), *(frame(DATA, 0, 1, part) for part in PARTS)],
        [frame(PING, 0, 0, b"12345678"), frame(200, 0, 0, b"?"), frame(WINDOW, 0, 0, b"\0\0\0\1"), EVENTS],
    ],
)
def test_frames(sseload: Path, frames: Sequence[bytes], piece: int) -> None:
    """Padded, empty, unknown, and cut at any place."""
    with serving(answer(OK, *frames), piece=piece) as server:
        result = replay(sseload, server)
    assert (result["exit"], result["complete"], result["wrong_subscribers"]) == (0, 1, 0)
    if frames[0][3] == PING:
        assert (PING, ACK, 0, b"12345678") in server.seen


@pytest.mark.parametrize("piece", [1, 1 << 16])
def test_a_header_block_in_several_frames(sseload: Path, piece: int) -> None:
    block = b"\x40\x01a\x01b" + b"\x08\x03200"
    first = frame(HEADERS, PADDED | PRIORITY, 1, b"\x02" + bytes(5) + block[:3] + b"\0\0")
    rest = [frame(CONTINUATION, 0, 1, block[3:8]), frame(CONTINUATION, END_HEADERS, 1, block[8:])]
    with serving(first + b"".join(rest) + EVENTS, piece=piece) as server:
        assert replay(sseload, server)["exit"] == 0


@pytest.mark.parametrize(
    "last",
    [
        frame(DATA, END_STREAM, 1, b""),
        frame(RESET, 0, 1, b"\0\0\0\2"),
        frame(DATA, 0, 1, b"")[:3] + b"\xff" * 70_000,
    ],
)
def test_a_stream_that_ends_is_found(sseload: Path, last: bytes) -> None:
    """By its own end, by a reset, or with a connection that is no longer HTTP/2."""
    with serving(answer(OK, EVENTS, last)) as server:
        result = replay(sseload, server, "-settle", 0.2)
    assert (result["exit"], result["disconnects"]) == (1, 1)


def test_a_request(sseload: Path, tmp_path: Path) -> None:
    """Fields in lower case; a long token goes on in another frame."""
    token = "x" * 20_000
    (tmp_path / "tokens").write_text(f"Authorization: {token}\n")
    with serving(answer(OK, EVENTS)) as server:
        result = replay(
            sseload, server, "-HF", tmp_path / "tokens", "-path", "/?match=t%d", "-H", "X-Some: thing"
        )
    assert result["exit"] == 0
    kinds = server.kinds()
    assert kinds[:4] == [SETTINGS, WINDOW, HEADERS, CONTINUATION]
    head, rest = server.seen[2], server.seen[3]
    assert (head[1:3], len(head[3]), rest[1:3]) == ((END_STREAM, 1), 16_384, (END_HEADERS, 1))
    block = head[3] + rest[3]
    assert block.startswith(
        b"\x82\x86\x01" + bytes([len(server.address)]) + server.address.encode() + b"\x04"
    )
    assert b"/?match=t0" in block
    assert b"\x06x-some\x05thing" in block
    assert block.endswith(b"\x0dauthorization\x7f\xa1\x9b\x01" + token.encode())


def test_windows_are_given_back(sseload: Path) -> None:
    """Of the stream and of the connection, when half of them is used up."""
    body = b": " + b"x" * 9000 + b"\n"
    frames = [frame(DATA, 0, 1, body)] * 4
    with serving(answer(OK, *frames, EVENTS)) as server:
        assert replay(sseload, server, "-window", 16_384)["exit"] == 0
    assert server.seen[0][3].endswith(b"\0\4\0\0\x40\0")
    given = [(stream, int.from_bytes(content)) for kind, _, stream, content in server.seen if kind == WINDOW]
    assert given == [(1, 9003), (1, 9003), (1, 9003), (0, 4 * 9003), (1, 9003)]


def test_a_publisher(sseload: Path) -> None:
    """Its update follows in a frame of its own."""
    with serving(answer(OK, frame(DATA, END_STREAM, 1, b"id"))) as server:
        result = run(
            sseload, "publish", "-a", server.address, "-ph2", "-m", 1, "-s", 20, "-form", "private=on"
        )
    assert (result["exit"], result["published_ok"]) == (0, 1)
    assert server.kinds()[:4] == [SETTINGS, WINDOW, HEADERS, DATA]
    assert server.seen[2][3].startswith(b"\x83\x86\x01")
    flags, stream, content = server.seen[3][1:]
    assert (flags, stream) == (END_STREAM, 1)
    assert content.startswith(b"topic=t&private=on&data=T000")
    assert len(content) == len("topic=t&private=on&data=") + 20


@pytest.mark.parametrize("last", [answer(b"\x8d"), answer(OK)[:12], frame(RESET, 0, 1, b"\0\0\0\2")])
def test_an_update_that_is_not_accepted(sseload: Path, last: bytes) -> None:
    with serving(last) as server:
        result = run(sseload, "publish", "-a", server.address, "-ph2", "-m", 1, "-timeout", 0.3)
    assert (result["exit"], result["published_ok"]) == (1, 0)


def test_too_few_streams_are_a_reason(sseload: Path) -> None:
    with serving(frame(SETTINGS, 0, 0, b"\0\3\0\0\0\1"), requests=2) as server:
        result = run(sseload, "connect", "-a", server.address, "-h2", 1, "-n", 2)
    assert (result["exit"], result["error"]) == (
        2,
        "the hub allows 1 streams on a connection, and 2 are wanted",
    )
