"""The files of the debugger.

The page holds no token and no data, so everybody may see it; it requests what it shows like any other client.
The URLs of its files contain a hash of their content, so browsers keep them for a year. Only the page of a
playground, opened on this machine, comes with a token.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Mapping
from hashlib import blake2b
from html import escape
from importlib.resources import files
from typing import Any

from mercure_hub.config.issuers import PLAYGROUND, is_local, playground
from mercure_hub.endpoints.request import Request
from mercure_hub.protocol.errors import NotFound
from mercure_hub.protocol.http import Answer, Headers
from mercure_hub.protocol.hub_url import Identity
from mercure_hub.protocol.tokens.claims import DETAIL_TYPE, TOKEN_TYPE, Protocol

PATH = "/debugger"
"""Below the hub's URL."""

_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
_HEADERS: Headers = [
    ("Content-Security-Policy", _POLICY),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Referrer-Policy", "no-referrer"),
    ("X-Content-Type-Options", "nosniff"),
]

TokenFor = Callable[[Request], str | None]


class Pages:
    """Serves the page and its files.

    :param features: what the page has to know of the hub: ``data-`` attributes by their names.
    :param token_for: makes the token that the page comes with; ``None``: it comes without one.
    """

    def __init__(self, features: Mapping[str, str], token_for: TokenFor = lambda _: None) -> None:
        self._features = dict(features)
        self._token_for = token_for
        folder = files(__package__) / "page"
        self._page = (folder / "index.html").read_text(encoding="utf-8")
        self._files: dict[str, tuple[bytes, str]] = {}
        content = blake2b(digest_size=8)
        for one in sorted(folder.iterdir(), key=lambda one: one.name):
            type_ = _TYPES.get("." + one.name.rpartition(".")[2])
            if type_ is not None:
                data = one.read_bytes()
                self._files[one.name] = data, type_
                content.update(b"%b\0%d\0%b" % (one.name.encode(), len(data), data))
        self._version = content.hexdigest()

    def serve(self, request: Request, below: str) -> Answer:
        """Answer a request.

        :param below: the path below that of the debugger, empty for the debugger without slash.
        :raises NotFound: there is no such file.
        """
        if not below:
            return Answer(308, b"", [("Location", _path(request.identity))])
        if below == "/":
            return self._index(request)
        version, _, name = below[1:].partition("/")
        found = self._files.get(name)
        if version != self._version or found is None:
            raise NotFound("The debugger has no such file.")
        data, type_ = found
        return Answer(
            200,
            data,
            [
                ("Content-Type", f"{type_}; charset=utf-8"),
                ("Cache-Control", "public, max-age=31536000, immutable"),
                *_HEADERS,
            ],
        )

    def _index(self, request: Request) -> Answer:
        token = self._token_for(request)
        values = {**self._features, "hub": request.identity.path, "url": request.identity.url}
        if token is not None:
            values["token"] = token
        attributes = " ".join(f'data-{name}="{escape(value)}"' for name, value in sorted(values.items()))
        page = self._page.replace("{files}", escape(_path(request.identity) + self._version))
        page = page.replace("{attributes}", attributes)
        return Answer(
            200,
            page.encode(),
            [("Content-Type", "text/html; charset=utf-8"), ("Cache-Control", "no-store"), *_HEADERS],
        )


def _path(identity: Identity) -> str:
    return f"{identity.path.rstrip('/')}{PATH}/"


def features(*, subscriptions: bool, protocol: str, anonymous: bool, playground: bool) -> dict[str, str]:
    """What the page has to know of a hub. Requests to the hub reveal all of it, too."""
    return {
        "subscriptions": json.dumps(subscriptions),
        "protocol": protocol,
        "anonymous": json.dumps(anonymous),
        "playground": json.dumps(playground),
    }


_TOKEN_LIFETIME = 12 * 3600  # seconds


def token_for(protocol: Protocol, clock: Callable[[], float]) -> TokenFor:
    """Makes a token for each page of a playground that is opened on this machine.

    :param protocol: generations that the hub speaks.
    :param clock: seconds since the epoch.
    """

    def token(request: Request) -> str | None:
        # With another host name, the request came through a proxy, or from a page whose name resolves to this
        # machine (DNS rebinding).
        if not is_local(request.identity) or request.came_through_a_proxy:
            return None
        return _token(request.identity.url, clock(), protocol)

    return token


def _token(url: str, now: float, protocol: Protocol) -> str:
    """A token of a playground that allows everything, for half a day.

    :param url: the hub's.
    :param now: seconds since the epoch.
    """
    (key,) = playground().publish
    header = {"typ": TOKEN_TYPE, "kid": PLAYGROUND}
    claims: dict[str, Any] = {"iat": int(now), "exp": int(now) + _TOKEN_LIFETIME}
    payload = {"name": "playground"}
    if protocol == "0.x":
        header["typ"] = "JWT"
        claims["mercure"] = {"publish": ["*"], "subscribe": ["*"], "payload": payload}
    else:
        everything = {"type": DETAIL_TYPE, "topics": [{"match": "*"}]}
        claims |= {
            "iss": PLAYGROUND,
            "aud": url,
            "sub": "playground",
            "client_id": "playground",
            "jti": str(uuid.uuid4()),
            "authorization_details": [
                {**everything, "actions": ["publish"]},
                {**everything, "actions": ["subscribe"], "payload": payload},
            ],
        }
    assert isinstance(key.material, bytes)
    import jwt  # noqa: PLC0415 - only a playground signs tokens

    return jwt.encode(claims, key.material, "HS256", headers=header)
