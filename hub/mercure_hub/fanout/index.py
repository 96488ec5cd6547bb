"""Finds the subscribers of an update: cost follows those that match, not those that are connected."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mercure_hub.fanout.listeners import Listeners, each, joined, left
from mercure_hub.fanout.subscriber import Subscriber
from mercure_hub.protocol.matching.table import PatternTable
from mercure_hub.protocol.topics import WILDCARD

_MAX_REMEMBERED = 10_000
_AT_ONCE = 500  # patterns that are tried between two steps of ``evaluate``


class Index:
    """Subscribers by what they listen to.

    An exact topic is one look-up. Of the distinct patterns, those that can match a topic are each evaluated
    once, and the outcome is remembered, as long as no pattern comes or goes.
    """

    def __init__(self) -> None:
        self._exact: dict[str, Listeners] = {}
        self._patterns: PatternTable[Listeners] = PatternTable()
        self._everything: dict[Subscriber, None] = {}
        self._remembered: dict[str, tuple[Listeners, ...]] = {}
        self._changes = 0

    def add(self, subscriber: Subscriber) -> None:
        """Enter a subscriber under each of its matchers."""
        for matcher in subscriber.matchers:
            if matcher.is_wildcard:
                self._everything[subscriber] = None
            elif matcher.exact is not None:
                self._exact[matcher.exact] = joined(self._exact.get(matcher.exact), subscriber)
            else:
                before = self._patterns.get(matcher)
                after = joined(before, subscriber)
                if after is not before:
                    self._patterns.put(matcher, after)
                    self._forget()

    def remove(self, subscriber: Subscriber) -> None:
        """Forget a subscriber."""
        for matcher in subscriber.matchers:
            if matcher.is_wildcard:
                self._everything.pop(subscriber, None)
            elif matcher.exact is not None:
                listeners = self._exact.get(matcher.exact)
                if listeners is not None and left(listeners, subscriber) is None:
                    del self._exact[matcher.exact]
            else:
                listeners = self._patterns.get(matcher)
                if listeners is not None and left(listeners, subscriber) is None:
                    self._patterns.remove(matcher)
                    self._forget()

    @property
    def has_patterns(self) -> bool:
        """Whether there is anything to evaluate."""
        return bool(self._patterns)

    def evaluate(self, topics: Sequence[str]) -> Iterator[int]:
        """Try patterns ahead of ``matching``, which then does not have to.

        :returns: an iterator to exhaust, best at once; each step is the number of patterns that were tried.
        """
        for topic in topics:
            if topic in self._remembered:
                continue
            changes = self._changes
            candidates = self._patterns.candidates(topic)
            found: list[Listeners] = []
            for start in range(0, len(candidates) or 1, _AT_ONCE):
                some = candidates[start : start + _AT_ONCE]
                found += [listeners for matcher, listeners in some if matcher.matches(topic)]
                yield len(some) + 1
            if changes == self._changes:  # else a pattern came or went in a pause
                self._remember(topic, tuple(found))

    def matching(self, topics: Sequence[str]) -> list[Subscriber]:
        """The subscribers that listen to one of the topics, each once."""
        found = self._listening(topics)
        if not found:
            return []
        if len(found) == 1:
            return each(found[0])
        merged: dict[Subscriber, None] = {}
        for listeners in found:
            if isinstance(listeners, dict):
                merged.update(listeners)
            else:
                merged[listeners] = None
        return list(merged)

    def listening_with(self, value: str) -> list[Subscriber]:
        """The subscribers that have a matcher as a client writes it, whatever its type, each once."""
        found: dict[Subscriber, None] = {}
        if value == WILDCARD:
            found.update(self._everything)
        listeners = self._exact.get(value)
        if listeners is not None:
            found.update(dict.fromkeys(each(listeners)))
        for matcher, others in self._patterns:
            if matcher.value == value:
                found.update(dict.fromkeys(each(others)))
        return list(found)

    def _listening(self, topics: Sequence[str]) -> list[Listeners]:
        found: list[Listeners] = [self._everything] if self._everything else []
        for topic in topics:
            listeners = self._exact.get(topic)
            if listeners is not None:
                found.append(listeners)
            if self._patterns:
                found += self._by_pattern(topic)
        return found

    def _by_pattern(self, topic: str) -> tuple[Listeners, ...]:
        known = self._remembered.get(topic)
        if known is None:
            candidates = self._patterns.candidates(topic)
            known = tuple(listeners for matcher, listeners in candidates if matcher.matches(topic))
            self._remember(topic, known)
        return known

    def _remember(self, topic: str, found: tuple[Listeners, ...]) -> None:
        if len(self._remembered) >= _MAX_REMEMBERED:
            self._remembered.clear()
        self._remembered[topic] = found

    def _forget(self) -> None:
        self._remembered.clear()
        self._changes += 1
