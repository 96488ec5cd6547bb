"""The mark beside the cookie: by what a grant is recognised later.

The cookie with the access token goes to the hub's path, so the app does not see it again. Beside it the app
gives the browser a *mark* for its own paths, which ends with the token and holds nothing but that end and
keyed digests: of the user, and of what was granted and to whom. When these differ in the next request, the
cookie is another user's, or not what the app would grant now.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import sys
from base64 import urlsafe_b64encode

from flask import Flask, current_app, g, session
from flask.json.tag import TaggedJSONSerializer

from flask_mercure.configuration.settings import Configuration
from flask_mercure.grants.grant import Grants
from flask_mercure.topics import matchers

_MARK = re.compile(r"(\d{1,15})-(\d{1,15})\.([\w-]{24})\.", re.ASCII)
_UNKNOWN = "-" * 24
_DOMAIN = b"flask-mercure: what the authorization cookie grants"
_CHANGING = frozenset({"_flashes", "_fresh", "_permanent", "csrf_token"})
"""Of a session, what says nothing about the user and changes while the user is the same."""


def digest(grants: Grants, name: str, configuration: Configuration) -> str:
    """What tells these grants, to this user on this hub, from others.

    :param grants: of the current user.
    :param name: of the hub.
    :param configuration: of the hub.
    """
    topics = matchers(grants.topics, configuration.protocol, "topics")
    # With another key browsers get a new cookie: the hub takes tokens of the key before for a while only.
    key = configuration.subscriber_key
    content = [
        [name, configuration.public_url, configuration.protocol, configuration.issuer],
        None if key is None else key.fingerprint.hex(),
        sorted([type(one).__name__, str(one)] for one in topics),
        grants.payload,
        grants.additional_claims and dict(grants.additional_claims),
        _user() if grants.user is None else ["user", str(grants.user)],
    ]
    return _keyed(json.dumps(content, sort_keys=True, default=str))


def visitor() -> str:
    """What tells the current user from others, as far as the app's login can say who that is."""
    try:
        user = _user()
    except Exception:  # its database may be away
        return _UNKNOWN
    return _keyed(json.dumps(["visitor", user]))


def seal(start: int, end: int, whose: str, content: str) -> str:
    """The value of the mark.

    :param start: when the cookie was set, in seconds since the epoch.
    :param end: of the token, likewise.
    :param whose: made by :func:`visitor`.
    :param content: made by :func:`digest`.
    """
    known = f"{start}-{end}.{whose}."
    return known + _keyed(known + content)


def sealed_times(mark: str, content: str) -> tuple[int, int] | None:
    """When the cookie that a mark belongs to was set, and its end.

    :param mark: as the browser sent it.
    :param content: the digest of what the current user may read.
    :returns: seconds since the epoch; ``None`` when the mark is of something else, or was tampered with.
    """
    found = _MARK.match(mark)
    if found is None:
        return None
    start, end = int(found[1]), int(found[2])
    sealed = seal(start, end, found[3], content)
    same = hmac.compare_digest(sealed.encode(), mark.encode("utf-8", "surrogatepass"))
    return (start, end) if same else None


def is_of_another(mark: str, whose: str) -> bool:
    """Whether a mark was given to another user, as far as is known of both.

    :param mark: as the browser sent it.
    :param whose: made by :func:`visitor`.
    """
    found = _MARK.match(mark)
    return found is None or (_UNKNOWN not in (found[3], whose) and found[3] != whose)


def _keyed(text: str) -> str:
    secret = current_app.secret_key or b""
    key = hashlib.sha256(_DOMAIN + (secret.encode() if isinstance(secret, str) else secret)).digest()
    octets = hmac.digest(key, text.encode("utf-8", "surrogatepass"), "sha256")
    return urlsafe_b64encode(octets[:18]).decode()


def _user() -> list[str]:
    """Who is logged in, as far as the app's extensions know; else what its session holds."""
    app: Flask = current_app._get_current_object()  # type: ignore[attr-defined]
    if hasattr(app, "login_manager") and "flask_login" in sys.modules:
        from flask_login import current_user  # type: ignore[import-untyped] # noqa: PLC0415

        if (known := current_user.get_id()) is not None:
            return ["flask-login", str(known)]
    if "flask-jwt-extended" in app.extensions and getattr(g, "_jwt_extended_jwt", None):
        from flask_jwt_extended import get_jwt_identity  # noqa: PLC0415

        return ["flask-jwt-extended", str(get_jwt_identity())]
    held = {key: value for key, value in session.items() if key not in _CHANGING}
    try:
        return ["session", TaggedJSONSerializer().dumps({key: held[key] for key in sorted(held)})]
    except TypeError:  # a session that is kept on the server may hold anything
        return ["session", repr(sorted(held.items(), key=lambda item: item[0]))]
