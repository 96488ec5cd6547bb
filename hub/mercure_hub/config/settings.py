"""The settings of a hub: one table, the fields of ``Settings``.

A field holds everything about its setting: type, reader, default, text, and whether SIGHUP may change it.
``--help``, docs/settings.md and the warnings about misspelt variables are made from it.
``mercure_hub.config.loading`` reads the values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from mercure_hub.config.issuers import reference as issuer_reference
from mercure_hub.config.retention import reference as retention_reference
from mercure_hub.config.values import (
    Network,
    address,
    algorithms,
    boolean,
    cookie_name,
    count,
    database,
    networks,
    one_of,
    optional_address,
    optional_url,
    origins,
    plain,
    rotation,
    seconds,
    urls,
    workers,
)
from mercure_hub.protocol.tokens.credentials import COOKIE
from mercure_hub.protocol.tokens.issuer import Issuer
from mercure_hub.protocol.tokens.keys import Key
from mercure_hub.storage.interface import Retention, Rule

if TYPE_CHECKING:  # they need compiled packages; the extension reads this table without them
    from mercure_hub.protocol.hub_url import Identity
    from mercure_hub.protocol.tokens.claims import Protocol

PREFIX = "MERCURE_"

_T = TypeVar("_T")


class SettingError(Exception):
    """A setting cannot be used; the message names it and says what to do."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of the table.

    :param name: as in the TOML file.
    :param read: turns text into the value; raises ``ValueError`` with the reason.
    :param default: as text.
    :param form: what the text looks like.
    :param text: what it does.
    :param group: heading in the reference.
    :param is_secret: the value is never shown.
    :param is_reloadable: SIGHUP changes it in a running hub; the others need a restart.
    :param in_playground: text that replaces the default in a playground.
    """

    name: str
    read: Callable[[str], Any]
    default: str
    form: str
    text: str
    group: str
    is_secret: bool
    is_reloadable: bool
    in_playground: str | None

    @property
    def variable(self) -> str:
        """The environment variable."""
        return PREFIX + self.name.upper()

    @property
    def flag(self) -> str:
        """The command line flag."""
        return "--" + self.name.replace("_", "-")

    @property
    def is_switch(self) -> bool:
        """Whether its flag needs no value."""
        return self.read is boolean


def _setting(
    group: str,
    read: Callable[[str], _T],
    default: str,
    form: str,
    text: str,
    *,
    reloadable: bool = False,
    in_playground: str | None = None,
) -> _T:
    """A field of ``Settings``; the arguments are those of ``Setting``."""
    row = (read, default, form, text, group, False, reloadable, in_playground)
    value: _T = field(default=read(default), metadata={"row": row})
    return value


def _switch(
    group: str, text: str, *, default: str = "0", reloadable: bool = False, in_playground: str | None = None
) -> bool:
    return _setting(group, boolean, default, "0|1", text, reloadable=reloadable, in_playground=in_playground)


def _key(text: str) -> Key | None:
    row = (plain, "", "secret, PEM text or @/path", text, _KEYS, True, True, None)
    value: Key | None = field(default=None, metadata={"row": row}, repr=False)
    return value


_URL, _KEYS, _WHO, _STORE, _STREAM, _WATCH, _LOG = (
    "Address",
    "Keys",
    "Who may do what",
    "Storage",
    "Streams and limits",
    "Health and metrics",
    "Log",
)
_LOCAL_ORIGINS = "http://localhost:* http://127.0.0.1:* http://[::1]:*"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings of one hub, read and checked.

    :param issuers: whose tokens the hub accepts: the one of the table, then those of ``[[issuer]]``
        tables.
    :param retention: the ``[[retention]]`` tables.
    """

    listen: tuple[str, int] = _setting(
        _URL, address, "127.0.0.1:3000", "ADDRESS:PORT", "Where the hub accepts connections."
    )
    public_url: Identity | None = _setting(
        _URL,
        optional_url,
        "",
        "URL",
        "The hub's URL as clients know it: what tokens name in aud, base of relative patterns; its path is "
        "that of subscription topics and of the reserved namespace. Unset: derived from each request. "
        "Required with several issuers and with keys at a URL.",
    )
    allowed_urls: tuple[str, ...] = _setting(
        _URL, urls, "", "URL ...", "Public URLs that are served; others get 421. Unset: all."
    )
    trusted_proxies: tuple[Network, ...] = _setting(
        _URL,
        networks,
        "",
        "ADDRESS ...",
        "Proxies whose X-Forwarded-For, -Proto and -Host count: addresses or networks.",
    )
    tls_cert: str = _setting(
        _URL,
        plain,
        "",
        "PATH",
        "Certificate chain in PEM; with it the hub speaks HTTPS, with HTTP/2 where a client can.",
        reloadable=True,
    )
    tls_key: str = _setting(
        _URL,
        plain,
        "",
        "PATH",
        "Private key of the certificate, if it is in another file.",
        reloadable=True,
    )
    workers: int = _setting(
        _URL,
        workers,
        "1",
        "NUMBER",
        "Processes that share the port and the history. One for each core is enough.",
    )
    publisher_jwt_key: Key | None = _key(
        "Key that verifies publishers' tokens. Required, unless there is a JWK set or an [[issuer]] table. "
        "PEM text may have \\n for its line ends."
    )
    publisher_jwt_alg: str = _setting(
        _KEYS,
        algorithms,
        "",
        "NAME ...",
        "Algorithms of that key. Unset: HS256 for a secret, else what fits the key.",
        reloadable=True,
    )
    publisher_jwt_key_fallback: Key | None = _key(
        "A second key that verifies publishers' tokens while keys are changed: the previous one."
    )
    subscriber_jwt_key: Key | None = _key(
        "Key that verifies subscribers' tokens. Unset: the publisher's key."
    )
    subscriber_jwt_alg: str = _setting(
        _KEYS, algorithms, "", "NAME ...", "Algorithms of that key.", reloadable=True
    )
    subscriber_jwt_key_fallback: Key | None = _key(
        "The same for subscribers' tokens. Unset: that of publishers, if they share the key."
    )
    issuer: str = _setting(
        _KEYS,
        plain,
        "urn:flask-mercure",
        "NAME",
        "The iss of the tokens that these keys sign.",
        reloadable=True,
    )
    jwks_file: str = _setting(
        _KEYS, plain, "", "PATH", "File with a JWK set: more keys of that issuer.", reloadable=True
    )
    jwks_uri: str = _setting(
        _KEYS,
        plain,
        "",
        "URL",
        "URL of a JWK set, fetched and renewed in the background: more keys of that issuer. Must be https.",
        reloadable=True,
    )
    jwks_allow_private: bool = _switch(
        _KEYS,
        "That URL may lead into a private network, or to this host; to this host, plain http is allowed "
        "then.",
        reloadable=True,
    )
    authorization_server: bool = _switch(
        _KEYS, "Tell clients, in the hub's metadata, that they can get tokens from that issuer."
    )
    protocol: Protocol = _setting(
        _WHO,
        one_of("both", "1.0", "0.x"),
        "both",
        "both|1.0|0.x",
        "Generations of the protocol that are spoken.",
    )
    anonymous: bool = _switch(
        _WHO, "Admit subscribers without a token, to public updates.", in_playground="1"
    )
    subscriptions: bool = _switch(
        _WHO,
        "Active subscriptions: their events and their API. A matcher may have 512 characters then.",
        in_playground="1",
    )
    revocations: bool = _switch(
        _WHO,
        "Serve /revocations below the hub's URL, where publishers whose token allows it end the access of "
        "users at once.",
        in_playground="1",
    )
    cors_origins: tuple[str, ...] = _setting(
        _WHO,
        origins,
        "",
        "ORIGIN ...",
        "Origins whose pages may subscribe, with their cookies; http://localhost:* for all its ports, "
        "https://*.example.com for its subdomains of one label. * admits the others without cookies.",
        in_playground=_LOCAL_ORIGINS,
    )
    publish_origins: tuple[str, ...] = _setting(
        _WHO,
        origins,
        "",
        "ORIGIN ...",
        "Further origins whose pages may publish with a cookie, in the same forms; * for all.",
        in_playground=_LOCAL_ORIGINS,
    )
    cookie_name: str = _setting(_WHO, cookie_name, COOKIE, "NAME", "Cookie that holds the token.")
    debugger: bool = _switch(
        _WHO,
        "A page below the hub's URL, /debugger/, to subscribe, to publish and to see why a token is refused. "
        "It holds no token.",
        in_playground="1",
    )
    playground: bool = _switch(
        _WHO,
        "For development, on a loopback address only: the debugger with a token that allows everything, "
        "anonymous subscribers, active subscriptions, pages of localhost, and no key needed.",
    )
    transport_url: str = _setting(
        _STORE,
        database,
        "sqlite:///mercure.db",
        "URL",
        "Where updates are stored: sqlite:///PATH, or for several machines "
        "postgresql://USER@HOST/DATABASE or redis://HOST:PORT/NUMBER.",
    )
    history_size: int = _setting(
        _STORE, count, "0", "NUMBER", "Updates to keep, 0 = all. Events of subscriptions do not count."
    )
    history_max_age: float = _setting(
        _STORE, seconds, "0", "SECONDS", "How long to keep an update, 0 = for ever."
    )
    heartbeat: float = _setting(
        _STREAM,
        seconds,
        "40",
        "SECONDS",
        "Time between two comments, which keep a quiet stream alive, 0 = none.",
    )
    write_timeout: float = _setting(
        _STREAM,
        seconds,
        "600",
        "SECONDS",
        "How long a stream lives before the client has to reconnect, 0 = no end.",
    )
    drain: float = _setting(
        _STREAM,
        seconds,
        "10",
        "SECONDS",
        "Time over which streams end when another hub takes over (SIGUSR2), so that the clients do not "
        "reconnect all at once.",
    )
    dispatch_timeout: float = _setting(
        _STREAM,
        seconds,
        "5",
        "SECONDS",
        "How long a subscriber may take nothing before it is dropped, 0 = no end.",
    )
    compression: Literal["off", "zstd"] = _setting(
        _STREAM,
        one_of("off", "zstd"),
        "off",
        "off|zstd",
        "Compress streams for clients that ask for it, each update once for all of them.",
    )
    websocket: bool = _switch(_STREAM, "Serve subscribers over WebSockets too.", default="1")
    max_connections: int = _setting(
        _STREAM,
        count,
        "0",
        "NUMBER",
        "Subscribers at the same time; one more gets 429. 0 = as many as the process may have descriptors.",
    )
    max_connections_per_address: int = _setting(
        _STREAM,
        count,
        "0",
        "NUMBER",
        "The same for one client address. Behind a proxy set MERCURE_TRUSTED_PROXIES too.",
    )
    max_connections_per_token: int = _setting(_STREAM, count, "0", "NUMBER", "The same for one access token.")
    max_heavy_patterns: int = _setting(
        _STREAM,
        count,
        "500",
        "NUMBER",
        "Different URL Patterns in use with regular expressions or rare syntax, which take 100 KiB each, "
        "some 700, and URI Templates with operators, which take 25; a subscriber with one more gets 429. "
        "Of the second half, one subject or address may bring a tenth of all. The usual ones take 1 KiB "
        "and do not count. 0 = no limit.",
    )
    max_request_body_size: int = _setting(
        _STREAM, count, "1048576", "BYTES", "Largest publication; over it: 413."
    )
    metrics: bool = _switch(
        _WATCH, "Serve /metrics for Prometheus on the address of the hub, to clients that use no proxy."
    )
    metrics_listen: tuple[str, int] | None = _setting(
        _WATCH,
        optional_address,
        "",
        "ADDRESS:PORT",
        "An address of its own for /metrics, /healthz, /livez and /readyz, without TLS. Keep it private.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = _setting(
        _LOG,
        one_of("debug", "info", "warning", "error"),
        "info",
        "debug|info|warning|error",
        "What is logged. info has a line for each request.",
        reloadable=True,
    )
    log_format: Literal["text", "json"] = _setting(
        _LOG, one_of("text", "json"), "text", "text|json", "Whether a line is text or a JSON object."
    )
    log_file: str = _setting(_LOG, plain, "", "PATH", "Where the log goes. Unset: standard error.")
    access_log: str = _setting(
        _LOG,
        plain,
        "",
        "PATH",
        "File for the lines of requests, whatever the level. Unset: they are in the log, at level info.",
    )
    log_rotate: str = _setting(
        _LOG,
        rotation,
        "",
        "SIZE|hourly|daily",
        "When these files are renamed to NAME.1 and so on: at a size such as 10M, or by time. Unset: never.",
    )
    log_keep: int = _setting(_LOG, count, "7", "NUMBER", "How many renamed files stay.")
    issuers: tuple[Issuer, ...] = ()
    retention: tuple[Rule, ...] = ()

    @property
    def kept(self) -> Retention:
        """How much history to keep."""
        kept = Retention(self.history_size, self.history_max_age, self.retention)
        return kept if self.public_url is None else replace(kept, base=self.public_url.url)

    @property
    def knows_its_url(self) -> bool:
        """Whether the hub's URL is configured; else each client tells it, by the ``Host`` that it sends."""
        return self.public_url is not None or bool(self.allowed_urls)


TABLE: tuple[Setting, ...] = tuple(
    Setting(one.name, *one.metadata["row"]) for one in fields(Settings) if "row" in one.metadata
)
ROWS: Mapping[str, Setting] = {setting.name: setting for setting in TABLE}
"""The table by name."""

CONFIG = Setting(
    "config",
    plain,
    "",
    "PATH",
    "TOML file with settings; its keys are the names in lower case.",
    _LOG,
    is_secret=False,
    is_reloadable=False,
    in_playground=None,
)
VARIABLES = (CONFIG.variable, *(setting.variable for setting in TABLE))
"""The environment variables of the hub."""

_OF_THE_EXTENSION = (
    *("BACKGROUND_QUEUE", "CONNECT_TIMEOUT", "COOKIE_DOMAIN", "COOKIE_PARTITIONED", "COOKIE_PATH"),
    *("COOKIE_SAMESITE", "COOKIE_SECURE", "DEFAULT_HUB", "HUBS", "JWT", "JWT_ALGORITHM", "JWT_KEY_ID"),
    *("JWT_PASSPHRASE", "JWT_SECRET", "ON_FAILURE", "OUTBOX", "OUTBOX_PUBLISH"),
    *("PUBLISH_TOPICS", "RELAY_THREAD", "STATIC_PATH", "TIMEOUT", "TOKEN_FACTORY"),
    *("REVOKE_ON_LOGOUT", "TOKEN_LIFETIME", "TOKEN_PROVIDER", "URL", "VERIFY_TLS"),
)  # a Flask application reads them, and often shares the environment; tests compare with its table

HANDED_OVER = "MERCURE_HUB_SOCKETS"
"""Environment variable with the descriptors of listening sockets, of the predecessor or the starter."""

SUCCESSION = "MERCURE_HUB_READY"
"""Environment variable with the descriptor on which a hub tells its predecessor that it serves."""

STARTER = "MERCURE_HUB_STARTER"
"""Environment variable with the reading end of a pipe: the hub stops when the other end is closed.

The system closes it when the process that started the hub ends, whatever ends it.
"""


def unknown_variables(names: Iterable[str]) -> list[str]:
    """A warning for each environment variable that looks like a setting but is unknown.

    :param names: of the variables in the environment; their values may be secrets.
    """
    known = {*VARIABLES, *(PREFIX + name for name in _OF_THE_EXTENSION), HANDED_OVER, SUCCESSION, STARTER}
    return [_warning(name) for name in sorted(names) if name.startswith(PREFIX) and name not in known]


def _warning(name: str) -> str:
    from difflib import get_close_matches  # noqa: PLC0415 - mostly, no name is unknown

    near = get_close_matches(name, VARIABLES, 1, 0.8)
    hint = f"; did you mean {near[0]}?" if near else ", see mercure-hub --help"
    return f"{name} in the environment is not a setting of the hub{hint}"


def reference() -> str:
    """The settings as a page of Markdown."""
    lines = [
        "# Settings of the hub",
        "",
        "<!-- Made from hub/mercure_hub/config/settings.py by `mercure-hub settings`; edit them there. -->",
        "",
        "Each setting is an environment variable, a flag and a key in the TOML file that `--config` or",
        "`MERCURE_CONFIG` names. A flag wins over the environment, the environment over the file.",
        "A number of seconds or of items that is 0 means: off, no limit.",
    ]
    for group in dict.fromkeys(setting.group for setting in TABLE):
        lines += ["", f"## {group}", "", "| variable | flag | default | |", "|---|---|---|---|"]
        lines += [_reference_row(setting) for setting in TABLE if setting.group == group]
    return "\n".join([*lines, *issuer_reference(), *retention_reference(), ""])


def _reference_row(setting: Setting) -> str:
    default = f"`{setting.default}`" if setting.default else ""
    form = setting.form.replace("|", r"\|")
    return f"| `{setting.variable}` | `{setting.flag}` | {default} | {setting.text} *{form}* |"
