"""The token that the page of a playground comes with, for whoever sits at this machine."""

from __future__ import annotations

from collections.abc import Callable

from mercure_hub.config import playground
from mercure_hub.endpoints.debugger.pages import TokenFor
from mercure_hub.endpoints.request import Request
from mercure_hub.protocol.access_token import Protocol


def token_for(protocol: Protocol, clock: Callable[[], float]) -> TokenFor:
    """Gives each page a token of its own.

    :param protocol: generations that the hub speaks.
    :param clock: seconds since the epoch.
    """

    def token(request: Request) -> str | None:
        # By another name than this machine's it comes through a proxy, or from a page whose name was made
        # to lead here (DNS rebinding).
        if not playground.is_local(request.identity) or request.came_through_a_proxy:
            return None
        return playground.token(request.identity.url, clock(), protocol)

    return token
