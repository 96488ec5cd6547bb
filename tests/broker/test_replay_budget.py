"""The memory of replays: bounded, in turn, and nobody waits for one whose client stands still."""

from __future__ import annotations

import gevent
import pytest

from mercure_hub.broker.replay import ReplayBudget, Share

MOST = 100


@pytest.fixture
def budget() -> ReplayBudget:
    return ReplayBudget(MOST)


def taken(budget: ReplayBudget, size: int) -> Share:
    """A share that is there at once, with something in it."""
    share = Share()
    assert budget.take(share, size, 0)
    share.content = bytes(size)
    return share


def waiting(budget: ReplayBudget, size: int) -> tuple[Share, gevent.Greenlet]:
    share = Share()
    greenlet = gevent.spawn(budget.take, share, size, 20)
    gevent.sleep(0)
    return share, greenlet


def test_shares_never_exceed_the_budget(budget: ReplayBudget) -> None:
    first, second = taken(budget, 60), taken(budget, 40)
    assert budget.taken == MOST
    assert not budget.take(Share(), 1, 0)
    budget.release(first)
    assert budget.taken == 40
    assert not budget.take(Share(), 61, 0)
    taken(budget, 60)
    budget.release(second)
    assert budget.taken == 60


def test_released_memory_goes_to_the_longest_waiting_replay(budget: ReplayBudget) -> None:
    first = taken(budget, 100)
    (large, one), (small, other) = waiting(budget, 70), waiting(budget, 20)
    budget.resize(first, 80)  # enough for the small one, whose turn it is not
    gevent.sleep(0)
    assert not one.ready()
    assert not other.ready()
    budget.release(first)
    assert one.get(timeout=20)
    assert other.get(timeout=20)
    assert (large.size, small.size, budget.taken) == (70, 20, 90)


def test_a_lent_share_is_taken_away(budget: ReplayBudget) -> None:
    still, other = taken(budget, 60), taken(budget, 40)
    budget.lend(still)
    assert budget.keep(still)  # nobody needed it
    budget.lend(still)
    third = taken(budget, 50)
    assert still.content is None
    assert still.size == 0
    assert budget.taken == 90
    assert not budget.keep(still)
    assert other.content
    assert third.content


def test_the_longest_lent_share_is_taken_first(budget: ReplayBudget) -> None:
    shares = [taken(budget, 20) for _ in range(5)]
    for share in (shares[3], shares[0], shares[4]):
        budget.lend(share)
    assert budget.keep(shares[3])
    taken(budget, 30)
    assert [share.content is None for share in shares] == [True, False, False, False, True]


def test_a_waiting_replay_gets_a_share_that_is_lent_meanwhile(budget: ReplayBudget) -> None:
    share = taken(budget, MOST)
    _, greenlet = waiting(budget, 10)
    assert not greenlet.ready()
    budget.lend(share)
    assert greenlet.get(timeout=20)
    assert budget.taken == 10


def test_a_share_larger_than_the_budget_is_admitted_alone(budget: ReplayBudget) -> None:
    first = taken(budget, 1)
    share, greenlet = waiting(budget, 5 * MOST)
    assert not greenlet.ready()
    budget.release(first)
    assert greenlet.get(timeout=20)
    assert not budget.take(Share(), 1, 0)
    budget.release(share)
    assert budget.taken == 0


def test_a_replay_that_gives_up_does_not_block_the_next(budget: ReplayBudget) -> None:
    first = taken(budget, 50)
    _, large = waiting(budget, MOST)
    _, small = waiting(budget, 50)
    assert not small.ready()
    large.kill()
    assert small.get(timeout=20)
    assert budget.taken == MOST
    budget.release(first)
    assert budget.taken == 50


def test_a_thousand_stalled_clients_delay_no_other_replay(budget: ReplayBudget) -> None:
    for _ in range(1000):
        budget.lend(taken(budget, 10))
    assert budget.taken == MOST
    assert taken(budget, MOST).content
    assert budget.taken == MOST
