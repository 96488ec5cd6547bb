"""Counts of connections that sibling processes share, in memory that they inherit by fork.

Each process writes its own part and reads the others', so nothing is locked. Addresses and tokens are
counted by hash, in two places each; the lower count is taken, which makes it rare that one pays for
another one's connections.
"""

from __future__ import annotations

import mmap
from collections.abc import Hashable

_PLACES = 1 << 15
_COUNTERS = 1 + 2 * _PLACES  # the first is the total
_OCTETS = 4


class Census:
    """The counts of all processes; each has a view of its own from ``of``.

    :param processes: how many there are.
    """

    def __init__(self, processes: int) -> None:
        self._processes = processes
        self._counts = memoryview(mmap.mmap(-1, processes * _COUNTERS * _OCTETS)).cast("i")

    def of(self, process: int) -> Count:
        """The view of one process, whose counts begin anew.

        :param process: its number, from 0.
        """
        self.clear(process)
        start = process * _COUNTERS
        others = [other * _COUNTERS for other in range(self._processes) if other != process]
        return Count(self._counts, start, others)

    def clear(self, process: int) -> None:
        """Count the connections of a process no more: it is dead.

        :param process: its number, from 0.
        """
        start = process * _COUNTERS
        self._counts[start : start + _COUNTERS] = memoryview(bytes(_COUNTERS * _OCTETS)).cast("i")


class Count:
    """What one process adds, and what the others have.

    :param counts: the shared memory.
    :param own: where the part of this process begins.
    :param others: where those of the others do.
    """

    def __init__(self, counts: memoryview[int], own: int, others: list[int]) -> None:
        self._counts = counts
        self._own = own
        self._others = others

    def add(self, key: Hashable, number: int) -> None:
        """Count connections of a key.

        :param number: 1 for one more, -1 for one less.
        """
        first, second = _places(key)
        self._counts[self._own + first] += number
        self._counts[self._own + second] += number

    def add_to_total(self, number: int) -> None:
        """Count connections of anybody."""
        self._counts[self._own] += number

    def elsewhere(self, key: Hashable) -> int:
        """How many connections of a key the other processes have."""
        first, second = _places(key)
        return sum(min(self._counts[start + first], self._counts[start + second]) for start in self._others)

    def total_elsewhere(self) -> int:
        """How many connections the other processes have."""
        return sum(self._counts[start] for start in self._others)


def _places(key: Hashable) -> tuple[int, int]:
    # Python's hash is keyed with a secret that forked processes share, so nobody can aim at a place.
    hashed = hash(key)
    return 1 + hashed % _PLACES, 1 + _PLACES + (hashed >> 20) % _PLACES
