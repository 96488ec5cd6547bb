"""``GET`` of ``/healthz``, ``/livez``, ``/readyz`` and ``/metrics``."""

from __future__ import annotations

from mercure_hub import __version__
from mercure_hub.endpoints.hub import Hub
from mercure_hub.protocol.errors import StorageAway, StorageError
from mercure_hub.protocol.http import Answer, text_answer

HEALTH, LIVE, READY, METRICS = "/healthz", "/livez", "/readyz", "/metrics"

_AWAY = "the database cannot be reached, and nothing can be published"


def health(hub: Hub) -> Answer:
    """200 when the storage works, and while an engine on another machine is away.

    Supervisors restart a hub for which this fails. That would end the streams, and not bring the engine back.

    :raises StorageError: the storage does not work; the answer is 503.
    """
    try:
        hub.broker.check()
    except StorageAway:
        return text_answer(200, f"ok, but {_AWAY}\n")
    return text_answer(200, _well(hub))


def _well(hub: Hub) -> str:
    return "ok, relaxed durability\n" if hub.broker.is_relaxed else "ok\n"


def live() -> Answer:
    """200, whatever the storage does: a process that answers needs no restart."""
    return text_answer(200, "ok\n")


def ready(hub: Hub) -> Answer:
    """200 when new connections are welcome: the storage works, updates of others come in time, and the hub is
    not about to stop.

    An engine may be away for ten seconds: it is away for all hubs, and a balancer would have no hub left.

    :raises StorageError: the storage does not work; the answer is 503.
    """
    if hub.broker.is_draining:
        return text_answer(503, "the hub ends\n")
    lag = hub.broker.lag()
    try:
        hub.broker.check()
    except StorageAway:
        seconds = f"{_AWAY}, for {lag.seconds:.0f} s\n"
        return text_answer(503, seconds) if lag.is_long else text_answer(200, f"ok, but {seconds}")
    if lag.is_long:
        late = f"{lag.updates} are left to read" if lag.updates else "they cannot be read"
        return text_answer(503, f"updates of other hubs are late by {lag.seconds:.0f} s: {late}\n")
    return text_answer(200, _well(hub))


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
