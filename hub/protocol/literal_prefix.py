"""What all topics that a pattern can match begin with: an index of patterns by it need not try them all.

For a URL Pattern that is the origin, if it is spelt out, and the leading segments of the path that hold no
variable; for a URI Template the leading segments of the text. A topic that matches lies below: its own
prefixes hold the pattern's.
"""

from __future__ import annotations

import re
from functools import lru_cache

from urlpattern import URLPattern

Place = tuple[str | None, str, str]
"""Base URL against which topics are resolved, or ``None`` where they are taken as they are; origin, empty for
any; leading segments."""

NOWHERE: Place = (None, "", "")
"""The place of what is no pattern."""

_ANY_URL = URLPattern({})
_VARIABLE = re.compile(r"[*:{}()\\?+]")  # all that is not literal in a component of a URL Pattern
_NOT_LITERAL = re.compile(r"\{|[^\x00-\x7f]")  # in a template; beyond ASCII a topic may be percent-encoded
_ABSOLUTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_MAX_DEPTH = 12  # slashes in a prefix


def of_url_pattern(pattern: URLPattern, base: str) -> Place:
    """The place of a URL Pattern.

    :param base: the hub's public URL, against which topics are resolved.
    """
    parts = (pattern.protocol, pattern.hostname, pattern.port)
    is_known = not any(_VARIABLE.search(part) for part in parts)
    return base, _origin(*parts) if is_known else "", _leading_segments(pattern.pathname, _VARIABLE)


def of_template(template: str) -> Place:
    """The place of a URI Template."""
    return None, "", _leading_segments(template, _NOT_LITERAL)


def above(topic: str, base: str | None) -> tuple[str, tuple[str, ...]] | None:
    """Where patterns that match a topic can be.

    :param base: as in a place.
    :returns: the topic's origin and all its prefixes; ``None`` if it is no URL, which no URL Pattern matches.
    """
    if base is None:
        return "", _prefixes(topic)
    return _resolved(topic, None if _ABSOLUTE.match(topic) else base)


@lru_cache(maxsize=4096)
def _resolved(topic: str, base: str | None) -> tuple[str, tuple[str, ...]] | None:
    found = _ANY_URL.exec(topic) if base is None else _ANY_URL.exec(topic, base)
    if found is None:
        return None
    protocol, hostname, port, path = (
        found[name]["input"] for name in ("protocol", "hostname", "port", "pathname")
    )
    return _origin(protocol, hostname, port), _prefixes(path)


def _origin(protocol: str, hostname: str, port: str) -> str:
    return f"{protocol}://{hostname}:{port}"


def _leading_segments(text: str, variable: re.Pattern[str]) -> str:
    """The complete segments before the first variable; the last one before it may be cut or optional."""
    found = variable.search(text)
    literal = text if found is None else text[: found.start()].rpartition("/")[0]
    return "/".join(literal.split("/", _MAX_DEPTH + 1)[: _MAX_DEPTH + 1])


def _prefixes(path: str) -> tuple[str, ...]:
    """The empty one, and each that ends before a slash or at the end; deeper than any pattern's, no more."""
    segments = path.split("/", _MAX_DEPTH + 1)[: _MAX_DEPTH + 1]
    return tuple(dict.fromkeys(["", *("/".join(segments[: n + 1]) for n in range(len(segments)))]))
