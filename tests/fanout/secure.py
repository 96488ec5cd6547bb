"""Subscribers over TLS, whoever seals their records."""

from __future__ import annotations

import select
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path

import pytest

from mercure_hub.fanout.kernel_tls import KernelTlsServer, obstacle, shake_hands
from mercure_hub.fanout.tls import TlsLayer, TlsServer
from mercure_hub.protocol.matching.matcher import Matcher
from mercure_hub.protocol.websocket import WebSocket
from tests.fanout.bench import FOREVER, Bench, Reader, loopback_pair, subscriber


@dataclass(frozen=True)
class Contexts:
    """Both sides of TLS.

    :param in_kernel: the kernel seals.
    :param over_tcp: the sockets are those of TCP, which kTLS takes.
    """

    server: TlsServer
    client: ssl.SSLContext
    in_kernel: bool = False
    over_tcp: bool = False

    def pair(self) -> tuple[socket.socket, socket.socket]:
        """Both ends of a connection that holds little."""
        pair = loopback_pair() if self.over_tcp else socket.socketpair()
        for sock in pair:
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            if self.over_tcp:  # TCP with a tiny window waits for its timers
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return pair

    def shaken(self) -> tuple[TlsLayer, ssl.SSLSocket]:
        """Both ends of a connection after the handshake."""
        pair = self.pair()
        ours = self.server.accept(pair[0].detach())
        theirs = self.client.wrap_socket(
            pair[1],
            server_hostname="127.0.0.1",
            do_handshake_on_connect=False,
            suppress_ragged_eofs=False,
        )
        ours = shake_hands(theirs, ours, patience=10.0)
        assert ours.is_sealed_by_kernel is self.in_kernel
        return ours, theirs


def server_context(pem: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    return context


def client_context(pem: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(pem))


def in_kernel(pem: Path) -> Contexts:
    """The kernel seals; without kTLS, the test is skipped."""
    if reason := obstacle(server_context(pem)):
        pytest.skip(f"no kTLS here: {reason}")
    return Contexts(KernelTlsServer(server_context(pem)), client_context(pem), in_kernel=True, over_tcp=True)


def connect(
    bench: Bench,
    contexts: Contexts,
    *matchers: Matcher,
    ends_at: float = FOREVER,
    websocket: WebSocket | None = None,
) -> Reader:
    """A subscriber over TLS."""
    ours, theirs = contexts.shaken()
    bench.adopt(theirs)
    reader = Reader(theirs, subscriber(*matchers, ends_at=ends_at), ours)
    reader.subscriber.websocket = websocket
    return reader


def read_all(bench: Bench, reader: Reader) -> None:
    """Read until nothing is queued for a subscriber."""
    for _ in range(10_000):  # a read may find a part of a record only
        received = reader.read()
        bench.poll()
        if not reader.subscriber.queue:
            break
        if not received:
            select.select([reader.sock], [], [], 0.01)  # the kernel may seal later
    assert not reader.subscriber.queue
    reader.read()
