"""``GET`` of ``/healthz``, ``/livez``, ``/readyz`` and ``/metrics``."""

from __future__ import annotations

from mercure_hub import __version__
from mercure_hub.endpoints.hub import Hub
from mercure_hub.protocol.errors import StorageError
from mercure_hub.protocol.http import Answer, text_answer

HEALTH, LIVE, READY, METRICS = "/healthz", "/livez", "/readyz", "/metrics"


def health(hub: Hub) -> Answer:
    """200 when the storage works.

    :raises StorageError: it does not; the answer is 503.
    """
    hub.broker.check()
    return text_answer(200, "ok\n")


def live() -> Answer:
    """200, whatever the storage does: a process that answers needs no restart."""
    return text_answer(200, "ok\n")


def ready(hub: Hub) -> Answer:
    """200 when new connections are welcome: the storage works, and the hub is not about to stop.

    :raises StorageError: the storage does not work; the answer is 503.
    """
    if hub.broker.is_draining:
        return text_answer(503, "the hub ends\n")
    return health(hub)


def metrics(hub: Hub) -> Answer:
    """The page for Prometheus, with the metrics of all workers; also while the storage does not work.

    ``mercure_storage_works`` says whether it does.
    """
    # Imported late: the library takes memory, and few hubs are asked for metrics.
    from mercure_hub.metrics.exposition import CONTENT_TYPE, Storage, page  # noqa: PLC0415

    try:
        hub.broker.check()
        size = hub.broker.size()
        storage = Storage(True, size.updates, size.bytes)
    except StorageError:
        storage = Storage(False)
    hub.note_metrics()
    body = page(hub.broker.tally.board, storage, __version__)
    return Answer(200, body, [("Content-Type", CONTENT_TYPE), ("Cache-Control", "no-store")])
