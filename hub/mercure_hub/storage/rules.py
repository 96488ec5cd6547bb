"""Retention by topic: which rule an update belongs to, and whom it concerns that rules discarded something.

An update belongs to the first rule that matches one of its topics. Those that belong to none are *the rest*,
with number 0; they have the general retention.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import astuple
from functools import lru_cache

from mercure_hub.protocol.matching.matcher import Matcher, make
from mercure_hub.protocol.topics import MatcherType
from mercure_hub.storage.interface import Discarded, Rule

REST = 0
"""The number of the updates that belong to no rule."""

_REMEMBERED = 4096  # topics of updates whose rule is remembered
_SYNTAX = re.compile(r"[*:{}()\\?+#]")
_DOTS = re.compile(r"/(?:\.|%2e){1,2}(?:/|$)", re.IGNORECASE)
_PATH = re.compile(r"(?:[A-Za-z][A-Za-z0-9+.-]*://[^/{]*)?(/.*)")  # of a URI Template


class Rules:
    """Rules in their order, ready for use.

    :param rules: from configuration.
    :param base: URL against which relative patterns and topics are resolved.

    ``text`` has all of it, for the engine: hubs with other rules know that by it.
    """

    def __init__(self, rules: Sequence[Rule], base: str) -> None:
        self.rules = tuple(rules)
        self.text = json.dumps([base, *map(astuple, rules)]) if rules else ""
        self._matchers = [make(MatcherType(rule.type), rule.value, base) for rule in rules]
        self._recent: dict[tuple[str, ...], tuple[int, Sequence[str]]] = {}

    def of(self, topics: tuple[str, ...]) -> tuple[int, Sequence[str]]:
        """Which rule an update belongs to.

        :param topics: of the update.
        :returns: number of the rule, and the topics that it matches.
        """
        found = self._recent.get(topics)
        if found is None:
            found = self._find(topics)
            if len(self._recent) >= _REMEMBERED:
                self._recent.clear()
            self._recent[topics] = found
        return found

    def _find(self, topics: tuple[str, ...]) -> tuple[int, Sequence[str]]:
        for number, matcher in enumerate(self._matchers, 1):
            matched = [topic for topic in topics if matcher.matches(topic)]
            if matched:
                return number, matched
        return REST, ()

    def reached_by(self, matchers: Sequence[Matcher]) -> tuple[bool, ...]:
        """Whether a subscriber may get updates of each rule by topics that the rule matches; first the rest.

        False only if it certainly gets none.
        """
        rest = not all(any(_contains(rule, one) for rule in self._matchers) for one in matchers)
        return (rest, *(any(_may_meet(rule, one) for one in matchers) for rule in self._matchers))


@lru_cache(maxsize=16)
def rules_from(text: str) -> Rules:
    """Rules from their ``text``."""
    if not text:
        return Rules((), "")
    base, *rules = json.loads(text)
    return Rules([Rule(*values) for values in rules], base)


def _contains(rule: Matcher, other: Matcher) -> bool:
    """Whether a rule matches all topics that another matcher can select; true only if that is certain."""
    if rule.is_wildcard:
        return True
    if other.exact is not None:
        return rule.matches(other.exact)
    if (rule.type, rule.value) == (other.type, other.value):
        return True
    before = rule.value.removesuffix("*")
    return (
        rule.type is other.type
        and before.endswith("/")
        and not _SYNTAX.search(before.partition("://")[2] or before)
        and other.value.startswith(before)
        and not _DOTS.search(other.value)
        and not any(one in other.value for one in "?#\\{")
    )


def _may_meet(rule: Matcher, other: Matcher) -> bool:
    """Whether there may be a topic that both match; false only if that is certain."""
    if rule.is_wildcard or other.is_wildcard:
        return True
    if other.exact is not None:
        return rule.matches(other.exact)
    if rule.exact is not None:
        return other.matches(rule.exact)
    one, another = _segments(rule), _segments(other)
    common = min(len(one), len(another))
    if one[:common] != another[:common]:
        return False
    origins = {rule.prefix[1], other.prefix[1]} - {""}  # empty: any, or that of the hub
    return len(origins) < 2


def _segments(pattern: Matcher) -> list[str]:
    """The leading segments of the path that all topics of a pattern have."""
    prefix = pattern.prefix[2]
    if pattern.type is MatcherType.TEMPLATE:
        path = _PATH.fullmatch(pattern.value)
        prefix = "" if path is None else path[1].partition("{")[0].rpartition("/")[0]
    return prefix.split("/") if prefix else []


class Interest:
    """What a subscriber could have got of what rules discarded.

    :param matchers: what it listens to.
    """

    def __init__(self, matchers: Sequence[Matcher]) -> None:
        self._matchers = matchers
        self._is_exact = all(matcher.exact is not None for matcher in matchers)
        self._known: tuple[str, tuple[bool, ...]] = ("", (True,))

    def _reach(self, text: str) -> tuple[bool, ...]:
        known, reach = self._known
        if known != text:
            reach = rules_from(text).reached_by(self._matchers)
            self._known = text, reach
        return reach

    def has_rest(self, discarded: Discarded) -> bool:
        """Whether it may get updates that belong to no rule."""
        return self._reach(discarded.rules)[REST]

    def newest(self, discarded: Discarded) -> int:
        """Sequence of the newest discarded update that it may have got; 0: there is none."""
        of_rules = [
            gone if is_reached else strays
            for is_reached, (gone, strays) in zip(
                self._reach(discarded.rules)[1:], discarded.by_rule, strict=True
            )
        ]
        possible = max([discarded.before, *of_rules])
        if self._is_exact:  # it is known of topics, up to where that was forgotten
            possible = max(discarded.of_topics, min(possible, discarded.forgotten))
        return max(possible, discarded.rest_before)
