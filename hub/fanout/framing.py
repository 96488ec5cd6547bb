"""Chunks of HTTP/1.1 (RFC 9112 section 7.1).

Clients that read a body of unknown length in blocks, as Python's ``requests`` does, deliver an event late
unless it comes as a chunk. A chunk is the same octets for everybody.
"""

from __future__ import annotations

from hub.protocol.event_stream import HEARTBEAT

LAST = b"0\r\n\r\n"


def chunk(octets: bytes) -> bytes:
    """Octets as one chunk.

    :param octets: not empty, for that would be the last chunk.
    """
    return b"%x\r\n%b\r\n" % (len(octets), octets)


HEARTBEAT_CHUNK = chunk(HEARTBEAT)
