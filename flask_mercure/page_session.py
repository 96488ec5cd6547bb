"""What a page gets that no template made: the session document, and the view that renews its access.

A single-page application fetches a view of its own, which returns ``mercure.session(topics)``, and gives the
document to ``connect`` of the JavaScript module. Before the cookie or the token ends, the module posts to the
view that :func:`install` adds, which asks ``subscribe_grants`` again.
"""

from __future__ import annotations

import hmac
import time
from typing import Any

from flask import Flask, Response, current_app, request
from werkzeug.datastructures import Headers

from flask_mercure.errors import ConfigurationError, NotGranted
from flask_mercure.grants import KEY, Grants, UserCookie, identity, keyed, marked_identity, ungranted
from flask_mercure.pages import REFRESH, RENEW_AT, module_url, page_options, refresh_url
from flask_mercure.state import HubState, state_of
from flask_mercure.topics import Topics, matchers

_HEADER = "X-Requested-With"
_CSRF = "csrf"  # of Flask-WTF's CSRFProtect, in app.extensions
_NOBODY = "Nobody is signed in, or the user may read no updates."


def session(
    state: HubState,
    cookie: UserCookie,
    topics: Topics,
    last_event_id: str | None,
    *,
    token: bool,
    last_value: bool,
) -> Response:
    """The document for a page; arguments and errors are those of :meth:`flask_mercure.Mercure.session`.

    :param state: of the hub.
    :param cookie: of its users.
    """
    configuration = state.configuration
    wanted = matchers(topics, configuration.protocol, "topics")
    response = Response(mimetype="application/json")
    is_elsewhere = _is_from_elsewhere()
    document = page_options(configuration, wanted, last_event_id, last_value=last_value)
    document["module"] = module_url(external=is_elsewhere)
    if cookie.is_used:
        grants = cookie.current()
        if grants is None:
            raise NotGranted(_NOBODY, 401)
        if refused := ungranted(wanted, grants, configuration):
            raise NotGranted(
                f"The current user may not read {', '.join(map(repr, refused))}: subscribe_grants says so."
            )
        document |= _access(state, cookie, response, grants, as_token=token)
        query = {"token": _seal(state)} if token else {}
        document["refresh"] = refresh_url(state.name, external=is_elsewhere, **query)
    elif token:
        raise ConfigurationError(
            "session(token=True) has to know what the token may read: register a function with "
            "@mercure.subscribe_grants, on the same hub"
        )
    return _finished(response, document)


def install(app: Flask, path: str) -> None:
    """Add the view that renews cookies and tokens.

    It takes a POST, and answers 401 when ``subscribe_grants`` gives nothing, 404 where that is not used.

    :param app: the application.
    :param path: of the app, where it serves the JavaScript module.
    """

    @app.url_value_preprocessor
    def exempt(endpoint: str | None, _: object) -> None:
        # The view has a check of its own, and the page's script no token of a form. This is called before all
        # hooks of the app, in whatever order its extensions came.
        protection = app.extensions.get(_CSRF) if endpoint == REFRESH else None
        if protection is not None and hasattr(protection, "exempt"):
            protection.exempt(_refresh)

    app.add_url_rule(f"{path.rstrip('/')}/refresh/<hub>", REFRESH, _refresh, methods=["POST"])


def _refresh(hub: str) -> Response:
    hubs = state_of(current_app)
    cookie = current_app.extensions[KEY](hub) if hub in hubs.hubs else None
    if cookie is None:
        return _refusal(404, "No function is registered with subscribe_grants for such a hub.")
    if not is_of_a_script(request.headers):
        return _refusal(403, f"A form of another site could have sent this; scripts send {_HEADER}.")
    state = hubs.hub(hub)
    seal = request.args.get("token")
    if seal is not None and not hmac.compare_digest(seal.encode("utf-8", "replace"), _seal(state).encode()):
        return _refusal(403, "This app has not given this address to a page.")
    grants = cookie.current()
    if grants is None:
        return _refusal(401, _NOBODY)
    response = Response(mimetype="application/json")
    return _finished(response, _access(state, cookie, response, grants, as_token=seal is not None))


def is_of_a_script(headers: Headers) -> bool:
    """Whether a request comes from a script that may talk to the app, and not from a form of another site.

    The browser says so (W3C, Fetch Metadata), or there is a header that a script of another origin can send
    only if the app allows that origin to (Fetch Standard, CORS-preflight).

    :param headers: of the request.
    """
    return headers.get("Sec-Fetch-Site") == "same-origin" or _HEADER in headers


def _access(
    state: HubState, cookie: UserCookie, response: Response, grants: Grants, *, as_token: bool
) -> dict[str, Any]:
    """Set the cookie, or make a token: the members of the document about it.

    :raises MercureError: the one or the other cannot be made.
    """
    members: dict[str, Any] = {}
    if as_token:
        members["token"], end = cookie.give_token(state, grants)
        name = identity(grants.user)
    else:
        end = cookie.give(state, response, grants)
        # Where the page cannot read the mark of it.
        name = marked_identity(state, response) if _is_from_elsewhere() else None
    if name is not None:
        members["identity"] = name
    if end is not None:
        members["refreshAfter"] = max(1.0, round((end - time.time()) * RENEW_AT, 3))
    return members


def _seal(state: HubState) -> str:
    """Has the view answer with a token, which a script can read, in place of the cookie.

    Only the app can make it. Where no page was given a token, a script that somebody has got into the page
    gets none either.
    """
    key = state.configuration.subscriber_key
    return keyed(f"tokens of {state.name} {'' if key is None else key.fingerprint.hex()}")


def _is_from_elsewhere() -> bool:
    """Whether the page that made the request has another origin than the app."""
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None:
        return site in ("same-site", "cross-site")
    origin = request.headers.get("Origin")
    return origin is not None and f"{origin}/" != request.host_url


def _finished(response: Response, document: dict[str, Any]) -> Response:
    response.set_data(current_app.json.dumps(document))
    response.headers["Cache-Control"] = "no-store, private"
    response.headers["X-Content-Type-Options"] = "nosniff"
    return response


def _refusal(status: int, text: str) -> Response:
    return Response(text, status, mimetype="text/plain", headers={"Cache-Control": "no-store"})
