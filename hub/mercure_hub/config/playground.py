"""The playground: a hub for trying things out, that opens to whoever reaches it, so only to this machine."""

from __future__ import annotations

import uuid
from collections.abc import Collection
from functools import cache
from typing import Any

import jwt

from mercure_hub.protocol.access_token import TOKEN_TYPE, Protocol
from mercure_hub.protocol.addresses import is_loopback
from mercure_hub.protocol.authorization_details import DETAIL_TYPE
from mercure_hub.protocol.identity import Identity
from mercure_hub.protocol.issuer import Issuer
from mercure_hub.protocol.keys import Key, generate_secret

IDENTIFIER = "urn:mercure-playground"

_LIFETIME = 12 * 3600
_ORIGINS = ("http://localhost:*", "http://127.0.0.1:*", "http://[::1]:*")
DEFAULTS: dict[str, Any] = {
    "anonymous": True,
    "subscriptions": True,
    "debugger": True,
    "cors_origins": _ORIGINS,
    "publish_origins": _ORIGINS,
}


def fill(values: dict[str, Any], given: Collection[str]) -> None:
    """Switch on what a playground has.

    :param values: of the settings, by name.
    :param given: names of those that somebody has set.
    :raises ValueError: the playground would be for more than this machine; its text names the setting.
    """
    public: Identity | None = values["public_url"]
    if values["trusted_proxies"]:
        raise ValueError("trusted_proxies")
    if public is not None and not is_local(public):
        raise ValueError("public_url")
    values |= {name: value for name, value in DEFAULTS.items() if name not in given}


def is_local(identity: Identity) -> bool:
    """Whether a hub's URL leads to this machine."""
    host = identity.origin.partition("://")[2]
    name = host if host.endswith("]") else host.rpartition(":")[0] or host
    return name == "localhost" or is_loopback(name.strip("[]"))


@cache
def issuer() -> Issuer:
    """Who signs the tokens of the page: with a key that this process makes and nobody else has."""
    key = Key(generate_secret().encode(), ("HS256",), IDENTIFIER)
    return Issuer(IDENTIFIER, (key,), (key,), is_hub=True)


def token(url: str, now: float, protocol: Protocol) -> str:
    """A token that allows everything, for half a day.

    :param url: the hub's.
    :param now: seconds since the epoch.
    """
    (key,) = issuer().publish
    header = {"typ": TOKEN_TYPE, "kid": IDENTIFIER}
    claims: dict[str, Any] = {"iat": int(now), "exp": int(now) + _LIFETIME}
    if protocol == "0.x":
        header["typ"] = "JWT"
        claims["mercure"] = {"publish": ["*"], "subscribe": ["*"], "payload": {"name": "playground"}}
    else:
        claims |= {
            "iss": IDENTIFIER,
            "aud": url,
            "sub": "playground",
            "client_id": "playground",
            "jti": str(uuid.uuid4()),
            "authorization_details": [
                {"type": DETAIL_TYPE, "actions": ["publish"], "topics": [{"match": "*"}]},
                {
                    "type": DETAIL_TYPE,
                    "actions": ["subscribe"],
                    "topics": [{"match": "*"}],
                    "payload": {"name": "playground"},
                },
            ],
        }
    assert isinstance(key.material, bytes)
    return jwt.encode(claims, key.material, "HS256", headers=header)
