"""One client connection, from its first octet to its end or to its life as a subscriber."""

from __future__ import annotations

import contextlib
import logging
import ssl
import time
from collections.abc import Callable, Hashable
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
    StorageError,
    reference,
)
from mercure_hub.protocol.http import Answer, error_answer
from mercure_hub.protocol.identity import Identity
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

_EACH = 32 << 10  # bytes that a connection takes, whatever it has sent
_NOTICE = 60.0  # seconds between two lines of the log

_log = logging.getLogger("mercure_hub.server")

Key = TypeVar("Key", bound=Hashable)


class OpenRequests(Generic[Key]):
    """Those that wait, for the longest time first.

    :param most: bytes that they may take together.
    :param clock: monotonic time in seconds.
    :param end: ends one of them, which is no longer counted.

    ``taken`` is how much they take.
    """

    def __init__(self, most: int, clock: Callable[[], float], end: Callable[[Key], None]) -> None:
        self.taken = 0
        self._most = most
        self._end = end
        self._clock = clock
        self._waiting: dict[Key, int] = {}
        self._ended = 0
        self._noticed_at: float | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    def begin(self, one: Key, size: int = 0) -> None:
        """Count a connection that waits for its client from now on; one that has waited, only anew.

        :param size: bytes that it holds meanwhile.
        """
        self.finish(one)
        self._waiting[one] = 0
        self.grow(one, _EACH + size)

    def grow(self, one: Key, size: int) -> None:
        """Count what has come from a connection that goes on waiting.

        :param size: bytes.
        """
        if one not in self._waiting:  # it was ended, and has not noticed
            return
        self._waiting[one] += size
        self.taken += size
        while self.taken > self._most:
            self._end_oldest()

    def finish(self, one: Key) -> None:
        """Count a connection no more."""
        self.taken -= self._waiting.pop(one, 0)

    def make_room(self, number: int) -> None:
        """End some, for the process has no descriptor left.

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
                "connections that waited for their clients were ended to make room for others: %d up to now, "
                "%d are left",
                self._ended,
                len(self._waiting),
            )
            self._noticed_at = now


_FIRST_OCTET = 20.0  # seconds for a request to begin, and for a keep-alive connection to be used again
_LAST_LOOK = 0.1  # the same when the hub stops
_WHOLE_REQUEST = 30.0  # seconds for all of it to arrive
_SEND = 30.0
_DRAIN = 2.0  # seconds for what still comes after a refusal
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

_OF_ANY_URL = frozenset({HEALTH, LIVE, READY})


@dataclass(frozen=True, slots=True)
class Site:
    """What all connections share.

    :param hub: for the endpoints.
    :param addressing: who the client is, and which URL it used.
    :param access_log: a line for each request.
    :param max_body: octets of content in a request.
    :param tls: context of a hub that ends TLS itself.
    :param replay_timeout: seconds for which a subscriber may take nothing of its history.
    :param open_requests: the connections that wait for their client.
    :param route: from a request to its answer.
    :param any_url: answer whatever URL is asked for.
    """

    hub: Hub
    addressing: Addressing
    access_log: AccessLog
    max_body: int
    tls: ssl.SSLContext | None
    replay_timeout: float
    open_requests: OpenRequests[Connection]
    route: Callable[[Hub, Request], Answer | Stream] = route
    any_url: bool = False


class Connection:
    """Serves one connection; ``run`` is the body of a greenlet.

    :param site: see there.
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
        self._closing = False
        self._makes_room = False

    def run(self) -> None:
        """Serve requests until the client goes, or becomes a subscriber."""
        detached = False
        self._has_begun = True
        try:
            if self._site.tls is not None:
                self._site.open_requests.begin(self)
                self._channel.handshake(self._site.tls, _WHOLE_REQUEST)
            detached = self._serve()
        except (OSError, Timeout):
            return  # the client went away or sleeps: nothing is owed to it
        except Exception:
            _log.exception("a connection failed; this is a defect of the hub")
        finally:
            self._site.open_requests.finish(self)
            self._reader.close()
            if not detached:
                self._channel.close()

    def make_room(self) -> None:
        """End although the client is still waited for: others need what this connection takes."""
        self._makes_room = True
        if self._is_serving:
            self._channel.cut()
        else:
            self._channel.end()

    def stop(self) -> None:
        """End after the request that is being served, at once if there is none.

        One that has just been accepted has sent its request: it is served.
        """
        self._closing = True
        if self._has_begun and not self._is_serving and not self._reader.started:
            self._channel.end()

    def _serve(self) -> bool:
        while True:
            try:
                message = self._next(self._reader)
            except InvalidRequest as error:
                self._refuse(error)
                return False
            if message is None:
                return False
            self._is_serving = True
            keep_alive = message.keep_alive and not self._closing
            if self._respond(message, keep_alive):
                return True
            if not keep_alive or self._closing:
                return False
            self._is_serving = False

    def _next(self, reader: RequestReader) -> Message | None:
        """The next request; ``None`` when the client ends the connection between two."""
        self._site.open_requests.begin(self)
        try:
            return self._read(reader)
        finally:
            self._site.open_requests.finish(self)

    def _read(self, reader: RequestReader) -> Message | None:
        begin = time.monotonic() + (_LAST_LOOK if self._closing else _FIRST_OCTET)
        whole = 0.0
        if not reader.ready:
            reader.feed(b"")  # raises what was wrong behind the request before
        while not reader.ready:
            if reader.started:
                whole = whole or time.monotonic() + _WHOLE_REQUEST
            try:
                left = (whole or begin) - time.monotonic()
                octets = self._channel.receive(max(left, 0.0), reader.appetite)
            except Timeout:
                if not reader.started:
                    return None
                raise RequestTimeout(f"The request did not arrive within {_WHOLE_REQUEST:g} s.") from None
            if not octets and self._makes_room and reader.started:
                raise RequestTimeout(
                    "The hub has too many requests that are not complete, and this was the oldest."
                )
            if not octets:
                return None
            self._site.open_requests.grow(self, len(octets))
            reader.feed(octets)
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
                self._peer, message.headers, any_url=site.any_url or path in _OF_ANY_URL
            )
            may_switch = message.takes_chunks and not (message.is_followed or message.body)
            request = Request(
                message.method, path, query, message.headers, message.body, peer, identity, may_switch
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
        message.body = b""  # not for as long as the client takes to read
        if request is not None:
            request.body = b""
        now = time.time()
        is_head = message.method == "HEAD"
        status = result.status if isinstance(result, Answer) else 200 if result.accept is None else 101
        site.hub.broker.tally.add(ANSWERS, 1, str(status))
        if site.access_log.is_on:
            peer = site.addressing.client(self._peer, message.headers)
            site.access_log.write(peer, message, status, time.perf_counter() - started)
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
            octets = encode_answer(result, extra, now, keep_alive=keep_alive, head_only=is_head)
            self._send(octets)
        return False

    def _send(self, octets: bytes) -> None:
        """Send an answer."""
        sent = self._channel.offer(memoryview(octets))
        if sent == len(octets):
            return
        self._site.open_requests.begin(self, len(octets))
        try:
            self._channel.send(memoryview(octets)[sent:], _SEND)
        finally:
            self._site.open_requests.finish(self)

    def _stream(self, stream: Stream, request: Request, head: bytes, form: Form) -> bool:
        """Send what the subscriber missed, then hand its descriptor to the engine."""
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
            _log.error("a replay was cut: %s", error)
            ending = Ending(Reason.UNREADABLE)
        except Timeout:
            ending = took_nothing(self._site.replay_timeout)
        finally:
            if not is_complete:
                self._closing = True  # the stream has begun: no other answer can follow it
                broker.abandon(subscriber, ending)
        if is_complete:
            broker.start(subscriber, *self._channel.detach())
        return is_complete

    def _refuse(self, error: InvalidRequest) -> None:
        """Answer what could not be read as a request, and end the connection."""
        self._reader.close()
        octets = encode_answer(error_answer(error), [], time.time(), keep_alive=False, head_only=False)
        with contextlib.suppress(OSError, Timeout):
            self._channel.send(octets, _SEND)
        self._site.hub.broker.tally.add(ANSWERS, 1, str(error.status))
        reason = f"{error.detail} See {reference(error.section)}"
        self._site.access_log.write_refused(self._peer, error.status, reason)
        self._drain()

    def _drain(self) -> None:
        """Read a little of what still comes, or the kernel would discard the answer with a reset."""
        deadline = time.monotonic() + _DRAIN
        with contextlib.suppress(OSError, Timeout):
            for _ in range(64):
                if not self._channel.receive(max(deadline - time.monotonic(), 0.0)):
                    return


def _origin_form(target: str, headers: dict[str, str]) -> str:
    """The path of a target that is an absolute URL, whose host replaces that of the header.

    RFC 9112 section 3.2.2.
    """
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
        _log.error("%s from %s failed: %s, see %s", method, peer, error.detail, reference(error.section))
