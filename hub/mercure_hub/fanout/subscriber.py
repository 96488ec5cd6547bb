"""A connected subscriber: one small object, for there are thousands of them."""

from __future__ import annotations

import ssl

from mercure_hub.protocol.identity import Identity
from mercure_hub.protocol.matching.matcher import Matcher
from mercure_hub.protocol.tokens.grant import Grant
from mercure_hub.protocol.websocket import WebSocket

GONE: list[bytes] = []
"""``pending`` of a subscriber that is no longer there."""


class Subscriber:
    """A connection that receives updates.

    :param fd: the connected, non-blocking socket's descriptor; -1 once the subscriber is gone.
    :param tls: the TLS layer over ``fd``, or ``None``.
    :param id: identifier in subscription documents; empty when nobody can ask for it.
    :param matchers: what it listens to.
    :param grant: what its token allows.
    :param identity: the hub's public URL as this client knows it.
    :param peer: the client's address, for the log.
    :param now: monotonic time of the connection, in seconds.
    :param ends_at: monotonic time at which the connection must be closed.
    :param form: how its octets are framed and coded, see ``mercure_hub.fanout.framing``.
    :param websocket: reads what the client sends; ``None`` for one that sends nothing.

    ``pending`` holds what could not be written yet. It is ``None`` only for a plain socket with nothing
    waiting, so that this one test finds the subscribers that can be written to without more ado; it is
    ``GONE`` for one that left. ``offset`` is how much of its first element has been written,
    ``pending_size`` its octets. ``stalled_at`` is the time since which the socket takes nothing, or 0.
    """

    __slots__ = (
        "connected_at",
        "ends_at",
        "fd",
        "form",
        "grant",
        "id",
        "identity",
        "matchers",
        "offset",
        "peer",
        "pending",
        "pending_size",
        "stalled_at",
        "tls",
        "websocket",
    )

    def __init__(
        self,
        fd: int,
        tls: ssl.SSLSocket | None,
        *,
        id: str,
        matchers: tuple[Matcher, ...],
        grant: Grant,
        identity: Identity,
        peer: str,
        now: float,
        ends_at: float,
        form: int = 0,
        websocket: WebSocket | None = None,
    ) -> None:
        self.form = form
        self.websocket = websocket
        self.fd = fd
        self.tls = tls
        self.id = id
        self.matchers = matchers
        self.grant = grant
        self.identity = identity
        self.peer = peer
        self.connected_at = now
        self.stalled_at = 0.0
        self.ends_at = ends_at
        self.pending: list[bytes] | None = None
        self.pending_size = 0
        self.offset = 0

    @property
    def is_open(self) -> bool:
        """Whether the connection still exists."""
        return self.fd >= 0
