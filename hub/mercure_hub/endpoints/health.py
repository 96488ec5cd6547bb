"""``GET /healthz``, ``/livez`` and ``/readyz``: for those who watch over the hub, and spread connections."""

from __future__ import annotations

from mercure_hub.endpoints.hub import Hub
from mercure_hub.protocol.http import Answer, text_answer

HEALTH, LIVE, READY = "/healthz", "/livez", "/readyz"


def health(hub: Hub) -> Answer:
    """200 when the storage works.

    :raises StorageError: it does not; the answer is 503.
    """
    hub.broker.check()
    return text_answer(200, "ok\n")


def live() -> Answer:
    """200: who answers need not be restarted, whatever the storage does."""
    return text_answer(200, "ok\n")


def ready(hub: Hub) -> Answer:
    """200 when new connections are welcome: the storage works, and the hub does not end.

    :raises StorageError: the storage does not work; the answer is 503.
    """
    if hub.broker.is_draining:
        return text_answer(503, "the hub ends\n")
    return health(hub)
