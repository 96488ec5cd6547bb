"""``GET`` below the debugger: what the hub says of the token that the client itself presents."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mercure_hub.endpoints.request import Request
from mercure_hub.protocol.errors import CrossSite, InvalidRequest, TokenInvalid
from mercure_hub.protocol.http import Answer, json_answer
from mercure_hub.protocol.hub_url import is_reserved
from mercure_hub.protocol.tokens.access_token import public_cause
from mercure_hub.protocol.tokens.claims import Role
from mercure_hub.protocol.tokens.grant import Grant
from mercure_hub.protocol.topics import WILDCARD, forbidden_character

if TYPE_CHECKING:
    from mercure_hub.endpoints.hub import Hub

PATH = "/token"
"""Below the debugger."""

_MAX_TOPIC = 2048


def verdict(hub: Hub, request: Request) -> Answer:
    """Explain a token: for each role, whether it is accepted or why not.

    The answer has the claims only if the token is in a cookie, which the page cannot read. Only pages of the
    hub's own origin may ask.

    :raises InvalidRequest: the query has an invalid topic.
    :raises AuthorizationError: the token is malformed, or a page of another origin asks.
    """
    _refuse_others(request)
    topic = _topic(request)
    keeper = hub.gatekeeper
    credential = keeper.credential(request)
    document: dict[str, Any] = {"hub": request.identity.url, "now": keeper.clock(), "source": None}
    if credential is not None:
        document["source"] = credential.source
        token = keeper.verifier.read(credential.token)
        is_signed = keeper.verifier.is_signed(credential.token)
        if credential.source == "cookie" and token is not None:
            document |= {"header": token.header, "claims": token.claims}
        roles: tuple[Role, ...] = ("publish", "subscribe")
        for role in roles:
            try:
                grant = keeper.grant(credential, role, request)
            except TokenInvalid as error:
                cause = public_cause(error, role, token, is_signed=is_signed)
                document[role] = {"accepted": False, "cause": cause}
            else:
                document[role] = _accepted(grant, role, topic, request)
    try:
        response = json_answer(document)
    except RecursionError:  # deeply nested claims can be read, but not written
        response = json_answer({name: document[name] for name in document.keys() - {"header", "claims"}})
    response.headers += [("Cache-Control", "no-store"), ("Cross-Origin-Resource-Policy", "same-origin")]
    return response


def _accepted(grant: Grant, role: Role, topic: str | None, request: Request) -> dict[str, Any]:
    document: dict[str, Any] = {"accepted": True, "expires_at": grant.expires_at, "old": grant.is_old}
    if topic is not None:
        scope = grant.publish if role == "publish" else grant.subscribe
        is_own = role == "publish" and (topic == WILDCARD or is_reserved(topic, request.identity))
        document |= {"covers": scope.covers(topic) and not is_own, "reserved": is_own}
    return document


def _topic(request: Request) -> str | None:
    topic = next((value for name, value in request.query if name == "topic"), None)
    if topic is not None and (len(topic) > _MAX_TOPIC or forbidden_character(topic)):
        raise InvalidRequest("The topic is too long, or holds a control or format character.", "topic")
    return topic


def _refuse_others(request: Request) -> None:
    """Only pages of the hub may see the claims of a cookie, whatever CORS allows elsewhere."""
    origin, site = request.header("origin"), request.header("sec-fetch-site")
    if site not in (None, "same-origin", "none") or origin not in (None, request.identity.origin):
        raise CrossSite("only the debugger's own page may ask this")
