"""What all connections of a listener share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

from mercure_hub.endpoints.hub import Hub
from mercure_hub.endpoints.request import Request
from mercure_hub.endpoints.routes import route
from mercure_hub.endpoints.subscribe import Stream
from mercure_hub.fanout.tls import TlsServer
from mercure_hub.protocol.http import Answer
from mercure_hub.server.access_log import AccessLog
from mercure_hub.server.http import Addressing
from mercure_hub.server.open_requests import OpenRequests


class Waiting(ABC):
    """A connection that may wait for its client."""

    @abstractmethod
    def make_room(self) -> None:
        """End although the client is still waited for, because others need the memory or the descriptor."""


@dataclass(frozen=True, slots=True)
class RequestTimes:
    """How long a client may take, in seconds.

    :param first_byte: for a request to begin, also on a connection that was used before.
    :param whole: for all of a request to arrive once it has begun.
    """

    first_byte: float = 20.0
    whole: float = 30.0


@dataclass(frozen=True, slots=True)
class Site:
    """What all connections of a listener share.

    :param hub: for the endpoints.
    :param addressing: derives the client's address and the URL that it used.
    :param access_log: a line for each request.
    :param max_body: bytes of content in a request.
    :param tls: of a hub that terminates TLS itself.
    :param replay_timeout: seconds for which a subscriber may take nothing of its history.
    :param open_requests: the connections that wait for their clients.
    :param times: how long clients may take for a request.
    :param route: serves a request.
    :param any_url: serve requests whatever their URL.
    """

    hub: Hub
    addressing: Addressing
    access_log: AccessLog
    max_body: int
    tls: TlsServer | None
    replay_timeout: float
    open_requests: OpenRequests[Waiting]
    times: RequestTimes
    route: Callable[[Hub, Request], Answer | Stream] = route
    any_url: bool = False
