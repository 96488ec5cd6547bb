"""Medians, ratios and targets."""

from __future__ import annotations

import pytest

from bench.generator import Result
from bench.model import FLOOR, HUB, Case, Figure, Line, Row, Target, measure, number


def row(*lines: Line) -> Row:
    return Row("name", "title", lines)


def test_the_ratio_is_the_median_of_the_pairs() -> None:
    """Not that of the medians: a machine that was slow for a while was slow for both."""
    line = Line(
        "case", "title", {FLOOR: [100, 10, 40], HUB: [90, 10, 20]}, Target(0.9, at_least=True, of=FLOOR)
    )
    assert row(line).ratio(line) == 0.9
    assert row(line).is_met(line) is True


def test_a_case_is_compared_with_another() -> None:
    few = Line("few", "cost", {HUB: [10, 10]})
    many = Line("many", "cost", {HUB: [13, 15]}, Target(1.25, case="few"))
    both = row(few, Line("few", "other", {HUB: [1]}), many)
    assert both.ratio(many) == pytest.approx(1.4)
    assert both.is_met(many) is False
    assert both.is_met(few) is None


def test_a_value_has_a_limit_without_a_ratio() -> None:
    line = Line(
        "case", "title", {HUB: [900, 1100, 1000], "nchan": [10_000] * 3}, Target(1024), against="nchan"
    )
    assert row(line).is_met(line) is True
    assert row(line).ratio(line) == pytest.approx(0.1)


def test_the_limit_is_where_the_target_is_just_met() -> None:
    line = Line("case", "title", {FLOOR: [100, 300, 200], HUB: [1]}, Target(0.9, at_least=True, of=FLOOR))
    assert row(line).limit(line) == pytest.approx(180)
    value = Line("case", "title", {HUB: [1]}, Target(1024))
    assert row(value).limit(value) == 1024
    plain = Line("case", "title", {HUB: [1]})
    assert row(plain).limit(plain) is None


@pytest.mark.parametrize("values", [{HUB: [1.0]}, {FLOOR: [1.0]}, {HUB: [1.0], FLOOR: [0.0]}])
def test_what_was_not_measured_is_neither_met_nor_missed(values: dict[str, list[float]]) -> None:
    line = Line("case", "title", values, Target(1, of=FLOOR))
    assert row(line).ratio(line) is None
    assert row(line).is_met(line) is None


def test_contestants_take_turns() -> None:
    order: list[str] = []
    told: list[str] = []

    def load(name: str) -> Result:
        order.append(name)
        return {"value": len(order), "client_share": 0.5}

    cases = [
        Case(
            case,
            {name: lambda case=case, name=name: load(f"{case} {name}") for name in (FLOOR, HUB)},  # type: ignore[misc]
            [
                Figure("value", lambda result: float(result["value"]), uses_generator=True),
                Figure("absent", lambda _: None),
            ],
        )
        for case in ("a", "b")
    ]
    lines, records = measure(cases, 2, told.append)
    assert order == ["a floor", "a hub", "b floor", "b hub"] * 2
    assert [(line.case, line.title, line.values) for line in lines] == [
        ("a", "value", {FLOOR: [1.0, 5.0], HUB: [2.0, 6.0]}),
        ("b", "value", {FLOOR: [3.0, 7.0], HUB: [4.0, 8.0]}),
    ]
    assert [line.generator for line in lines] == [0.5, 0.5]
    assert [(record["run"], record["case"], record["contestant"]) for record in records][:3] == [
        (1, "a", FLOOR), (1, "a", HUB), (1, "b", FLOOR),
    ]  # fmt: skip
    assert told[-1] == "run 2 of 2: b, hub"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (1234567.8, "1,234,568"),
        (100, "100"),
        (12.34, "12.3"),
        (0.126, "0.13"),
        (0.0123, "0.012"),
        (-5, "-5.00"),
    ],
)
def test_numbers(value: float, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("target", "words"),
    [
        (Target(1024), "≤ 1,024"),
        (Target(8, at_least=True, of="nchan"), "≥ 8 x nchan"),
        (Target(1.25, case="100 connected"), "≤ 1.25 x “100 connected”"),
    ],
)
def test_targets_in_words(target: Target, words: str) -> None:
    assert target.words() == words
