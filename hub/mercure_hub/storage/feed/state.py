"""What the feeder tells the workers in memory that they share: how far its copy of the history goes."""

from __future__ import annotations

import mmap
from enum import IntEnum

from mercure_hub.storage.interface import Lag

_CELL = 8  # bytes
_NODE = 64  # bytes for the name of a node


class _Cell(IntEnum):
    GENERATION = 0
    BASE = 1
    LAST = 2
    CURRENT_AT = 3  # a float
    BEHIND = 4
    IS_AWAY = 5


class FeedState:
    """The state of a copy, in memory that outlives the processes; to be made before they are forked.

    One process writes each value, so there is no lock. The copy holds all updates after ``base``, up to
    ``last``. It has another ``generation`` each time it was begun anew; an odd one while that goes on.

    :param workers: how many there are.
    """

    def __init__(self, workers: int) -> None:
        self._memory = mmap.mmap(-1, len(_Cell) * _CELL + workers * _NODE)
        cells = memoryview(self._memory)[: len(_Cell) * _CELL]
        self._integers = cells.cast("q")
        self._floats = cells.cast("d")

    @property
    def generation(self) -> int:
        """How often the copy was begun anew, times two; odd while that goes on, 0 before the first time."""
        return self._integers[_Cell.GENERATION]

    @property
    def is_steady(self) -> bool:
        """Whether the copy can be read: it was begun, and is not being begun anew."""
        generation = self.generation
        return generation > 0 and generation % 2 == 0

    @property
    def base(self) -> int:
        """The sequence after which the copy begins."""
        return self._integers[_Cell.BASE]

    @property
    def last(self) -> int:
        """The sequence of its last update."""
        return self._integers[_Cell.LAST]

    # -- for the feeder --------------------------------------------------------------------------

    def begin_anew(self) -> None:
        """Say that a new copy is about to be made. Call this before anything else changes."""
        if self.generation % 2 == 0:  # else a feeder has died while it did this
            self._integers[_Cell.GENERATION] += 1

    def have_begun(self, base: int) -> None:
        """Say that the copy is empty, and begins after a sequence."""
        self._integers[_Cell.BASE] = self._integers[_Cell.LAST] = base
        self._integers[_Cell.GENERATION] += 1

    def advance(self, last: int) -> None:
        """Say that the copy has more. Call this after writing."""
        self._integers[_Cell.LAST] = last

    def trim(self, base: int) -> None:
        """Say that the copy begins later. Call this before trimming."""
        self._integers[_Cell.BASE] = base

    def note_lag(self, lag: Lag, now: float) -> None:
        """Say how far the copy is behind the history.

        :param now: monotonic time in seconds, at which ``lag`` was so.
        """
        self._floats[_Cell.CURRENT_AT] = now - lag.seconds
        self._integers[_Cell.BEHIND] = lag.updates
        self._integers[_Cell.IS_AWAY] = lag.is_away

    # -- for the workers -------------------------------------------------------------------------

    def lag(self, now: float, interval: float) -> Lag:
        """How far the copy is behind the history; grows while the feeder is silent.

        :param now: monotonic time in seconds.
        :param interval: seconds between two reports of the feeder.
        """
        seconds = now - self._floats[_Cell.CURRENT_AT] - interval
        integers = self._integers
        return Lag(max(seconds, 0.0), integers[_Cell.BEHIND], bool(integers[_Cell.IS_AWAY]))

    def node_of(self, worker: int) -> str:
        """The name under which the engine knows a worker, or knew the one before it; empty: none yet."""
        start = len(_Cell) * _CELL + worker * _NODE
        return self._memory[start : start + _NODE].rstrip(b"\0").decode()

    def name_node(self, worker: int, node: str) -> None:
        """Note the name under which the engine knows a worker.

        :param node: up to 64 ASCII characters.
        """
        start = len(_Cell) * _CELL + worker * _NODE
        self._memory[start : start + _NODE] = node.encode().ljust(_NODE, b"\0")
