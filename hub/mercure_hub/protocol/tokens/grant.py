"""What a token allows, read from its claims: topics to publish and to read, payloads for presence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mercure_hub.protocol.errors import InvalidRequest, Section, TokenInvalid, shown
from mercure_hub.protocol.matching.matcher import Matcher, make
from mercure_hub.protocol.matching.table import NOTHING, Scope
from mercure_hub.protocol.tokens.claims import (
    DETAIL_TYPE,
    OLD_CLAIM,
    OLD_NAMESPACED_CLAIM,
    REVOCATION_TYPE,
    REVOKE,
    Role,
)
from mercure_hub.protocol.tokens.keys import Key
from mercure_hub.protocol.topics import SUPPORTED, MatcherType

Json = Mapping[str, "Json"] | Sequence["Json"] | str | int | float | bool | None


_MAX_HOLDER = 255


@dataclass(slots=True)  # frozen, it takes three times as long to make, and each subscriber may bring one
class Grant:
    """The content of a verified token.

    :param publish: topics on which updates may be published.
    :param subscribe: topics whose private updates may be read.
    :param payloads: of each ``subscribe`` entry its matchers and its payload or ``None``, in the
        token's order; nothing if none has a payload. An entry without matchers is the payload of 0.x,
        which belongs to every subscription.
    :param expires_at: seconds since the epoch, or ``None`` for a 0.x token that never expires.
    :param is_old: the token is one of 0.x.
    :param fingerprint: hash of the token, if connections are counted by it; else empty.
    :param key: the key that verified the token; ``None`` without a token.
    :param issuer: identifier of the token's issuer; empty without a token.
    :param issued_at: seconds since the epoch; 0 without ``iat``.
    :param sub: claim by which the token can be revoked; empty without it. So are ``sid`` and ``jti``.
    :param may_revoke: the token allows revoking others of its issuer.
    """

    publish: Scope = NOTHING
    subscribe: Scope = NOTHING
    payloads: tuple[tuple[tuple[Matcher, ...], Json], ...] = ()
    expires_at: float | None = None
    is_old: bool = False
    fingerprint: bytes = b""
    key: Key | None = None
    issuer: str = ""
    issued_at: float = 0.0
    sub: str = ""
    sid: str = ""
    jti: str = ""
    may_revoke: bool = False

    @property
    def holder(self) -> str:
        """Whose token it is: its issuer and its ``sub``, shortened; empty without ``sub``."""
        return f"{self.issuer} {self.sub[:_MAX_HOLDER]}" if self.sub else ""

    def names(self, topic: str) -> bool:
        """Whether a topic is granted, or the text of a pattern is one that grants.

        :param topic: or pattern, as it was granted.
        """
        return any(
            scope.covers(topic) or scope.has_pattern(topic) for scope in (self.publish, self.subscribe)
        )

    def payload_for(self, matcher: Matcher) -> Json:
        """The payload of the first entry that covers a subscription's matcher (spec, Payloads).

        :returns: the payload, or ``None`` if the first entry that covers the matcher has none.
        """
        for matchers, payload in self.payloads:
            if not matchers or any(own.selects(matcher) for own in matchers):
                return payload
        return None


ANONYMOUS = Grant()


_MAX_DETAILS = 100
_MAX_MATCHERS = 1000
_MAX_DEPTH = 32
_EXACT = MatcherType.EXACT.value
_TYPES: Mapping[str, MatcherType] = {one.value: one for one in SUPPORTED}


def grant_of(details: object, resource: str) -> Grant:
    """Read ``authorization_details``; one defect invalidates all of it (spec, Authorization Details).

    :param resource: the hub's resource identifier, base of relative patterns.
    :returns: what they allow; the rest of the grant is for the caller to fill in.
    :raises TokenInvalid: something in it is not valid.
    """
    if not isinstance(details, list):
        raise TokenInvalid("authorization_details is not an array", Section.TOKEN_CLAIMS)
    if len(details) > _MAX_DETAILS:
        raise TokenInvalid(
            f"{len(details)} authorization details; the limit is {_MAX_DETAILS}", Section.TOKEN_CLAIMS
        )
    publish: list[Matcher] = []
    subscribe: list[Matcher] = []
    payloads: list[tuple[tuple[Matcher, ...], Json]] = []
    may_revoke = has_payload = False
    for index, detail in enumerate(details):
        member = f"authorization_details[{index}]"
        if not isinstance(detail, dict):
            raise TokenInvalid(f"{member} is not an object", Section.TOKEN_CLAIMS)
        type_ = detail.get("type")
        if type_ == REVOCATION_TYPE and REVOKE in _named(detail.get("actions"), member):
            may_revoke = True
        if type_ != DETAIL_TYPE:
            continue
        actions = _named(detail.get("actions"), member)
        matchers = _topics(detail.get("topics"), member, resource)
        payload = None
        if "payload" in detail:
            payload = detail["payload"]
            if not isinstance(payload, dict):
                raise TokenInvalid(f"{member}.payload is not an object", Section.TOKEN_CLAIMS)
            _check_depth(payload, f"{member}.payload")
            has_payload = True
        if "publish" in actions:
            publish += matchers
        if "subscribe" in actions:
            subscribe += matchers
            payloads.append((matchers, payload))
    return Grant(
        Scope(publish) if publish else NOTHING,
        Scope(subscribe) if subscribe else NOTHING,
        tuple(payloads) if has_payload else (),
        may_revoke=may_revoke,
    )


def _check_depth(payload: Json, member: str) -> None:
    """Refuse a payload that is too deeply nested to be written as JSON."""
    level: list[Json] = [payload]
    for _ in range(_MAX_DEPTH):
        below: list[Json] = []
        for value in level:
            if isinstance(value, dict):
                below.extend(value.values())
            elif isinstance(value, list):
                below.extend(value)
        if not below:
            return
        level = below
    raise TokenInvalid(f"{member} is nested more than {_MAX_DEPTH} levels deep", Section.TOKEN_CLAIMS)


def _named(value: object, member: str) -> list[str]:
    if not isinstance(value, list) or not value:
        raise TokenInvalid(f"{member}.actions is not an array with at least one action", Section.TOKEN_CLAIMS)
    if not all(isinstance(action, str) for action in value):
        raise TokenInvalid(f"{member}.actions holds something that is not a string", Section.TOKEN_CLAIMS)
    return value


def _topics(value: object, member: str, resource: str) -> tuple[Matcher, ...]:
    if not isinstance(value, list) or not value:
        raise TokenInvalid(f"{member}.topics is not an array with at least one matcher", Section.TOKEN_CLAIMS)
    if len(value) > _MAX_MATCHERS:
        raise TokenInvalid(
            f"{member}.topics has {len(value)} entries; the limit is {_MAX_MATCHERS}", Section.TOKEN_CLAIMS
        )
    matchers: list[Matcher] = []
    for index, entry in enumerate(value):
        here = f"{member}.topics[{index}]"
        if not isinstance(entry, dict) or not isinstance(entry.get("match"), str):
            raise TokenInvalid(f"{here} is not an object with a string match", Section.TOKEN_CLAIMS)
        match_type = entry.get("match_type", _EXACT)
        type_ = _TYPES.get(match_type) if isinstance(match_type, str) else None
        if type_ is None:
            raise TokenInvalid(
                f"{here}.match_type is {shown(match_type)}; known are {', '.join(SUPPORTED)}",
                Section.TOKEN_CLAIMS,
            )
        matchers.append(_matcher(type_, entry["match"], resource, here))
    return tuple(matchers)


def _matcher(type_: MatcherType, value: str, resource: str, member: str) -> Matcher:
    try:
        return make(type_, value, resource, member)
    except InvalidRequest as error:
        raise TokenInvalid(error.detail, Section.TOKEN_CLAIMS) from None


def old_grant_of(claims: Mapping[str, Any], resource: str) -> Grant:
    """Read the ``mercure`` claim of 0.x, also under its namespaced name.

    :param resource: the hub's resource identifier.
    :returns: what it allows; the rest of the grant is for the caller to fill in.
    :raises TokenInvalid: it is missing, or not valid.
    """
    claim = claims.get(OLD_NAMESPACED_CLAIM)
    if claim is None:
        claim = claims.get(OLD_CLAIM)
    if not isinstance(claim, dict):
        raise TokenInvalid(
            "the token has neither authorization_details nor a mercure claim", Section.TOKEN_CLAIMS
        )
    payload = claim.get("payload")
    _check_depth(payload, "mercure.payload")
    return Grant(
        _old_scope(claim, "publish", resource),
        _old_scope(claim, "subscribe", resource),
        () if payload is None else (((), payload),),
        is_old=True,
        may_revoke=claim.get(REVOKE) is True,
    )


def _old_scope(claim: Mapping[str, Any], role: Role, resource: str) -> Scope:
    value = claim.get(role)
    if value is None:
        value = []
    if not isinstance(value, list) or not all(isinstance(selector, str) for selector in value):
        raise TokenInvalid(f"mercure.{role} is not an array of strings", Section.TOKEN_CLAIMS)
    if len(value) > _MAX_MATCHERS:
        raise TokenInvalid(
            f"mercure.{role} has {len(value)} entries; the limit is {_MAX_MATCHERS}", Section.TOKEN_CLAIMS
        )
    return Scope([_matcher(MatcherType.TEMPLATE, one, resource, f"mercure.{role}") for one in value])
