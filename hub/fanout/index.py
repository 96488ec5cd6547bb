"""Finds the subscribers of an update: cost follows those that match, not those that are connected."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hub.fanout.subscriber import Subscriber
from hub.protocol.pattern_table import PatternTable

Bucket = dict[Subscriber, None]
"""The subscribers with one matcher; a dict for its order and its cheap removal."""

_MAX_REMEMBERED = 10_000
_AT_ONCE = 500  # patterns that are tried between two steps of ``evaluate``


class Index:
    """Subscribers by what they listen to.

    An exact topic is one look-up. Of the distinct patterns, those that can match a topic are each evaluated
    once, and the outcome is remembered, as long as no pattern comes or goes.
    """

    def __init__(self) -> None:
        self._exact: dict[str, Bucket] = {}
        self._patterns: PatternTable[Bucket] = PatternTable()
        self._everything: Bucket = {}
        self._remembered: dict[str, tuple[Bucket, ...]] = {}
        self._changes = 0

    def add(self, subscriber: Subscriber) -> None:
        """Enter a subscriber under each of its matchers."""
        for matcher in subscriber.matchers:
            if matcher.is_wildcard:
                self._everything[subscriber] = None
            elif matcher.exact is not None:
                bucket = self._exact.get(matcher.exact)
                if bucket is None:
                    self._exact[matcher.exact] = {subscriber: None}
                else:
                    bucket[subscriber] = None
            else:
                bucket = self._patterns.get(matcher)
                if bucket is None:
                    self._patterns.add(matcher, {subscriber: None})
                    self._forget()
                else:
                    bucket[subscriber] = None

    def remove(self, subscriber: Subscriber) -> None:
        """Forget a subscriber."""
        for matcher in subscriber.matchers:
            if matcher.is_wildcard:
                self._everything.pop(subscriber, None)
            elif matcher.exact is not None:
                bucket = self._exact.get(matcher.exact)
                if bucket is not None:
                    bucket.pop(subscriber, None)
                    if not bucket:
                        del self._exact[matcher.exact]
            else:
                bucket = self._patterns.get(matcher)
                if bucket is not None:
                    bucket.pop(subscriber, None)
                    if not bucket:
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
            found: list[Bucket] = []
            for start in range(0, len(candidates) or 1, _AT_ONCE):
                some = candidates[start : start + _AT_ONCE]
                found += [bucket for matcher, bucket in some if matcher.matches(topic)]
                yield len(some) + 1
            if changes == self._changes:  # else a pattern came or went in a pause
                self._remember(topic, tuple(found))

    def matching(self, topics: Sequence[str]) -> list[Subscriber]:
        """The subscribers that listen to one of the topics, each once."""
        buckets = list(self._buckets(topics))
        if not buckets:
            return []
        if len(buckets) == 1:
            return list(buckets[0])
        merged: Bucket = {}
        for bucket in buckets:
            merged.update(bucket)
        return list(merged)

    def _buckets(self, topics: Sequence[str]) -> Iterator[Bucket]:
        if self._everything:
            yield self._everything
        for topic in topics:
            bucket = self._exact.get(topic)
            if bucket is not None:
                yield bucket
            if self._patterns:
                yield from self._by_pattern(topic)

    def _by_pattern(self, topic: str) -> tuple[Bucket, ...]:
        known = self._remembered.get(topic)
        if known is None:
            candidates = self._patterns.candidates(topic)
            known = tuple(bucket for matcher, bucket in candidates if matcher.matches(topic))
            self._remember(topic, known)
        return known

    def _remember(self, topic: str, found: tuple[Bucket, ...]) -> None:
        if len(self._remembered) >= _MAX_REMEMBERED:
            self._remembered.clear()
        self._remembered[topic] = found

    def _forget(self) -> None:
        self._remembered.clear()
        self._changes += 1
