"""In what form a subscriber gets its octets: in chunks of HTTP/1.1, in frames of Zstandard, in both, or bare.

Clients that read a body of unknown length in blocks, as Python's ``requests`` does, deliver an event late
unless it comes as a chunk (RFC 9112 section 7.1). A chunk is the same octets for everybody, and so is a
frame: frames one after another are one valid content (RFC 8878 section 3.1).
"""

from __future__ import annotations

from hub.fanout.compression import stored
from hub.protocol.event_stream import HEARTBEAT

CHUNKED, ZSTD = 1, 2
"""The bits of a form."""

FORMS = range(4)

LAST = b"0\r\n\r\n"


def chunk(octets: bytes) -> bytes:
    """Octets as one chunk.

    :param octets: not empty, for that would be the last chunk.
    """
    return b"%x\r\n%b\r\n" % (len(octets), octets)


def in_form(form: int, octets: bytes, frames: bytes) -> bytes:
    """A part of a stream as those with one form get it.

    :param octets: the part itself.
    :param frames: the same, compressed; only looked at for forms with frames.
    """
    content = frames if form & ZSTD else octets
    return chunk(content) if form & CHUNKED else content


HEARTBEATS = tuple(in_form(form, HEARTBEAT, stored(HEARTBEAT)) for form in FORMS)
"""A heartbeat by form."""
