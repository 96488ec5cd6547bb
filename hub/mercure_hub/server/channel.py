"""A connected socket, plain or TLS, read and written by a greenlet without blocking the others."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import ssl
import time
from collections.abc import Callable
from typing import Protocol

import gevent
from gevent.hub import Waiter

from mercure_hub.fanout.writer import unsent

READ, WRITE = 1, 2
_SIZE = 64 << 10  # bytes that are read at once
# Bytes that TLS is given at once, one record. Of more it tells nothing until the last byte is written, and a
# client that takes its time would look as if it took nothing.
_RECORD = 16 << 10


class Timeout(Exception):
    """The other side was silent for too long."""


class Channel:
    """A connected socket for one greenlet.

    A plain one is no more than its descriptor: an object of ``socket`` would ask the kernel for its own
    address, and most connections need it only until the engine has the descriptor.

    :param fd: descriptor of a socket that is connected and non-blocking.
    """

    __slots__ = ("_awaits", "_fd", "_has_sent", "_tls")

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._awaits = WRITE
        self._has_sent = False
        self._tls: ssl.SSLSocket | None = None

    def handshake(self, context: ssl.SSLContext, timeout: float) -> None:
        """Begin TLS as the server.

        :param timeout: seconds for all of it.
        :raises Timeout: it took longer.
        :raises OSError: it failed.
        """
        deadline = time.monotonic() + timeout
        fd, self._fd = self._fd, -1  # until the handshake can begin, who closes it is the socket's affair
        with contextlib.closing(socket.socket(fileno=fd)) as plain:
            plain.setblocking(False)  # or the TLS layer would make the descriptor a blocking one
            tls = context.wrap_socket(plain, server_side=True, do_handshake_on_connect=False)
        self._fd, self._tls = fd, tls
        while True:
            try:
                tls.do_handshake()
            except ssl.SSLWantReadError:
                self._wait(READ, deadline)
            except ssl.SSLWantWriteError:
                self._wait(WRITE, deadline)
            else:
                return

    def receive(self, timeout: float, most: int = _SIZE) -> bytes:
        """What has arrived, as soon as something has; empty at the end.

        :param timeout: seconds; under TLS a part of a record is nothing yet.
        :param most: bytes.
        :raises Timeout: nothing arrived.
        :raises OSError: the connection is broken.
        """
        deadline = time.monotonic() + timeout
        if self._has_sent and self._tls is None:
            # It is the other side's turn. And when a commit answers a hundred publishers, each has its
            # answer before the next request of the first is read: that wakes them once, not a hundred times.
            self._has_sent = False
            self._wait(READ, deadline)
        while True:
            try:
                return os.read(self._fd, most) if self._tls is None else self._tls.recv(most)
            except (BlockingIOError, ssl.SSLWantReadError):
                self._wait(READ, deadline)
            except ssl.SSLWantWriteError:
                self._wait(WRITE, deadline)

    def send(self, octets: bytes | memoryview, timeout: float) -> None:
        """Send all of it.

        :param timeout: seconds for which the other side may take nothing.
        :raises Timeout: it took nothing.
        :raises OSError: the connection is broken.
        """
        rest = memoryview(octets)
        deadline = 0.0
        while rest:
            sent = self.offer(rest)
            rest = rest[sent:]
            if sent or not deadline:
                deadline = time.monotonic() + timeout
            if rest:
                self._wait(self._awaits, deadline)

    def offer(self, octets: memoryview) -> int:
        """Send as much as goes without waiting.

        :returns: how many bytes that is. What is left has to be offered again, unchanged.
        :raises OSError: the connection is broken.
        """
        self._has_sent = True
        sent = 0
        while sent < len(octets):
            rest = octets[sent:]
            try:
                sent += os.write(self._fd, rest) if self._tls is None else self._tls.send(rest[:_RECORD])
            except (BlockingIOError, ssl.SSLWantWriteError):
                self._awaits = WRITE
                break
            except ssl.SSLWantReadError:
                self._awaits = READ
                break
        return sent

    def has_room(self, seconds: float) -> bool:
        """Wait until more can be offered.

        :returns: false when that takes longer.
        """
        return is_ready(self._fd, self._awaits, seconds)

    def unsent(self) -> int:
        """How many bytes the other side has not acknowledged."""
        return unsent(self._fd)

    def detach(self) -> tuple[int, ssl.SSLSocket | None]:
        """Give the descriptor away; the channel is of no more use."""
        fd, self._fd = self._fd, -1
        return fd, self._tls

    def end(self) -> None:
        """Have a greenlet that waits in ``receive`` see the end of the connection, after what has arrived.

        Only the receiving side ends: a request that is in the buffer already is read, and has to be answered.
        """
        self._shut(socket.SHUT_RD)

    def cut(self) -> None:
        """Have a greenlet that waits in ``send`` fail."""
        self._shut(socket.SHUT_RDWR)

    def _shut(self, how: int) -> None:
        with contextlib.suppress(OSError):
            sock = socket.socket(fileno=self._fd)
            try:
                sock.shutdown(how)
            finally:
                sock.detach()

    def close(self) -> None:
        """Close the connection."""
        fd, self._fd = self._fd, -1
        with contextlib.suppress(OSError):
            if self._tls is not None:
                self._tls.close()
            elif fd >= 0:
                os.close(fd)

    def _wait(self, events: int, deadline: float) -> None:
        if not is_ready(self._fd, events, max(deadline - time.monotonic(), 0.0)):
            raise Timeout


def is_ready(descriptor: int, events: int, timeout: float) -> bool:
    """Wait for a descriptor while the event loop goes on.

    :param events: ``READ`` or ``WRITE``.
    :param timeout: seconds to wait at most.
    :returns: false when it took longer.
    """
    hub = gevent.get_hub()
    waiter = Waiter(hub)
    watcher = hub.loop.io(descriptor, events)
    timer = hub.loop.timer(timeout)
    try:
        watcher.start(waiter.switch, True)
        timer.start(waiter.switch, False)
        # When the process stood still (SIGSTOP, a paused machine), the time is over at the first look.
        return bool(waiter.get()) or _is_ready_now(descriptor, events)
    finally:
        watcher.close()
        timer.close()


def _is_ready_now(descriptor: int, events: int) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN if events == READ else select.POLLOUT)
    return bool(poll.poll(0))


class Sending(Protocol):
    """What an outlet needs of a ``Channel``."""

    def offer(self, octets: memoryview) -> int:
        """Send as much as goes without waiting."""

    def has_room(self, seconds: float) -> bool:
        """Wait until more can be sent; false when it takes longer."""

    def unsent(self) -> int:
        """Bytes that the other side has not acknowledged."""


class Outlet:
    """The way of one subscriber's history.

    Whether it stands still is told by what it has acknowledged, see ``mercure_hub.fanout.writer.unsent``.

    :param channel: to the client.
    :param patience: seconds for which it may take nothing.
    :param clock: monotonic time in seconds.
    """

    def __init__(self, channel: Sending, patience: float, clock: Callable[[], float]) -> None:
        self._channel = channel
        self._patience = patience
        self._clock = clock
        self._still_since: float | None = None
        self._unsent = 0

    def offer(self, octets: memoryview) -> int:
        """Send as much as goes without waiting.

        :returns: how many bytes that is.
        :raises OSError: the connection is broken.
        """
        sent = self._channel.offer(octets)
        if sent:
            self._still_since = None
        return sent

    def wait(self, seconds: float) -> bool:
        """Wait for a moment, in which the client may make room.

        :param seconds: how long at most.
        :returns: it has made room; if not, it may have a little all the same.
        :raises Timeout: it has taken nothing for too long.
        :raises OSError: the connection is broken.
        """
        if self._still_since is None:
            self._still_since = self._clock()
            self._unsent = self._channel.unsent()
        if self._channel.has_room(min(seconds, self._patience)):
            self._still_since = None
            return True
        unsent = self._channel.unsent()
        if unsent < self._unsent:
            self._still_since = self._clock()
        elif self._clock() - self._still_since >= self._patience:
            raise Timeout
        self._unsent = unsent
        return False
