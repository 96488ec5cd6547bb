"""A connected socket, plain or TLS, read and written by a greenlet without blocking the others."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from typing import Protocol

import gevent
from gevent.hub import Waiter

from mercure_hub.fanout.tls import TlsLayer, TlsServer
from mercure_hub.fanout.writer import unsent

READ, WRITE = 1, 2
_SIZE = 64 << 10  # bytes that are read at once


class Timeout(Exception):
    """The other side was silent for too long."""


class Channel:
    """A connected socket for one greenlet.

    Without TLS it holds only the descriptor: a ``socket`` object would ask the kernel for its address, and
    most connections need it only until the engine takes the descriptor over.

    :param fd: descriptor of a socket that is connected and non-blocking.
    """

    __slots__ = ("_awaits", "_fd", "_has_sent", "_reading", "_tls")

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._awaits = WRITE
        self._has_sent = False
        self._tls: TlsLayer | None = None
        self._reading: Watcher | None = None  # one for all waits: to make it costs more than to start it

    def handshake(self, server: TlsServer, timeout: float) -> None:
        """Begin TLS as the server.

        :param server: knows the certificate.
        :param timeout: seconds for all of it.
        :raises Timeout: it took longer.
        :raises OSError: it failed.
        """
        deadline = time.monotonic() + timeout
        fd, self._fd = self._fd, -1  # a failure closes it, and its number may be in use again
        tls = self._tls = server.accept(fd)
        self._fd = fd
        while True:
            try:
                tls.do_handshake()
            except ssl.SSLWantReadError:
                self._wait(READ, deadline)
            except ssl.SSLWantWriteError:
                self._wait(WRITE, deadline)
            else:
                self._tls = tls.established()
                return

    def take(self, most: int) -> bytes | None:
        """What has arrived, without waiting for more.

        :param most: bytes to return at most.
        :returns: empty at the end of the connection; ``None`` when it has to be waited for. That is also so
            after bytes were sent (see ``receive``), and under TLS.
        :raises OSError: the connection is broken.
        """
        if self._has_sent or self._tls is not None:
            return None
        try:
            return os.read(self._fd, most)
        except BlockingIOError:
            return None

    def receive(self, timeout: float, most: int = _SIZE) -> bytes:
        """Wait for bytes from the client.

        :param timeout: seconds; under TLS an incomplete record does not count.
        :param most: bytes to return at most.
        :returns: what has arrived; empty at the end of the connection.
        :raises Timeout: nothing arrived.
        :raises OSError: the connection is broken.
        """
        deadline = time.monotonic() + timeout
        if self._has_sent and self._tls is None:
            # It is the other side's turn. Also, when a commit answers a hundred publishers, all get their
            # answers before the next request of the first is read: each is woken once, not a hundred times.
            self._has_sent = False
            self._wait(READ, deadline)
        while True:
            try:
                return os.read(self._fd, most) if self._tls is None else self._tls.recv(most)
            except (BlockingIOError, ssl.SSLWantReadError):
                self._wait(READ, deadline)
            except ssl.SSLWantWriteError:
                self._wait(WRITE, deadline)

    def send(self, content: bytes | memoryview, timeout: float) -> None:
        """Send bytes, and wait until all are sent.

        :param timeout: seconds for which the other side may take nothing.
        :raises Timeout: it took nothing.
        :raises OSError: the connection is broken.
        """
        rest = memoryview(content)
        deadline = 0.0
        while True:
            sent = self.offer(rest)
            if sent == len(rest):
                return
            rest = rest[sent:]
            if sent or not deadline:
                deadline = time.monotonic() + timeout
            self._wait(self._awaits, deadline)

    def offer(self, content: memoryview) -> int:
        """Send as much as possible without waiting.

        :returns: bytes sent. The rest has to be offered again, unchanged.
        :raises OSError: the connection is broken.
        """
        self._has_sent = True
        sent, rest = 0, content
        while rest:
            try:
                sent += os.write(self._fd, rest) if self._tls is None else self._tls.send(rest)
            except (BlockingIOError, ssl.SSLWantWriteError):
                self._awaits = WRITE
                break
            except ssl.SSLWantReadError:
                self._awaits = READ
                break
            rest = content[sent:]
        return sent

    def has_room(self, seconds: float) -> bool:
        """Wait until more can be offered.

        :returns: false when that takes longer.
        """
        return is_ready(self._fd, self._awaits, seconds)

    @contextlib.contextmanager
    def watched(self, on_end: Callable[[], None]) -> Iterator[None]:
        """Call a function when the other side ends the connection, unless it sends something before."""
        watcher = gevent.get_hub().loop.io(self._fd, READ)

        def look() -> None:
            watcher.stop()
            if _has_ended(self._fd):
                on_end()

        watcher.start(look)
        try:
            yield
        finally:
            watcher.close()

    def unsent(self) -> int:
        """How many bytes the other side has not acknowledged."""
        return unsent(self._fd)

    def detach(self) -> tuple[int, TlsLayer | None]:
        """Give the descriptor away; the channel must not be used afterwards."""
        self._forget_watcher()
        fd, self._fd = self._fd, -1
        return fd, self._tls

    def end(self) -> None:
        """Let a greenlet that waits in ``receive`` see the end of the connection, after what has arrived.

        Only the receiving side ends: a request that has arrived is still read, and has to be answered.
        """
        self._shut(socket.SHUT_RD)

    @property
    def speaks_http2(self) -> bool:
        """Whether HTTP/2 was agreed on with TLS (RFC 7301)."""
        return self._tls is not None and self._tls.selected_alpn_protocol() == "h2"

    def finish(self) -> None:
        """Tell the other side that nothing more is sent."""
        self._shut(socket.SHUT_WR)

    def cut(self) -> None:
        """Let a greenlet that waits in ``send`` fail."""
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
        self._forget_watcher()
        fd, self._fd = self._fd, -1
        with contextlib.suppress(OSError):
            if self._tls is not None:
                self._tls.close()
            elif fd >= 0:
                os.close(fd)

    def _wait(self, events: int, deadline: float) -> None:
        timeout = max(deadline - time.monotonic(), 0.0)
        if events != READ:
            in_time = is_ready(self._fd, events, timeout)
        else:
            if self._reading is None:
                self._reading = gevent.get_hub().loop.io(self._fd, READ)
            in_time = _has_fired(self._reading, timeout) or _is_ready_now(self._fd, READ)
        if not in_time:
            raise Timeout

    def _forget_watcher(self) -> None:
        watcher, self._reading = self._reading, None
        if watcher is not None:
            watcher.close()


class Watcher(Protocol):
    """Calls a function when a descriptor is ready."""

    def start(self, callback: Callable[..., object], *values: object) -> object:
        """Begin to watch."""

    def stop(self) -> object:
        """Watch no more, until the next start."""

    def close(self) -> object:
        """Stop for good."""


def is_ready(descriptor: int, events: int, timeout: float) -> bool:
    """Wait for a descriptor while the event loop goes on.

    :param events: ``READ`` or ``WRITE``.
    :param timeout: seconds to wait at most.
    :returns: false when it took longer.
    """
    watcher = gevent.get_hub().loop.io(descriptor, events)
    try:
        # After a pause of the process (SIGSTOP, a suspended machine), both may be due: readiness counts.
        return _has_fired(watcher, timeout) or _is_ready_now(descriptor, events)
    finally:
        watcher.close()


def _has_fired(watcher: Watcher, timeout: float) -> bool:
    hub = gevent.get_hub()
    waiter = Waiter(hub)
    timer = hub.loop.timer(timeout)
    try:
        watcher.start(waiter.switch, True)
        timer.start(waiter.switch, False)
        return bool(waiter.get())
    finally:
        watcher.stop()
        timer.close()


def _has_ended(descriptor: int) -> bool:
    """Whether the other side sends no more; only Linux tells that before what it has sent is read."""
    poll = select.poll()
    poll.register(descriptor, getattr(select, "POLLRDHUP", select.POLLIN))
    if not poll.poll(0):
        return False
    return hasattr(select, "POLLRDHUP") or not _has_input(descriptor)


def _has_input(descriptor: int) -> bool:
    sock = socket.socket(fileno=descriptor)
    try:
        return bool(sock.recv(1, socket.MSG_PEEK))
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        sock.detach()


def _is_ready_now(descriptor: int, events: int) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN if events == READ else select.POLLOUT)
    return bool(poll.poll(0))


class Sending(Protocol):
    """What an outlet needs of a ``Channel``."""

    def offer(self, content: memoryview) -> int:
        """Send as much as possible without waiting."""

    def has_room(self, seconds: float) -> bool:
        """Wait until more can be sent; false when that takes longer."""

    def unsent(self) -> int:
        """Bytes that the other side has not acknowledged."""


class Outlet:
    """Sends history to a client, which may be slow, but must not stop reading.

    A client counts as stopped when it acknowledges nothing; see ``mercure_hub.fanout.writer.unsent``.

    :param channel: to the client.
    :param patience: seconds for which the client may take nothing.
    :param clock: monotonic time in seconds.
    """

    def __init__(self, channel: Sending, patience: float, clock: Callable[[], float]) -> None:
        self._channel = channel
        self._patience = patience
        self._clock = clock
        self._stopped_at: float | None = None
        self._unsent = 0

    def offer(self, content: memoryview) -> int:
        """Send as much as possible without waiting.

        :returns: bytes sent.
        :raises OSError: the connection is broken.
        """
        sent = self._channel.offer(content)
        if sent:
            self._stopped_at = None
        return sent

    def wait(self, seconds: float) -> bool:
        """Wait until the client makes room.

        :param seconds: at most.
        :returns: it has made room; if false, it may still have made a little.
        :raises Timeout: it has taken nothing for too long.
        :raises OSError: the connection is broken.
        """
        if self._stopped_at is None:
            self._stopped_at = self._clock()
            self._unsent = self._channel.unsent()
        if self._channel.has_room(min(seconds, self._patience)):
            self._stopped_at = None
            return True
        unsent = self._channel.unsent()
        if unsent < self._unsent:
            self._stopped_at = self._clock()
        elif self._clock() - self._stopped_at >= self._patience:
            raise Timeout
        self._unsent = unsent
        return False
