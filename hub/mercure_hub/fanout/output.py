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

from mercure_hub.fanout.endings import Ending, Reason, behind, took_nothing
from mercure_hub.fanout.subscriber import State, Subscriber
from mercure_hub.fanout.writer import Writer, unsent

SLICE = 512
"""Writes between two pauses: some 4 ms."""

_SLICE_BYTES = 8 << 20  # bytes between two pauses: the same
_MAX_BUFFERS = 512  # of one writev(); the kernel's limit is 1024
_TLS_RECORDS = 64 << 10  # bytes

# Looking up a member of an enum in its class is slow before Python 3.12.
_HELD, _READY, _READY_TLS, _QUEUED = State.HELD, State.READY, State.READY_TLS, State.QUEUED

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

    def deliver(self, deliveries: Sequence[Delivery]) -> Iterator[None]:
        """Write each delivery to its receivers.

        :returns: an iterator to exhaust; each step writes one slice.
        """
        return self._write_same(*deliveries[0]) if len(deliveries) == 1 else self._write_different(deliveries)

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
            for subscriber in others:
                self.send(subscriber, data)

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
                if subscriber.state is _READY:
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
        """Write to one subscriber, behind what is queued for it."""
        state = subscriber.state
        if state is _READY or state is _READY_TLS:
            subscriber.queue, subscriber.queued, subscriber.state = [data], len(data), _QUEUED
            self.flush(subscriber, self._clock())
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
        while queue:
            try:
                written = _write(subscriber, queue)
            except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
                self._stall(subscriber, now)
                return
            except OSError as error:
                self._drop(subscriber, ending_of(error))
                return
            _remove(queue, written)
            subscriber.queued -= written
            if subscriber.stalled_at:
                subscriber.stalled_at = now
        subscriber.queue = None
        subscriber.state = _READY if subscriber.tls is None else _READY_TLS
        if subscriber.stalled_at:
            self.forget(subscriber)

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


def ending_of(error: OSError) -> Ending:
    """What the error of a socket means for its subscriber."""
    if isinstance(error, ConnectionError | ssl.SSLError):
        return Ending(Reason.CLOSED_BY_CLIENT)
    return Ending(Reason.SOCKET_ERROR, error.strerror or type(error).__name__)


def _write(subscriber: Subscriber, queue: list[bytes | memoryview]) -> int:
    if subscriber.tls is not None:
        # A TLS record that was refused has to be offered again unchanged: never join here.
        return subscriber.tls.send(queue[0][:_TLS_RECORDS])
    if len(queue) == 1:
        return os.write(subscriber.fd, queue[0])
    return os.writev(subscriber.fd, queue[:_MAX_BUFFERS])


def _remove(queue: list[bytes | memoryview], written: int) -> None:
    """Remove the bytes that were written from the front."""
    complete = 0
    for data in queue:
        if written < len(data):
            break
        written -= len(data)
        complete += 1
    del queue[:complete]
    if written:
        queue[0] = memoryview(queue[0])[written:]
