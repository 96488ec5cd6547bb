"""Topics as URLs, resolved against the hub's URL: what URL Patterns are tried on."""

from __future__ import annotations

import re
import sys
from functools import lru_cache

from urlpattern import URLPattern

_ANY_URL = URLPattern({})
_STAND_IN = "mercure.invalid"
# Relative, and so that it takes the whole authority of its base.
_PATH = re.compile(r"/(?![/\\\t\n\r])|[A-Za-z0-9._~-]+(?:/|\Z)")
_ABSOLUTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_MAX_DEPTH = 12  # slashes in a prefix


class Resolved:
    """The components of a URL that patterns are tried on, in canonical form.

    ``prefixes`` are those of the path: the empty one, and each that ends before a slash or at the end.
    """

    __slots__ = ("hostname", "origin", "pathname", "port", "prefixes", "protocol", "search")

    def __init__(self, protocol: str, hostname: str, port: str, pathname: str, search: str) -> None:
        self.protocol = protocol
        self.hostname = hostname
        self.port = port
        self.pathname = pathname
        self.search = search
        self.origin = origin_of(protocol, hostname, port)
        self.prefixes = prefixes_of(pathname)

    def at(self, other: Resolved) -> Resolved:
        """The same path on the site of another URL."""
        moved = Resolved.__new__(Resolved)
        moved.protocol, moved.hostname, moved.port = other.protocol, other.hostname, other.port
        moved.pathname, moved.search = self.pathname, self.search
        moved.origin, moved.prefixes = other.origin, self.prefixes
        return moved


class Resolver:
    """Resolves topics against one base, and remembers the last topic: many patterns are tried on each.

    Without a configured public URL, the base has the host of each request: the path of a topic is resolved
    only once for all hosts.

    :param base: the hub's public URL.

    ``shared`` is the same for all bases that differ only in host and port; ``own`` is the base, resolved.
    """

    __slots__ = ("_last", "base", "own", "shared")

    def __init__(self, base: str) -> None:
        self.base = self.shared = base
        self._last: tuple[str | None, Resolved | None] = (None, None)
        self.own = _resolved(base, None) if _ABSOLUTE.match(base) else None
        if self.own is not None and self.own.protocol in ("http", "https"):
            query = f"?{self.own.search}" if self.own.search else ""
            self.shared = sys.intern(f"{self.own.protocol}://{_STAND_IN}{self.own.pathname}{query}")

    def resolve(self, topic: str) -> Resolved | None:
        """The components of a topic; ``None`` if it is not a URL, because no URL Pattern matches it then."""
        last = self._last
        if last[0] is not topic:
            last = self._last = (topic, self._resolve(topic))
        return last[1]

    def _resolve(self, topic: str) -> Resolved | None:
        if _ABSOLUTE.match(topic):
            return _resolved(topic, None)
        if self.own is None or self.shared is self.base or not _PATH.match(topic):
            return _resolved(topic, self.base)
        resolved = _resolved(topic, self.shared)
        return None if resolved is None else resolved.at(self.own)


@lru_cache(maxsize=64)
def resolver(base: str) -> Resolver:
    """The resolver of a base, shared."""
    return Resolver(base)


def origin_of(protocol: str, hostname: str, port: str) -> str:
    """An origin as one text to compare."""
    return f"{protocol}://{hostname}:{port}"


def leading_segments(text: str) -> str:
    """A literal path, cut to the depth of prefixes."""
    return "/".join(text.split("/", _MAX_DEPTH + 1)[: _MAX_DEPTH + 1])


def prefixes_of(path: str) -> tuple[str, ...]:
    """The empty text, and the path up to each slash and to its end, as deep as prefixes of patterns are."""
    segments = path.split("/", _MAX_DEPTH + 1)[: _MAX_DEPTH + 1]
    return tuple(dict.fromkeys(["", *("/".join(segments[: n + 1]) for n in range(len(segments)))]))


def pathname(topic: str, base: str | None) -> str | None:
    """The path of a topic that is resolved against a base; ``None`` if it is no URL."""
    result = _ANY_URL.exec(topic) if base is None else _ANY_URL.exec(topic, base)
    return None if result is None else str(result["pathname"]["input"])


@lru_cache(maxsize=1024)
def _resolved(topic: str, base: str | None) -> Resolved | None:
    components = _ANY_URL.exec(topic) if base is None else _ANY_URL.exec(topic, base)
    if components is None:
        return None
    return Resolved(
        components["protocol"]["input"],
        components["hostname"]["input"],
        components["port"]["input"],
        components["pathname"]["input"],
        components["search"]["input"],
    )
