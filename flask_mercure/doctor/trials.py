"""Why a token is refused: others are tried, each of them different in one respect, until one is admitted."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

import jwt

from flask_mercure.configuration.settings import DEFAULT_ISSUER, Configuration
from flask_mercure.doctor.addresses import Profile
from flask_mercure.tokens import TOKEN_TYPE, TokenFactory
from flask_mercure.topics import Protocol
from mercure_hub.protocol.errors import KeyMaterialError
from mercure_hub.protocol.tokens.keys import ALGORITHMS, Key, PrivateKey

Role = Literal["publish", "subscribe"]

HOLDERS: Mapping[Role, str] = {"publish": "publisher", "subscribe": "subscriber"}
OTHER: Mapping[Role, Role] = {"publish": "subscribe", "subscribe": "publish"}


class Cause(StrEnum):
    """What differs between app and hub."""

    AUDIENCE = "audience"
    ISSUER = "issuer"
    BOTH = "audience and issuer"
    GENERATION = "generation"
    ROLE = "key of the other role"
    ALGORITHM = "algorithm"
    SPACE = "white space"


@dataclass(frozen=True, slots=True)
class Trial:
    """A token that differs from the app's in one respect.

    :param cause: in which.
    :param value: what it has there; empty where that is secret.
    :param token: compact serialization.
    """

    cause: Cause
    value: str
    token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Claims:
    """What can be said of the app's own token without its key.

    :param algorithm: ``alg``.
    :param type: ``typ``.
    :param issuer: ``iss``.
    :param audience: ``aud``.
    :param is_current: it is one of protocol 1.0.
    """

    algorithm: str
    type: str
    issuer: str | None
    audience: tuple[str, ...]
    is_current: bool


def claims_of(token: str) -> Claims:
    """Read a token of the app, without verification.

    :raises jwt.PyJWTError: it is none.
    """
    header = jwt.get_unverified_header(token)
    claims: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    audience = claims.get("aud", [])
    found = audience if isinstance(audience, list) else [audience]
    issuer, kind = claims.get("iss"), str(header.get("typ", ""))
    return Claims(
        str(header.get("alg")),
        kind,
        issuer if isinstance(issuer, str) else None,
        tuple(one for one in found if isinstance(one, str)),
        "authorization_details" in claims or kind.lower().removeprefix("application/") == TOKEN_TYPE,
    )


def trials(read: Configuration, role: Role, topic: str, known: Profile | None) -> Iterator[Trial]:
    """The tokens to try, those first that leave no doubt.

    :param read: the app's configuration; with a factory of the app's own there may be no key to sign with.
    :param role: whose token was refused.
    :param topic: that the tokens name.
    :param known: the hub's metadata.
    """
    key = key_of(read, role)
    if key is None or not signs(key):
        return
    own = (read.public_url, read.url)
    wide = tuple(dict.fromkeys((*own, *_resources(read, known))))

    def made(cause: Cause, value: str, **changes: Any) -> Trial:
        return Trial(cause, value, _token(read, role, topic, changes))

    if read.protocol == "1.0":
        for resource in wide[len(dict.fromkeys(own)) :]:
            yield made(Cause.AUDIENCE, resource, audience=[resource])
        for issuer in _issuers(read, known):
            yield made(Cause.ISSUER, issuer, issuer=issuer)
            yield made(Cause.BOTH, issuer, issuer=issuer, audience=wide)
    other: Protocol = "0.x" if read.protocol == "1.0" else "1.0"
    yield made(Cause.GENERATION, other, protocol=other, audience=wide)
    swapped = key_of(read, OTHER[role])
    if signs(swapped) and swapped is not key:
        yield made(Cause.ROLE, "", key=swapped, audience=wide)
    for name in _algorithms(key):
        yield made(Cause.ALGORITHM, name, key=Key(key.material, (name,)), audience=wide)
    for material in _trimmed(key):
        yield made(Cause.SPACE, "", key=Key(material, key.algorithms), audience=wide)


def old_token(read: Configuration, role: Role, topic: str) -> str | None:
    """A token of protocol 0.x, which has neither issuer nor audience."""
    return _token(read, role, topic, {"protocol": "0.x"}) if signs(key_of(read, role)) else None


def key_of(read: Configuration, role: Role) -> Key | None:
    """The key that the app makes a role's tokens with, if it has one."""
    if role == "subscribe":
        return read.subscriber_key
    return read.publisher_key if is_made(read) else None


def is_made(read: Configuration) -> bool:
    """Whether the app makes the token it publishes with, and is not given it."""
    return read.publisher_tokens.origin == "the token factory"


def signs(key: Key | None) -> bool:
    """Whether a key is there, and can sign."""
    return key is not None and isinstance(key.material, bytes | PrivateKey)


def _token(read: Configuration, role: Role, topic: str, changes: Mapping[str, Any]) -> str:
    key = changes.get("key") or key_of(read, role)
    factory = TokenFactory(
        issuer=changes.get("issuer", read.issuer),
        audience=changes.get("audience", (read.public_url, read.url)),
        publisher_key=key,
        subscriber_key=key,
        protocol=changes.get("protocol", read.protocol),
        lifetime=read.lifetime,
    )
    with _tolerant():
        return factory.create(publish=[topic]) if role == "publish" else factory.create(subscribe=[topic])


@contextmanager
def _tolerant() -> Iterator[None]:
    """A secret that is short for an algorithm is tried with it: another hub may have it so."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _resources(read: Configuration, known: Profile | None) -> list[str]:
    """What the hub may take itself for: what it says; else what it would derive behind a proxy."""
    if known is not None and known.resource is not None:
        return [known.resource]
    swapped = {"http": "https", "https": "http"}
    return [
        f"{swapped[scheme]}://{rest}"
        for scheme, _, rest in (url.partition("://") for url in dict.fromkeys((read.public_url, read.url)))
    ]


def _issuers(read: Configuration, known: Profile | None) -> list[str]:
    origin = "/".join(read.public_url.split("/", 3)[:3])
    candidates = (*(() if known is None else known.issuers), DEFAULT_ISSUER, read.public_url, origin)
    return [one for one in dict.fromkeys(candidates) if one != read.issuer]


def _algorithms(key: Key) -> list[str]:
    """The other algorithms that a key can be used with."""
    fitting = []
    for name in ALGORITHMS:
        if name in key.algorithms[:1]:
            continue
        try:
            with _tolerant():
                jwt.encode({}, key.material, name)  # type: ignore[arg-type]
        except (jwt.PyJWTError, ValueError, TypeError, KeyMaterialError):
            continue
        fitting.append(name)
    return fitting


def _trimmed(key: Key) -> list[bytes]:
    if not isinstance(key.material, bytes):
        return []
    plain = key.material.strip()
    return [one for one in dict.fromkeys((plain, plain + b"\n")) if one != key.material]
