"""The fan-out as the broker sees it: subscribers come and go, updates are dispatched to their receivers.

``receivers`` chooses who gets an update, ``encoding`` makes the bytes, ``output`` writes them, ``sockets``
watches the connections. Nothing here blocks: the long jobs are generators that pause after each slice, so
that the caller can serve others meanwhile.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Protocol

from mercure_hub.fanout.encoding import (
    LAST_CHUNK,
    Compressor,
    Form,
    Topics,
    close_frame,
    encode,
    estimate,
    history,
    live_mark,
)
from mercure_hub.fanout.endings import Ending, ending_of
from mercure_hub.fanout.multiplexed import Multiplexed, Reader
from mercure_hub.fanout.output import Delivery, Output
from mercure_hub.fanout.readiness import Loop, readiness
from mercure_hub.fanout.receivers import Pace, Receivers, may_read
from mercure_hub.fanout.sockets import Sockets
from mercure_hub.fanout.subscriber import State, Subscriber
from mercure_hub.fanout.tls import TlsLayer
from mercure_hub.fanout.writer import Writer
from mercure_hub.protocol.update import Update

_log = logging.getLogger("mercure_hub.fanout")

_HELD, _QUEUED, _GONE = State.HELD, State.QUEUED, State.GONE  # as in subscriber.py

_PREPARATION = 4  # estimated microseconds to prepare an update
_ENCODING, _ENCODED = 10, 1000  # the same to encode one for a group of receivers; bytes of it in one more
_PREPARED = 32 << 20  # bytes of one update, for groups that select different topics, in memory at once


class Logged(Protocol):
    """An update with its position in the history."""

    @property
    def sequence(self) -> int:
        """Its position."""

    @property
    def update(self) -> Update:
        """The update."""

    @property
    def is_event(self) -> bool:
        """Whether it is the hub's own, about a subscription."""


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """Times in seconds, 0 = off; sizes in bytes.

    :param heartbeat: time between two comments, which keep a connection alive.
    :param dispatch_timeout: how long a subscriber may take nothing before it is dropped.
    :param buffer: bytes a subscriber may be behind.
    :param compress_from: size from which events are compressed for those who want it; ``None``: never.
    :param use_ring: write to many subscribers in one system call, where the kernel has io_uring.
    :param ring_from: writes from which that pays.
    :param use_epoll: watch all sockets through one descriptor, where the kernel has epoll.
    :param batch: deliveries that are prepared before the first of them is written.
    :param pause_after: estimated microseconds of work between two pauses, beside the writes.
    """

    heartbeat: float = 40.0
    dispatch_timeout: float = 5.0
    buffer: int = 8 << 20
    compress_from: int | None = None
    use_ring: bool = True
    ring_from: int = 24
    use_epoll: bool = True
    batch: int = 20_000
    pause_after: int = 4_000


class Engine:
    """The connected subscribers and the writing to them.

    :param limits: of times and sizes.
    :param clock: monotonic time in seconds.
    :param on_gone: called once for each subscriber that is no longer there, with the reason.

    ``dispatched`` is the sequence up to which the receivers of updates have been chosen; ``delivered`` counts
    updates by receiver. ``unread``, which can be replaced, is called with a private update of a publisher
    that none of its listeners may read, and their number.
    """

    def __init__(
        self,
        limits: EngineLimits,
        clock: Callable[[], float],
        on_gone: Callable[[Subscriber, Ending], None],
    ) -> None:
        self.dispatched = 0
        self.delivered = 0
        self.unread: Callable[[Update, int], None] = _log_unread
        self._on_gone = on_gone
        self._clock = clock
        self._batch = limits.batch
        self._pace = Pace(limits.pause_after)
        self._receivers = Receivers(self._pace)
        self._compressor = None if limits.compress_from is None else Compressor(limits.compress_from)
        watched = readiness(use_epoll=limits.use_epoll)
        self._output = Output(
            Writer(use_ring=limits.use_ring, ring_from=limits.ring_from),
            clock,
            self.drop,
            watched.await_room,
            timeout=limits.dispatch_timeout,
            buffer=limits.buffer,
        )
        self._sockets = Sockets(self._output, watched, clock, self.end, self.drop, heartbeat=limits.heartbeat)
        self._held: dict[Subscriber, None] = {}
        self._silent: set[Subscriber] = set()

    def __len__(self) -> int:
        return len(self._sockets)

    def __iter__(self) -> Iterator[Subscriber]:
        return iter(self._sockets)

    def everyone(self) -> list[Subscriber]:
        """All subscribers that get updates, with those for which they are held."""
        return [*self._held, *self._sockets]

    def listening_with(self, value: str) -> list[Subscriber]:
        """The connected subscribers that have a matcher with this value, whatever its type."""
        silent = [one for one in self._silent if any(matcher.value == value for matcher in one.matchers)]
        return [one for one in self._receivers.listening_with(value) if one.is_connected] + silent

    @property
    def websockets(self) -> int:
        """How many of the subscribers have a WebSocket."""
        silent = sum(one.form.is_websocket for one in self._silent)
        return self._receivers.websockets + silent

    @property
    def compresses(self) -> bool:
        """Whether there may be subscribers with compressed streams."""
        return self._compressor is not None

    # -- subscribers -----------------------------------------------------------------------------------------

    def hold(self, subscriber: Subscriber) -> None:
        """Queue updates for a subscriber that still reads history; ``start`` lets them flow."""
        subscriber.queue = []
        subscriber.state = _HELD
        self._held[subscriber] = None
        self._receivers.add(subscriber)

    def release(self, subscriber: Subscriber) -> None:
        """Give up a subscriber that still reads history."""
        if subscriber.state is _HELD:
            del self._held[subscriber]
            self._receivers.remove(subscriber)
        subscriber.state = _GONE
        subscriber.queue = None

    def mark_live(self, subscriber: Subscriber) -> None:
        """Queue the mark behind the history of a subscriber, before ``start``."""
        mark = live_mark(subscriber.form)
        subscriber.queue = [*(subscriber.queue or ()), mark]
        subscriber.queued += len(mark)

    def start(self, subscriber: Subscriber, fd: int = -1, tls: TlsLayer | None = None) -> None:
        """Take over a subscriber's connection and send it every update from now on.

        :param fd: the descriptor of its non-blocking socket; -1 if it has a stream of a shared connection.
        :param tls: the TLS layer over it, if there is one.
        """
        if subscriber.state is _HELD:
            del self._held[subscriber]
        else:
            self._receivers.add(subscriber)
        subscriber.fd, subscriber.tls = fd, tls
        subscriber.state = _QUEUED  # flush() finds out whether anything is
        subscriber.queue = subscriber.queue or []
        try:
            self._sockets.add(subscriber)
        except OSError as error:
            self.drop(subscriber, ending_of(error))
            return
        self._output.flush(subscriber, self._clock())

    def silence(self, subscriber: Subscriber) -> None:
        """Send a connected subscriber no more updates, only heartbeats, until it is ended."""
        if subscriber.is_connected and subscriber not in self._silent:
            self._receivers.remove(subscriber)
            self._silent.add(subscriber)

    def end(self, subscriber: Subscriber, ending: Ending) -> None:
        """End a subscriber's stream in order: with a last chunk or a close frame, if nothing is queued."""
        is_told = subscriber.state is State.READY_STREAM
        if subscriber.state in (State.READY, State.READY_TLS):
            if subscriber.form.is_websocket:
                self._output.send(subscriber, close_frame(ending.code, ending.text))
                is_told = subscriber.queue is None
            elif subscriber.form.is_chunked:
                self._output.send(subscriber, LAST_CHUNK)
        self._drop(subscriber, ending, linger=is_told)

    def drop(self, subscriber: Subscriber, ending: Ending) -> None:
        """End a subscriber's connection."""
        self._drop(subscriber, ending, linger=False)

    def _drop(self, subscriber: Subscriber, ending: Ending, *, linger: bool) -> None:
        if subscriber.state is _HELD:  # its replay ends when it sees that
            self.release(subscriber)
        if not subscriber.is_connected:
            return
        if subscriber in self._silent:
            self._silent.remove(subscriber)
        else:
            self._receivers.remove(subscriber)
        self._output.forget(subscriber)
        self._sockets.close(subscriber, linger=linger)
        subscriber.state = _GONE
        subscriber.queue = None
        self._on_gone(subscriber, ending)
        # The timetable keeps it for a while, and patterns take memory.
        subscriber.matchers, subscriber.announced = (), None

    def close(self) -> None:
        """Give back what the kernel lent; the subscribers have to be dropped before."""
        self._sockets.close_all()
        self._output.close()

    # -- connections that carry many streams -----------------------------------------------------------------

    def connect(self, fd: int, tls: TlsLayer | None, reader: Reader) -> Multiplexed:
        """Take over a connection that carries many streams.

        :param fd: the descriptor of its non-blocking socket.
        :param tls: the TLS layer over it, if there is one.
        :param reader: is told when there is something to receive.
        :raises OSError: the kernel's limits are reached.
        """
        return self._sockets.connect(fd, tls, reader)

    def flush(self, connection: Multiplexed) -> None:
        """Write what waits on such a connection."""
        self._output.flush_connection(connection, self._clock())

    def disconnect(self, connection: Multiplexed, ending: Ending, *, linger: bool = False) -> None:
        """End such a connection, with the streams that it still has.

        :param linger: the client was told of the end and may still send.
        """
        self._sockets.disconnect(connection, ending, linger=linger)

    # -- updates ---------------------------------------------------------------------------------------------

    def dispatch(self, entries: Sequence[Logged]) -> Iterator[None]:
        """Send updates to their receivers.

        :param entries: updates in the order of the history.
        :returns: an iterator to exhaust; each step writes one slice.
        """
        position = 0
        while position < len(entries):
            prepared: list[Delivery] = []
            deliveries = runs = 0
            while position < len(entries) and deliveries < self._batch:
                run = _run(entries, position)
                position += len(run)
                update = run[0].update
                if self._receivers.has_patterns:
                    yield from self._receivers.try_patterns(update.topics)
                receivers = self._receivers.listening_to(update.topics)
                self.dispatched = run[-1].sequence  # who comes from now on reads it in the history
                if update.private and len(receivers) == 1:  # often, and not worth a generator
                    receivers = receivers if may_read(receivers[0], update) else self._nobody(run[0], 1)
                elif update.private and receivers:
                    allowed = yield from self._receivers.allowed(receivers, update.topics)
                    receivers = allowed or self._nobody(run[0], len(receivers))
                if receivers:
                    yield from self._prepare(prepared, [entry.update for entry in run], receivers)
                    deliveries += len(receivers)
                    self.delivered += len(receivers) * len(run)
                    runs += 1
                if self._pace.is_over(_PREPARATION):
                    yield
            if prepared:
                yield from self._output.deliver(prepared, are_disjoint=runs == 1)
            if position < len(entries):
                yield

    def tell(self, update: Update, only: Subscriber | None = None) -> Iterator[None]:
        """Send an update that is in no history, with its present value, to those who listen and may read it.

        :param only: sent to this one, who does.
        :returns: an iterator to exhaust; each step writes one slice.
        """
        receivers = [only] if only is not None else self._receivers.listening_to(update.topics)
        if update.private and only is None:
            receivers = yield from self._receivers.allowed(receivers, update.topics)
        if receivers:
            prepared: list[Delivery] = []
            yield from self._prepare(prepared, [update], receivers)
            if prepared:  # else they left in a pause
                yield from self._output.deliver(prepared, are_disjoint=True)

    def _prepare(
        self, prepared: list[Delivery], updates: Sequence[Update], receivers: list[Subscriber]
    ) -> Generator[None, None, None]:
        """Encode updates with the same topics, once for all receivers that can share the bytes.

        :param prepared: gets the deliveries; if they are too large for the memory, it is written before.
        """
        encoded: dict[Topics | None, tuple[list[bytes], bytes]] = {}
        size = 0
        for form, group in self._receivers.by_form(receivers):
            shared: list[tuple[Topics | None, list[Subscriber]]] = [(None, group)]
            if form.names_topics:
                shared = yield from self._receivers.by_topics(group, updates[0])
            for topics, some in shared:
                if size > _PREPARED:
                    yield from self._output.deliver(prepared)
                    prepared.clear()
                    encoded.clear()
                    size = 0
                    yield
                events, frames = encoded.get(topics) or ([update.encode(topics) for update in updates], b"")
                if form.is_compressed and not frames and self._compressor is not None:
                    frames = yield from self._frames(self._compressor, events)
                encoded[topics] = events, frames
                content = encode(form, updates, events, frames, repeat(topics))
                prepared.append((content, some))
                size += len(content)
                if len(shared) > 1 and self._pace.is_over(_ENCODING + len(content) // _ENCODED):
                    yield

    def _nobody(self, entry: Logged, listening: int) -> list[Subscriber]:
        """The receivers of a private update that no listener's token covers."""
        if not entry.is_event:
            self.unread(entry.update, listening)
        return []

    def _frames(self, compressor: Compressor, events: Sequence[bytes]) -> Generator[None, None, bytes]:
        """Compress each event alone."""
        frames: list[bytes] = []
        for event in events:
            for frame in compressor.frames(event):
                frames.append(frame)
                if self._pace.is_over(estimate(event)):
                    yield
        return b"".join(frames)

    def history(
        self, updates: Sequence[Update], form: Form, topics: Callable[[Update], Topics] = lambda _: ()
    ) -> Iterator[bytes]:
        """Encode updates of the history for a subscriber.

        :param topics: tells which topics of an update to name, if the form names topics.
        :returns: pieces, none of them empty; the work between two of them is bounded.
        """
        return history(form, updates, self._compressor, topics)

    # -- for the event loop ----------------------------------------------------------------------------------

    def attach(self, loop: Loop) -> None:
        """Handle from now on what the event loop reports about the sockets."""
        self._sockets.attach(loop)

    def tick(self) -> Iterator[None]:
        """Do what is due; to be called once a second.

        :returns: an iterator to exhaust; each step is one slice.
        """
        return self._sockets.tick()


def _run(entries: Sequence[Logged], start: int) -> Sequence[Logged]:
    """The updates from ``start`` on that have the same receivers."""
    update = entries[start].update
    end = start + 1
    while end < len(entries):
        following = entries[end].update
        if following.topics != update.topics or following.private != update.private:
            break
        end += 1
    return entries[start:end]


def _log_unread(update: Update, listening: int) -> None:
    """Log a private update that no listener's token covers: most often a grant is missing."""
    _log.info(
        "update %s is private, and no token covers its topics: it reaches none of %d that listen here",
        update.id,
        listening,
    )
