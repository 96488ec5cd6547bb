"""Receivers: finds those that listen, and keeps nothing of those that left."""

from __future__ import annotations

from collections import Counter

from mercure_hub.fanout.receivers import (
    Listeners,
    Pace,
    Receivers,
    as_list,
    with_one,
    without_one,
)
from mercure_hub.fanout.subscriber import Subscriber
from mercure_hub.protocol.matching.matcher import Matcher
from tests.fanout.bench import exact, pattern, subscriber, template


def sizes(receivers: Receivers) -> tuple[int, int, int, int]:
    """Exact topics, patterns, listeners to everything, remembered topics."""
    return (
        len(receivers._exact),
        len(receivers._patterns),
        len(receivers._everything),
        len(receivers._remembered),
    )


MATCHERS: tuple[Matcher, ...] = (
    exact("a"),
    exact("a"),
    exact("b"),
    exact("*"),
    pattern("https://example.com/:id"),
    template("https://example.com/{id}"),
    template("c"),
)


def test_receivers_keep_nothing_of_subscribers_that_left() -> None:
    receivers = Receivers(Pace())
    first, second = subscriber(*MATCHERS), subscriber(*MATCHERS)
    receivers.add(first)
    receivers.add(second)
    assert sizes(receivers) == (3, 2, 2, 0)
    assert receivers.listening_to(["a", "b", "https://example.com/1"]) == [first, second]
    assert sizes(receivers) == (3, 2, 2, 3)
    receivers.remove(first)
    assert receivers.listening_to(["c"]) == [second]
    assert receivers.listening_to(["https://example.com/1"]) == [second]
    receivers.remove(second)
    assert sizes(receivers) == (0, 0, 0, 0)
    assert receivers.listening_to(["a", "https://example.com/1"]) == []


def test_the_same_pattern_of_several_is_evaluated_once(evaluations: Counter[str]) -> None:
    receivers = Receivers(Pace())
    for _ in range(10):
        receivers.add(subscriber(pattern("https://once.example/:id")))
    for _ in range(5):
        assert len(receivers.listening_to(["https://once.example/1"])) == 10
        assert receivers.listening_to(["https://once.example/1/2"]) == []
    assert evaluations == {"https://once.example/:id": 2}


def test_a_new_pattern_is_seen_for_topics_that_are_remembered() -> None:
    receivers = Receivers(Pace())
    first, second, third = (
        subscriber(pattern("https://example.com/:id")),
        subscriber(pattern("https://example.com/*")),
        subscriber(pattern("https://example.com/:id")),
    )
    receivers.add(first)
    assert receivers.listening_to(["https://example.com/1"]) == [first]
    receivers.add(second)
    assert receivers.listening_to(["https://example.com/1"]) == [first, second]
    receivers.add(third)
    assert set(receivers.listening_to(["https://example.com/1"])) == {first, second, third}
    receivers.remove(first)
    receivers.remove(third)
    assert receivers.listening_to(["https://example.com/1"]) == [second]
    receivers.add(third)
    assert set(receivers.listening_to(["https://example.com/1"])) == {second, third}


def test_the_number_of_remembered_topics_is_bounded() -> None:
    receivers = Receivers(Pace(), max_remembered=10)
    listener = subscriber(pattern("https://example.com/:id"))
    receivers.add(listener)
    for number in range(100):
        assert receivers.listening_to([f"https://example.com/{number}"]) == [listener]
        assert len(receivers._remembered) <= 10


def test_receivers_without_patterns_remember_no_topics() -> None:
    receivers = Receivers(Pace())
    receivers.add(subscriber(exact("a"), exact("*")))
    for number in range(100):
        receivers.listening_to([str(number), "a"])
    assert sizes(receivers) == (1, 0, 1, 0)


def test_the_listeners_of_a_topic_are_a_copy() -> None:
    receivers = Receivers(Pace())
    listeners: list[Subscriber] = [subscriber(exact("a")) for _ in range(3)]
    for listener in listeners:
        receivers.add(listener)
    found = receivers.listening_to(["a"])
    for listener in listeners:
        receivers.remove(listener)
    assert found == listeners


def test_the_second_one_with_a_pattern_is_seen_for_topics_that_are_remembered() -> None:
    receivers = Receivers(Pace())
    first, second = (subscriber(pattern("https://pair.example/:id")) for _ in range(2))
    receivers.add(first)
    assert receivers.listening_to(["https://pair.example/1"]) == [first]
    receivers.add(second)
    assert receivers.listening_to(["https://pair.example/1"]) == [first, second]
    receivers.remove(first)
    assert receivers.listening_to(["https://pair.example/1"]) == [second]


def test_listeners_are_found_by_the_value_of_their_matcher() -> None:
    receivers = Receivers(Pace())
    first = subscriber(exact("a"), template("a"), pattern("https://example.com/:id"))
    second = subscriber(exact("b"), template("/{id}"), exact("a"))
    third = subscriber(exact("*"), exact("https://example.com/:id"))
    for one in (first, second, third):
        receivers.add(one)
    assert receivers.listening_with("a") == [first, second]
    assert receivers.listening_with("https://example.com/:id") == [third, first]
    assert receivers.listening_with("/{id}") == [second]
    assert receivers.listening_with("*") == [third]
    assert receivers.listening_with("c") == receivers.listening_with("/1") == []


def test_a_lone_listener_needs_no_dict_and_several_keep_their_order() -> None:
    first, second, third = subscriber(), subscriber(), subscriber()
    listeners: Listeners = with_one(None, first)
    assert listeners is first and as_list(listeners) == [first]
    assert with_one(listeners, first) is first
    listeners = with_one(listeners, second)
    assert as_list(listeners) == [first, second]
    assert with_one(listeners, third) is listeners
    assert with_one(listeners, first) is listeners
    assert as_list(listeners) == [first, second, third]


def test_listeners_that_leave() -> None:
    first, second, stranger = subscriber(), subscriber(), subscriber()
    assert without_one(first, stranger) is first
    assert without_one(first, first) is None
    both = with_one(first, second)
    assert without_one(both, stranger) is both
    assert without_one(both, first) is both
    assert as_list(both) == [second]
    assert without_one(both, second) is None
