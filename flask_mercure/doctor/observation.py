"""From open streams to what is judged: when an update came, how long a stream lived."""

from __future__ import annotations

import time

from flask_mercure.doctor.connection import Stream
from flask_mercure.doctor.delivery import Life, Way

_HEARTBEAT_AFTER = 1.0  # seconds; an earlier comment belongs to the opening of the stream


def way(stream: Stream, mark: str, published_at: float) -> Way:
    """What came of an update with this mark."""
    at = stream.events.get(mark)
    arrived_after = None if at is None else max(at - published_at, 0.0)
    encoding = stream.head.headers.get("Content-Encoding", "").lower().removeprefix("identity")
    return Way(stream.name, stream.head_after, arrived_after, encoding, stream.has_begun)


def life(stream: Stream) -> Life:
    """How long the stream has lived."""
    end = stream.ended_at or time.monotonic()
    heartbeats = len(heartbeats_of(stream))
    return Life(stream.name, end - stream.opened_at, not stream.is_open, end - stream.last_at, heartbeats)


def heartbeats_of(stream: Stream) -> list[float]:
    """When comments came that kept the stream alive."""
    return [at for at in stream.comments if at - stream.opened_at >= _HEARTBEAT_AFTER]
