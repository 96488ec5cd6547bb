"""What pages of other origins may do: read answers (CORS), publish and connect with a cookie."""

from __future__ import annotations

import re
from collections.abc import Collection
from urllib.parse import urlsplit

from mercure_hub.protocol.errors import CrossSite, shown
from mercure_hub.protocol.http import Headers

ANY = "*"
_ORIGIN = re.compile(r"([a-z][a-z0-9+.-]*://(?:\[[0-9a-f:.]+\]|[^\[\]:@/]+))(?::[0-9]{1,5})?")
_SUBDOMAIN = re.compile(r"([a-z][a-z0-9+.-]*://)[a-z0-9_-]+(\.[a-z0-9._-]+)((?::[0-9]{1,5})?)")
_ALLOWED_METHODS = "GET, HEAD, POST, QUERY"
_ALLOWED_HEADERS = "Authorization, Cache-Control, Content-Type, Last-Event-ID"
_EXPOSED_HEADERS = "Link, Mercure-Last-Event-ID, Last-Event-ID, Mercure-With"


def cors_headers(origin: str | None, allowed: Collection[str]) -> Headers:
    """Response headers that let a page of another origin read the answer (spec, Subscription).

    :param origin: the request's ``Origin``.
    :param allowed: trusted origins. Only listed ones may send cookies; ``*`` admits all others without.
    """
    if not allowed:
        return []
    headers: Headers = [("Vary", "Origin")]
    if origin is None:
        return headers
    if is_listed(origin, allowed):
        headers.append(("Access-Control-Allow-Origin", origin))
        headers.append(("Access-Control-Allow-Credentials", "true"))
    elif ANY in allowed:
        headers.append(("Access-Control-Allow-Origin", ANY))
    else:
        return headers
    headers.append(("Access-Control-Expose-Headers", _EXPOSED_HEADERS))
    return headers


def is_listed(origin: str, allowed: Collection[str]) -> bool:
    """Whether an origin is allowed by name: itself, with any port (``http://localhost:*``), or as a subdomain
    of one label (``https://*.example.com``, and ``https://*.example.com:*``).
    """
    if origin == ANY or "*" in origin:
        return False
    if origin in allowed:
        return True
    match = _ORIGIN.fullmatch(origin)
    if match is not None and f"{match[1]}:*" in allowed:
        return True
    below = _SUBDOMAIN.fullmatch(origin)
    return below is not None and any(f"{below[1]}*{below[2]}{port}" in allowed for port in (below[3], ":*"))


def preflight_headers(origin: str | None, allowed: Collection[str], *, private_network: bool) -> Headers:
    """Response headers to a preflight request (Fetch standard, CORS-preflight fetch).

    :param private_network: the browser asks to reach a private address from a public page.
    """
    headers = cors_headers(origin, allowed)
    if not any(name == "Access-Control-Allow-Origin" for name, _ in headers):
        return headers
    headers += [
        ("Access-Control-Allow-Methods", _ALLOWED_METHODS),
        ("Access-Control-Allow-Headers", _ALLOWED_HEADERS),
        ("Access-Control-Max-Age", "600"),
    ]
    if private_network:
        headers.append(("Access-Control-Allow-Private-Network", "true"))
    return headers


def check_publication(
    origin: str | None, referer: str | None, own_origin: str, allowed: Collection[str]
) -> None:
    """Refuse a publication whose cookie may have been sent by a page of another site.

    :param origin: the request's ``Origin``.
    :param referer: the request's ``Referer``, used when there is no ``Origin``.
    :param own_origin: origin of the hub's public URL.
    :param allowed: further origins whose pages may publish; ``*`` admits all.
    :raises CrossSite: another origin, or none is known (spec, Security Considerations).
    """
    source = origin if origin is not None else _origin_of(referer)
    if source is None:
        raise CrossSite("a token in a cookie needs an Origin or Referer header to publish")
    if source != own_origin and not is_listed(source, allowed) and ANY not in allowed:
        raise CrossSite(f"pages of {source!r} may not publish with a cookie (MERCURE_PUBLISH_ORIGINS)")


def may_bring_cookie(origin: str | None, own_origin: str, allowed: Collection[str]) -> bool:
    """Whether the cookie of a WebSocket handshake counts: browsers send it from any page.

    :param origin: the request's ``Origin``; browsers always send it.
    :param own_origin: origin of the hub's public URL.
    :param allowed: trusted origins, as for CORS; ``*`` admits the others without their cookies.
    :raises CrossSite: pages of this origin may not subscribe. CORS, which would stop them, does not apply to
        WebSockets.
    """
    if origin is None or origin == own_origin or is_listed(origin, allowed):
        return True
    if ANY not in allowed:
        raise CrossSite(f"pages of {shown(origin)} may not subscribe (MERCURE_CORS_ORIGINS)")
    return False


def _origin_of(url: str | None) -> str | None:
    if not url:
        return None
    try:
        parts = urlsplit(url)
    except ValueError:
        return None
    return f"{parts.scheme}://{parts.netloc}" if parts.scheme and parts.netloc else None
