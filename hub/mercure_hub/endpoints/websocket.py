"""The handshake of a WebSocket, which is a GET on the hub's URL: an extension to the protocol of ours."""

from __future__ import annotations

from dataclasses import replace

from mercure_hub.endpoints.hub import Hub
from mercure_hub.endpoints.request import Request
from mercure_hub.protocol import origins, websocket
from mercure_hub.protocol.errors import InvalidRequest


def handshake(hub: Hub, request: Request) -> tuple[Request, str | None]:
    """Check whether a request asks for a WebSocket, and may have one.

    :returns: the request, without a cookie that must not count; and ``Sec-WebSocket-Accept``, or ``None`` for
        an event stream.
    :raises InvalidRequest: the handshake is wrong, or WebSockets are off.
    :raises CrossSite: it comes from a page of an origin that is not named.
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
