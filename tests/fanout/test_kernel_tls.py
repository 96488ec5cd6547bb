"""TLS that the kernel seals: when it does, and what only it can be sent."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import ssl
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mercure_hub.fanout.kernel_tls import KernelTlsServer, SocketTls, obstacle
from mercure_hub.fanout.subscriber import State
from mercure_hub.fanout.tls import RECORD, TlsLayer
from mercure_hub.protocol.websocket import WebSocket
from tests.fanout.bench import Bench, encoded, exact, ids
from tests.fanout.secure import Contexts, client_context, connect, in_kernel, read_all, server_context

ALERT, HANDSHAKE, UNKNOWN = 21, 22, 99  # types of records
KEY_UPDATE = b"\x18\x00\x00\x01"
ENABLE = getattr(ssl, "OP_ENABLE_KTLS", 0)
LATER_PYTHON = pytest.mark.skipif(not ENABLE, reason="needs Python 3.12")


@pytest.fixture(scope="module")
def contexts(pem: Path) -> Contexts:
    return in_kernel(pem)


# -- the decision --------------------------------------------------------------------------------------------


@pytest.mark.skipif(bool(ENABLE), reason="this Python can")
def test_an_old_python_cannot_ask_for_it(pem: Path) -> None:
    assert "Python 3.12" in obstacle(server_context(pem))


@LATER_PYTHON
def test_the_module_is_not_loaded_by_the_hub(pem: Path, tmp_path: Path) -> None:
    ulps = tmp_path / "ulps"
    ulps.write_text("mptcp\n")
    context = server_context(pem)
    before = context.options
    assert "modprobe tls" in obstacle(context, ulps)
    assert context.options == before


@LATER_PYTHON
@pytest.mark.minutes
def test_where_the_file_is_hidden_only_root_does_not_try(pem: Path, tmp_path: Path) -> None:
    """As in the hub's unit of systemd. A try by root would load the module."""
    reason = obstacle(server_context(pem), tmp_path / "missing")
    if os.geteuid() == 0:
        assert reason == "this system does not tell whether it has kTLS"
    else:
        assert reason == obstacle(server_context(pem))


@LATER_PYTHON
@pytest.mark.minutes
def test_whoever_does_not_hand_over_the_keys_is_found_out(pem: Path, tmp_path: Path) -> None:
    """The kernel may say that it can, and OpenSSL may have been built without."""
    if not obstacle(server_context(pem)):
        pytest.skip("here they are handed over")
    ulps = tmp_path / "ulps"
    ulps.write_text("mptcp tls\n")
    context = server_context(pem)
    before = context.options
    assert any(word in obstacle(context, ulps) for word in ("modprobe tls", "OpenSSL 3.2"))
    assert context.options == before


@LATER_PYTHON
@pytest.mark.minutes
def test_a_handshake_that_fails_is_a_reason(tmp_path: Path) -> None:
    ulps = tmp_path / "ulps"
    ulps.write_text("tls\n")
    assert obstacle(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ulps)


def test_a_client_that_has_left_before_its_handshake_closes_the_socket_once(
    pem: Path, no_descriptor_left: None
) -> None:
    ours, theirs = socket.socketpair()
    theirs.close()
    server = KernelTlsServer(server_context(pem))
    with contextlib.suppress(OSError), contextlib.closing(server.accept(ours.detach())) as layer:
        layer.do_handshake()


@pytest.mark.minutes
def test_a_cipher_that_the_kernel_does_not_know(bench: Bench, contexts: Contexts, pem: Path) -> None:
    old = client_context(pem)
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    old.set_ciphers("ECDHE-ECDSA-AES128-SHA256")
    reader = connect(bench, replace(contexts, client=old, in_kernel=False), exact("a"))
    bench.start(reader)
    assert isinstance(reader.subscriber.tls, SocketTls)
    entries = [bench.publish("a", data="x" * size) for size in (0, RECORD, 20 * RECORD, 3)]
    read_all(bench, reader)
    assert bytes(reader.received) == encoded(entries)


# -- what a client sends -------------------------------------------------------------------------------------


@pytest.fixture
def pair(contexts: Contexts) -> Iterator[tuple[TlsLayer, ssl.SSLSocket]]:
    """Both ends of a connection."""
    ours, theirs = contexts.shaken()
    with contextlib.closing(ours), theirs:
        yield ours, theirs


@pytest.fixture(scope="module")
def to_kernel(contexts: Contexts, pem: Path) -> Contexts:
    """Clients seal in the kernel too, so that they can send records of any type."""
    client = client_context(pem)
    client.options |= ENABLE
    return replace(contexts, client=client)


@pytest.fixture
def free_pair(to_kernel: Contexts) -> Iterator[tuple[TlsLayer, ssl.SSLSocket]]:
    """Both ends of a connection whose client can send records of any type."""
    ours, theirs = to_kernel.shaken()
    with contextlib.closing(ours), theirs:
        yield ours, theirs


def send_record(sock: socket.socket, kind: int, content: bytes) -> None:
    with socket.socket(fileno=os.dup(sock.fileno())) as wire:
        wire.sendmsg([content], [(282, 1, bytes([kind]))])


def received(layer: TlsLayer) -> bytes:
    """What comes next."""
    arrived = select.poll()
    arrived.register(layer.fd, select.POLLIN)
    assert arrived.poll(10_000)
    return layer.recv(100)


@pytest.mark.minutes
def test_what_a_client_sends_and_its_end(pair: tuple[TlsLayer, ssl.SSLSocket]) -> None:
    ours, theirs = pair
    with pytest.raises(BlockingIOError):
        ours.recv(100)
    theirs.send(b"GET /")
    assert received(ours) == b"GET /"
    theirs.send(b"last")
    with contextlib.suppress(ssl.SSLWantReadError):
        theirs.unwrap()
    assert received(ours) == b"last"
    assert received(ours) == b""


@pytest.mark.minutes
def test_a_half_open_connection_ends(pair: tuple[TlsLayer, ssl.SSLSocket]) -> None:
    ours, theirs = pair
    theirs.send(b"last")
    theirs.shutdown(socket.SHUT_WR)
    assert received(ours) == b"last"
    assert received(ours) == b""


@pytest.mark.minutes
@pytest.mark.parametrize(
    ("kind", "content"),
    [
        (HANDSHAKE, KEY_UPDATE + b"\x00"),
        (HANDSHAKE, KEY_UPDATE + b"\x01"),
        (HANDSHAKE, bytes(5000)),
        (ALERT, b"\x02\x50"),
        (ALERT, b"\x01\x5a"),
        (UNKNOWN, b"\x01\x00"),
    ],
    ids=["new keys", "new keys for both", "much", "an error", "a warning", "unknown"],
)
def test_records_that_are_neither_content_nor_the_end(
    free_pair: tuple[TlsLayer, ssl.SSLSocket], kind: int, content: bytes
) -> None:
    ours, theirs = free_pair
    theirs.send(b"before")
    send_record(theirs, kind, content)
    assert received(ours) == b"before"
    with pytest.raises(ConnectionAbortedError):
        received(ours)
    ours.unwrap()
    assert theirs.recv(100) == b""  # told in order


@pytest.mark.minutes
@pytest.mark.parametrize("garbage", [b"GET / HTTP/1.1\r\n\r\n", b"\x17\x03\x03\x00\x20" + bytes(32)])
def test_what_is_not_sealed_with_the_key_of_the_client(
    pair: tuple[TlsLayer, ssl.SSLSocket], garbage: bytes
) -> None:
    ours, theirs = pair
    with socket.socket(fileno=os.dup(theirs.fileno())) as wire:
        wire.sendall(garbage)
    with pytest.raises(OSError) as raised:
        received(ours)
    assert not isinstance(raised.value, BlockingIOError)


@pytest.mark.minutes
def test_the_request_may_come_with_the_end_of_the_handshake(contexts: Contexts) -> None:
    pair = contexts.pair()
    ours = contexts.server.accept(pair[0].detach())
    reads, writes = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = contexts.client.wrap_bio(reads, writes, server_hostname="127.0.0.1")
    with pair[1] as theirs:
        theirs.setblocking(True)
        with pytest.raises(ssl.SSLWantReadError):
            client.do_handshake()
        theirs.sendall(writes.read())
        while True:
            with contextlib.suppress(ssl.SSLWantReadError):
                ours.do_handshake()
            reads.write(theirs.recv(1 << 16))
            with contextlib.suppress(ssl.SSLWantReadError):
                client.do_handshake()
                break
        client.write(b"GET /")
        theirs.sendall(writes.read())
        ours.do_handshake()
        ours = ours.established()
        with contextlib.closing(ours):
            assert received(ours) == b"GET /"
            client.write(b"whole")
            record = writes.read()
            theirs.sendall(record[:7])
            with pytest.raises(BlockingIOError):
                ours.recv(100)
            theirs.sendall(record[7:])
            assert received(ours) == b"whole"


# -- subscribers ---------------------------------------------------------------------------------------------


@pytest.mark.minutes
def test_they_are_written_to_like_plain_ones(bench: Bench, contexts: Contexts) -> None:
    readers = [connect(bench, contexts, exact("a")) for _ in range(30)]
    for one in readers:
        bench.start(one)
    plain = bench.connect(exact("a"))
    assert {one.subscriber.state for one in readers} == {State.READY}
    entries = [bench.publish("a", data=str(n)) for n in range(3)]
    assert [one.ids() for one in [*readers, plain]] == [ids(entries)] * 31


@pytest.mark.minutes
def test_a_websocket_client_that_changes_its_keys_is_told_the_end(bench: Bench, to_kernel: Contexts) -> None:
    reader = connect(bench, to_kernel, exact("a"), websocket=WebSocket(ends_with_token=False))
    bench.start(reader)
    send_record(reader.sock, HANDSHAKE, KEY_UPDATE + b"\x01")
    assert bench.has_news(10)
    bench.poll()
    assert bench.reasons() == ["closed by the client"]
    assert reader.sock.recv(1) == b""
