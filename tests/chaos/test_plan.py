"""What a seed draws."""

from __future__ import annotations

import pytest

from chaos.plan import (
    DECK,
    ENGINE_FAULTS,
    FAILOVERS,
    LEAST,
    NEEDS_WORKERS,
    POSTGRESQL,
    REPLACES,
    SHARED_DECK,
    VALKEY,
    Kind,
    draw,
)
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


def test_consecutive_seeds_meet_each_fault_of_nodes() -> None:
    drawn = {fault.kind for seed in range(len(SHARED_DECK)) for fault in draw(seed, engine=POSTGRESQL).faults}
    assert drawn >= set(SHARED_DECK) > ENGINE_FAULTS


def test_both_engines_draw_the_same_for_a_seed() -> None:
    plan = draw(5, engine=POSTGRESQL)
    other = draw(5, engine=VALKEY)
    assert (plan.faults, plan.hub, plan.publishers) == (other.faults, other.hub, other.publishers)


@pytest.mark.parametrize("nodes", [1, 2, 5])
def test_faults_and_clients_are_spread_over_the_nodes(nodes: int) -> None:
    plans = [draw(seed, engine=VALKEY, nodes=nodes) for seed in range(20)]
    for drawn in (
        {fault.node for plan in plans for fault in plan.faults},
        {one.node for plan in plans for one in plan.publishers},
        {one.node for plan in plans for one in plan.subscribers},
    ):
        assert drawn == set(range(nodes))
    assert {one.node for seed in range(20) for one in draw(seed, nodes=nodes).publishers} == {0}


def test_one_replica_takes_over_at_most() -> None:
    for seed in range(200):
        kinds = [fault.kind for fault in draw(seed, engine=VALKEY).faults]
        assert sum(kind in FAILOVERS for kind in kinds) <= 1
        assert not (FAILOVERS & set(kinds) and Kind.TRIM_PAST in kinds)


def test_updates_are_discarded_past_a_node_that_stands_still() -> None:
    plan = draw(3, engine=VALKEY, kinds=[Kind.TRIM_PAST])
    [fault] = plan.faults
    assert plan.hub.history_size > 0
    assert plan.grace is not None
    assert plan.grace < fault.length


def test_a_run_goes_on_until_leases_have_expired() -> None:
    for seed in range(20):
        plan = draw(seed, engine=VALKEY, kinds=[Kind.KILL_HUB])
        if plan.hub.presence:
            assert plan.seconds > plan.faults[0].at + 20
