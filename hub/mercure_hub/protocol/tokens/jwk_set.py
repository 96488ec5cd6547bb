"""JWK sets: from JSON to keys, and how long a fetched one is good for (RFC 7517, RFC 7518, RFC 8037).

Others maintain these sets, so an entry that cannot be used does not spoil the rest: entries for another
purpose are skipped, broken or weak ones are listed in ``KeySet.refused``.
"""

from __future__ import annotations

import json
import re
from base64 import urlsafe_b64decode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mercure_hub.protocol.errors import KeyMaterialError, shown
from mercure_hub.protocol.tokens.keys import ALGORITHMS, Key, fitting

if TYPE_CHECKING:
    from mercure_hub.protocol.tokens.asymmetric import PublicKey

MAX_KEYS = 64
"""Entries in a set."""

_MAX_RSA_BITS = 8192  # the time to verify a signature grows with the square
_MAX_EXPONENT = 2**32
_MAX_KID = 256
_PRIVATE = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth"})
_BASE64URL = re.compile(r"[A-Za-z0-9_-]+")

_MIN_LIFETIME, _DEFAULT_LIFETIME, _MAX_LIFETIME = 300.0, 3600.0, 86400.0  # seconds
_MAX_AGE = re.compile(r'(?:^|,)\s*max-age\s*=\s*"?(\d+)"?\s*(?=,|$)', re.IGNORECASE | re.ASCII)
_DO_NOT_KEEP = re.compile(r"(?:^|,)\s*no-(?:store|cache)\s*(?=[,=]|$)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class KeySet:
    """The usable keys of a JWK set.

    :param keys: the public keys and secrets that verify tokens.
    :param refused: a line on each entry that was refused, without key material.
    """

    keys: tuple[Key, ...]
    refused: tuple[str, ...] = ()


class _NotForUs(Exception):
    """The entry has another purpose, or an unknown kind (RFC 7517 section 5)."""


def parse(text: bytes, allowed: Sequence[str], *, is_public: bool) -> KeySet:
    """Read a JWK set.

    Of a private key in a file only the public half is used, as of a PEM. In a set from a URL, secrets and
    private keys are refused: anybody can sign with what is published.

    :param text: the JSON document.
    :param allowed: algorithms that its keys may be used with.
    :param is_public: it comes from a URL.
    :raises KeyMaterialError: it is not a JWK set.
    """
    try:
        document = json.loads(text.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        raise KeyMaterialError("this is not JSON") from None
    entries = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(entries, list):
        hint = "; put the key in a set" if isinstance(document, dict) and "kty" in document else ""
        raise KeyMaterialError(f'this is not a JWK set such as {{"keys": [...]}}{hint}')
    if len(entries) > MAX_KEYS:
        raise KeyMaterialError(f"the set has {len(entries)} keys; the limit is {MAX_KEYS}")
    keys: list[Key] = []
    refused: list[str] = []
    for index, entry in enumerate(entries):
        try:
            keys.append(_key(entry, allowed, is_public=is_public))
        except _NotForUs:
            continue
        except KeyMaterialError as error:
            kid = entry.get("kid") if isinstance(entry, dict) else None
            refused.append(f"keys[{index}]{'' if kid is None else f' (kid {shown(kid)})'}: {error}")
    return KeySet(tuple(keys), tuple(refused))


def lifetime(cache_control: str, age: str = "") -> float:
    """Seconds for which a fetched set is valid: what the answer says, between 5 minutes and a day.

    :param cache_control: value of that header field; without ``max-age`` an hour.
    :param age: value of that header field.
    """
    if _DO_NOT_KEEP.search(cache_control):
        return _MIN_LIFETIME
    ages = [int(digits[:10]) for digits in _MAX_AGE.findall(cache_control)]
    if not ages:
        return _DEFAULT_LIFETIME
    passed = int(age[:10]) if age.isascii() and age.isdigit() else 0
    return min(max(_MIN_LIFETIME, min(ages) - passed), _MAX_LIFETIME)


def _key(entry: object, allowed: Sequence[str], *, is_public: bool) -> Key:
    if not isinstance(entry, dict):
        raise KeyMaterialError("this is not an object")
    kind, kid, algorithm = entry.get("kty"), entry.get("kid"), entry.get("alg")
    if kind not in ("RSA", "EC", "OKP", "oct") or not _is_for_signatures(entry):
        raise _NotForUs
    if algorithm is not None and algorithm not in ALGORITHMS:
        raise _NotForUs
    if kid is not None and not (isinstance(kid, str) and len(kid) <= _MAX_KID):
        raise KeyMaterialError(f"kid is not a string of at most {_MAX_KID} characters")
    if is_public and (kind == "oct" or _is_private(entry)):
        what = "secret" if kind == "oct" else "private key"
        raise KeyMaterialError(f"this is a {what}, which no URL may serve; anybody can sign with it now")
    material = _bytes_of(entry, "k") if kind == "oct" else _public_key(kind, entry)
    fits = fitting(material)
    if algorithm is not None:
        if algorithm not in fits:
            raise KeyMaterialError(f"alg is {shown(algorithm)}, and the key fits {', '.join(fits)}")
        fits = (algorithm,)
    names = tuple(name for name in fits if name in allowed)
    if not names:
        raise _NotForUs
    return Key(material, names, kid)


def _is_for_signatures(entry: Mapping[str, Any]) -> bool:
    """Whether ``use``, ``key_ops`` and the curve allow to verify signatures."""
    operations = entry.get("key_ops", ["verify"])
    if not isinstance(operations, list):
        raise KeyMaterialError("key_ops is not an array")
    wanted = "sign" if _is_private(entry) else "verify"  # of a private key we take the public half
    return (
        entry.get("use", "sig") == "sig"
        and (wanted in operations or "verify" in operations)
        and entry.get("crv") not in ("X25519", "X448")
    )


def _is_private(entry: Mapping[str, Any]) -> bool:
    return not _PRIVATE.isdisjoint(entry)


def _public_key(kind: str, entry: Mapping[str, Any]) -> PublicKey:
    from mercure_hub.protocol.tokens import asymmetric  # noqa: PLC0415 - see keys.py

    try:
        if kind == "RSA":
            return asymmetric.rsa_key(*_rsa_numbers(entry))
        curve = str(entry.get("crv"))
        if kind == "EC" and curve in asymmetric.EC_SIZES:
            size = asymmetric.EC_SIZES[curve]
            x, y = (int.from_bytes(_bytes_of(entry, name, size)) for name in ("x", "y"))
            return asymmetric.ec_key(curve, x, y)
        if kind == "OKP" and curve in asymmetric.OKP_SIZES:
            return asymmetric.okp_key(curve, _bytes_of(entry, "x", asymmetric.OKP_SIZES[curve]))
    except (ValueError, TypeError):
        raise KeyMaterialError("its numbers are not those of a key") from None
    raise _NotForUs  # a curve that we do not know


def _rsa_numbers(entry: Mapping[str, Any]) -> tuple[int, int]:
    modulus, exponent = (int.from_bytes(_bytes_of(entry, name)) for name in ("n", "e"))
    if modulus.bit_length() > _MAX_RSA_BITS:
        raise KeyMaterialError(f"the RSA key has {modulus.bit_length()} bits; the limit is {_MAX_RSA_BITS}")
    if exponent > _MAX_EXPONENT:
        raise KeyMaterialError(f"the exponent of the RSA key is over {_MAX_EXPONENT}")
    return modulus, exponent


def _bytes_of(entry: Mapping[str, Any], name: str, size: int | None = None) -> bytes:
    value = entry.get(name)
    if not isinstance(value, str) or not _BASE64URL.fullmatch(value) or len(value) % 4 == 1:
        raise KeyMaterialError(f"{name} is missing or not base64url")
    decoded = urlsafe_b64decode(value + "==")
    if size is not None and len(decoded) != size:
        raise KeyMaterialError(f"{name} has {len(decoded)} bytes instead of {size}")
    return decoded
