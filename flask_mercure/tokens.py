"""Access tokens: what an application signs them with, what is in them, and the one that it publishes with.

* :func:`load_key` reads a signing key in any of the forms in which people have one;
* :class:`TokenFactory` signs the claims of both generations of the protocol;
* :class:`TokenSource` asks the factory that is configured, which may be the app's own;
* :class:`PublisherToken` keeps the token for the app's own updates until shortly before its end.

Error trackers send the variables of every function that an error passes through: functions that hold a token
are decorated with :func:`without_frames`, and dataclasses leave tokens out of their ``repr``.
"""

from __future__ import annotations

import inspect
import json
import math
import os
import re
import threading
import time
import traceback
import typing
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import wraps
from typing import Any, Literal, ParamSpec, TypeVar

import jwt
from jwt import PyJWK
from jwt.exceptions import PyJWTError

from flask_mercure.errors import InvalidArgument, MercureError, TokenError, TokenUnavailable
from flask_mercure.topics import Protocol, Topic, Topics, URLPattern, as_list, matchers
from mercure_hub.key_files import key_text
from mercure_hub.protocol.errors import KeyMaterialError
from mercure_hub.protocol.tokens import keys
from mercure_hub.protocol.tokens.asymmetric import PrivateKey, PublicKey
from mercure_hub.protocol.tokens.claims import DETAIL_TYPE, DETAILS, OLD_CLAIM, TOKEN_TYPE
from mercure_hub.protocol.tokens.keys import Key
from mercure_hub.protocol.topics import MatcherType

Purpose = Literal["sign", "verify"]


class Identified(typing.Protocol):
    """A user of Flask-Login, or an object like it."""

    def get_id(self) -> Any:
        """Return the id."""


User = str | int | uuid.UUID | Identified
"""The forms in which a user is named: an id, or an object whose ``get_id`` returns it."""


def subject(user: object, argument: str = "user") -> str:
    """Return the ``sub`` of a user's tokens.

    :param user: id, or object with ``get_id()``.
    :param argument: name of the argument, for errors.
    :raises InvalidArgument: the id is empty.
    :raises TypeError: it is an object without an id.
    """
    get_id = getattr(user, "get_id", None)
    id = get_id() if callable(get_id) else user
    if isinstance(id, bool) or not isinstance(id, str | int | uuid.UUID):
        given = f"a {type(user).__name__}" + (f" whose get_id() returns {id!r}" if callable(get_id) else "")
        raise TypeError(
            f"{argument} is {given}; give an id as a str, an int or a UUID, or an object with get_id()"
        )
    if not (text := str(id)):
        raise InvalidArgument(f"{argument} is {id!r}; give an id that is not empty")
    return text


_P = ParamSpec("_P")
_R = TypeVar("_R")

SHOWN_USER = "sub"
"""Member of a payload that names the user, so that whoever may see it knows which connections are of one."""

_COMPACT = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_MARGIN = 60.0
"""Seconds before its end at which the publisher's token is replaced: more than clocks differ."""
_END_OF_TIME = 1e15
"""Seconds since the epoch that no ``exp`` reaches; an int can be too large for a float."""


def without_frames(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Raise the errors of a function without its frames, because one of them has a token in a variable.

    :param function: may raise errors of this package; other errors pass as they are.
    """

    @wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        try:
            return function(*args, **kwargs)
        except MercureError as error:
            problem = error.with_traceback(None)
            problem.__context__ = None
        del args, kwargs
        raise problem

    return call


def load_key(
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
    text = key_text(value)
    document = _jwk_document(text)
    if document is None:
        key = keys.load(text, algorithm, exists=os.path.exists, purpose=purpose, passphrase=passphrase)
        return Key(key.material, key.algorithms, kid)
    members = document.get("keys", [document])
    if not isinstance(members, list) or not all(isinstance(one, Mapping) for one in members):
        raise KeyMaterialError("the JWK set is broken: its member 'keys' is no list of objects")
    chosen = [one for one in members if _is_usable(one, algorithm.split(), purpose, kid)]
    if not chosen:
        present = ", ".join(_shown(one) for one in members) or "nothing"
        wanted = "secret or private key to sign with" if purpose == "sign" else "key"
        named = f" with the kid {kid!r}" if kid else ""
        raise KeyMaterialError(f"the JWK set has no {wanted}{named}; it has {present}")
    return _key_of_jwk(chosen[0], algorithm, kid)


def _jwk_document(text: str) -> Mapping[str, Any] | None:
    """The JSON object, or ``None`` when the text is a secret or a PEM."""
    if not text.lstrip().startswith("{"):
        return None
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return None
    known = isinstance(document, dict) and ("kty" in document or "keys" in document)
    return document if known else None


def _is_usable(jwk: Mapping[str, Any], algorithms: list[str], purpose: Purpose, kid: str | None) -> bool:
    """Whether the entry is for signing, and the one that is asked for (RFC 7517 sections 4.2 to 4.5)."""
    operations = jwk.get("key_ops")
    return (
        (kid is None or jwk.get("kid") == kid)
        and jwk.get("use", "sig") == "sig"
        and (not isinstance(operations, list) or bool({"sign", "verify"} & set(map(str, operations))))
        and (not algorithms or jwk.get("alg", algorithms[0]) in algorithms)
        and (purpose == "verify" or jwk.get("kty") == "oct" or "d" in jwk)
    )


def _key_of_jwk(jwk: Mapping[str, Any], algorithm: str, kid: str | None) -> Key:
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


class CreatesTokens(typing.Protocol):
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
    protocol: Protocol = "1.0",
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
    reads = matchers(subscribe, protocol, "subscribe")
    writes = matchers(publish, protocol, "publish")
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
        return {OLD_CLAIM: claim}
    if payload is not None and not isinstance(payload, Mapping):
        raise InvalidArgument(f"payload is a {type(payload).__name__}; it must be a JSON object (a dict)")
    details = []
    if reads:
        details.append(_detail("subscribe", reads))
        if payload is not None:
            details[0]["payload"] = dict(payload)
    if writes:
        details.append(_detail("publish", writes))
    return {DETAILS: details}


def _detail(action: str, topics: Sequence[str | URLPattern]) -> dict[str, Any]:
    return {
        "type": DETAIL_TYPE,
        "actions": [action],
        "topics": [
            {"match": one}
            if isinstance(one, str)
            else {"match": one.value, "match_type": MatcherType.URLPATTERN.value}
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
        protocol: Protocol = "1.0",
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
        subscribe = as_list(subscribe, "subscribe")  # once: it may be an iterator
        publish = as_list(publish, "publish")
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
        :param payload: shown with the active subscriptions, to everybody who may see those; with ``sub`` in
            the claims it gets a member ``sub``, unless it has one or is no object.
        :raises InvalidArgument: a topic, a claim or the payload cannot be expressed.
        """
        subscribe = as_list(subscribe, "subscribe")
        extra = dict(additional_claims or {})
        if subscribe and not _has_payload(extra):
            payload = _with_user(payload, extra.get("sub"))
        granted = authorization_claims(subscribe, publish, payload, protocol=self._protocol)
        standard = self._standard_claims(subscriber=bool(subscribe))
        claims = standard | _joined(granted, extra)
        claims["exp"] = _instant(claims["exp"])
        if claims["exp"] is None:
            if self._protocol == "1.0":
                raise InvalidArgument("exp is None: a token of protocol 1.0 must have an end (RFC 9068)")
            del claims["exp"]
        return claims

    def _standard_claims(self, *, subscriber: bool) -> dict[str, Any]:
        now = self._clock()
        claims: dict[str, Any] = {
            # With a fraction (RFC 7519 section 2), so that a hub tells a login from a revocation just before.
            "iat": math.floor(now * 1e6) / 1e6,
            "exp": math.ceil(math.floor(now) + self._lifetime),
        }
        if self._protocol == "0.x":
            return claims
        return claims | {
            "iss": self._issuer,
            "aud": self._audience,
            # Without a user random, so that a hub which counts connections by subject tells them apart.
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


def _with_user(payload: Any, user: object) -> Any:
    """A payload that names the user; the app's own ``sub`` wins, and what is no object stays as it is."""
    if not isinstance(user, str) or not isinstance(payload, Mapping | None):
        return payload
    return {SHOWN_USER: user, **(payload or {})}


def _has_payload(extra: Mapping[str, Any]) -> bool:
    """Whether the app puts a payload of 0.x into the claims itself."""
    own = extra.get(OLD_CLAIM)
    return isinstance(own, Mapping) and "payload" in own


def _joined(granted: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
    """The claims that an application adds, joined with those that carry the authorization."""
    if DETAILS in granted:
        own = extra.pop(DETAILS, [])
        if not isinstance(own, list):
            raise InvalidArgument("authorization_details in additional_claims is not a list")
        return extra | {DETAILS: [*own, *granted[DETAILS]]}
    own = extra.pop(OLD_CLAIM, {})
    if not isinstance(own, Mapping):
        raise InvalidArgument("mercure in additional_claims is not a dict")
    return extra | {OLD_CLAIM: {**own, **granted[OLD_CLAIM]}}


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


class TokenSource:
    """Asks a factory for tokens, and checks what it gives.

    :param factory: an object with ``create``, or a callable of the same shape.
    :raises TypeError: it is neither, or it does not take the arguments of :class:`CreatesTokens`.
    """

    def __init__(self, factory: object) -> None:
        create = getattr(factory, "create", factory)
        if not callable(create) or isinstance(factory, type):
            raise TypeError(f"{factory!r} is neither an object with a create method nor callable")
        self._create: Callable[..., object] = create
        self._takes_payload = _takes(create, "payload")
        if not _takes(create):
            raise TypeError(f"{factory!r} does not take the arguments subscribe, publish, additional_claims")

    def create(
        self,
        subscribe: Topics | None = None,
        publish: Topics | None = None,
        additional_claims: Mapping[str, Any] | None = None,
        payload: Any = None,
    ) -> str:
        """Make a token with the factory; the arguments are those of :meth:`TokenFactory.create`.

        :raises TokenError: the factory gave no JWT, or does not take the payload.
        """
        arguments: dict[str, Any] = {
            "subscribe": as_list(subscribe, "subscribe"),
            "publish": as_list(publish, "publish"),
            "additional_claims": dict(additional_claims or {}),
        }
        if payload is not None:
            if not self._takes_payload:
                raise TokenError("the object of MERCURE_TOKEN_FACTORY does not take a payload argument")
            arguments["payload"] = payload
        return check_compact(self._create(**arguments), "the object of MERCURE_TOKEN_FACTORY")


@without_frames
def check_compact(token: object, origin: str) -> str:
    """Require a JWT in compact serialization.

    :param token: to be checked.
    :param origin: where it comes from, for the error.
    :raises TokenError: it is something else.
    """
    if isinstance(token, str) and _COMPACT.fullmatch(token):
        return token
    raise TokenError(
        f"{origin} gave a {type(token).__name__} that is no JWT in compact serialization (three parts of "
        "base64url, joined by dots)"
    )


def _takes(create: Callable[..., object], *more: str) -> bool:
    try:
        signature = inspect.signature(create)
    except ValueError:  # some callables of C have none
        return not more
    names = ("subscribe", "publish", "additional_claims", *more)
    try:
        signature.bind(**dict.fromkeys(names))
    except TypeError:
        return False
    return True


@without_frames
def expiry(token: str) -> float | None:
    """The ``exp`` of a token, read without verification: the caller made the token.

    :returns: seconds since the epoch, or ``None`` when it has no end.
    :raises TokenError: this is no JWT, or its ``exp`` is no number.
    """
    try:
        value = jwt.decode(token, options={"verify_signature": False}).get("exp")
    except (jwt.PyJWTError, ValueError, RecursionError) as error:
        raise TokenError(f"the token factory gave something that is no JWT: {error}") from None
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < _END_OF_TIME:
        raise TokenError(f"the exp claim of the token is {str(value)[:40]!r}, not a number of seconds")
    return float(value)


@dataclass(frozen=True, slots=True)
class PublisherSource:
    """Where the app has the token from with which it publishes.

    :param make: gives one; it is asked again shortly before that one ends.
    :param origin: what it is, for errors.
    :param advice: what to do about a token that has expired.
    """

    make: Callable[[], object] = field(repr=False)
    origin: str
    advice: str = "it must give one that is valid"

    @classmethod
    def static(cls, token: str, setting: str) -> PublisherSource:
        """A token that is configured.

        :param token: in compact serialization.
        :param setting: the name of its setting.
        """
        advice = "put a new one there, or give the app the key with MERCURE_JWT_SECRET to make its own"
        return cls(lambda: token, setting, advice)


@dataclass(frozen=True, slots=True)
class _Held:
    """The publisher's token.

    :param replaced_at: when another one is made, in seconds since the epoch.
    """

    token: str = field(repr=False)
    replaced_at: float


class PublisherToken:
    """The token with which the app itself publishes, on every topic, replaced shortly before it expires.

    :param source: gives it.
    :param lifetime: seconds for which a token without ``exp`` is kept.
    :param clock: gives the seconds since the epoch.
    """

    def __init__(
        self, source: PublisherSource, lifetime: float, clock: Callable[[], float] = time.time
    ) -> None:
        self._source = source
        self._lifetime = lifetime
        self._clock = clock
        self._held: _Held | None = None
        self._making = threading.Lock()

    def get(self) -> str:
        """The current token; when it is due, one thread makes the next and the others wait for it.

        :raises TokenUnavailable: what the app makes its tokens with raised an error.
        :raises MercureError: the factory cannot make it.
        """
        held = self._held
        if held is not None and self._clock() < held.replaced_at:
            return held.token
        with self._making:
            held = self._held
            if held is None or self._clock() >= held.replaced_at:
                held = self._held = self._make()
            return held.token

    def forget(self, token: str) -> None:
        """Drop a token that the hub has refused, so that the next one is fresh."""
        held = self._held
        if held is not None and held.token == token:
            self._held = None

    def _make(self) -> _Held:
        now = self._clock()
        try:
            made = _Held(check_compact(self._source.make(), self._source.origin), now + self._lifetime)
        except MercureError:
            raise
        except Exception as error:  # publishing handles every MercureError
            raise TokenUnavailable(
                f"no token to publish with: {self._source.origin} raised {_where_raised(error)}"
            ) from error
        end = expiry(made.token)
        if end is None:
            return made
        remaining = end - now
        if remaining <= 0:
            raise TokenError(
                f"the token of {self._source.origin}, to publish with, has expired at {_utc(end)}, "
                f"{timedelta(seconds=int(-remaining))} ago: {self._source.advice}"
            )
        return _Held(made.token, end - min(_MARGIN, remaining / 10))


def _where_raised(error: Exception) -> str:
    """The class of an error and where it was raised, without its text, which may hold a secret."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" in {frames[-1].filename}, line {frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{where}"


def _utc(seconds: float) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (OverflowError, OSError, ValueError):  # a year that the calendar does not have
        return f"{seconds:g} s since 1970"
