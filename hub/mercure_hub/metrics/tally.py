"""The metrics, in memory that all workers share.

Each worker writes only its own part and reads all of them, so there is no lock. The memory belongs to the
parent process: the counts of a worker that dies stay, and its successor continues from them.
"""

from __future__ import annotations

import mmap
import resource
import sys
import time
from bisect import bisect_left
from collections.abc import Sequence
from pathlib import Path

from mercure_hub.metrics.catalogue import (
    CATALOGUE,
    CPU,
    DESCRIPTORS,
    MEMORY,
    MOST_DESCRIPTORS,
    OTHER,
    SEEN,
    STARTS,
    Family,
    Kind,
)

_CELL_SIZE = 8  # bytes


def _layout() -> tuple[dict[str, int], int]:
    starts: dict[str, int] = {}
    cells = 0
    for family in CATALOGUE:
        starts[family.name] = cells
        cells += family.cells
    return starts, cells


_STARTS, _CELLS = _layout()
_INDEX = {
    (family.name, value): _STARTS[family.name] + number
    for family in CATALOGUE
    for number, value in enumerate(family.values)
}


class Board:
    """The metrics of all workers.

    :param workers: how many there are.
    :param others: names of processes beside them, which serve no clients.
    """

    def __init__(self, workers: int, others: Sequence[str] = ()) -> None:
        self.workers = workers
        self.names = [*map(str, range(workers)), *others]
        self._numbers = _floats(mmap.mmap(-1, len(self.names) * _CELLS * _CELL_SIZE))

    def of(self, worker: int) -> Tally:
        """The part of one worker; its gauges are set to 0.

        :param worker: its number, from 0; the other processes come after the workers.
        """
        numbers = self._part(worker)
        for family in CATALOGUE:
            if family.kind is Kind.GAUGE:
                for index in range(_STARTS[family.name], _STARTS[family.name] + family.cells):
                    numbers[index] = 0.0
        return Tally(numbers, self)

    def numbers(self, family: Family, worker: int) -> list[float]:
        """The numbers of a family, in the order of its values or of its buckets."""
        start = _STARTS[family.name]
        return list(self._part(worker)[start : start + family.cells])

    def _part(self, worker: int) -> memoryview[float]:
        return self._numbers[worker * _CELLS : (worker + 1) * _CELLS]


def _floats(memory: mmap.mmap) -> memoryview[float]:
    return memoryview(memory).cast("d")


class Tally:
    """The metrics that one worker writes.

    :param numbers: its part of the board.
    :param board: the metrics of all workers.
    """

    __slots__ = ("_numbers", "board")

    def __init__(self, numbers: memoryview[float], board: Board) -> None:
        self._numbers = numbers
        self.board = board

    def add(self, family: Family, number: float = 1, value: str = "") -> None:
        """Add to a counter.

        :param value: of the label; one that is not in the catalogue counts as ``other``.
        """
        index = _INDEX.get((family.name, value))
        self._numbers[_INDEX[family.name, OTHER] if index is None else index] += number

    def put(self, family: Family, number: float, value: str = "") -> None:
        """Set a gauge."""
        self._numbers[_INDEX[family.name, value]] = number

    def observe(self, family: Family, seconds: float, count: int = 1) -> None:
        """Add to a histogram.

        :param count: number of events that took this time.
        """
        start = _STARTS[family.name]
        self._numbers[start + bisect_left(family.buckets, seconds)] += count
        self._numbers[start + len(family.buckets) + 1] += seconds * count


_PAGE_SIZE = resource.getpagesize()
_STATM = Path("/proc/self/statm")
_DESCRIPTORS = Path("/proc/self/fd")
_OPEN_FILES = Path("/dev/fd")  # on systems without /proc
_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes, of the largest size that the system tells


class ProcessMetrics:
    """Writes what the operating system says of this process.

    :param tally: of this worker.
    """

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._cpu = 0.0
        tally.add(STARTS)

    def write(self, now: float) -> None:
        """Write the current numbers; to be called each second.

        :param now: seconds since the epoch.
        :raises OSError: no descriptor is free to read them; metrics that need none are written.
        """
        self._tally.put(SEEN, now)
        cpu = time.process_time()
        self._tally.add(CPU, cpu - self._cpu)
        self._cpu = cpu
        self._tally.put(MEMORY, _memory())
        self._tally.put(MOST_DESCRIPTORS, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
        self._tally.put(DESCRIPTORS, _open_descriptors())


def _memory() -> int:
    """Bytes that this process has in memory; without ``/proc``, the most that it has had."""
    try:
        return int(_STATM.read_text(encoding="ascii").split()[1]) * _PAGE_SIZE
    except FileNotFoundError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _UNIT


def _open_descriptors() -> int:
    try:
        # Since Linux 6.2 the size of the directory is their number. Listing thousands each second is slow.
        return _DESCRIPTORS.stat().st_size or len(list(_DESCRIPTORS.iterdir()))
    except FileNotFoundError:
        return len(list(_OPEN_FILES.iterdir()))
