"""Caches and the responses that carry a cookie (RFC 9111)."""

from __future__ import annotations

from werkzeug.datastructures import Headers, ResponseCacheControl
from werkzeug.http import parse_cache_control_header, parse_set_header


def keep_private(headers: Headers) -> None:
    """Keep a response with a cookie of one user out of the caches that several users share.

    RFC 9111 sections 3.5, 4.1, 5.2.2. Rules for the browser's own cache stay.

    :param headers: of the response.
    """
    control = parse_cache_control_header(headers.get("Cache-Control"), cls=ResponseCacheControl)
    control.public = False
    control.s_maxage = None
    control.private = True
    headers["Cache-Control"] = control.to_header()
    for name in ("CDN-Cache-Control", "Surrogate-Control"):
        headers.pop(name, None)
    vary = parse_set_header(headers.get("Vary"))
    if "*" not in vary:
        vary.add("Cookie")
        headers["Vary"] = vary.to_header()
