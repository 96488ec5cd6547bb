"""What updates tell of a run, for its readers in Python and in JavaScript."""

from __future__ import annotations

from typing import Any

TOPIC = "users/7/runs/1"


def start(stream: str) -> dict[str, Any]:
    return {"run": TOPIC, "stream": stream, "seq": 0, "kind": "start"}


def some(stream: str, seq: int, *events: Any) -> dict[str, Any]:
    return {"run": TOPIC, "stream": stream, "seq": seq, "kind": "events", "events": list(events)}


def done(stream: str, seq: int) -> dict[str, Any]:
    return {"run": TOPIC, "stream": stream, "seq": seq, "kind": "done"}


STOPPED: dict[str, Any] = {"run": TOPIC, "kind": "stopped"}
GONE: dict[str, Any] = {"run": TOPIC, "kind": "error", "message": "Gone."}

# Updates; how the run has ended, if it has; the events that count.
RULES: list[tuple[list[Any], str | None, list[Any]]] = [
    ([], None, []),
    ([start("a")], None, []),
    ([start("a"), some("a", 1, 1), some("a", 2, 2), done("a", 3)], "done", [1, 2]),
    ([start("a"), done("a", 1)], "done", []),
    ([STOPPED], "stopped", []),
    ([start("a"), GONE], "error", []),
    # the first end counts
    ([start("a"), some("a", 1, 1), STOPPED, some("a", 2, 2), done("a", 3)], "stopped", [1]),
    ([start("a"), done("a", 1), STOPPED, start("b"), some("b", 1, 1)], "done", []),
    # what comes twice
    ([start("a"), some("a", 1, 1), some("a", 1, 1), some("a", 2, 2), some("a", 1, 1)], None, [1, 2]),
    # another attempt counts from its first event on, and the earlier one no more
    ([start("a"), some("a", 1, 1), start("b")], None, [1]),
    ([start("a"), some("a", 1, 1), start("b"), done("a", 2), some("b", 1, 2)], "done", [1]),
    (
        [start("a"), some("a", 1, 1), start("b"), some("b", 1, 2), some("a", 2, 3), some("b", 2, 4)],
        None,
        [2, 4],
    ),
    ([start("a"), some("a", 1, 1), start("b"), some("b", 1, 2), done("a", 2)], "done", [2]),
    (
        [some("a", 1, 1), some("b", 1, 2), some("c", 1, 3), some("a", 2, 4), some("b", 2, 5)],
        None,
        [3],
    ),
    # what else there may be
    ([{"run": TOPIC}, {"run": TOPIC, "kind": "over"}, some("a", 1, None)], None, [None]),
]
