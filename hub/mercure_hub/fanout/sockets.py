"""The connected sockets: what the kernel reports about them, and what is due at a certain time.

A client that leaves is noticed at once, on quiet topics too (``readiness``). Heartbeats and ends of
connections wait in a timetable by the second, without a timer for each.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
from collections.abc import Callable, Iterator

from mercure_hub.fanout.encoding import HEARTBEATS, pong
from mercure_hub.fanout.endings import Ending, Reason, ending_of
from mercure_hub.fanout.multiplexed import Multiplexed, Reader
from mercure_hub.fanout.output import SLICE, Output
from mercure_hub.fanout.readiness import Loop, Readiness
from mercure_hub.fanout.subscriber import State, Subscriber
from mercure_hub.fanout.tls import TlsLayer
from mercure_hub.protocol.http2 import Code
from mercure_hub.protocol.websocket import Violation, WebSocket

_LOOK = 60.0  # seconds between two looks at a subscriber when there are no heartbeats
_INCOMING = 1024  # bytes that are read of a WebSocket at once
_LINGER = 2.0  # seconds
_DISCARDED = 16  # pieces that are discarded at once
_PIECE = 4096  # bytes of one

_QUEUED = State.QUEUED  # as in output.py


class Sockets:
    """The descriptors of all subscribers.

    :param output: writes to them.
    :param readiness: tells which of them have something to read or to write.
    :param clock: monotonic time in seconds.
    :param end: called with a subscriber whose stream has to end in order.
    :param drop: called with a subscriber whose connection is broken.
    :param heartbeat: seconds between two heartbeats; 0 for none.
    """

    def __init__(
        self,
        output: Output,
        readiness: Readiness,
        clock: Callable[[], float],
        end: Callable[[Subscriber, Ending], None],
        drop: Callable[[Subscriber, Ending], None],
        *,
        heartbeat: float,
    ) -> None:
        self._output = output
        self._clock = clock
        self._end = end
        self._drop = drop
        self._heartbeat = heartbeat
        self._readiness = readiness
        readiness.report = self._look
        self._by_fd = ByDescriptor()
        self._connections: dict[int, Multiplexed] = {}
        self._on_streams = 0  # subscribers
        self._timetable = Timetable(clock())
        self._lingering = Lingering(readiness.remove)

    def __len__(self) -> int:
        return self._by_fd.count + self._on_streams

    def __iter__(self) -> Iterator[Subscriber]:
        yield from self._by_fd.all()
        for connection in list(self._connections.values()):
            yield from connection.subscriptions()

    def attach(self, loop: Loop) -> None:
        """Handle from now on what the event loop reports."""
        self._readiness.attach(loop)

    def add(self, subscriber: Subscriber) -> None:
        """Watch a subscriber's socket.

        :raises OSError: the kernel's limits are reached.
        """
        if subscriber.stream is not None:
            subscriber.stream.sender = subscriber
            self._on_streams += 1
            self._schedule(subscriber, self._clock())
            return
        self._by_fd.put(subscriber)
        self._readiness.add(subscriber.fd, reads=subscriber.websocket is not None)
        self._schedule(subscriber, self._clock())

    def close(self, subscriber: Subscriber, *, linger: bool) -> None:
        """Close a subscriber's socket.

        :param linger: the client was told of the end and may answer; a stream ends in order.
        """
        stream, subscriber.stream = subscriber.stream, None
        if stream is not None:
            self._on_streams -= 1
            if linger:
                stream.connection.end(stream)
            else:
                stream.connection.reset(stream, Code.CANCEL)
            self._output.flush_connection(stream.connection, self._clock())
            return
        fd, tls = subscriber.fd, subscriber.tls
        self._by_fd.remove(fd)
        subscriber.fd, subscriber.tls = -1, None
        self._close(fd, tls, linger=linger)

    def _close(self, fd: int, tls: TlsLayer | None, *, linger: bool) -> None:
        if tls is not None:
            with contextlib.suppress(OSError, ValueError):
                tls.unwrap()  # tells that the stream ends here; does not wait for the answer
        if linger:
            self._lingering.add(fd, tls, self._clock())
            return
        self._readiness.remove(fd)
        with contextlib.suppress(OSError):
            os.close(fd) if tls is None else tls.close()

    def connect(self, fd: int, tls: TlsLayer | None, reader: Reader) -> Multiplexed:
        """Watch a connection that carries many streams.

        :raises OSError: the kernel's limits are reached.
        """
        self._readiness.add(fd, reads=True)
        connection = self._connections[fd] = Multiplexed(fd, tls, self._clock(), reader, self.disconnect)
        return connection

    def disconnect(self, connection: Multiplexed, ending: Ending, *, linger: bool = False) -> None:
        """Close a connection with all its streams.

        :param linger: the client was told of the end and may still send.
        """
        if connection.fd < 0:
            return
        fd, tls = connection.forget()
        self._connections.pop(fd, None)
        for subscriber in connection.subscriptions():
            self._drop(subscriber, ending)
        self._close(fd, tls, linger=linger)
        reader, connection.reader = connection.reader, None  # they refer to each other
        if reader is not None:
            reader.lost()
        self._output.forget_connection(connection)

    def close_all(self) -> None:
        """Close sockets that linger, and watch none; the subscribers have to be dropped before."""
        for connection in list(self._connections.values()):
            self.disconnect(connection, Ending(Reason.HUB_STOPS))
        self._lingering.close()
        self._readiness.close()

    # -- what the kernel reports -----------------------------------------------------------------------------

    def _look(self, fd: int, has_input: bool, has_left: bool) -> None:
        """Handle a client that left or sent something, or a socket that may be writable again."""
        subscriber = self._by_fd.get(fd)
        if subscriber is None:
            self._look_at_connection(fd, has_input or has_left)
            return
        if has_input:
            self._receive(subscriber)
        if has_left:
            self._drop(subscriber, Ending(Reason.CLOSED_BY_CLIENT))
        elif subscriber.state is _QUEUED:
            self._output.flush(subscriber, self._clock())

    def _look_at_connection(self, fd: int, has_input: bool) -> None:
        """Handle a connection that carries many streams, or one that only waits for its end."""
        connection = self._connections.get(fd)
        if connection is None:
            self._lingering.discard_input(fd)
            return
        if connection.is_full:
            self._output.flush_connection(connection, self._clock())
        if has_input and connection.reader is not None:
            connection.reader.receive()

    def _receive(self, subscriber: Subscriber) -> None:
        """Read what a client sends: over its WebSocket as much as it may, or its connection ends."""
        pieces = 0
        while subscriber.is_connected:
            try:
                data = _read(subscriber)
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return
            except OSError as error:
                self._drop(subscriber, ending_of(error))
                return
            if not data:
                self._drop(subscriber, Ending(Reason.CLOSED_BY_CLIENT))
                return
            if subscriber.websocket is not None:
                self._take(subscriber, subscriber.websocket, data)
                continue
            pieces += 1  # the client of an event stream has nothing more to say; the rest is reported again
            if pieces == _DISCARDED:
                return

    def _take(self, subscriber: Subscriber, websocket: WebSocket, data: bytes) -> None:
        ping, close = websocket.take(data)
        if isinstance(close, Violation):
            self._end(subscriber, Ending(Reason.PROTOCOL_VIOLATION, close.text, close.code))
        elif close is not None:
            self._end(subscriber, Ending(Reason.CLOSED_BY_CLIENT, answer=close.code))
        elif ping is not None:
            self._output.send(subscriber, pong(ping))

    # -- what is due -----------------------------------------------------------------------------------------

    def tick(self) -> Iterator[None]:
        """Send heartbeats, end connections whose time is over, drop those that stall.

        :returns: an iterator to exhaust; each step is one slice.
        """
        now = self._clock()
        self._lingering.tick(now)
        self._output.check_stalled(now)
        for count, subscriber in enumerate(self._timetable.take(now), 1):
            self._attend(subscriber, now)
            if count % SLICE == 0:
                self._output.flush_touched()
                yield
        self._output.flush_touched()

    def _attend(self, subscriber: Subscriber, now: float) -> None:
        websocket = subscriber.websocket
        if now + 1 > subscriber.ends_at:
            is_of_token = websocket is not None and websocket.ends_with_token
            self._end(subscriber, Ending(Reason.TOKEN_EXPIRED if is_of_token else Reason.TIME_IS_OVER))
            return
        if websocket is not None:
            websocket.renew()
        if self._heartbeat and subscriber.state is not _QUEUED:
            self._output.send(subscriber, HEARTBEATS[subscriber.form])
        if subscriber.is_connected:
            self._schedule(subscriber, now)

    def _schedule(self, subscriber: Subscriber, now: float) -> None:
        # Never far ahead: the timetable keeps those who left until their second comes.
        interval = self._heartbeat or _LOOK
        if subscriber.stream is not None:  # all streams of a connection together: one write
            # In whole seconds, as the timetable counts: it is early by a part of one.
            interval -= (int(now) - int(subscriber.stream.connection.opened_at)) % interval
        self._timetable.put(subscriber, min(subscriber.ends_at, now + interval))


class ByDescriptor:
    """Subscribers by their descriptor, a small number: a dict would take four times the memory.

    ``count`` is how many there are.
    """

    def __init__(self) -> None:
        self.count = 0
        self._places: list[Subscriber | None] = []

    def put(self, subscriber: Subscriber) -> None:
        """Enter a subscriber at its descriptor, where none is."""
        missing = subscriber.fd + 1 - len(self._places)
        if missing > 0:
            self._places += [None] * missing
        self._places[subscriber.fd] = subscriber
        self.count += 1

    def get(self, fd: int) -> Subscriber | None:
        """The subscriber with a descriptor, if there is one."""
        return self._places[fd] if fd < len(self._places) else None

    def remove(self, fd: int) -> None:
        """Take out the subscriber with a descriptor."""
        self._places[fd] = None
        self.count -= 1

    def all(self) -> list[Subscriber]:
        """All of them, as they are now."""
        return [one for one in self._places if one is not None]


class Timetable:
    """Subscribers by the second at which they are due.

    :param now: monotonic time in seconds.
    """

    def __init__(self, now: float) -> None:
        self._second = int(now)
        self._due: dict[int, list[Subscriber]] = {}

    def put(self, subscriber: Subscriber, at: float) -> None:
        """Have a subscriber returned by the first ``take`` from the whole second at or before ``at``.

        :param at: monotonic time; one in the past means the next second.
        """
        second = max(int(at), self._second + 1)
        due = self._due.get(second)
        if due is None:
            self._due[second] = [subscriber]
        else:
            due.append(subscriber)

    def take(self, now: float) -> Iterator[Subscriber]:
        """The connected subscribers that are due, each once."""
        current = int(now)
        if current - self._second > len(self._due):  # after a pause: visit what is there
            seconds = sorted(second for second in self._due if second <= current)
        else:
            seconds = list(range(self._second + 1, current + 1))
        self._second = max(self._second, current)
        for second in seconds:
            for subscriber in self._due.pop(second, ()):
                if subscriber.is_connected:
                    yield subscriber


class Lingering:
    """Sockets whose sending half has ended, waiting for the other side (RFC 6455 section 7.1.1).

    A socket that is closed while something of the client is unread, or still comes, is reset by the kernel,
    and a reset discards what the client has not read: a close frame, say.

    :param unwatch: called with the descriptor of a socket before it is closed.
    """

    def __init__(self, unwatch: Callable[[int], None]) -> None:
        self._unwatch = unwatch
        self._open: dict[int, tuple[socket.socket | TlsLayer, float]] = {}

    def add(self, fd: int, tls: TlsLayer | None, now: float) -> None:
        """Take over a socket and end its sending half.

        :param now: monotonic time in seconds.
        """
        sock = socket.socket(fileno=fd) if tls is None else tls
        self._open[fd] = sock, now + _LINGER
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_WR)
        self.discard_input(fd)

    def discard_input(self, fd: int) -> None:
        """Discard what a socket has received; close it at its end."""
        if fd not in self._open:
            return
        try:
            for _ in range(_DISCARDED):
                if not os.read(fd, _PIECE):
                    break
        except BlockingIOError:
            return
        except OSError:
            pass
        self._close(fd)

    def tick(self, now: float) -> None:
        """Close those that have had their time."""
        for fd, (_, deadline) in list(self._open.items()):
            if now >= deadline:
                self._close(fd)

    def close(self) -> None:
        """Close all."""
        for fd in list(self._open):
            self._close(fd)

    def _close(self, fd: int) -> None:
        sock, _ = self._open.pop(fd)
        self._unwatch(fd)
        with contextlib.suppress(OSError):
            sock.close()


def _read(subscriber: Subscriber) -> bytes:
    if subscriber.tls is not None:
        return subscriber.tls.recv(_INCOMING)
    return os.read(subscriber.fd, _INCOMING)
