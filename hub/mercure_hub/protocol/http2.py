"""The frames of HTTP/2: their layout, and the numbers in them (RFC 9113 sections 4, 6 and 7)."""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from itertools import starmap

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""What a client sends first (section 3.4)."""

HEAD = 9
"""Bytes of the head of a frame."""

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS = range(5)
PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(5, 10)

ACK = END_STREAM = 0x1
END_HEADERS = 0x4
PADDED = 0x8
WITH_PRIORITY = 0x20

HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE = range(1, 6)
MAX_HEADER_LIST_SIZE = 6

WINDOW = 65_535
"""Bytes that may be sent before the other side opens a window, at first."""

MAX_WINDOW = (1 << 31) - 1
FRAME_SIZE = 16_384
"""Bytes of content of a frame that everybody accepts."""

MAX_FRAME = (1 << 24) - 1


class Code(IntEnum):
    """Why a stream or a connection ends (RFC 9113 section 7)."""

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


def frame(kind: int, flags: int, stream: int, content: bytes = b"") -> bytes:
    """A frame.

    :param stream: its number; 0 for the connection.
    """
    return b"%b%c%c%b%b" % (len(content).to_bytes(3, "big"), kind, flags, stream.to_bytes(4, "big"), content)


def data_prefix(size: int, flags: int = 0) -> bytes:
    """The head of a DATA frame up to the number of its stream, which takes four bytes.

    :param size: bytes of its content.
    """
    return b"%b\x00%c" % (size.to_bytes(3, "big"), flags)


def settings(values: Iterable[tuple[int, int]]) -> bytes:
    """A SETTINGS frame.

    :param values: numbers of settings, with their values.
    """
    return frame(SETTINGS, 0, 0, b"".join(starmap(_setting, values)))


def _setting(number: int, value: int) -> bytes:
    return number.to_bytes(2, "big") + value.to_bytes(4, "big")


def rst_stream(stream: int, code: Code) -> bytes:
    """The frame that ends one stream."""
    return frame(RST_STREAM, 0, stream, code.to_bytes(4, "big"))


def goaway(last: int, code: Code, text: str = "") -> bytes:
    """The frame that ends a connection.

    :param last: the newest stream that is, or was, served.
    :param text: the reason, for people.
    """
    return frame(GOAWAY, 0, 0, last.to_bytes(4, "big") + code.to_bytes(4, "big") + text.encode())


def window_update(stream: int, increment: int) -> bytes:
    """The frame that lets the other side send more.

    :param stream: its number; 0 for the connection.
    :param increment: bytes.
    """
    return frame(WINDOW_UPDATE, 0, stream, increment.to_bytes(4, "big"))
