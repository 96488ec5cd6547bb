"""Frames of Zstandard (RFC 8878), each of which can be decoded alone.

An event is compressed by itself, never together with another one: what is in one event must not show in
the size of another (the attack is known as BREACH), and the frame is the same for everybody. It holds its
content's size and needs a window no larger than that.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec

_LEVEL = 1  # for what an event is, higher levels take longer and save no more
_LARGEST = 256 << 10  # octets in one frame: a millisecond of work, and far below the window of RFC 9659
_MAX_STORED = 65536  # octets in a frame that is not compressed, which is one block

MAX_SMALLEST = _MAX_STORED
"""The most that ``smallest`` of a compressor may be."""


def is_available() -> bool:
    """Whether the library is installed; from Python 3.14 on it is part of Python."""
    if sys.version_info >= (3, 14):
        return find_spec("_zstd") is not None
    try:
        return find_spec("backports.zstd") is not None
    except ModuleNotFoundError:  # there is no package backports
        return False


def stored(octets: bytes) -> bytes:
    """A frame that holds octets as they are: one raw block.

    :param octets: 65,536 at most.
    """
    size = len(octets)
    # A single segment, whose content size has one octet, or from 256 on two that begin at 256.
    head = (
        b"\x20" + size.to_bytes(1, "little") if size < 256 else b"\x60" + (size - 256).to_bytes(2, "little")
    )
    return b"\x28\xb5\x2f\xfd%b%b%b" % (head, (size << 3 | 1).to_bytes(3, "little"), octets)


def estimate(event: bytes) -> int:
    """Estimate the microseconds that it takes to make one frame of an event."""
    return 4 + min(len(event), _LARGEST) // 256


class Compressor:
    """Makes frames.

    :param smallest: octets from which an event is compressed; smaller ones are stored.
    """

    def __init__(self, smallest: int) -> None:
        # Imported late: without compression the library need not be there.
        if sys.version_info >= (3, 14):
            from compression.zstd import ZstdCompressor  # noqa: PLC0415
        else:
            from backports.zstd import ZstdCompressor  # noqa: PLC0415
        self._smallest = smallest
        self._compress = partial(ZstdCompressor(_LEVEL).compress, mode=ZstdCompressor.FLUSH_FRAME)

    def frames(self, event: bytes) -> Iterator[bytes]:
        """One event as frames; the caller may do something else between two of them."""
        size = len(event)
        if size <= _LARGEST:
            yield self._frame(event)
            return
        for start in range(0, size, _LARGEST):
            yield self._frame(event[start : start + _LARGEST])

    def _frame(self, octets: bytes) -> bytes:
        size = len(octets)
        if size < self._smallest and size <= _MAX_STORED:
            return stored(octets)
        frame = self._compress(octets)
        return stored(octets) if len(frame) > size and size <= _MAX_STORED else frame
