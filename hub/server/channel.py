"""A connected socket, plain or TLS, read and written by a greenlet without blocking the others."""

from __future__ import annotations

import contextlib
import socket
import ssl

import gevent
from gevent.hub import Waiter

_READ, _WRITE = 1, 2
_SIZE = 64 << 10


class Timeout(Exception):
    """The other side was silent for too long."""


class Channel:
    """A socket for one greenlet.

    :param sock: connected and non-blocking.
    """

    __slots__ = ("_sock",)

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    @property
    def tls(self) -> ssl.SSLSocket | None:
        """The TLS layer, if there is one."""
        return self._sock if isinstance(self._sock, ssl.SSLSocket) else None

    def handshake(self, context: ssl.SSLContext, timeout: float) -> None:
        """Begin TLS as the server.

        :raises OSError: the handshake failed.
        """
        tls = context.wrap_socket(self._sock, server_side=True, do_handshake_on_connect=False)
        self._sock = tls
        while True:
            try:
                tls.do_handshake()
            except ssl.SSLWantReadError:
                self._wait(_READ, timeout)
            except ssl.SSLWantWriteError:
                self._wait(_WRITE, timeout)
            else:
                return

    def receive(self, timeout: float) -> bytes:
        """What has arrived, as soon as something has; empty at the end.

        :param timeout: seconds.
        :raises Timeout: nothing arrived.
        :raises OSError: the connection is broken.
        """
        while True:
            try:
                return self._sock.recv(_SIZE)
            except (BlockingIOError, ssl.SSLWantReadError):
                self._wait(_READ, timeout)
            except ssl.SSLWantWriteError:
                self._wait(_WRITE, timeout)

    def send(self, octets: bytes, timeout: float) -> None:
        """Send all of it.

        :param timeout: seconds for which the other side may take nothing.
        :raises Timeout: it took nothing.
        :raises OSError: the connection is broken.
        """
        rest = memoryview(octets)
        while rest:
            try:
                rest = rest[self._sock.send(rest) :]
            except (BlockingIOError, ssl.SSLWantWriteError):
                self._wait(_WRITE, timeout)
            except ssl.SSLWantReadError:
                self._wait(_READ, timeout)

    def detach(self) -> tuple[int, ssl.SSLSocket | None]:
        """Give the descriptor away; the channel is of no more use."""
        tls = self.tls
        if tls is not None:
            return tls.fileno(), tls
        return self._sock.detach(), None

    def end(self) -> None:
        """Have a greenlet that waits in ``receive`` see the end of the connection."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection."""
        with contextlib.suppress(OSError):
            self._sock.close()

    def _wait(self, events: int, timeout: float) -> None:
        hub = gevent.get_hub()
        waiter = Waiter(hub)
        watcher = hub.loop.io(self._sock.fileno(), events)
        timer = hub.loop.timer(timeout)
        try:
            watcher.start(waiter.switch, True)
            timer.start(waiter.switch, False)
            if not waiter.get():
                raise Timeout
        finally:
            watcher.close()
            timer.close()
