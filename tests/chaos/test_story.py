"""What a person is told of a violation."""

from __future__ import annotations

from chaos.invariants import Invariant, violations
from chaos.plan import Kind, draw
from chaos.record import Effect
from chaos.story import story, summary
from tests.chaos.test_invariants import deed, record, session


def test_a_story_names_the_fault_the_update_and_the_subscriber() -> None:
    seen = record(
        sessions=[session(1, 2, 4, 5)], deeds=[deed(Effect.NONE, 2.2, 2.3), deed(Effect.NONE, 6, 7)]
    )
    found = violations(seen)
    told = story(draw(7, kinds=[Kind.RELOAD]), seen, found).splitlines()
    assert told[0].startswith("seed 7: ")
    assert "GAP: a stream went on past an update that it lacks (1 times)" in told
    steps = told[told.index("  how it came about:") + 1 :]
    times = [float(step.split()[0]) for step in steps]
    assert times == sorted(times)
    assert sum("a fault" in step for step in steps) == 1  # the other one came later
    for words in ("p sends update 3 to", "update 3: stored 200", "s.1 asks for", "s.1 gets update 2"):
        assert any(words in step for step in steps), words


def test_a_summary_counts_by_rule() -> None:
    found = violations(record(sessions=[session(1, 3, 5)]))
    assert summary(found) == f"{Invariant.GAP.name} (2)"
    assert summary([]) == "nothing"
