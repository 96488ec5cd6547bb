"""The configuration of an app, read and checked once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit

from flask_mercure import conversion
from flask_mercure.cookie import CookiePolicy
from flask_mercure.errors import ConfigurationError
from flask_mercure.matchers import Protocol
from flask_mercure.token_source import TokenSource
from flask_mercure.tokens import TokenFactory
from hub.protocol import keys
from hub.protocol.errors import KeyMaterialError
from hub.protocol.keys import Key

DEFAULT_URL = "http://127.0.0.1:3000/.well-known/mercure"
DEFAULT_ISSUER = "urn:flask-mercure"
COOKIE_NAMES: Mapping[Protocol, str] = {
    "1.0": "__Secure-mercure_access_token",
    "0.x": "mercureAuthorization",
}

_DEFAULT_PROTOCOL: Protocol = "1.0"
_DEFAULT_VERIFY: bool | str = True

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Configuration:
    """What the app's configuration says, checked.

    :param url: of the hub, where the app publishes.
    :param public_url: of the hub, for browsers.
    :param protocol: generation that the app speaks.
    :param issuer: ``iss`` of the tokens.
    :param publisher_key: of the tokens that publish; ``None`` when not configured.
    :param subscriber_key: of the tokens that subscribe; ``None`` when not configured.
    :param own_factory: knows the claims of a token; signs it unless another factory is configured.
    :param tokens: makes all tokens.
    :param lifetime: of a token, in seconds.
    :param cookie: how the authorization cookie is set.
    :param verify_tls: the ``verify`` argument of requests.
    :param connect_timeout: seconds for the connection.
    :param read_timeout: seconds for the answer.
    """

    url: str
    public_url: str
    protocol: Protocol
    issuer: str
    publisher_key: Key | None
    subscriber_key: Key | None
    own_factory: TokenFactory
    tokens: TokenSource
    lifetime: float
    cookie: CookiePolicy
    verify_tls: bool | str
    connect_timeout: float
    read_timeout: float


def read(config: Mapping[str, Any]) -> Configuration:
    """Read the keys that start with ``MERCURE_``.

    :param config: the configuration of a Flask app. ``None`` and an empty string stand for not set.
    :raises ConfigurationError: with all problems at once.
    """
    source = _Source(config)
    url = source.take("MERCURE_URL", conversion.url, DEFAULT_URL)
    public_url = source.take("MERCURE_PUBLIC_URL", conversion.url, url)
    protocol = source.take("MERCURE_PROTOCOL", conversion.protocol, _DEFAULT_PROTOCOL)
    issuer = source.take("MERCURE_ISSUER", conversion.issuer, DEFAULT_ISSUER)
    lifetime = source.take("MERCURE_TOKEN_LIFETIME", conversion.seconds, 3600.0)
    factory = source.take("MERCURE_TOKEN_FACTORY", conversion.factory, None)
    publisher_key, subscriber_key = _keys(source, "sign" if factory is None else "verify")
    if factory is None and publisher_key is None and subscriber_key is None and not source.problems:
        source.problems.append(
            "MERCURE_JWT_SECRET is not set: give it the secret that the hub has as MERCURE_PUBLISHER_JWT_KEY "
            "and MERCURE_SUBSCRIBER_JWT_KEY (the command mercure-hub keys makes one), or the private key of "
            "a pair; or set MERCURE_PUBLISHER_JWT_KEY and MERCURE_SUBSCRIBER_JWT_KEY, or "
            "MERCURE_TOKEN_FACTORY"
        )
    cookie = source.cookie(public_url, protocol)
    verify_tls = source.take("MERCURE_VERIFY_TLS", conversion.verify, _DEFAULT_VERIFY)
    connect_timeout = source.take("MERCURE_CONNECT_TIMEOUT", conversion.seconds, 2.0)
    read_timeout = source.take("MERCURE_TIMEOUT", conversion.seconds, 5.0)
    if source.problems or cookie is None:
        raise ConfigurationError(source.problems)
    own_factory = TokenFactory(
        issuer=issuer,
        audience=[public_url, url],
        publisher_key=publisher_key,
        subscriber_key=subscriber_key,
        protocol=protocol,
        lifetime=lifetime,
    )
    return Configuration(
        url=url,
        public_url=public_url,
        protocol=protocol,
        issuer=issuer,
        publisher_key=publisher_key,
        subscriber_key=subscriber_key,
        own_factory=own_factory,
        tokens=factory or TokenSource(own_factory),
        lifetime=lifetime,
        cookie=cookie,
        verify_tls=verify_tls,
        connect_timeout=connect_timeout,
        read_timeout=read_timeout,
    )


class _Source:
    """Takes values one by one and collects what is wrong with them."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._config = config
        self.problems: list[str] = []

    def get(self, key: str) -> Any:
        """The value, or ``None`` when it is not set."""
        value = self._config.get(key)
        return None if isinstance(value, str) and not value.strip() else value

    def take(self, key: str, convert: Callable[[Any], _T], default: _T) -> _T:
        """The converted value; a refused one leaves a problem behind and gives the default."""
        value = self.get(key)
        if value is None:
            return default
        try:
            return convert(value)
        except ValueError as error:
            self.problems.append(f"{key} {error}")
            return default

    def cookie(self, public_url: str, protocol: Protocol) -> CookiePolicy | None:
        """The rules for the authorization cookie, checked against each other."""
        known = len(self.problems)
        name = self.take("MERCURE_COOKIE_NAME", conversion.text, COOKIE_NAMES[protocol])
        path = self.take("MERCURE_COOKIE_PATH", conversion.text, urlsplit(public_url).path)
        domain = self.take("MERCURE_COOKIE_DOMAIN", conversion.domain, None)
        secure = self.take("MERCURE_COOKIE_SECURE", conversion.boolean, default=True)
        same_site: str | None = "Strict"
        if "MERCURE_COOKIE_SAMESITE" in self._config:  # None has a meaning: no such attribute
            same_site = self.take("MERCURE_COOKIE_SAMESITE", conversion.same_site, None)
        if len(self.problems) > known:
            return None
        try:
            return CookiePolicy(name, public_url, path, domain, secure, same_site)
        except ValueError as error:
            self.problems.append(str(error))
            return None


def _keys(source: _Source, purpose: Literal["sign", "verify"]) -> tuple[Key | None, Key | None]:
    """The keys of publishers and subscribers: one object when both roles have the same."""
    passphrase = source.take("MERCURE_JWT_PASSPHRASE", conversion.key_material, "")
    loaded: dict[tuple[str, str], Key | None] = {}

    def load(role: str) -> Key | None:
        key_name, alg_name = f"MERCURE_{role}_JWT_KEY", f"MERCURE_{role}_JWT_ALG"
        if source.get(key_name) is None:
            key_name = "MERCURE_JWT_SECRET"
        if source.get(alg_name) is None:
            alg_name = "MERCURE_JWT_ALGORITHM"
        value = source.take(key_name, conversion.key_material, "")
        algorithm = source.take(alg_name, conversion.text, "")
        if not value:
            return None
        if (value, algorithm) not in loaded:
            loaded[value, algorithm] = None
            try:
                loaded[value, algorithm] = keys.load(
                    value, algorithm, purpose=purpose, passphrase=passphrase or None
                )
            except KeyMaterialError as error:
                named = f"{key_name} (with {alg_name}={algorithm!r})" if algorithm else key_name
                if "passphrase" in str(error):
                    named += " (with MERCURE_JWT_PASSPHRASE)"
                source.problems.append(f"{named} cannot be used: {error}")
        return loaded[value, algorithm]

    pair = load("PUBLISHER"), load("SUBSCRIBER")
    source.problems[:] = dict.fromkeys(source.problems)  # of a shared value, once
    return pair
