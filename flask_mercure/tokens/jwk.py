"""Signing keys given as JWK or JWK set (RFC 7517): the key, and its name for the header of tokens."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from jwt import PyJWK
from jwt.exceptions import PyJWTError

from mercure_hub.protocol import keys
from mercure_hub.protocol.errors import KeyMaterialError
from mercure_hub.protocol.keys import Key, PrivateKey, PublicKey

Purpose = Literal["sign", "verify"]


def load(
    value: str, algorithm: str, *, purpose: Purpose, passphrase: str | None = None, kid: str | None = None
) -> Key:
    """Read a key in any form: a secret, a PEM, a JWK, a JWK set, or ``@`` and the path of a file with one.

    :param value: the text that is configured.
    :param algorithm: JWA names separated by spaces; empty: what fits the key.
    :param purpose: ``sign`` needs a secret or a private key.
    :param passphrase: of an encrypted PEM.
    :param kid: the name that the hub knows the key by; of a set, the key that has it is taken.
    :raises KeyMaterialError: with the reason and the remedy; never with key material.
    """
    document = _document(value)
    if document is None:
        key = keys.load(value, algorithm, exists=os.path.exists, purpose=purpose, passphrase=passphrase)
        return Key(key.material, key.algorithms, kid)
    members = document.get("keys", [document])
    if not isinstance(members, list) or not all(isinstance(one, Mapping) for one in members):
        raise KeyMaterialError("the JWK set is broken: its member 'keys' is no list of objects")
    chosen = [one for one in members if _is_meant(one, algorithm.split(), purpose, kid)]
    if not chosen:
        found = ", ".join(_shown(one) for one in members) or "nothing"
        wanted = "a secret or private key to sign with" if purpose == "sign" else "a key"
        named = f" with the kid {kid!r}" if kid else ""
        raise KeyMaterialError(f"the JWK set has no {wanted.partition(' ')[2]}{named}; it has {found}")
    return _key(chosen[0], algorithm, kid)


def _document(value: str) -> Mapping[str, Any] | None:
    """The JSON object, or ``None`` when the value is a secret or a PEM."""
    text = value
    if value.startswith("@"):
        try:
            text = Path(value[1:]).read_text(encoding="utf-8")
        except (OSError, ValueError):
            return None  # keys.load says why
    if not text.lstrip().startswith("{"):
        return None
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return None
    known = isinstance(document, dict) and ("kty" in document or "keys" in document)
    return document if known else None


def _is_meant(jwk: Mapping[str, Any], algorithms: list[str], purpose: Purpose, kid: str | None) -> bool:
    """Whether the entry is for signing, and the one that is asked for (RFC 7517 sections 4.2 to 4.5)."""
    operations = jwk.get("key_ops")
    return (
        (kid is None or jwk.get("kid") == kid)
        and jwk.get("use", "sig") == "sig"
        and (not isinstance(operations, list) or bool({"sign", "verify"} & set(map(str, operations))))
        and (not algorithms or jwk.get("alg", algorithms[0]) in algorithms)
        and (purpose == "verify" or jwk.get("kty") == "oct" or "d" in jwk)
    )


def _key(jwk: Mapping[str, Any], algorithm: str, kid: str | None) -> Key:
    try:
        material = PyJWK(dict(jwk), algorithm=algorithm.partition(" ")[0] or None).key
    except (PyJWTError, ValueError, TypeError, KeyError):
        raise KeyMaterialError(
            f"the JWK ({_shown(jwk)}) cannot be read: a member is missing or wrong"
        ) from None
    if not isinstance(material, bytes | PrivateKey | PublicKey):
        raise KeyMaterialError(f"the JWK ({_shown(jwk)}) cannot sign tokens")
    fits = keys.fitting(material)
    asked = algorithm.split() or [one for one in (jwk.get("alg"),) if isinstance(one, str)]
    for name in asked:
        if name not in fits:
            raise KeyMaterialError(f"the JWK does not fit {name}; it fits {', '.join(fits)}")
    named = jwk.get("kid") if kid is None else kid
    return Key(material, tuple(asked) or fits[:1], named if isinstance(named, str) and named else None)


def _shown(jwk: Mapping[str, Any]) -> str:
    """What may be shown of a key."""
    private = "private " if "d" in jwk else ""
    return f"{private}{str(jwk.get('kty'))[:10]!r}, kid {str(jwk.get('kid'))[:80]!r}"
