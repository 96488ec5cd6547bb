"""``GET /metrics``: the figures of all workers, whichever of them is asked."""

from __future__ import annotations

from mercure_hub import __version__
from mercure_hub.endpoints.hub import Hub
from mercure_hub.protocol.errors import StorageError
from mercure_hub.protocol.http import Answer

PATH = "/metrics"


def metrics(hub: Hub) -> Answer:
    """The page for Prometheus; it comes when the storage does not work too, and says so."""
    # Imported late: few hubs are asked for it, and the library takes memory.
    from mercure_hub.metrics.exposition import CONTENT_TYPE, Storage, page  # noqa: PLC0415

    try:
        hub.broker.check()
        size = hub.broker.size()
        storage = Storage(True, size.updates, size.bytes)
    except StorageError:
        storage = Storage(False)
    hub.note_figures()
    body = page(hub.broker.tally.board, storage, __version__)
    return Answer(200, body, [("Content-Type", CONTENT_TYPE), ("Cache-Control", "no-store")])
