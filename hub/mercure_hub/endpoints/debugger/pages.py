"""The files of the debugger.

The page holds no token and no data, so it may be seen by everybody; what it shows it gets like any other
client. Its files are named by a hash of their content and kept by browsers for a year.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from hashlib import blake2b
from html import escape
from importlib.resources import files

from mercure_hub.endpoints.request import Request
from mercure_hub.protocol.errors import NotFound
from mercure_hub.protocol.http import Answer, Headers
from mercure_hub.protocol.identity import Identity

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

    :param features: what the page has to know of the hub: values for ``data-`` attributes by their names.
    :param token_for: a token for whoever opens the page, in a playground.
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
                octets = one.read_bytes()
                self._files[one.name] = octets, type_
                content.update(b"%b\0%d\0%b" % (one.name.encode(), len(octets), octets))
        self._version = content.hexdigest()

    def serve(self, request: Request, below: str) -> Answer:
        """Answer a request.

        :param below: the path below that of the debugger, empty for the debugger without slash.
        :raises NotFound: there is no such file.
        """
        if not below:
            return Answer(308, b"", [("Location", _place(request.identity))])
        if below == "/":
            return self._index(request)
        version, _, name = below[1:].partition("/")
        found = self._files.get(name)
        if version != self._version or found is None:
            raise NotFound("The debugger has no such file.")
        octets, type_ = found
        return Answer(
            200,
            octets,
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
        page = self._page.replace("{files}", escape(_place(request.identity) + self._version))
        page = page.replace("{attributes}", attributes)
        return Answer(
            200,
            page.encode(),
            [("Content-Type", "text/html; charset=utf-8"), ("Cache-Control", "no-store"), *_HEADERS],
        )


def _place(identity: Identity) -> str:
    return f"{identity.path.rstrip('/')}{PATH}/"


def features(*, subscriptions: bool, protocol: str, anonymous: bool, playground: bool) -> dict[str, str]:
    """What the page has to know of a hub. All of it can also be found out by asking."""
    return {
        "subscriptions": json.dumps(subscriptions),
        "protocol": protocol,
        "anonymous": json.dumps(anonymous),
        "playground": json.dumps(playground),
    }
