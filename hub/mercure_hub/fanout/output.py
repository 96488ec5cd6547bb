"""Writes encoded updates to subscribers, and queues what a socket does not take.

A subscriber whose socket is full keeps references to what it lacks, bounded in bytes. It is dropped when it
takes nothing for too long. The others do not notice.
"""

from __future__ import annotations

import errno
import os
import ssl
from array import array
from collections.abc import Callable, Iterator, Sequence

from mercure_hub.fanout.endings import Ending, Reason, behind, ending_of, took_nothing
from mercure_hub.fanout.multiplexed import COUNTED, Multiplexed
from mercure_hub.fanout.subscriber import State, Subscriber
from mercure_hub.fanout.tls import RECORD, TlsSocket, seal_each
from mercure_hub.fanout.writer import Writer, remove_front, unsent, write_front
from mercure_hub.protocol.http2 import FRAME_SIZE, data_prefix

SLICE = 512
"""Writes between two pauses: some 4 ms."""

_SLICE_BYTES = 8 << 20  # bytes between two pauses: the same
_MOST_ALONE = 14  # deliveries that are written one after the other: one for each form
_SLICE_STREAMS = 4096  # streams of shared connections between two pauses
_SEALED = 256 << 10  # bytes that are sealed before they are written

# Looking up a member of an enum in its class is slow before Python 3.12.
_HELD, _READY, _READY_TLS, _QUEUED = State.HELD, State.READY, State.READY_TLS, State.QUEUED
_READY_STREAM = State.READY_STREAM

Delivery = tuple[bytes, Sequence[Subscriber]]
"""Bytes, and who gets them."""


class Output:
    """The writing to all subscribers.

    :param writer: writes the same bytes to many sockets.
    :param clock: monotonic time in seconds.
    :param drop: called with a subscriber that cannot be written to any more, and why.
    :param await_room: called with the descriptor of a socket that is full.
    :param timeout: seconds for which a subscriber may take nothing; 0 for no limit.
    :param buffer: bytes that a subscriber may be behind.
    """

    def __init__(
        self,
        writer: Writer,
        clock: Callable[[], float],
        drop: Callable[[Subscriber, Ending], None],
        await_room: Callable[[int], None],
        *,
        timeout: float,
        buffer: int,
    ) -> None:
        self._writer = writer
        self._clock = clock
        self._drop = drop
        self._await_room = await_room
        self._timeout = timeout
        self._buffer = buffer
        self._stalled: dict[Subscriber, int] = {}  # with what was not acknowledged at the last look
        self._touched: dict[Multiplexed, None] = {}  # have something to write
        self._unfinished: dict[Multiplexed, None] = {}  # could not write everything

    def deliver(self, deliveries: Sequence[Delivery], *, are_disjoint: bool = False) -> Iterator[None]:
        """Write each delivery to its receivers.

        :param are_disjoint: nobody gets two of them.
        :returns: an iterator to exhaust; each step writes one slice.
        """
        # By their form: one that still reads history, or has just left, has no stream.
        if any(receivers[0].form.is_multiplexed for _, receivers in deliveries):
            return self._write_mixed(deliveries, are_disjoint=are_disjoint)
        return self._write_each(deliveries, are_disjoint=are_disjoint)

    def _write_each(self, deliveries: Sequence[Delivery], *, are_disjoint: bool) -> Iterator[None]:
        """Write the same bytes to many where that is possible, else gather what each subscriber gets."""
        if len(deliveries) == 1:
            return self._write_same(*deliveries[0])
        if not are_disjoint or len(deliveries) > _MOST_ALONE:
            return self._write_different(deliveries)
        return self._write_in_turn(deliveries)

    def _write_in_turn(self, deliveries: Sequence[Delivery]) -> Iterator[None]:
        for number, one in enumerate(deliveries):
            if number:
                yield
            yield from self._write_same(*one)

    def _write_mixed(self, deliveries: Sequence[Delivery], *, are_disjoint: bool) -> Iterator[None]:
        """Write to streams first; receivers of one delivery have one form."""
        yield from self._write_streams([one for one in deliveries if one[1][0].form.is_multiplexed])
        others = [one for one in deliveries if not one[1][0].form.is_multiplexed]
        if others:
            yield
            yield from self._write_each(others, are_disjoint=are_disjoint)

    def _write_streams(self, deliveries: Sequence[Delivery]) -> Iterator[None]:
        """Gather the frames of each connection, then write them in one call."""
        count = size = 0
        for data, receivers in deliveries:
            step = min(_SLICE_STREAMS, _SLICE_BYTES // len(data) + 1)
            for start in range(0, len(receivers), step):
                if count >= _SLICE_STREAMS or size >= _SLICE_BYTES:
                    self.flush_touched()
                    yield
                    count = size = 0
                some = receivers[start : start + step]
                count += len(some)
                size += len(some) * len(data)
                self._gather(data, some)
        self.flush_touched()

    def _gather(self, data: bytes, receivers: Sequence[Subscriber]) -> None:
        """The hot loop of streams: those that can be sent the data as one frame get it at once."""
        ready, size = _READY_STREAM, len(data)
        numbers: dict[Multiplexed, list[bytes]] = {}
        for subscriber in receivers:
            stream = subscriber.stream
            if stream is None or subscriber.state is not ready or size > FRAME_SIZE or size > stream.window:
                self.send(subscriber, data)
                continue
            connection = stream.connection
            if size > connection.window or connection.is_full:
                self.send(subscriber, data)
                continue
            stream.window -= size
            connection.window -= size
            if connection in numbers:
                numbers[connection].append(stream.number)
            else:
                numbers[connection] = [stream.number]
        prefix = data_prefix(size)
        between = data + prefix
        for connection, of_one in numbers.items():
            # One copy in C: each frame is the prefix, the number of its stream, and the data.
            connection.gather(
                b"%b%b%b" % (prefix, between.join(of_one), data), len(of_one) if size >= COUNTED else 0
            )
            self._touched[connection] = None

    def _write_same(self, data: bytes, receivers: Sequence[Subscriber]) -> Iterator[None]:
        """The hot loop. One test sorts out all that is not a plain socket with an empty queue."""
        ready = _READY
        step = min(SLICE, _SLICE_BYTES // len(data) + 1)
        for start in range(0, len(receivers), step):
            if start:
                yield
            some = receivers[start : start + step]
            fds = array("i", [one.fd for one in some if one.state is ready])
            direct, others = some, some[:0]
            if len(fds) < len(some):
                direct = [one for one in some if one.state is ready]
                others = [one for one in some if one.state is not ready]
            for index, written in self._writer.write(fds, data):
                self._queue_rest(direct[index], data, written)
            if others:
                self._write_others(others, data)

    def _write_others(self, receivers: Sequence[Subscriber], data: bytes) -> None:
        """Write the same bytes to subscribers over TLS, and to those whose socket is full."""
        secure = []
        for subscriber in receivers:
            if (
                subscriber.state is _READY_TLS
                and isinstance(subscriber.tls, TlsSocket)
                and len(data) <= RECORD
            ):
                secure.append((subscriber, subscriber.tls))
            else:
                self.send(subscriber, data)
        step = _SEALED // len(data) + 1
        for start in range(0, len(secure), step):
            some = secure[start : start + step]
            sealed, ends, failed = seal_each([tls for _, tls in some], data)
            fds = array("i", [one.fd for one, _ in some])
            for index, written in self._writer.write_pieces(fds, sealed, ends):
                subscriber, tls = some[index]
                begin = ends[index - 1] if index else 0
                tls.keep(sealed[begin + max(written, 0) : ends[index]], len(data))
                self._queue_rest(subscriber, data, min(written, 0))  # data that is sealed stays queued
            for index in failed:
                self._drop(some[index][0], Ending(Reason.CLOSED_BY_CLIENT))

    def _queue_rest(self, subscriber: Subscriber, data: bytes, written: int) -> None:
        """Queue what a socket did not take.

        :param written: the bytes that it took, or a negative errno.
        """
        if written < 0 and written != -errno.EAGAIN:
            self._drop(subscriber, ending_of(OSError(-written, os.strerror(-written))))
            return
        subscriber.queue = [memoryview(data)[written:] if written > 0 else data]
        subscriber.queued = len(data) - max(written, 0)
        subscriber.state = _QUEUED
        self._stall(subscriber, self._clock())

    def _write_different(self, deliveries: Sequence[Delivery]) -> Iterator[None]:
        """Gather what each subscriber gets, then write it in one call."""
        gathered: list[Subscriber] = []
        for data, receivers in deliveries:
            size = len(data)
            for subscriber in receivers:
                if subscriber.state is _READY or subscriber.state is _READY_TLS:
                    subscriber.queue, subscriber.queued, subscriber.state = [data], size, _QUEUED
                    gathered.append(subscriber)
                else:
                    self.send(subscriber, data)
        now = self._clock()
        writes = size = 0
        for subscriber in gathered:
            if writes == SLICE or size > _SLICE_BYTES:
                yield
                now = self._clock()
                writes = size = 0
            writes += 1
            size += subscriber.queued
            self.flush(subscriber, now)

    def send(self, subscriber: Subscriber, data: bytes) -> None:
        """Write to one subscriber, behind what is queued for it.

        What goes to a stream of a shared connection is written by the next ``flush_touched``.
        """
        state = subscriber.state
        if state is _READY or state is _READY_TLS:
            subscriber.queue, subscriber.queued, subscriber.state = [data], len(data), _QUEUED
            self.flush(subscriber, self._clock())
            return
        if state is _READY_STREAM and subscriber.stream is not None:
            subscriber.queue, subscriber.queued, subscriber.state = [data], len(data), _QUEUED
            subscriber.stream.connection.queue(subscriber, subscriber.stream, self._clock())
            self._touched[subscriber.stream.connection] = None
            return
        queue = subscriber.queue
        if queue is None or (state is not _QUEUED and state is not _HELD):
            return
        queue.append(data)
        subscriber.queued += len(data)
        if subscriber.queued > self._buffer:
            if state is _QUEUED:  # in a batch, nothing may have been written yet
                self.flush(subscriber, self._clock())
            if subscriber.queued > self._buffer:
                self._drop(subscriber, behind(self._buffer))

    def flush(self, subscriber: Subscriber, now: float) -> None:
        """Write what is queued, until nothing is or the socket takes no more."""
        queue = subscriber.queue
        if queue is None or subscriber.state is not _QUEUED:
            return
        if subscriber.stream is not None:
            if queue:
                subscriber.stream.connection.queue(subscriber, subscriber.stream, now)
            else:
                subscriber.queue, subscriber.state = None, _READY_STREAM
            self.flush_connection(subscriber.stream.connection, now)
            return
        while queue:
            try:
                written = write_front(subscriber.fd, subscriber.tls, queue)
            except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
                self._stall(subscriber, now)
                return
            except OSError as error:
                self._drop(subscriber, ending_of(error))
                return
            remove_front(queue, written)
            subscriber.queued -= written
            if subscriber.stalled_at:
                subscriber.stalled_at = now
        subscriber.queue = None
        tls = subscriber.tls
        subscriber.state = _READY if tls is None or tls.is_sealed_by_kernel else _READY_TLS
        if subscriber.stalled_at:
            self.forget(subscriber)

    # -- connections with many streams -----------------------------------------------------------------------

    def flush_touched(self) -> None:
        """Write what was gathered for connections with many streams."""
        now = self._clock()
        touched, self._touched = self._touched, {}
        for connection in touched:
            self.flush_connection(connection, now)

    def flush_connection(self, connection: Multiplexed, now: float) -> None:
        """Write what waits on a connection with many streams, as far as its client takes it."""
        connection.flush(now)
        if connection.is_full:
            self._await_room(connection.fd)
        if connection.fd >= 0 and connection.is_unfinished:
            self._unfinished[connection] = None

    def forget_connection(self, connection: Multiplexed) -> None:
        """Stop watching a connection with many streams that is no longer there."""
        self._unfinished.pop(connection, None)

    def _check_connection(self, connection: Multiplexed, now: float) -> None:
        """Drop a connection that took nothing for too long, or those of its streams that did."""
        if not connection.is_unfinished:
            self.forget_connection(connection)
        elif connection.is_stuck:
            unacknowledged = unsent(connection.fd)
            if unacknowledged < connection.unacknowledged:  # slow, and alive
                connection.stalled_at = now
            connection.unacknowledged = unacknowledged
            if now - connection.stalled_at >= self._timeout:
                connection.give_up(took_nothing(self._timeout))
        else:
            for subscriber in connection.blocked:
                if now - subscriber.stalled_at >= self._timeout:
                    self._drop(subscriber, took_nothing(self._timeout))

    # -- subscribers whose socket is full --------------------------------------------------------------------

    def _stall(self, subscriber: Subscriber, now: float) -> None:
        self._await_room(subscriber.fd)
        if subscriber not in self._stalled:
            self._stalled[subscriber] = 0
            subscriber.stalled_at = now

    def forget(self, subscriber: Subscriber) -> None:
        """Stop watching a subscriber whose socket was full."""
        subscriber.stalled_at = 0.0
        self._stalled.pop(subscriber, None)

    def check_stalled(self, now: float) -> None:
        """Drop subscribers that took nothing for too long."""
        if not self._timeout:
            return
        for connection in list(self._unfinished):
            self._check_connection(connection, now)
        for subscriber, before in list(self._stalled.items()):
            self._stalled[subscriber] = unsent(subscriber.fd)
            if self._stalled[subscriber] < before:  # slow, and alive
                subscriber.stalled_at = now
            if now - subscriber.stalled_at < self._timeout:
                continue
            self.flush(subscriber, now)
            if subscriber.state is _QUEUED and now - subscriber.stalled_at >= self._timeout:
                self._drop(subscriber, took_nothing(self._timeout))

    def close(self) -> None:
        """Give back what the writer has of the kernel."""
        self._writer.close()
