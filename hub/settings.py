"""The settings, in one table: name, type, default and text stand once, here.

Each setting is an environment variable (``MERCURE_LISTEN``), a flag (``--listen``) and a key of the
TOML file (``listen``). A flag wins over the environment, the environment over the file. ``--help``
and docs/settings.md are made from the table.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hub import issuers, playground
from hub.issuers import IssuerError
from hub.protocol.errors import KeyMaterialError, shown
from hub.protocol.identity import Identity
from hub.protocol.issuer import Issuer
from hub.protocol.keys import Key, load
from hub.values import (
    Network,
    address,
    algorithms,
    boolean,
    cookie_name,
    count,
    database,
    min_size,
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

PREFIX = "MERCURE_"

_PASSWORD = re.compile(r"(?<=://)[^/\s]*(?=@)")  # the user and password in a URL


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
    """

    name: str
    read: Callable[[str], Any]
    default: str
    form: str
    text: str
    group: str
    is_secret: bool = False

    @property
    def variable(self) -> str:
        """The environment variable."""
        return PREFIX + self.name.upper()

    @property
    def flag(self) -> str:
        """The command line flag."""
        return "--" + self.name.replace("_", "-")


_URL, _KEYS, _WHO, _STORE, _STREAM, _WATCH, _LOG = (
    "Address",
    "Keys",
    "Who may do what",
    "Storage",
    "Streams and limits",
    "Health and figures",
    "Log",
)
_KEY_FORM = "secret, PEM text or @/path"

TABLE: tuple[Setting, ...] = (
    Setting("listen", address, "127.0.0.1:3000", "ADDRESS:PORT", "Where the hub accepts connections.", _URL),
    Setting(
        "public_url",
        optional_url,
        "",
        "URL",
        "The hub's URL as clients know it: what tokens name in aud, base of relative patterns; its path is "
        "that of subscription topics and of the reserved namespace. Unset: derived from each request.",
        _URL,
    ),
    Setting(
        "allowed_urls", urls, "", "URL ...", "Public URLs that are served; others get 421. Unset: all.", _URL
    ),
    Setting(
        "trusted_proxies",
        networks,
        "",
        "ADDRESS ...",
        "Proxies whose X-Forwarded-For, -Proto and -Host count: addresses or networks.",
        _URL,
    ),
    Setting("tls_cert", plain, "", "PATH", "Certificate chain in PEM; with it the hub speaks HTTPS.", _URL),
    Setting("tls_key", plain, "", "PATH", "Private key of the certificate, if it is in another file.", _URL),
    Setting(
        "workers",
        workers,
        "1",
        "NUMBER",
        "Processes that share the port and the log. As many as there are cores for them is enough.",
        _URL,
    ),
    Setting(
        "publisher_jwt_key",
        plain,
        "",
        _KEY_FORM,
        "Key that verifies publishers' tokens. Required, unless there is a JWK set or an [[issuer]] table. "
        "PEM text may have \\n for its line ends.",
        _KEYS,
        is_secret=True,
    ),
    Setting(
        "publisher_jwt_alg",
        algorithms,
        "",
        "NAME ...",
        "Algorithms of that key. Unset: HS256 for a secret, else what fits the key.",
        _KEYS,
    ),
    Setting(
        "subscriber_jwt_key",
        plain,
        "",
        _KEY_FORM,
        "Key that verifies subscribers' tokens. Unset: the publisher's key.",
        _KEYS,
        is_secret=True,
    ),
    Setting("subscriber_jwt_alg", algorithms, "", "NAME ...", "Algorithms of that key.", _KEYS),
    Setting(
        "issuer", plain, "urn:flask-mercure", "NAME", "The iss of the tokens that these keys sign.", _KEYS
    ),
    Setting("jwks_file", plain, "", "PATH", "File with a JWK set: more keys of that issuer.", _KEYS),
    Setting(
        "jwks_uri",
        plain,
        "",
        "URL",
        "URL of a JWK set, fetched and renewed in the background: more keys of that issuer. Must be https.",
        _KEYS,
    ),
    Setting(
        "jwks_allow_private",
        boolean,
        "0",
        "0|1",
        "That URL may lead into a private network, or to this host, to which plain http is allowed then.",
        _KEYS,
    ),
    Setting(
        "authorization_server",
        boolean,
        "0",
        "0|1",
        "Tell clients, in the hub's metadata, that they can get tokens from that issuer.",
        _KEYS,
    ),
    Setting(
        "protocol",
        one_of("both", "1.0", "0.x"),
        "both",
        "both|1.0|0.x",
        "Generations of the protocol that are spoken.",
        _WHO,
    ),
    Setting("anonymous", boolean, "0", "0|1", "Admit subscribers without a token, to public updates.", _WHO),
    Setting("subscriptions", boolean, "0", "0|1", "Active subscriptions: their events and their API.", _WHO),
    Setting(
        "cors_origins",
        origins,
        "",
        "ORIGIN ...",
        "Origins whose pages may subscribe, with their cookies; http://localhost:* for all its ports. * "
        "admits the others without cookies.",
        _WHO,
    ),
    Setting(
        "publish_origins",
        origins,
        "",
        "ORIGIN ...",
        "Further origins whose pages may publish with a cookie; * for all.",
        _WHO,
    ),
    Setting(
        "cookie_name",
        cookie_name,
        "__Secure-mercure_access_token",
        "NAME",
        "Cookie that holds the token.",
        _WHO,
    ),
    Setting(
        "debugger",
        boolean,
        "0",
        "0|1",
        "A page below the hub's URL, /debugger/, to subscribe, to publish and to see why a token is refused. "
        "It holds no token.",
        _WHO,
    ),
    Setting(
        "playground",
        boolean,
        "0",
        "0|1",
        "For development, on a loopback address only: the debugger with a token that allows everything, "
        "anonymous subscribers, active subscriptions, pages of localhost, and no key needed.",
        _WHO,
    ),
    Setting(
        "transport_url", database, "sqlite:///mercure.db", "URL", "Database that holds the updates.", _STORE
    ),
    Setting("history_size", count, "0", "NUMBER", "Updates to keep, 0 = all.", _STORE),
    Setting("history_max_age", seconds, "0", "SECONDS", "How long to keep an update, 0 = for ever.", _STORE),
    Setting(
        "heartbeat",
        seconds,
        "40",
        "SECONDS",
        "Time between two comments, which keep a quiet stream alive, 0 = none.",
        _STREAM,
    ),
    Setting(
        "write_timeout",
        seconds,
        "600",
        "SECONDS",
        "How long a stream lives before the client has to reconnect, 0 = no end.",
        _STREAM,
    ),
    Setting(
        "drain",
        seconds,
        "10",
        "SECONDS",
        "Time over which the streams end when another hub takes over (SIGUSR2): the clients shall not come "
        "back all at once.",
        _STREAM,
    ),
    Setting(
        "dispatch_timeout",
        seconds,
        "5",
        "SECONDS",
        "How long a subscriber may take nothing before it is dropped, 0 = no end.",
        _STREAM,
    ),
    Setting(
        "compression",
        one_of("off", "zstd"),
        "off",
        "off|zstd",
        "Compress streams for clients that ask for it, each update once for all of them.",
        _STREAM,
    ),
    Setting(
        "compression_min_size",
        min_size,
        "256",
        "OCTETS",
        "Smallest event that is compressed, at most 65536.",
        _STREAM,
    ),
    Setting(
        "websocket",
        boolean,
        "1",
        "0|1",
        "Serve subscribers over WebSockets too.",
        _STREAM,
    ),
    Setting(
        "max_connections",
        count,
        "0",
        "NUMBER",
        "Subscribers at the same time; one more gets 429. 0 = as many as the process may have descriptors.",
        _STREAM,
    ),
    Setting(
        "max_connections_per_address",
        count,
        "0",
        "NUMBER",
        "The same for one client address. Behind a proxy set MERCURE_TRUSTED_PROXIES too.",
        _STREAM,
    ),
    Setting("max_connections_per_token", count, "0", "NUMBER", "The same for one access token.", _STREAM),
    Setting(
        "max_heavy_patterns",
        count,
        "500",
        "NUMBER",
        "Different URL Patterns in use with regular expressions or rare syntax, which take 100 KiB each, "
        "some 700; a subscriber with one more gets 429. The usual ones take 1 KiB and do not count. "
        "0 = no limit.",
        _STREAM,
    ),
    Setting(
        "max_request_body_size", count, "1048576", "OCTETS", "Largest publication; over it: 413.", _STREAM
    ),
    Setting(
        "metrics",
        boolean,
        "0",
        "0|1",
        "Serve /metrics for Prometheus on the address of the hub, to those who come without a proxy.",
        _WATCH,
    ),
    Setting(
        "metrics_listen",
        optional_address,
        "",
        "ADDRESS:PORT",
        "An address of its own for /metrics, /healthz, /livez and /readyz, without TLS. Keep it private.",
        _WATCH,
    ),
    Setting(
        "log_level",
        one_of("debug", "info", "warning", "error"),
        "info",
        "debug|info|warning|error",
        "What is logged. info has a line for each request.",
        _LOG,
    ),
    Setting(
        "log_format", one_of("text", "json"), "text", "text|json", "A line is text or a JSON object.", _LOG
    ),
    Setting("log_file", plain, "", "PATH", "Where the log goes. Unset: standard error.", _LOG),
    Setting(
        "access_log",
        plain,
        "",
        "PATH",
        "File for the lines of requests, whatever the level. Unset: they stand in the log, at level info.",
        _LOG,
    ),
    Setting(
        "log_rotate",
        rotation,
        "",
        "SIZE|hourly|daily",
        "When these files are renamed to NAME.1 and so on: at a size such as 10M, or by time. Unset: never.",
        _LOG,
    ),
    Setting("log_keep", count, "7", "NUMBER", "How many renamed files stay.", _LOG),
)

CONFIG = Setting(
    "config", plain, "", "PATH", "TOML file with settings; its keys are the names in lower case.", _LOG
)

RELOADABLE = frozenset(
    {
        *("tls_cert", "tls_key", "publisher_jwt_key", "publisher_jwt_alg", "subscriber_jwt_key"),
        *(
            "subscriber_jwt_alg",
            "issuer",
            "jwks_file",
            "jwks_uri",
            "jwks_allow_private",
            "trusted",
            "log_level",
        ),
    }
)
"""Settings that a running hub takes over; the others count after a restart."""

_KEY_SETS = ("jwks_file", "jwks_uri")
_BY_NAME = {setting.name: setting for setting in TABLE}


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of one hub, read and checked. A field is named as its row in the table."""

    listen: tuple[str, int]
    public_url: Identity | None
    allowed_urls: tuple[str, ...]
    trusted_proxies: tuple[Network, ...]
    tls_cert: str
    tls_key: str
    workers: int
    publisher_jwt_key: Key | None
    publisher_jwt_alg: str
    subscriber_jwt_key: Key | None
    subscriber_jwt_alg: str
    issuer: str
    jwks_file: str
    jwks_uri: str
    jwks_allow_private: bool
    authorization_server: bool
    protocol: Any
    anonymous: bool
    subscriptions: bool
    cors_origins: tuple[str, ...]
    publish_origins: tuple[str, ...]
    cookie_name: str
    debugger: bool
    playground: bool
    transport_url: str
    history_size: int
    history_max_age: float
    heartbeat: float
    write_timeout: float
    drain: float
    dispatch_timeout: float
    compression: str
    compression_min_size: int
    websocket: bool
    max_connections: int
    max_connections_per_address: int
    max_connections_per_token: int
    max_heavy_patterns: int
    max_request_body_size: int
    metrics: bool
    metrics_listen: tuple[str, int] | None
    log_level: str
    log_format: str
    log_file: str
    access_log: str
    log_rotate: str
    log_keep: int
    trusted: tuple[Issuer, ...]

    def issuers(self) -> tuple[Issuer, ...]:
        """Whose tokens the hub trusts: the issuer of the table, then those of ``[[issuer]]`` tables."""
        return self.trusted


def load_settings(environment: Mapping[str, str], flags: Mapping[str, str]) -> Settings:
    """Read the settings from all their places.

    :param environment: environment variables; those that are no setting are passed over.
    :param flags: values of flags by the setting's name.
    :raises SettingError: for the first value that cannot be used.
    """
    values, given, tables, path = _read_values(environment, flags, TABLE)
    if values["playground"]:
        _fill_playground(values, given)
    plays = bool(values["playground"])
    trusted = [*_own_issuer(values, has_others=plays or bool(tables)), *_other_issuers(tables, path)]
    if plays:
        trusted.append(playground.issuer())
    _check_tls(values)
    return Settings(**values, trusted=_all_different(trusted))


def _fill_playground(values: dict[str, Any], given: Collection[str]) -> None:
    try:
        playground.fill(values, given)
    except ValueError as error:
        setting = _BY_NAME[str(error)]
        raise SettingError(
            f"MERCURE_PLAYGROUND: is for this machine only, and {setting.variable} is for more; "
            "take one of the two away"
        ) from None


def load_some(environment: Mapping[str, str], flags: Mapping[str, str], *names: str) -> dict[str, Any]:
    """Read a few settings, for a command that needs no more: neither a key nor a certificate.

    :param names: of rows of the table.
    :raises SettingError: for the first value that cannot be used.
    """
    return _read_values(environment, flags, [_BY_NAME[name] for name in names])[0]


def _read_values(
    environment: Mapping[str, str], flags: Mapping[str, str], table: Sequence[Setting]
) -> tuple[dict[str, Any], set[str], list[dict[str, object]], str]:
    """Values by name, which of them were set, the ``[[issuer]]`` tables, and the path of their file."""
    path = flags.get(CONFIG.name) or environment.get(CONFIG.variable, "")
    file, tables = _read_file(path) if path else ({}, [])
    values: dict[str, Any] = {}
    given: set[str] = set()
    for setting in table:
        text, place = setting.default, setting.variable
        if setting.name in flags:
            text, place = flags[setting.name], setting.flag
        elif environment.get(setting.variable):  # an empty one counts as unset: compose files have them
            text = environment[setting.variable]
        elif setting.name in file:
            text, place = file[setting.name], f"{setting.name} in {path}"
        if place != setting.variable or environment.get(setting.variable):
            given.add(setting.name)
        try:
            values[setting.name] = setting.read(text if setting.is_secret else text.strip())
        except ValueError as error:
            shown = "" if setting.is_secret else f" {_PASSWORD.sub('***', text)!r}"
            raise SettingError(f"{place}:{shown} {error}") from None
    return values, given, tables, path


def _read_file(path: str) -> tuple[dict[str, str], list[dict[str, object]]]:
    """Settings as text, and the ``[[issuer]]`` tables."""
    try:
        content = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingError(f"{CONFIG.variable}: {path!r} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingError(f"{CONFIG.variable}: {path!r} is not TOML: {error}") from None
    unknown = [name for name in content if name not in _BY_NAME]
    if unknown:
        known = ", ".join(_BY_NAME)
        raise SettingError(f"{unknown[0]} in {path}: there is no such setting; known are {known}")
    issuer = content.get("issuer")
    tables: list[dict[str, object]] = []
    if isinstance(issuer, list) and all(isinstance(one, dict) for one in issuer):
        tables = content.pop("issuer")
    return {name: _as_text(value, f"{name} in {path}") for name, value in content.items()}, tables


def _as_text(value: object, place: str) -> str:
    if isinstance(value, bool):
        return "1" if value else "0"
    if isinstance(value, str | int | float):
        return str(value)
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        return " ".join(value)
    raise SettingError(f"{place}: is a {type(value).__name__}; give a string, a number, or a list of strings")


def _own_issuer(values: dict[str, Any], *, has_others: bool) -> list[Issuer]:
    """The issuer that the rows of the table describe, if they do; its keys become ready for use."""
    described = any(values[name] for name in ("publisher_jwt_key", "subscriber_jwt_key", *_KEY_SETS))
    if not values["publisher_jwt_key"] and not any(values[name] for name in _KEY_SETS) and not has_others:
        raise SettingError(
            "MERCURE_PUBLISHER_JWT_KEY: is not set; make a secret with: mercure-hub keys, "
            "and give the same one to the application"
        )
    if not values["subscriber_jwt_key"]:
        values["subscriber_jwt_key"] = values["publisher_jwt_key"]
        values["subscriber_jwt_alg"] = values["subscriber_jwt_alg"] or values["publisher_jwt_alg"]
    for role in ("publisher", "subscriber"):
        text = values[f"{role}_jwt_key"]
        try:
            values[f"{role}_jwt_key"] = load(text, values[f"{role}_jwt_alg"]) if text else None
        except KeyMaterialError as error:
            raise SettingError(f"MERCURE_{role.upper()}_JWT_KEY: {error}") from None
    if not described:
        if values["authorization_server"]:
            raise SettingError(
                "MERCURE_AUTHORIZATION_SERVER: is for MERCURE_ISSUER, which has no key; "
                "write authorization_server = true in the [[issuer]] table that is meant"
            )
        return []
    try:
        issuer = issuers.make_issuer(
            values["issuer"],
            values["publisher_jwt_key"],
            values["subscriber_jwt_key"],
            jwks_file=values["jwks_file"],
            jwks_uri=values["jwks_uri"],
            allow_private=values["jwks_allow_private"],
            authorization_server=values["authorization_server"],
        )
    except IssuerError as error:
        name = "issuer" if error.name == "identifier" else error.name
        raise SettingError(f"{_BY_NAME[name].variable}: {error.reason}") from None
    return [issuer]


def _other_issuers(tables: Sequence[Mapping[str, object]], path: str) -> list[Issuer]:
    found: list[Issuer] = []
    for number, table in enumerate(tables, 1):
        try:
            found.append(issuers.from_table(table))
        except IssuerError as error:
            named = shown(table["identifier"]) if table.get("identifier") else f"number {number}"
            raise SettingError(f"[[issuer]] {named} in {path}: {error}") from None
    return found


def _all_different(trusted: Sequence[Issuer]) -> tuple[Issuer, ...]:
    names = [issuer.identifier for issuer in trusted]
    for name in names:
        if names.count(name) > 1:
            raise SettingError(
                f"[[issuer]]: there are two issuers {name!r} (MERCURE_ISSUER counts); make them one, or a "
                "token could be verified with the keys of the other"
            )
    return tuple(trusted)


def _check_tls(values: Mapping[str, Any]) -> None:
    if values["tls_key"] and not values["tls_cert"]:
        raise SettingError("MERCURE_TLS_KEY: is set and MERCURE_TLS_CERT is not; set both")


def reference() -> str:
    """The settings as a page of Markdown."""
    lines = [
        "# Settings of the hub",
        "",
        "<!-- Made from hub/settings.py by `mercure-hub settings`; edit the table there. -->",
        "",
        "Each setting is an environment variable, a flag and a key in the TOML file that `--config` or",
        "`MERCURE_CONFIG` names. A flag wins over the environment, the environment over the file.",
        "A number of seconds or of items that is 0 means: off, no limit.",
    ]
    for group in dict.fromkeys(setting.group for setting in TABLE):
        lines += ["", f"## {group}", "", "| variable | flag | default | |", "|---|---|---|---|"]
        lines += [_reference_row(setting) for setting in TABLE if setting.group == group]
    return "\n".join([*lines, *issuers.reference(), ""])


def _reference_row(setting: Setting) -> str:
    default = f"`{setting.default}`" if setting.default else ""
    form = setting.form.replace("|", r"\|")
    return f"| `{setting.variable}` | `{setting.flag}` | {default} | {setting.text} *{form}* |"
