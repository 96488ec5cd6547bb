"""In what form a subscriber gets its octets: in chunks of HTTP/1.1, in frames of Zstandard, in both, or bare;
or as messages of a WebSocket.

Clients that read a body of unknown length in blocks, as Python's ``requests`` does, deliver an event late
unless it comes as a chunk (RFC 9112 section 7.1). A chunk is the same octets for everybody, and so is a
frame: frames one after another are one valid content (RFC 8878 section 3.1). A server's frames of a WebSocket
have no mask (RFC 6455 section 5.1): they are the same for everybody too.
"""

from __future__ import annotations

from collections.abc import Iterable

from geventwebsocket.websocket import Header
from geventwebsocket.websocket import WebSocket as Opcodes

from mercure_hub.fanout.compression import stored
from mercure_hub.protocol import websocket
from mercure_hub.protocol.event_stream import HEARTBEAT
from mercure_hub.protocol.update import Update

CHUNKED, ZSTD = 1, 2
"""The bits of the forms of an event stream."""

WEBSOCKET = 4
"""The form of a WebSocket; it goes with none of the bits."""

FORMS = range(4)
"""The forms of an event stream."""

ALL_FORMS = (*FORMS, WEBSOCKET)

LAST = b"0\r\n\r\n"
_MOST_REASON = 123


def chunk(octets: bytes) -> bytes:
    """Octets as one chunk.

    :param octets: not empty, for that would be the last chunk.
    """
    return b"%x\r\n%b\r\n" % (len(octets), octets)


def messages(updates: Iterable[Update]) -> bytes:
    """Updates as messages of a WebSocket, each a frame."""
    return b"".join([_frame(Opcodes.OPCODE_TEXT, websocket.message(update)) for update in updates])


def pong(content: bytes) -> bytes:
    """The answer to a ping."""
    return _frame(Opcodes.OPCODE_PONG, content)


def closing(code: int, reason: str) -> bytes:
    """The frame that ends a WebSocket.

    :param code: RFC 6455 section 7.4; ``NO_STATUS`` for an empty frame.
    :param reason: cut to what a frame holds.
    """
    if code == websocket.NO_STATUS:
        return _frame(Opcodes.OPCODE_CLOSE, b"")
    text = reason.encode()[:_MOST_REASON].decode(errors="ignore").encode()
    return _frame(Opcodes.OPCODE_CLOSE, code.to_bytes(2, "big") + text)


def _frame(opcode: int, content: bytes) -> bytes:
    head = Header.encode_header(fin=True, opcode=opcode, mask=b"", length=len(content), flags=0)
    return bytes(head) + content


def in_form(form: int, octets: bytes, frames: bytes, sent: bytes = b"") -> bytes:
    """A part of a stream as those with one form get it.

    :param octets: the part itself.
    :param frames: the same, compressed; only looked at for forms with frames.
    :param sent: the same, as messages of a WebSocket; only looked at for that form.
    """
    if form == WEBSOCKET:
        return sent
    content = frames if form & ZSTD else octets
    return chunk(content) if form & CHUNKED else content


HEARTBEATS = tuple(
    in_form(form, HEARTBEAT, stored(HEARTBEAT), _frame(Opcodes.OPCODE_PING, b"")) for form in ALL_FORMS
)
"""A heartbeat by form."""
