"""``POST`` of a JSON array on the hub's URL: publish many updates at once (docs/protocol.md, Batches)."""

from __future__ import annotations

from mercure_hub.endpoints.hub import Hub
from mercure_hub.endpoints.publish import refuse_reserved
from mercure_hub.endpoints.request import Request
from mercure_hub.metrics.catalogue import PUBLISH
from mercure_hub.protocol.errors import InsufficientScope, InvalidRequest
from mercure_hub.protocol.http import Answer, json_answer
from mercure_hub.protocol.update import BATCH_MEDIA_TYPE, from_batch, in_batch


def is_batch(request: Request) -> bool:
    """Whether the body of a ``POST`` is a batch and not the form of one update."""
    return request.media_type == BATCH_MEDIA_TYPE


def publish_batch(hub: Hub, request: Request) -> Answer:
    """Store all updates in one transaction and send them in order, or none of them.

    The body is read after the token, since a batch costs more to read than one update.

    :returns: 200 with the ids in order, once all updates are durable.
    :raises MercureError: see the table of errors.
    """
    started = hub.broker.clock()
    grant = hub.gatekeeper.publisher(request)
    updates = from_batch(request.body, hub.limits)
    for index, update in enumerate(updates):
        try:
            refuse_reserved(update.topics, request, hub.limits)
        except InvalidRequest as error:
            raise in_batch(index, error) from None
    for index, update in enumerate(updates):
        outside = grant.publish.first_outside(update.topics)
        if outside is not None:
            raise InsufficientScope(
                f"the token does not allow publishing to {outside!r}, a topic of update {index} (from 0)"
            )
    hub.broker.publish_all(updates)
    hub.broker.tally.observe(PUBLISH, hub.broker.clock() - started)
    response = json_answer({"ids": [update.id for update in updates]})
    response.headers.append(("Cache-Control", "private, no-store"))  # the token may be in the URL (0.x)
    return response
