"""What endpoints share: the broker, the gatekeeper, and the settings that shape answers."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from mercure_hub.broker.broker import Broker
from mercure_hub.endpoints.authorization import Gatekeeper
from mercure_hub.endpoints.debugger.pages import Pages
from mercure_hub.protocol.tokens.claims import Protocol
from mercure_hub.protocol.update import PublicationLimits


@dataclass(frozen=True, slots=True)
class Hub:
    """The hub as its endpoints see it.

    :param broker: publishes and subscribes.
    :param gatekeeper: decides who may.
    :param protocol: generations of the protocol that are spoken.
    :param subscriptions: serve the subscription API.
    :param cors_origins: origins whose pages may read answers.
    :param lifetime: seconds after which a stream ends, 0 = never.
    :param max_heavy_patterns: maximum of patterns in use that take much memory, 0 = no limit.
    :param limits: of a publication.
    :param compression: compress streams for clients that ask for it.
    :param websocket: accept WebSockets too.
    :param metrics: serve ``/metrics`` on the address of the hub.
    :param note_metrics: updates the gauges of this process.
    :param debugger: the debugger's page, if there is one.
    """

    broker: Broker
    gatekeeper: Gatekeeper
    protocol: Protocol
    subscriptions: bool
    cors_origins: Collection[str]
    lifetime: float
    max_heavy_patterns: int
    limits: PublicationLimits
    compression: bool
    websocket: bool
    metrics: bool
    note_metrics: Callable[[], None]
    debugger: Pages | None = None
