"""Finds the newest update of each topic that a subscriber listens to, which it is sent first if it asks.

A topic has a value if its newest updates hold one that the subscriber may read. Topics are looked up in the
index, those of patterns after they were found there, so the cost follows the topics and not their updates.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence

from mercure_hub.storage.interface import Outline

MOST_BYTES = 32 << 20
"""Size of the data of the values that one subscriber is sent; of more, the newest ones."""

DEPTHS = (1, 7, 56)
"""How many updates of a topic are looked at, one after the other, for one that may be read."""

AT_ONCE = 512
"""Updates that one look-up outlines at most."""


MOST_DEEPER = 10_000 * sum(DEPTHS[1:])
"""Updates below the newest ones of topics that are looked at for one subscriber: 63 for each of its values.

The newest update of each topic is looked at, however many topics there are. But a subscriber that may read
none of 200,000 topics would have the hub look at 64 updates of each.
"""


class Depth:
    """How many updates below the newest ones of topics may still be looked at for one subscriber.

    :param most: how many in all.

    ``is_used_up`` tells whether there were topics to be looked through further.
    """

    def __init__(self, most: int = MOST_DEEPER) -> None:
        self.is_used_up = False
        self._left = most

    def allows(self, updates: int) -> bool:
        """Take so many, if there are any left.

        :param updates: at most so many are looked at.
        """
        self.is_used_up = self._left <= 0
        self._left -= updates
        return not self.is_used_up


class Values:
    """The updates with the last values, as far as they are found: the newest ones, within bounds.

    :param most: how many at most.
    :param most_bytes: of their data.

    ``is_cut`` tells whether there were more.
    """

    def __init__(self, most: int, most_bytes: int = MOST_BYTES) -> None:
        self.is_cut = False
        self._most, self._most_bytes = most, most_bytes
        self._oldest_first: list[tuple[int, int]] = []  # sequence and size; a heap
        self._sequences: set[int] = set()
        self._bytes = 0

    def add(self, outline: Outline) -> None:
        """Add the value of a topic, which may be that of another one too."""
        if outline.sequence in self._sequences:
            return
        self._sequences.add(outline.sequence)
        heapq.heappush(self._oldest_first, (outline.sequence, outline.size))
        self._bytes += outline.size
        while len(self._sequences) > self._most or (
            self._bytes > self._most_bytes and len(self._sequences) > 1
        ):
            self.is_cut = True
            sequence, size = heapq.heappop(self._oldest_first)
            self._sequences.discard(sequence)
            self._bytes -= size

    @property
    def sequences(self) -> list[int]:
        """Of the updates, in order."""
        return sorted(self._sequences)


class Search:
    """Looks for the values of some topics, from their newest updates on.

    :param topics: distinct.
    :param upto: sequence of the last update that counts.
    :param may_read: whether the subscriber gets an update.
    :param deeper: what is left for the subscriber below the newest updates; without it, topics whose newest
        update may not be read have no value.
    """

    def __init__(
        self, topics: Sequence[str], upto: int, may_read: Callable[[Outline], bool], deeper: Depth
    ) -> None:
        self._deeper = deeper
        self._left = [(topic, upto) for topic in topics]
        self._may_read = may_read
        self._asked: Sequence[tuple[str, int]] = ()
        self._depth = 0

    def questions(self) -> Iterator[tuple[Sequence[tuple[str, int]], int]]:
        """What to look up, as arguments of ``Link.newest_of``; ``take`` the answer before the next."""
        for self._depth in DEPTHS:
            topics, self._left = self._left, []
            at_once = AT_ONCE // self._depth
            for start in range(0, len(topics), at_once):
                self._asked = topics[start : start + at_once]
                if self._depth > 1 and not self._deeper.allows(len(self._asked) * self._depth):
                    return
                yield self._asked, self._depth

    def take(self, answers: Sequence[Sequence[Outline]]) -> Iterator[Outline]:
        """The values that an answer holds."""
        for (topic, _), outlines in zip(self._asked, answers, strict=True):
            # Another topic may share the hash.
            readable = (one for one in outlines if topic in one.topics and self._may_read(one))
            value = next(readable, None)
            if value is not None:
                yield value
            elif len(outlines) == self._depth:
                self._left.append((topic, outlines[-1].sequence - 1))
