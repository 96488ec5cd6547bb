"""Reads the settings of a hub from the flags, the environment and the TOML file.

A flag wins over the environment, the environment over the file. ``mercure_hub.config.settings`` is the table.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mercure_hub.config import issuers, retention
from mercure_hub.config.issuers import IssuerError
from mercure_hub.config.retention import RuleError
from mercure_hub.config.settings import CONFIG, ROWS, TABLE, Setting, SettingError, Settings
from mercure_hub.key_files import load_key
from mercure_hub.protocol.errors import KeyMaterialError, shown
from mercure_hub.protocol.hub_url import WELL_KNOWN
from mercure_hub.protocol.tokens.issuer import Issuer
from mercure_hub.protocol.tokens.keys import Key, fitting
from mercure_hub.storage.interface import Rule

_PASSWORD = re.compile(r"(?<=://)\S*(?=@)")  # the user and password in a URL, in which a / may not be escaped
_QUERY = re.compile(r"(://[^\s?]*\?)\S*")
_KEY_SETS = ("jwks_file", "jwks_uri")


@dataclass(frozen=True, slots=True)
class Effective:
    """A setting with the value that counts.

    :param setting: its row.
    :param text: the value; empty when it is unset. Of a secret only its algorithms.
    :param source: where it comes from: ``default``, ``environment``, ``file PATH``, ``command line``, or the
        variable of the setting that it follows from.
    """

    setting: Setting
    text: str
    source: str


@dataclass(frozen=True, slots=True)
class _Given:
    """What flags, environment and file say, by the names of settings.

    :param values: ready for use, but for keys.
    :param texts: as they were written, or the default.
    :param sources: where each setting comes from that is set.
    :param tables: the ``[[issuer]]`` tables.
    :param rules: the ``[[retention]]`` tables.
    :param path: of the file with them.
    """

    values: dict[str, Any]
    texts: Mapping[str, str]
    sources: Mapping[str, str]
    tables: Sequence[Mapping[str, object]]
    rules: Sequence[Mapping[str, object]]
    path: str


def load_settings(environment: Mapping[str, str], flags: Mapping[str, str]) -> Settings:
    """Read all settings.

    :param environment: environment variables; unknown ones are ignored.
    :param flags: values of flags by the setting's name.
    :raises SettingError: for the first value that cannot be used.
    """
    return _settings(_given(environment, flags, TABLE))


def load_effective(
    environment: Mapping[str, str], flags: Mapping[str, str]
) -> tuple[Settings, list[Effective]]:
    """Read the settings as ``load_settings`` does, and tell where each comes from."""
    given = _given(environment, flags, TABLE)
    settings = _settings(given)
    return settings, [_effective(setting, settings, given) for setting in TABLE]


def load_some(environment: Mapping[str, str], flags: Mapping[str, str], *names: str) -> dict[str, Any]:
    """Read a few settings, for a command that needs neither keys nor a certificate.

    :param names: of rows of the table.
    :raises SettingError: for the first value that cannot be used.
    """
    return _given(environment, flags, [ROWS[name] for name in names]).values


def reloaded(settings: Settings, new: Settings) -> Settings:
    """The settings of a running hub, with what SIGHUP may change taken from new ones.

    :raises SettingError: they do not go together.
    """
    changes = {row.name: getattr(new, row.name) for row in TABLE if row.is_reloadable}
    return _checked(replace(settings, **changes, issuers=new.issuers))


def _given(environment: Mapping[str, str], flags: Mapping[str, str], table: Sequence[Setting]) -> _Given:
    path = flags.get(CONFIG.name) or environment.get(CONFIG.variable, "")
    file, tables, rules = _read_file(path) if path else ({}, [], [])
    values: dict[str, Any] = {}
    texts: dict[str, str] = {}
    sources: dict[str, str] = {}
    for setting in table:
        text, named = setting.default, setting.variable
        if setting.name in flags:
            text, named, sources[setting.name] = flags[setting.name], setting.flag, "command line"
        elif environment.get(setting.variable):  # an empty one counts as unset: compose files have them
            text, sources[setting.name] = environment[setting.variable], "environment"
        elif setting.name in file:
            text, named = file[setting.name], f"{setting.name} in {path}"
            sources[setting.name] = f"file {path}"
        texts[setting.name] = text
        try:
            values[setting.name] = setting.read(text if setting.is_secret else text.strip())
        except ValueError as error:
            value = "" if setting.is_secret else f" {_PASSWORD.sub('***', text)!r}"
            raise SettingError(f"{named}:{value} {error}") from None
    return _Given(values, texts, sources, tables, rules, path)


_Tables = list[dict[str, object]]


def _read_file(path: str) -> tuple[dict[str, str], _Tables, _Tables]:
    """Settings as text, and the ``[[issuer]]`` and ``[[retention]]`` tables."""
    try:
        content = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingError(f"{CONFIG.variable}: {path!r} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingError(f"{CONFIG.variable}: {path!r} is not TOML: {error}") from None
    rules = _tables_of(content, "retention")
    if "retention" in content:
        raise SettingError(f"retention in {path}: is not a table; write [[retention]] above its keys")
    unknown = [name for name in content if name not in ROWS]
    if unknown:
        known = ", ".join(ROWS)
        raise SettingError(f"{unknown[0]} in {path}: there is no such setting; known are {known}")
    tables = _tables_of(content, "issuer")
    return {name: _as_text(value, f"{name} in {path}") for name, value in content.items()}, tables, rules


def _tables_of(content: dict[str, Any], name: str) -> _Tables:
    """Take the tables with a name out of a file."""
    found = content.get(name)
    if isinstance(found, list) and all(isinstance(one, dict) for one in found):
        tables: _Tables = content.pop(name)
        return tables
    return []


def _as_text(value: object, named: str) -> str:
    if isinstance(value, bool):
        return "1" if value else "0"
    if isinstance(value, str | int | float):
        return str(value)
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        return " ".join(value)
    raise SettingError(f"{named}: is a {type(value).__name__}; give a string, a number, or a list of strings")


def _effective(setting: Setting, settings: Settings, given: _Given) -> Effective:
    name, value = setting.name, getattr(settings, setting.name)
    source = given.sources.get(name, "default")
    if setting.is_secret:
        if value is None:
            return Effective(setting, "", source)
        if name not in given.sources:
            source = ROWS[name.replace("subscriber", "publisher")].variable
        return Effective(setting, f"*** ({' '.join(value.algorithms)})", source)
    if name not in given.sources and settings.playground and setting.in_playground is not None:
        return Effective(setting, setting.in_playground, ROWS["playground"].variable)
    if name == "subscriber_jwt_alg" and value and name not in given.sources:
        return Effective(setting, value, ROWS["publisher_jwt_alg"].variable)
    return Effective(setting, masked(given.texts[name].strip()), source)


def masked(text: str) -> str:
    """A value without passwords: the user's part of a URL, and its query."""
    return _QUERY.sub(r"\1***", _PASSWORD.sub("***", text))


def _settings(given: _Given) -> Settings:
    values = given.values
    is_playground = bool(values["playground"])
    if is_playground:
        _open_playground(values, given.sources)
    trusted = [
        *_own_issuer(values, has_others=is_playground or bool(given.tables)),
        *_other_issuers(given.tables, given.path),
    ]
    if is_playground:
        trusted.append(issuers.playground())
    if values["tls_key"] and not values["tls_cert"]:
        raise SettingError("MERCURE_TLS_KEY: is set and MERCURE_TLS_CERT is not; set both")
    _check_all_different(trusted)
    settings = Settings(**values, issuers=tuple(trusted), retention=_rules(given.rules, given.path))
    try:
        retention.check_patterns(settings.retention, settings.kept.base)
    except RuleError as error:
        raise SettingError(f"[[retention]] in {given.path}: {error}") from None
    return _checked(settings)


def _checked(settings: Settings) -> Settings:
    """Refuse issuers whose tokens for other services would be accepted here, without a URL to compare with.

    :raises SettingError: with what to set.
    """
    others = [issuer for issuer in settings.issuers if not issuer.is_hub]
    if settings.knows_its_url or (len(others) < 2 and all(issuer.remote is None for issuer in others)):
        return settings
    why = "there are several issuers" if len(others) > 1 else "an issuer has its keys at a URL"
    raise SettingError(
        f"MERCURE_PUBLIC_URL: is not set, and {why}: whoever has a token that one made for another service "
        "could use it here, by sending that one's Host; set it to the URL of this hub as clients know it, "
        f"such as https://example.com{WELL_KNOWN}, and restart"
    )


def _open_playground(values: dict[str, Any], given: Collection[str]) -> None:
    """Switch on what a playground has, and refuse settings that open it to other machines.

    :param given: names of the settings that somebody has set; these stay.
    """
    public = values["public_url"]
    for name, is_open in (
        ("trusted_proxies", bool(values["trusted_proxies"])),
        ("public_url", public is not None and not issuers.is_local(public)),
    ):
        if is_open:
            raise SettingError(
                f"MERCURE_PLAYGROUND: is for this machine only, and {ROWS[name].variable} is for more; "
                "remove one of the two"
            )
    for row in TABLE:
        if row.in_playground is not None and row.name not in given:
            values[row.name] = row.read(row.in_playground)


def _own_issuer(values: dict[str, Any], *, has_others: bool) -> list[Issuer]:
    """The issuer that the rows of the table describe, if they do; its keys become ready for use."""
    is_described = any(values[name] for name in ("publisher_jwt_key", "subscriber_jwt_key", *_KEY_SETS))
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
    if not is_described:
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
    """The keys of a role, the fallback last; in ``values`` they become ready for use too."""
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
                # The algorithms of the new key, such as ES256, need not fit the previous one.
                key = load_key(values[name], algorithm if name == key_name else "")
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
    others: list[Issuer] = []
    for number, table in enumerate(tables, 1):
        try:
            others.append(issuers.from_table(table))
        except IssuerError as error:
            named = shown(table["identifier"]) if table.get("identifier") else f"number {number}"
            raise SettingError(f"[[issuer]] {named} in {path}: {error}") from None
    return others


def _rules(tables: Sequence[Mapping[str, object]], path: str) -> tuple[Rule, ...]:
    if len(tables) > retention.MOST:
        raise SettingError(f"[[retention]] in {path}: {len(tables)} tables; the limit is {retention.MOST}")
    rules = []
    for number, table in enumerate(tables, 1):
        try:
            rules.append(retention.from_table(table))
        except RuleError as error:
            raise SettingError(f"[[retention]] number {number} in {path}: {error}") from None
    return tuple(rules)


def _check_all_different(trusted: Sequence[Issuer]) -> None:
    names = [issuer.identifier for issuer in trusted]
    for name in names:
        if names.count(name) > 1:
            raise SettingError(
                f"[[issuer]]: there are two issuers {name!r} (MERCURE_ISSUER counts); make them one, or a "
                "token could be verified with the keys of the other"
            )
