"""Time limits of a connection: no dripping makes one longer, no standstill of ours makes one shorter."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import gevent
import pytest
from gevent.event import Event

from mercure_hub.fanout.tls import TlsServer
from mercure_hub.server.channel import Channel, Timeout
from mercure_hub.server.open_requests import OPEN_REQUEST, OVER_TLS
from tests.certificates import self_signed

LIMIT = 0.2
_PSS = Path("/proc/self/smaps_rollup")
RECORD = b"\x17\x03\x03\x40\x00"  # the head of a TLS record with 16 KiB


@pytest.fixture
def pair() -> Iterator[tuple[Channel, socket.socket]]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    channel = Channel(ours.detach())
    with theirs:
        yield channel, theirs
    channel.close()


@pytest.fixture
def server(tmp_path: Path) -> TlsServer:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(self_signed(tmp_path))
    return TlsServer(context)


def ends_while_bytes_drip(theirs: socket.socket, data: bytes, action: Callable[[], object]) -> bool:
    """Whether an action is given up although a byte comes well within the limit, each time anew."""

    def drip() -> None:
        for each in data:
            theirs.sendall(bytes([each]))
            gevent.sleep(LIMIT / 10)

    dripping = gevent.spawn(drip)
    try:
        with pytest.raises(Timeout):
            action()
        return not dripping.ready()
    finally:
        dripping.kill()


def test_a_handshake_has_one_deadline(pair: tuple[Channel, socket.socket], server: TlsServer) -> None:
    channel, theirs = pair
    hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc" + bytes(40)
    assert ends_while_bytes_drip(theirs, hello, lambda: channel.handshake(server, LIMIT))


def test_an_incomplete_tls_record_does_not_count_as_received(
    pair: tuple[Channel, socket.socket], server: TlsServer
) -> None:
    channel, theirs = pair
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    clients: list[socket.socket] = []

    def connect() -> None:
        secured = trusting.wrap_socket(theirs)
        secured.sendall(b"hello")
        clients.append(socket.socket(fileno=secured.detach()))  # from now on, what is sent is sent as it is

    client = threading.Thread(target=connect)
    client.start()
    channel.handshake(server, 20)
    assert channel.receive(20) == b"hello"
    client.join()
    with clients[0]:
        assert ends_while_bytes_drip(clients[0], RECORD + bytes(40), lambda: channel.receive(LIMIT))


@pytest.mark.parametrize("has_sent", [False, True])
def test_what_arrived_while_the_process_was_stopped_is_received(
    pair: tuple[Channel, socket.socket], has_sent: bool
) -> None:
    channel, theirs = pair
    if has_sent:
        channel.send(b"answer", LIMIT)
    waiting = gevent.spawn(channel.receive, LIMIT)
    gevent.sleep(0)
    theirs.sendall(b"request")
    time.sleep(2 * LIMIT)  # stops the event loop too, as SIGSTOP and a paused machine do
    assert waiting.get(timeout=20) == b"request"


def test_the_timeout_of_a_send_restarts_when_the_client_takes_something(
    pair: tuple[Channel, socket.socket],
) -> None:
    channel, theirs = pair
    limit, pieces, piece = 1.0, 24, 1 << 16  # read over twice the limit, in steps of a tenth of it

    def read() -> int:
        got = 0
        while got < pieces * piece:
            gevent.sleep(limit / 10)
            got += len(theirs.recv(piece))
        return got

    reading = gevent.spawn(read)
    channel.send(bytes(pieces * piece), limit)
    assert reading.get(timeout=20) == pieces * piece
    with pytest.raises(Timeout):
        channel.send(bytes(pieces * piece), LIMIT)


@pytest.mark.parametrize("system", ["Linux", "another"])
@pytest.mark.parametrize("does", ["closes", "sends", "sends nothing more"])
def test_the_end_of_the_other_side_is_noticed(
    pair: tuple[Channel, socket.socket], monkeypatch: pytest.MonkeyPatch, system: str, does: str
) -> None:
    if system == "another":
        monkeypatch.delattr(select, "POLLRDHUP", raising=False)
    channel, theirs = pair
    ended = Event()
    with channel.watched(ended.set):
        if does == "closes":
            theirs.close()
        elif does == "sends":
            theirs.sendall(b"GET /")
        else:
            theirs.shutdown(socket.SHUT_WR)
        assert ended.wait(0.05 if does == "sends" else 10) == (does != "sends")


def test_what_has_arrived_is_taken_without_waiting(pair: tuple[Channel, socket.socket]) -> None:
    channel, theirs = pair
    assert channel.take(100) is None
    theirs.sendall(b"request")
    assert channel.take(3) == b"req"
    assert channel.take(100) == b"uest"
    theirs.shutdown(socket.SHUT_WR)
    assert channel.take(100) == b""


def test_after_an_answer_the_next_request_is_waited_for(pair: tuple[Channel, socket.socket]) -> None:
    """Or the first of a hundred publishers would be served again before the last has its answer."""
    channel, theirs = pair
    channel.send(b"answer", LIMIT)
    theirs.sendall(b"request")
    assert channel.take(100) is None
    assert channel.receive(20) == b"request"


@pytest.mark.skipif(not _PSS.exists(), reason="no /proc")
def test_what_is_counted_for_a_handshake_covers_its_memory(server: TlsServer) -> None:
    """A client that sends all but the end of its last message makes the server hold most."""
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    count, before, open_ones = 100, 0, []
    with contextlib.ExitStack() as stack:
        for number in range(10 + count):
            if number == 10:
                before = _pss()
            ours, theirs = socket.socketpair()
            stack.enter_context(theirs)
            ours.setblocking(False)
            tls = stack.enter_context(contextlib.closing(server.accept(ours.detach())))
            open_ones.append(tls)
            reads, writes = ssl.MemoryBIO(), ssl.MemoryBIO()
            client = trusting.wrap_bio(reads, writes)
            with pytest.raises(ssl.SSLWantReadError):
                client.do_handshake()
            for end in (None, -10):
                theirs.sendall(writes.read()[:end])
                with pytest.raises(ssl.SSLWantReadError):
                    tls.do_handshake()
                if end is None:
                    reads.write(theirs.recv(1 << 16))
                    client.do_handshake()
        assert _pss() - before < count * (OPEN_REQUEST + OVER_TLS)


def _pss() -> int:
    """Bytes of memory that this process takes."""
    (line,) = [line for line in _PSS.read_text().splitlines() if line.startswith("Pss:")]
    return int(line.split()[1]) << 10
