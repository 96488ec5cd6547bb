"""Finds the subscribers of an update: cost follows those that match, not those that are connected."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hub.fanout.subscriber import Subscriber
from hub.protocol.matchers import Matcher

Bucket = dict[Subscriber, None]
"""The subscribers with one matcher; a dict for its order and its cheap removal."""

_MAX_REMEMBERED = 10_000


class Index:
    """Subscribers by what they listen to.

    An exact topic is one look-up. Each distinct pattern is evaluated once for a topic and the outcome
    is remembered, as long as no pattern comes or goes.

    ``evaluated`` counts the evaluations; whoever pauses after many of them may set it back.
    """

    def __init__(self) -> None:
        self.evaluated = 0
        self._exact: dict[str, Bucket] = {}
        self._patterns: dict[Matcher, Bucket] = {}
        self._everything: Bucket = {}
        self._remembered: dict[str, tuple[Bucket, ...]] = {}

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
            elif matcher in self._patterns:
                self._patterns[matcher][subscriber] = None
            else:
                self._patterns[matcher] = {subscriber: None}
                self._remembered.clear()

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
                        del self._patterns[matcher]
                        self._remembered.clear()

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
            self.evaluated += len(self._patterns)
            known = tuple(bucket for matcher, bucket in self._patterns.items() if matcher.matches(topic))
            if len(self._remembered) >= _MAX_REMEMBERED:
                self._remembered.clear()
            self._remembered[topic] = known
        return known
