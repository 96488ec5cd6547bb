"""Subscribers over TLS."""

from __future__ import annotations

import datetime
import ipaddress
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from mercure_hub.fanout.endings import Ending, Reason
from mercure_hub.fanout.engine import EngineLimits
from mercure_hub.fanout.subscriber import State
from mercure_hub.fanout.tls import TlsServer, TlsSocket
from mercure_hub.protocol.matching.matcher import Matcher
from tests.fanout.bench import FOREVER, HUB_STOPS, Bench, Reader, encoded, exact, ids, subscriber

LARGE = "0123456789abcdef" * 16384


@dataclass(frozen=True)
class Contexts:
    server: TlsServer
    client: ssl.SSLContext


@pytest.fixture(scope="module")
def contexts(tmp_path_factory: pytest.TempPathFactory) -> Contexts:
    path: Path = tmp_path_factory.mktemp("tls") / "both.pem"
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "hub.test")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    path.write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + certificate.public_bytes(pem)
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(path)
    return Contexts(TlsServer(server), ssl.create_default_context(cafile=str(path)))


def connect(bench: Bench, contexts: Contexts, *matchers: Matcher, ends_at: float = FOREVER) -> Reader:
    """A subscriber over a socket pair that holds little."""
    pair = socket.socketpair()
    for sock in pair:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    ours = contexts.server.accept(pair[0].detach())
    theirs = contexts.client.wrap_socket(
        pair[1],
        server_hostname="127.0.0.1",
        do_handshake_on_connect=False,
        suppress_ragged_eofs=False,
    )
    waiting: list[TlsSocket | ssl.SSLSocket] = [ours, theirs]
    for _ in range(20):
        for end in list(waiting):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
            waiting.remove(end)
    assert not waiting
    bench.adopt(theirs)
    return Reader(theirs, subscriber(*matchers, ends_at=ends_at), ours)


def read_all(bench: Bench, reader: Reader) -> None:
    for _ in range(10_000):  # a read may find a part of a record only
        reader.read()
        bench.poll()
        if not reader.subscriber.queue:
            break
    reader.read()


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
    assert reader.subscriber.state is State.READY_TLS
    assert reader.subscriber.queued == 0
    last = bench.publish("b")
    assert reader.ids() == ids([*entries, last])


def test_a_stalled_tls_subscriber_is_dropped_at_the_timeout(bench: Bench, reader: Reader) -> None:
    bench.publish("a", data=LARGE)
    bench.tick(4.9)
    assert bench.gone == []
    bench.tick(0.1)
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
