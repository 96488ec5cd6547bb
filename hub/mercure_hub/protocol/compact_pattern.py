"""URL Patterns of the usual syntax, in some hundred octets instead of the library's seventy thousand.

What they select is what the library selects; ``tests/protocol/test_compact_pattern.py`` compares the two.
Whatever is not read here is the library's.
"""

from __future__ import annotations

import re
import sys

from mercure_hub.protocol.component_match import ComponentMatch, begins_with, make_match
from mercure_hub.protocol.resolution import Resolved, leading_segments, origin_of, resolver
from mercure_hub.protocol.url_pattern_syntax import Anything, Segment, elements, query_start, tokens

_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST = rf"(?![^/:]*--)(?:{_LABEL}\.)*(?![0-9]){_LABEL}"  # one that ends in a number is an address
_OCTET = r"(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_IPV4 = rf"{_OCTET}(?:\.{_OCTET}){{3}}"
_LITERAL_HOST = re.compile(rf"{_HOST}|{_IPV4}")
_ABSOLUTE = re.compile(
    r"(https?|wss?|http\{s\}\?|\*)://"
    rf"({_IPV4}|(?:(?:\*|:[a-z]+)\.)?{_HOST}|\*)"
    r"(?::([1-9][0-9]{0,4}))?"
    r"(/.*)",
    re.DOTALL | re.ASCII | re.IGNORECASE,
)
_DEFAULT_PORTS = {"http": "80", "https": "443", "ws": "80", "wss": "443"}
_ANY_SCHEME = "*"
_HTTP = "http{s}?"


class CompactPattern:
    """A URL Pattern that was read.

    ``origin`` is the only one that matches, or empty; ``prefix`` what all paths begin with.
    """

    __slots__ = ("_pathname", "_search", "_site", "origin", "prefix")

    def __init__(
        self,
        origin: str,
        site: _Site | None,
        pathname: ComponentMatch,
        search: ComponentMatch | None,
        prefix: str,
    ) -> None:
        self.origin = sys.intern(origin)
        self.prefix = prefix
        self._site = site
        self._pathname = pathname
        self._search = search

    def matches(self, url: Resolved) -> bool:
        """Tell whether a URL is matched."""
        if self._site is None:
            if url.origin != self.origin:
                return False
        elif not self._site.matches(url):
            return False
        return self._pathname.matches(url.pathname) and (
            self._search is None or self._search.matches(url.search)
        )

    @property
    def is_expression(self) -> bool:
        """Whether it holds a regular expression after all."""
        return self._pathname.is_expression or (self._search is not None and self._search.is_expression)


class _Site:
    """Several origins.

    :param protocols: empty for any.
    :param hostname: ``None`` for any.
    """

    __slots__ = ("_hostname", "_port", "_protocols")

    def __init__(self, protocols: tuple[str, ...], hostname: ComponentMatch | None, port: str) -> None:
        self._protocols = protocols
        self._hostname = hostname
        self._port = port

    def matches(self, url: Resolved) -> bool:
        return (
            url.port == self._port
            and (not self._protocols or url.protocol in self._protocols)
            and (self._hostname is None or self._hostname.matches(url.hostname))
        )


def read_pattern(value: str, base: str) -> CompactPattern | None:
    """Read a URL Pattern.

    :param base: the hub's public URL, against which a relative pattern is resolved.
    :returns: ``None`` for one that is not of the usual syntax or not well-formed.
    """
    absolute = _ABSOLUTE.fullmatch(value)
    if absolute is None:
        return _relative(value, base)
    protocol, host, port, path = absolute.groups()
    port = port or ""
    host = host.lower()  # the name of a group does not count
    if protocol not in _DEFAULT_PORTS and (port or protocol not in (_ANY_SCHEME, _HTTP)):
        return None
    if port and int(port) > 65535:
        return None
    if _DEFAULT_PORTS.get(protocol) == port:
        port = ""
    if protocol in _DEFAULT_PORTS and _LITERAL_HOST.fullmatch(host):
        return _pattern(origin_of(protocol, host, port), None, path)
    protocols = {_ANY_SCHEME: (), _HTTP: ("http", "https")}.get(protocol, (protocol,))
    return _pattern("", _Site(protocols, _host_match(host), port), path)


def _relative(value: str, base: str) -> CompactPattern | None:
    if value[:1] in ("", "?"):  # takes the path of the base, too
        return None
    url = resolver(base).resolve(base)
    if url is None or not _LITERAL_HOST.fullmatch(url.hostname) or url.protocol not in _DEFAULT_PORTS:
        return None
    path = value if value.startswith(("/", "{/")) else url.pathname[: url.pathname.rfind("/") + 1] + value
    return _pattern(url.origin, None, path)


def _pattern(origin: str, site: _Site | None, path: str) -> CompactPattern | None:
    found = tokens(path)
    if found is None:
        return None
    end = query_start(found)
    pathname = elements(found[:end], "/")
    if pathname is None:
        return None
    path_match = make_match(pathname, "/")
    if path_match is None:
        return None
    search_match = None
    if end < len(found):
        search = elements(found[end + 1 :], "")
        search_match = None if search is None else make_match(search, "")
        if search_match is None:
            return None
    return CompactPattern(origin, site, path_match, search_match, leading_segments(begins_with(pathname)))


def _host_match(host: str) -> ComponentMatch | None:
    if host == "*":
        return None
    label, dot, rest = host.partition(".")
    if label == "*":
        return make_match((Anything(), dot + rest), ".")
    if label[0] == ":":
        return make_match((Segment(), dot + rest), ".")
    return make_match((host,), ".")
