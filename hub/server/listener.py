"""Accepts connections and gives each a greenlet."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
import sys

import gevent

from hub.server.connection import Connection, Site

_ACCEPTS = 200  # in one turn of the event loop
_BACKLOG = 4096
_PAUSE = 0.1  # seconds without accepting when the process has no descriptor left

_log = logging.getLogger("hub.server")


def bind(host: str, port: int, *, is_shared: bool = False) -> socket.socket:
    """A listening socket.

    :param host: address or host name; empty for all IPv4 addresses.
    :param port: 0 for any that is free.
    :param is_shared: other sockets of this user may be bound to the same port.
    :raises OSError: the address is not there or in use.
    """
    family, kind, _, _, address = socket.getaddrinfo(
        host or None,
        port,
        type=socket.SOCK_STREAM,
        flags=socket.AI_PASSIVE,
    )[0]
    listening = socket.socket(family, kind)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if is_shared:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        # Both are inherited or apply to accepted sockets. An answer is one send, so nothing is gained
        # by waiting for more; and a connection is of no interest before its request arrives.
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 5)
        listening.bind(address)
        listening.listen(_BACKLOG)
        listening.setblocking(False)
    except OSError:
        listening.close()
        raise
    return listening


class Listener:
    """Serves the connections of a listening socket.

    :param site: what they share.
    :param listening: from ``bind``.
    """

    def __init__(self, site: Site, listening: socket.socket) -> None:
        self._site = site
        self._listening = listening
        self._loop = gevent.get_hub().loop
        self._watcher = self._loop.io(listening.fileno(), 1)
        self._connections: set[Connection] = set()

    def start(self) -> None:
        """Begin to accept."""
        self._watcher.start(self._accept)

    def stop(self) -> None:
        """Accept no more, and end the connections that are idle; again, it does nothing."""
        if self._listening.fileno() < 0:
            return
        self._watcher.stop()
        self._watcher.close()
        self._accept()  # those who wait have sent their request: the kernel would reset them
        self._listening.close()
        for connection in list(self._connections):
            connection.stop()

    def drain(self, timeout: float) -> None:
        """Wait until the requests that have begun are answered.

        :param timeout: seconds to wait at most.
        """
        with gevent.Timeout(timeout, False):
            while self._connections:
                gevent.sleep(0.01)

    def _accept(self) -> None:
        for _ in range(_ACCEPTS):
            try:
                sock, address = self._listening.accept()
            except BlockingIOError:
                return
            except OSError as error:
                self._on_failure(error)
                return
            sock.setblocking(False)
            # Interned: behind a proxy thousands of subscribers have the same one.
            peer = sys.intern(str(address[0])) if isinstance(address, tuple) else ""
            connection = Connection(self._site, sock, peer)
            self._connections.add(connection)
            gevent.spawn_raw(self._serve, connection)

    def _serve(self, connection: Connection) -> None:
        try:
            connection.run()
        finally:
            self._connections.discard(connection)

    def _on_failure(self, error: OSError) -> None:
        if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
            return  # the client was gone before it was accepted
        _log.error("no connection can be accepted now: %s", os.strerror(error.errno))
        self._watcher.stop()
        timer = self._loop.timer(_PAUSE)

        def resume() -> None:
            timer.close()
            with contextlib.suppress(ValueError):
                self._watcher.start(self._accept)

        timer.start(resume)
