"""Connections that were told their end and may answer: closed at once, they could lose what they were told.

A socket that is closed while something of the client is unread, or still comes, is reset by the kernel, and a
reset discards what the client has not read. So the sending half ends first (RFC 6455 section 7.1.1).
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl

_PATIENCE = 2.0  # seconds
_PIECE = 4096
_MOST = 16  # pieces of what a client goes on to send


class Parting:
    """Sockets that wait for the other side to end."""

    def __init__(self) -> None:
        self._open: dict[int, tuple[socket.socket, float]] = {}

    def add(self, fd: int, tls: ssl.SSLSocket | None, now: float) -> None:
        """Take over a socket and end its sending half.

        :param now: monotonic time in seconds.
        """
        sock: socket.socket
        if tls is None:
            sock = socket.socket(fileno=fd)
        else:
            sock = tls
            with contextlib.suppress(OSError, ValueError):
                tls.unwrap()  # tells that the stream ends here; does not wait for the answer
        self._open[fd] = sock, now + _PATIENCE
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_WR)
        self.on_event(fd)

    def on_event(self, fd: int) -> None:
        """Read what a socket has, for nobody; close it at its end."""
        if fd not in self._open:
            return
        try:
            for _ in range(_MOST):
                if not os.read(fd, _PIECE):
                    break
        except BlockingIOError:
            return
        except OSError:
            pass
        self._end(fd)

    def tick(self, now: float) -> None:
        """Close those that have had their time."""
        for fd, (_, deadline) in list(self._open.items()):
            if now >= deadline:
                self._end(fd)

    def close(self) -> None:
        """Close all."""
        for fd in list(self._open):
            self._end(fd)

    def _end(self, fd: int) -> None:
        sock, _ = self._open.pop(fd)
        with contextlib.suppress(OSError):
            sock.close()
