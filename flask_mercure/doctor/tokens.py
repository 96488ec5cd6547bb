"""Why a token is refused: others are tried, each different in one respect, until the hub admits one."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any
from urllib.parse import urlsplit

import jwt

from flask_mercure.config.settings import DEFAULT_ISSUER, Configuration
from flask_mercure.doctor.addresses import Profile, ReachedHub
from flask_mercure.doctor.connection import Stream, Unreachable
from flask_mercure.doctor.findings import Finding, Symptom, apache, app, hub, nginx, ok, problem, warning
from flask_mercure.tokens import TokenFactory
from flask_mercure.topics import Protocol, subscription_url
from mercure_hub.protocol.errors import KeyMaterialError, Section
from mercure_hub.protocol.tokens.asymmetric import PrivateKey
from mercure_hub.protocol.tokens.claims import DETAILS, HOLDERS, Role, is_access_token
from mercure_hub.protocol.tokens.keys import ALGORITHMS, Key

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

    :param cause: the respect.
    :param value: what it has there; empty where that is secret.
    :param token: compact serialization.
    """

    cause: Cause
    value: str
    token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Claims:
    """What the app's own token says, which takes no key to read.

    :param algorithm: ``alg``.
    :param type: ``typ``.
    :param issuer: ``iss``.
    :param audience: ``aud``.
    :param is_current: it is a token of protocol 1.0.
    """

    algorithm: str
    type: str
    issuer: str | None
    audience: tuple[str, ...]
    is_current: bool


def claims_of(token: str) -> Claims:
    """Read a token of the app, without verification.

    :raises jwt.PyJWTError: it is not a token.
    """
    header = jwt.get_unverified_header(token)
    claims: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    audience = claims.get("aud", [])
    audiences = audience if isinstance(audience, list) else [audience]
    issuer, kind = claims.get("iss"), str(header.get("typ", ""))
    return Claims(
        str(header.get("alg")),
        kind,
        issuer if isinstance(issuer, str) else None,
        tuple(one for one in audiences if isinstance(one, str)),
        DETAILS in claims or is_access_token(header),
    )


def trials(configuration: Configuration, role: Role, topic: str, known: Profile | None) -> Iterator[Trial]:
    """The tokens to try; the ones that prove most come first.

    :param configuration: of the app; with a token factory of its own it may have no key to sign with.
    :param role: whose token was refused.
    :param topic: that the tokens name.
    :param known: the hub's metadata.
    """
    key = key_of(configuration, role)
    if key is None or not signs(key):
        return
    own = (configuration.public_url, configuration.url)
    wide = tuple(dict.fromkeys((*own, *_resources(configuration, known))))

    def made(cause: Cause, value: str, **changes: Any) -> Trial:
        return Trial(cause, value, _token(configuration, role, topic, changes))

    if configuration.protocol == "1.0":
        for resource in wide[len(dict.fromkeys(own)) :]:
            yield made(Cause.AUDIENCE, resource, audience=[resource])
        for issuer in _issuers(configuration, known):
            yield made(Cause.ISSUER, issuer, issuer=issuer)
            yield made(Cause.BOTH, issuer, issuer=issuer, audience=wide)
    other: Protocol = "0.x" if configuration.protocol == "1.0" else "1.0"
    yield made(Cause.GENERATION, other, protocol=other, audience=wide)
    swapped = key_of(configuration, OTHER[role])
    if signs(swapped) and swapped is not key:
        yield made(Cause.ROLE, "", key=swapped, audience=wide)
    for name in _algorithms(key):
        yield made(Cause.ALGORITHM, name, key=Key(key.material, (name,)), audience=wide)
    for material in _trimmed(key):
        yield made(Cause.SPACE, "", key=Key(material, key.algorithms), audience=wide)


def old_token(configuration: Configuration, role: Role, topic: str) -> str | None:
    """A token of protocol 0.x, which has neither issuer nor audience."""
    return (
        _token(configuration, role, topic, {"protocol": "0.x"})
        if signs(key_of(configuration, role))
        else None
    )


def key_of(configuration: Configuration, role: Role) -> Key | None:
    """The key with which the app makes the tokens of a role, if it has one."""
    if role == "subscribe":
        return configuration.subscriber_key
    return configuration.publisher_key if configuration.makes_publisher_tokens else None


def signs(key: Key | None) -> bool:
    """Whether a key is there, and can sign."""
    return key is not None and isinstance(key.material, bytes | PrivateKey)


def _token(configuration: Configuration, role: Role, topic: str, changes: Mapping[str, Any]) -> str:
    key = changes.get("key") or key_of(configuration, role)
    factory = TokenFactory(
        issuer=changes.get("issuer", configuration.issuer),
        audience=changes.get("audience", (configuration.public_url, configuration.url)),
        publisher_key=key,
        subscriber_key=key,
        protocol=changes.get("protocol", configuration.protocol),
        lifetime=configuration.lifetime,
    )
    with _tolerant():
        return factory.create(publish=[topic]) if role == "publish" else factory.create(subscribe=[topic])


@contextmanager
def _tolerant() -> Iterator[None]:
    """Allow secrets that are short for an algorithm: another hub may have such a one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _resources(configuration: Configuration, known: Profile | None) -> list[str]:
    """Resource identifiers that the hub may have: its own word, else what it derives behind a proxy."""
    if known is not None and known.resource is not None:
        return [known.resource]
    swapped = {"http": "https", "https": "http"}
    return [
        f"{swapped[scheme]}://{rest}"
        for scheme, _, rest in (
            url.partition("://") for url in dict.fromkeys((configuration.public_url, configuration.url))
        )
    ]


def _issuers(configuration: Configuration, known: Profile | None) -> list[str]:
    origin = "/".join(configuration.public_url.split("/", 3)[:3])
    candidates = (*(() if known is None else known.issuers), DEFAULT_ISSUER, configuration.public_url, origin)
    return [one for one in dict.fromkeys(candidates) if one != configuration.issuer]


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


def bearer(token: str) -> dict[str, str]:
    """The header with a token."""
    return {"Authorization": f"Bearer {token}"}


class Admission:
    """Presents tokens to the hub, and finds out why one is refused.

    :param configuration: of the app.
    :param topic: that the tokens name.
    """

    def __init__(self, configuration: Configuration, topic: str) -> None:
        self._configuration = configuration
        self._topic = topic

    def parameters(self, protocol: Protocol) -> str:
        """The query that subscribes to the topic, in a generation of the protocol."""
        return urlsplit(subscription_url("http://hub/", protocol, [self._topic])).query

    def status(self, reached: ReachedHub, role: Role, token: str, protocol: Protocol | None = None) -> int:
        """The status with which the hub answers a token. Nothing is published, and no stream stays open.

        :param protocol: whose parameters are used; default: that of the app.
        :raises Unreachable: there is no answer.
        """
        if role == "publish":
            return reached.post(bearer(token)).status
        answer = reached.subscribe(self.parameters(protocol or self._configuration.protocol), bearer(token))
        if isinstance(answer, Stream):
            answer.close()
            return 200
        return answer.status

    def fits(self, reached: ReachedHub, token: str) -> bool:
        """Whether the token names the hub's resource identifier in ``aud``, as far as the hub tells it."""
        known, claims = reached.profile, claims_of(token)
        return not claims.is_current or known is None or known.resource in claims.audience

    def why(self, reached: ReachedHub, role: Role, token: str) -> Finding:
        """Find out why a token is refused."""
        configuration, where = self._configuration, reached.name
        claims, known = claims_of(token), reached.profile
        if not self.fits(reached, token) and known is not None and known.resource is not None:
            return wrong_audience(role, where, configuration, claims, known.resource)
        admitted = self._admitted_instead(reached, role)
        if admitted is None:
            return unexplained(role, where, configuration, claims)
        speaks_current = None
        if admitted.cause is Cause.GENERATION and configuration.protocol == "1.0":
            speaks_current = self._speaks_current(reached)
        return diagnose(role, where, configuration, claims, admitted, speaks_current=speaks_current)

    def _admitted_instead(self, reached: ReachedHub, role: Role) -> Trial | None:
        for trial in trials(self._configuration, role, self._topic, reached.profile):
            try:
                if self.status(reached, role, trial.token, _generation(trial)) in (200, 400):
                    return trial
            except Unreachable:
                break
        return None

    def _speaks_current(self, reached: ReachedHub) -> bool | None:
        """Whether the hub knows ``match``; asked with a token of 0.x, which it accepts."""
        token = old_token(self._configuration, "subscribe", self._topic)
        if token is None:
            return None
        try:
            status = self.status(reached, "subscribe", token, "1.0")
        except Unreachable:
            return None
        return {200: True, 400: False}.get(status)


def _generation(trial: Trial) -> Protocol | None:
    """A token of the other generation comes with the parameters of that."""
    if trial.cause is not Cause.GENERATION:
        return None
    return "0.x" if trial.value == "0.x" else "1.0"


def accepted(role: Role, where: str) -> Finding:
    """The hub accepts the app's token."""
    return ok("token", f"the {HOLDERS[role]}'s token is accepted at {where}")


def wrong_audience(
    role: Role, where: str, configuration: Configuration, claims: Claims, resource: str
) -> Finding:
    """The hub's resource identifier is not in the ``aud`` of the token."""
    hint = ""
    if resource.partition("://")[2] == configuration.public_url.partition("://")[2]:
        hint = ". It sees http where a proxy ends TLS: tell it its public URL"
    return problem(
        "token",
        f"the hub refuses the {HOLDERS[role]}'s token at {where}: its own URL is {resource}, and the token "
        f"is for {' and '.join(claims.audience) or 'nobody (no aud)'}{hint}",
        Section.AUDIENCE,
        hub(f"MERCURE_PUBLIC_URL={configuration.public_url}"),
        app(f'MERCURE_PUBLIC_URL = "{resource}"  # if the hub is right'),
    )


def diagnose(
    role: Role,
    where: str,
    configuration: Configuration,
    claims: Claims,
    admitted: Trial,
    *,
    speaks_current: bool | None = None,
) -> Finding:
    """Say what differs between app and hub.

    :param role: whose token was refused.
    :param where: it was refused, in words.
    :param configuration: of the app.
    :param claims: of the token.
    :param admitted: the token that was not refused.
    :param speaks_current: the hub knows the parameters of protocol 1.0; ``None`` if that could not be seen.
    """
    holder, value = HOLDERS[role], admitted.value
    key_name, algorithm_name = f"MERCURE_{holder.upper()}_JWT_KEY", f"MERCURE_{holder.upper()}_JWT_ALG"
    match admitted.cause:
        case Cause.AUDIENCE:
            return wrong_audience(role, where, configuration, claims, value)
        case Cause.ISSUER | Cause.BOTH:
            what = f"it trusts the issuer {value!r}, and that of the app's tokens is {configuration.issuer!r}"
            if admitted.cause is Cause.BOTH:
                what += "; the audience differs too (MERCURE_PUBLIC_URL)"
            section = Section.ISSUER
            lines = [
                hub(f"MERCURE_ISSUER={configuration.issuer}"),
                app(f'MERCURE_ISSUER = "{value}"  # if the hub is right'),
            ]
        case Cause.GENERATION if configuration.protocol == "1.0" and speaks_current is not False:
            what = (
                "the key is right: the hub accepts a token of protocol 0.x made with it, which has no "
                f"issuer. It does not trust the issuer of the app's tokens, {configuration.issuer!r}"
            )
            section = Section.ISSUER
            lines = [hub(f"MERCURE_ISSUER={configuration.issuer}")]
        case Cause.GENERATION:
            what = f"the app makes tokens of protocol {configuration.protocol}, and the hub takes {value}"
            section = Section.GENERATION
            lines = [app(f'MERCURE_PROTOCOL = "{value}"'), hub("MERCURE_PROTOCOL=both")]
        case Cause.ROLE:
            what = (
                f"it verifies {holder}s with the app's key of {HOLDERS[OTHER[role]]}s. The two keys are "
                "exchanged, or the hub has one key for both roles"
            )
            section = Section.SIGNATURE
            lines = [hub(f"{key_name}=<the app's {key_name}, or the public half of it>")]
        case Cause.ALGORITHM:
            what = f"the key is right, the algorithm is {claims.algorithm} in the app and {value} in the hub"
            section = Section.ALGORITHM
            lines = [app(f'{algorithm_name} = "{value}"'), hub(f"{algorithm_name}={claims.algorithm}")]
        case Cause.SPACE:
            what = "the secrets of app and hub differ in white space or a line end at their end"
            section = Section.SIGNATURE
            lines = [
                hub(f"{key_name}=<the secret without the line end>"),
                app('MERCURE_JWT_SECRET = "<the secret without the line end>"'),
            ]
    return problem("token", f"{_refused(role, where)}: {what}", section, *lines)


def unexplained(role: Role, where: str, configuration: Configuration, claims: Claims) -> Finding:
    """The token was refused, and so was every other one that was tried.

    :param role: whose token was refused.
    :param where: it was refused, in words.
    :param configuration: of the app.
    :param claims: of the token.
    """
    name, key = f"MERCURE_{HOLDERS[role].upper()}_JWT_KEY", key_of(configuration, role)
    if not signs(key):
        is_given = role == "publish" and not configuration.makes_publisher_tokens
        origin = configuration.publisher_tokens.origin if is_given else "MERCURE_TOKEN_FACTORY"
        return problem(
            "token",
            f"{_refused(role, where)}. It comes from {origin} (alg {claims.algorithm}, typ "
            f"{claims.type or 'missing'}, iss {claims.issuer!r}, aud "
            f"{', '.join(claims.audience) or 'missing'}), and without its key nothing else can be tried. The "
            "hub's log has the cause",
            Section.TOKEN_REFUSED,
            hub(f"{name}=<the key that verifies such tokens>"),
            hub(f"MERCURE_ISSUER={claims.issuer or configuration.issuer}"),
        )
    is_secret = key is not None and isinstance(key.material, bytes)
    value = (
        f"<the app's {name} or MERCURE_JWT_SECRET>"
        if is_secret
        else f"@<the public half of the app's {name}>"
    )
    return problem(
        "token",
        f"{_refused(role, where)}, and also with another audience, issuer, algorithm and generation: the "
        f"keys differ. The app signs with {claims.algorithm}. If the keys are the same, the hub trusts an "
        "issuer that was not tried; its log has the cause",
        Section.SIGNATURE,
        hub(f"{name}={value}"),
        hub(f"MERCURE_ISSUER={configuration.issuer}"),
    )


def _refused(role: Role, where: str) -> str:
    return f"the hub refuses the {HOLDERS[role]}'s token at {where}"


def refused_at_the_proxy(where: str, status: int, *, by_cookie: bool) -> Finding:
    """The hub accepts the token on its own port, and not through the proxy."""
    summary = (
        f"the hub accepts the token on its own port, and at {where} the answer is {status}: a proxy does "
        "not pass the Authorization header on, or asks for a password of its own"
    )
    if by_cookie:
        summary += ". In the cookie the token arrives: browsers are admitted, other clients are not"
    return (warning if by_cookie else problem)(
        "token",
        summary,
        Symptom.HEADER_LOST,
        nginx("proxy_set_header Authorization $http_authorization;"),
        apache("# in the Location of the hub: neither AuthType nor RequestHeader unset Authorization"),
    )


def forbidden(role: Role, where: str, status: int) -> Finding:
    """The token is valid, and the hub gives an unexpected answer."""
    return problem(
        "token",
        f"the hub at {where} answers {status or 'nothing'} to the {HOLDERS[role]}'s token",
        Section.SCOPE if status == 403 else Section.DEFECT,
    )


def other_parameters(where: str, protocol: Protocol) -> Finding:
    """The hub accepts the token, and not the parameters of its generation."""
    other = "0.x" if protocol == "1.0" else "1.0"
    return problem(
        "token",
        f"the hub at {where} accepts the subscriber's token and answers 400 to the parameters of protocol "
        f"{protocol}",
        Section.GENERATION,
        app(f'MERCURE_PROTOCOL = "{other}"'),
        hub("MERCURE_PROTOCOL=both"),
    )
