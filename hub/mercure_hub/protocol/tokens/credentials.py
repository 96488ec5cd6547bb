"""Finds the access token in a request (spec, Presenting the Access Token)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from mercure_hub.protocol.errors import TokenMalformed
from mercure_hub.protocol.http import Pairs

COOKIE, OLD_COOKIE = "__Secure-mercure_access_token", "mercureAuthorization"
"""Default names of the cookie, in protocol 1.0 and in 0.x."""

OLD_PARAMETER = "authorization"

_USUAL = re.compile(r"[Bb]earer ([A-Za-z0-9\-._~+/]+=*)")
_BEARER = re.compile(r"bearer(?: +(.*))?", re.IGNORECASE | re.DOTALL)
_B64TOKEN = re.compile(r"[A-Za-z0-9\-._~+/]+=*")


@dataclass(frozen=True, slots=True)
class Credential:
    """A token as it was presented.

    :param token: the compact serialization, not yet verified.
    :param source: where it was; a cookie needs protection against cross-site requests.
    """

    token: str
    source: Literal["header", "query", "cookie"]

    def __repr__(self) -> str:
        return f"Credential(source={self.source!r})"


def find(
    authorization: Sequence[str],
    cookies: Mapping[str, str],
    query: Pairs,
    *,
    cookie_names: Sequence[str],
    from_query: bool,
) -> Credential | None:
    """Find the token: header before query before cookie.

    :param authorization: values of the ``Authorization`` header fields. Schemes other than ``Bearer`` are
        ignored: they are for others, such as a proxy.
    :param cookies: of the request.
    :param query: parameters of the query component.
    :param cookie_names: names to look for, the first one found is used.
    :param from_query: accept the ``authorization`` parameter of 0.x.
    :raises TokenMalformed: the header announces a bearer token that cannot be read.
    """
    usual = _USUAL.fullmatch(authorization[0]) if len(authorization) == 1 else None
    if usual is not None:
        return Credential(usual[1], "header")
    bearers = [match for match in map(_BEARER.fullmatch, authorization) if match]
    if len(bearers) > 1:
        raise TokenMalformed("the request has several bearer tokens")
    if bearers:
        token = (bearers[0][1] or "").strip(" \t")
        if not _B64TOKEN.fullmatch(token):
            raise TokenMalformed("the Authorization header has no readable token after Bearer")
        return Credential(token, "header")
    if from_query:
        for name, value in query:
            if name == OLD_PARAMETER and value:
                return Credential(value, "query")
    for name in cookie_names:
        if cookies.get(name):
            return Credential(cookies[name], "cookie")
    return None


def parse_cookies(header: str) -> dict[str, str]:
    """Read a ``Cookie`` header (RFC 6265 section 4.2); the first value of a repeated name counts."""
    cookies: dict[str, str] = {}
    for part in header.split(";"):
        name, equals, value = part.partition("=")
        if equals:
            cookies.setdefault(name.strip(), value.strip().strip('"'))
    return cookies
