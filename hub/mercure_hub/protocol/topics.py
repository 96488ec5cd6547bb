"""Topics, and the types of matchers that select them (spec, Terminology and Matcher Types)."""

from __future__ import annotations

import enum
import re

# C0, DEL and C1, then general category Cf of Unicode 17. Written out, because the table that
# comes with Python 3.11 is Unicode 14 and lacks the newest of them.
_FORBIDDEN = re.compile(
    "[\x00-\x1f\x7f-\x9f"
    "\u00ad\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u180e\u200b-\u200f\u202a-\u202e"
    "\u2060-\u2064\u2066-\u206f\ufeff\ufff9-\ufffb"
    "\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    "\U000e0001\U000e0020-\U000e007f"
    "\ud800-\udfff]"  # lone surrogates cannot be written as UTF-8
)

WILDCARD = "*"
"""Matches each topic; nobody can publish to it."""


class MatcherType(enum.StrEnum):
    """The matcher types of the spec, and the selector of 0.x."""

    EXACT = "exact"
    URLPATTERN = "urlpattern"
    TEMPLATE = "topic"
    """A 0.x topic selector: equal, or a URI Template that matches."""

    __hash__ = str.__hash__  # that of Enum is written in Python


SUPPORTED = (MatcherType.EXACT, MatcherType.URLPATTERN)


def forbidden_character(value: str) -> str | None:
    """Find a character that topics, ids, types and matchers must not hold.

    :returns: the first one as ``U+XXXX``, or ``None`` when the value is clean.
    """
    if value.isascii() and value.isprintable():
        return None
    match = _FORBIDDEN.search(value)
    return None if match is None else f"U+{ord(match[0]):04X}"
