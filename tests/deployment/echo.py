"""An upgrade through a proxy, against a server in the hub's place that sends back what it gets."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tests.deployment.front import Front, unverified
from tests.hub.running import TIMEOUT


def check_upgrade(front: Front, hub_port: int) -> None:
    """Octets go both ways, once the server has agreed, and no client waits for the end of anything."""
    with _echo(hub_port), socket.create_connection(("127.0.0.1", front.https), TIMEOUT) as plain:
        context = unverified()
        context.set_alpn_protocols(["http/1.1"])
        with context.wrap_socket(plain, server_hostname="localhost") as client:
            client.sendall(
                f"GET {front.path}?match=a HTTP/1.1\r\nHost: 127.0.0.1:{front.https}\r\n"
                "Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
                "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
            )
            head = _until(client, b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 101 "), head
            for text in (b"one", b"two"):
                client.sendall(text)
                assert _until(client, text) == text


@contextmanager
def _echo(port: int) -> Iterator[None]:
    """A server in the hub's place that agrees to an upgrade and sends back what it gets."""
    with socket.create_server(("127.0.0.1", port)) as listener:
        listener.settimeout(TIMEOUT)

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(TIMEOUT)
                head = _until(connection, b"\r\n\r\n").lower()
                assert b"\r\nupgrade: websocket\r\n" in head, head
                connection.sendall(
                    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
                )
                while octets := connection.recv(1000):
                    connection.sendall(octets)

        thread = threading.Thread(target=serve)
        thread.start()
        yield
        thread.join(TIMEOUT)
        assert not thread.is_alive()


def _until(sock: socket.socket | ssl.SSLSocket, end: bytes) -> bytes:
    received = b""
    while not received.endswith(end):
        octets = sock.recv(1000)
        assert octets, received
        received += octets
    return received
