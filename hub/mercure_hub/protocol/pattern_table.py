"""Many patterns, of which few are tried for a topic."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

from mercure_hub.protocol.literal_prefix import Place, above
from mercure_hub.protocol.matchers import Matcher

Value = TypeVar("Value")


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
