"""The configuration of one hub, read and checked once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit

from flask_mercure.configuration import conversion
from flask_mercure.configuration.naming import Naming
from flask_mercure.cookies import CookiePolicy
from flask_mercure.errors import ConfigurationError
from flask_mercure.tokens import PublisherSource, TokenFactory, TokenSource, load_key
from flask_mercure.topics import EVERYTHING, Protocol, Topic
from mercure_hub.protocol.errors import KeyMaterialError
from mercure_hub.protocol.identity import WELL_KNOWN
from mercure_hub.protocol.tokens.credentials import COOKIE, OLD_COOKIE
from mercure_hub.protocol.tokens.keys import Key

DEFAULT_URL = f"http://127.0.0.1:3000{WELL_KNOWN}"
DEFAULT_ISSUER = "urn:flask-mercure"
COOKIE_NAMES: Mapping[Protocol, str] = {"1.0": COOKIE, "0.x": OLD_COOKIE}

_DEFAULT_PROTOCOL: Protocol = "1.0"
_DEFAULT_VERIFY: bool | str = True

_CREDENTIALS = frozenset(
    ("JWT", "TOKEN_PROVIDER", "TOKEN_FACTORY", "JWT_SECRET", "PUBLISHER_JWT_KEY", "SUBSCRIBER_JWT_KEY")
)
_OF_CREDENTIALS = frozenset(
    ("JWT_ALGORITHM", "PUBLISHER_JWT_ALG", "SUBSCRIBER_JWT_ALG", "JWT_PASSPHRASE", "JWT_KEY_ID")
)
_OF_COOKIE = frozenset(
    f"COOKIE_{name}" for name in ("NAME", "PATH", "DOMAIN", "SECURE", "SAMESITE", "PARTITIONED")
)
KEYS = _CREDENTIALS | _OF_CREDENTIALS | _OF_COOKIE | {
    *("URL", "PUBLIC_URL", "PROTOCOL", "ISSUER", "TOKEN_LIFETIME", "PUBLISH_TOPICS"),
    *("VERIFY_TLS", "CONNECT_TIMEOUT", "TIMEOUT"),
}  # fmt: skip
"""What a hub can be configured with, without the prefix ``MERCURE_``."""

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Configuration:
    """What the app's configuration says of one hub, checked.

    :param url: of the hub, where the app publishes.
    :param public_url: of the hub, for browsers.
    :param protocol: generation that the app speaks.
    :param issuer: ``iss`` of the tokens.
    :param publisher_key: of the tokens that publish; ``None`` when not configured.
    :param subscriber_key: of the tokens that subscribe; ``None`` when not configured.
    :param own_factory: knows the claims of a token; signs it unless another factory is configured.
    :param tokens: makes all tokens.
    :param own_claims: added to those of the app itself: a hub that goes by ``Host`` knows itself by ``url``
        when the app asks it. Nobody else's token names that internal URL.
    :param publisher_tokens: where the app has the token from with which it publishes.
    :param makes_publisher_tokens: whether the app makes that token itself, with ``tokens``.
    :param gives_tokens: whether ``tokens`` can make one for a subscriber.
    :param lifetime: of a token, in seconds.
    :param cookie: how the authorization cookie is set.
    :param verify_tls: the ``verify`` argument of requests.
    :param connect_timeout: seconds for the connection.
    :param read_timeout: seconds for the answer.
    :param setting: the name of a setting, for messages.
    """

    url: str
    public_url: str
    protocol: Protocol
    issuer: str
    publisher_key: Key | None
    subscriber_key: Key | None
    own_factory: TokenFactory
    tokens: TokenSource
    own_claims: Mapping[str, Any]
    publisher_tokens: PublisherSource
    makes_publisher_tokens: bool
    gives_tokens: bool
    lifetime: float
    cookie: CookiePolicy
    verify_tls: bool | str
    connect_timeout: float
    read_timeout: float
    setting: Naming = field(default_factory=Naming)


def read(
    config: Mapping[str, Any], name: str | None = None, own: Mapping[str, Any] | None = None
) -> Configuration:
    """Read the settings of one hub.

    :param config: the configuration of a Flask app; its keys that start with ``MERCURE_`` are for all hubs.
        ``None`` and an empty string stand for not set.
    :param name: of the hub in ``MERCURE_HUBS``; ``None`` without that key.
    :param own: the settings of this hub, without the prefix; they win.
    :raises ConfigurationError: with all problems at once.
    """
    source = Source(config, name, own)
    url = source.take("URL", conversion.url, DEFAULT_URL)
    public_url = source.take("PUBLIC_URL", conversion.url, url)
    protocol = source.take("PROTOCOL", conversion.protocol, _DEFAULT_PROTOCOL)
    issuer = source.take("ISSUER", conversion.issuer, DEFAULT_ISSUER)
    lifetime = source.take("TOKEN_LIFETIME", conversion.seconds, 3600.0)
    every: list[Topic] = [EVERYTHING]
    publish = source.take("PUBLISH_TOPICS", lambda value: conversion.topics(value, protocol), every)
    factory = source.take("TOKEN_FACTORY", conversion.factory, None)
    static = source.take("JWT", conversion.token, None)
    provider = source.take("TOKEN_PROVIDER", conversion.provider, None)
    publisher_key, subscriber_key = _keys(source, "sign" if factory is None else "verify")
    setting = source.setting
    if static is not None and provider is not None:
        source.problems.append(
            f"{setting('JWT')} and {setting('TOKEN_PROVIDER')} are both set, and the app publishes with one "
            "token: keep one of them"
        )
    signers = (factory, static, provider, publisher_key, subscriber_key)
    if all(one is None for one in signers) and not source.problems:
        source.problems.append(_no_key(name))
    cookie = source.cookie(public_url, protocol)
    verify_tls = source.take("VERIFY_TLS", conversion.verify, _DEFAULT_VERIFY)
    connect_timeout = source.take("CONNECT_TIMEOUT", conversion.seconds, 2.0)
    read_timeout = source.take("TIMEOUT", conversion.seconds, 5.0)
    if source.problems or cookie is None:
        raise ConfigurationError(source.problems)
    own_factory = TokenFactory(
        issuer=issuer,
        audience=cookie.urls(),
        publisher_key=publisher_key,
        subscriber_key=subscriber_key,
        protocol=protocol,
        lifetime=lifetime,
    )
    tokens = factory or TokenSource(own_factory)
    own_claims: dict[str, Any] = {}
    if protocol == "1.0" and url not in cookie.urls():
        own_claims["aud"] = [*cookie.urls(), url]
    if static is not None:
        publisher_tokens = PublisherSource.static(static, setting("JWT"))
    elif provider is not None:
        publisher_tokens = PublisherSource(provider, f"the callable of {setting('TOKEN_PROVIDER')}")
    else:
        publisher_tokens = PublisherSource(
            lambda: tokens.create(publish=publish, additional_claims=own_claims), "the token factory"
        )
    return Configuration(
        url=url,
        public_url=public_url,
        protocol=protocol,
        issuer=issuer,
        publisher_key=publisher_key,
        subscriber_key=subscriber_key,
        own_factory=own_factory,
        tokens=tokens,
        own_claims=own_claims,
        publisher_tokens=publisher_tokens,
        makes_publisher_tokens=static is None and provider is None,
        gives_tokens=factory is not None or subscriber_key is not None,
        lifetime=lifetime,
        cookie=cookie,
        verify_tls=verify_tls,
        connect_timeout=connect_timeout,
        read_timeout=read_timeout,
        setting=setting,
    )


def _no_key(name: str | None) -> str:
    where = "" if name is None else f", for all hubs or in MERCURE_HUBS[{name!r}] as JWT_SECRET"
    return (
        f"MERCURE_JWT_SECRET is not set in app.config{where} (app.config.from_prefixed_env() takes it from "
        "FLASK_MERCURE_JWT_SECRET in the environment): give it the secret that the hub has as "
        "MERCURE_PUBLISHER_JWT_KEY and MERCURE_SUBSCRIBER_JWT_KEY (the command mercure-hub keys makes one), "
        "or the private key of a pair; or set MERCURE_PUBLISHER_JWT_KEY and MERCURE_SUBSCRIBER_JWT_KEY, "
        "MERCURE_TOKEN_FACTORY, or for publishing alone MERCURE_JWT or MERCURE_TOKEN_PROVIDER"
    )


class Source:
    """Takes values one by one and collects what is wrong with them, in ``problems``.

    :param config: the configuration of a Flask app.
    :param name: of a hub in ``MERCURE_HUBS``, if it is about one.
    :param own: the settings of that hub.
    """

    def __init__(
        self, config: Mapping[str, Any], name: str | None = None, own: Mapping[str, Any] | None = None
    ) -> None:
        own = own or {}
        self._config = config
        self._own = own
        self.setting = Naming(name, frozenset(own))
        # Of a hub with an address or keys of its own, no part is taken from another hub's.
        self._not_shared: frozenset[str] = frozenset()
        if "URL" in own:
            self._not_shared |= {"PUBLIC_URL"}
        if _CREDENTIALS & set(own):
            self._not_shared |= _CREDENTIALS | _OF_CREDENTIALS
        self.problems: list[str] = []

    def has(self, key: str) -> bool:
        """Whether it is set, be it to ``None``."""
        return key in self._own or (key not in self._not_shared and f"MERCURE_{key}" in self._config)

    def get(self, key: str) -> Any:
        """The value, or ``None`` when it is not set."""
        if key in self._own:
            value = self._own[key]
        else:
            value = None if key in self._not_shared else self._config.get(f"MERCURE_{key}")
        return None if isinstance(value, str) and not value.strip() else value

    def take(self, key: str, convert: Callable[[Any], _T], default: _T) -> _T:
        """The converted value; a refused one leaves a problem behind and gives the default."""
        value = self.get(key)
        if value is None:
            return default
        try:
            return convert(value)
        except ValueError as error:
            self.problems.append(f"{self.setting(key)} {error}")
            return default

    def cookie(self, public_url: str, protocol: Protocol) -> CookiePolicy | None:
        """The rules for the authorization cookie, checked against each other."""
        known = len(self.problems)
        name = self.take("COOKIE_NAME", conversion.text, COOKIE_NAMES[protocol])
        path = self.take("COOKIE_PATH", conversion.text, urlsplit(public_url).path)
        domain = self.take("COOKIE_DOMAIN", conversion.domain, None)
        secure = self.take("COOKIE_SECURE", conversion.boolean, default=True)
        partitioned = self.take("COOKIE_PARTITIONED", conversion.boolean, default=False)
        same_site: str | None = "None" if partitioned else "Strict"
        if self.has("COOKIE_SAMESITE"):  # None has a meaning: no such attribute
            same_site = self.take("COOKIE_SAMESITE", conversion.same_site, None)
        if len(self.problems) > known:
            return None
        try:
            return CookiePolicy(
                name, public_url, path, domain, secure, same_site, partitioned, setting=self.setting
            )
        except ValueError as error:
            self.problems.append(str(error))
            return None


def _keys(source: Source, purpose: Literal["sign", "verify"]) -> tuple[Key | None, Key | None]:
    """The keys of publishers and subscribers: one object when both roles have the same."""
    passphrase = source.take("JWT_PASSPHRASE", conversion.secret_text, "")
    kid = source.take("JWT_KEY_ID", conversion.text, None)
    loaded: dict[tuple[str, str], Key | None] = {}

    def load(role: str) -> Key | None:
        key_name, alg_name = f"{role}_JWT_KEY", f"{role}_JWT_ALG"
        if source.get(key_name) is None:
            key_name = "JWT_SECRET"
        if source.get(alg_name) is None:
            alg_name = "JWT_ALGORITHM"
        value = source.take(key_name, conversion.key_material, "")
        algorithm = source.take(alg_name, conversion.text, "")
        if not value:
            return None
        if (value, algorithm) not in loaded:
            loaded[value, algorithm] = None
            try:
                loaded[value, algorithm] = load_key(
                    value, algorithm, purpose=purpose, passphrase=passphrase or None, kid=kid
                )
            except KeyMaterialError as error:
                named = source.setting(key_name)
                if algorithm:
                    named += f" (with {source.setting(alg_name)}={algorithm!r})"
                if "passphrase" in str(error):
                    named += f" (with {source.setting('JWT_PASSPHRASE')})"
                source.problems.append(f"{named} cannot be used: {error}")
        return loaded[value, algorithm]

    pair = load("PUBLISHER"), load("SUBSCRIBER")
    source.problems[:] = dict.fromkeys(source.problems)  # of a shared value, once
    return pair
