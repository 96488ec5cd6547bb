"""``GET`` and ``QUERY`` on the hub's URL: subscribe (spec, Subscription and Reconciliation).

A WebSocket handshake is such a ``GET`` too: an extension of this hub (docs/websocket.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf

from mercure_hub.broker.replay import Start
from mercure_hub.endpoints.hub import Hub
from mercure_hub.endpoints.request import Request, form_of
from mercure_hub.fanout.quota import Slot
from mercure_hub.protocol import origins, websocket
from mercure_hub.protocol.errors import InvalidRequest
from mercure_hub.protocol.event_stream import WITH_TOPICS
from mercure_hub.protocol.http import Headers, prefers
from mercure_hub.protocol.hub_url import Identity
from mercure_hub.protocol.matching.matcher import Allowance, Matcher
from mercure_hub.protocol.subscription import (
    WITH_LIVE,
    check_shown,
    matchers_from,
    requested_cursor,
    wanted_with,
    wants_last_values,
)
from mercure_hub.protocol.tokens.grant import Grant
from mercure_hub.protocol.update import new_id

_HEADERS: Headers = [
    ("Content-Type", "text/event-stream"),
    # No store keeps a stream, no proxy may transform it, nginx must not buffer it.
    ("Cache-Control", "private, no-cache, no-store, must-revalidate, max-age=0, no-transform"),
    ("Pragma", "no-cache"),
    ("Expires", "0"),
    ("X-Accel-Buffering", "no"),
]


@dataclass(slots=True)
class Stream:
    """An accepted subscription.

    :param matchers: what the subscriber listens to.
    :param grant: what its token allows.
    :param start: the position in the history where it begins.
    :param headers: of the response.
    :param lifetime: seconds until the connection has to end; infinite if never.
    :param ends_with_token: the token sets that end, not the configured lifetime.
    :param is_compressed: the stream is made of Zstandard frames.
    :param names_topics: updates come with the topics that the matchers select.
    :param marks_live: a mark follows the history.
    :param accept: the value that accepts a WebSocket; ``None`` for an event stream.
    :param slot: counts the connection until a subscriber does.
    """

    matchers: tuple[Matcher, ...]
    grant: Grant
    start: Start
    headers: Headers
    lifetime: float
    ends_with_token: bool
    is_compressed: bool
    names_topics: bool
    marks_live: bool
    accept: str | None
    slot: Slot


def subscribe(hub: Hub, request: Request) -> Stream:
    """Check a subscription request, and have the connection counted.

    :raises MercureError: see the table of errors.
    """
    request, accept = _handshake(hub, request)
    current, old = hub.protocol != "0.x", hub.protocol != "1.0"
    grant = hub.gatekeeper.subscriber(request)
    parameters = request.query
    if request.method == "QUERY":
        # 400 for more matchers than the hub takes (spec, Subscription), whatever the number.
        parameters = [*parameters, *form_of(request, InvalidRequest)]
    most = hub.max_heavy_patterns
    allowance = Allowance(most, grant.holder or request.peer) if most else None
    matchers = matchers_from(parameters, request.identity, current=current, old=old, allowance=allowance)
    if hub.subscriptions:
        check_shown(matchers, new_id(), grant.payload_for, request.identity)
    # The query component comes first, so its cursor wins over the body's.
    wanted = requested_cursor(_event_id(request.header("last-event-id")), parameters, old_names=old)
    wants_values = wants_last_values(parameters)
    reads_history = wanted is not None or wants_values
    takes_events = reads_history and _may_get_events(matchers, grant, request.identity)
    slot = hub.broker.quota.enter(request.peer, grant.fingerprint)
    try:
        start = hub.broker.locate(
            wanted, matchers, takes_events=takes_events, wants_values=wants_values, watch=request.watch
        )
        hub.gatekeeper.check_again(grant)
    except BaseException:
        slot.release()
        raise
    headers = list(_HEADERS) if accept is None else [("Sec-WebSocket-Accept", accept)]
    if start.last_event_id is not None:
        value = start.last_event_id.encode().decode("latin-1")
        headers.append(("Mercure-Last-Event-ID", value))
        if old:
            headers.append(("Last-Event-ID", value))
    is_compressed = accept is None and hub.compression and prefers("zstd", request.header("accept-encoding"))
    if is_compressed:
        headers.append(("Content-Encoding", "zstd"))
    if accept is None and hub.compression:
        headers.append(("Vary", "Accept-Encoding"))
    extras = wanted_with(parameters, grant)
    if extras:  # a client learns that the hub knows them
        headers.append(("Mercure-With", ", ".join(extras)))
    lifetime = _lifetime(hub, grant)
    return Stream(
        matchers,
        grant,
        start,
        headers,
        lifetime,
        ends_with_token=lifetime < (hub.lifetime or inf),
        is_compressed=is_compressed,
        names_topics=WITH_TOPICS in extras,
        marks_live=WITH_LIVE in extras,
        accept=accept,
        slot=slot,
    )


def _may_get_events(matchers: Sequence[Matcher], grant: Grant, identity: Identity) -> bool:
    """Whether the subscriber may get subscription events."""
    path = identity.subscriptions_path
    return grant.subscribe.reaches(path) and any(one.reaches(path) for one in matchers)


def _event_id(header: str | None) -> str | None:
    """The field's bytes are UTF-8 (HTML standard, 9.2.3); the reader of HTTP decodes them as ISO 8859-1."""
    if header is None:
        return None
    return header.encode("latin-1").decode("utf-8", "replace")


def _lifetime(hub: Hub, grant: Grant) -> float:
    lifetime = hub.lifetime or inf
    if grant.expires_at is not None:
        lifetime = min(lifetime, grant.expires_at - hub.gatekeeper.clock())
    return lifetime


def _handshake(hub: Hub, request: Request) -> tuple[Request, str | None]:
    """Check whether a request asks for a WebSocket, and may have one.

    :returns: the request, without a cookie that a page of another site may have sent; and
        ``Sec-WebSocket-Accept``, or ``None`` for an event stream.
    :raises InvalidRequest: the handshake is wrong, or WebSockets are off.
    :raises CrossSite: it comes from a page of an origin that is not allowed.
    """
    accept = websocket.accept_key(request.headers) if request.method == "GET" else None
    if accept is None:
        return request, None
    if not hub.websocket:
        raise InvalidRequest("WebSockets are off (MERCURE_WEBSOCKET); subscribe with EventSource.", "Upgrade")
    if not request.may_switch or request.header("transfer-encoding") is not None:
        raise InvalidRequest(
            "A handshake is a request of HTTP/1.1 without content, and nothing follows it yet."
        )
    if not origins.may_bring_cookie(request.header("origin"), request.identity.origin, hub.cors_origins):
        headers = {name: value for name, value in request.headers.items() if name != "cookie"}
        request = replace(request, headers=headers)
    return request, accept
