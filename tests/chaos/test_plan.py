"""What a seed draws."""

from __future__ import annotations

import pytest

from chaos.plan import DECK, LEAST, NEEDS_WORKERS, REPLACES, Kind, draw
from chaos.topics import ALL, TOPICS, Form, Matcher


@pytest.mark.parametrize("seed", [0, 1, 17, 999_999])
def test_a_seed_draws_the_same_plan_again(seed: int) -> None:
    assert draw(seed) == draw(seed)
    assert draw(seed) != draw(seed + 1)


@pytest.mark.parametrize("first", [0, 5, 1000])
def test_consecutive_seeds_meet_each_fault_twice(first: int) -> None:
    drawn = [fault.kind for seed in range(first, first + len(DECK)) for fault in draw(seed).faults]
    assert {kind for kind in DECK if drawn.count(kind) >= 2} == set(DECK)


def test_the_plans_of_seeds_stay_what_they_are() -> None:
    """A kind of fault that is new is named only, or the seeds that people noted mean something else."""
    kinds = {seed: [fault.kind.name for fault in draw(seed).faults] for seed in (1, 5, 10)}
    assert kinds == {
        1: ["ROTATE", "WRITE_FAILS", "KILL_PARENT"],
        5: ["RELOAD_ALL", "REMOVE_WAL"],
        10: ["ROTATE", "KILL_AND_RELOAD", "KILL_AND_RELOAD"],
    }


@pytest.mark.parametrize("kind", Kind)
def test_a_named_fault_gets_the_hub_that_it_needs(kind: Kind) -> None:
    for seed in range(20):
        plan = draw(seed, kinds=[kind])
        assert [fault.kind for fault in plan.faults] == [kind]
        assert plan.hub.workers >= (2 if kind in NEEDS_WORKERS else 1)
        assert kind not in REPLACES or plan.hub.history_size == plan.hub.history_age == 0
        assert plan.seconds >= max(LEAST, *(fault.at + fault.length for fault in plan.faults))


def test_the_number_of_workers_can_be_named() -> None:
    assert {draw(seed, workers=4).hub.workers for seed in range(9)} == {4}


def test_a_plan_without_a_fault_is_else_the_same() -> None:
    plan = draw(3)
    less = plan.without(plan.faults[0])
    assert less.faults == plan.faults[1:]
    assert (less.hub, less.publishers, less.subscribers) == (plan.hub, plan.publishers, plan.subscribers)


def test_a_plan_in_words_names_its_seed_and_each_fault() -> None:
    plan = draw(3)
    words = "\n".join(plan.words())
    assert words.startswith("seed 3: ")
    assert all(fault.kind.value in words for fault in plan.faults)


@pytest.mark.parametrize(
    ("matcher", "selected"),
    [
        (ALL, set(TOPICS)),
        (Matcher(Form.EXACT, TOPICS[5]), {TOPICS[5]}),
        (Matcher(Form.ROOM, "b"), {topic for topic in TOPICS if "/b/" in topic}),
    ],
)
def test_the_model_of_matchers(matcher: Matcher, selected: set[str]) -> None:
    assert {topic for topic in TOPICS if matcher.matches(topic)} == selected
    assert matcher.matches("/.well-known/mercure/subscriptions/exact/x/y") == (matcher is ALL)
