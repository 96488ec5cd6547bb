"""The subscription API: who is connected (spec, Subscription API)."""

from __future__ import annotations

from hashlib import blake2b
from urllib.parse import quote, unquote_to_bytes

from mercure_hub.endpoints.hub import Hub
from mercure_hub.endpoints.request import Request
from mercure_hub.protocol.count import document as count_document
from mercure_hub.protocol.errors import InsufficientScope, NotFound
from mercure_hub.protocol.http import Answer, encode_json, json_answer, json_list_answer
from mercure_hub.protocol.subscription import old_document, select
from mercure_hub.protocol.tokens.grant import ANONYMOUS, Grant


def subscriptions(hub: Hub, request: Request, path: str) -> Answer:
    """List subscriptions, or show one, in the shape of the generation that the token is of.

    :param path: the resource as it is known publicly, which is also the topic to be authorized.
    :returns: a collection, the subscriptions of one matcher, or one subscription.
    :raises NotFound: the feature is off, or there is no such subscription.
    """
    if not hub.subscriptions:
        raise NotFound("Active subscriptions are off (MERCURE_SUBSCRIPTIONS).")
    path = _canonical(path)
    grant = _check_granted(hub, request, path)
    cursor = hub.broker.last_event_id
    selection = select(path, request.identity, old=grant.is_old)
    if selection is None:
        raise NotFound("There is no such subscription now.")
    found = (
        one.document(request.identity)
        for one in hub.broker.subscriptions(selection.value, selection.subscriber)
        if selection.holds(one)
    )
    content_type = "application/ld+json" if grant.is_old else "application/json"
    if selection.is_single:
        document = next(found, None)
        if document is None:
            raise NotFound("There is no such subscription now.")
        if grant.is_old:
            document = old_document(document, cursor)
        response = json_answer(document, content_type)
    else:
        document = selection.collection()
        if grant.is_old:
            document = old_document(document, cursor)
        response = json_list_answer(document, "subscriptions", map(encode_json, found), content_type)
    return _conditional(_with_cursor(response, request, cursor, old=grant.is_old), request)


def count(hub: Hub, request: Request, path: str) -> Answer:
    """Tell how many are connected to a topic: an extension of this hub (docs/protocol.md).

    :param path: the resource as it is known publicly, which is also the topic to be authorized.
    :raises NotFound: the feature is off, or the path is not that of a count.
    """
    if not hub.subscriptions:
        raise NotFound("Active subscriptions are off (MERCURE_SUBSCRIPTIONS).")
    path = _canonical(path)
    _check_granted(hub, request, path)
    if path.removeprefix(f"{request.identity.counts_path}/").count("/"):
        raise NotFound("There is no such count.")
    answer = json_answer(count_document(path, hub.broker.count(path)))
    answer.headers.append(("Cache-Control", "private, no-store"))
    return answer


def _check_granted(hub: Hub, request: Request, path: str) -> Grant:
    grant = hub.gatekeeper.subscriber(request)
    if grant is ANONYMOUS:
        raise hub.gatekeeper.missing(request, "the subscription API needs one")
    if not grant.subscribe.covers(path):
        raise InsufficientScope(f"the token does not allow reading {path!r}")
    return grant


def _canonical(path: str) -> str:
    """Percent-encode each segment as subscription event topics do, so that one spelling is compared."""
    return "/".join(quote(unquote_to_bytes(segment), safe="") for segment in path.split("/"))


def _with_cursor(response: Answer, request: Request, cursor: str, *, old: bool) -> Answer:
    """Add the reconciliation cursor, from which subscription events continue this document."""
    link = f'<{request.identity.url}>; rel="mercure"'
    if not old:
        # Not percent-encoded, because clients send it back as it is: a quoted string of UTF-8 bytes (RFC 9110
        # section 5.6.4).
        shown = cursor.replace("\\", "\\\\").replace('"', '\\"').encode().decode("latin-1")
        link += f'; last-event-id="{shown}"; type="mercure"; content-type="application/json"'
    response.headers += [("Link", link), ("Cache-Control", "private, must-revalidate")]
    return response


def _conditional(response: Answer, request: Request) -> Answer:
    """Answer 304 to a client that has this very document (RFC 9110 section 13.1.2)."""
    digest = blake2b(response.body, digest_size=12)
    digest.update("".join(value for _, value in response.headers).encode())
    tag = f'"{digest.hexdigest()}"'
    response.headers.append(("ETag", tag))
    wanted = request.header("if-none-match")
    if wanted is None:
        return response
    known = {one.strip().removeprefix("W/") for one in wanted.split(",")}
    if "*" in known or tag in known:
        headers = [field for field in response.headers if field[0] != "Content-Type"]
        return Answer(304, b"", headers)
    return response
