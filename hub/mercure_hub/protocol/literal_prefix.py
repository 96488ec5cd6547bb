"""What all topics that a pattern can match begin with: an index of patterns by it need not try them all.

For a URL Pattern that is the origin, if it is spelt out, and the leading segments of the path that hold no
variable; for a URI Template the leading segments of the text. A topic that matches lies below: its own
prefixes hold the pattern's.
"""

from __future__ import annotations

import re

from urlpattern import URLPattern

from mercure_hub.protocol.compact_pattern import CompactPattern
from mercure_hub.protocol.resolution import leading_segments, origin_of, prefixes_of, resolver

Place = tuple[str | None, str, str]
"""Base URL against which topics are resolved, with a host that stands for all hosts, or ``None`` where they
are taken as they are; origin, empty for any and for that of the base; leading segments."""

NOWHERE: Place = (None, "", "")
"""The place of what is no pattern."""

_VARIABLE = re.compile(r"[*:{}()\\?+]")  # all that is not literal in a component of a URL Pattern
_MODIFIER = re.compile(r"[)}*][?*+]|:[\w$]+[?*+]")
_NOT_LITERAL = re.compile(r"\{|[^\x00-\x7f]")  # in a template; beyond ASCII a topic may be percent-encoded


def of_url_pattern(pattern: URLPattern | CompactPattern, base: str) -> Place:
    """The place of a URL Pattern.

    :param base: the hub's public URL, against which topics are resolved.
    """
    if isinstance(pattern, CompactPattern):
        return _place(base, pattern.origin, pattern.prefix)
    parts = (pattern.protocol, pattern.hostname, pattern.port)
    is_known = not any(_VARIABLE.search(part) for part in parts)
    prefix = _before(pattern.pathname, _VARIABLE)
    if _MODIFIER.search(pattern.pathname):  # without its variable, /a/:x?b goes on behind /a
        prefix = prefix.rpartition("/")[0]
    return _place(base, origin_of(*parts) if is_known else "", leading_segments(prefix))


def _place(base: str, origin: str, prefix: str) -> Place:
    found = resolver(base)
    is_own = found.own is not None and origin == found.own.origin
    return found.shared, "" if is_own else origin, prefix


def of_template(template: str) -> Place:
    """The place of a URI Template."""
    return None, "", leading_segments(_before(template, _NOT_LITERAL))


def above(topic: str, base: str | None) -> tuple[str, tuple[str, ...]] | None:
    """Where patterns that match a topic can be.

    :param base: as in a place.
    :returns: the topic's origin and all its prefixes; ``None`` if it is no URL, which no URL Pattern matches.
    """
    if base is None:
        return "", prefixes_of(topic)
    found = resolver(base).resolve(topic)
    return None if found is None else (found.origin, found.prefixes)


def _before(text: str, variable: re.Pattern[str]) -> str:
    """The complete segments before the first variable; the last one before it may be cut or optional."""
    found = variable.search(text)
    return text if found is None else text[: found.start()].rpartition("/")[0]
