"""The bytes that subscribers get: events in plain, chunked or compressed streams, or messages of a WebSocket.

All subscribers with one form get the same bytes, so an update is encoded once for each form in use:

* Clients that read a body of unknown length in blocks, as Python's ``requests`` does, deliver an event late
  unless it comes as a chunk (RFC 9112 section 7.1).
* A compressed stream consists of Zstandard frames, each of which can be decoded alone (RFC 8878 section 3.1).
  No frame holds two events: the size of one must not depend on the content of another (the attack is known as
  BREACH). A frame states the size of its content and needs a window no larger than that.
* A server does not mask the frames of a WebSocket (RFC 6455 section 5.1).

A form may name topics: then subscribers share the bytes if they select the same topics of the update.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import Enum
from functools import cache, partial
from importlib.util import find_spec
from itertools import repeat

from mercure_hub.protocol import websocket
from mercure_hub.protocol.event_stream import HEARTBEAT, LIVE
from mercure_hub.protocol.update import Update

LAST_CHUNK = b"0\r\n\r\n"

_LEVEL = 1  # higher levels take longer and save nothing on events
_MAX_FRAME = 256 << 10  # bytes of content: a millisecond of work, and far below the window of RFC 9659
_MAX_STORED = 65536  # bytes of a frame that is not compressed: one block
_MAX_CLOSE_REASON = 123  # bytes
_TEXT, _CLOSE, _PONG = 1, 8, 10  # opcodes
_PING = b"\x89\x00"  # a frame without content; a constant, because heartbeats are known before a WebSocket is
_PIECE = 4_000  # estimated microseconds that it takes to compress one piece of the history


class Form(Enum):
    """The form of a subscriber's stream.

    ``is_websocket``: it is a WebSocket; ``is_chunked``: it is cut into chunks of HTTP/1.1;
    ``is_compressed``: it consists of Zstandard frames; ``is_multiplexed``: it shares a connection, which
    frames what it gets (``multiplexed``); ``names_topics``: updates come with those of their topics that the
    subscriber selects.
    """

    PLAIN = "plain"
    CHUNKED = "chunked"
    ZSTD = "zstd"
    CHUNKED_ZSTD = "chunked zstd"
    WEBSOCKET = "websocket"
    STREAM = "stream"
    STREAM_ZSTD = "stream zstd"
    PLAIN_TOPICS = "plain topics"
    CHUNKED_TOPICS = "chunked topics"
    ZSTD_TOPICS = "zstd topics"
    CHUNKED_ZSTD_TOPICS = "chunked zstd topics"
    WEBSOCKET_TOPICS = "websocket topics"
    STREAM_TOPICS = "stream topics"
    STREAM_ZSTD_TOPICS = "stream zstd topics"

    def __init__(self, kind: str) -> None:
        kinds = kind.split()
        self.is_websocket = "websocket" in kinds
        self.is_chunked = "chunked" in kinds
        self.is_compressed = "zstd" in kinds
        self.is_multiplexed = "stream" in kinds
        self.names_topics = "topics" in kinds

    @staticmethod
    def of_stream(*, is_chunked: bool, is_compressed: bool) -> Form:
        """The form of an event stream."""
        return _STREAMS[is_chunked, is_compressed]

    def naming_topics(self, wanted: bool) -> Form:
        """This form, which names topics if that is wanted."""
        return Form(f"{self.value} topics") if wanted else self

    __hash__ = object.__hash__  # that of Enum is written in Python


_STREAMS = {
    (False, False): Form.PLAIN,
    (True, False): Form.CHUNKED,
    (False, True): Form.ZSTD,
    (True, True): Form.CHUNKED_ZSTD,
}
Topics = tuple[str, ...]
"""Those topics of an update that a subscriber selects."""


def encode(
    form: Form,
    updates: Iterable[Update],
    events: Sequence[bytes],
    frames: bytes = b"",
    topics: Iterable[Topics | None] = repeat(None),
) -> bytes:
    """Encode updates for the subscribers with one form.

    :param updates: read only for a WebSocket.
    :param events: the same updates as events of a stream, at least one; not read for a WebSocket.
    :param frames: the same events compressed; read only for a compressed form.
    :param topics: to name with each update; read only for a WebSocket, because ``events`` have them already.
    """
    if form.is_websocket:
        return b"".join([_message(update, some) for update, some in zip(updates, topics, strict=False)])
    content = frames if form.is_compressed else events[0] if len(events) == 1 else b"".join(events)
    return chunk(content) if form.is_chunked else content


def history(
    form: Form,
    updates: Sequence[Update],
    compressor: Compressor | None,
    topics: Callable[[Update], Topics],
) -> Iterator[bytes]:
    """Encode updates of the history for a subscriber.

    :param topics: tells which topics of an update the subscriber selects; asked if the form names topics.
    :returns: pieces, none of them empty; the work between two of them is bounded.
    """
    if not updates:
        return
    named = [topics(update) for update in updates] if form.names_topics else [None] * len(updates)
    events = [] if form.is_websocket else [one.encode(some) for one, some in zip(updates, named, strict=True)]
    if not form.is_compressed or compressor is None:
        yield encode(form, updates, events, b"", named)
        return
    frames: list[bytes] = []
    spent = 0
    for event in events:
        for frame in compressor.frames(event):
            frames.append(frame)
            spent += estimate(event)
            if spent >= _PIECE:
                yield encode(form, updates, events, b"".join(frames))
                frames, spent = [], 0
    if frames:
        yield encode(form, updates, events, b"".join(frames))


def chunk(data: bytes) -> bytes:
    """One chunk of HTTP/1.1.

    :param data: its content; not empty, because an empty chunk ends the stream.
    """
    return b"%x\r\n%b\r\n" % (len(data), data)


# -- Zstandard -----------------------------------------------------------------------------------------------


def is_available() -> bool:
    """Whether the Zstandard library is installed; it is part of Python from 3.14 on."""
    if sys.version_info >= (3, 14):
        return find_spec("_zstd") is not None
    try:
        return find_spec("backports.zstd") is not None
    except ModuleNotFoundError:  # there is no package backports
        return False


class Compressor:
    """Compresses events.

    :param smallest: bytes from which an event is compressed; smaller ones are stored.
    """

    def __init__(self, smallest: int) -> None:
        # Imported late, because the library is optional.
        if sys.version_info >= (3, 14):
            from compression.zstd import ZstdCompressor  # noqa: PLC0415
        else:
            from backports.zstd import ZstdCompressor  # noqa: PLC0415
        self._smallest = smallest
        self._compress = partial(ZstdCompressor(_LEVEL).compress, mode=ZstdCompressor.FLUSH_FRAME)

    def frames(self, event: bytes) -> Iterator[bytes]:
        """Compress one event into frames; the caller may do something else between two of them."""
        size = len(event)
        if size <= _MAX_FRAME:
            yield self._frame(event)
            return
        for start in range(0, size, _MAX_FRAME):
            yield self._frame(event[start : start + _MAX_FRAME])

    def _frame(self, data: bytes) -> bytes:
        size = len(data)
        if size < self._smallest and size <= _MAX_STORED:
            return stored(data)
        frame = self._compress(data)
        return stored(data) if len(frame) > size and size <= _MAX_STORED else frame


def stored(data: bytes) -> bytes:
    """A frame that holds data as it is: one raw block.

    :param data: 65,536 bytes at most.
    """
    size = len(data)
    # A single segment, whose content size has one byte, or from 256 on two bytes that start at 256.
    head = (
        b"\x20" + size.to_bytes(1, "little") if size < 256 else b"\x60" + (size - 256).to_bytes(2, "little")
    )
    return b"\x28\xb5\x2f\xfd%b%b%b" % (head, (size << 3 | 1).to_bytes(3, "little"), data)


def estimate(event: bytes) -> int:
    """Estimate the microseconds that it takes to make one frame of an event."""
    return 4 + min(len(event), _MAX_FRAME) // 256


# -- WebSocket -----------------------------------------------------------------------------------------------


def pong(content: bytes) -> bytes:
    """The frame that answers a ping."""
    return _frame(_PONG, content)


def close_frame(code: int, reason: str) -> bytes:
    """The frame that ends a WebSocket.

    :param code: RFC 6455 section 7.4; ``NO_STATUS`` for an empty frame.
    :param reason: cut to what a frame holds.
    """
    if code == websocket.NO_STATUS:
        return _frame(_CLOSE, b"")
    text = reason.encode()[:_MAX_CLOSE_REASON].decode(errors="ignore").encode()
    return _frame(_CLOSE, code.to_bytes(2, "big") + text)


def _message(update: Update, topics: Topics | None) -> bytes:
    return _frame(_TEXT, websocket.message(update, topics))


def _frame(opcode: int, content: bytes) -> bytes:
    """A whole message that is not masked (RFC 6455 section 5.2)."""
    head = _encode_header()(fin=True, opcode=opcode, mask=b"", length=len(content), flags=0)
    return bytes(head) + content


@cache
def _encode_header() -> Callable[..., bytes]:
    """The function of gevent-websocket that writes the head of a frame, imported with the first WebSocket."""
    from geventwebsocket.websocket import Header  # noqa: PLC0415 - takes MiB that most hubs do not need

    return Header.encode_header  # type: ignore[no-any-return]


def live_mark(form: Form) -> bytes:
    """The mark that follows the history: a comment, or a message without an update."""
    if form.is_websocket:
        return _frame(_TEXT, websocket.LIVE)
    return encode(form, (), [LIVE], stored(LIVE))


def _heartbeat(form: Form) -> bytes:
    return _PING if form.is_websocket else encode(form, (), [HEARTBEAT], stored(HEARTBEAT))


HEARTBEATS = {form: _heartbeat(form) for form in Form}
"""A heartbeat in each form: a comment, or a ping."""
