"""The engine: writes each update to every subscriber that it is for.

All descriptors sit in one edge-triggered epoll. An update is encoded once and written to each
subscriber as the same octets; what waits is joined into one write. A subscriber whose socket is
full keeps references to what it lacks, and is dropped when it stalls for too long. Nothing here
blocks: the long jobs are generators that pause after each slice, so that the caller can serve
others meanwhile.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import select
import ssl
from array import array
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from mercure_hub.fanout import endings
from mercure_hub.fanout.compression import Compressor, estimate
from mercure_hub.fanout.endings import Ending, Reason
from mercure_hub.fanout.framing import (
    ALL_FORMS,
    CHUNKED,
    HEARTBEATS,
    LAST,
    WEBSOCKET,
    ZSTD,
    closing,
    in_form,
    messages,
    pong,
)
from mercure_hub.fanout.index import Index
from mercure_hub.fanout.parting import Parting
from mercure_hub.fanout.subscriber import GONE, Subscriber
from mercure_hub.fanout.timetable import Timetable
from mercure_hub.fanout.writer import Writer, unsent
from mercure_hub.protocol.matching.table import Scope
from mercure_hub.protocol.update import Update
from mercure_hub.protocol.websocket import Violation

_log = logging.getLogger("mercure_hub.fanout")

_INTEREST = select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET
_GONE = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR

_SLICE = 512  # writes between two pauses: some 4 ms
_SLICE_OCTETS = 8 << 20  # octets between two pauses: the same
_EVENTS = 128  # of sockets, that are handled at once
_LOOK = 60.0  # seconds between two looks at a subscriber when there are no heartbeats
_ROUND = 20_000  # deliveries that are prepared before the first of them is written
_PAUSE = 4_000  # estimated microseconds of work between two pauses, beside the writes
_EVALUATION, _DECISION, _PREPARATION = 5, 8, 4  # what a pattern, a token, an update takes
_MAX_BUFFERS = 512  # of one writev(); the kernel's limit is 1024
_TLS_RECORDS = 64 << 10
_INCOMING = 1024  # octets that are read of a WebSocket at once


class Logged(Protocol):
    """An update with its place in the log."""

    @property
    def sequence(self) -> int:
        """Its place."""

    @property
    def update(self) -> Update:
        """The update."""

    @property
    def is_event(self) -> bool:
        """Whether it is the hub's own, about a subscription."""


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """Times in seconds, 0 = off; sizes in octets.

    :param heartbeat: time between two comments, which keep a connection alive.
    :param dispatch_timeout: how long a subscriber may take nothing before it is dropped.
    :param buffer: octets a subscriber may be behind.
    :param compress_from: size from which events are compressed for those who want it; ``None``: never.
    :param use_ring: write to many subscribers in one system call, where the kernel has io_uring.
    """

    heartbeat: float = 40.0
    dispatch_timeout: float = 5.0
    buffer: int = 8 << 20
    compress_from: int | None = None
    use_ring: bool = True


class Engine:
    """The connected subscribers and the writing to them.

    :param limits: see there.
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
        self._limits = limits
        self._clock = clock
        self._on_gone = on_gone
        self._index = Index()
        self._timetable = Timetable(clock())
        self._epoll = select.epoll()
        self._by_fd: dict[int, Subscriber] = {}
        self.unread: Callable[[Update, int], None] = _note_unread
        self._stalled: dict[Subscriber, int] = {}  # with what had not been acknowledged at the last look
        self._held: dict[Subscriber, None] = {}
        self._parting = Parting()
        self._in_form = [0 for _ in ALL_FORMS]
        self._forms: list[int] = []
        self._compressor = None if limits.compress_from is None else Compressor(limits.compress_from)
        self._writer = Writer(use_ring=limits.use_ring)
        self._spent = 0

    def __len__(self) -> int:
        return len(self._by_fd)

    def __iter__(self) -> Iterator[Subscriber]:
        yield from list(self._by_fd.values())

    def everyone(self) -> list[Subscriber]:
        """All subscribers, with those that still read history."""
        return [*self._held, *self._by_fd.values()]

    def listening_with(self, value: str) -> list[Subscriber]:
        """The subscribers that have a matcher as a client writes it, whatever its type."""
        return [
            one for one in self._index.listening_with(value) if one.is_open
        ]  # not those that read history

    @property
    def websockets(self) -> int:
        """How many of the subscribers have a WebSocket."""
        return self._in_form[WEBSOCKET]

    def fileno(self) -> int:
        """A descriptor that is readable when ``poll`` has something to do."""
        return self._epoll.fileno()

    def hold(self, subscriber: Subscriber) -> None:
        """Collect updates for a subscriber that still reads history; ``start`` lets them flow."""
        subscriber.pending = []
        self._held[subscriber] = None
        self._enter(subscriber)

    def is_held(self, subscriber: Subscriber) -> bool:
        """Whether updates are being collected for a subscriber."""
        return subscriber in self._held

    def release(self, subscriber: Subscriber) -> None:
        """Stop to collect updates for a subscriber, which nobody has seen yet."""
        if subscriber in self._held:
            del self._held[subscriber]
            self._leave(subscriber)
        subscriber.pending = GONE

    def _enter(self, subscriber: Subscriber) -> None:
        self._index.add(subscriber)
        self._count(subscriber.form, 1)

    def _leave(self, subscriber: Subscriber) -> None:
        self._index.remove(subscriber)
        self._count(subscriber.form, -1)

    def _count(self, form: int, change: int) -> None:
        before = self._in_form[form]
        self._in_form[form] = before + change
        if not before or not before + change:
            self._forms = [form for form in ALL_FORMS if self._in_form[form]]

    def start(self, subscriber: Subscriber) -> None:
        """Take over a subscriber's descriptor and send it every update from now on."""
        if subscriber in self._held:
            del self._held[subscriber]
        else:
            self._enter(subscriber)
        self._by_fd[subscriber.fd] = subscriber
        try:
            interest = _INTEREST if subscriber.websocket is None else _INTEREST | select.EPOLLIN
            self._epoll.register(subscriber.fd, interest)
        except OSError as error:  # the kernel's limits on epoll are reached
            self.drop(subscriber, _ending(error))
            return
        now = self._clock()
        self._schedule(subscriber, now)
        if subscriber.pending is None and subscriber.tls is not None:
            subscriber.pending = []
        elif subscriber.pending is not None:
            self._flush(subscriber, now)

    def end(self, subscriber: Subscriber, ending: Ending) -> None:
        """End a subscriber's stream in order: with a last chunk or a close frame, if nothing else waits."""
        is_told = False
        if subscriber.is_open and subscriber.form & (CHUNKED | WEBSOCKET) and not subscriber.pending:
            last = LAST if subscriber.form & CHUNKED else closing(ending.code, ending.text)
            self._write_at_once(subscriber, last, self._clock())
            is_told = subscriber.form == WEBSOCKET and not subscriber.pending
        self._drop(subscriber, ending, is_told=is_told)

    def drop(self, subscriber: Subscriber, ending: Ending) -> None:
        """End a subscriber's connection."""
        self._drop(subscriber, ending, is_told=False)

    def _drop(self, subscriber: Subscriber, ending: Ending, *, is_told: bool) -> None:
        if not subscriber.is_open:
            return
        self._leave(subscriber)
        self._stalled.pop(subscriber, None)
        self._by_fd.pop(subscriber.fd, None)
        if is_told:
            fd, tls = subscriber.fd, subscriber.tls
            subscriber.fd, subscriber.tls = -1, None
            self._parting.add(fd, tls, self._clock())
        else:
            _close(subscriber)
        subscriber.pending = GONE
        self._on_gone(subscriber, ending)
        subscriber.matchers = ()  # the timetable keeps it for a while, and patterns take memory

    def close(self) -> None:
        """Let go of the epoll; the subscribers have to be dropped before."""
        self._parting.close()
        self._writer.close()
        self._epoll.close()

    # -- updates -------------------------------------------------------------------------------

    def dispatch(self, entries: Sequence[Logged]) -> Iterator[None]:
        """Send updates to those they are for.

        :param entries: updates in the order of the log.
        :returns: an iterator to exhaust; each step writes one slice.
        """
        position = 0
        while position < len(entries):
            prepared: list[tuple[bytes, list[Subscriber]]] = []
            deliveries = 0
            while position < len(entries) and deliveries < _ROUND:
                start, position = position, _end_of_run(entries, position)
                update = entries[start].update
                for evaluated in self._index.evaluate(update.topics) if self._index.has_patterns else ():
                    if self._is_time_to_pause(evaluated * _EVALUATION):
                        yield
                receivers = self._index.matching(update.topics)
                self.dispatched = entries[position - 1].sequence  # who comes from now on reads it in the log
                if update.private and len(receivers) == 1:  # often, and not worth a generator
                    is_allowed = _may_read(receivers[0], update)
                    receivers = receivers if is_allowed else self._nobody(entries[start], 1)
                elif update.private and receivers:
                    allowed = yield from self._allowed(receivers, update.topics)
                    receivers = allowed or self._nobody(entries[start], len(receivers))
                if receivers:
                    run = entries[start:position]
                    events = [entry.update.encode() for entry in run]
                    frames = b""
                    if self._compressor is not None and any(one.form & ZSTD for one in receivers):
                        frames = yield from self._compress(self._compressor, events)
                    sent = messages(entry.update for entry in run) if self._in_form[WEBSOCKET] else b""
                    prepared += self._in_forms(_join(events), frames, sent, receivers)
                    deliveries += len(receivers)
                    self.delivered += len(receivers) * len(run)
                if self._is_time_to_pause(_PREPARATION):
                    yield
            if len(prepared) == 1:
                yield from self._write_same(*prepared[0])
            elif prepared:
                yield from self._write_different(prepared)
            if position < len(entries):
                yield

    def _is_time_to_pause(self, spent: int) -> bool:
        """Count work that is no write; true once it has been enough."""
        self._spent += spent
        if self._spent < _PAUSE:
            return False
        self._spent = 0
        return True

    def _allowed(
        self, found: Sequence[Subscriber], topics: Sequence[str]
    ) -> Generator[None, None, list[Subscriber]]:
        """Those whose token allows them to read a private update, decided once for each token."""
        decided: dict[Scope, bool] = {}
        allowed: list[Subscriber] = []
        for subscriber in found:
            scope = subscriber.grant.subscribe
            decision = decided.get(scope)
            if decision is None:
                decision = decided[scope] = scope.covers_any(topics)
                if self._is_time_to_pause(_DECISION):
                    yield
            if decision:
                allowed.append(subscriber)
        return allowed

    def _nobody(self, entry: Logged, listening: int) -> list[Subscriber]:
        """The receivers of a private update for which no token is good enough."""
        if not entry.is_event:
            self.unread(entry.update, listening)
        return []

    def _compress(self, compressor: Compressor, events: Iterable[bytes]) -> Generator[None, None, bytes]:
        """Each event in frames of its own."""
        frames: list[bytes] = []
        for event in events:
            for frame in compressor.frames(event):
                frames.append(frame)
                if self._is_time_to_pause(estimate(event)):
                    yield
        return _join(frames)

    def _in_forms(
        self, octets: bytes, frames: bytes, sent: bytes, receivers: list[Subscriber]
    ) -> list[tuple[bytes, list[Subscriber]]]:
        """Updates as their receivers want them; mostly, all want the same."""
        if len(self._forms) == 1:
            return [(in_form(self._forms[0], octets, frames, sent), receivers)]
        groups = ((form, [one for one in receivers if one.form == form]) for form in self._forms)
        return [(in_form(form, octets, frames, sent), group) for form, group in groups if group]

    def _write_same(self, octets: bytes, receivers: Sequence[Subscriber]) -> Iterator[None]:
        """The hot loop. One test sorts out all that is not a plain socket with nothing waiting."""
        size = len(octets)
        step = min(_SLICE, _SLICE_OCTETS // size + 1)
        for start in range(0, len(receivers), step):
            if start:
                yield
            some = receivers[start : start + step]
            fds = array("i", [one.fd for one in some if one.pending is None])
            ready, others = some, some[:0]
            if len(fds) < len(some):
                ready = [one for one in some if one.pending is None]
                others = [one for one in some if one.pending is not None]
            incomplete = self._writer.write(fds, octets)
            for place, written in incomplete:
                self._keep_rest(ready[place], octets, written)
            for subscriber in others:
                self._append(subscriber, octets)

    def _keep_rest(self, subscriber: Subscriber, octets: bytes, written: int) -> None:
        """Note what a socket did not take.

        :param written: the octets that it took, or a negative errno.
        """
        if written < 0 and written != -errno.EAGAIN:
            self.drop(subscriber, _ending(OSError(-written, os.strerror(-written))))
            return
        subscriber.pending = [octets]
        subscriber.pending_size = len(octets)
        subscriber.offset = max(written, 0)
        self._stall(subscriber, self._clock())

    def _write_different(self, prepared: Iterable[tuple[bytes, Sequence[Subscriber]]]) -> Iterator[None]:
        ready: list[Subscriber] = []
        for octets, receivers in prepared:
            size = len(octets)
            for subscriber in receivers:
                if subscriber.pending is not None:
                    self._append(subscriber, octets)
                else:
                    subscriber.pending, subscriber.pending_size = [octets], size
                    ready.append(subscriber)
        now = self._clock()
        writes = size = 0
        for subscriber in ready:
            if writes == _SLICE or size > _SLICE_OCTETS:
                yield
                now = self._clock()
                writes = size = 0
            writes += 1
            size += subscriber.pending_size
            self._flush(subscriber, now)

    def _append(self, subscriber: Subscriber, octets: bytes) -> None:
        """Queue octets for a subscriber that has something waiting, or speaks TLS."""
        pending = subscriber.pending
        if pending is None or pending is GONE:
            return
        is_first = not pending and subscriber.fd >= 0 and subscriber not in self._held
        pending.append(octets)
        subscriber.pending_size += len(octets)
        if is_first:
            self._flush(subscriber, self._clock())
        elif subscriber.pending_size <= self._limits.buffer:
            return
        elif subscriber in self._held:
            self.release(subscriber)
        else:  # in a burst, nothing may have been written yet
            self._flush(subscriber, self._clock())
            if subscriber.pending_size > self._limits.buffer:
                self.drop(subscriber, endings.behind(self._limits.buffer))

    def _flush(self, subscriber: Subscriber, now: float) -> None:
        """Write what is pending, until nothing is or the socket takes no more."""
        pending = subscriber.pending
        if pending is GONE:
            return
        while pending:
            try:
                written = _write(subscriber, pending)
            except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
                self._stall(subscriber, now)
                return
            except OSError as error:
                self.drop(subscriber, _ending(error))
                return
            subscriber.pending_size -= _consume(subscriber, pending, written)
            subscriber.stalled_at = now
        subscriber.pending = None if subscriber.tls is None else []
        subscriber.pending_size = 0
        subscriber.offset = 0
        if subscriber.stalled_at:
            subscriber.stalled_at = 0.0
            self._stalled.pop(subscriber, None)

    def _stall(self, subscriber: Subscriber, now: float) -> None:
        if subscriber not in self._stalled:
            self._stalled[subscriber] = 0
            subscriber.stalled_at = now

    @property
    def compresses(self) -> bool:
        """Whether there may be subscribers with frames of Zstandard."""
        return self._compressor is not None

    def encoded(self, updates: Sequence[Update], form: int) -> Iterator[bytes]:
        """Updates of the history as those with one form get them.

        :returns: pieces, none of them empty; the work between two of them is bounded.
        """
        if form == WEBSOCKET:
            if updates:
                yield messages(updates)
            return
        events = [update.encode() for update in updates]
        if not form & ZSTD or self._compressor is None:
            if events:
                yield in_form(form, b"".join(events), b"")
            return
        frames: list[bytes] = []
        spent = 0
        for event in events:
            for frame in self._compressor.frames(event):
                frames.append(frame)
                spent += estimate(event)
                if spent >= _PAUSE:
                    yield in_form(form, b"", b"".join(frames))
                    frames, spent = [], 0
        if frames:
            yield in_form(form, b"", b"".join(frames))

    # -- events of the sockets and of the clock --------------------------------------------------

    def poll(self) -> None:
        """Handle what the kernel reports: clients that left, sockets that are writable again."""
        now = self._clock()
        for fd, events in self._epoll.poll(0, _EVENTS):
            subscriber = self._by_fd.get(fd)
            if subscriber is None:
                self._parting.on_event(fd)
                continue
            if events & select.EPOLLIN:
                self._receive(subscriber)
            if events & _GONE:
                self.drop(subscriber, Ending(Reason.CLOSED_BY_CLIENT))
            elif subscriber.pending:
                self._flush(subscriber, now)

    def _receive(self, subscriber: Subscriber) -> None:
        """Read what a client sends over its WebSocket: as much as it may, or its connection ends."""
        websocket = subscriber.websocket
        while websocket is not None and subscriber.is_open:
            try:
                octets = _read(subscriber)
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return
            except OSError as error:
                self.drop(subscriber, _ending(error))
                return
            if not octets:
                self.drop(subscriber, Ending(Reason.CLOSED_BY_CLIENT))
                return
            content, close = websocket.take(octets)
            if close is not None:
                if isinstance(close, Violation):
                    ending = Ending(Reason.PROTOCOL_VIOLATION, close.text, close.code)
                else:
                    ending = Ending(Reason.CLOSED_BY_CLIENT, answer=close.code)
                self.end(subscriber, ending)
            elif content is not None and subscriber.pending:
                self._append(subscriber, pong(content))
            elif content is not None:
                self._write_at_once(subscriber, pong(content), self._clock())

    def tick(self) -> Iterator[None]:
        """Send heartbeats, end connections whose time is over, drop those that stall.

        To be called once a second.

        :returns: an iterator to exhaust; each step is one slice.
        """
        now = self._clock()
        self._parting.tick(now)
        if self._limits.dispatch_timeout:
            for subscriber, before in list(self._stalled.items()):
                self._stalled[subscriber] = unsent(subscriber.fd)
                if self._stalled[subscriber] < before:  # slow, and alive
                    subscriber.stalled_at = now
                if now - subscriber.stalled_at < self._limits.dispatch_timeout:
                    continue
                self._flush(subscriber, now)
                if now - subscriber.stalled_at >= self._limits.dispatch_timeout and subscriber.pending:
                    self.drop(subscriber, endings.took_nothing(self._limits.dispatch_timeout))
        for count, subscriber in enumerate(self._timetable.take(now), 1):
            self._attend(subscriber, now)
            if count % _SLICE == 0:
                yield

    def _attend(self, subscriber: Subscriber, now: float) -> None:
        websocket = subscriber.websocket
        if now + 1 > subscriber.ends_at:
            is_of_token = websocket is not None and websocket.ends_with_token
            self.end(subscriber, Ending(Reason.TOKEN_EXPIRED if is_of_token else Reason.TIME_IS_OVER))
            return
        if websocket is not None:
            websocket.renew()
        if self._limits.heartbeat and not subscriber.pending:
            self._write_at_once(subscriber, HEARTBEATS[subscriber.form], now)
        if subscriber.is_open:
            self._schedule(subscriber, now)

    def _write_at_once(self, subscriber: Subscriber, octets: bytes, now: float) -> None:
        """Write something to a subscriber that has nothing waiting."""
        subscriber.pending, subscriber.pending_size = [octets], len(octets)
        self._flush(subscriber, now)

    def _schedule(self, subscriber: Subscriber, now: float) -> None:
        # Never far ahead: the timetable keeps those who left until their second comes.
        self._timetable.put(subscriber, min(subscriber.ends_at, now + (self._limits.heartbeat or _LOOK)))


def _end_of_run(entries: Sequence[Logged], start: int) -> int:
    """The position after the last of the updates from ``start`` on that have the same receivers."""
    update = entries[start].update
    end = start + 1
    while end < len(entries):
        following = entries[end].update
        if following.topics != update.topics or following.private != update.private:
            break
        end += 1
    return end


def _note_unread(update: Update, listening: int) -> None:
    """Note a private update for which no token is good enough: most often a grant is missing."""
    _log.info(
        "update %s is private, and no token covers its topics: it reaches none of %d that listen here",
        update.id,
        listening,
    )


def _may_read(subscriber: Subscriber, update: Update) -> bool:
    return subscriber.grant.subscribe.covers_any(update.topics)


def _join(parts: Sequence[bytes]) -> bytes:
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _read(subscriber: Subscriber) -> bytes:
    if subscriber.tls is not None:
        return subscriber.tls.recv(_INCOMING)
    return os.read(subscriber.fd, _INCOMING)


def _write(subscriber: Subscriber, pending: list[bytes]) -> int:
    first: bytes | memoryview = pending[0]
    if subscriber.offset:
        first = memoryview(first)[subscriber.offset :]
    if subscriber.tls is not None:
        # An SSL record that was refused has to be offered again unchanged: never join here.
        return subscriber.tls.send(first[:_TLS_RECORDS])
    if len(pending) == 1:
        return os.write(subscriber.fd, first)
    return os.writev(subscriber.fd, [first, *pending[1:_MAX_BUFFERS]])


def _consume(subscriber: Subscriber, pending: list[bytes], written: int) -> int:
    """Remove what was written from the front.

    :returns: the octets of the elements that are complete.
    """
    offset = subscriber.offset + written
    complete = 0
    done = 0
    for octets in pending:
        if offset < len(octets):
            break
        offset -= len(octets)
        complete += len(octets)
        done += 1
    del pending[:done]
    subscriber.offset = offset
    return complete


def _close(subscriber: Subscriber) -> None:
    fd, tls = subscriber.fd, subscriber.tls
    subscriber.fd, subscriber.tls = -1, None
    if tls is None:
        with contextlib.suppress(OSError):
            os.close(fd)
        return
    with contextlib.suppress(OSError, ValueError):
        tls.unwrap()  # tells that the stream ends here; does not wait for the answer
    with contextlib.suppress(OSError):
        tls.close()


def _ending(error: OSError) -> Ending:
    if isinstance(error, ConnectionError | ssl.SSLError):
        return Ending(Reason.CLOSED_BY_CLIENT)
    return Ending(Reason.SOCKET_ERROR, error.strerror or type(error).__name__)
