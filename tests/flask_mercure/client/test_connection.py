"""The connection under a subscriber: answers whole, in pieces, broken, and endless."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from flask_mercure.client.connection import Chunks, Connection, ConnectionBroken, get

PATIENCE = 10.0


@contextmanager
def answering(octets: bytes, *, closes: bool = True) -> Iterator[Connection]:
    """A connection that has got an answer."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(octets)
        if closes:
            theirs.shutdown(socket.SHUT_WR)
        yield Connection(ours, PATIENCE)


def everything(connection: Connection) -> bytes:
    content = b""
    while octets := connection.read(PATIENCE):
        content += octets
    return content


def test_the_head() -> None:
    with answering(b"HTTP/1.1 401 No\r\nWWW-Authenticate:  Bearer \r\nX-Id: \xc3\xa9\r\n\r\n") as connection:
        assert connection.status == 401
        assert connection.headers["www-authenticate"] == "Bearer"
        assert connection.headers["X-Id"] == "\xc3\xa9"
        assert everything(connection) == b""


@pytest.mark.parametrize(
    ("octets", "content"),
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
def test_the_content(octets: bytes, content: bytes) -> None:
    with answering(octets) as connection:
        assert everything(connection) == content
        assert connection.read(PATIENCE) == b""


@pytest.mark.parametrize(
    "octets",
    [b"", b"HTTP/1.1 200 OK\r\n", b"SSH-2.0\r\n\r\n", b"HTTP/2 200\r\n\r\n", b"HTTP/1.1 200 OK\r\n" * 5000],
)
def test_what_is_no_answer(octets: bytes) -> None:
    with pytest.raises(ConnectionBroken), answering(octets):
        pass


@pytest.mark.parametrize(
    "octets",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfour",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfour",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nno size\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1" * 100_000,
    ],
)
def test_an_answer_that_breaks_off(octets: bytes) -> None:
    with answering(octets) as connection, pytest.raises(ConnectionBroken):
        everything(connection)


def test_waiting_again_after_waiting_in_vain() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        connection = Connection(ours, PATIENCE)
        for _ in range(2):
            with pytest.raises(TimeoutError):
                connection.read(0)
        theirs.sendall(b"late")
        assert connection.read(PATIENCE) == b"late"


def test_another_thread_wakes_the_one_that_reads() -> None:
    with answering(b"HTTP/1.1 200 OK\r\n\r\n", closes=False) as connection:
        woken: list[bytes] = []
        thread = threading.Thread(target=lambda: woken.append(connection.read(None)))
        thread.start()
        connection.wake()
        thread.join(PATIENCE)
        assert woken == [b""]


@pytest.mark.parametrize("step", [1, 2, 3, 5, 100])
def test_chunks_are_cut_anywhere(step: int) -> None:
    octets = b"1\r\na\r\n1a;name=value\r\n" + b"b" * 26 + b"\r\n2\r\n\r\n\r\n0\r\n\r\n"
    chunks = Chunks()
    content = b"".join(chunks.feed(octets[at : at + step]) for at in range(0, len(octets), step))
    assert content == b"a" + b"b" * 26 + b"\r\n"
    assert chunks.is_over


def test_a_header_cannot_forge_another() -> None:
    with pytest.raises(ValueError, match="line end"):
        get("http://127.0.0.1:9/", {"X": "a\r\nY: b"}, verify=True, connect_timeout=1, answer_timeout=1)


@pytest.mark.minutes
def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(ConnectionRefusedError):
        get(f"http://127.0.0.1:{port}/", {}, verify=True, connect_timeout=1, answer_timeout=1)
