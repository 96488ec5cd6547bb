"""Known defects that are not fixed yet: the seed that shows each one, and the rules that it breaks.

A run expects them strictly: it fails if a seed of this list breaks none of its rules. Remove a defect from
the list when it is fixed.
"""

from __future__ import annotations

from dataclasses import dataclass

from chaos.invariants import Invariant
from chaos.plan import SQLITE, Kind


@dataclass(frozen=True, slots=True)
class Known:
    """A known defect.

    :param seed: shows it, with these faults; without any: with those that it draws.
    :param rules: it breaks at least one of them.
    :param engine: on which it does.
    """

    words: str
    seed: int
    kinds: tuple[Kind, ...]
    rules: frozenset[Invariant]
    engine: str = SQLITE


KNOWN: tuple[Known, ...] = ()


def tolerated(engine: str) -> frozenset[Invariant]:
    """The rules that any seed on an engine may break until the known defects are mended."""
    return frozenset(rule for known in KNOWN if known.engine == engine for rule in known.rules)
