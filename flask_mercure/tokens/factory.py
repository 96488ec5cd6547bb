"""Access tokens: the claims of both generations, and the factory that signs them."""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol

import jwt

from flask_mercure.errors import InvalidArgument, TokenError
from flask_mercure.topics import matchers
from flask_mercure.topics.matchers import Topic, Topics, URLPattern
from mercure_hub.protocol.keys import Key

# mercure_hub.protocol.access_token has the same constants, but needs the libraries of the hub.
DETAIL_TYPE = "https://mercure.rocks/authorization-detail"
TOKEN_TYPE = "at+jwt"  # noqa: S105 - a media type


class CreatesTokens(Protocol):
    """What ``MERCURE_TOKEN_FACTORY`` must be: an object with this method, or a callable of its shape.

    A ``payload`` keyword may be left out; then ``set_cookie(payload=...)`` is refused.
    """

    def create(
        self,
        subscribe: Sequence[Topic] | None = None,
        publish: Sequence[Topic] | None = None,
        additional_claims: Mapping[str, Any] | None = None,
    ) -> str:
        """Make a token.

        :param subscribe: topics whose private updates may be read.
        :param publish: topics on which updates may be published.
        :param additional_claims: to put into the token; an ``exp`` in it is the end that was asked for.
        :returns: the token in compact serialization.
        """


def authorization_claims(
    subscribe: Topics | None = None,
    publish: Topics | None = None,
    payload: Any = None,
    *,
    protocol: matchers.Protocol = "1.0",
) -> dict[str, Any]:
    """The claims that carry the authorization.

    :param subscribe: topics whose private updates may be read.
    :param publish: topics on which updates may be published.
    :param payload: shown with the active subscriptions, to everybody who may see those. A JSON object; in
        0.x any JSON value.
    :param protocol: ``1.0`` gives ``authorization_details`` (spec, Authorization Details), ``0.x`` the
        ``mercure`` claim.
    :raises InvalidArgument: a topic or the payload cannot be expressed.
    """
    reads = matchers.matchers(subscribe, protocol, "subscribe")
    writes = matchers.matchers(publish, protocol, "publish")
    if payload is not None and not reads:
        raise InvalidArgument("payload belongs to subscriptions; name their topics in subscribe")
    if protocol == "0.x":
        claim: dict[str, Any] = {}
        if subscribe is not None:
            claim["subscribe"] = reads
        if publish is not None:
            claim["publish"] = writes
        if payload is not None:
            claim["payload"] = payload
        return {"mercure": claim}
    if payload is not None and not isinstance(payload, Mapping):
        raise InvalidArgument(f"payload is a {type(payload).__name__}; it must be a JSON object (a dict)")
    details = []
    if reads:
        details.append(_detail("subscribe", reads))
        if payload is not None:
            details[0]["payload"] = dict(payload)
    if writes:
        details.append(_detail("publish", writes))
    return {"authorization_details": details}


def _detail(action: str, topics: Sequence[str | URLPattern]) -> dict[str, Any]:
    return {
        "type": DETAIL_TYPE,
        "actions": [action],
        "topics": [
            {"match": one} if isinstance(one, str) else {"match": one.value, "match_type": "urlpattern"}
            for one in topics
        ],
    }


class TokenFactory:
    """Signs access tokens as the issuer that the hub trusts (spec, Authorization; RFC 9068).

    :param issuer: ``iss`` and ``client_id`` of the tokens.
    :param audience: ``aud``: the URLs by which the hub is known.
    :param publisher_key: signs tokens that publish.
    :param subscriber_key: signs tokens that subscribe.
    :param protocol: generation of the tokens.
    :param lifetime: of a token, in seconds.
    :param key_id: ``kid`` of the header; default: that of the key.
    :param clock: gives the seconds since the epoch.
    """

    def __init__(
        self,
        *,
        issuer: str,
        audience: Sequence[str],
        publisher_key: Key | None = None,
        subscriber_key: Key | None = None,
        protocol: matchers.Protocol = "1.0",
        lifetime: float = 3600,
        key_id: str | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._issuer = issuer
        self._audience = list(dict.fromkeys(audience))
        self._publisher_key = publisher_key
        self._subscriber_key = subscriber_key
        self._protocol = protocol
        self._lifetime = lifetime
        self._key_id = key_id
        self._clock = clock

    def create(
        self,
        subscribe: Topics | None = None,
        publish: Topics | None = None,
        additional_claims: Mapping[str, Any] | None = None,
        payload: Any = None,
    ) -> str:
        """Make a token; the arguments are those of :meth:`claims`.

        :returns: the token in compact serialization.
        :raises InvalidArgument: a topic, a claim or the payload cannot be expressed.
        :raises TokenError: the keys do not allow such a token.
        """
        subscribe, publish = as_list(subscribe), as_list(publish)  # iterators are read once
        claims = self.claims(subscribe, publish, additional_claims, payload)
        key = self._key(subscribe=bool(subscribe), publish=bool(publish))
        headers = {"typ": TOKEN_TYPE} if self._protocol == "1.0" else {}
        key_id = key.kid if self._key_id is None else self._key_id
        if key_id is not None:
            headers["kid"] = key_id
        return jwt.encode(claims, key.material, key.algorithms[0], headers)  # type: ignore[arg-type]

    def claims(
        self,
        subscribe: Topics | None = None,
        publish: Topics | None = None,
        additional_claims: Mapping[str, Any] | None = None,
        payload: Any = None,
    ) -> dict[str, Any]:
        """All claims of a token.

        :param subscribe: topics whose private updates may be read: a topic, a :class:`URLPattern`,
            :data:`EVERYTHING`, a dict with ``match`` and ``match_type``, or a list of these.
        :param publish: topics on which updates may be published, in the same forms.
        :param additional_claims: replace or join the standard claims. ``sub`` names the user; ``exp`` is in
            seconds since the epoch or an aware datetime, and ``None`` leaves it out (0.x only). The entries
            of an ``authorization_details`` come before those made from the topics, so that a payload of
            theirs wins; the members of a ``mercure`` object join those made from the topics (0.x).
        :param payload: shown with the active subscriptions, to everybody who may see those.
        :raises InvalidArgument: a topic, a claim or the payload cannot be expressed.
        """
        subscribe = as_list(subscribe)
        granted = authorization_claims(subscribe, publish, payload, protocol=self._protocol)
        standard = self._standard_claims(subscriber=bool(subscribe))
        claims = standard | _joined(granted, dict(additional_claims or {}))
        claims["exp"] = _instant(claims["exp"])
        if claims["exp"] is None:
            if self._protocol == "1.0":
                raise InvalidArgument("exp is None: a token of protocol 1.0 must have an end (RFC 9068)")
            del claims["exp"]
        return claims

    def _standard_claims(self, *, subscriber: bool) -> dict[str, Any]:
        now = int(self._clock())
        claims: dict[str, Any] = {"iat": now, "exp": math.ceil(now + self._lifetime)}
        if self._protocol == "0.x":
            return claims
        return claims | {
            "iss": self._issuer,
            "aud": self._audience,
            # Random for a subscriber, so that a hub which counts connections by subject tells them apart.
            "sub": f"urn:uuid:{uuid.uuid4()}" if subscriber else self._issuer,
            "client_id": self._issuer,
            "jti": f"urn:uuid:{uuid.uuid4()}",
        }

    def _key(self, *, subscribe: bool, publish: bool) -> Key:
        """The key of the role; a token without any right is a subscriber's, to connect with."""
        if publish and subscribe and self._publisher_key is not self._subscriber_key:
            raise TokenError(
                "a token cannot both publish and subscribe when these have different keys: make two tokens, "
                "or set MERCURE_JWT_SECRET in place of MERCURE_PUBLISHER_JWT_KEY and "
                "MERCURE_SUBSCRIBER_JWT_KEY"
            )
        key = self._publisher_key if publish else self._subscriber_key
        if key is None:
            role = "publisher" if publish else "subscriber"
            raise TokenError(
                f"there is no key for a {role}'s token: set MERCURE_{role.upper()}_JWT_KEY, "
                "or MERCURE_JWT_SECRET for both roles"
            )
        return key


def _joined(granted: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
    """The claims that an application adds, joined with those that carry the authorization."""
    if "authorization_details" in granted:
        own = extra.pop("authorization_details", [])
        if not isinstance(own, list):
            raise InvalidArgument("authorization_details in additional_claims is not a list")
        return extra | {"authorization_details": [*own, *granted["authorization_details"]]}
    own = extra.pop("mercure", {})
    if not isinstance(own, Mapping):
        raise InvalidArgument("mercure in additional_claims is not a dict")
    return extra | {"mercure": {**own, **granted["mercure"]}}


def _instant(value: object) -> int | None:
    match value:
        case None:
            return None
        case datetime():
            if value.tzinfo is None:
                raise InvalidArgument(f"exp is {value!r}, without a time zone: use datetime.now(UTC)")
            return math.ceil(value.timestamp())
        case bool():
            pass
        case int() | float() if math.isfinite(value):
            return math.ceil(value)
    raise InvalidArgument(f"exp is {value!r}; give seconds since the epoch or an aware datetime")


def as_list(topics: Topics | None) -> list[Topic] | None:
    """Any of the accepted forms as a list, so that a factory need not know them all."""
    if topics is None:
        return None
    if isinstance(topics, str | URLPattern | Mapping):
        return [topics]
    return matchers.listed(topics, "topics")
