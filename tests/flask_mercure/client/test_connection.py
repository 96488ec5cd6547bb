"""Answers over a socket: whole, in pieces, broken, and endless."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from flask_mercure.client.connection import ConnectionBroken, Exchange, StreamedAnswer, get

PATIENCE = 10.0


def exchange() -> Exchange:
    return Exchange("GET", "http://hub.example/m", {})


@contextmanager
def answering(sent: bytes, *, closes: bool = True) -> Iterator[StreamedAnswer]:
    """A connection that has got an answer."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(sent)
        if closes:
            theirs.shutdown(socket.SHUT_WR)
        yield StreamedAnswer(ours, exchange(), PATIENCE)


def everything(answer: StreamedAnswer) -> bytes:
    content = b""
    while received := answer.read(PATIENCE):
        content += received
    return content


def test_the_head_of_an_answer() -> None:
    with answering(b"HTTP/1.1 401 No\r\nWWW-Authenticate:  Bearer \r\nX-Id: \xc3\xa9\r\n\r\n") as answer:
        assert answer.head.status == 401
        assert answer.head.headers["www-authenticate"] == "Bearer"
        assert answer.head.headers["X-Id"] == "\xc3\xa9"
        assert everything(answer) == b""


@pytest.mark.parametrize(
    ("sent", "content"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\nuntil the end", b"until the end"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwhole and more", b"whole"),
        (b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", b""),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n3\r\none\r\n"
            b"04;x=y\r\n two\r\n0\r\nT: x\r\n\r\n",
            b"one two",
        ),
    ],
)
def test_the_content_of_an_answer(sent: bytes, content: bytes) -> None:
    with answering(sent) as answer:
        assert everything(answer) == content
        assert answer.read(PATIENCE) == b""


@pytest.mark.parametrize(
    "sent",
    [b"", b"HTTP/1.1 200 OK\r\n", b"SSH-2.0\r\n\r\n", b"HTTP/2 200\r\n\r\n", b"HTTP/1.1 200 OK\r\n" * 5000],
)
def test_bytes_that_are_no_answer(sent: bytes) -> None:
    with pytest.raises(ConnectionBroken), answering(sent):
        pass


@pytest.mark.parametrize(
    "sent",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfour",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfour",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nno size\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1" * 100_000,
    ],
)
def test_an_answer_that_breaks_off(sent: bytes) -> None:
    with answering(sent) as answer, pytest.raises(ConnectionBroken):
        everything(answer)


def test_an_answer_can_be_read_on_after_a_time_limit() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        answer = StreamedAnswer(ours, exchange(), PATIENCE)
        for _ in range(2):
            with pytest.raises(TimeoutError):
                answer.read(0)
        theirs.sendall(b"late")
        assert answer.read(PATIENCE) == b"late"


def test_another_thread_can_wake_the_reader_of_an_answer() -> None:
    with answering(b"HTTP/1.1 200 OK\r\n\r\n", closes=False) as answer:
        woken: list[bytes] = []
        thread = threading.Thread(target=lambda: woken.append(answer.read(None)))
        thread.start()
        answer.wake()
        thread.join(PATIENCE)
        assert woken == [b""]


@pytest.mark.parametrize("step", [1, 2, 3, 5, 100])
def test_an_answer_in_chunks_may_be_cut_anywhere(step: int) -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    sent = head + b"1\r\na\r\n1a;name=value\r\n" + b"b" * 26 + b"\r\n2\r\n\r\n\r\n0\r\n\r\n"
    reader = exchange()
    content = b"".join(reader.feed(sent[at : at + step]) for at in range(0, len(sent), step))
    assert content == b"a" + b"b" * 26 + b"\r\n"
    assert reader.is_complete
    assert reader.error is None


def test_what_came_before_a_broken_chunk_can_be_read() -> None:
    reader = exchange()
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert reader.feed(head + b"3\r\none\r\nzz\r\n") == b"one"
    assert reader.is_over
    assert isinstance(reader.error, ConnectionBroken)


PIECES = [
    *(
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.0 204\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n",
        b"HTTP/1.1 103 \r\n",
    ),
    *(b"Transfer-Encoding: chunked\r\n", b"Content-Length: 5\r\n", b"Content-Length: -1\r\n", b" : \r\n"),
    *(b"\r\n", b"\n", b"5\r\nhello\r\n", b"0\r\n\r\n", b"zz\r\n", b"hello", b"\0", b"\xff", b"x" * 70_000),
]


@given(st.lists(st.sampled_from(PIECES) | st.binary(max_size=9), max_size=12))
@example([b"HTTP/1.1 200 OK\r\n", b"Transfer-Encoding: chunked\r\n", b"\r\n", b"5\r\nhello\r\n", b"zz\r\n"])
def test_no_bytes_keep_the_reader_from_coming_to_an_end(pieces: list[bytes]) -> None:
    reader = exchange()
    for piece in filter(None, pieces):
        if not reader.is_over:
            reader.feed(piece)
    if not reader.is_over:
        reader.feed(b"")
    assert reader.is_over
    assert reader.is_complete is (reader.error is None)


def test_interim_answers_are_passed_over() -> None:
    with answering(b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nA: b\r\nA: c\r\n\r\nrest") as answer:
        assert (answer.head.status, answer.head.headers.getlist("a")) == (200, ["b", "c"])
        assert everything(answer) == b"rest"


@pytest.mark.parametrize(
    ("method", "content", "expected"),
    [
        ("GET", b"", b"GET /m?a=b HTTP/1.1\r\nHost: hub.example:8080\r\nX-Id: \xc3\xa9\r\n\r\n"),
        (
            "POST",
            b"data=1",
            b"POST /m?a=b HTTP/1.1\r\nHost: hub.example:8080\r\nX-Id: \xc3\xa9\r\nContent-Length: 6\r\n\r\n"
            b"data=1",
        ),
    ],
)
def test_the_bytes_of_a_request(method: str, content: bytes, expected: bytes) -> None:
    url = "http://user@hub.example:8080/m?a=b"
    assert Exchange(method, url, {"X-Id": "é "}, content).request == expected


def test_an_answer_that_drips_ends_in_time() -> None:
    ours, theirs = socket.socketpair()
    done = threading.Event()

    def drip() -> None:
        theirs.sendall(b"HTTP/1.1 200 OK\r\n")
        while not done.wait(0.02):
            theirs.sendall(b"X: y\r\n")

    thread = threading.Thread(target=drip)
    thread.start()
    started = time.monotonic()
    try:
        with pytest.raises(TimeoutError):
            StreamedAnswer(ours, exchange(), 0.3)
    finally:
        done.set()
        thread.join()
        ours.close()
        theirs.close()
    assert time.monotonic() - started < 5


def test_a_header_of_a_request_cannot_forge_another() -> None:
    with pytest.raises(ValueError, match="line end"):
        get("http://127.0.0.1:9/", {"X": "a\r\nY: b"}, verify=True, connect_timeout=1, answer_timeout=1)


@pytest.mark.parametrize("event_id", ["\u00a0id\u00a0", "id\u3000"])
def test_the_space_of_other_scripts_belongs_to_an_event_id(event_id: str) -> None:
    request = Exchange("GET", "http://hub.example/m", {"Last-Event-ID": event_id}).request
    assert f"\r\nLast-Event-ID: {event_id}\r\n".encode() in request


@pytest.mark.minutes
def test_a_stream_from_a_port_where_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(ConnectionRefusedError):
        get(f"http://127.0.0.1:{port}/", {}, verify=True, connect_timeout=1, answer_timeout=1)
