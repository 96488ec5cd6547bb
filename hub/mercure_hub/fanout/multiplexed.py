"""The sending half of a connection that carries many streams (HTTP/2), under flow control.

What a stream may send is limited by its own window and by that of the connection (RFC 9113 section 5.2). What
does not fit waits with the stream, as references to bytes that others get too; only frames that are about to
be written wait with the connection. So a client that opens no window for one stream delays that one only.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from typing import Protocol

from mercure_hub.fanout.endings import Ending, Reason, ending_of
from mercure_hub.fanout.subscriber import State, Subscriber
from mercure_hub.fanout.tls import TlsLayer
from mercure_hub.fanout.writer import remove_front, write_front
from mercure_hub.protocol.http2 import FRAME_SIZE, MAX_WINDOW, WINDOW, Code, data_prefix, rst_stream

COUNTED = 16
"""Bytes from which a DATA frame counts as one after which a client may open windows again."""

_GATHERED = 128 << 10  # bytes of frames that are made before they are written
_WRITES = 4  # of so many bytes, before others have their turn
_MAX_CONTROL = 1 << 20  # bytes that wait for a client which takes nothing
_END = b"\x00\x00\x00\x00\x01"  # an empty DATA frame that ends its stream, up to the stream's number

Queue = list[bytes | memoryview]


class Sender(Protocol):
    """Whoever sends on a stream, and waits when it may not."""

    def go_on(self) -> None:
        """Called when there may be room again, or the stream is no longer there."""


class Reader(Protocol):
    """The receiving half of the connection."""

    def receive(self) -> None:
        """Called when there is something to receive."""

    def postpone(self) -> None:
        """Called when others should have their turn: ``flush`` has to be called soon."""

    def ended(self, stream: Stream) -> None:
        """Called when a stream is no longer there, whoever ended it."""

    def lost(self) -> None:
        """Called once when the connection is no longer there."""


class Stream:
    """One stream of a connection.

    :param connection: its connection.
    :param number: its number (RFC 9113 section 5.1.1).

    ``number`` is four bytes, as in a frame. ``window`` is how many bytes it may send. ``sender`` is whoever
    sends on it: a request that is being answered, or a subscriber. ``is_receiving`` is true while the client
    may send on it.
    """

    __slots__ = ("connection", "is_receiving", "number", "sender", "window")

    def __init__(self, connection: Multiplexed, number: int) -> None:
        self.connection = connection
        self.number = number.to_bytes(4, "big")
        self.window = connection.initial_window
        self.sender: Sender | Subscriber | None = None
        self.is_receiving = True

    def __int__(self) -> int:
        return int.from_bytes(self.number, "big")

    @property
    def is_open(self) -> bool:
        """Whether something can be sent."""
        return self.connection.streams.get(int(self)) is self


class Multiplexed:
    """A connection with many streams, as far as the hub writes to it.

    :param fd: descriptor of a non-blocking socket.
    :param tls: the TLS layer over it.
    :param now: monotonic time in seconds.
    :param reader: the receiving half.
    :param on_broken: called when the connection cannot be written to any more.

    ``streams`` are the open ones by number. ``window`` is how many bytes all streams together may send,
    ``initial_window`` how many a new one may. ``frames`` counts the DATA
    frames that were sent. ``stalled_at`` is the monotonic time since which nothing can be sent, or 0.
    """

    def __init__(
        self,
        fd: int,
        tls: TlsLayer | None,
        now: float,
        reader: Reader,
        on_broken: Callable[[Multiplexed, Ending], None],
    ) -> None:
        self.fd = fd
        self.tls = tls
        self.opened_at = now
        self.reader: Reader | None = reader
        self.streams: dict[int, Stream] = {}
        self.window = self.initial_window = WINDOW
        self.frames = 0
        self.stalled_at = 0.0
        self.unacknowledged = 0
        self.is_gathering = False
        self._on_broken = on_broken
        self._out: Queue = []
        self._control = 0  # bytes in it that are not subject to flow control
        self._is_blocked = False
        self._waiting: dict[Subscriber, None] = {}  # have something to send, and a window
        self._blocked: dict[Subscriber, None] = {}  # have something to send, and no window
        self._senders: dict[Stream, None] = {}  # of which a greenlet waits

    def subscriptions(self) -> Iterator[Subscriber]:
        """The subscribers that the engine has."""
        for stream in list(self.streams.values()):
            if isinstance(stream.sender, Subscriber):
                yield stream.sender

    @property
    def is_full(self) -> bool:
        """Whether the socket takes no more."""
        return self._is_blocked

    @property
    def is_unfinished(self) -> bool:
        """Whether anything waits for the client."""
        return bool(self._out or self._waiting or self._blocked)

    @property
    def blocked(self) -> list[Subscriber]:
        """The subscribers whose own windows are closed."""
        return list(self._blocked)

    @property
    def is_stuck(self) -> bool:
        """Whether the connection as a whole can send nothing."""
        return self._is_blocked or (self.window <= 0 and bool(self._waiting))

    # -- streams ---------------------------------------------------------------------------------------------

    def open(self, number: int) -> Stream:
        """Begin a stream for a request."""
        stream = self.streams[number] = Stream(self, number)
        return stream

    def close(self, stream: Stream, frame: bytes = b"") -> None:
        """Forget a stream.

        :param frame: tells the client, unless it has ended the stream itself.
        """
        if self.streams.pop(int(stream), None) is None:
            return
        self._senders.pop(stream, None)
        sender, stream.sender = stream.sender, None
        if isinstance(sender, Subscriber):
            self._waiting.pop(sender, None)
            self._blocked.pop(sender, None)
        elif sender is not None:
            sender.go_on()
        if frame:
            self.write(frame)
        if self.reader is not None:
            self.reader.ended(stream)

    def end(self, stream: Stream) -> None:
        """End a stream in order (an empty DATA frame is not subject to flow control)."""
        self.close(stream, _END + stream.number)

    def reset(self, stream: Stream, code: Code) -> None:
        """End a stream that is not complete."""
        self.close(stream, rst_stream(int(stream), code))

    # -- windows ---------------------------------------------------------------------------------------------

    def widen(self, increment: int) -> bool:
        """Let the connection send more; false when its window overflows.

        :param increment: bytes.
        """
        self.window += increment
        if not self._is_blocked:
            self.stalled_at = 0.0
        return self.window <= MAX_WINDOW

    def widen_stream(self, stream: Stream, increment: int) -> bool:
        """Let a stream send more, or less; false when its window overflows.

        :param increment: bytes; negative after a change of the settings.
        """
        stream.window += increment
        sender = stream.sender
        if stream.window > 0 and isinstance(sender, Subscriber) and sender in self._blocked:
            del self._blocked[sender]
            sender.stalled_at = 0.0
            self._waiting[sender] = None
        return stream.window <= MAX_WINDOW

    def set_initial_window(self, size: int) -> bool:
        """Change the windows of all streams (RFC 9113 section 6.9.2); false when one overflows.

        :param size: bytes.
        """
        change, self.initial_window = size - self.initial_window, size
        fit = [self.widen_stream(stream, change) for stream in list(self.streams.values())]
        return all(fit)

    # -- sending ---------------------------------------------------------------------------------------------

    def write(self, frames: bytes) -> None:
        """Have frames sent by the next ``flush`` that are not subject to flow control."""
        if self.fd >= 0:
            self._out.append(frames)
            self._control += len(frames)

    def offer(self, stream: Stream, content: memoryview, *, ends: bool = False) -> int:
        """Have as much of some content sent by the next ``flush`` as the windows allow.

        :param ends: it is the last of its stream.
        :returns: bytes that are sent.
        """
        sent = 0
        while sent < len(content) and not self._is_blocked:
            size = min(len(content) - sent, stream.window, self.window, FRAME_SIZE)
            if size <= 0:
                break
            is_last = ends and sent + size == len(content)
            self._out.append(data_prefix(size, is_last) + stream.number)
            self._out.append(content[sent : sent + size])
            stream.window -= size
            self.window -= size
            self.frames += size >= COUNTED
            sent += size
        return sent

    def has_room(self, stream: Stream, size: int) -> bool:
        """Whether so many bytes would be sent at once."""
        return size <= min(stream.window, self.window) and not self._is_blocked

    def wait(self, stream: Stream) -> None:
        """Tell the sender of a stream when it can go on."""
        self._senders[stream] = None

    def queue(self, subscriber: Subscriber, stream: Stream, now: float) -> None:
        """Send what is queued for a subscriber as soon as the windows and the socket allow.

        :param stream: the subscriber's.
        :param now: monotonic time in seconds.
        """
        if stream.window > 0:
            self._waiting[subscriber] = None
        elif subscriber not in self._blocked:
            self._blocked[subscriber] = None
            subscriber.stalled_at = now

    def gather(self, frames: bytes, number: int) -> None:
        """Have DATA frames sent by the next ``flush`` that were counted before.

        :param number: of the frames.
        """
        self._out.append(frames)
        self.frames += number

    def flush(self, now: float) -> None:
        """Write until nothing waits, the client takes no more, or others should have their turn.

        :param now: monotonic time in seconds.
        """
        for _ in range(_WRITES):
            if self.fd < 0 or (self._out and not self._write(now)) or not self._fill(now):
                break
        else:
            if self.reader is not None:
                self.reader.postpone()
        if self.fd < 0:
            return
        if self._senders and not self._is_blocked and self.window > 0:
            for stream in [one for one in self._senders if one.window > 0]:
                del self._senders[stream]
                if isinstance(stream.sender, Subscriber) or stream.sender is None:
                    continue
                stream.sender.go_on()
        if not self.is_stuck:
            self.stalled_at = 0.0
        elif not self.stalled_at:
            self.stalled_at, self.unacknowledged = now, 0

    def _write(self, now: float) -> bool:
        """Write frames; false when the socket takes no more."""
        out = self._out
        try:
            while out:
                remove_front(out, write_front(self.fd, self.tls, out))
                if self.stalled_at:
                    self.stalled_at = now
        except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
            self._is_blocked = True
            if self._control > _MAX_CONTROL:
                self.give_up(Ending(Reason.BEHIND, f"{_MAX_CONTROL} bytes"))
            return False
        except OSError as error:
            self.give_up(ending_of(error))
            return False
        self._control = 0
        self._is_blocked = False
        return True

    def _fill(self, now: float) -> bool:
        """Make frames of what waits, each stream in its turn; false when there is nothing to make."""
        made = 0
        while self._waiting and self.window > 0 and made < _GATHERED:
            subscriber = next(iter(self._waiting))
            del self._waiting[subscriber]
            stream, queue = subscriber.stream, subscriber.queue
            if stream is None or queue is None:
                continue
            if stream.window <= 0:  # the settings have changed
                self.queue(subscriber, stream, now)
                continue
            size = min(stream.window, self.window, FRAME_SIZE)
            pieces, size = _take(queue, size)
            self._out += [data_prefix(size) + stream.number, *pieces]
            stream.window -= size
            self.window -= size
            self.frames += size >= COUNTED
            made += size
            subscriber.queued -= size
            if queue:
                self.queue(subscriber, stream, now)
            else:
                subscriber.queue, subscriber.state = None, State.READY_STREAM
        return made > 0

    def give_up(self, ending: Ending) -> None:
        """End the connection, which takes nothing more, with all its streams."""
        self._on_broken(self, ending)

    def forget(self) -> tuple[int, TlsLayer | None]:
        """Give the socket away; nothing can be sent afterwards."""
        fd, tls = self.fd, self.tls
        self.fd, self.tls = -1, None
        self._out.clear()
        return fd, tls


def _take(queue: Queue, most: int) -> tuple[Queue, int]:
    """Remove bytes from the front of a queue.

    :param most: bytes.
    :returns: them, and their number.
    """
    taken: Queue = []
    size = 0
    while queue and size < most:
        piece = queue[0]
        if size + len(piece) > most:
            piece, queue[0] = memoryview(piece)[: most - size], memoryview(piece)[most - size :]
        else:
            del queue[0]
        taken.append(piece)
        size += len(piece)
    return taken, size
