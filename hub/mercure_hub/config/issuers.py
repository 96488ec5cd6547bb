"""Issuers of tokens as people configure them: keys of their own, JWK sets by file and by URL.

The settings (``mercure_hub.config.settings``) describe one issuer, ``[[issuer]]`` tables of the TOML file
describe more; their keys are here. A playground is an issuer too: it signs the tokens of its page.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from mercure_hub.key_files import load_key
from mercure_hub.protocol.errors import KeyMaterialError
from mercure_hub.protocol.hosts import is_loopback, is_numeric, is_public
from mercure_hub.protocol.tokens import jwk_set
from mercure_hub.protocol.tokens.claims import Role
from mercure_hub.protocol.tokens.issuer import Issuer, RemoteKeys
from mercure_hub.protocol.tokens.keys import ALGORITHMS, ASYMMETRIC, Key, generate_secret

if TYPE_CHECKING:  # it needs urlpattern, which the extension does not have
    from mercure_hub.protocol.hub_url import Identity

ALLOW = "allow_private (MERCURE_JWKS_ALLOW_PRIVATE)"

_ROLES: tuple[Role, ...] = ("publish", "subscribe")
_HOST = re.compile(r"[a-z0-9._~-]+|[0-9a-f:.]+")
_TARGET = re.compile(r"[!-~]*")  # characters of a request line

PLAYGROUND = "urn:mercure-playground"


class IssuerError(Exception):
    """An issuer cannot be used.

    :param name: the key of the table that is wrong.
    :param reason: what is wrong and what to do; never holds key material.
    """

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name}: {reason}")
        self.name = name
        self.reason = reason


@dataclass(frozen=True, slots=True)
class TableKey:
    """A key of an ``[[issuer]]`` table.

    :param name: as it is written.
    :param kind: of its value; ``tuple`` stands for a list of strings.
    :param form: what the value looks like.
    :param text: what it does.
    """

    name: str
    kind: type[str] | type[bool] | type[tuple[str, ...]]
    form: str
    text: str


_KEY_FORM = "secret, PEM text or @/path"
_NAMES = "list of names"

TABLE_KEYS: tuple[TableKey, ...] = (
    TableKey("identifier", str, "name or URL", "The iss of its tokens. Required."),
    TableKey("publisher_key", str, _KEY_FORM, "Key that verifies publishers' tokens."),
    TableKey(
        "publisher_alg", str, "names", "Algorithms of that key. Unset: as for MERCURE_PUBLISHER_JWT_ALG."
    ),
    TableKey(
        "subscriber_key", str, _KEY_FORM, "Key that verifies subscribers' tokens. Unset: publisher_key."
    ),
    TableKey("subscriber_alg", str, "names", "Algorithms of that key."),
    TableKey("jwks_file", str, "path", "File with a JWK set, read when the hub starts."),
    TableKey(
        "jwks_uri",
        str,
        "https URL",
        "URL of a JWK set: fetched when the hub starts, again before it ends (Cache-Control: max-age, "
        "between 5 minutes and a day), and for a kid that is not known (every 30 seconds at most).",
    ),
    TableKey(
        "allow_private", bool, "true or false", "The URL may lead into a private network or to this host."
    ),
    TableKey(
        "algorithms", tuple, _NAMES, "The only algorithms that its keys are used with. Unset: what fits."
    ),
    TableKey("roles", tuple, _NAMES, "publish, subscribe: whose tokens it may sign. Unset: both."),
    TableKey(
        "authorization_server",
        bool,
        "true or false",
        "Tell clients, in the hub's metadata, that they can get tokens there.",
    ),
)


def from_table(table: Mapping[str, object]) -> Issuer:
    """Read an ``[[issuer]]`` table.

    :raises IssuerError: it cannot be used.
    """
    values: dict[str, Any] = {entry.name: entry.kind() for entry in TABLE_KEYS}
    for name, value in table.items():
        entry = next((entry for entry in TABLE_KEYS if entry.name == name), None)
        if entry is None:
            known = ", ".join(entry.name for entry in TABLE_KEYS)
            raise IssuerError(name, f"there is no such key; known are {known}")
        values[name] = _value(entry, value)
    for role, name in (("publish", "publisher_key"), ("subscribe", "subscriber_key")):
        if values[name] and values["roles"] and role not in values["roles"]:
            raise IssuerError(name, f"is set, and roles does not hold {role!r}; correct one of the two")
    publisher, subscriber = values["publisher_key"], values["subscriber_key"]
    if publisher and not subscriber:
        subscriber = publisher
        values["subscriber_alg"] = values["subscriber_alg"] or values["publisher_alg"]
    return make_issuer(
        values["identifier"],
        _loaded("publisher_key", publisher, values["publisher_alg"]),
        _loaded("subscriber_key", subscriber, values["subscriber_alg"]),
        jwks_file=values["jwks_file"],
        jwks_uri=values["jwks_uri"],
        allow_private=values["allow_private"],
        algorithms=values["algorithms"],
        roles=values["roles"],
        authorization_server=values["authorization_server"],
    )


def make_issuer(
    identifier: str,
    publisher: Sequence[Key],
    subscriber: Sequence[Key],
    *,
    jwks_file: str = "",
    jwks_uri: str = "",
    allow_private: bool = False,
    algorithms: Sequence[str] = (),
    roles: Sequence[str] = (),
    authorization_server: bool = False,
) -> Issuer:
    """An issuer, checked. Parameters are named as the keys of the table.

    :raises IssuerError: it cannot be used.
    """
    if not identifier:
        raise IssuerError("identifier", "is missing; give the iss of the tokens")
    for name, given, known in (("algorithms", algorithms, ALGORITHMS), ("roles", roles, _ROLES)):
        for one in given:
            if one not in known:
                raise IssuerError(name, f"holds {one!r}; known are {', '.join(known)}")
    if not (publisher or subscriber or jwks_file or jwks_uri):
        raise IssuerError("identifier", "has no key; give it a publisher_key, jwks_file or jwks_uri")
    if authorization_server:
        _check_authorization_server(identifier)
    allowed_roles = tuple(role for role in _ROLES if not roles or role in roles)
    of_file = _load_jwks(jwks_file, algorithms or ALGORITHMS) if jwks_file else ()
    keys = {
        role: (*_restricted(own, name, algorithms), *of_file) if role in allowed_roles else ()
        for role, name, own in (
            ("publish", "publisher_key", publisher),
            ("subscribe", "subscriber_key", subscriber),
        )
    }
    remote = None
    if jwks_uri:
        asymmetric = tuple(name for name in algorithms or ASYMMETRIC if name in ASYMMETRIC)
        if not asymmetric:
            raise IssuerError(
                "algorithms", f"allow no key of jwks_uri, which holds no secrets; add {', '.join(ASYMMETRIC)}"
            )
        _check_uri(jwks_uri, allow_private=allow_private)
        # Now: when the set is fetched, the event loop would wait, and each worker take memory of its own.
        from mercure_hub.protocol.tokens import asymmetric as _  # noqa: F401, PLC0415 - see keys.py

        remote = RemoteKeys(jwks_uri, asymmetric, allowed_roles, allow_private)
    return Issuer(identifier, keys["publish"], keys["subscribe"], remote, authorization_server)


def _value(entry: TableKey, value: object) -> object:
    if entry.kind is tuple and isinstance(value, list) and all(isinstance(one, str) for one in value):
        return tuple(value)
    if entry.kind is tuple and isinstance(value, str):
        return tuple(value.split())
    if entry.kind is not tuple and type(value) is entry.kind:
        return value
    raise IssuerError(entry.name, f"is of type {type(value).__name__}; give: {entry.form}")


def _loaded(name: str, value: str, algorithm: str) -> tuple[Key, ...]:
    try:
        return (load_key(value, algorithm),) if value else ()
    except KeyMaterialError as error:
        raise IssuerError(name, str(error)) from None


def _restricted(keys: Sequence[Key], name: str, algorithms: Sequence[str]) -> list[Key]:
    restricted = []
    for key in keys:
        names = tuple(one for one in key.algorithms if not algorithms or one in algorithms)
        if not names:
            raise IssuerError(
                name, f"is used with {', '.join(key.algorithms)}, and algorithms holds none of these; add it"
            )
        restricted.append(Key(key.material, names, key.kid))
    return restricted


def _load_jwks(path: str, algorithms: Sequence[str]) -> tuple[Key, ...]:
    try:
        key_set = jwk_set.parse(Path(path).read_bytes(), algorithms, is_public=False)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "this is not a path"
        raise IssuerError("jwks_file", f"{path!r} cannot be read: {reason}") from None
    except KeyMaterialError as error:
        raise IssuerError("jwks_file", f"{path!r}: {error}") from None
    if key_set.refused:
        raise IssuerError("jwks_file", f"{path!r}: {key_set.refused[0]}; correct or remove that key")
    if not key_set.keys:
        raise IssuerError(
            "jwks_file", f"{path!r} holds no key that verifies tokens with {', '.join(algorithms)}"
        )
    return key_set.keys


def _check_authorization_server(identifier: str) -> None:
    try:
        parts = urlsplit(identifier)
        is_url = parts.scheme == "https" or (parts.scheme == "http" and _is_this_host(parts.hostname or ""))
    except ValueError:
        is_url = False
    if not is_url or not parts.netloc or "?" in identifier or "#" in identifier:
        raise IssuerError(
            "authorization_server",
            f"{identifier!r} is not an https URL without query and fragment (RFC 8414)",
        )


def _check_uri(uri: str, *, allow_private: bool) -> None:
    try:
        parts = urlsplit(uri)
        _ = parts.port
    except ValueError:
        raise IssuerError("jwks_uri", "is not a URL") from None
    host = parts.hostname or ""
    if parts.scheme not in ("http", "https") or not _HOST.fullmatch(host):
        raise IssuerError("jwks_uri", "is not a URL with https:// and a host")
    if "@" in parts.netloc or parts.fragment or not _TARGET.fullmatch(uri):
        raise IssuerError("jwks_uri", "has a user, a fragment or characters outside of ASCII; leave them out")
    if parts.scheme == "http" and not _is_this_host(host):
        raise IssuerError("jwks_uri", "is not https://, and what comes over plain HTTP cannot be trusted")
    if not allow_private and (_is_this_host(host) or (is_numeric(host) and not is_public(host))):
        raise IssuerError("jwks_uri", f"leads to a private address; permit it with {ALLOW}")


def _is_this_host(host: str) -> bool:
    return host == "localhost" or is_loopback(host)


@cache
def playground() -> Issuer:
    """The issuer of a playground's tokens; only this process has its key."""
    key = Key(generate_secret().encode(), ("HS256",), PLAYGROUND)
    return Issuer(PLAYGROUND, (key,), (key,), is_hub=True)


def is_local(identity: Identity) -> bool:
    """Whether a hub's URL leads to this machine."""
    host = identity.origin.partition("://")[2]
    name = host if host.endswith("]") else host.rpartition(":")[0] or host
    return _is_this_host(name.strip("[]"))


def reference() -> list[str]:
    """The part of the settings' reference on ``[[issuer]]`` tables, as lines of Markdown."""
    lines = [
        "",
        "## Several issuers",
        "",
        "The TOML file may hold `[[issuer]]` tables, one for each issuer of tokens. A token is verified",
        "only with the keys of the issuer that its `iss` names, and if its `kid` names one of them, only",
        "with that key. The issuer that the settings under Keys describe comes first, if they name a key.",
        "A token of 0.x without `iss` is verified as one of the first issuer, or of the only one that has a",
        "key with its `kid`. With several issuers, or with `jwks_uri`, the hub needs `MERCURE_PUBLIC_URL`:",
        "a token that they made for another service would be good here otherwise, since the client tells the",
        "hub's URL then (`Host`).",
        "",
        "```toml",
        'public_url = "https://example.com/.well-known/mercure"',
        "",
        "[[issuer]]",
        'identifier = "https://login.example.com/"',
        'jwks_uri = "https://login.example.com/.well-known/jwks.json"',
        'algorithms = ["RS256", "ES256"]',
        'roles = ["subscribe"]',
        "authorization_server = true",
        "",
        "[[issuer]]",
        'identifier = "urn:backend"',
        'publisher_key = "@/etc/mercure/backend.pem"',
        'roles = ["publish"]',
        "```",
        "",
        "| key | |",
        "|---|---|",
    ]
    return [*lines, *(f"| `{entry.name}` | {entry.text} *{entry.form}* |" for entry in TABLE_KEYS)]
