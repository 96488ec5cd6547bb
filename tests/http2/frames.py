"""Frames of HTTP/2 as bytes (RFC 9113) and header blocks (RFC 7541), right or wrong on purpose."""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterable
from typing import NamedTuple

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DEFAULT_WINDOW = 65_535
DEFAULT_FRAME_SIZE = 16_384
GREATEST_WINDOW = 2**31 - 1


class Kind(enum.IntEnum):
    """Types of frames (RFC 9113 section 6)."""

    DATA = 0
    HEADERS = 1
    PRIORITY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PUSH_PROMISE = 5
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8
    CONTINUATION = 9
    UNKNOWN = 0x16


class Flag(enum.IntFlag):
    """Flags of frames; ACK has the bit of END_STREAM."""

    NONE = 0
    END_STREAM = 1
    ACK = 1
    END_HEADERS = 4
    PADDED = 8
    PRIORITY = 0x20


class Code(enum.IntEnum):
    """Error codes (RFC 9113 section 7)."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    CONNECT_ERROR = 10
    ENHANCE_YOUR_CALM = 11
    INADEQUATE_SECURITY = 12
    HTTP_1_1_REQUIRED = 13


class Setting(enum.IntEnum):
    """Identifiers of settings (RFC 9113 section 6.5.2)."""

    HEADER_TABLE_SIZE = 1
    ENABLE_PUSH = 2
    MAX_CONCURRENT_STREAMS = 3
    INITIAL_WINDOW_SIZE = 4
    MAX_FRAME_SIZE = 5
    MAX_HEADER_LIST_SIZE = 6


END = Flag.END_STREAM | Flag.END_HEADERS
"""The flags of a request without a body, in one frame."""


class Frame(NamedTuple):
    """A frame that arrived."""

    kind: int
    flags: int
    stream: int
    payload: bytes

    @property
    def code(self) -> int:
        """The error code of RST_STREAM or GOAWAY."""
        start = 4 if self.kind == Kind.GOAWAY else 0
        return int.from_bytes(self.payload[start : start + 4])

    def __repr__(self) -> str:
        kind = _NAMES.get(self.kind, str(self.kind))
        code = f", code {self.code}" if self.kind in (Kind.RST_STREAM, Kind.GOAWAY) else ""
        return f"{kind}({len(self.payload)} bytes, flags {self.flags}, stream {self.stream}{code})"


_NAMES: dict[int, str] = {kind.value: kind.name for kind in Kind}


def split(received: bytes) -> tuple[list[Frame], bytes]:
    """The whole frames at the start of what arrived, and the rest."""
    frames = []
    position = 0
    while len(received) - position >= 9:
        length = int.from_bytes(received[position : position + 3])
        end = position + 9 + length
        if end > len(received):
            break
        kind, flags, stream = struct.unpack_from(">BBL", received, position + 3)
        frames.append(Frame(kind, flags, stream, received[position + 9 : end]))
        position = end
    return frames, received[position:]


def frame(kind: int, payload: bytes = b"", flags: int = 0, stream: int = 0) -> bytes:
    """A frame of any type (RFC 9113 section 4.1)."""
    return len(payload).to_bytes(3) + struct.pack(">BBL", kind, flags, stream) + payload


def data(stream: int, content: bytes = b"", flags: int = 0, padding: int | None = None) -> bytes:
    """DATA, with a padding of some bytes if it is given (RFC 9113 section 6.1)."""
    if padding is None:
        return frame(Kind.DATA, content, flags, stream)
    return frame(Kind.DATA, bytes([padding]) + content + bytes(padding), flags | Flag.PADDED, stream)


def headers(
    stream: int,
    block: bytes,
    flags: int = END,
    *,
    priority: bytes = b"",
    padding: int | None = None,
) -> bytes:
    """HEADERS with a header block or its beginning (RFC 9113 section 6.2)."""
    payload = priority + block
    if priority:
        flags |= Flag.PRIORITY
    if padding is not None:
        flags |= Flag.PADDED
        payload = bytes([padding]) + payload + bytes(padding)
    return frame(Kind.HEADERS, payload, flags, stream)


def continuation(stream: int, fragment: bytes, flags: int = Flag.END_HEADERS) -> bytes:
    """CONTINUATION (RFC 9113 section 6.10)."""
    return frame(Kind.CONTINUATION, fragment, flags, stream)


def dependency(on: int = 0, weight: int = 255, *, exclusive: bool = False) -> bytes:
    """The five bytes of a priority, whose weight is one less than it says (RFC 9113 section 6.3)."""
    return struct.pack(">LB", on | exclusive << 31, weight)


def priority(stream: int, on: int = 0, weight: int = 255, *, exclusive: bool = False) -> bytes:
    """PRIORITY (RFC 9113 section 6.3)."""
    return frame(Kind.PRIORITY, dependency(on, weight, exclusive=exclusive), 0, stream)


def reset(stream: int, code: int = Code.CANCEL) -> bytes:
    """RST_STREAM (RFC 9113 section 6.4)."""
    return frame(Kind.RST_STREAM, struct.pack(">L", code), 0, stream)


def settings(*pairs: tuple[int, int]) -> bytes:
    """SETTINGS (RFC 9113 section 6.5)."""
    return frame(Kind.SETTINGS, b"".join(struct.pack(">HL", *pair) for pair in pairs))


ACKNOWLEDGEMENT = frame(Kind.SETTINGS, b"", Flag.ACK)
"""SETTINGS with ACK."""


def ping(opaque: bytes = b"opaque--", flags: int = 0) -> bytes:
    """PING (RFC 9113 section 6.7)."""
    return frame(Kind.PING, opaque, flags)


def goaway(last: int = 0, code: int = Code.NO_ERROR, debug: bytes = b"") -> bytes:
    """GOAWAY (RFC 9113 section 6.8)."""
    return frame(Kind.GOAWAY, struct.pack(">LL", last, code) + debug)


def window(stream: int, increment: int) -> bytes:
    """WINDOW_UPDATE (RFC 9113 section 6.9)."""
    return frame(Kind.WINDOW_UPDATE, struct.pack(">L", increment), 0, stream)


def integer(value: int, prefix: int, first: int = 0) -> bytes:
    """An integer with a prefix of some bits (RFC 7541 section 5.1).

    :param first: the other bits of the first byte.
    """
    most = (1 << prefix) - 1
    if value < most:
        return bytes([first | value])
    encoded = bytearray([first | most])
    value -= most
    while value >= 128:
        encoded.append(0x80 | value & 0x7F)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def text(content: bytes, *, huffman: bytes | None = None) -> bytes:
    """A string literal (RFC 7541 section 5.2), as it is or as bytes that claim to be a Huffman code."""
    if huffman is not None:
        return integer(len(huffman), 7, 0x80) + huffman
    return integer(len(content), 7) + content


def literal(name: str | bytes, value: str | bytes, first: int = 0) -> bytes:
    """A field with a literal name.

    :param first: 0 without indexing, 0x40 with it, 0x10 for never (RFC 7541 section 6.2).
    """
    name, value = (one.encode("latin-1") if isinstance(one, str) else one for one in (name, value))
    return bytes([first]) + text(name) + text(value)


def block(fields: Iterable[tuple[str | bytes, str | bytes]]) -> bytes:
    """A header block that neither reads nor changes the dynamic table."""
    return b"".join(literal(name, value) for name, value in fields)
