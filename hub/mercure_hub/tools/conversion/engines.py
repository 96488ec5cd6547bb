"""Transports of other hubs that several nodes share, as the URL of an engine of this hub."""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from mercure_hub import DOCUMENTATION
from mercure_hub.tools.conversion.conversion import Conversion

REDIS = ("redis", "rediss", "valkey", "valkeys")
POSTGRESQL = ("postgres", "postgresql")
Options = Mapping[str, tuple[str, str]]
"""Values and locations by names."""

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_SIZES = ("max_length", "max_len_approx", "size")
_OF_REDIS = frozenset({"url", "address", "addresses", "stream", "password", "tls", *_SIZES})
_NOT_NEEDED = {
    "gob": "not needed: the hub has a format of its own",
    "history_limit": "not needed: the hub reads what a subscriber missed in pages",
}


def take_engine(conversion: Conversion, kind: str, options: Options, location: str, source: str) -> None:
    """Take over a transport.

    :param kind: one of ``REDIS`` or ``POSTGRESQL``.
    :param options: of the directive, or of the query of a URL; the URL is ``url``.
    """
    url = _redis(conversion, kind, options, source) if kind in REDIS else _postgresql(options)
    if url is None:
        where = "address" if kind in REDIS else "url"
        conversion.left(
            location, source, f"has no {where} that this command can use; see MERCURE_TRANSPORT_URL"
        )
        return
    shown, has_password = _without_password(url)
    conversion.put("transport_url", shown, location, source)
    if has_password or options.get("password", ("", ""))[0]:
        scheme = shown.partition(":")[0]
        conversion.left(
            options.get("password", ("", location))[1],
            f"{source} password",
            f"is a secret: write it into MERCURE_TRANSPORT_URL, as in {scheme}://USER:PASSWORD@HOST",
        )
    page = "redis" if kind in REDIS else "postgresql"
    conversion.note(
        location,
        source,
        "the hub starts with an empty history there; the server's settings are described in "
        f"{DOCUMENTATION}/{page}.md",
    )


def _redis(conversion: Conversion, kind: str, options: Options, source: str) -> str | None:
    for name, (text, where) in options.items():
        if name in _NOT_NEEDED:
            conversion.note(where, f"{source} {name}", _NOT_NEEDED[name])
        elif name in _SIZES:
            conversion.put("history_size", text, where, f"{source} {name}")
        elif name not in _OF_REDIS:
            conversion.left(where, f"{source} {name}", "is no option that this command knows")
    address = (options.get("address") or options.get("addresses") or ("", ""))[0]
    stream = options.get("stream", ("", ""))[0]
    authority, number, scheme = address, "0", kind
    if "url" in options:
        parts = urlsplit(options["url"][0])
        scheme, authority = parts.scheme, parts.netloc
        path = parts.path.strip("/")
        number, stream = (path, stream) if path.isdigit() or not path else ("0", stream or path)
        number = number or "0"
    if not authority or " " in authority or "," in authority or authority.startswith("caddy-storage"):
        return None
    if options.get("tls", ("0", ""))[0] not in ("0", "false"):
        scheme = {"redis": "rediss", "valkey": "valkeys"}.get(scheme, scheme)
    name = f"?name={stream}" if _NAME.fullmatch(stream) and stream != "mercure" else ""
    return f"{scheme}://{authority}/{number}{name}"


def _postgresql(options: Options) -> str | None:
    url = options.get("url", ("", ""))[0]
    scheme, separator, rest = url.partition("://")
    return f"postgresql://{rest}" if separator and scheme in POSTGRESQL else None


def _without_password(url: str) -> tuple[str, bool]:
    """A URL without its password, and whether it had one."""
    parts = urlsplit(url)
    user, _, host = parts.netloc.rpartition("@")
    name, colon, _ = user.partition(":")
    given = parse_qsl(parts.query, keep_blank_values=True)
    kept = [one for one in given if one[0] not in ("password", "sslpassword")]
    netloc = f"{name}@{host}" if name else host
    query = urlencode(kept, quote_via=quote, safe="/")
    return parts._replace(netloc=netloc, query=query).geturl(), bool(colon) or len(kept) < len(given)
