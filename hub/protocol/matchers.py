"""Topic matchers: what a subscriber listens to and what a token allows (spec, Matcher Types)."""

from __future__ import annotations

import enum
import math
import re
from functools import lru_cache

from urlpattern import URLPattern

from hub.protocol.errors import InvalidRequest
from hub.protocol.topics import WILDCARD, forbidden_character
from hub.protocol.uri_template import Pattern, compile_template


class MatcherType(enum.StrEnum):
    """The matcher types of the spec, and the selector of 0.x."""

    EXACT = "exact"
    URLPATTERN = "urlpattern"
    TEMPLATE = "topic"
    """A 0.x topic selector: equal, or a URI Template that matches."""


SUPPORTED = (MatcherType.EXACT, MatcherType.URLPATTERN)

MAX_LENGTH = 2048
"""Characters of a matcher."""

_MAX_PATTERN = 512
_MAX_PATTERN_WITH_GROUPS = 128
_REGEXP_GROUP = re.compile(r"\((?!\))")
_COUNT = re.compile(r"\{(\d+)(?:,(\d*))?\}")
_UNICODE_CLASS = re.compile(r"\\[wWpP]")
_MAX_COUNT = 1000
_MAX_UNICODE_COUNT = 10  # a class such as \w is some 800 µs to compile, each time that it is repeated


class Matcher:
    """One topic matcher. Equal matchers are one object, so identity is equality.

    :param type: how ``value`` is read.
    :param value: the matcher as the client wrote it.

    ``exact`` is the one topic that it matches, when that is all it can match.
    """

    __slots__ = ("__weakref__", "_base", "_pattern", "exact", "is_wildcard", "type", "value")

    def __init__(
        self, type_: MatcherType, value: str, base: str, pattern: URLPattern | Pattern | None
    ) -> None:
        self.type = type_
        self.value = value
        self.is_wildcard = value == WILDCARD
        self.exact = value if pattern is None and not self.is_wildcard else None
        self._base = base
        self._pattern = pattern

    def __repr__(self) -> str:
        return f"Matcher({self.type}, {self.value!r})"

    def matches(self, topic: str) -> bool:
        """Tell whether the matcher selects a topic."""
        if self.is_wildcard or topic == self.exact:
            return True
        pattern = self._pattern
        if pattern is None:
            return False
        if isinstance(pattern, URLPattern):
            return bool(pattern.test(topic, self._base))
        return topic == self.value or pattern.fullmatch(topic) is not None

    @property
    def has_groups(self) -> bool:
        """Whether the matcher is a URL Pattern with regular expressions, which are dear to compile."""
        return isinstance(self._pattern, URLPattern) and self._pattern.hasRegExpGroups

    def selects(self, other: Matcher) -> bool:
        """Tell whether this matcher, of a token, covers a subscription's own matcher (spec, Payloads)."""
        return self is other or self.matches(other.value)


def make(type_: MatcherType, value: str, base: str, field: str | None = None) -> Matcher:
    """Make a matcher, or take the equal one that is in use.

    :param type_: matcher type.
    :param value: exact topic, URL Pattern, URI Template, or ``*``.
    :param base: the hub's public URL, against which patterns and topics are resolved.
    :param field: name of the parameter, for the error.
    :raises InvalidRequest: forbidden characters, too long, or not a well-formed pattern.
    """
    field = field or str(type_)
    if len(value) > MAX_LENGTH:
        raise InvalidRequest(f"The {field} has {len(value)} characters; the limit is {MAX_LENGTH}.", field)
    found = forbidden_character(value)
    if found:
        raise InvalidRequest(f"The {field} holds the control or format character {found}.", field)
    if type_ is MatcherType.URLPATTERN and value != WILDCARD:
        _check_pattern(value, field)
        try:
            return _url_pattern(value, base)
        except ValueError:
            raise InvalidRequest(f"{value!r} is not a well-formed URL Pattern.", field) from None
    return _plain(type_, value)


def _check_pattern(value: str, field: str) -> None:
    """Refuse what is dear to compile: matching is linear, construction is not free."""
    grouped = _REGEXP_GROUP.search(value) is not None
    limit = _MAX_PATTERN_WITH_GROUPS if grouped else _MAX_PATTERN
    if len(value) > limit:
        kind = "a URL Pattern with groups" if grouped else "a URL Pattern"
        raise InvalidRequest(
            f"The {field} has {len(value)} characters; the limit for {kind} is {limit}.", field
        )
    if not grouped:
        return
    repeated = math.prod(max(int(high or low), 1) for low, high in _COUNT.findall(value))
    if repeated > _MAX_COUNT or repeated * len(_UNICODE_CLASS.findall(value)) > _MAX_UNICODE_COUNT:
        raise InvalidRequest(
            f"The {field} repeats a class of characters too often; use + or * instead of a count.", field
        )


@lru_cache(maxsize=4096)
def _url_pattern(value: str, base: str) -> Matcher:
    return Matcher(MatcherType.URLPATTERN, value, base, URLPattern(value, base))


@lru_cache(maxsize=16384)
def _plain(type_: MatcherType, value: str) -> Matcher:
    pattern = compile_template(value) if type_ is MatcherType.TEMPLATE and "{" in value else None
    return Matcher(type_, value, "", pattern)
