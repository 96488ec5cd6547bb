"""Sets of matchers: a table that finds the few patterns to try for a topic, and the scope of a token."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Generic, TypeVar

from mercure_hub.protocol.matching.matcher import Matcher, Prefix, topic_prefixes

Value = TypeVar("Value")

_FEW = 4  # matchers that are tried in turn; more go into a table


class PatternTable(Generic[Value]):
    """A value for each of many patterns; a topic finds the few patterns that may match by its prefixes."""

    __slots__ = ("_bases", "_entries", "_size")

    def __init__(self) -> None:
        # Most prefixes have one matcher, and a tuple takes a third of the memory of a dict.
        self._entries: dict[Prefix, tuple[Matcher, Value] | dict[Matcher, Value]] = {}
        self._bases: dict[str | None, int] = {}  # number of prefixes of each
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[tuple[Matcher, Value]]:
        for entry in self._entries.values():
            if isinstance(entry, dict):
                yield from entry.items()
            else:
                yield entry

    def get(self, matcher: Matcher) -> Value | None:
        """The value of a matcher."""
        entry = self._entries.get(matcher.prefix)
        if isinstance(entry, dict):
            return entry.get(matcher)
        return entry[1] if entry is not None and entry[0] is matcher else None

    def put(self, matcher: Matcher, value: Value) -> None:
        """Set the value of a matcher."""
        prefix = matcher.prefix
        entry = self._entries.get(prefix)
        if isinstance(entry, dict):
            self._size += matcher not in entry
            entry[matcher] = value
        elif entry is None or entry[0] is matcher:
            self._entries[prefix] = matcher, value
            if entry is None:
                self._size += 1
                self._bases[prefix[0]] = self._bases.get(prefix[0], 0) + 1
        else:
            self._entries[prefix] = {entry[0]: entry[1], matcher: value}
            self._size += 1

    def remove(self, matcher: Matcher) -> None:
        """Remove a matcher of the table."""
        prefix = matcher.prefix
        entry = self._entries[prefix]
        self._size -= 1
        if isinstance(entry, dict) and len(entry) > 1:
            del entry[matcher]
            return
        del self._entries[prefix]
        self._bases[prefix[0]] -= 1
        if not self._bases[prefix[0]]:
            del self._bases[prefix[0]]

    def candidates(self, topic: str) -> list[tuple[Matcher, Value]]:
        """All matchers that may select a topic, with their values."""
        candidates: list[tuple[Matcher, Value]] = []
        for base in self._bases:
            located = topic_prefixes(topic, base)
            if located is None:
                continue
            origin, prefixes = located
            for one in (origin, "") if origin else ("",):
                for prefix in prefixes:
                    here = self._entries.get((base, one, prefix))
                    if isinstance(here, dict):
                        candidates += here.items()
                    elif here is not None:
                        candidates.append(here)
        return candidates


class Scope:
    """The topics that a token allows for one action, or that a subscriber listens to.

    :param matchers: any of them covers the topic.
    """

    __slots__ = ("_others", "_topic")

    def __init__(self, matchers: Sequence[Matcher]) -> None:
        # Most tokens and most subscribers have one topic, and there are thousands of them.
        self._topic = matchers[0].exact if len(matchers) == 1 else None
        self._others = None if self._topic is not None else _Matchers(matchers)

    def covers(self, topic: str) -> bool:
        """Tell whether the topic is allowed."""
        return topic == self._topic if self._others is None else self._others.cover(topic)

    def has_pattern(self, value: str) -> bool:
        """Tell whether one of the patterns has this text."""
        return self._others is not None and self._others.have_pattern(value)

    def covers_any(self, topics: Sequence[str]) -> bool:
        """Tell whether one of the topics is allowed, which is enough to read a private update."""
        if self._others is None:
            return self._topic in topics
        return any(map(self._others.cover, topics))

    def reaches(self, path: str) -> bool:
        """Whether it may cover a topic below a path of the hub; false only if that is certain."""
        if self._topic is not None:
            return self._topic.startswith(path)
        return self._others is not None and self._others.reach(path)

    def first_outside(self, topics: Sequence[str]) -> str | None:
        """The first topic that is not allowed; publishing needs all of them."""
        return next((topic for topic in topics if not self.covers(topic)), None)


class _Matchers:
    """Any number of matchers of any type."""

    __slots__ = ("_everything", "_exact", "_patterns", "_table")

    def __init__(self, matchers: Sequence[Matcher]) -> None:
        self._everything = any(matcher.is_wildcard for matcher in matchers)
        exact = dict.fromkeys(matcher.exact for matcher in matchers if matcher.exact is not None)
        # A set of one takes four times the memory of a tuple.
        self._exact = tuple(exact) if len(exact) <= _FEW else frozenset(exact)
        self._table: PatternTable[None] | None = None
        self._patterns = tuple(
            matcher for matcher in matchers if matcher.exact is None and not matcher.is_wildcard
        )
        if len(self._patterns) > _FEW:
            self._table = PatternTable()
            for matcher in dict.fromkeys(self._patterns):
                self._table.put(matcher, None)

    def cover(self, topic: str) -> bool:
        """See ``Scope.covers``; likewise the others."""
        if self._everything or topic in self._exact:
            return True
        if self._table is not None:
            return any(matcher.matches(topic) for matcher, _ in self._table.candidates(topic))
        return any(matcher.matches(topic) for matcher in self._patterns)

    def have_pattern(self, value: str) -> bool:
        return any(matcher.value == value for matcher in self._patterns)

    def reach(self, path: str) -> bool:
        return (
            self._everything
            or any(topic.startswith(path) for topic in self._exact)
            or any(matcher.reaches(path) for matcher in self._patterns)
        )


NOTHING = Scope(())
