"""The subscription API: who is connected (spec, Subscription API)."""

from __future__ import annotations

from urllib.parse import quote, unquote_to_bytes

from hub.endpoints.hub import Hub
from hub.endpoints.request import Request
from hub.protocol import answer
from hub.protocol.answer import Answer
from hub.protocol.errors import InsufficientScope, NotFound
from hub.protocol.grant import Json
from hub.protocol.subscription import collection_document


def subscriptions(hub: Hub, request: Request, path: str) -> Answer:
    """List subscriptions, or show one.

    :param path: the resource as it is known publicly, which is also the topic to be authorized.
    :returns: a collection, the subscriptions of one matcher, or one subscription.
    :raises NotFound: the feature is off, or there is no such subscription.
    """
    if not hub.subscriptions:
        raise NotFound("Active subscriptions are off (MERCURE_SUBSCRIPTIONS).")
    path = _canonical(path)
    grant = hub.gatekeeper.subscriber(request)
    if not grant.subscribe.covers(path):
        raise InsufficientScope(f"the token does not allow reading {path!r}")
    cursor = hub.broker.last_event_id
    return _with_cursor(answer.to_json(_document(hub, request, path)), request, cursor)


def _document(hub: Hub, request: Request, path: str) -> dict[str, Json]:
    identity = request.identity
    active = (one for one in hub.broker.subscriptions() if not one.is_old)
    if path == identity.subscriptions_path:
        return collection_document(path, active, identity)
    match path.removeprefix(identity.subscriptions_path + "/").split("/"):
        case [_, _]:
            chosen = (one for one in active if one.collection(identity) == path)
            return collection_document(path, chosen, identity)
        case [_, _, _]:
            for one in active:
                if one.path(identity) == path:
                    return one.document(identity)
            raise NotFound("There is no such subscription now.")
        case _:
            raise NotFound("The subscription API has no such path.")


def _canonical(path: str) -> str:
    """Percent-encode each segment as subscription event topics do, so that one spelling is compared."""
    return "/".join(quote(unquote_to_bytes(segment), safe="") for segment in path.split("/"))


def _with_cursor(response: Answer, request: Request, cursor: str) -> Answer:
    """Add the reconciliation cursor, and let caches ask whether it is still the same."""
    etag = f'"{cursor}"' if '"' not in cursor and cursor.isascii() else None
    shown = quote(cursor, safe=":/#?[]@!$&'()*+,;=-._~")
    link = (
        f'<{request.identity.url}>; rel="mercure"; last-event-id="{shown}"; '
        'type="mercure"; content-type="application/json"'
    )
    response.headers += [("Link", link), ("Cache-Control", "private, must-revalidate")]
    if etag is not None:
        response.headers.append(("ETag", etag))
    return response
