"""One client connection, from its first byte until it ends or the engine takes it over as a subscriber."""

from __future__ import annotations

import contextlib
import logging
import ssl
import time
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from mercure_hub.endpoints.hub import Hub
from mercure_hub.endpoints.monitoring import HEALTH, LIVE, READY
from mercure_hub.endpoints.request import Request
from mercure_hub.endpoints.routes import cors, route
from mercure_hub.endpoints.subscribe import Stream
from mercure_hub.fanout.encoding import HEARTBEATS, Form
from mercure_hub.fanout.endings import Ending, Reason, took_nothing
from mercure_hub.fanout.subscriber import Subscriber
from mercure_hub.metrics.catalogue import ANSWERS, REFUSED
from mercure_hub.metrics.tally import Tally
from mercure_hub.protocol.errors import (
    AuthorizationError,
    InvalidRequest,
    MercureError,
    RequestTimeout,
    StorageAway,
    StorageError,
    reference,
)
from mercure_hub.protocol.http import Answer, error_answer
from mercure_hub.protocol.hub_url import Identity
from mercure_hub.protocol.websocket import WebSocket
from mercure_hub.server.channel import Channel, Outlet, Timeout
from mercure_hub.server.http import (
    Addressing,
    Message,
    RequestReader,
    encode_answer,
    encode_stream_head,
    encode_switch,
)
from mercure_hub.server.logs import AccessLog

OPEN_REQUEST = 32 << 10
"""Bytes that a connection takes while it waits for its client, besides what it has received."""

_LAST_REQUEST = 0.1  # seconds for the next request on a connection when the hub stops
_SEND = 30.0  # seconds for which a client may take nothing of an answer
_DRAIN = 2.0  # seconds for what still arrives after a refusal
_NOTICE = 60.0  # seconds between two log lines about ended connections
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

_ANY_URL = frozenset({HEALTH, LIVE, READY})  # paths that are served whatever the URL

_log = logging.getLogger("mercure_hub.server")

Key = TypeVar("Key", bound=Hashable)


class OpenRequests(Generic[Key]):
    """The connections that wait for their clients and are no subscribers, bounded in memory.

    They take memory before a token is checked. When they take too much together, those end that have waited
    longest; a client that sends its request at once is never among them.

    :param limit: bytes that they may take together.
    :param clock: monotonic time in seconds.
    :param end: ends a connection, which is no longer counted.

    ``taken`` is how many bytes they take.
    """

    def __init__(self, limit: int, clock: Callable[[], float], end: Callable[[Key], None]) -> None:
        self.taken = 0
        self._limit = limit
        self._end = end
        self._clock = clock
        self._waiting: dict[Key, int] = {}  # the longest waiting first
        self._ended = 0
        self._noticed_at: float | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    def begin(self, one: Key, size: int = 0) -> None:
        """Count a connection as waiting from now on, also if it has waited before.

        :param size: bytes that it holds meanwhile.
        """
        self.finish(one)
        self._waiting[one] = 0
        self.grow(one, OPEN_REQUEST + size)

    def grow(self, one: Key, size: int) -> None:
        """Count what was received from a connection that goes on waiting.

        :param size: bytes.
        """
        if one not in self._waiting:  # it was ended, and has not noticed yet
            return
        self._waiting[one] += size
        self.taken += size
        while self.taken > self._limit:
            self._end_oldest()

    def finish(self, one: Key) -> None:
        """Stop counting a connection."""
        self.taken -= self._waiting.pop(one, 0)

    def make_room(self, number: int) -> None:
        """End some connections, because the process has no descriptor left.

        :param number: how many at most.
        """
        for _ in range(min(number, len(self._waiting))):
            self._end_oldest()

    def _end_oldest(self) -> None:
        oldest = next(iter(self._waiting))
        self.finish(oldest)
        self._end(oldest)
        self._ended += 1
        now = self._clock()
        if self._noticed_at is None or now - self._noticed_at >= _NOTICE:
            _log.warning(
                "connections that waited for their clients were ended to make room for others: %d so far, "
                "%d are left",
                self._ended,
                len(self._waiting),
            )
            self._noticed_at = now


@dataclass(frozen=True, slots=True)
class RequestTimes:
    """How long a client may take, in seconds.

    :param first_byte: for a request to begin, also on a connection that was used before.
    :param whole: for all of a request to arrive once it has begun.
    """

    first_byte: float = 20.0
    whole: float = 30.0


@dataclass(frozen=True, slots=True)
class Site:
    """What all connections of a listener share.

    :param hub: for the endpoints.
    :param addressing: derives the client's address and the URL that it used.
    :param access_log: a line for each request.
    :param max_body: bytes of content in a request.
    :param tls: context of a hub that terminates TLS itself.
    :param replay_timeout: seconds for which a subscriber may take nothing of its history.
    :param open_requests: the connections that wait for their clients.
    :param times: how long clients may take for a request.
    :param route: serves a request.
    :param any_url: serve requests whatever their URL.
    """

    hub: Hub
    addressing: Addressing
    access_log: AccessLog
    max_body: int
    tls: ssl.SSLContext | None
    replay_timeout: float
    open_requests: OpenRequests[ClientConnection]
    times: RequestTimes
    route: Callable[[Hub, Request], Answer | Stream] = route
    any_url: bool = False


class ClientConnection:
    """Serves one connection; ``run`` is the body of a greenlet.

    :param site: what it shares with others.
    :param fd: descriptor of an accepted, non-blocking socket.
    :param peer: the address at the other end.
    """

    def __init__(self, site: Site, fd: int, peer: str) -> None:
        self._site = site
        self._channel = Channel(fd)
        self._peer = peer
        self._reader = RequestReader(site.max_body)
        self._has_begun = False
        self._is_serving = False
        self._is_closing = False
        self._makes_room = False

    def run(self) -> None:
        """Serve requests until the client leaves, or becomes a subscriber."""
        is_detached = False
        self._has_begun = True
        try:
            if self._site.tls is not None:
                self._site.open_requests.begin(self)
                self._channel.handshake(self._site.tls, self._site.times.whole)
            is_detached = self._serve()
        except (OSError, Timeout):
            return  # the client left or is silent: nothing is owed to it
        except Exception:
            _log.exception("a connection failed; this is a defect of the hub")
        finally:
            self._site.open_requests.finish(self)
            self._reader.close()
            if not is_detached:
                self._channel.close()

    def make_room(self) -> None:
        """End although the client is still waited for, because others need the memory or the descriptor."""
        self._makes_room = True
        if self._is_serving:
            self._channel.cut()
        else:
            self._channel.end()

    def stop(self) -> None:
        """End after the request that is being served, or at once if there is none.

        A connection that was just accepted has sent its request, so it is served.
        """
        self._is_closing = True
        if self._has_begun and not self._is_serving and not self._reader.started:
            self._channel.end()

    def _serve(self) -> bool:
        """Serve requests; true when the connection now belongs to a subscriber."""
        while True:
            try:
                message = self._next()
            except InvalidRequest as error:
                self._refuse(error)
                return False
            if message is None:
                return False
            self._is_serving = True
            keep_alive = message.keep_alive and not self._is_closing
            if self._respond(message, keep_alive):
                return True
            if not keep_alive or self._is_closing:
                return False
            self._is_serving = False

    def _next(self) -> Message | None:
        """The next request; ``None`` when the client closes the connection between two."""
        self._site.open_requests.begin(self)
        try:
            return self._receive()
        finally:
            self._site.open_requests.finish(self)

    def _receive(self) -> Message | None:
        reader, times = self._reader, self._site.times
        first_byte = time.monotonic() + (_LAST_REQUEST if self._is_closing else times.first_byte)
        whole = 0.0
        if not reader.ready:
            reader.feed(b"")  # raises what was wrong behind the request before
        while not reader.ready:
            if reader.started:
                whole = whole or time.monotonic() + times.whole
            try:
                left = (whole or first_byte) - time.monotonic()
                received = self._channel.receive(max(left, 0.0), reader.appetite)
            except Timeout:
                if not reader.started:
                    return None
                raise RequestTimeout(f"The request did not arrive within {times.whole:g} s.") from None
            if not received and self._makes_room and reader.started:
                raise RequestTimeout("The hub has too many incomplete requests, and this was the oldest.")
            if not received:
                return None
            self._site.open_requests.grow(self, len(received))
            reader.feed(received)
            if reader.expects_continue and not reader.ready:
                reader.expects_continue = False
                self._channel.send(_CONTINUE, _SEND)
        return reader.ready.popleft()

    def _respond(self, message: Message, keep_alive: bool) -> bool:
        """Answer a request; true when the connection now belongs to a subscriber."""
        started = time.perf_counter()
        site = self._site
        identity: Identity | None = None
        request: Request | None = None
        target, _, query = message.target.partition(b"?")
        path = _origin_form(target.decode("latin-1"), message.headers)
        peer = site.addressing.client(self._peer, message.headers)
        result: Answer | Stream
        try:
            identity = site.addressing.identity(
                self._peer, message.headers, any_url=site.any_url or path in _ANY_URL
            )
            may_switch = message.takes_chunks and not (message.is_followed or message.body)
            request = Request(
                message.method,
                path,
                query,
                message.headers,
                message.body,
                peer,
                identity,
                may_switch,
                self._watched,
            )
            result = site.route(site.hub, request)
        except MercureError as error:
            _note(site.hub.broker.tally, error, peer, message.method)
            result = error_answer(error, None if identity is None else identity.metadata_url)
        except Exception:
            _log.exception("%s %s failed; this is a defect of the hub", message.method, ascii(path))
            result = error_answer(MercureError())
        try:
            return self._deliver(result, request, message, keep_alive=keep_alive, started=started)
        finally:
            if isinstance(result, Stream):
                result.slot.release()

    @contextlib.contextmanager
    def _watched(self, on_end: Callable[[], None]) -> Iterator[None]:
        """Call a function if the client leaves, or has to leave because too many wait."""
        self._site.open_requests.begin(self)
        try:
            with self._channel.watched(on_end):
                yield
        finally:
            self._site.open_requests.finish(self)

    def _deliver(
        self,
        result: Answer | Stream,
        request: Request | None,
        message: Message,
        *,
        keep_alive: bool,
        started: float,
    ) -> bool:
        """Send an answer, or begin a stream; true when the connection now belongs to a subscriber."""
        site = self._site
        extra = [] if request is None else cors(site.hub, request)
        message.body = b""  # do not keep it for as long as the client takes to read
        if request is not None:
            request.body = b""
        now = time.time()
        is_head = message.method == "HEAD"
        status = result.status if isinstance(result, Answer) else 200 if result.accept is None else 101
        site.hub.broker.tally.add(ANSWERS, 1, str(status))
        if site.access_log.is_on:
            peer = site.addressing.client(self._peer, message.headers)
            seconds = time.perf_counter() - started
            site.access_log.write(peer, message.method, message.target, status, seconds)
        if isinstance(result, Stream) and request is not None:
            if result.accept is not None:
                return self._stream(result, request, encode_switch(result.headers, now), Form.WEBSOCKET)
            head = encode_stream_head(
                result.headers, extra, now, is_framed=message.takes_chunks, keep_alive=is_head and keep_alive
            )
            if is_head:
                self._channel.send(head, _SEND)
                return False
            form = Form.of_stream(is_chunked=message.takes_chunks, is_compressed=result.is_compressed)
            # A comment follows the head at once, so that a proxy passes the head on.
            return self._stream(result, request, head + HEARTBEATS[form], form)
        if isinstance(result, Answer):
            self._send(encode_answer(result, extra, now, keep_alive=keep_alive, head_only=is_head))
        return False

    def _send(self, content: bytes) -> None:
        sent = self._channel.offer(memoryview(content))
        if sent == len(content):
            return
        self._site.open_requests.begin(self, len(content))
        try:
            self._channel.send(memoryview(content)[sent:], _SEND)
        finally:
            self._site.open_requests.finish(self)

    def _stream(self, stream: Stream, request: Request, head: bytes, form: Form) -> bool:
        """Send what the subscriber missed, then give its descriptor to the engine."""
        broker = self._site.hub.broker
        now = broker.clock()
        subscriber = Subscriber(
            id=broker.new_subscriber_id(),
            matchers=stream.matchers,
            grant=stream.grant,
            identity=request.identity,
            peer=request.peer,
            now=now,
            ends_at=now + stream.lifetime,
            form=form,
            websocket=WebSocket(ends_with_token=stream.ends_with_token) if form is Form.WEBSOCKET else None,
        )
        stream.slot.keep()
        broker.enter(subscriber)
        ending = Ending(Reason.CLOSED_BY_CLIENT)
        is_complete = False
        try:
            self._channel.send(head, _SEND)
            outlet = Outlet(self._channel, self._site.replay_timeout, broker.clock)
            is_complete = broker.replay(subscriber, stream.start, outlet)
        except StorageError as error:
            _log.log(_level(error), "a replay was cut: %s", error)
            ending = Ending(Reason.UNREADABLE)
        except Timeout:
            ending = took_nothing(self._site.replay_timeout)
        finally:
            if not is_complete:
                self._is_closing = True  # no other answer can follow a stream that has begun
                broker.abandon(subscriber, ending)
        if is_complete:
            broker.start(subscriber, *self._channel.detach())
        return is_complete

    def _refuse(self, error: InvalidRequest) -> None:
        """Answer what could not be parsed as a request, and end the connection."""
        self._reader.close()
        refusal = encode_answer(error_answer(error), [], time.time(), keep_alive=False, head_only=False)
        with contextlib.suppress(OSError, Timeout):
            self._channel.send(refusal, _SEND)
        self._site.hub.broker.tally.add(ANSWERS, 1, str(error.status))
        reason = f"{error.detail} See {reference(error.section)}"
        self._site.access_log.write_refused(self._peer, error.status, reason)
        self._drain()

    def _drain(self) -> None:
        """Receive a little of what still arrives, or the kernel would drop the answer with a reset."""
        deadline = time.monotonic() + _DRAIN
        with contextlib.suppress(OSError, Timeout):
            for _ in range(64):
                if not self._channel.receive(max(deadline - time.monotonic(), 0.0)):
                    return


def _origin_form(target: str, headers: dict[str, str]) -> str:
    """The path of a target. The host of an absolute URL replaces the Host header (RFC 9112 section 3.2.2)."""
    scheme, separator, rest = target.partition("://")
    if not separator or scheme.lower() not in ("http", "https"):
        return target
    headers["host"], slash, path = rest.partition("/")
    return slash + path or "/"


def _note(tally: Tally, error: MercureError, peer: str, method: str) -> None:
    if isinstance(error, AuthorizationError):
        tally.add(REFUSED, 1, error.explained)
        where = reference(error.explained)
        _log.info("%s from %s refused with %d: %s, see %s", method, peer, error.status, error.cause, where)
    elif isinstance(error, StorageError):
        where = reference(error.section)
        _log.log(_level(error), "%s from %s failed: %s, see %s", method, peer, error.detail, where)


def _level(error: StorageError) -> int:
    """Debug while the engine is away: that is logged once, not with each request."""
    return logging.DEBUG if isinstance(error, StorageAway) else logging.ERROR
