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


def test_no_more_is_taken_than_there_is(budget: ReplayBudget) -> None:
    first, second = taken(budget, 60), taken(budget, 40)
    assert budget.taken == MOST
    assert not budget.take(Share(), 1, 0)
    budget.release(first)
    assert budget.taken == 40
    assert not budget.take(Share(), 61, 0)
    taken(budget, 60)
    budget.release(second)
    assert budget.taken == 60


def test_what_is_released_goes_to_the_one_who_has_waited_longest(budget: ReplayBudget) -> None:
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


def test_a_share_whose_client_stands_still_is_taken_away(budget: ReplayBudget) -> None:
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


def test_the_one_that_has_been_lent_longest_is_taken_first(budget: ReplayBudget) -> None:
    shares = [taken(budget, 20) for _ in range(5)]
    for share in (shares[3], shares[0], shares[4]):
        budget.lend(share)
    assert budget.keep(shares[3])
    taken(budget, 30)
    assert [share.content is None for share in shares] == [True, False, False, False, True]


def test_who_waits_gets_what_is_lent_meanwhile(budget: ReplayBudget) -> None:
    share = taken(budget, MOST)
    _, greenlet = waiting(budget, 10)
    assert not greenlet.ready()
    budget.lend(share)
    assert greenlet.get(timeout=20)
    assert budget.taken == 10


def test_one_that_is_larger_than_all_is_admitted_alone(budget: ReplayBudget) -> None:
    first = taken(budget, 1)
    share, greenlet = waiting(budget, 5 * MOST)
    assert not greenlet.ready()
    budget.release(first)
    assert greenlet.get(timeout=20)
    assert not budget.take(Share(), 1, 0)
    budget.release(share)
    assert budget.taken == 0


def test_who_gives_up_keeps_nobody_waiting(budget: ReplayBudget) -> None:
    first = taken(budget, 50)
    _, large = waiting(budget, MOST)
    _, small = waiting(budget, 50)
    assert not small.ready()
    large.kill()
    assert small.get(timeout=20)
    assert budget.taken == MOST
    budget.release(first)
    assert budget.taken == 50


def test_a_thousand_clients_that_stand_still_keep_nobody_from_reading(budget: ReplayBudget) -> None:
    for _ in range(1000):
        budget.lend(taken(budget, 10))
    assert budget.taken == MOST
    assert taken(budget, MOST).content
    assert budget.taken == MOST
