"""The receiving half of a connection of HTTP/2: from bytes to requests, without a socket.

What a client may send is counted everywhere, because each frame costs the hub more than the client: see
``Budget``. Errors end a stream or the connection as RFC 9113 says for each frame.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import hpack

from mercure_hub.fanout.multiplexed import Multiplexed, Stream
from mercure_hub.fanout.subscriber import Subscriber
from mercure_hub.protocol import http2
from mercure_hub.protocol.errors import InvalidRequest, RequestTimeout
from mercure_hub.protocol.http2 import FRAME_SIZE, HEAD, MAX_WINDOW, PREFACE, WINDOW, Code
from mercure_hub.server.http import MAX_FIELDS, MAX_HEAD, Message
from mercure_hub.server.http2 import fields

MAX_STREAMS = 1000
"""Streams that a client may have at once on a connection."""

_MAX_CONTINUATIONS = 64  # frames of one field section
_MAX_REMEMBERED = 64  # streams that ended lately
_SECTIONS = 64  # field sections that are decoded before others have their turn: some 3 ms
_USUAL_FIELDS = 16  # as many more count as another section
_CREDIT = 16 << 10  # received bytes after which the window is opened again


class Fault(Exception):
    """An error for which the connection ends (RFC 9113 section 5.4.1).

    :param code: told to the client.
    :param text: the reason, for people.
    """

    def __init__(self, code: Code, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


class StreamFault(Exception):
    """An error for which one stream ends (RFC 9113 section 5.4.2).

    :param number: of the stream.
    :param code: told to the client.
    """

    def __init__(self, number: int, code: Code) -> None:
        super().__init__(f"stream {number}: {code.name}")
        self.number = number
        self.code = code


@dataclass(frozen=True, slots=True)
class Asked:
    """A request is complete, or has to be refused.

    :param stream: its stream.
    :param message: the request.
    :param error: why it is refused; ``None`` if it is not.
    :param is_complete: no content of it may still arrive.
    :param size: bytes of its fields and its content.
    """

    stream: Stream
    message: Message
    error: InvalidRequest | None = None
    is_complete: bool = True
    size: int = 0


@dataclass(frozen=True, slots=True)
class Left:
    """The stream of a subscriber is closed.

    :param subscriber: of the engine.
    """

    subscriber: Subscriber


Event = Asked | Left


class Budget:
    """How much of something a client may do: so much at once, and so much in each second.

    :param burst: at once.
    :param rate: per second.
    :param now: monotonic time in seconds.
    """

    __slots__ = ("_at", "_burst", "_left", "_rate")

    def __init__(self, burst: float, rate: float, now: float) -> None:
        self._burst = self._left = burst
        self._rate = rate
        self._at = now

    def earn(self, number: float) -> None:
        """Allow more, because the hub has done something that the client may answer."""
        self._left = min(self._left + number, 4 * self._burst)

    def spend(self, now: float, number: int = 1) -> bool:
        """Do more; false when it is too much.

        :param now: monotonic time in seconds.
        """
        if self._left < self._burst:
            self._left = min(self._left + (now - self._at) * self._rate, self._burst)
        self._at = now
        self._left -= number
        return self._left >= 0


class Incoming:
    """A request whose content still arrives.

    :param message: its head.
    :param length: bytes of content that it announces; ``None`` if it does not.
    :param head: bytes of its fields.
    :param now: monotonic time in seconds.
    """

    __slots__ = ("began_at", "body", "head", "length", "message", "window")

    def __init__(self, message: Message, length: int | None, head: int, now: float) -> None:
        self.message = message
        self.length = length
        self.head = head
        self.began_at = now
        self.body = bytearray()
        self.window = WINDOW


class Receiver:
    """Parses what a client sends.

    :param connection: is told of windows, and sends what is due.
    :param max_body: bytes of content that are accepted.
    :param now: monotonic time in seconds.

    ``last`` is the newest stream that was served. ``buffered`` is how many bytes of incomplete requests are
    in memory. ``incomplete`` are their streams, the oldest first. ``section_since`` is the time since which a
    field section is incomplete, or 0. While ``is_leaving``, new requests are ignored. ``is_paused`` is true
    after a ``feed`` that left frames for the next one.
    """

    def __init__(self, connection: Multiplexed, max_body: int, now: float) -> None:
        self.last = 0
        self.buffered = 0
        self.incomplete: dict[Stream, Incoming] = {}
        self.section_since = 0.0
        self.is_leaving = False
        self.is_paused = False
        self._sections = 0
        self._connection = connection
        self._max_body = max_body
        self._decoder = hpack.Decoder(max_header_list_size=MAX_HEAD)
        self._input = bytearray()
        self._preface = PREFACE
        self._is_greeted = False
        self._window = WINDOW
        self._owed = 0  # bytes that the client may send again, and was not told
        self._section: tuple[int, int, bytearray] | None = None  # stream, flags, what has arrived
        self._continuations = 0
        self._seen = 0
        self._ended: dict[int, bool] = {}  # streams that ended lately, and whether frames are ignored
        self._resets = Budget(1000, 33, now)
        self._control = Budget(2000, 200, now)
        self._frames = 0  # of the connection, when the budget was looked at
        self._now = now
        self._events: deque[Event] = deque()

    def greet(self) -> None:
        """Send what a server sends first (RFC 9113 section 3.4)."""
        self._connection.write(
            http2.settings(
                (
                    (http2.MAX_CONCURRENT_STREAMS, MAX_STREAMS),
                    (http2.MAX_HEADER_LIST_SIZE, MAX_HEAD),
                )
            )
        )

    def feed(self, received: bytes, now: float) -> Iterator[Event]:
        """Parse what was received.

        :param received: may be empty, to go on after a pause.
        :param now: monotonic time in seconds.
        :returns: what happened; to be handled before the next is taken.
        :raises Fault: the connection has to end.
        """
        self._now = now
        data = self._input
        data += received
        at = self._skip_preface(data)
        self._sections = 0
        self.is_paused = False
        try:
            while len(data) - at >= HEAD:
                size = int.from_bytes(data[at : at + 3], "big")
                if size > FRAME_SIZE:
                    raise Fault(Code.FRAME_SIZE_ERROR, f"a frame is over {FRAME_SIZE} bytes")
                end = at + HEAD + size
                if end > len(data):
                    break
                if self._sections >= _SECTIONS:
                    self.is_paused = True
                    break
                number = int.from_bytes(data[at + 5 : at + HEAD], "big") & MAX_WINDOW
                kind, flags, content = data[at + 3], data[at + 4], bytes(data[at + HEAD : end])
                at = end
                try:
                    self._frame(kind, flags, number, content)
                except StreamFault as fault:
                    self._reset(fault)
                while self._events:
                    yield self._events.popleft()
        finally:
            del data[:at]

    def _skip_preface(self, data: bytearray) -> int:
        if not self._preface:
            return 0
        size = min(len(self._preface), len(data))
        if data[:size] != self._preface[:size]:
            raise Fault(Code.PROTOCOL_ERROR, "the preface is not that of HTTP/2")
        self._preface = self._preface[size:]
        return size

    def _frame(self, kind: int, flags: int, number: int, content: bytes) -> None:
        if not self._is_greeted:
            if kind != http2.SETTINGS or flags & http2.ACK:
                raise Fault(Code.PROTOCOL_ERROR, "the first frame is not SETTINGS")
            self._is_greeted = True
        if self._section is not None and (kind != http2.CONTINUATION or number != self._section[0]):
            raise Fault(Code.PROTOCOL_ERROR, "a field section is interrupted")
        if kind < len(_TAKE):
            _TAKE[kind](self, flags, number, content)
        else:
            self._spend()

    def _spend(self, number: int = 1) -> None:
        """Count frames that move nothing forward; answers to what the hub has sent are free."""
        frames = self._connection.frames
        if frames != self._frames:
            self._control.earn(2 * (frames - self._frames))
            self._frames = frames
        if not self._control.spend(self._now, number):
            raise Fault(Code.ENHANCE_YOUR_CALM, "too many frames that move nothing forward")

    def _reset(self, fault: StreamFault) -> None:
        """End a stream, of which the request may be in progress."""
        self._spend()
        stream = self._connection.streams.get(fault.number)
        if stream is None:
            self._connection.write(http2.rst_stream(fault.number, fault.code))
            self._remember(fault.number, is_ignored=True)
            return
        self._leave(stream)
        stream.is_receiving = True  # what is under way is ignored
        self._connection.reset(stream, fault.code)

    def _leave(self, stream: Stream) -> None:
        if isinstance(stream.sender, Subscriber):
            self._events.append(Left(stream.sender))
        self._forget(stream)

    # -- the life of streams ---------------------------------------------------------------------------------

    def ended(self, stream: Stream) -> None:
        """Note that a stream is no longer there, whoever ended it."""
        self._forget(stream)
        self._remember(int(stream), is_ignored=stream.is_receiving)

    def overdue(self, now: float, patience: float) -> list[Asked]:
        """The requests that have not arrived in time, to be refused.

        :param now: monotonic time in seconds.
        :param patience: seconds.
        """
        late = [one for one in self.incomplete.items() if now - one[1].began_at >= patience]
        error = RequestTimeout(f"The request did not arrive within {patience:g} s.")
        for stream, _ in late:
            self._forget(stream)
        return [
            Asked(stream, incoming.message, error, is_complete=False, size=incoming.head)
            for stream, incoming in late
        ]

    def _forget(self, stream: Stream) -> None:
        incoming = self.incomplete.pop(stream, None)
        if incoming is not None:
            self.buffered -= incoming.head + len(incoming.body)

    def _remember(self, number: int, *, is_ignored: bool) -> None:
        self._ended[number] = is_ignored
        if len(self._ended) > _MAX_REMEMBERED:
            del self._ended[next(iter(self._ended))]

    def _on_idle(self, number: int) -> bool:
        return number > self._seen

    def _closed(self, number: int) -> None:
        """Raise what fits a frame on a stream that is closed, unless it may have crossed the hub's end.

        :raises StreamFault: the client knew, or may know, that the stream is closed.
        """
        if not self._ended.get(number, False):
            raise StreamFault(number, Code.STREAM_CLOSED)
        self._spend()

    # -- frames ----------------------------------------------------------------------------------------------

    def _data(self, flags: int, number: int, content: bytes) -> None:
        if number == 0 or self._on_idle(number):
            raise Fault(Code.PROTOCOL_ERROR, "DATA on a stream that is not open")
        size = len(content)
        self._window -= size
        if self._window < 0:
            raise Fault(Code.FLOW_CONTROL_ERROR, "more content than the window allows")
        self._credit(size)
        content = _unpadded(flags, content)
        stream = self._connection.streams.get(number)
        incoming = None if stream is None else self.incomplete.get(stream)
        if stream is None or incoming is None:
            if stream is None:
                self._closed(number)
            elif not stream.is_receiving:
                raise StreamFault(number, Code.STREAM_CLOSED)
            return
        incoming.window -= size
        if incoming.window < 0:
            raise StreamFault(number, Code.FLOW_CONTROL_ERROR)
        ends = bool(flags & http2.END_STREAM)
        if not content and not ends:
            self._spend()
        incoming.body += content
        self.buffered += len(content)
        if len(incoming.body) > self._max_body:
            self._refuse(stream, incoming.message, fields.too_large(self._max_body), incoming.head)
            return
        if incoming.length is not None and len(incoming.body) > incoming.length:
            raise StreamFault(number, Code.PROTOCOL_ERROR)
        if ends:
            self._complete(stream, incoming)
        elif incoming.window <= WINDOW - _CREDIT:
            self._connection.write(http2.window_update(number, WINDOW - incoming.window))
            incoming.window = WINDOW

    def _credit(self, size: int) -> None:
        self._owed += size
        if self._owed >= _CREDIT:
            self._connection.write(http2.window_update(0, self._owed))
            self._window += self._owed
            self._owed = 0

    def _complete(self, stream: Stream, incoming: Incoming) -> None:
        if incoming.length not in (None, len(incoming.body)):
            raise StreamFault(int(stream), Code.PROTOCOL_ERROR)
        self._forget(stream)
        stream.is_receiving = False
        incoming.message.body = bytes(incoming.body)
        size = incoming.head + len(incoming.body)
        self._events.append(Asked(stream, incoming.message, size=size))

    def _refuse(self, stream: Stream, message: Message, error: InvalidRequest, head: int) -> None:
        self._forget(stream)  # what still arrives is ignored
        self._events.append(Asked(stream, message, error, is_complete=False, size=head))

    def _headers(self, flags: int, number: int, content: bytes) -> None:
        if number % 2 == 0:
            raise Fault(Code.PROTOCOL_ERROR, "HEADERS on a stream that a client cannot open")
        content = _unpadded(flags, content)
        depends_on_itself = False
        if flags & http2.WITH_PRIORITY:
            if len(content) < 5:
                raise Fault(Code.FRAME_SIZE_ERROR, "HEADERS is too short")
            depends_on_itself = _dependency(content) == number
            content = content[5:]
        self._section = number, flags, bytearray(content)
        self._continuations = 0
        self.section_since = self._now
        if flags & http2.END_HEADERS:
            self._end_section(depends_on_itself=depends_on_itself)
        elif depends_on_itself:
            raise Fault(Code.PROTOCOL_ERROR, "a stream depends on itself")

    def _continuation(self, flags: int, _: int, content: bytes) -> None:
        if self._section is None:
            raise Fault(Code.PROTOCOL_ERROR, "CONTINUATION without HEADERS")
        self._spend()
        self._continuations += 1
        self._section[2].extend(content)
        if self._continuations > _MAX_CONTINUATIONS or len(self._section[2]) > MAX_HEAD:
            raise Fault(Code.ENHANCE_YOUR_CALM, f"a field section is over {MAX_HEAD} bytes")
        if flags & http2.END_HEADERS:
            self._end_section(depends_on_itself=False)

    def _end_section(self, *, depends_on_itself: bool) -> None:
        section, self._section, self.section_since = self._section, None, 0.0
        if section is None:
            return
        self._sections += 1
        number, flags, block = section
        if fields.has_many_updates(bytes(block[:64])):
            raise Fault(
                Code.COMPRESSION_ERROR, "a field section changes the size of the table again and again"
            )
        try:
            # Always, because the table of the decoder depends on it.
            decoded = self._decoder.decode(bytes(block), raw=True)
        except hpack.OversizedHeaderListError:
            raise Fault(Code.ENHANCE_YOUR_CALM, f"a field section is over {MAX_HEAD} bytes") from None
        except (hpack.HPACKError, UnicodeDecodeError, IndexError):
            raise Fault(Code.COMPRESSION_ERROR, "a field section cannot be decoded") from None
        if depends_on_itself:
            self._note_seen(number)
            raise StreamFault(number, Code.PROTOCOL_ERROR)
        pairs = [(bytes(name), bytes(value)) for name, value in decoded]
        self._sections += len(pairs) // _USUAL_FIELDS
        ends = bool(flags & http2.END_STREAM)
        stream = self._connection.streams.get(number)
        try:
            if stream is not None:
                self._trailers(stream, number, pairs, ends=ends)
            elif self._on_idle(number):
                self._open(number, pairs, ends=ends)
            elif number in self._ended:
                if not self._ended[number]:
                    raise Fault(Code.STREAM_CLOSED, "HEADERS on a stream that is closed")
                self._spend()
            else:
                raise Fault(Code.PROTOCOL_ERROR, "the number of a stream is lower than one before")
        except fields.Malformed:
            raise StreamFault(number, Code.PROTOCOL_ERROR) from None

    def _note_seen(self, number: int) -> None:
        self._seen = max(self._seen, number)

    def _open(self, number: int, pairs: list[tuple[bytes, bytes]], *, ends: bool) -> None:
        self._note_seen(number)
        if self.is_leaving:  # the client was told, and repeats the request elsewhere
            self._spend()
            self._remember(number, is_ignored=True)
            return
        if len(self._connection.streams) >= MAX_STREAMS:
            raise StreamFault(number, Code.REFUSED_STREAM)
        message = fields.request(pairs)
        length = fields.content_length(message)
        if ends and length:
            raise StreamFault(number, Code.PROTOCOL_ERROR)
        self.last = max(self.last, number)
        stream = self._connection.open(number)
        stream.is_receiving = not ends
        error = fields.problem_with(message, len(pairs), self._max_body)
        head = sum([len(name) + len(value) for name, value in pairs])
        if error is not None and not ends:
            self._refuse(stream, message, error, head)
        elif error is not None or ends:
            self._events.append(Asked(stream, message, error, size=head))
        else:
            self.incomplete[stream] = Incoming(message, length, head, self._now)
            self.buffered += head
            if message.headers.get("expect", "").lower() == "100-continue":
                self._connection.write(http2.frame(http2.HEADERS, http2.END_HEADERS, number, fields.CONTINUE))

    def _trailers(self, stream: Stream, number: int, pairs: list[tuple[bytes, bytes]], *, ends: bool) -> None:
        """Trailer fields are checked and ignored (RFC 9110 section 6.5.1)."""
        incoming = self.incomplete.get(stream)
        if incoming is None:
            if stream.is_receiving:
                return
            raise StreamFault(number, Code.STREAM_CLOSED)
        if not ends or len(pairs) > MAX_FIELDS:
            raise StreamFault(number, Code.PROTOCOL_ERROR)
        for name, value in pairs:
            fields.check_field(name, value)
        self._complete(stream, incoming)

    def _priority(self, _: int, number: int, content: bytes) -> None:
        self._spend()
        if number == 0:
            raise Fault(Code.PROTOCOL_ERROR, "PRIORITY without a stream")
        if len(content) != 5:
            raise self._fault(number, Code.FRAME_SIZE_ERROR, "PRIORITY has the wrong size")
        if _dependency(content) == number:
            raise self._fault(number, Code.PROTOCOL_ERROR, "a stream depends on itself")

    def _fault(self, number: int, code: Code, text: str) -> Fault | StreamFault:
        """An error of a stream, if there is one to end."""
        return Fault(code, text) if self._on_idle(number) else StreamFault(number, code)

    def _rst_stream(self, _: int, number: int, content: bytes) -> None:
        if len(content) != 4:
            raise Fault(Code.FRAME_SIZE_ERROR, "RST_STREAM has the wrong size")
        if number == 0 or self._on_idle(number):
            raise Fault(Code.PROTOCOL_ERROR, "RST_STREAM on a stream that is not open")
        stream = self._connection.streams.get(number)
        if stream is None:
            self._spend()
            return
        if not isinstance(stream.sender, Subscriber) and not self._resets.spend(self._now):
            raise Fault(Code.ENHANCE_YOUR_CALM, "too many requests are given up")
        self._leave(stream)
        stream.is_receiving = False
        self._connection.close(stream)

    def _settings(self, flags: int, number: int, content: bytes) -> None:
        self._spend()
        if number != 0:
            raise Fault(Code.PROTOCOL_ERROR, "SETTINGS on a stream")
        if len(content) % 6 or (flags & http2.ACK and content):
            raise Fault(Code.FRAME_SIZE_ERROR, "SETTINGS has the wrong size")
        if flags & http2.ACK:
            return
        values: dict[int, int] = {}
        for at in range(0, len(content), 6):
            name = int.from_bytes(content[at : at + 2], "big")
            values[name] = int.from_bytes(content[at + 2 : at + 6], "big")
            self._check(name, values[name])
        window = values.get(http2.INITIAL_WINDOW_SIZE, self._connection.initial_window)
        if window != self._connection.initial_window:
            self._spend(1 + len(self._connection.streams) // 20)
            if not self._connection.set_initial_window(window):
                raise Fault(Code.FLOW_CONTROL_ERROR, "a window is too large")
        self._connection.write(http2.frame(http2.SETTINGS, http2.ACK, 0))

    def _check(self, name: int, value: int) -> None:
        if name == http2.ENABLE_PUSH and value > 1:
            raise Fault(Code.PROTOCOL_ERROR, "ENABLE_PUSH is neither 0 nor 1")
        if name == http2.MAX_FRAME_SIZE and not FRAME_SIZE <= value <= http2.MAX_FRAME:
            raise Fault(Code.PROTOCOL_ERROR, "MAX_FRAME_SIZE is out of range")
        if name == http2.INITIAL_WINDOW_SIZE and value > MAX_WINDOW:
            raise Fault(Code.FLOW_CONTROL_ERROR, "INITIAL_WINDOW_SIZE is out of range")

    def _push_promise(self, _flags: int, _number: int, _content: bytes) -> None:
        raise Fault(Code.PROTOCOL_ERROR, "a client cannot push")

    def _ping(self, flags: int, number: int, content: bytes) -> None:
        self._spend()
        if number != 0:
            raise Fault(Code.PROTOCOL_ERROR, "PING on a stream")
        if len(content) != 8:
            raise Fault(Code.FRAME_SIZE_ERROR, "PING has the wrong size")
        if not flags & http2.ACK:
            self._connection.write(http2.frame(http2.PING, http2.ACK, 0, content))

    def _goaway(self, _: int, number: int, content: bytes) -> None:
        """The client opens no more streams; those that there are go on."""
        self._spend()
        if number != 0:
            raise Fault(Code.PROTOCOL_ERROR, "GOAWAY on a stream")
        if len(content) < 8:
            raise Fault(Code.FRAME_SIZE_ERROR, "GOAWAY is too short")

    def _window_update(self, _: int, number: int, content: bytes) -> None:
        self._spend()
        if len(content) != 4:
            raise Fault(Code.FRAME_SIZE_ERROR, "WINDOW_UPDATE has the wrong size")
        increment = int.from_bytes(content, "big") & MAX_WINDOW
        if number == 0:
            if not increment:
                raise Fault(Code.PROTOCOL_ERROR, "WINDOW_UPDATE opens no window")
            if not self._connection.widen(increment):
                raise Fault(Code.FLOW_CONTROL_ERROR, "the window of the connection is too large")
            return
        if self._on_idle(number):
            raise Fault(Code.PROTOCOL_ERROR, "WINDOW_UPDATE on a stream that is not open")
        stream = self._connection.streams.get(number)
        if stream is None:
            return  # it may have crossed the end of the stream
        if not increment:
            raise StreamFault(number, Code.PROTOCOL_ERROR)
        if not self._connection.widen_stream(stream, increment):
            raise StreamFault(number, Code.FLOW_CONTROL_ERROR)


_TAKE: tuple[Callable[[Receiver, int, int, bytes], None], ...] = (
    Receiver._data,
    Receiver._headers,
    Receiver._priority,
    Receiver._rst_stream,
    Receiver._settings,
    Receiver._push_promise,
    Receiver._ping,
    Receiver._goaway,
    Receiver._window_update,
    Receiver._continuation,
)


def _unpadded(flags: int, content: bytes) -> bytes:
    if not flags & http2.PADDED:
        return content
    if not content or content[0] >= len(content):
        raise Fault(Code.PROTOCOL_ERROR, "the padding is longer than the frame")
    return content[1 : len(content) - content[0]]


def _dependency(content: bytes) -> int:
    return int.from_bytes(content[:4], "big") & MAX_WINDOW
