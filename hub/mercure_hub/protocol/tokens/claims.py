"""What header and claims of a token are called, and what a token says before its signature is verified."""

from __future__ import annotations

import json
import math
import re
from binascii import a2b_base64, b2a_base64
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Literal, NamedTuple

from mercure_hub.protocol.errors import Section, TokenInvalid

Protocol = Literal["both", "1.0", "0.x"]
"""Generations of the protocol that a hub speaks."""

Role = Literal["publish", "subscribe"]

HOLDERS: Mapping[Role, str] = {"publish": "publisher", "subscribe": "subscriber"}
"""Who has tokens of a role."""

TOKEN_TYPE = "at+jwt"  # noqa: S105 - a media type
"""Type of the tokens of protocol 1.0 (RFC 9068 section 2.1)."""

DETAILS = "authorization_details"
"""Claim of protocol 1.0 that says what a token allows (RFC 9396)."""

DETAIL_TYPE = "https://mercure.rocks/authorization-detail"
"""``type`` of the entries of ``authorization_details`` that are for a hub."""

REVOCATION_TYPE = "urn:flask-mercure:revocation"
"""``type`` of an entry of ``authorization_details`` with the action ``revoke``: an extension of this hub."""

REVOKE = "revoke"
"""That action, and the member of the ``mercure`` claim of 0.x that stands for it."""

REVOCABLE = ("sub", "sid", "jti")
"""Claims by which tokens are revoked: the user, the session (OpenID Connect), the token itself."""

OLD_CLAIM, OLD_NAMESPACED_CLAIM = "mercure", "https://mercure.rocks/"
"""Claims of 0.x that say what a token allows."""

_MAX_SHARED = 256  # characters of a header that many tokens have

_COMPACT = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.[A-Za-z0-9_-]*")


class Unverified(NamedTuple):
    """What a token says of itself, good only for choosing the key and the rules.

    :param header: of the token.
    :param claims: of the token.
    """

    header: Mapping[str, Any]
    claims: Mapping[str, Any]


def unverified(token: str) -> Unverified:
    """Read a token whose signature is not verified.

    :param token: compact serialization (RFC 7515 section 7.1).
    :raises TokenInvalid: it cannot be read.
    """
    match = _COMPACT.fullmatch(token)  # PyJWT allows padding, and older ones any other character
    if match is None:
        raise TokenInvalid("this is not a JWT in compact serialization", Section.TOKEN_MALFORMED)
    header = match[1]
    read = _header(header) if len(header) <= _MAX_SHARED else _json_object(header, "header")
    return Unverified(read, _json_object(match[2], "payload"))


@lru_cache(maxsize=64)  # tokens of one issuer have the same header, which is no secret
def _header(segment: str) -> Mapping[str, Any]:
    return _json_object(segment, "header")


def _json_object(segment: str, name: str) -> Mapping[str, Any]:
    try:
        text = decoded(segment).decode()
        value, end = _JSON.raw_decode(text) if text.startswith("{") else (None, 0)
        if end != len(text):  # there is white space around it, or more
            value = _JSON.decode(text)
    except (ValueError, RecursionError):
        raise TokenInvalid(
            f"the {name} of the token is not JSON that can be read", Section.TOKEN_MALFORMED
        ) from None
    if not isinstance(value, dict):
        raise TokenInvalid(f"the {name} of the token is not a JSON object", Section.TOKEN_MALFORMED)
    return value


def _finite(number: str) -> float:
    """Refuse ``NaN`` and ``1e999``: a payload that holds one could not leave as JSON."""
    value = float(number)
    if not math.isfinite(value):
        raise ValueError(number)
    return value


_JSON = json.JSONDecoder(parse_constant=_finite, parse_float=_finite)


def is_access_token(header: Mapping[str, Any]) -> bool:
    """Whether the type of a token is that of protocol 1.0, in any case (RFC 9068 section 4)."""
    typ = header.get("typ")
    return isinstance(typ, str) and typ.lower().removeprefix("application/") == TOKEN_TYPE


def decoded(segment: str) -> bytes:
    """A part of a token.

    :param segment: base64url without padding (RFC 7515 section 2).
    :raises ValueError: it is not, or the bits that stand for nothing are not zero.
    """
    if "+" in segment or "/" in segment:  # of the other alphabet
        raise ValueError("this is not base64url")
    ordinary = segment.replace("-", "+").replace("_", "/")
    value = a2b_base64(ordinary + "==")
    if b2a_base64(value, newline=False).rstrip(b"=") != ordinary.encode():
        raise ValueError("this is not base64url")
    return value
