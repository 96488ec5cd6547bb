"""``POST`` on the hub's URL: publish an update, or a batch of them (spec, Publication; docs/protocol.md)."""

from __future__ import annotations

from collections.abc import Sequence

from mercure_hub.endpoints.hub import Hub
from mercure_hub.endpoints.request import Request, form_of
from mercure_hub.metrics.catalogue import PUBLISH
from mercure_hub.protocol.errors import InsufficientScope, InvalidRequest
from mercure_hub.protocol.http import Answer, Pairs, json_answer, text_answer
from mercure_hub.protocol.hub_url import is_reserved
from mercure_hub.protocol.topics import WILDCARD
from mercure_hub.protocol.update import (
    BATCH_MEDIA_TYPE,
    ONCE_HEADER,
    ONCE_VALUE,
    PublicationLimits,
    from_batch,
    from_form,
    in_batch,
)


def publish(hub: Hub, request: Request) -> Answer:
    """Store and send an update.

    A topic in the hub's own namespace is refused whatever the token; all other errors of the form are shown
    only to those who may publish.

    :returns: 200 with the id of the update, once it is durable.
    :raises MercureError: see the table of errors.
    """
    started = hub.broker.clock()
    form = _form(request)
    if not isinstance(form, InvalidRequest):
        topics = [value for name, value in form if name == "topic"]
        _refuse_reserved(topics, request, hub.limits)
    grant = hub.gatekeeper.publisher(request)
    if isinstance(form, InvalidRequest):
        raise form
    update = from_form(form, hub.limits)
    outside = grant.publish.first_outside(update.topics)
    if outside is not None:
        raise InsufficientScope(f"the token does not allow publishing to {outside!r}")
    hub.broker.publish((update,))
    return _published(hub, started, text_answer(200, update.id), once=update.once)


def is_batch(request: Request) -> bool:
    """Whether the body of a ``POST`` is a batch and not the form of one update."""
    return request.media_type == BATCH_MEDIA_TYPE


def publish_batch(hub: Hub, request: Request) -> Answer:
    """Store all updates of a batch in one transaction and send them in order, or none of them.

    The body is read after the token, since a batch costs more to read than one update.

    :returns: 200 with the ids in order, once all updates are durable.
    :raises MercureError: see the table of errors.
    """
    started = hub.broker.clock()
    grant = hub.gatekeeper.publisher(request)
    updates = from_batch(request.body, hub.limits)
    for index, update in enumerate(updates):
        try:
            _refuse_reserved(update.topics, request, hub.limits)
        except InvalidRequest as error:
            raise in_batch(index, error) from None
    for index, update in enumerate(updates):
        outside = grant.publish.first_outside(update.topics)
        if outside is not None:
            raise InsufficientScope(
                f"the token does not allow publishing to {outside!r}, a topic of update {index} (from 0)"
            )
    hub.broker.publish(updates)
    answer = json_answer({"ids": [update.id for update in updates]})
    return _published(hub, started, answer, once=any(update.once for update in updates))


def _form(request: Request) -> Pairs | InvalidRequest:
    """The fields, or why they cannot be read."""
    try:
        return form_of(request)
    except InvalidRequest as error:
        return error


def _refuse_reserved(topics: Sequence[str], request: Request, limits: PublicationLimits) -> None:
    """Refuse the hub's own topics. Topics beyond a limit are skipped here: ``from_form`` refuses them.

    :raises InvalidRequest: one of the topics is reserved.
    """
    for topic in topics[: limits.topics]:
        if topic == WILDCARD:
            raise InvalidRequest(
                "The topic * is the wildcard of subscribers; nobody can publish to it.", "topic"
            )
        if len(topic) <= limits.topic_length and is_reserved(topic, request.identity):
            raise InvalidRequest(f"The topic {topic!r} is in the namespace of the hub.", "topic")


def _published(hub: Hub, started: float, answer: Answer, *, once: bool) -> Answer:
    hub.broker.tally.observe(PUBLISH, hub.broker.clock() - started)
    answer.headers.append(("Cache-Control", "private, no-store"))  # the token may be in the URL (0.x)
    if once:
        answer.headers.append((ONCE_HEADER, ONCE_VALUE))
    return answer
