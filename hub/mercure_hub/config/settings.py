"""The settings of a hub, read from the flags, the environment and the TOML file.

A flag wins over the environment, the environment over the file. What settings there are stands in
``mercure_hub.config.table``.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mercure_hub.config import issuers, playground
from mercure_hub.config.issuers import IssuerError
from mercure_hub.config.table import CONFIG, ROWS, TABLE, Setting
from mercure_hub.config.values import Network
from mercure_hub.protocol.errors import KeyMaterialError, shown
from mercure_hub.protocol.identity import WELL_KNOWN, Identity
from mercure_hub.protocol.issuer import Issuer
from mercure_hub.protocol.keys import Key, fitting, load

_PASSWORD = re.compile(r"(?<=://)[^/\s]*(?=@)")  # the user and password in a URL
_QUERY = re.compile(r"(://[^\s?]*\?)\S*")


class SettingError(Exception):
    """A setting cannot be used; the message names it and says what to do."""


RELOADABLE = frozenset(
    {
        *("tls_cert", "tls_key", "publisher_jwt_key", "publisher_jwt_alg", "publisher_jwt_key_fallback"),
        *("subscriber_jwt_key", "subscriber_jwt_alg", "subscriber_jwt_key_fallback", "issuer", "jwks_file"),
        *("jwks_uri", "jwks_allow_private", "trusted", "log_level"),
    }
)
"""Settings that a running hub takes over; the others count after a restart."""

_KEY_SETS = ("jwks_file", "jwks_uri")


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
    publisher_jwt_key_fallback: Key | None
    subscriber_jwt_key: Key | None
    subscriber_jwt_alg: str
    subscriber_jwt_key_fallback: Key | None
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
    io_uring: bool
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

    @property
    def knows_its_url(self) -> bool:
        """Whether the hub's URL is configured; else each client tells it, by the ``Host`` that it sends."""
        return self.public_url is not None or bool(self.allowed_urls)

    def reloaded(self, new: Settings) -> Settings:
        """These settings, with what a running hub takes over from new ones.

        :raises SettingError: they do not go together.
        """
        return _checked(replace(self, **{name: getattr(new, name) for name in RELOADABLE}))


@dataclass(frozen=True, slots=True)
class Effective:
    """A setting as it counts.

    :param setting: its row.
    :param text: the value; empty when it is unset. Of a secret only what it is used with.
    :param source: where it comes from: ``default``, ``environment``, ``file PATH``, ``command line``, or the
        variable of the setting that it follows from.
    """

    setting: Setting
    text: str
    source: str


@dataclass(frozen=True, slots=True)
class _Read:
    """What was read of the settings, by their names.

    :param values: ready for use.
    :param texts: as they were written, or the default.
    :param sources: where each comes from that is set.
    :param tables: the ``[[issuer]]`` tables.
    :param path: of the file with them.
    """

    values: dict[str, Any]
    texts: Mapping[str, str]
    sources: Mapping[str, str]
    tables: Sequence[Mapping[str, object]]
    path: str


def load_settings(environment: Mapping[str, str], flags: Mapping[str, str]) -> Settings:
    """Read the settings from all their places.

    :param environment: environment variables; those that are no setting are passed over.
    :param flags: values of flags by the setting's name.
    :raises SettingError: for the first value that cannot be used.
    """
    return _settings(_read_values(environment, flags, TABLE))


def load_effective(
    environment: Mapping[str, str], flags: Mapping[str, str]
) -> tuple[Settings, list[Effective]]:
    """Read the settings as ``load_settings`` does, and tell of each where it comes from."""
    read = _read_values(environment, flags, TABLE)
    settings = _settings(read)
    return settings, [_effective(setting, settings, read) for setting in TABLE]


def _effective(setting: Setting, settings: Settings, read: _Read) -> Effective:
    name, value = setting.name, getattr(settings, setting.name)
    source = read.sources.get(name, "default")
    if setting.is_secret:
        if value is None:
            return Effective(setting, "", source)
        if name not in read.sources:
            source = ROWS[name.replace("subscriber", "publisher")].variable
        return Effective(setting, f"*** ({' '.join(value.algorithms)})", source)
    if name not in read.sources and settings.playground and name in playground.DEFAULTS:
        shown = str(int(value)) if isinstance(value, bool) else " ".join(value)
        return Effective(setting, shown, ROWS["playground"].variable)
    if name == "subscriber_jwt_alg" and value and name not in read.sources:
        return Effective(setting, value, ROWS["publisher_jwt_alg"].variable)
    return Effective(setting, _masked(read.texts[name].strip()), source)


def _masked(text: str) -> str:
    """A value without passwords: the user's part of a URL, and its query."""
    return _QUERY.sub(r"\1***", _PASSWORD.sub("***", text))


def _settings(read: _Read) -> Settings:
    values = read.values
    if values["playground"]:
        _fill_playground(values, read.sources)
    plays = bool(values["playground"])
    trusted = [
        *_own_issuer(values, has_others=plays or bool(read.tables)),
        *_other_issuers(read.tables, read.path),
    ]
    if plays:
        trusted.append(playground.issuer())
    _check_tls(values)
    return _checked(Settings(**values, trusted=_all_different(trusted)))


def _checked(settings: Settings) -> Settings:
    """Refuse issuers whose tokens for other services would be good here, for want of a URL to compare with.

    :raises SettingError: with what to set.
    """
    others = [issuer for issuer in settings.trusted if not issuer.is_hub]
    if settings.knows_its_url or (len(others) < 2 and all(issuer.remote is None for issuer in others)):
        return settings
    why = "there are several issuers" if len(others) > 1 else "an issuer has its keys at a URL"
    raise SettingError(
        f"MERCURE_PUBLIC_URL: is not set, and {why}: whoever has a token that one made for another service "
        "could use it here, by sending that one's Host; set it to the URL of this hub as clients know it, "
        f"such as https://example.com{WELL_KNOWN}, and restart"
    )


def _fill_playground(values: dict[str, Any], given: Collection[str]) -> None:
    try:
        playground.fill(values, given)
    except ValueError as error:
        setting = ROWS[str(error)]
        raise SettingError(
            f"MERCURE_PLAYGROUND: is for this machine only, and {setting.variable} is for more; "
            "take one of the two away"
        ) from None


def load_some(environment: Mapping[str, str], flags: Mapping[str, str], *names: str) -> dict[str, Any]:
    """Read a few settings, for a command that needs no more: neither a key nor a certificate.

    :param names: of rows of the table.
    :raises SettingError: for the first value that cannot be used.
    """
    return _read_values(environment, flags, [ROWS[name] for name in names]).values


def _read_values(environment: Mapping[str, str], flags: Mapping[str, str], table: Sequence[Setting]) -> _Read:
    path = flags.get(CONFIG.name) or environment.get(CONFIG.variable, "")
    file, tables = _read_file(path) if path else ({}, [])
    values: dict[str, Any] = {}
    texts: dict[str, str] = {}
    sources: dict[str, str] = {}
    for setting in table:
        text, place = setting.default, setting.variable
        if setting.name in flags:
            text, place, sources[setting.name] = flags[setting.name], setting.flag, "command line"
        elif environment.get(setting.variable):  # an empty one counts as unset: compose files have them
            text, sources[setting.name] = environment[setting.variable], "environment"
        elif setting.name in file:
            text, place = file[setting.name], f"{setting.name} in {path}"
            sources[setting.name] = f"file {path}"
        texts[setting.name] = text
        try:
            values[setting.name] = setting.read(text if setting.is_secret else text.strip())
        except ValueError as error:
            shown = "" if setting.is_secret else f" {_PASSWORD.sub('***', text)!r}"
            raise SettingError(f"{place}:{shown} {error}") from None
    return _Read(values, texts, sources, tables, path)


def _read_file(path: str) -> tuple[dict[str, str], list[dict[str, object]]]:
    """Settings as text, and the ``[[issuer]]`` tables."""
    try:
        content = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingError(f"{CONFIG.variable}: {path!r} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingError(f"{CONFIG.variable}: {path!r} is not TOML: {error}") from None
    unknown = [name for name in content if name not in ROWS]
    if unknown:
        known = ", ".join(ROWS)
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
        fallback = values["subscriber_jwt_key_fallback"] or values["publisher_jwt_key_fallback"]
        values["subscriber_jwt_key_fallback"] = fallback
    keys = {role: _load_keys(values, role) for role in ("publisher", "subscriber")}
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
            keys["publisher"],
            keys["subscriber"],
            jwks_file=values["jwks_file"],
            jwks_uri=values["jwks_uri"],
            allow_private=values["jwks_allow_private"],
            authorization_server=values["authorization_server"],
        )
    except IssuerError as error:
        name = "issuer" if error.name == "identifier" else error.name
        raise SettingError(f"{ROWS[name].variable}: {error.reason}") from None
    return [issuer]


def _load_keys(values: dict[str, Any], role: str) -> tuple[Key, ...]:
    """The keys of a role, the fallback last; in the values they become ready for use too."""
    key_name, fallback_name = f"{role}_jwt_key", f"{role}_jwt_key_fallback"
    algorithm = values[f"{role}_jwt_alg"]
    if values[fallback_name] and not values[key_name]:
        raise SettingError(
            f"{ROWS[fallback_name].variable}: is set and {ROWS[key_name].variable} is not; set that one first"
        )
    keys = []
    for name in (key_name, fallback_name):
        key = None
        try:
            if values[name]:
                # What is to be done with the other key, such as ES256, need not fit this one.
                key = load(values[name], algorithm if name == key_name else "", exists=os.path.exists)
                if name == fallback_name and algorithm:
                    fits = fitting(key.material)
                    asked = tuple(one for one in algorithm.split() if one in fits)
                    key = replace(key, algorithms=asked or fits)
        except KeyMaterialError as error:
            raise SettingError(f"{ROWS[name].variable}: {error}") from None
        values[name] = key
        if key is not None and key not in keys:
            keys.append(key)
    return tuple(keys)


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
