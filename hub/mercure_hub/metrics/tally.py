"""Where the figures are: in memory that all workers share.

Each worker writes its own part and any of them reads all, so nothing is locked. The memory belongs to the
parent: what a worker counted stays when it dies, and the one in its place goes on from there.
"""

from __future__ import annotations

import mmap
from bisect import bisect_left

from mercure_hub.metrics.catalogue import CATALOGUE, OTHER, Family, Kind

_OCTETS = 8


def _layout() -> tuple[dict[str, int], int]:
    starts: dict[str, int] = {}
    cells = 0
    for family in CATALOGUE:
        starts[family.name] = cells
        cells += family.cells
    return starts, cells


_STARTS, _CELLS = _layout()
_PLACES = {
    (family.name, value): _STARTS[family.name] + number
    for family in CATALOGUE
    for number, value in enumerate(family.values)
}


class Board:
    """The figures of all workers.

    :param workers: how many there are.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._numbers = _floats(mmap.mmap(-1, workers * _CELLS * _OCTETS))

    def of(self, worker: int) -> Tally:
        """The part of one worker, whose gauges begin anew.

        :param worker: its number, from 0.
        """
        numbers = self._part(worker)
        for family in CATALOGUE:
            if family.kind is Kind.GAUGE:
                for place in range(_STARTS[family.name], _STARTS[family.name] + family.cells):
                    numbers[place] = 0.0
        return Tally(numbers, self)

    def figures(self, family: Family, worker: int) -> list[float]:
        """The numbers of a family, in the order of its values or of its buckets."""
        start = _STARTS[family.name]
        return list(self._part(worker)[start : start + family.cells])

    def _part(self, worker: int) -> memoryview[float]:
        return self._numbers[worker * _CELLS : (worker + 1) * _CELLS]


def _floats(memory: mmap.mmap) -> memoryview[float]:
    return memoryview(memory).cast("d")


class Tally:
    """What one worker writes.

    :param numbers: its part.
    :param board: of all workers.
    """

    __slots__ = ("_numbers", "board")

    def __init__(self, numbers: memoryview[float], board: Board) -> None:
        self._numbers = numbers
        self.board = board

    def add(self, family: Family, number: float = 1, value: str = "") -> None:
        """Count.

        :param value: of the label; one that is not in the table counts as ``other``.
        """
        place = _PLACES.get((family.name, value))
        self._numbers[_PLACES[family.name, OTHER] if place is None else place] += number

    def put(self, family: Family, number: float, value: str = "") -> None:
        """Set a gauge."""
        self._numbers[_PLACES[family.name, value]] = number

    def observe(self, family: Family, seconds: float, count: int = 1) -> None:
        """Count in a histogram.

        :param count: how many took this time.
        """
        start = _STARTS[family.name]
        self._numbers[start + bisect_left(family.buckets, seconds)] += count
        self._numbers[start + len(family.buckets) + 1] += seconds * count
