"""The URL of an engine (MERCURE_TRANSPORT_URL), taken apart."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import parse_qsl, quote, unquote, urlencode

from mercure_hub.protocol.errors import shown

_URL = re.compile(r"([\w+]+)://([^/?]*)(?:/([^?#]*))?(?:\?([^#]*))?", re.DOTALL)
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_LOCAL = re.compile(r"(localhost|127[0-9.]+|\[::1\]|::1)(:[0-9]*)?|/.*")  # a socket is a path
_RELAXED = "relaxed"
_MOST_REPLICAS = 9


class EngineKind(StrEnum):
    """The engines that store updates."""

    SQLITE = "SQLite"
    POSTGRESQL = "PostgreSQL"
    REDIS = "Redis"


_SCHEMES = {
    "sqlite": EngineKind.SQLITE,
    "sqlite+pysqlite": EngineKind.SQLITE,
    "postgresql": EngineKind.POSTGRESQL,
    "postgres": EngineKind.POSTGRESQL,
    "postgresql+psycopg": EngineKind.POSTGRESQL,
    "redis": EngineKind.REDIS,
    "rediss": EngineKind.REDIS,
    "valkey": EngineKind.REDIS,
    "valkeys": EngineKind.REDIS,
    "redis+sentinel": EngineKind.REDIS,
    "rediss+sentinel": EngineKind.REDIS,
}


@dataclass(frozen=True, slots=True)
class Address:
    """Where an engine is.

    :param kind: which engine.
    :param url: for its driver, without the parameters that are the hub's own.
    :param shown: in words, without credentials.
    :param name: prefix of the keys in Redis, so that several hubs can share a server.
    :param replicas: of Redis, how many besides the primary have to have stored an update.
    :param is_relaxed: the engine may lose what it has acknowledged.
    """

    kind: EngineKind
    url: str
    shown: str
    name: str = "mercure"
    replicas: int = 0
    is_relaxed: bool = False

    @property
    def is_shared(self) -> bool:
        """Whether several machines can be at work on it."""
        return self.kind is not EngineKind.SQLITE

    @property
    def extra(self) -> str:
        """The extra of the package that has its driver, named as the module of its link."""
        return self.kind.lower() if self.is_shared else ""

    @property
    def is_local(self) -> bool:
        """Whether it is on this machine, as far as the URL tells."""
        if not self.is_shared:
            return True
        if "+sentinel" in self.url:
            return False
        _, authority, _, query = (part or "" for part in _matched(self.url).groups())
        hosts = authority.rpartition("@")[2].split(",")
        given = [value for key, value in parse_qsl(query) if key in ("host", "hostaddr")]
        hosts += [host for value in given for host in value.split(",")]
        return all(_LOCAL.fullmatch(unquote(host)) for host in hosts if host)


def address_of(url: str) -> Address:
    """Take the URL of an engine apart.

    :param url: such as ``sqlite:////var/lib/mercure/mercure.db``, ``postgresql://user@host/database`` or
        ``redis://host:6379/0``.
    :raises ValueError: with what is wrong, as the end of a sentence that begins with the URL.
    """
    scheme, authority, path, query = (part or "" for part in _matched(url).groups())
    kind = _SCHEMES.get(scheme)
    if kind is None:
        raise ValueError(
            f"names {scheme!r}; updates are stored in sqlite:///PATH, postgresql://HOST/DATABASE or "
            "redis://HOST:PORT/NUMBER"
        )
    if kind is EngineKind.SQLITE:
        return _of_sqlite(url, authority, path, query)
    _check_credentials(kind, authority, path, query)
    given = parse_qsl(query, keep_blank_values=True)
    is_relaxed = _is_relaxed(given)
    own = {"durability"} if kind is EngineKind.POSTGRESQL else {"durability", "name", "replicas"}
    rest = urlencode([one for one in given if one[0] not in own], quote_via=quote)
    host = authority.rpartition("@")[2]
    if kind is EngineKind.POSTGRESQL:
        base = f"postgresql://{authority}/{path}"
        hosts, ports = (",".join(value for key, value in given if key == name) for name in ("host", "port"))
        where = (host or hosts or "a local socket") + (f", port {ports}" if ports else "")
        named = f"database {unquote(path)}" if path else "default database"
        text = f"{named} of PostgreSQL at {where}"
        return Address(kind, f"{base}?{rest}" if rest else base, text, is_relaxed=is_relaxed)
    base = f"{scheme.replace('valkey', 'redis')}://{authority}/{path}"
    name = dict(given).get("name", "mercure")
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"has name={shown(name)}, which is not 1 to 64 letters, digits, dots, dashes or underscores"
        )
    replicas = dict(given).get("replicas", "0")
    if not (replicas.isascii() and replicas.isdigit() and int(replicas) <= _MOST_REPLICAS):
        raise ValueError(f"has replicas={shown(replicas)}, which is not a number from 0 to {_MOST_REPLICAS}")
    if not host:
        raise ValueError("has no host; write redis://HOST:PORT/NUMBER")
    text = f"history {name!r} in Redis at {host}"
    return Address(kind, f"{base}?{rest}" if rest else base, text, name, int(replicas), is_relaxed)


def _matched(url: str) -> re.Match[str]:
    parsed = _URL.fullmatch(url)
    if parsed is None:
        raise ValueError(
            "is not a database URL such as sqlite:////var/lib/mercure/mercure.db, "
            "postgresql://user@host/mercure or redis://host:6379/0"
        )
    return parsed


def _check_credentials(kind: EngineKind, authority: str, path: str, query: str) -> None:
    """Refuse those of which a part would be taken for something else, and be shown."""
    is_cut = "@" not in authority and ("@" in path or "@" in query.partition("=")[0])
    is_split = authority.count("@") > 1 if kind is EngineKind.POSTGRESQL else "#" in authority
    if is_cut or is_split:
        raise ValueError(
            "has a user, a password or an @ with characters that have to be written in another way: "
            "%2F for /, %3F for ?, %23 for #, %40 for @"
        )


def _of_sqlite(url: str, authority: str, path: str, query: str) -> Address:
    if authority:
        raise ValueError("has a host; write three slashes for a relative path, four for an absolute one")
    if unquote(path) in ("", ":memory:"):
        raise ValueError("has no path; updates are stored in a file, such as sqlite:///mercure.db")
    if query:
        raise ValueError(
            "has parameters after the path, which the hub does not take; MERCURE_HISTORY_SIZE and "
            "MERCURE_HISTORY_MAX_AGE bound the history"
        )
    return Address(EngineKind.SQLITE, url, f"database {url}")


def _is_relaxed(given: list[tuple[str, str]]) -> bool:
    durability = dict(given).get("durability")
    if durability not in (None, _RELAXED):
        raise ValueError(f"has durability={shown(durability)}; write {_RELAXED}, or leave it out")
    return durability is not None
