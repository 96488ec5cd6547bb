"""One client connection, from its first byte until it ends or the engine takes it over as a subscriber."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator

from mercure_hub.endpoints.subscribe import Stream
from mercure_hub.fanout.encoding import HEARTBEATS, Form
from mercure_hub.fanout.tls import TlsLayer
from mercure_hub.protocol.errors import InvalidRequest, RequestTimeout
from mercure_hub.protocol.http2 import PREFACE
from mercure_hub.server.channel import Channel, Timeout
from mercure_hub.server.exchange import Reply, begin_stream, refuse, respond
from mercure_hub.server.http import (
    Message,
    RequestReader,
    encode_answer,
    encode_stream_head,
    encode_switch,
)
from mercure_hub.server.open_requests import OVER_TLS
from mercure_hub.server.site import Site, Waiting

_LAST_REQUEST = 0.1  # seconds for the next request on a connection when the hub stops
_SEND = 30.0  # seconds for which a client may take nothing of an answer
_DRAIN = 2.0  # seconds for what still arrives after a refusal
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

_log = logging.getLogger("mercure_hub.server")


Multiplex = Callable[[int, TlsLayer | None, str, bytes], None]


class ClientConnection(Waiting):
    """Serves one connection; ``run`` is the body of a greenlet.

    :param site: what it shares with others.
    :param fd: descriptor of an accepted, non-blocking socket.
    :param peer: the address at the other end.
    :param multiplex: takes over the socket of a client that speaks HTTP/2, its TLS layer, its address, and
        what it has sent.
    """

    def __init__(self, site: Site, fd: int, peer: str, multiplex: Multiplex) -> None:
        self._site = site
        self._channel = Channel(fd)
        self._peer = peer
        self._multiplex = multiplex
        self._before: bytes | None = b""  # what came before it is known which version of HTTP this is
        self._is_detached = False
        self._reader = RequestReader(site.max_body)
        self._can_be_read = False
        self._is_serving = False
        self._is_closing = False
        self._makes_room = False
        self._layer = 0 if site.tls is None else OVER_TLS

    def run(self) -> None:
        """Serve requests until the client leaves, or becomes a subscriber."""
        try:
            if self._site.tls is not None:
                self._site.open_requests.begin(self, self._layer)
                self._channel.handshake(self._site.tls, self._site.times.whole)
            self._can_be_read = True
            if self._channel.speaks_http2:
                self._speak_http2(b"")
                return
            self._serve()
        except (OSError, Timeout):
            return  # the client left or is silent: nothing is owed to it
        except Exception:
            _log.exception("a connection failed; this is a defect of the hub")
        finally:
            self._site.open_requests.finish(self)
            self._reader.close()
            if not self._is_detached:
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

        A connection that was just accepted has sent its request, so it is served. After a handshake of TLS,
        the request follows.
        """
        self._is_closing = True
        if self._can_be_read and not self._is_serving and not self._reader.started:
            self._channel.end()

    def _serve(self) -> None:
        """Serve requests until the connection ends or belongs to others."""
        while True:
            try:
                message = self._next()
            except InvalidRequest as error:
                self._refuse(error)
                return
            if message is None:
                return
            self._is_serving = True
            keep_alive = message.keep_alive and not self._is_closing
            self._respond(message, keep_alive)
            if self._is_detached or not keep_alive or self._is_closing:
                return
            self._is_serving = False

    def _next(self) -> Message | None:
        """The next request; ``None`` when the client closes the connection between two."""
        reader = self._reader
        received: bytes | None = None
        if not reader.ready:
            reader.check()
            received = self._channel.take(reader.appetite)
            if received is not None and not self._take(received):
                return None
        if not reader.ready:
            self._site.open_requests.begin(self, self._layer + len(received or b""))
            try:
                if not self._receive():
                    return None
            finally:
                self._site.open_requests.finish(self)
        return reader.ready.popleft()

    def _receive(self) -> bool:
        """Wait for the rest of a request; false when the connection ends or belongs to others."""
        reader, times = self._reader, self._site.times
        first_byte = time.monotonic() + (_LAST_REQUEST if self._is_closing else times.first_byte)
        whole = 0.0
        while not reader.ready:
            if reader.started:
                whole = whole or time.monotonic() + times.whole
            try:
                left = (whole or first_byte) - time.monotonic()
                received = self._channel.receive(max(left, 0.0), reader.appetite)
            except Timeout:
                if not reader.started:
                    return False
                raise RequestTimeout(f"The request did not arrive within {times.whole:g} s.") from None
            if not received and self._makes_room and reader.started:
                raise RequestTimeout("The hub has too many incomplete requests, and this was the oldest.")
            self._site.open_requests.grow(self, len(received))
            if not self._take(received):
                return False
        return True

    def _take(self, received: bytes) -> bool:
        """Parse what was received; false when the connection ends or belongs to others."""
        if not received:
            return False
        reader = self._reader
        if self._before is not None:
            received = self._before + received
            if PREFACE.startswith(received[: len(PREFACE)]):
                if len(received) >= len(PREFACE):
                    self._speak_http2(received)
                    return False
                self._before = received
                return True
            self._before = None
        reader.feed(received)
        if reader.expects_continue and not reader.ready:
            reader.expects_continue = False
            self._channel.send(_CONTINUE, _SEND)
        return True

    def _speak_http2(self, received: bytes) -> None:
        """Give the connection away: its client speaks HTTP/2.

        :param received: the preface, and what follows it.
        """
        self._site.open_requests.finish(self)
        self._is_detached = True
        fd, tls = self._channel.detach()
        self._multiplex(fd, tls, self._peer, received)

    def _respond(self, message: Message, keep_alive: bool) -> None:
        """Answer a request, or begin a stream."""
        may_switch = message.takes_chunks and not (message.is_followed or message.body)
        reply = respond(self._site, self._peer, message, self._watched, may_switch=may_switch)
        try:
            result = reply.result
            if isinstance(result, Stream):
                self._stream(reply, result, message, keep_alive)
                return
            now, is_head = time.time(), message.method == "HEAD"
            self._send(encode_answer(result, reply.extra, now, keep_alive=keep_alive, head_only=is_head))
        finally:
            reply.release()

    @contextlib.contextmanager
    def _watched(self, on_end: Callable[[], None]) -> Iterator[None]:
        """Call a function if the client leaves, or has to leave because too many wait."""
        self._site.open_requests.begin(self, self._layer)
        try:
            with self._channel.watched(on_end):
                yield
        finally:
            self._site.open_requests.finish(self)

    def _send(self, content: bytes) -> None:
        sent = self._channel.offer(memoryview(content))
        if sent == len(content):
            return
        self._site.open_requests.begin(self, self._layer + len(content))
        try:
            self._channel.send(memoryview(content)[sent:], _SEND)
        finally:
            self._site.open_requests.finish(self)

    def _stream(self, reply: Reply, stream: Stream, message: Message, keep_alive: bool) -> None:
        """Begin a stream, or send its head."""
        now = time.time()
        if stream.accept is not None:
            self._subscribe(
                reply, encode_switch(stream.headers, now), Form.WEBSOCKET.naming_topics(stream.names_topics)
            )
            return
        is_head = message.method == "HEAD"
        head = encode_stream_head(
            stream.headers,
            reply.extra,
            now,
            is_framed=message.takes_chunks,
            keep_alive=is_head and keep_alive,
        )
        if is_head:
            self._channel.send(head, _SEND)
            return
        form = Form.of_stream(is_chunked=message.takes_chunks, is_compressed=stream.is_compressed)
        form = form.naming_topics(stream.names_topics)
        # A comment follows the head at once, so that a proxy passes the head on.
        self._subscribe(reply, head + HEARTBEATS[form], form)

    def _subscribe(self, reply: Reply, head: bytes, form: Form) -> None:
        """Send what the subscriber missed, then give its descriptor to the engine."""
        channel = self._channel
        subscriber = None
        try:
            subscriber = begin_stream(self._site, reply, form, channel, lambda: channel.send(head, _SEND))
        finally:
            if subscriber is None:
                self._is_closing = True  # no other answer can follow a stream that has begun
        if subscriber is not None:
            self._is_detached = True
            self._site.hub.broker.start(subscriber, *channel.detach())

    def _refuse(self, error: InvalidRequest) -> None:
        """Answer what could not be parsed as a request, and end the connection."""
        self._reader.close()
        answer = refuse(self._site, self._peer, error)
        content = encode_answer(answer, [], time.time(), keep_alive=False, head_only=False)
        with contextlib.suppress(OSError, Timeout):
            self._channel.send(content, _SEND)
        self._drain()

    def _drain(self) -> None:
        """Receive a little of what still arrives, or the kernel would drop the answer with a reset."""
        deadline = time.monotonic() + _DRAIN
        self._channel.finish()
        with contextlib.suppress(OSError, Timeout):
            for _ in range(64):
                if not self._channel.receive(max(deadline - time.monotonic(), 0.0)):
                    return
