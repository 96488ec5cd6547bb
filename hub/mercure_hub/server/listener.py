"""Accepts connections, and lets a few greenlets serve them.

A greenlet per connection would cost more than most connections need: the request of a subscriber has arrived
before it is accepted, is answered without waiting, and then the engine takes the descriptor. So its greenlet
goes on with the next connection; another one is needed only while a connection waits for its client.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
import sys
import time
from collections import deque
from typing import TYPE_CHECKING

import gevent
from gevent import getcurrent
from greenlet import greenlet  # type: ignore[import-untyped]

from mercure_hub.fanout.tls import TlsLayer
from mercure_hub.server.connection import ClientConnection
from mercure_hub.server.site import Site

if TYPE_CHECKING:
    from mercure_hub.server.http2.session import Sessions

_ACCEPTS = 100  # in one turn of the event loop
_IDLE = 16  # greenlets that wait for a connection; each holds some 20 KiB
_PAUSE = 0.1  # seconds without accepting when no descriptor is left
_SPARE = 16  # connections to end then, of those that wait for their clients
_NOTICE = 60.0  # seconds between two log lines about that

_log = logging.getLogger("mercure_hub.server")


class Listener:
    """Serves the connections of a listening socket.

    :param site: what the connections share.
    :param listening: from ``sockets.bind``.
    """

    def __init__(self, site: Site, listening: socket.socket) -> None:
        self._site = site
        self._listening = listening
        self._hub = gevent.get_hub()
        self._loop = self._hub.loop
        self._watcher = self._loop.io(listening.fileno(), 1)
        self._connections: set[ClientConnection] = set()
        self._accepted: deque[ClientConnection] = deque()
        self._sessions: Sessions | None = None
        self._idle: list[greenlet] = []
        self._is_stopped = False
        self._noticed_at: float | None = None

    def start(self) -> None:
        """Begin to accept."""
        self._watcher.start(self._accept)

    def stop(self) -> None:
        """Accept no more, and end idle connections. A second call does nothing."""
        if self._listening.fileno() < 0:
            return
        self._watcher.stop()
        self._watcher.close()
        self._accept()  # waiting clients have sent their requests: the kernel would reset them
        self._listening.close()
        for connection in list(self._connections):
            connection.stop()
        if self._sessions is not None:
            self._sessions.stop()
        self._is_stopped = True
        self._loop.run_callback(self._dismiss)

    def drain(self, timeout: float) -> None:
        """Wait until all requests that have begun are answered.

        :param timeout: seconds to wait at most.
        """
        with gevent.Timeout(timeout, False):
            while self._connections or (self._sessions is not None and self._sessions.is_busy):
                gevent.sleep(0.01)

    def _multiplex(self, fd: int, tls: TlsLayer | None, peer: str, received: bytes) -> None:
        """Serve a connection that speaks HTTP/2."""
        if self._sessions is None:
            # Imported late, because many hubs never need it.
            from mercure_hub.server.http2.session import Sessions  # noqa: PLC0415

            self._sessions = Sessions(self._site)
            if self._is_stopped:
                self._sessions.stop()
        self._sessions.begin(fd, tls, peer, received)

    def _accept(self) -> None:
        self._take_waiting()
        if self._accepted:
            self._loop.run_callback(self._hand_out)

    def _take_waiting(self) -> None:
        for _ in range(_ACCEPTS):
            try:
                # Not accept(), which creates a socket object; see Channel.
                fd, address = self._listening._accept()  # type: ignore[attr-defined]
            except BlockingIOError:
                return
            except OSError as error:
                self._on_failure(error)
                return
            os.set_blocking(fd, False)
            # Interned: behind a proxy, thousands of subscribers have the same address.
            peer = sys.intern(str(address[0])) if isinstance(address, tuple) else ""
            connection = ClientConnection(self._site, fd, peer, self._multiplex)
            self._connections.add(connection)
            self._accepted.append(connection)

    def _hand_out(self) -> None:
        """Give each connection to a greenlet; runs in the event loop, which goes on when one waits."""
        while self._accepted:
            worker = self._idle.pop() if self._idle else greenlet(self._work, self._hub)
            worker.switch()

    def _work(self) -> None:
        # The connection is no argument: an idle greenlet would keep it alive.
        while self._accepted:
            self._serve_one()
            if len(self._idle) < _IDLE and not self._is_stopped:
                self._idle.append(getcurrent())
                self._hub.switch()

    def _serve_one(self) -> None:
        connection = self._accepted.popleft()
        try:
            connection.run()
        finally:
            self._connections.discard(connection)

    def _dismiss(self) -> None:
        while self._idle:
            self._idle.pop().switch()

    def _on_failure(self, error: OSError) -> None:
        if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
            return  # the client left before it was accepted
        now = time.monotonic()
        if self._noticed_at is None or now - self._noticed_at >= _NOTICE:
            _log.error(
                "connections have to wait until they are accepted: %s; allow more descriptors (LimitNOFILE, "
                "ulimit -n), or set MERCURE_MAX_CONNECTIONS",
                os.strerror(error.errno),
            )
            self._noticed_at = now
        self._site.open_requests.make_room(_SPARE)
        self._watcher.stop()
        timer = self._loop.timer(_PAUSE)

        def resume() -> None:
            timer.close()
            with contextlib.suppress(ValueError):
                self._watcher.start(self._accept)

        timer.start(resume)
