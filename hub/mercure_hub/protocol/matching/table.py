"""Sets of matchers: a table that finds the few patterns to try for a topic, and the scope of a token."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Generic, TypeVar

from mercure_hub.protocol.matching.matcher import Matcher, Place, above

Value = TypeVar("Value")

_FEW = 4  # that are tried one after another; more are looked up


class PatternTable(Generic[Value]):
    """A value for each of many matchers that are patterns, found by what their topics begin with."""

    __slots__ = ("_bases", "_places", "_size")

    def __init__(self) -> None:
        # Most places have one matcher, and a pair is a third of a dict.
        self._places: dict[Place, tuple[Matcher, Value] | dict[Matcher, Value]] = {}
        self._bases: dict[str | None, int] = {}  # how many places each has
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[tuple[Matcher, Value]]:
        for found in self._places.values():
            if isinstance(found, dict):
                yield from found.items()
            else:
                yield found

    def get(self, matcher: Matcher) -> Value | None:
        """The value of a matcher."""
        found = self._places.get(matcher.place)
        if isinstance(found, dict):
            return found.get(matcher)
        return found[1] if found is not None and found[0] is matcher else None

    def put(self, matcher: Matcher, value: Value) -> None:
        """Enter a matcher, or give it another value."""
        place = matcher.place
        found = self._places.get(place)
        if isinstance(found, dict):
            self._size += matcher not in found
            found[matcher] = value
        elif found is None or found[0] is matcher:
            self._places[place] = matcher, value
            if found is None:
                self._size += 1
                self._bases[place[0]] = self._bases.get(place[0], 0) + 1
        else:
            self._places[place] = {found[0]: found[1], matcher: value}
            self._size += 1

    def remove(self, matcher: Matcher) -> None:
        """Take out a matcher that is there."""
        place = matcher.place
        found = self._places[place]
        self._size -= 1
        if isinstance(found, dict) and len(found) > 1:
            del found[matcher]
            return
        del self._places[place]
        self._bases[place[0]] -= 1
        if not self._bases[place[0]]:
            del self._bases[place[0]]

    def candidates(self, topic: str) -> list[tuple[Matcher, Value]]:
        """The matchers that may select a topic; no other one does."""
        found: list[tuple[Matcher, Value]] = []
        for base in self._bases:
            located = above(topic, base)
            if located is None:
                continue
            origin, prefixes = located
            for one in (origin, "") if origin else ("",):
                for prefix in prefixes:
                    here = self._places.get((base, one, prefix))
                    if isinstance(here, dict):
                        found += here.items()
                    elif here is not None:
                        found.append(here)
        return found


class Scope:
    """The topics that a token allows for one action, or that a subscriber listens to.

    :param matchers: any of them covers the topic.
    """

    __slots__ = ("_everything", "_exact", "_patterns", "_table")

    def __init__(self, matchers: Sequence[Matcher]) -> None:
        self._everything = any(matcher.is_wildcard for matcher in matchers)
        exact = dict.fromkeys(matcher.exact for matcher in matchers if matcher.exact is not None)
        # Most tokens have one topic, and a set of one is four times as large as a tuple.
        self._exact: tuple[str, ...] | frozenset[str] = (
            tuple(exact) if len(exact) <= _FEW else frozenset(exact)
        )
        self._patterns = tuple(
            matcher for matcher in matchers if matcher.exact is None and not matcher.is_wildcard
        )
        self._table: PatternTable[None] | None = None
        if len(self._patterns) > _FEW:
            self._table = PatternTable()
            for matcher in dict.fromkeys(self._patterns):
                self._table.put(matcher, None)

    def covers(self, topic: str) -> bool:
        """Tell whether the topic is allowed."""
        if self._everything or topic in self._exact:
            return True
        if self._table is not None:
            return any(matcher.matches(topic) for matcher, _ in self._table.candidates(topic))
        return any(matcher.matches(topic) for matcher in self._patterns)

    def covers_any(self, topics: Sequence[str]) -> bool:
        """Tell whether one of the topics is allowed: enough to read a private update."""
        return any(self.covers(topic) for topic in topics)

    def reaches(self, path: str) -> bool:
        """Whether it may cover a topic that begins with a path of the hub.

        It says no only if that is certain.
        """
        return (
            self._everything
            or any(topic.startswith(path) for topic in self._exact)
            or any(matcher.reaches(path) for matcher in self._patterns)
        )

    def first_outside(self, topics: Sequence[str]) -> str | None:
        """The first topic that is not allowed: all must be, to publish."""
        return next((topic for topic in topics if not self.covers(topic)), None)


NOTHING = Scope(())
