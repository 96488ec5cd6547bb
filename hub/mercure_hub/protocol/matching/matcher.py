"""Topic matchers: what a subscriber listens to and what a token allows (spec, Matcher Types)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from weakref import WeakKeyDictionary, WeakValueDictionary

from urlpattern import URLPattern

from mercure_hub.protocol.errors import InvalidRequest, TooManyPatterns
from mercure_hub.protocol.matching.cost import uri_template_cost, url_pattern_cost
from mercure_hub.protocol.matching.resolution import leading_segments, origin_of, prefixes_of, resolver
from mercure_hub.protocol.matching.uri_template import (
    CompactTemplate,
    Pattern,
    compile_template,
    read_template,
)
from mercure_hub.protocol.matching.url_pattern import CompactPattern, read_pattern
from mercure_hub.protocol.topics import WILDCARD, MatcherType, forbidden_character

Prefix = tuple[str | None, str, str]
"""What all topics that a pattern can match begin with: an index of patterns by it need not try them all.

The base URL against which topics are resolved, with a host that stands for all hosts, or ``None`` where
topics are compared as they are; the origin, empty for any and for that of the base; the leading segments
without a variable. The prefixes of a topic that matches include that of the pattern."""

NO_PREFIX: Prefix = (None, "", "")
"""The prefix of a matcher that is not a pattern."""

_VARIABLE = re.compile(r"[*:{}()\\?+]")  # all that is not literal in a component of a URL Pattern
_MODIFIER = re.compile(r"[)}*][?*+]|:[\w$]+[?*+]")
_NOT_LITERAL = re.compile(r"\{|[^\x00-\x7f]")  # in a template; beyond ASCII a topic may be percent-encoded

MAX_LENGTH = 2048
"""Characters of a matcher."""

_AnyPattern = CompactPattern | URLPattern | CompactTemplate | Pattern

# Looking up a member in its class is slow before Python 3.12.
_TEMPLATE, _URLPATTERN = MatcherType.TEMPLATE, MatcherType.URLPATTERN

_UNTRIED: tuple[str | None, bool] = (None, False)
_MAX_PATTERN = 512
_LEAST_SHARE = 10  # patterns with regular expressions that one request may have
_RETRY_AFTER = 10  # seconds
_MAX_COST = {MatcherType.URLPATTERN: 4000, MatcherType.TEMPLATE: 2000}  # µs of one pattern


@dataclass(frozen=True, slots=True)
class Allowance:
    """How many patterns that take much memory may be in use.

    One client cannot use up the patterns of the others: when half of them are in use, each client may have a
    tenth of all.

    :param most: patterns of all clients together.
    :param client: subject or address of the client that asks for another one.
    """

    most: int
    client: str = ""

    def check(self) -> None:
        """Check that there may be another one.

        :raises TooManyPatterns: a limit is reached.
        """
        if len(_heavy) >= min(self.most, self._free):
            _recent_heavy.cache_clear()
        if len(_heavy) >= self.most:
            what = f"The hub holds {len(_heavy)}"
        elif len(_heavy) >= self._free and self._own >= self._share:
            what = f"The hub holds {len(_heavy)}, and {self._own} of them for you:"
        else:
            return
        raise TooManyPatterns(
            f"{what} URL Patterns with regular expressions or rare syntax and URI Templates with operators "
            "(MERCURE_MAX_HEAVY_PATTERNS). Write this one with named groups and wildcards, or with plain "
            "variables.",
            _RETRY_AFTER,
        )

    @property
    def _free(self) -> int:
        return self.most // 2

    @property
    def _share(self) -> int:
        return max(self.most // 10, _LEAST_SHARE)

    @property
    def _own(self) -> int:
        return sum(client == self.client for client in _heavy.values())


class Matcher:
    """One topic matcher. Equal patterns that are in use are one object, compiled once and shared.

    :param type: how ``value`` is read.
    :param value: the matcher as the client wrote it.

    ``exact`` is the topic of a matcher that can match only one. ``prefix`` is what the topics of a pattern
    begin with.
    """

    __slots__ = (
        "__weakref__",
        "_last",
        "_pattern",
        "_resolver",
        "exact",
        "is_wildcard",
        "prefix",
        "type",
        "value",
    )

    def __init__(
        self,
        type_: MatcherType,
        value: str,
        base: str,
        pattern: _AnyPattern | None,
    ) -> None:
        self.type = type_
        self.value = value
        self.is_wildcard = value == WILDCARD
        self.exact = value if pattern is None and not self.is_wildcard else None
        self._resolver = resolver(base)
        self._pattern = pattern
        self._last = _UNTRIED
        self.prefix = NO_PREFIX
        if pattern is None:
            return
        if isinstance(pattern, CompactPattern | URLPattern):
            self.prefix = url_pattern_prefix(pattern, base)
        else:
            self.prefix = template_prefix(value)

    def __repr__(self) -> str:
        return f"Matcher({self.type}, {self.value!r})"

    def matches(self, topic: str) -> bool:
        """Tell whether the matcher selects a topic."""
        if self.is_wildcard or topic == self.exact:
            return True
        if self._pattern is None:
            return False
        # Thousands of tokens and subscribers share patterns, and each tries them on the same update.
        last = self._last
        if last[0] is not topic:
            last = self._last = (topic, self._evaluate(self._pattern, topic))
        return last[1]

    def _evaluate(self, pattern: _AnyPattern, topic: str) -> bool:
        if isinstance(pattern, CompactPattern):
            url = self._resolver.resolve(topic)
            return url is not None and pattern.matches(url)
        if isinstance(pattern, URLPattern):
            return bool(pattern.test(topic, self._resolver.base))
        if isinstance(pattern, CompactTemplate):
            return pattern.matches(topic) or topic == self.value
        return topic == self.value or pattern.fullmatch(topic) is not None

    @property
    def has_groups(self) -> bool:
        """Whether the matcher is a URL Pattern with regular expressions, which are expensive to compile."""
        return isinstance(self._pattern, URLPattern) and self._pattern.hasRegExpGroups

    @property
    def is_heavy(self) -> bool:
        """Whether the matcher takes many times the memory of the usual ones."""
        return _is_heavy(self._pattern)

    def reaches(self, path: str) -> bool:
        """Whether the matcher may select a topic below a path of the hub; false only if that is certain."""
        if self.exact is not None:
            return self.exact.startswith(path)
        _, foreign, prefix = self.prefix
        return not foreign and (path.startswith(prefix) or prefix.startswith(path))

    def selects(self, other: Matcher) -> bool:
        """Tell whether this matcher of a token covers the matcher of a subscription (spec, Payloads)."""
        return self is other or self.matches(other.value)


def make(
    type_: MatcherType,
    value: str,
    base: str,
    field: str | None = None,
    allowance: Allowance | None = None,
) -> Matcher:
    """Make a matcher, or return the equal one that is in use.

    :param type_: matcher type.
    :param value: exact topic, URL Pattern, URI Template, or ``*``.
    :param base: the hub's public URL, against which patterns and topics are resolved.
    :param field: name of the parameter, for the error.
    :param allowance: of patterns in use that take much memory; ``None``: no limit.
    :raises TooManyPatterns: the allowance is used up.
    :raises InvalidRequest: forbidden characters, too long, too costly, or not a well-formed pattern.
    """
    field = field or str(type_)
    if len(value) > MAX_LENGTH:
        raise InvalidRequest(f"The {field} has {len(value)} characters; the limit is {MAX_LENGTH}.", field)
    character = forbidden_character(value)
    if character:
        raise InvalidRequest(f"The {field} holds the control or format character {character}.", field)
    if not _is_pattern(type_, value):
        return _plain(type_, value)
    if type_ is MatcherType.URLPATTERN and len(value) > _MAX_PATTERN:
        raise InvalidRequest(
            f"The {field} has {len(value)} characters; the limit for a URL Pattern is {_MAX_PATTERN}.", field
        )
    if cost(type_, value) > _MAX_COST[type_]:
        raise InvalidRequest(
            f"The {field} is too costly to compile: too many variables, wildcards or counted repetitions "
            "(write + or * instead of a count), or flags such as (?i).",
            field,
        )
    try:
        return _compiled(type_, value, base, allowance)
    except ValueError:
        raise InvalidRequest(f"{value!r} is not a well-formed URL Pattern.", field) from None


@lru_cache(maxsize=256)  # a request asks for the sum first, then for each matcher
def cost(type_: MatcherType, value: str) -> int:
    """Estimate the microseconds that it takes to make a matcher, without making it.

    Matching is linear in the topic, but compiling an expensive pattern would itself be an attack.
    """
    if not _is_pattern(type_, value):
        return 0
    if type_ is MatcherType.URLPATTERN:
        return url_pattern_cost(value[:_MAX_PATTERN])  # longer ones are refused anyway
    return uri_template_cost(value[:MAX_LENGTH])


def _is_pattern(type_: MatcherType, value: str) -> bool:
    if type_ is _TEMPLATE:
        return "{" in value
    return type_ is _URLPATTERN and value != WILDCARD


def _is_heavy(pattern: _AnyPattern | None) -> bool:
    if isinstance(pattern, CompactPattern):
        return pattern.is_expression
    return pattern is not None and not isinstance(pattern, CompactTemplate)


_in_use: WeakValueDictionary[tuple[MatcherType, str, str], Matcher] = WeakValueDictionary()
_heavy: WeakKeyDictionary[Matcher, str] = WeakKeyDictionary()  # by matcher: the client that asked for it


def _compiled(type_: MatcherType, value: str, base: str, allowance: Allowance | None) -> Matcher:
    matcher = _in_use.get((type_, value, base))
    if matcher is None:
        pattern: _AnyPattern | None
        if type_ is MatcherType.TEMPLATE:
            pattern = read_template(value) or compile_template(value)
            if allowance is not None and _is_heavy(pattern):
                allowance.check()
        else:
            pattern = read_pattern(value, base)
            if allowance is not None and (pattern is None or _is_heavy(pattern)):
                allowance.check()
            if pattern is None:
                pattern = _url_pattern(value, base)
        matcher = _in_use[type_, value, base] = Matcher(type_, value, base, pattern)
        if matcher.is_heavy:
            _heavy[matcher] = "" if allowance is None else allowance.client
    return _recent_heavy(matcher) if matcher.is_heavy else _recent(matcher)


@lru_cache(maxsize=512)
def _recent(matcher: Matcher) -> Matcher:
    """Keep an unused matcher for a while."""
    return matcher


# A pattern of the library takes 70 KiB, an expensive one several hundred: keep only a few that are unused.
@lru_cache(maxsize=64)
def _recent_heavy(matcher: Matcher) -> Matcher:
    return matcher


def _url_pattern(value: str, base: str) -> URLPattern:
    try:
        return URLPattern(value)
    except (
        ValueError
    ):  # relative, or not well-formed; with a base, urn\:uuid\:* would become a path of the hub
        return URLPattern(value, base)


@lru_cache(maxsize=2048)
def _plain(type_: MatcherType, value: str) -> Matcher:
    return Matcher(type_, value, "", None)


def url_pattern_prefix(pattern: URLPattern | CompactPattern, base: str) -> Prefix:
    """The prefix of a URL Pattern.

    :param base: the hub's public URL, against which topics are resolved.
    """
    if isinstance(pattern, CompactPattern):
        return _prefix(base, pattern.origin, pattern.prefix)
    parts = (pattern.protocol, pattern.hostname, pattern.port)
    is_known = not any(_VARIABLE.search(part) for part in parts)
    prefix = _before(pattern.pathname, _VARIABLE)
    if _MODIFIER.search(pattern.pathname):  # without its variable, /a/:x?b continues after /a
        prefix = prefix.rpartition("/")[0]
    return _prefix(base, origin_of(*parts) if is_known else "", leading_segments(prefix))


def _prefix(base: str, origin: str, prefix: str) -> Prefix:
    base_resolver = resolver(base)
    is_own = base_resolver.own is not None and origin == base_resolver.own.origin
    return base_resolver.shared, "" if is_own else origin, prefix


def template_prefix(template: str) -> Prefix:
    """The prefix of a URI Template."""
    return None, "", leading_segments(_before(template, _NOT_LITERAL))


def topic_prefixes(topic: str, base: str | None) -> tuple[str, tuple[str, ...]] | None:
    """The prefixes that a pattern that matches a topic can have.

    :param base: as in a prefix.
    :returns: the topic's origin and all its leading segments; ``None`` if it is not a URL, because no URL
        Pattern matches it then.
    """
    if base is None:
        return "", prefixes_of(topic)
    url = resolver(base).resolve(topic)
    return None if url is None else (url.origin, url.prefixes)


def _before(text: str, variable: re.Pattern[str]) -> str:
    """The complete segments before the first variable; the last one before it may be cut or optional."""
    match = variable.search(text)
    return text if match is None else text[: match.start()].rpartition("/")[0]
