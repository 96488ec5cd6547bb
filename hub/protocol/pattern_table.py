"""Many patterns, of which few are tried for a topic."""

from __future__ import annotations

from typing import Generic, TypeVar

from hub.protocol.literal_prefix import above
from hub.protocol.matchers import Matcher

Value = TypeVar("Value")


class PatternTable(Generic[Value]):
    """A value for each of many matchers that are patterns, found by what their topics begin with."""

    __slots__ = ("_by_base", "_size")

    def __init__(self) -> None:
        self._by_base: dict[str | None, dict[tuple[str, str], dict[Matcher, Value]]] = {}
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def get(self, matcher: Matcher) -> Value | None:
        """The value of a matcher."""
        base, origin, prefix = matcher.place
        found = self._by_base.get(base, {}).get((origin, prefix))
        return None if found is None else found.get(matcher)

    def add(self, matcher: Matcher, value: Value) -> None:
        """Enter a matcher that is not there."""
        base, origin, prefix = matcher.place
        self._by_base.setdefault(base, {}).setdefault((origin, prefix), {})[matcher] = value
        self._size += 1

    def remove(self, matcher: Matcher) -> None:
        """Take out a matcher that is there."""
        base, origin, prefix = matcher.place
        places = self._by_base[base]
        del places[origin, prefix][matcher]
        self._size -= 1
        if not places[origin, prefix]:
            del places[origin, prefix]
            if not places:
                del self._by_base[base]

    def candidates(self, topic: str) -> list[tuple[Matcher, Value]]:
        """The matchers that may select a topic; no other one does."""
        found: list[tuple[Matcher, Value]] = []
        for base, places in self._by_base.items():
            located = above(topic, base)
            if located is None:
                continue
            origin, prefixes = located
            for one in (origin, "") if origin else ("",):
                for prefix in prefixes:
                    matchers = places.get((one, prefix))
                    if matchers is not None:
                        found += matchers.items()
        return found
