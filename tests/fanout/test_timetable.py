"""The timetable: everybody at its second, nobody twice, nobody forgotten."""

from __future__ import annotations

import random

from mercure_hub.fanout.sockets import Timetable
from mercure_hub.fanout.subscriber import State, Subscriber
from tests.fanout.bench import exact, subscriber


def someone() -> Subscriber:
    one = subscriber(exact("a"))
    one.state = State.READY
    return one


def test_subscribers_are_due_at_their_second_in_order() -> None:
    table = Timetable(100.5)
    early, late, same = someone(), someone(), someone()
    table.put(late, 103.9)
    table.put(early, 102.0)
    table.put(same, 103.1)
    assert list(table.take(101.99)) == []
    assert list(table.take(102.0)) == [early]
    assert list(table.take(102.9)) == []
    assert list(table.take(103.0)) == [late, same]
    assert list(table.take(1e6)) == []


def test_a_time_in_the_past_means_the_next_second() -> None:
    table = Timetable(100.0)
    one, two, three = someone(), someone(), someone()
    table.put(one, 3.0)
    table.put(two, 100.0)
    table.put(three, float("-1e9"))
    assert list(table.take(100.9)) == []
    assert list(table.take(101.0)) == [one, two, three]


def test_after_a_pause_all_who_are_due_come_oldest_first() -> None:
    table = Timetable(0.0)
    everybody = [someone() for _ in range(50)]
    for place in random.Random(1).sample(range(50), 50):
        table.put(everybody[place], 10.0 + place * 100)
    assert list(table.take(1e7)) == everybody
    assert list(table.take(2e7)) == []


def test_subscribers_that_left_are_never_due() -> None:
    table = Timetable(0.0)
    gone, stays = someone(), someone()
    table.put(gone, 1)
    table.put(stays, 1)
    gone.state = State.GONE
    assert list(table.take(1)) == [stays]


def test_a_subscriber_put_while_taking_waits_for_its_own_second() -> None:
    table = Timetable(0.0)
    one = someone()
    table.put(one, 1)
    for taken in table.take(5):
        table.put(taken, 3)  # past already: the next second from now
    assert list(table.take(5.9)) == []
    assert list(table.take(6)) == [one]


def test_a_clock_that_stands_still_or_goes_back_does_no_harm() -> None:
    table = Timetable(10.0)
    one = someone()
    table.put(one, 12)
    assert list(table.take(11)) == []
    assert list(table.take(11)) == []
    assert list(table.take(5)) == []
    assert list(table.take(12)) == [one]


def test_any_sequence_of_times_returns_each_subscriber_once() -> None:
    chance = random.Random(7)
    table = Timetable(0.0)
    now, waiting = 0.0, 0
    for _ in range(2000):
        if chance.random() < 0.6:
            table.put(someone(), now + chance.choice([-5, 0.5, 3, 40, 600]))
            waiting += 1
        else:
            now += chance.choice([0.2, 1, 1, 1, 7, 500])
            taken = list(table.take(now))
            assert len(taken) == len(set(taken))
            waiting -= len(taken)
    assert len(list(table.take(now + 601))) == waiting
