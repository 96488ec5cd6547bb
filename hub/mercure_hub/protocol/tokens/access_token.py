"""Validation of access tokens, of both generations of the protocol (spec, Authorization).

A token of the type ``at+jwt``, or with an ``authorization_details`` claim, gets the whole validation of the
spec; no setting weakens it. Any other token is read as one of 0.x, if that is enabled.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any

from mercure_hub.protocol.errors import Section, TokenInvalid, shown
from mercure_hub.protocol.revocation import MAX_AHEAD
from mercure_hub.protocol.tokens.claims import (
    DETAILS,
    HOLDERS,
    TOKEN_TYPE,
    Protocol,
    Role,
    Unverified,
    is_access_token,
    unverified,
)
from mercure_hub.protocol.tokens.grant import Grant, grant_of, old_grant_of
from mercure_hub.protocol.tokens.issuer import Issuer
from mercure_hub.protocol.tokens.keys import Key

_MAX_LENGTH = 16384
_MAX_TIME = 2**53
UNSIGNED = "no key of this hub has signed the token"

_Verified = tuple[Grant, float]  # and nbf


class TokenVerifier:
    """Checks tokens against the trusted keys, and remembers those it has checked.

    :param issuers: the trusted issuers. A 0.x token is verified with the keys of the issuer that its ``iss``
        names, if there are several; without ``iss``, of the only issuer that has a key of its ``kid``; else
        of the first one.
    :param protocol: which generations of tokens are accepted.
    :param remembered: how many verified tokens to remember.
    :param knows_its_url: the hub's URL is configured, not derived from the request. Then a 0.x token with an
        ``aud`` must be for this hub (RFC 7519 section 4.1.3).
    :param tells_apart: grants get the hash of their token, which takes memory of each subscriber.
    """

    def __init__(
        self,
        issuers: Sequence[Issuer],
        protocol: Protocol = "both",
        remembered: int = 1024,
        *,
        knows_its_url: bool = False,
        tells_apart: bool = True,
    ) -> None:
        self._issuers = {issuer.identifier: issuer for issuer in issuers}
        self._first = issuers[0].identifier
        self._protocol = protocol
        self._knows_its_url = knows_its_url
        self._tells_apart = tells_apart
        self._remembered = remembered
        self._verified: OrderedDict[tuple[bytes, Role, str], _Verified] = OrderedDict()

    def verify(self, token: str, role: Role, resource: str, now: float) -> Grant:
        """Validate a token.

        :param token: compact serialization, as the client presented it.
        :param role: of the client; it selects the keys.
        :param resource: the hub's resource identifier, to be found in ``aud``.
        :param now: seconds since the epoch.
        :raises KeyUnknown: the issuer may have new keys; fetch them and try again.
        :raises TokenInvalid: with the precise cause, for the log.
        """
        fingerprint = blake2b(token.encode("utf-8", "replace"), digest_size=16).digest()
        memo = fingerprint, role, resource
        known = self._verified.get(memo)
        if known is not None:
            grant, not_before = known
            _check_time(grant.expires_at, not_before, now)
            self._verified.move_to_end(memo)
            return grant
        verified = self._verified[memo] = self._validate(token, role, resource, now, fingerprint)
        if len(self._verified) > self._remembered:
            self._verified.popitem(last=False)
        return verified[0]

    def read(self, token: str) -> Unverified | None:
        """What a token says, verified or not; ``None`` when it cannot be read."""
        try:
            return unverified(token) if len(token) <= _MAX_LENGTH else None
        except TokenInvalid:
            return None

    def is_signed(self, token: str) -> bool:
        """Whether a trusted key of any issuer has signed a token, whatever its claims."""
        read = self.read(token)
        roles: tuple[Role, ...] = ("publish", "subscribe")
        return read is not None and any(
            issuer.has_signed(token, read.header, role) for issuer in self._issuers.values() for role in roles
        )

    def trusts(self, key: Key, role: Role) -> bool:
        """Whether a key is still trusted, with all its algorithms."""
        for issuer in self._issuers.values():
            if key in issuer.keys(role):
                return True
        return any(
            own.material == key.material and own.kid == key.kid and set(key.algorithms) <= set(own.algorithms)
            for issuer in self._issuers.values()
            for own in issuer.keys(role)
        )

    def trust(self, issuer: Issuer) -> None:
        """Replace the keys of an issuer, and forget tokens that were verified with keys it no longer has."""
        self._issuers[issuer.identifier] = issuer
        for memo, (grant, _) in list(self._verified.items()):
            if grant.issuer == issuer.identifier and grant.key not in issuer.keys(memo[1]):
                del self._verified[memo]

    def trust_only(self, issuers: Sequence[Issuer]) -> None:
        """Trust these issuers from now on, and no other.

        :param issuers: as for a new verifier.
        """
        self._issuers = {issuer.identifier: issuer for issuer in issuers}
        self._first = issuers[0].identifier
        self._verified.clear()

    def _validate(self, token: str, role: Role, resource: str, now: float, fingerprint: bytes) -> _Verified:
        if len(token) > _MAX_LENGTH:
            cause = f"the token has {len(token)} characters; the limit is {_MAX_LENGTH}"
            raise TokenInvalid(cause, Section.TOKEN_MALFORMED)
        header, claims = unverified(token)
        is_typed = is_access_token(header)
        current = is_typed or DETAILS in claims
        if current and self._protocol == "0.x":
            raise TokenInvalid(
                "this is a token of protocol 1.0 and the hub has MERCURE_PROTOCOL=0.x", Section.GENERATION
            )
        if not current and self._protocol == "1.0":
            raise TokenInvalid(
                f"typ is {shown(header.get('typ'))}, it must be {TOKEN_TYPE!r} "
                "(a 0.x token needs MERCURE_PROTOCOL=both)",
                Section.GENERATION,
            )
        issuer = self._trusted_issuer(claims) if current else self._issuer_of_old(header, claims, role)
        key = issuer.signer(token, header, role)
        expires_at = _time(claims, "exp")
        not_before = _time(claims, "nbf") or 0.0
        _check_time(expires_at, not_before, now)
        if current:
            if not is_typed:
                raise TokenInvalid(
                    f"typ is {shown(header.get('typ'))}, it must be {TOKEN_TYPE!r}", Section.GENERATION
                )
            if expires_at is None:
                raise TokenInvalid("the exp claim is missing", Section.TOKEN_CLAIMS)
            _check_audience(claims.get("aud"), resource)
            grant = grant_of(claims.get(DETAILS, []), resource)
        else:
            if self._knows_its_url and "aud" in claims:
                _check_audience(claims["aud"], resource)
            grant = old_grant_of(claims, resource)
        grant.expires_at = expires_at
        grant.fingerprint = fingerprint if self._tells_apart else b""
        grant.key = key
        grant.issuer = issuer.identifier
        grant.issued_at = _issued_at(claims, now)
        grant.sub, grant.sid, grant.jti = _text(claims, "sub"), _text(claims, "sid"), _text(claims, "jti")
        return grant, not_before

    def _trusted_issuer(self, claims: Mapping[str, Any]) -> Issuer:
        identifier = claims.get("iss")
        issuer = self._issuers.get(identifier) if isinstance(identifier, str) else None
        if issuer is None:
            trusted = ", ".join(map(repr, self._issuers))
            raise TokenInvalid(
                f"iss is {shown(identifier)}; trusted is {trusted} (MERCURE_ISSUER)", Section.ISSUER
            )
        return issuer

    def _issuer_of_old(self, header: Mapping[str, Any], claims: Mapping[str, Any], role: Role) -> Issuer:
        # Applications make 0.x tokens with any JWT library, so iss can be anything.
        if "iss" in claims and sum(not issuer.is_hub for issuer in self._issuers.values()) > 1:
            return self._trusted_issuer(claims)
        kid = header.get("kid")
        issuers = [
            issuer
            for issuer in self._issuers.values()
            if kid is not None and any(key.kid == kid for key in issuer.keys(role))
        ]
        return issuers[0] if len(issuers) == 1 else self._issuers[self._first]


def _issued_at(claims: Mapping[str, Any], now: float) -> float:
    """When a token was made. One whose ``iat`` cannot be a time of the past counts as old: nobody can tell.

    Milliseconds, for example: no revocation would be late enough for them.
    """
    value = claims.get("iat")
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= now + MAX_AHEAD:
        return float(value)
    return 0.0


def _text(claims: Mapping[str, Any], name: str) -> str:
    """The claim as a revocation names it: some libraries write ids as numbers."""
    value = claims.get(name)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value if isinstance(value, str) else ""


def _time(claims: Mapping[str, Any], name: str) -> float | None:
    value = claims.get(name)
    if value is None and name not in claims:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TokenInvalid(f"{name} is {shown(value)}, not a number", Section.TOKEN_CLAIMS)
    return float(max(-_MAX_TIME, min(value, _MAX_TIME)))


def _check_time(expires_at: float | None, not_before: float, now: float) -> None:
    if expires_at is not None and expires_at <= now:
        raise TokenInvalid(f"the token expired {now - expires_at:.0f} s ago", Section.TOKEN_EXPIRED)
    if not_before > now:
        raise TokenInvalid(
            f"the token is not valid before {not_before - now:.0f} s from now; compare the clocks",
            Section.TOKEN_NOT_YET_VALID,
        )


def _check_audience(audience: object, resource: str) -> None:
    audiences = audience if isinstance(audience, list) else [audience]
    if resource in audiences:
        return
    hint = ""
    if any(
        isinstance(one, str) and one.partition("://")[2] == resource.partition("://")[2] for one in audiences
    ):
        hint = "; behind a proxy that ends TLS set MERCURE_PUBLIC_URL, or MERCURE_TRUSTED_PROXIES"
    raise TokenInvalid(
        f"aud is {shown(audience)}; this hub is {resource!r} (MERCURE_PUBLIC_URL){hint}", Section.AUDIENCE
    )


def public_cause(error: TokenInvalid, role: Role, token: Unverified | None, *, is_signed: bool) -> str:
    """The cause of a refusal in words for the client.

    The cause in the log may reveal the hub's configuration: trusted issuers, keys, algorithms. Details are
    shown only to holders of a token signed by a trusted key. The others are told what their token itself
    says, and that no key has signed it; a 401 reveals that much as well.

    :param error: what the log gets.
    :param role: what the token was presented for.
    :param token: ``None`` when it cannot be read.
    :param is_signed: one of the hub's keys has signed the token, whatever it is for.
    """
    if token is None or is_signed:
        return error.cause
    alg, kid, iss = token.header.get("alg"), token.header.get("kid"), token.claims.get("iss")
    said = [f"alg is {shown(alg)}"]
    if kid is not None:
        said.append(f"kid is {shown(kid)}")
    if iss is not None:
        said.append(f"iss is {shown(iss)}")
    return f"{UNSIGNED} as one of a {HOLDERS[role]}; its {', its '.join(said)}"
