"""Readers of settings: each turns the text of one value into the value.

A reader raises ``ValueError`` with what is wrong, as the end of a sentence that begins with the value.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from mercure_hub.protocol.tokens.keys import ALGORITHMS
from mercure_hub.storage.address import address_of

if TYPE_CHECKING:  # it needs urlpattern; the extension reads the table of settings without it
    from mercure_hub.protocol.hub_url import Identity

Network = IPv4Network | IPv6Network

_Word = TypeVar("_Word", bound=str)

_MOST_WORKERS = 256
_HOST = re.compile(r"|[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?")  # empty: all addresses


def plain(value: str) -> str:
    return value


def boolean(value: str) -> bool:
    lowered = value.lower()
    if lowered in ("1", "true", "yes", "on"):
        return True
    if lowered in ("", "0", "false", "no", "off"):
        return False
    raise ValueError("is not 1 or 0")


def count(value: str) -> int:
    if not (value.isascii() and value.isdigit()):
        raise ValueError("is not a whole number of 0 or more")
    return int(value)


def seconds(value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and number >= 0):
        raise ValueError("is not a number of seconds of 0 or more")
    return number


def one_of(*allowed: _Word) -> Callable[[str], _Word]:
    def read(value: str) -> _Word:
        for word in allowed:
            if value == word:
                return word
        raise ValueError(f"is not one of {', '.join(allowed)}")

    return read


def address(value: str) -> tuple[str, int]:
    host, colon, port = value.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError("is not an address and port such as 127.0.0.1:3000 or [::1]:3000")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError("is an IPv6 address without brackets; write [::1]:3000")
    if not (_is_address(host) if ":" in host else _HOST.fullmatch(host)):
        raise ValueError("has an invalid host")
    return host, int(port)


def optional_address(value: str) -> tuple[str, int] | None:
    return address(value) if value else None


def _is_address(value: str) -> bool:
    try:
        ip_address(value)
    except ValueError:
        return False
    return True


def url(value: str) -> str:
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError:
        raise ValueError("is not a URL") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("is not a URL with http:// or https:// and a host")
    if parts.path.rstrip("/") == "":
        raise ValueError("has no path; a hub's URL is usually https://HOST/.well-known/mercure")
    if parts.query or parts.fragment or "@" in parts.netloc:
        raise ValueError("has a query, a fragment or a user; give only scheme, host, port and path")
    if not re.fullmatch(r"[a-z0-9._~-]+|[0-9a-f:.]+", parts.hostname):
        raise ValueError("has an invalid host; write a name outside of ASCII in its xn-- form")
    default = {"http": 80, "https": 443}[parts.scheme]
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    shown_port = "" if port in (None, default) else f":{port}"
    return f"{parts.scheme}://{host}{shown_port}{parts.path}"


def optional_url(value: str) -> Identity | None:
    if not value:
        return None
    from mercure_hub.protocol.hub_url import Identity  # noqa: PLC0415 - see above

    return Identity(url(value))


def urls(value: str) -> tuple[str, ...]:
    return tuple(url(one) for one in value.split())


_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://(?:\*(?:\.[a-z0-9_-]+)+(?::[0-9]{1,5})?|[^/\s*@?#\\]+)(?::\*)?")


def origins(value: str) -> tuple[str, ...]:
    """Origins as browsers write them: host in lower case, no default port.

    ``:*`` stands for any port, ``*.`` for one label before the host's name.
    """
    normalized: list[str] = []
    for one in value.split():
        lowered = one.lower()
        if one != "*" and not _ORIGIN.fullmatch(lowered):
            raise ValueError(
                f"holds {one!r}, which is not an origin such as https://example.com (no path) or "
                "https://*.example.com"
            )
        scheme = lowered.partition("://")[0]
        normalized.append(lowered.removesuffix({"http": ":80", "https": ":443"}.get(scheme, "\0")))
    return tuple(normalized)


def networks(value: str) -> tuple[Network, ...]:
    found: list[Network] = []
    for one in value.split():
        try:
            found.append(ip_network(one, strict=False))
        except ValueError:
            raise ValueError(f"holds {one!r}, which is not an IP address or network") from None
    return tuple(found)


def database(value: str) -> str:
    address_of(value)
    return value


def algorithms(value: str) -> str:
    for one in value.split():
        if one not in ALGORITHMS:
            raise ValueError(f"holds {one!r}; known are {', '.join(ALGORITHMS)}")
    return value


def cookie_name(value: str) -> str:
    if not re.fullmatch(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+", value):
        raise ValueError("is not a cookie name")
    return value


def workers(value: str) -> int:
    if not 1 <= count(value) <= _MOST_WORKERS:
        raise ValueError(f"is not a number from 1 to {_MOST_WORKERS}")
    return int(value)


def rotation(value: str) -> str:
    if value not in ("", "hourly", "daily") and not re.fullmatch(r"[1-9][0-9]{0,9}[kKmMgG]?", value):
        raise ValueError("is not a size such as 10M, nor hourly or daily")
    return value
