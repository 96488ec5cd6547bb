"""A connection of HTTP/2 in the event loop: it holds no greenlet, only the requests in progress do."""

from __future__ import annotations

import contextlib
import logging
import os
import ssl
import time
from collections import deque
from collections.abc import Callable, Iterator

import gevent
from gevent import getcurrent
from gevent.event import Event
from greenlet import greenlet  # type: ignore[import-untyped]

from mercure_hub.endpoints.subscribe import Stream as Subscription
from mercure_hub.fanout.encoding import HEARTBEATS, Form
from mercure_hub.fanout.endings import Ending, Reason, ending_of
from mercure_hub.fanout.multiplexed import Multiplexed, Reader, Sender, Stream
from mercure_hub.fanout.tls import TlsLayer
from mercure_hub.fanout.writer import unsent
from mercure_hub.protocol import http2
from mercure_hub.protocol.errors import InvalidRequest
from mercure_hub.protocol.http import Answer
from mercure_hub.protocol.http2 import FRAME_SIZE, Code
from mercure_hub.server.channel import Timeout
from mercure_hub.server.exchange import Reply, begin_stream, refuse, respond
from mercure_hub.server.http import Message
from mercure_hub.server.http2 import fields
from mercure_hub.server.http2.receiving import Asked, Fault, Receiver
from mercure_hub.server.open_requests import OPEN_REQUEST
from mercure_hub.server.site import Site, Waiting

_SIZE = 16 << 10  # bytes that are read at once
_READS = 4  # before others have their turn
_AT_ONCE = 128  # requests of a connection that are served at once
_TURN = 0.005  # seconds in which connections go on before the loop looks at its sockets
_IDLE = 16  # greenlets that wait for a request
_SEND = 30.0  # seconds for which a client may take nothing of an answer

_log = logging.getLogger("mercure_hub.server")


class Sessions:
    """The connections of a listener that speak HTTP/2.

    :param site: what they share with others.
    """

    def __init__(self, site: Site) -> None:
        self._site = site
        self._hub = gevent.get_hub()
        self._open: set[Session] = set()
        self._ready: deque[tuple[Session, Asked]] = deque()
        self._idle: list[greenlet] = []
        self._is_stopped = False
        self._later: deque[Callable[[], None]] = deque()
        self._turn = self._hub.loop.timer(0.0)
        self.serving = 0

    def begin(self, fd: int, tls: TlsLayer | None, peer: str, received: bytes) -> None:
        """Serve a connection from now on.

        :param fd: descriptor of its non-blocking socket.
        :param tls: the TLS layer over it.
        :param peer: the address at the other end.
        :param received: what the client has sent, from the preface on.
        """
        try:
            session = Session(self._site, self, fd, tls, peer)
        except OSError:  # the limits of the kernel are reached
            with contextlib.suppress(OSError):
                os.close(fd) if tls is None else tls.close()
            return
        self._open.add(session)
        session.start(received, is_leaving=self._is_stopped)

    def remove(self, session: Session) -> None:
        """Forget a connection that is no longer there."""
        self._open.discard(session)

    def stop(self) -> None:
        """Tell all clients to send new requests elsewhere; end the connections without streams."""
        self._is_stopped = True
        for session in list(self._open):
            session.leave()
        self._hub.loop.run_callback(self._dismiss)

    @property
    def is_busy(self) -> bool:
        """Whether requests are being served, or still arrive."""
        return bool(self.serving or self._ready) or any(session.is_busy for session in self._open)

    def later(self, action: Callable[[], None]) -> None:
        """Do something after the other clients had their turn.

        A callback of the loop that adds another one would keep them waiting: gevent looks at its sockets only
        after each fifty.
        """
        self._later.append(action)
        if not self._turn.active:
            self._turn.start(self._go_on)

    def _go_on(self) -> None:
        ends_at = time.monotonic() + _TURN
        while self._later and time.monotonic() < ends_at:
            self._later.popleft()()
        if self._later and not self._turn.active:
            self._turn.start(self._go_on)

    def serve(self, session: Session, asked: Asked) -> None:
        """Have a request served by a greenlet of its own."""
        if not self._ready:
            self._hub.loop.run_callback(self._hand_out)
        self._ready.append((session, asked))

    def _hand_out(self) -> None:
        """Give each request to a greenlet; runs in the event loop, which goes on when one waits."""
        while self._ready:
            worker = self._idle.pop() if self._idle else greenlet(self._work, self._hub)
            worker.switch()

    def _work(self) -> None:
        # The request is no argument: an idle greenlet would keep it alive.
        while self._ready:
            self._serve_one()
            if len(self._idle) < _IDLE and not self._is_stopped:
                self._idle.append(getcurrent())
                self._hub.switch()

    def _serve_one(self) -> None:
        session, asked = self._ready.popleft()
        self.serving += 1
        try:
            session.serve(asked)
        finally:
            self.serving -= 1

    def _dismiss(self) -> None:
        while self._idle:
            self._idle.pop().switch()


class Session(Waiting, Reader):
    """One connection.

    :param site: what it shares with others.
    :param sessions: those of its listener.
    :param fd: descriptor of its non-blocking socket.
    :param tls: the TLS layer over it.
    :param peer: the address at the other end.
    """

    def __init__(self, site: Site, sessions: Sessions, fd: int, tls: TlsLayer | None, peer: str) -> None:
        self._site = site
        self._sessions = sessions
        self._peer = peer
        self._engine = site.hub.broker.engine
        now = time.monotonic()
        self._connection = self._engine.connect(fd, tls, self)
        self._receiver = Receiver(self._connection, site.max_body, now)
        self._queued: deque[Asked] = deque()
        self._queued_size = 0  # bytes of the requests in it, also of those that were given up
        self._in_progress = 0
        self._held: dict[Stream, int] = {}  # bytes of answers and requests whose client is waited for
        self._has_answered = False
        self._is_reading = False
        self._is_writing = False
        self._is_waiting = False
        self._awaited: tuple[bool, ...] = ()
        self._idle_since = now
        self._timer = gevent.get_hub().loop.timer(0.0)

    def start(self, received: bytes, *, is_leaving: bool) -> None:
        """Greet the client, and read what it has sent."""
        self._receiver.greet()
        self._feed(received)
        self.receive()
        if is_leaving:
            self.leave()

    @property
    def is_busy(self) -> bool:
        """Whether a request has begun and is not answered."""
        return bool(self._in_progress or self._queued or self._receiver.incomplete)

    # -- receiving -------------------------------------------------------------------------------------------

    def receive(self) -> None:
        """Read what has arrived, or as much as leaves others their turn."""
        connection = self._connection
        for _ in range(_READS):
            if connection.fd < 0 or self._receiver.is_paused:
                break
            try:
                received = _read(connection)
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return
            except OSError as error:
                self._engine.disconnect(connection, ending_of(error))
                return
            if not received:
                self._engine.disconnect(connection, Ending(Reason.CLOSED_BY_CLIENT))
                return
            self._feed(received)
        if not self._is_reading and connection.fd >= 0:  # the kernel does not report again what is left
            self._is_reading = True
            self._sessions.later(self._read_on)

    def _read_on(self) -> None:
        self._is_reading = False
        if self._receiver.is_paused and self._connection.fd >= 0:
            self._feed(b"")
        self.receive()

    def _feed(self, received: bytes) -> None:
        """Parse and handle what was received."""
        connection = self._connection
        try:
            for event in self._receiver.feed(received, time.monotonic()):
                if isinstance(event, Asked):
                    self._queue(event)
                else:
                    self._engine.drop(event.subscriber, Ending(Reason.CLOSED_BY_CLIENT))
                    if connection.fd < 0:  # it broke when it was written to: nobody waits for the rest
                        return
        except Fault as fault:
            self._fail(fault)
            return
        except Exception:
            _log.exception("a connection failed; this is a defect of the hub")
            self._fail(Fault(Code.INTERNAL_ERROR, "the hub failed"))
            return
        self._start_requests()
        self._engine.flush(connection)
        self._look()

    def _fail(self, fault: Fault) -> None:
        """Tell the client what was wrong, and end the connection."""
        if self._connection.fd < 0:
            return
        _log.info("the connection of %s ends: %s (HTTP/2 %s)", self._peer, fault.text, fault.code.name)
        ending = Ending(Reason.PROTOCOL_VIOLATION, fault.text)
        self._end(http2.goaway(self._receiver.last, fault.code, fault.text), ending)

    def _end(self, frame: bytes, ending: Ending) -> None:
        self._connection.write(frame)
        self._engine.flush(self._connection)
        self._engine.disconnect(self._connection, ending, linger=True)

    # -- waiting for the client ------------------------------------------------------------------------------

    def _look(self) -> None:
        """Note whether the client is waited for, after anything has changed."""
        connection, receiver = self._connection, self._receiver
        if connection.fd < 0:
            return
        is_idle = not connection.streams
        if is_idle and self._awaited[:1] != (True,):
            self._idle_since = time.monotonic()
        if is_idle and receiver.is_leaving and not self._in_progress:
            self._end(b"", Ending(Reason.HUB_STOPS))
            return
        is_waiting = bool(self._held or self._queued)  # those that are queued wait for the answers to others
        awaited = is_idle, bool(receiver.incomplete), bool(receiver.section_since), is_waiting
        held = receiver.buffered + self._queued_size + sum(self._held.values())
        waiting = self._site.open_requests
        if any(awaited) and not self._is_waiting:
            self._is_waiting = True
            waiting.begin(self, held)
        elif any(awaited):
            waiting.resize(self, held)
        elif self._is_waiting:
            self._is_waiting = False
            waiting.finish(self)
        if awaited != self._awaited:
            self._awaited = awaited
            self._set_timer()

    def _set_timer(self) -> None:
        times, receiver, now = self._site.times, self._receiver, time.monotonic()
        due = [one.began_at + times.whole for one in receiver.incomplete.values()][:1]
        if receiver.section_since:
            due.append(receiver.section_since + times.whole)
        if not self._connection.streams:
            due.append(self._idle_since + times.first_byte)
        self._timer.close()
        if due:
            self._timer = gevent.get_hub().loop.timer(max(min(due) - now, 0.001))
            self._timer.start(self._on_time)

    def _on_time(self) -> None:
        now, times = time.monotonic(), self._site.times
        connection, receiver = self._connection, self._receiver
        if connection.fd < 0:
            return
        if receiver.section_since and now - receiver.section_since >= times.whole:
            self._fail(Fault(Code.ENHANCE_YOUR_CALM, "a field section did not arrive in time"))
            return
        if not connection.streams and now - self._idle_since >= times.first_byte:
            self._end(http2.goaway(receiver.last, Code.NO_ERROR), Ending(Reason.TIME_IS_OVER))
            return
        for asked in receiver.overdue(now, times.whole):
            self._queue(asked)
        self._start_requests()
        self._look()
        if connection.fd >= 0:
            self._set_timer()

    def make_room(self) -> None:
        """End the requests that the client is waited for, because others need the memory or the descriptor.

        The connection ends too, unless it has subscribers: they may be those of everybody behind a proxy.
        """
        gevent.get_hub().loop.run_callback(self._make_room)  # the caller may be reading from this one

    def _make_room(self) -> None:
        if self._receiver.section_since or not any(self._connection.subscriptions()):
            self._fail(Fault(Code.ENHANCE_YOUR_CALM, "the hub has too many incomplete requests"))
            return
        queued = [asked.stream for asked in self._queued]
        self._forget_queued()
        for stream in [*self._receiver.incomplete, *self._held, *queued]:
            self._connection.reset(stream, Code.ENHANCE_YOUR_CALM)
        self._is_waiting = False
        self._engine.flush(self._connection)
        self._look()

    def leave(self) -> None:
        """Accept no more requests; end when those that there are have ended."""
        if self._receiver.is_leaving:
            return
        self.receive()  # requests that have arrived are answered
        self._receiver.is_leaving = True
        self._connection.write(http2.goaway(self._receiver.last, Code.NO_ERROR))
        self._engine.flush(self._connection)
        self._look()

    # -- called by the engine --------------------------------------------------------------------------------

    def postpone(self) -> None:
        """Others should have their turn before more is written."""
        if not self._is_writing:
            self._is_writing = True
            self._sessions.later(self._write_on)

    def _write_on(self) -> None:
        self._is_writing = False
        self._engine.flush(self._connection)

    def ended(self, stream: Stream) -> None:
        """A stream is no longer there."""
        self._receiver.ended(stream)
        self._held.pop(stream, None)  # before its greenlet notices: others must not make room for it, too
        if not self._connection.streams:
            gevent.get_hub().loop.run_callback(self._look)

    def lost(self) -> None:
        """The connection is no longer there."""
        self._timer.close()
        self._site.open_requests.finish(self)
        self._sessions.remove(self)
        self._forget_queued()
        for stream in list(self._connection.streams.values()):
            self._connection.close(stream)

    # -- requests --------------------------------------------------------------------------------------------

    def _queue(self, asked: Asked) -> None:
        self._queued.append(asked)
        self._queued_size += asked.size

    def _forget_queued(self) -> None:
        self._queued.clear()
        self._queued_size = 0

    def _start_requests(self) -> None:
        while self._queued and self._in_progress < _AT_ONCE:
            asked = self._queued.popleft()
            self._queued_size -= asked.size
            if asked.stream.is_open:
                self._in_progress += 1
                self._sessions.serve(self, asked)

    def serve(self, asked: Asked) -> None:
        """Answer a request; runs in a greenlet."""
        try:
            if asked.stream.is_open:
                exchange = Exchange(self._site, self._peer, self, asked.stream)
                exchange.run(asked.message, asked.error)
        except (OSError, Timeout):
            self._connection.reset(asked.stream, Code.CANCEL)
        except Exception:
            _log.exception("a request failed; this is a defect of the hub")
            self._connection.reset(asked.stream, Code.INTERNAL_ERROR)
        finally:
            self._in_progress -= 1
            self._start_requests()
            self._engine.flush(self._connection)
            self._look()

    def write_head(self, stream: Stream, section: bytes, *, ends: bool) -> None:
        """Have the field section of an answer sent by the next flush."""
        if not self._has_answered:
            section, self._has_answered = fields.NO_TABLE + section, True
        kind, flags = http2.HEADERS, http2.END_STREAM if ends else 0
        number = int(stream)
        while len(section) > FRAME_SIZE:
            self._connection.write(http2.frame(kind, flags, number, section[:FRAME_SIZE]))
            kind, flags, section = http2.CONTINUATION, 0, section[FRAME_SIZE:]
        self._connection.write(http2.frame(kind, flags | http2.END_HEADERS, number, section))

    @contextlib.contextmanager
    def holding(self, stream: Stream, size: int) -> Iterator[None]:
        """Count memory while the client is waited for.

        :param size: bytes.
        """
        self._held[stream] = size
        self._look()
        try:
            yield
        finally:
            self._held.pop(stream, None)
            self._look()

    def flush(self) -> None:
        """Write what waits."""
        self._engine.flush(self._connection)

    def end_stream(self, stream: Stream) -> None:
        """Note that a stream has been ended in order; give up what the client still sends on it."""
        if stream.is_receiving:
            self._connection.reset(stream, Code.NO_ERROR)
        else:
            self._connection.close(stream)


class Exchange(Sender):
    """One request on a stream, as its greenlet sees it: a channel to the client.

    :param site: what it shares with others.
    :param peer: the address at the other end.
    :param session: its connection.
    :param stream: its stream.
    """

    def __init__(self, site: Site, peer: str, session: Session, stream: Stream) -> None:
        self._site = site
        self._peer = peer
        self._session = session
        self._stream = stream
        self._may_go_on = Event()
        self._on_end: Callable[[], None] | None = None
        stream.sender = self

    def run(self, message: Message, error: InvalidRequest | None) -> None:
        """Answer the request.

        :param error: why it is refused; ``None`` if it is not.
        :raises OSError: the client left.
        :raises Timeout: the client takes nothing.
        """
        is_head = message.method == "HEAD"
        if error is not None:
            message.headers, message.target = {}, b""
            self._answer(refuse(self._site, self._peer, error), [], is_head=is_head)
            return
        reply = respond(self._site, self._peer, message, self._watched, may_switch=False)
        try:
            if not self._stream.is_open:
                return
            if isinstance(reply.result, Answer):
                self._answer(reply.result, reply.extra, is_head=is_head)
            else:
                self._begin(reply, reply.result, is_head=is_head)
        finally:
            reply.release()

    def _answer(self, answer: Answer, extra: list[tuple[str, str]], *, is_head: bool) -> None:
        has_body = answer.status not in (204, 304)
        length = len(answer.body) if has_body else None
        section = fields.answer(answer.status, answer.headers, extra, time.time(), length)
        body = answer.body if has_body and not is_head else b""
        self._session.write_head(self._stream, section, ends=not body)
        if body:
            self.send(body, _SEND, ends=True)
        self._session.end_stream(self._stream)

    def _begin(self, reply: Reply, subscription: Subscription, *, is_head: bool) -> None:
        """Begin a stream, and give it to the engine."""
        section = fields.answer(200, subscription.headers, reply.extra, time.time(), None)
        if is_head:
            self._session.write_head(self._stream, section, ends=True)
            self._session.end_stream(self._stream)
            return
        form = Form.STREAM_ZSTD if subscription.is_compressed else Form.STREAM
        form = form.naming_topics(subscription.names_topics)

        def send_head() -> None:
            self._session.write_head(self._stream, section, ends=False)
            # A comment follows the head at once, so that a proxy passes the head on. A closed window must not
            # keep the subscriber from being live.
            if self._stream.connection.has_room(self._stream, len(HEARTBEATS[form])):
                self.offer(memoryview(HEARTBEATS[form]))
            self._session.flush()

        subscriber = begin_stream(self._site, reply, form, self, send_head)
        broker = self._site.hub.broker
        if subscriber is None:
            self._stream.connection.reset(self._stream, Code.CANCEL)
        elif self._stream.is_open:
            subscriber.stream = self._stream
            broker.start(subscriber)
        else:
            broker.abandon(subscriber, Ending(Reason.CLOSED_BY_CLIENT))

    # -- a channel -------------------------------------------------------------------------------------------

    def go_on(self) -> None:
        """There may be room, or the stream is no longer there."""
        self._may_go_on.set()
        on_end = self._on_end
        if on_end is not None and not self._stream.is_open:
            self._on_end = None
            on_end()

    def send(self, content: bytes, timeout: float, *, ends: bool = False) -> None:
        """Send bytes, and wait until the windows and the socket have taken all.

        :param timeout: seconds for which the client may take nothing.
        :param ends: they are the last of the stream.
        :raises Timeout: it took nothing.
        :raises OSError: the stream is no longer there.
        """
        rest = memoryview(content)[self.offer(memoryview(content), ends=ends) :]
        if not rest:
            return
        with self._session.holding(self._stream, len(content)):
            while rest:
                if not self.has_room(timeout):
                    raise Timeout
                rest = rest[self.offer(rest, ends=ends) :]

    def offer(self, content: memoryview, *, ends: bool = False) -> int:
        """Send as much as possible without waiting.

        :returns: bytes sent.
        :raises OSError: the stream is no longer there.
        """
        if not self._stream.is_open:
            raise ConnectionResetError("the client gave the stream up")
        connection, sent = self._stream.connection, 0
        while sent < len(content):  # a frame at a time: what the socket does not take stays in memory
            piece = content[sent : sent + FRAME_SIZE]
            size = connection.offer(self._stream, piece, ends=ends and sent + len(piece) == len(content))
            self._session.flush()
            sent += size
            if size < len(piece) or connection.is_full:
                break
        if sent < len(content):
            if not self._stream.is_open:  # writing has shown that the client left
                raise ConnectionResetError("the client left")
            self._may_go_on.clear()
            connection.wait(self._stream)
        return sent

    def has_room(self, seconds: float) -> bool:
        """Wait until more can be offered; false when that takes longer."""
        return self._may_go_on.wait(seconds) is True

    def unsent(self) -> int:
        """How many bytes the client has not acknowledged, if they are what is waited for."""
        connection = self._stream.connection
        return unsent(connection.fd) if connection.is_full and connection.fd >= 0 else 0

    @contextlib.contextmanager
    def _watched(self, on_end: Callable[[], None]) -> Iterator[None]:
        """Call a function if the client gives the stream up."""
        self._on_end = on_end
        try:
            with self._session.holding(self._stream, OPEN_REQUEST):
                yield
        finally:
            self._on_end = None


def _read(connection: Multiplexed) -> bytes:
    return os.read(connection.fd, _SIZE) if connection.tls is None else connection.tls.recv(_SIZE)
