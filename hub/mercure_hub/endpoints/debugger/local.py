"""The token that the page of a playground comes with, for whoever sits at this machine."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import jwt

from mercure_hub.config.issuers import PLAYGROUND, is_local, playground
from mercure_hub.endpoints.debugger.pages import TokenFor
from mercure_hub.endpoints.request import Request
from mercure_hub.protocol.tokens.claims import DETAIL_TYPE, TOKEN_TYPE, Protocol

_LIFETIME = 12 * 3600


def token_for(protocol: Protocol, clock: Callable[[], float]) -> TokenFor:
    """Gives each page a token of its own.

    :param protocol: generations that the hub speaks.
    :param clock: seconds since the epoch.
    """

    def token(request: Request) -> str | None:
        # By another name than this machine's it comes through a proxy, or from a page whose name was made
        # to lead here (DNS rebinding).
        if not is_local(request.identity) or request.came_through_a_proxy:
            return None
        return _token(request.identity.url, clock(), protocol)

    return token


def _token(url: str, now: float, protocol: Protocol) -> str:
    """A token of a playground that allows everything, for half a day.

    :param url: the hub's.
    :param now: seconds since the epoch.
    """
    (key,) = playground().publish
    header = {"typ": TOKEN_TYPE, "kid": PLAYGROUND}
    claims: dict[str, Any] = {"iat": int(now), "exp": int(now) + _LIFETIME}
    payload = {"name": "playground"}
    if protocol == "0.x":
        header["typ"] = "JWT"
        claims["mercure"] = {"publish": ["*"], "subscribe": ["*"], "payload": payload}
    else:
        everything = {"type": DETAIL_TYPE, "topics": [{"match": "*"}]}
        claims |= {
            "iss": PLAYGROUND,
            "aud": url,
            "sub": "playground",
            "client_id": "playground",
            "jti": str(uuid.uuid4()),
            "authorization_details": [
                {**everything, "actions": ["publish"]},
                {**everything, "actions": ["subscribe"], "payload": payload},
            ],
        }
    assert isinstance(key.material, bytes)
    return jwt.encode(claims, key.material, "HS256", headers=header)
