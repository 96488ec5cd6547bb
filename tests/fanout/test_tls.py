"""Subscribers over TLS."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from mercure_hub.fanout.endings import Ending, Reason
from mercure_hub.fanout.engine import EngineLimits
from mercure_hub.fanout.kernel_tls import KernelTlsServer
from mercure_hub.fanout.subscriber import State
from mercure_hub.fanout.tls import RECORD, TlsServer, TlsSocket
from mercure_hub.protocol.websocket import WebSocket
from tests.fanout.bench import HUB_STOPS, Bench, Reader, encoded, exact, ids
from tests.fanout.secure import Contexts, client_context, connect, in_kernel, read_all, server_context

LARGE = "0123456789abcdef" * 16384


@pytest.fixture(scope="module")
def in_memory(pem: Path) -> Contexts:
    """Records are sealed in memory."""
    return Contexts(TlsServer(server_context(pem)), client_context(pem))


@pytest.fixture(
    scope="module",
    params=["in memory", "by OpenSSL", pytest.param("by the kernel", marks=pytest.mark.minutes)],
)
def contexts(request: pytest.FixtureRequest, pem: Path, in_memory: Contexts) -> Contexts:
    """Whoever seals the records; the kernel does so over TCP only."""
    if request.param == "in memory":
        return in_memory
    if request.param == "by the kernel":
        return in_kernel(pem)
    return Contexts(KernelTlsServer(server_context(pem)), client_context(pem))


@pytest.fixture
def reader(bench: Bench, contexts: Contexts) -> Iterator[Reader]:
    reader = connect(bench, contexts, exact("a"), exact("b"))
    bench.start(reader)
    yield reader


def test_updates_and_heartbeats_arrive_over_tls(bench: Bench, reader: Reader) -> None:
    entries = [bench.publish("a"), bench.publish("b")]
    batch = [bench.update("ab"[n % 2]) for n in range(6)]
    bench.dispatch(*batch)
    assert reader.ids() == ids(entries + batch)
    bench.tick(40)
    assert reader.read() == b":\n"
    last = bench.publish("a")
    assert reader.ids() == ids([*entries, *batch, last])


def test_plain_and_tls_subscribers_side_by_side(bench: Bench, reader: Reader) -> None:
    plain = bench.connect(exact("a"), exact("b"))
    entries = [bench.update("ab"[n % 2]) for n in range(6)]
    bench.dispatch(*entries)
    bench.dispatch(last := bench.update("a"))
    assert reader.ids() == plain.ids() == ids([*entries, last])


def test_a_tls_record_that_was_refused_is_offered_again(bench: Bench, reader: Reader) -> None:
    entries = [bench.publish("a", data=f"{n}{LARGE}") for n in range(5)]
    assert reader.subscriber.queued > len(LARGE)
    entries += [bench.publish("a", data=str(n)) for n in range(100)]
    bench.tick(1)
    read_all(bench, reader)
    assert bytes(reader.received) == encoded(entries)
    assert reader.subscriber.state in (State.READY, State.READY_TLS)
    assert reader.subscriber.queued == 0
    last = bench.publish("b")
    assert reader.ids() == ids([*entries, last])


def test_a_stalled_tls_subscriber_is_dropped_at_the_timeout(bench: Bench, reader: Reader) -> None:
    bench.publish("a", data=LARGE)
    bench.tick(4.9)
    assert bench.gone == []
    for _ in range(1000):  # TCP may still have been acknowledging
        bench.tick(0.1)
        if bench.gone:
            break
    assert bench.reasons() == ["took nothing for 5 s"]


def test_a_tls_subscriber_too_far_behind_is_dropped(contexts: Contexts, no_descriptor_left: None) -> None:
    bench = Bench(EngineLimits(buffer=300_000))
    reader = connect(bench, contexts, exact("a"))
    bench.start(reader)
    bench.publish("a", data=LARGE)
    bench.publish("a", data=LARGE)
    assert bench.reasons() == ["fell behind by more than 300000 bytes"]
    bench.close()


def test_a_held_tls_subscriber_starts(bench: Bench, contexts: Contexts) -> None:
    reader = connect(bench, contexts, exact("a"))
    bench.engine.hold(reader.subscriber)
    entries = [bench.publish("a"), bench.publish("a")]
    bench.start(reader)
    entries.append(bench.publish("a"))
    assert reader.ids() == ids(entries)


def test_a_tls_client_that_leaves_is_noticed(bench: Bench, reader: Reader) -> None:
    reader.sock.shutdown(socket.SHUT_RDWR)
    bench.poll()
    assert bench.reasons() == ["closed by the client"]
    assert reader.subscriber.tls is None


def test_the_end_of_a_stream_is_told_in_tls_too(bench: Bench, reader: Reader) -> None:
    """Without close_notify, clients report a truncated answer."""
    bench.publish("a")
    bench.engine.drop(reader.subscriber, Ending(Reason.TIME_IS_OVER))
    assert reader.ids() == ["1"]
    assert reader.sock.recv(1) == b""


def test_the_end_of_a_full_tls_connection_does_not_wait(bench: Bench, reader: Reader) -> None:
    bench.publish("a", data=LARGE)
    bench.engine.drop(reader.subscriber, HUB_STOPS)
    assert not reader.subscriber.is_connected


def is_empty(server: TlsServer) -> bool:
    """Whether nothing is left in the buffers that all connections share."""
    return not (server._incoming.pending or server._outgoing.pending)


def test_the_request_may_come_with_the_end_of_the_handshake(in_memory: Contexts) -> None:
    pair = socket.socketpair()
    pair[0].setblocking(False)
    ours = in_memory.server.accept(pair[0].detach())
    reads, writes = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = in_memory.client.wrap_bio(reads, writes, server_hostname="127.0.0.1")
    with pair[1] as theirs, contextlib.closing(ours):
        with pytest.raises(ssl.SSLWantReadError):
            client.do_handshake()
        theirs.sendall(writes.read())
        with pytest.raises(ssl.SSLWantReadError):
            ours.do_handshake()
        reads.write(theirs.recv(1 << 16))
        client.do_handshake()
        client.write(b"GET /")
        client.write(b" HTTP/1.1")
        theirs.sendall(writes.read())
        ours.do_handshake()
        assert is_empty(in_memory.server)
        assert ours.recv(7) + ours.recv(100) == b"GET / HTTP/1.1"
        with pytest.raises(BlockingIOError):
            ours.recv(100)
        client.write(b"whole")
        record = writes.read()
        theirs.sendall(record[:7])
        with pytest.raises(BlockingIOError):
            ours.recv(100)
        theirs.sendall(record[7:])
        assert ours.recv(100) == b"whole"
        # The socket is reported once for a record that takes two reads.
        client.write(bytes(RECORD))
        theirs.sendall(writes.read())
        assert ours.recv(RECORD) == bytes(RECORD)
        theirs.shutdown(socket.SHUT_WR)
        assert ours.recv(100) == b""


def test_the_alert_of_a_failed_handshake_reaches_its_own_client_only(
    bench: Bench, reader: Reader, contexts: Contexts
) -> None:
    for _ in range(3):
        pair = contexts.pair()
        ours = contexts.server.accept(pair[0].detach())
        with pair[1] as theirs, contextlib.closing(ours):
            theirs.sendall(b"GET / HTTP/1.1\r\n\r\n")
            with pytest.raises(ssl.SSLError):
                ours.do_handshake()
            assert is_empty(contexts.server)
            ours.close()
            with contextlib.suppress(ConnectionResetError):  # OpenSSL leaves the rest unread
                assert theirs.recv(100)[:1] in (b"\x15", b"")  # an alert, or the end
        entry = bench.publish("a")
        assert reader.ids()[-1] == entry.update.id


def test_a_client_that_ends_in_the_handshake_is_an_error(contexts: Contexts) -> None:
    pair = contexts.pair()
    with contextlib.closing(contexts.server.accept(pair[0].detach())) as ours:
        pair[1].close()
        with pytest.raises((ConnectionError, ssl.SSLEOFError)):
            ours.do_handshake()


def test_a_batch_is_one_record(bench: Bench, reader: Reader) -> None:
    reader.read()
    wire = socket.socket(fileno=os.dup(reader.sock.fileno()))
    with wire:
        bench.dispatch(*[bench.update("ab"[n % 2]) for n in range(6)])
        sealed = wire.recv(1 << 16, socket.MSG_PEEK)
    assert 5 + int.from_bytes(sealed[3:5], "big") == len(sealed)
    assert reader.ids() == ["1", "2", "3", "4", "5", "6"]


def test_clients_of_different_versions_get_the_same_updates(bench: Bench, contexts: Contexts) -> None:
    """Their records differ in size."""
    old = ssl.create_default_context()
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    versions = [contexts, Contexts(contexts.server, old)] * 3
    readers = [connect(bench, one, exact("a")) for one in versions]
    for one in readers:
        bench.start(one)
    assert {one.sock.version() for one in readers if isinstance(one.sock, ssl.SSLSocket)} == {
        "TLSv1.2",
        "TLSv1.3",
    }
    entries = [bench.publish("a", data="x" * size) for size in (0, 100, RECORD, 3)]
    for one in readers:
        read_all(bench, one)
        assert bytes(one.received) == encoded(entries)


def test_one_full_socket_among_many_over_tls_loses_nothing(bench: Bench, contexts: Contexts) -> None:
    readers = [connect(bench, contexts, exact("a")) for _ in range(5)]
    for one in readers:
        bench.start(one)
    entries = []
    for number in range(200):
        entries.append(bench.publish("a", data=f"{number}{'x' * 1000}"))
        for one in readers[::2]:
            one.read()
    assert {bool(one.subscriber.queue) for one in readers} == {True, False}
    for one in readers:
        read_all(bench, one)
        assert bytes(one.received) == encoded(entries)
    assert is_empty(contexts.server)


def test_a_stalled_subscriber_holds_little_of_its_own(bench: Bench, in_memory: Contexts) -> None:
    """The updates themselves are shared by all that wait for them; records are not."""
    reader = connect(bench, in_memory, exact("a"))
    bench.start(reader)
    for _ in range(3):
        bench.publish("a", data=LARGE)
    tls = reader.subscriber.tls
    assert isinstance(tls, TlsSocket)
    assert 0 < len(tls._unsent) <= RECORD + 64


def test_a_subscriber_with_a_broken_layer_is_dropped(bench: Bench, in_memory: Contexts) -> None:
    readers = [connect(bench, in_memory, exact("a")) for _ in range(3)]
    for one in readers:
        bench.start(one)
    broken = readers[1].subscriber.tls
    assert isinstance(broken, TlsSocket)
    with contextlib.suppress(ssl.SSLError):
        broken._layer.unwrap()  # nothing can be written any more
    in_memory.server._outgoing.read()
    entry = bench.publish("a")
    assert bench.gone == [(readers[1].subscriber, "closed by the client")]
    assert readers[0].ids() == readers[2].ids() == ids([entry])


def test_a_websocket_client_that_sends_no_tls_is_dropped(bench: Bench, contexts: Contexts) -> None:
    reader = connect(bench, contexts, exact("a"), websocket=WebSocket(ends_with_token=False))
    bench.start(reader)
    with socket.socket(fileno=os.dup(reader.sock.fileno())) as wire:
        wire.sendall(b"\x17\x03\x03\x00\x20" + bytes(32))
    bench.poll()
    assert bench.reasons() == ["closed by the client"]
    assert is_empty(contexts.server)


@pytest.mark.parametrize("content", [b"", b"x"], ids=["nothing else", "little else"])
def test_a_client_that_sends_messages_of_tls_keeps_nobody_waiting(
    monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    """They have to be read to the end, and new keys, say, take as long to read as to send."""
    ours, theirs = socket.socketpair()
    reads = 0

    def endless(_: int, size: int) -> bytes:
        nonlocal reads
        reads += 1
        assert reads < 1000
        return bytes(size)

    class Layer:
        content_of = 0

        def read(self, _: int) -> bytes:
            if not content or reads % 20 or self.content_of == reads:
                raise ssl.SSLWantReadError
            self.content_of = reads
            return content

    with theirs:
        tls = TlsSocket(ours.detach(), Layer(), ssl.MemoryBIO(), ssl.MemoryBIO())  # type: ignore[arg-type]
        monkeypatch.setattr(os, "read", endless)
        for size in (1024, RECORD):
            with pytest.raises(ConnectionAbortedError):
                while tls.recv(size):
                    pass
        tls.close()


def test_a_client_is_not_answered_without_end(in_memory: Contexts, bench: Bench) -> None:
    """A client may have TLS answer it; when it reads none of that, its connection ends."""
    reader = connect(bench, in_memory, exact("a"))
    bench.start(reader)
    bench.publish("a", data=LARGE)
    tls = reader.subscriber.tls
    assert isinstance(tls, TlsSocket)
    tls._answer()
    tls._unsent += bytes(RECORD)
    with pytest.raises(ConnectionError):
        tls._answer()
    tls._covers = 0
    with pytest.raises(ConnectionError):
        tls._answer()
