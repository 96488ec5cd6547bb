"""The ``MERCURE_`` keys of ``app.config``: one table, the fields of ``HubSettings`` and ``AppSettings``.

A field holds everything about its key: type, reader, default, and the text of docs/extension.md.
``read_hubs`` checks the keys against each other and gives a :class:`Configuration` for each hub.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from enum import Enum, auto
from itertools import combinations
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit

from flask_mercure.config import values
from flask_mercure.config.values import OnFailure
from flask_mercure.cookies import CookiePolicy
from flask_mercure.errors import ConfigurationError
from flask_mercure.tokens import PublisherSource, TokenFactory, TokenSource, load_key
from flask_mercure.topics import EVERYTHING, Protocol, Topic
from mercure_hub.config.settings import PREFIX, VARIABLES
from mercure_hub.protocol.errors import KeyMaterialError, PassphraseError
from mercure_hub.protocol.hub_url import WELL_KNOWN
from mercure_hub.protocol.tokens.credentials import COOKIE, OLD_COOKIE
from mercure_hub.protocol.tokens.keys import Key

DEFAULT_URL = f"http://127.0.0.1:3000{WELL_KNOWN}"
DEFAULT_ISSUER = "urn:flask-mercure"
DEFAULT_NAME = "default"

_VERIFY: bool | str = True

_HUB_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_VARIABLE = re.compile(r"MERCURE_[A-Z0-9_]+")
_COOKIE_NAMES: Mapping[Protocol, str] = {"1.0": COOKIE, "0.x": OLD_COOKIE}
# Of the reference hub and of Symfony's bundle.
_OF_OTHERS = ("MERCURE_EXTRA_DIRECTIVES", "MERCURE_LICENSE", "MERCURE_JWT_TOKEN", "MERCURE_PUBLISH_URL")

_T = TypeVar("_T")


class Sharing(Enum):
    """When a hub in ``MERCURE_HUBS`` takes a key from those of all hubs."""

    ALWAYS = auto()
    WITHOUT_OWN_URL = auto()
    WITHOUT_OWN_CREDENTIAL = auto()


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of the table.

    :param name: the key without the prefix ``MERCURE_``.
    :param read: turns a value into the one to use; raises :class:`ValueError` with the end of a sentence that
        begins with the key.
    :param default: as the reference shows it.
    :param text: what it does, in Markdown.
    :param sharing: when a hub takes it from the keys of all hubs.
    :param is_credential: a hub that has it needs no other key or token.
    :param is_none_a_value: ``None`` differs from unset.
    """

    name: str
    read: Callable[[Any], Any]
    default: str
    text: str
    sharing: Sharing
    is_credential: bool
    is_none_a_value: bool

    @property
    def key(self) -> str:
        """The key of ``app.config``."""
        return PREFIX + self.name


def _setting(
    read: Callable[[Any], _T],
    default: _T,
    shown: str,
    text: str,
    *,
    sharing: Sharing = Sharing.ALWAYS,
    is_credential: bool = False,
    is_none_a_value: bool = False,
) -> _T:
    """A field of the table; ``shown`` is the default in the reference."""
    row = (read, shown, text, sharing, is_credential, is_none_a_value)
    value: _T = field(default=default, metadata={"row": row}, repr=not is_credential)
    return value


def _credential(read: Callable[[Any], _T], text: str) -> _T | None:
    return _setting(read, None, "", text, sharing=Sharing.WITHOUT_OWN_CREDENTIAL, is_credential=True)


def _of_credential(read: Callable[[Any], str], shown: str, text: str) -> str:
    return _setting(read, "", shown, text, sharing=Sharing.WITHOUT_OWN_CREDENTIAL)


def _any(value: object) -> object:
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class HubSettings:
    """The keys of one hub, each read by itself."""

    url: str = _setting(
        values.url,
        DEFAULT_URL,
        f"`{DEFAULT_URL}`",
        "the hub's URL for this server, used to publish",
    )
    public_url: str | None = _setting(
        values.url,
        None,
        "`MERCURE_URL`",
        "the hub's URL for browsers and in the `aud` of their tokens, for example "
        "`https://example.com/.well-known/mercure`",
        sharing=Sharing.WITHOUT_OWN_URL,
    )
    jwt_secret: str | None = _credential(
        values.key_material,
        "secret, PEM private key, JWK or JWK set (these two also as a dict), or `@/path` of a file; the hub "
        "has the same secret, or the public key",
    )
    publisher_jwt_key: str | None = _credential(
        values.key_material, "a separate key for publishers' tokens; enough for an app that only publishes"
    )
    subscriber_jwt_key: str | None = _credential(
        values.key_material,
        "a separate key for subscribers' tokens; enough for an app that only sets cookies",
    )
    jwt_algorithm: str = _of_credential(
        values.text, "`HS256` for a secret, otherwise determined by the key", "JWA name, such as `ES256`"
    )
    publisher_jwt_alg: str = _of_credential(values.text, "`MERCURE_JWT_ALGORITHM`", "the same for one key")
    subscriber_jwt_alg: str = _of_credential(values.text, "`MERCURE_JWT_ALGORITHM`", "the same for one key")
    jwt_passphrase: str = _of_credential(values.secret_text, "", "passphrase of an encrypted PEM")
    jwt_key_id: str = _of_credential(
        values.text, "that of the JWK", "`kid` in the header of tokens; selects a key of a set"
    )
    jwt: str | None = _credential(
        values.token, "ready-made token to publish with; the app then needs no key, see [Tokens](#tokens)"
    )
    token_provider: Callable[[], object] | None = _credential(
        values.provider,
        "callable without arguments that returns the token to publish with, or its import path, see "
        "[Tokens](#tokens)",
    )
    token_factory: TokenSource | None = _credential(
        values.factory,
        "creates the tokens instead of `TokenFactory`: an object, a callable or an import path, see "
        "[Tokens](#tokens)",
    )
    token_lifetime: float = _setting(values.seconds, 3600.0, "3600", "seconds or a `timedelta`")
    revoke_on_logout: bool = _setting(
        values.boolean,
        False,
        "`False`",
        "whether the hub ends a browser's access as soon as `subscribe_grants` gives less than before, "
        "as after a logout ([more](revocation.md))",
    )
    publish_topics: object = _setting(
        _any, None, "`*`", "topics that the app's own token allows it to publish on"
    )
    issuer: str = _setting(
        values.issuer,
        DEFAULT_ISSUER,
        f"`{DEFAULT_ISSUER}`",
        "`iss` of the tokens; the hub trusts this one by default",
    )
    protocol: Protocol = _setting(values.protocol, "1.0", "`1.0`", "`0.x` for hubs before 1.0")
    cookie_name: str | None = _setting(
        values.text,
        None,
        f"`{COOKIE}`; in 0.x `{OLD_COOKIE}`",
        "must be the same in the hub",
    )
    cookie_domain: str | None = _setting(
        values.domain,
        None,
        "none if app and hub share a host, otherwise their common parent",
        "`Domain` of the cookie",
    )
    cookie_path: str | None = _setting(values.text, None, "path of the public URL", "`Path` of the cookie")
    cookie_secure: bool = _setting(values.boolean, True, "`True`", "`Secure` of the cookie")
    cookie_samesite: str | None = _setting(
        values.same_site,
        "",
        "`Strict`",
        "`Strict`, `Lax` or `None`; Python's `None` leaves the attribute out",
        is_none_a_value=True,
    )
    cookie_partitioned: bool = _setting(
        values.boolean,
        False,
        "`False`",
        "`True` for pages in a frame of another site; `SameSite` is then `None`",
    )
    verify_tls: bool | str = _setting(values.verify, _VERIFY, "`True`", "`False`, or the path of a CA file")
    connect_timeout: float = _setting(values.seconds, 2.0, "2", "seconds to connect to the hub")
    timeout: float = _setting(values.seconds, 5.0, "5", "seconds to wait for the hub's answer")


@dataclass(frozen=True, slots=True, kw_only=True)
class AppSettings:
    """The keys of an app that has one or several hubs, each read by itself."""

    hubs: object = _setting(
        _any, None, "", "settings of each hub, by name, see [Several hubs](#several-hubs)"
    )
    default_hub: object = _setting(
        _any, None, "the hub `default`, or the only one", "the hub to use when no name is given"
    )
    on_failure: OnFailure = _setting(
        values.on_failure,
        "raise",
        "`raise`",
        "what `publish` does when it cannot publish an update: `raise`, `log` or `background` "
        "([more](outbox.md))",
    )
    background_queue: int = _setting(
        values.count, 1000, "1000", "updates that may wait with `background`, in each process"
    )
    outbox: object = _setting(
        values.outbox,
        None,
        "no outbox",
        "a Flask-SQLAlchemy object, `True` for the app's own, a `sessionmaker`, an `Engine`, or an import "
        "path ([more](outbox.md))",
    )
    outbox_publish: bool = _setting(
        values.boolean,
        False,
        "`False`",
        "whether `publish` writes to the outbox too",
    )
    relay_thread: bool = _setting(
        values.boolean,
        False,
        "`False`",
        "whether a thread of each process empties the outbox, instead of `flask mercure relay`",
    )
    static_path: str = _setting(
        values.path,
        "/_mercure",
        "`/_mercure`",
        "path at which the app serves its [JavaScript module](javascript.md) and [renews "
        "cookies](javascript.md#the-cookie-ends)",
    )


def _rows(table: type[HubSettings] | type[AppSettings]) -> dict[str, Setting]:
    return {one.name.upper(): Setting(one.name.upper(), *one.metadata["row"]) for one in fields(table)}


OF_A_HUB: dict[str, Setting] = _rows(HubSettings)
TABLE: Mapping[str, Setting] = OF_A_HUB | _rows(AppSettings)
"""The table by the names of keys, without the prefix ``MERCURE_``."""

KEYS = tuple(row.key for row in TABLE.values())
_CREDENTIALS = tuple(name for name, row in TABLE.items() if row.sharing is Sharing.WITHOUT_OWN_CREDENTIAL)


@dataclass(frozen=True, slots=True)
class Naming:
    """How messages name the keys of a hub: as the reader of a message can change them.

    :param hub: its name in ``MERCURE_HUBS``; ``None`` for an app without that key.
    :param own: keys that its entry there has; the others are those of all hubs.
    """

    hub: str | None = None
    own: frozenset[str] = frozenset()

    def __call__(self, name: str) -> str:
        """The name of a key: ``MERCURE_URL``, or ``MERCURE_HUBS['eu']['URL']``.

        :param name: without the prefix ``MERCURE_``.
        """
        return f"MERCURE_HUBS[{self.hub!r}][{name!r}]" if name in self.own else f"MERCURE_{name}"


class ArgumentNaming(Naming):
    """How messages name the keys of a hub that is configured by the arguments of a function."""

    __slots__ = ()

    def __call__(self, name: str) -> str:
        return "key" if name == "JWT_SECRET" else name.lower()


@dataclass(frozen=True, slots=True)
class Configuration:
    """The configuration of one hub, checked.

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
    :param publisher_tokens: gives the token with which the app publishes.
    :param makes_publisher_tokens: whether ``tokens`` makes that token; else the app is given it.
    :param gives_tokens: whether ``tokens`` can make one for a subscriber.
    :param lifetime: of a token, in seconds.
    :param cookie: how the authorization cookie is set.
    :param verify_tls: the ``verify`` argument of requests.
    :param connect_timeout: seconds for the connection.
    :param read_timeout: seconds for the answer.
    :param setting: the name of a key, for messages.
    :param revoke_on_logout: end the access of a browser whose user may read less than before.
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
    revoke_on_logout: bool = False


class _Problems:
    """What is wrong with a configuration: sentences, in the order of the table.

    :param setting: names the keys.
    """

    def __init__(self, setting: Naming) -> None:
        self._setting = setting
        self._sentences: list[tuple[str, str]] = []

    def __bool__(self) -> bool:
        return bool(self._sentences)

    def has(self, *names: str) -> bool:
        """Whether something is wrong with one of these keys."""
        return any(name in names for name, _ in self._sentences)

    def refuse(self, name: str, reason: object) -> None:
        """Refuse the value of a key.

        :param reason: end of a sentence that begins with the key.
        """
        self.add(name, f"{self._setting(name)} {reason}")

    def add(self, name: str, sentence: str) -> None:
        """Add a sentence about a key."""
        self._sentences.append((name, sentence))

    def sentences(self) -> list[str]:
        """All sentences, each once."""
        order = list(TABLE)
        ordered = sorted(self._sentences, key=lambda one: order.index(one[0]))
        return list(dict.fromkeys(sentence for _, sentence in ordered))


_Table = TypeVar("_Table", HubSettings, AppSettings)


def _take(
    table: type[_Table], config: Mapping[str, Any], own: Mapping[str, Any], problems: _Problems
) -> _Table:
    """Read each key of a table; a refused value is a problem, and the default takes its place."""
    has_own_credential = any(TABLE[name].is_credential for name in own)
    taken: dict[str, Any] = {}
    for name, row in _rows(table).items():
        is_shared = not (
            (row.sharing is Sharing.WITHOUT_OWN_URL and "URL" in own)
            or (row.sharing is Sharing.WITHOUT_OWN_CREDENTIAL and has_own_credential)
        )
        is_set, value = name in own, own.get(name)
        if not is_set and is_shared:
            is_set, value = row.key in config, config.get(row.key)
        if value is None or (isinstance(value, str) and not value.strip()):
            if is_set and row.is_none_a_value:
                taken[name.lower()] = None
            continue
        try:
            taken[name.lower()] = row.read(value)
        except ValueError as error:
            problems.refuse(name, error)
    return table(**taken)


def read_app(config: Mapping[str, Any]) -> AppSettings:
    """Read the keys of an app that are not about one hub.

    :param config: the configuration of a Flask app.
    :raises ConfigurationError: with all problems at once.
    """
    problems = _Problems(Naming())
    settings = _take(AppSettings, config, {}, problems)
    if settings.outbox is None and not problems:
        for name, is_on in (
            ("OUTBOX_PUBLISH", settings.outbox_publish),
            ("RELAY_THREAD", settings.relay_thread),
        ):
            if is_on:
                problems.refuse(
                    name, "is on, and MERCURE_OUTBOX is not set: name the database, such as your db object"
                )
    if problems:
        raise ConfigurationError(problems.sentences())
    return settings


def read_hub(
    config: Mapping[str, Any],
    name: str | None = None,
    own: Mapping[str, Any] | None = None,
    *,
    setting: Naming | None = None,
) -> Configuration:
    """Read the keys of one hub.

    :param config: the configuration of a Flask app; its keys that start with ``MERCURE_`` are for all hubs.
        ``None`` and an empty string stand for not set.
    :param name: of the hub in ``MERCURE_HUBS``; ``None`` without that key.
    :param own: the settings of this hub, without the prefix; they win.
    :param setting: names the keys in messages; default: as they are in ``app.config``.
    :raises ConfigurationError: with all problems at once.
    """
    own = own or {}
    setting = setting or Naming(name, frozenset(own))
    problems = _Problems(setting)
    given = _take(HubSettings, config, own, problems)
    public_url = given.public_url or given.url
    factory, static, provider = given.token_factory, given.jwt, given.token_provider
    publish: list[Topic] = [EVERYTHING]
    if given.publish_topics is not None:
        try:
            publish = values.topics(given.publish_topics, given.protocol)
        except ValueError as error:
            problems.refuse("PUBLISH_TOPICS", error)
    purpose: Literal["sign", "verify"] = "sign" if factory is None else "verify"
    publisher_key, subscriber_key = _keys(given, purpose, setting, problems)
    if static is not None and provider is not None:
        problems.refuse(
            "JWT",
            f"and {setting('TOKEN_PROVIDER')} are both set, and the app publishes with one token: keep one "
            "of them",
        )
    credentials = (factory, static, provider, publisher_key, subscriber_key)
    if all(one is None for one in credentials) and not problems.has(*_CREDENTIALS):
        problems.add("JWT_SECRET", _no_credential(name))
    cookie = _cookie(given, public_url, setting, problems)
    if problems or cookie is None:
        raise ConfigurationError(problems.sentences())
    own_factory = TokenFactory(
        issuer=given.issuer,
        audience=cookie.urls(),
        publisher_key=publisher_key,
        subscriber_key=subscriber_key,
        protocol=given.protocol,
        lifetime=given.token_lifetime,
    )
    tokens = factory or TokenSource(own_factory)
    own_claims: dict[str, Any] = {}
    if given.protocol == "1.0" and given.url not in cookie.urls():
        own_claims["aud"] = [*cookie.urls(), given.url]
    if static is not None:
        publisher_tokens = PublisherSource.static(static, setting("JWT"))
    elif provider is not None:
        publisher_tokens = PublisherSource(provider, f"the callable of {setting('TOKEN_PROVIDER')}")
    else:
        publisher_tokens = PublisherSource(
            lambda: tokens.create(publish=publish, additional_claims=own_claims), "the token factory"
        )
    return Configuration(
        url=given.url,
        public_url=public_url,
        protocol=given.protocol,
        issuer=given.issuer,
        publisher_key=publisher_key,
        subscriber_key=subscriber_key,
        own_factory=own_factory,
        tokens=tokens,
        own_claims=own_claims,
        publisher_tokens=publisher_tokens,
        makes_publisher_tokens=static is None and provider is None,
        gives_tokens=factory is not None or subscriber_key is not None,
        lifetime=given.token_lifetime,
        cookie=cookie,
        verify_tls=given.verify_tls,
        connect_timeout=given.connect_timeout,
        read_timeout=given.timeout,
        setting=setting,
        revoke_on_logout=given.revoke_on_logout,
    )


def _no_credential(name: str | None) -> str:
    where = "" if name is None else f", for all hubs or in MERCURE_HUBS[{name!r}] as JWT_SECRET"
    return (
        f"MERCURE_JWT_SECRET is not set in app.config{where} (app.config.from_prefixed_env() takes it from "
        "FLASK_MERCURE_JWT_SECRET in the environment): give it the secret that the hub has as "
        "MERCURE_PUBLISHER_JWT_KEY and MERCURE_SUBSCRIBER_JWT_KEY (the command mercure-hub keys makes one), "
        "or the private key of a pair; or set MERCURE_PUBLISHER_JWT_KEY and MERCURE_SUBSCRIBER_JWT_KEY, "
        "MERCURE_TOKEN_FACTORY, or for publishing alone MERCURE_JWT or MERCURE_TOKEN_PROVIDER"
    )


def _cookie(given: HubSettings, public_url: str, setting: Naming, problems: _Problems) -> CookiePolicy | None:
    """The rules for the authorization cookie, checked against each other."""
    if problems.has(*(name for name in OF_A_HUB if name.startswith("COOKIE_"))):
        return None
    same_site = given.cookie_samesite
    if same_site == "":
        same_site = "None" if given.cookie_partitioned else "Strict"
    try:
        return CookiePolicy(
            given.cookie_name or _COOKIE_NAMES[given.protocol],
            public_url,
            given.cookie_path or urlsplit(public_url).path,
            given.cookie_domain,
            given.cookie_secure,
            same_site,
            given.cookie_partitioned,
            setting=setting,
        )
    except ValueError as error:
        problems.add("COOKIE_NAME", str(error))
        return None


def _keys(
    given: HubSettings, purpose: Literal["sign", "verify"], setting: Naming, problems: _Problems
) -> tuple[Key | None, Key | None]:
    """The keys of publishers and subscribers: one object when both roles have the same."""
    loaded: dict[tuple[str, str], Key | None] = {}

    def load(own_key: str | None, key_name: str, own_algorithm: str, alg_name: str) -> Key | None:
        if problems.has(key_name):
            return None
        key_name, value = (key_name, own_key) if own_key else ("JWT_SECRET", given.jwt_secret)
        alg_name, algorithm = (
            (alg_name, own_algorithm) if own_algorithm else ("JWT_ALGORITHM", given.jwt_algorithm)
        )
        if not value:
            return None
        if (value, algorithm) not in loaded:
            loaded[value, algorithm] = None
            try:
                loaded[value, algorithm] = load_key(
                    value,
                    algorithm,
                    purpose=purpose,
                    passphrase=given.jwt_passphrase or None,
                    kid=given.jwt_key_id or None,
                )
            except KeyMaterialError as error:
                named = setting(key_name)
                if algorithm:
                    named += f" (with {setting(alg_name)}={algorithm!r})"
                if isinstance(error, PassphraseError):
                    named += f" (with {setting('JWT_PASSPHRASE')})"
                problems.add(key_name, f"{named} cannot be used: {error}")
        return loaded[value, algorithm]

    return (
        load(given.publisher_jwt_key, "PUBLISHER_JWT_KEY", given.publisher_jwt_alg, "PUBLISHER_JWT_ALG"),
        load(given.subscriber_jwt_key, "SUBSCRIBER_JWT_KEY", given.subscriber_jwt_alg, "SUBSCRIBER_JWT_ALG"),
    )


def read_hubs(config: Mapping[str, Any]) -> tuple[dict[str, Configuration], str]:
    """Read the settings of all hubs.

    :param config: the configuration of a Flask app.
    :returns: the settings by the names of the hubs, in their order, and the name of the default hub.
    :raises ConfigurationError: with all problems of all hubs at once.
    """
    entries = config.get("MERCURE_HUBS")
    asked = config.get("MERCURE_DEFAULT_HUB") or None
    if entries is None:
        if asked is not None:
            raise ConfigurationError(
                f"MERCURE_DEFAULT_HUB is {asked!r}, and MERCURE_HUBS is not set: the one hub has no name"
            )
        return {DEFAULT_NAME: read_hub(config)}, DEFAULT_NAME
    if not isinstance(entries, Mapping) or not entries:
        what = f"a {type(entries).__name__}" if not isinstance(entries, Mapping) else "empty"
        raise ConfigurationError(
            f"MERCURE_HUBS is {what}; give a mapping of names to settings, such as "
            "{'default': {'URL': 'http://127.0.0.1:3000/.well-known/mercure'}}"
        )
    problems: list[str] = []
    hubs: dict[str, Configuration] = {}
    for name, own in entries.items():
        wrong = _wrong_entry(name, own)
        problems += wrong
        if not wrong:
            try:
                hubs[name] = read_hub(config, name, own)
            except ConfigurationError as error:
                problems += error.problems
    default = _default(asked, entries, problems)
    if not problems:
        problems += _collisions(hubs)
    if problems:
        raise ConfigurationError(list(dict.fromkeys(problems)))  # that of a shared key, once
    return hubs, default


def _wrong_entry(name: object, own: object) -> list[str]:
    if not isinstance(name, str) or not _HUB_NAME.fullmatch(name):
        return [
            f"MERCURE_HUBS has a hub named {name!r}; a name has letters, digits, '.', '_' and '-', 64 at most"
        ]
    if not isinstance(own, Mapping):
        return [
            f"MERCURE_HUBS[{name!r}] is a {type(own).__name__}; give a mapping of settings, such as "
            "{'URL': 'http://127.0.0.1:3000/.well-known/mercure'}"
        ]
    return [
        f"MERCURE_HUBS[{name!r}] has {key!r}, which is not known{_hint(key)}"
        for key in own
        if not isinstance(key, str) or key not in OF_A_HUB
    ]


def closest(key: object) -> str | None:
    """The key of a hub, without the prefix, that is most like what somebody wrote."""
    close = get_close_matches(str(key).upper().removeprefix(PREFIX), sorted(OF_A_HUB), 1)
    return close[0] if close else None


def _hint(key: object) -> str:
    close = closest(key)
    return f"; do you mean {close!r}?" if close else f": it can have {', '.join(sorted(OF_A_HUB))}"


def _default(asked: object, entries: Mapping[str, Any], problems: list[str]) -> str:
    """The hub that is asked for, or that named ``default``, or the only one."""
    names = ", ".join(map(repr, entries))
    if asked is not None:
        if isinstance(asked, str) and asked in entries:
            return asked
        problems.append(f"MERCURE_DEFAULT_HUB is {asked!r}, which MERCURE_HUBS does not have; it has {names}")
    elif DEFAULT_NAME in entries or len(entries) == 1:
        return DEFAULT_NAME if DEFAULT_NAME in entries else next(iter(entries))
    else:
        problems.append(
            f"MERCURE_HUBS has {names}, but no hub 'default': set MERCURE_DEFAULT_HUB to the one that is "
            "meant when none is named"
        )
    return DEFAULT_NAME


def _collisions(hubs: Mapping[str, Configuration]) -> Iterable[str]:
    """Hubs whose cookies a browser would keep as one, so that the later replaces the earlier."""
    for (one, first), (other, second) in combinations(hubs.items(), 2):
        if first.gives_tokens and second.gives_tokens and first.cookie.collides_with(second.cookie):
            yield (
                f"the hubs {one!r} and {other!r} have the same cookie, {first.cookie.name!r} for the path "
                f"{first.cookie.path!r} of {first.cookie.host!r} and {second.cookie.host!r} (ports make no "
                "difference): a browser would keep one of them. Give one hub another COOKIE_NAME, in the hub "
                "too"
            )


def unknown_names(config: Iterable[object], environment: Iterable[str]) -> Iterator[str]:
    """A warning for each name that looks like a setting but is unknown.

    :param config: names in the app's configuration.
    :param environment: names of the process's variables. Only those close to a setting are reported: an
        orchestrator makes others, such as ``MERCURE_SERVICE_HOST`` for a service with the name mercure.
    """
    in_config = {name for name in config if isinstance(name, str)}
    known = {*KEYS, *VARIABLES, *_OF_OTHERS}
    for name in sorted(in_config | set(environment)):
        if not _VARIABLE.fullmatch(name) or name in known:
            continue
        near = get_close_matches(name, sorted(KEYS), 1, 0.85)
        if near or name in in_config:
            where = "the app's configuration" if name in in_config else "the environment"
            hint = f"; did you mean {near[0]}?" if near else ""
            yield f"{name} in {where} is not a setting of flask-mercure{hint}"


def reference() -> str:
    """The table as Markdown, for docs/extension.md."""
    rows = (f"| `{row.key}` | {row.default} | {row.text} |\n" for row in TABLE.values())
    return "| key | default | |\n|---|---|---|\n" + "".join(rows)
