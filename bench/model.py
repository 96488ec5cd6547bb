"""What a measurement is made of: rows, their cases, the figures of each, and the outcome of it all."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.generator import Result, at

FLOOR = "floor"
HUB = "hub"


class Skipped(Exception):
    """A row cannot be measured here; the text says why."""


@dataclass(frozen=True, slots=True)
class Target:
    """What we mean to reach.

    :param bound: limit of the hub's value, or of its ratio to ``of``.
    :param at_least: the limit is a lower one.
    :param of: contestant of the same case, empty for the value itself.
    :param case: another case of the row whose hub is compared with.
    """

    bound: float
    at_least: bool = False
    of: str = ""
    case: str = ""

    @property
    def is_ratio(self) -> bool:
        """Whether the ratio is limited, not the value."""
        return bool(self.of or self.case)

    def is_met(self, value: float) -> bool:
        """Tell whether a value or ratio is within the limit."""
        return value >= self.bound if self.at_least else value <= self.bound

    def words(self) -> str:
        """As the table shows it."""
        sign = "≥" if self.at_least else "≤"
        if not self.is_ratio:
            return f"{sign} {number(self.bound)}"
        return f"{sign} {self.bound:g} x {self.of or f'“{self.case}”'}"


@dataclass(frozen=True, slots=True)
class Figure:
    """One number that is read off a run.

    :param title: with its unit.
    :param value: takes it from the result; ``None`` if it is not there.
    :param against: contestant that the ratio is to, where the target names none.
    :param uses_generator: it cannot be better than the load generator.
    """

    title: str
    value: Callable[[Result], float | None]
    target: Target | None = None
    against: str = ""
    uses_generator: bool = False


@dataclass(frozen=True, slots=True)
class Case:
    """One load, put on each contestant in turn.

    :param contestants: by name, in the order of running.
    """

    name: str
    contestants: Mapping[str, Callable[[], Result]]
    figures: Sequence[Figure]


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the table: a figure of a case.

    :param values: of each contestant, one for each run.
    :param generator: median share of a core that the generator used beside our hub, if it matters.
    """

    case: str
    title: str
    values: Mapping[str, Sequence[float]]
    target: Target | None = None
    against: str = ""
    generator: float | None = None

    def median(self, contestant: str) -> float | None:
        """The median of a contestant's runs."""
        values = self.values.get(contestant)
        return statistics.median(values) if values else None

    def ratio_to(self, contestant: str) -> float | None:
        """The median of the ratios of the hub's runs to those of a contestant that followed them."""
        return median_ratio(self.values.get(HUB), self.values.get(contestant))


@dataclass(frozen=True, slots=True)
class Row:
    """The outcome of one subject.

    :param skipped: why it was not measured, or empty.
    :param failed: it was begun, and a run was not clean.
    :param notes: what a reader has to know.
    :param runs: each single run: case, contestant and result.
    :param origin: when and of what it was measured, if not with the rows around it.
    """

    name: str
    title: str
    lines: Sequence[Line] = ()
    notes: Sequence[str] = ()
    skipped: str = ""
    failed: bool = False
    runs: Sequence[Mapping[str, Any]] = field(default=())
    origin: str = ""

    def ratio(self, line: Line) -> float | None:
        """The median of the ratios of runs that followed each other.

        To the contestant or case that the line's target names; ``None`` if one of them was not measured.
        """
        return median_ratio(line.values.get(HUB), self._other(line))

    def limit(self, line: Line) -> float | None:
        """The hub's value at which the target is just met; ``None`` if it cannot be told."""
        if line.target is None:
            return None
        if not line.target.is_ratio:
            return line.target.bound
        other = self._other(line)
        return line.target.bound * statistics.median(other) if other else None

    def _other(self, line: Line) -> Sequence[float] | None:
        """The runs that the hub's are divided by."""
        target = line.target
        if target is not None and target.case:
            wanted = [one for one in self.lines if (one.case, one.title) == (target.case, line.title)]
            return wanted[0].values.get(HUB) if wanted else None
        return line.values.get((target.of if target is not None else "") or line.against)

    def is_met(self, line: Line) -> bool | None:
        """Whether a line's target is met; ``None`` if it has none or cannot be told."""
        if line.target is None:
            return None
        value = self.ratio(line) if line.target.is_ratio else line.median(HUB)
        return None if value is None else line.target.is_met(value)


def median_ratio(own: Sequence[float] | None, other: Sequence[float] | None) -> float | None:
    """The median of the ratios of runs that followed each other; ``None`` if one was not measured."""
    pairs = [mine / theirs for mine, theirs in zip(own or (), other or (), strict=False) if theirs > 0]
    return statistics.median(pairs) if pairs else None


def measure(
    cases: Sequence[Case], runs: int, tell: Callable[[str], None]
) -> tuple[list[Line], list[dict[str, Any]]]:
    """Run all cases in turn, each contestant after the other, as often as wanted.

    A machine that is slow for a while is slow for all of them.

    :param tell: is told what runs.
    """
    results: dict[tuple[str, str], list[Result]] = {}
    records: list[dict[str, Any]] = []
    for run in range(runs):
        for case in cases:
            for name, load in case.contestants.items():
                tell(f"run {run + 1} of {runs}: {case.name}, {name}")
                result = load()
                results.setdefault((case.name, name), []).append(result)
                records.append({"run": run + 1, "case": case.name, "contestant": name, "result": result})
    lines = [_line(case, figure, results) for case in cases for figure in case.figures]
    return [line for line in lines if line.values], records


def _line(case: Case, figure: Figure, results: Mapping[tuple[str, str], Sequence[Result]]) -> Line:
    values: dict[str, list[float]] = {}
    for name in case.contestants:
        read = [figure.value(result) for result in results[case.name, name]]
        known = [value for value in read if value is not None]
        if known:
            values[name] = known
    shares = [at(result, "client_share") for result in results.get((case.name, HUB), ())]
    known = [share for share in shares if share is not None]
    generator = statistics.median(known) if figure.uses_generator and known else None
    return Line(case.name, figure.title, values, figure.target, figure.against, generator)


def number(value: float) -> str:
    """Three digits or so, with separators."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}" if abs(value) >= 0.1 else f"{value:.2g}"
