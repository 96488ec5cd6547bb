"""``POST`` on the hub's URL: publish an update (spec, Publication)."""

from __future__ import annotations

from collections.abc import Sequence

from mercure_hub.endpoints.hub import Hub
from mercure_hub.endpoints.request import Request, form_of
from mercure_hub.metrics.catalogue import PUBLISH
from mercure_hub.protocol import update
from mercure_hub.protocol.errors import InsufficientScope, InvalidRequest
from mercure_hub.protocol.http import Answer, Pairs, text_answer
from mercure_hub.protocol.identity import is_reserved
from mercure_hub.protocol.topics import WILDCARD
from mercure_hub.protocol.update import PublicationLimits


def publish(hub: Hub, request: Request) -> Answer:
    """Store and send an update.

    A topic in the hub's own namespace is refused whatever the token; every other rule is for those
    who have one.

    :returns: 200 with the id of the update, once it is durable.
    :raises MercureError: see the table of errors.
    """
    started = hub.broker.clock()
    fields = _form(request)
    if not isinstance(fields, InvalidRequest):
        topics = [value for name, value in fields if name == "topic"]
        refuse_reserved(topics, request, hub.limits)
    grant = hub.gatekeeper.publisher(request)
    if isinstance(fields, InvalidRequest):
        raise fields
    new = update.from_form(fields, hub.limits)
    outside = grant.publish.first_outside(new.topics)
    if outside is not None:
        raise InsufficientScope(f"the token does not allow publishing to {outside!r}")
    hub.broker.publish(new)
    hub.broker.tally.observe(PUBLISH, hub.broker.clock() - started)
    response = text_answer(200, new.id)
    response.headers.append(("Cache-Control", "private, no-store"))  # the token may be in the URL (0.x)
    return response


def _form(request: Request) -> Pairs | InvalidRequest:
    """The fields, or why there are none: the reason is only for those who may publish."""
    try:
        return form_of(request)
    except InvalidRequest as error:
        return error


def refuse_reserved(topics: Sequence[str], request: Request, limits: PublicationLimits) -> None:
    """Refuse the hub's own topics. What is over a limit is passed over: it is refused elsewhere.

    :raises InvalidRequest: one of the topics is reserved.
    """
    for topic in topics[: limits.topics]:
        if topic == WILDCARD:
            raise InvalidRequest(
                "The topic * is the wildcard of subscribers; nobody can publish to it.", "topic"
            )
        if len(topic) <= limits.topic_length and is_reserved(topic, request.identity):
            raise InvalidRequest(f"The topic {topic!r} is in the namespace of the hub.", "topic")
