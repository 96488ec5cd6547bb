"""A connected subscriber: one small object, because there are thousands of them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING

from mercure_hub.fanout.encoding import Form
from mercure_hub.fanout.tls import TlsLayer
from mercure_hub.protocol.hub_url import Identity
from mercure_hub.protocol.matching.matcher import Matcher
from mercure_hub.protocol.tokens.grant import Grant
from mercure_hub.protocol.websocket import WebSocket

if TYPE_CHECKING:
    from mercure_hub.fanout.multiplexed import Stream


class State(Enum):
    """What happens to an update for a subscriber."""

    HISTORY = auto()  # reads history, which will contain the update
    HELD = auto()  # reads history up to a boundary; the update waits in the queue for ``Engine.start``
    READY = auto()  # nothing is queued: the update is written to the descriptor at once
    READY_TLS = auto()  # the same, sealed by the TLS layer before
    READY_STREAM = auto()  # the same, on one of the streams of its connection
    QUEUED = auto()  # the socket is full, or a batch is being gathered: the update joins the queue
    GONE = auto()  # no longer there: it gets nothing


# Looking up a member in its class is slow before Python 3.12.
_HISTORY, _READY, _QUEUED = State.HISTORY, State.READY, State.QUEUED
_READY_TLS, _READY_STREAM = State.READY_TLS, State.READY_STREAM


@dataclass(slots=True)
class Announcement:
    """What others learn of a subscriber, in a hub with active subscriptions.

    :param id: identifier of the connection in subscription documents.
    :param matchers: those of its matchers whose subscriptions others learn of.
    :param counted: the paths of the counts that it is part of.
    """

    id: str
    matchers: tuple[Matcher, ...]
    counted: tuple[str, ...]


class Subscriber:
    """A connection that receives updates.

    :param matchers: what it listens to.
    :param grant: what its token allows.
    :param identity: the hub's public URL as this client knows it.
    :param peer: the client's address.
    :param connected_at: monotonic time of the connection, in whole seconds.
    :param ends_at: monotonic time at which the connection must be closed.
    :param form: how its stream is encoded.
    :param websocket: reads what the client sends; ``None`` for an event stream.

    ``fd`` and ``tls`` are the non-blocking socket's descriptor and the TLS layer over it, from
    ``Engine.start`` on; a closed descriptor is -1, so that nothing can be written to another connection that
    gets its number. On a connection that carries many streams, ``stream`` takes their place. ``queue`` holds
    what is not yet written, ``queued`` is its size in bytes. ``stalled_at`` is the monotonic time since which
    a full socket takes nothing, or 0. ``announced`` is what others learn of it, if they do.
    """

    __slots__ = (
        "announced",
        "connected_at",
        "ends_at",
        "fd",
        "form",
        "grant",
        "identity",
        "matchers",
        "peer",
        "queue",
        "queued",
        "stalled_at",
        "state",
        "stream",
        "tls",
        "websocket",
    )

    def __init__(
        self,
        *,
        matchers: tuple[Matcher, ...],
        grant: Grant,
        identity: Identity,
        peer: str,
        connected_at: int,
        ends_at: float,
        form: Form = Form.PLAIN,
        websocket: WebSocket | None = None,
    ) -> None:
        self.state = _HISTORY
        self.form = form
        self.websocket = websocket
        self.fd = -1
        self.tls: TlsLayer | None = None
        self.stream: Stream | None = None
        self.matchers = matchers
        self.announced: Announcement | None = None
        self.grant = grant
        self.identity = identity
        self.peer = peer
        self.connected_at = connected_at
        self.stalled_at = 0.0
        self.ends_at = ends_at
        self.queue: list[bytes | memoryview] | None = None
        self.queued = 0

    @property
    def is_connected(self) -> bool:
        """Whether the engine has its connection."""
        state = self.state
        return state is _READY or state is _QUEUED or state is _READY_TLS or state is _READY_STREAM
