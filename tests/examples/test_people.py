"""The JavaScript that folds subscriptions into people: tables of what it is told, run by Node.js."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from tests.examples.node import run_node

pytestmark = pytest.mark.minutes

GRACE = 15_000
LONGEST_DELAY = 30_000

Step = tuple[Any, ...]
"""A method of ``People`` and its arguments; ``next`` and ``all`` are looked at."""

ADA, BO = {"sub": "ada"}, {"sub": "bo"}


def sub(id: str, payload: Any = None, *, active: bool = True) -> dict[str, Any]:
    """A subscription, as lists and events describe it."""
    document = {"subscriber": id, "active": active}
    return document if payload is None else {**document, "payload": payload}


def here(*documents: dict[str, Any]) -> list[Step]:
    """The first list, at 0."""
    return [("begin",), ("list", list(documents), 0)]


def came(id: str, payload: Any, at: int) -> Step:
    return ("apply", sub(id, payload), at)


def went(id: str, at: int) -> Step:
    return ("apply", sub(id, ADA, active=False), at)


LEFT_AT_100 = 100 + GRACE

# What is told, and what is answered by the steps that answer something: "+ada" has joined, "-ada" has left;
# names with connections for `all`; a number, or None, for `next`.
TABLE: dict[str, tuple[list[Step], list[Any]]] = {
    "the first list tells of nobody": ([*here(sub("1", ADA)), ("all",)], ["ada 1"]),
    "who is not known yet is not told of": (
        [came("1", ADA, 0), ("begin",), ("list", [sub("1", ADA), sub("2", BO)], 0), ("all",)],
        ["ada 1, bo 1"],
    ),
    "who left before the first list was never there": (
        [came("1", ADA, 0), went("1", 0), *here(), ("all",), ("next",)],
        ["", None],
    ),
    "somebody joins": ([*here(), came("1", ADA, 5), ("all",)], ["+ada", "ada 1"]),
    "a second tab joins nobody": (
        [*here(sub("1", ADA)), came("2", ADA, 5), ("all",)],
        ["ada 2"],
    ),
    "one of two tabs leaves": (
        [*here(sub("1", ADA), sub("2", ADA)), went("1", 5), ("next",), ("all",)],
        [None, "ada 1"],
    ),
    "somebody leaves when the grace is over": (
        [
            *here(sub("1", ADA)),
            went("1", 100),
            ("all",),
            ("next",),
            ("due", LEFT_AT_100 - 1),
            ("due", LEFT_AT_100),
            ("all",),
            ("next",),
        ],
        ["ada 0", LEFT_AT_100, "-ada", "", None],
    ),
    "a reload is no leaving": (
        [*here(sub("1", ADA)), went("1", 100), came("2", ADA, 100 + GRACE - 1), ("next",), ("due", 10**6)],
        [None],
    ),
    "nor is one whose new connection comes first": (
        [*here(sub("1", ADA)), came("2", ADA, 100), went("1", 101), ("due", 10**6)],
        [],
    ),
    "who comes back after the grace joins again": (
        [*here(sub("1", ADA)), went("1", 100), ("due", LEFT_AT_100), came("2", ADA, LEFT_AT_100)],
        ["-ada", "+ada"],
    ),
    "each has a grace of their own": (
        [
            *here(sub("1", ADA), sub("2", BO)),
            went("1", 100),
            went("2", 900),
            ("due", LEFT_AT_100),
            ("next",),
            ("due", 10**6),
        ],
        ["-ada", 900 + GRACE, "-bo"],
    ),
    "an event that comes twice": (
        [*here(), came("1", ADA, 1), came("1", ADA, 2), went("1", 3), went("1", 4), ("next",), ("all",)],
        ["+ada", 3 + GRACE, "ada 0"],
    ),
    "what ended while the list was on its way is not in it": (
        [("begin",), went("1", 5), ("list", [sub("1", ADA), sub("2", BO)], 6), ("all",)],
        ["bo 1"],
    ),
    "what began while the list was on its way stays": (
        [*here(), ("begin",), came("1", ADA, 5), ("list", [], 6), ("all",), ("next",)],
        ["+ada", "ada 1", None],
    ),
    "who is missing in a new list may come back": (
        [
            *here(sub("1", ADA), sub("2", BO)),
            ("begin",),
            ("list", [sub("3", BO)], 100),
            ("all",),
            ("due", LEFT_AT_100),
        ],
        ["ada 0, bo 1", "-ada"],
    ),
    "who is new in a new list joins": (
        [*here(sub("1", ADA)), ("begin",), ("list", [sub("1", ADA), sub("2", BO)], 100)],
        ["+bo"],
    ),
    "nobody leaves while nothing is heard": (
        [*here(sub("1", ADA)), went("1", 100), ("lost", 200), ("next",), ("due", 10**6), ("all",)],
        [None, "ada 0"],
    ),
    "after an outage those have time to come back who wait longer": (
        [
            *here(sub("1", ADA)),
            ("lost", 1000),
            went("1", 9000),
            ("back", 11_000),
            ("next",),
            came("2", ADA, 11_000 + 10_000),
            ("due", 10**6),
        ],
        [11_000 + 10_000 + GRACE],
    ),
    "that is no longer than the longest pause between attempts": (
        [*here(sub("1", ADA)), ("lost", 0), ("back", 10**6), went("1", 10**6), ("next",)],
        [10**6 + LONGEST_DELAY + GRACE],
    ),
    "without a loss, being heard changes nothing": (
        [*here(sub("1", ADA)), ("back", 9000), went("1", 100), ("next",)],
        [LEFT_AT_100],
    ),
    "who cannot be named is nobody": (
        [*here(sub("1")), came("2", None, 5), went("2", 6), ("all",), ("next",)],
        ["", None],
    ),
    "equal payloads are one person where none names a user": (
        [*here(sub("1", {"name": "Ada"}), sub("2", {"name": "Ada"}), sub("3", "Ada"), sub("4", 7)), ("all",)],
        ["null 2, null 1, null 1"],
    ),
    "equal payloads may have their keys in another order": (
        [
            *here(
                sub("1", {"name": "Ada", "of": {"x": 1, "y": [{"a": 1, "b": 2}]}}),
                sub("2", {"of": {"y": [{"b": 2, "a": 1}], "x": 1}, "name": "Ada"}),
                sub("3", {"name": "Ada", "of": {"x": 1, "y": [{"a": 2, "b": 1}]}}),
            ),
            ("all",),
        ],
        ["null 2, null 1"],
    ),
    "a payload cannot pass for a user": (
        [*here(sub("1", "user ada"), sub("2", ["ada"]), sub("3", ADA), sub("4", {"sub": ["ada"]})), ("all",)],
        ["null 1, null 1, ada 1, null 1"],
    ),
    "a number as user": ([*here(sub("1", {"sub": 7}), sub("2", {"sub": "7"})), ("all",)], ["7 2"]),
}

_RUN = """
import { People } from "./presence.js";

const show = ({ user, connections }) => `${user} ${connections}`;
const outcomes = JSON.parse(process.argv[2]).map((steps) => {
  const people = new People();
  const answers = [];
  for (const [name, ...values] of steps) {
    if (name === "all") answers.push(people.all.map(show).join(", "));
    else if (name === "next") answers.push(people.next);
    else {
      for (const { joined, person } of people[name](...values) ?? []) {
        answers.push((joined ? "+" : "-") + person.user);
      }
    }
  }
  return answers;
});
console.log(JSON.stringify(outcomes));
"""


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    steps: Sequence[list[Step]] = [told for told, _ in TABLE.values()]
    return dict(zip(TABLE, run_node(tmp_path_factory.mktemp("module"), _RUN, steps), strict=True))


@pytest.mark.parametrize("name", TABLE)
def test_people(outcomes: dict[str, list[Any]], name: str) -> None:
    assert outcomes[name] == TABLE[name][1]
