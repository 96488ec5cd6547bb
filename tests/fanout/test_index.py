"""The index: finds those that match, and keeps nothing of those that left."""

from __future__ import annotations

from collections import Counter

import pytest

from mercure_hub.fanout.index import Index
from mercure_hub.fanout.subscriber import Subscriber
from mercure_hub.protocol.matching.matcher import Matcher
from tests.fanout.bench import exact, pattern, subscriber, template


def sizes(index: Index) -> tuple[int, int, int, int]:
    """Exact topics, patterns, listeners to everything, remembered topics."""
    return len(index._exact), len(index._patterns), len(index._everything), len(index._remembered)


MATCHERS: tuple[Matcher, ...] = (
    exact("a"),
    exact("a"),
    exact("b"),
    exact("*"),
    pattern("https://example.com/:id"),
    template("https://example.com/{id}"),
    template("c"),
)


def test_nothing_stays_behind() -> None:
    index = Index()
    first, second = subscriber(*MATCHERS), subscriber(*MATCHERS)
    index.add(first)
    index.add(second)
    assert sizes(index) == (3, 2, 2, 0)
    assert index.matching(["a", "b", "https://example.com/1"]) == [first, second]
    assert sizes(index) == (3, 2, 2, 3)
    index.remove(first)
    assert index.matching(["c"]) == [second]
    assert index.matching(["https://example.com/1"]) == [second]
    index.remove(second)
    index.remove(second)
    assert sizes(index) == (0, 0, 0, 0)
    assert index.matching(["a", "https://example.com/1"]) == []


def test_the_same_pattern_of_several_is_evaluated_once(evaluations: Counter[str]) -> None:
    index = Index()
    for _ in range(10):
        index.add(subscriber(pattern("https://once.example/:id")))
    for _ in range(5):
        assert len(index.matching(["https://once.example/1"])) == 10
        assert index.matching(["https://once.example/1/2"]) == []
    assert evaluations == {"https://once.example/:id": 2}


def test_a_new_pattern_is_seen_for_topics_that_are_remembered() -> None:
    index = Index()
    first, second, third = (
        subscriber(pattern("https://example.com/:id")),
        subscriber(pattern("https://example.com/*")),
        subscriber(pattern("https://example.com/:id")),
    )
    index.add(first)
    assert index.matching(["https://example.com/1"]) == [first]
    index.add(second)
    assert index.matching(["https://example.com/1"]) == [first, second]
    index.add(third)
    assert set(index.matching(["https://example.com/1"])) == {first, second, third}
    index.remove(first)
    index.remove(third)
    assert index.matching(["https://example.com/1"]) == [second]
    index.add(third)
    assert set(index.matching(["https://example.com/1"])) == {second, third}


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mercure_hub.fanout.index._MAX_REMEMBERED", 10)
    index = Index()
    listener = subscriber(pattern("https://example.com/:id"))
    index.add(listener)
    for number in range(100):
        assert index.matching([f"https://example.com/{number}"]) == [listener]
        assert len(index._remembered) <= 10


def test_without_patterns_nothing_is_remembered() -> None:
    index = Index()
    index.add(subscriber(exact("a"), exact("*")))
    for number in range(100):
        index.matching([str(number), "a"])
    assert sizes(index) == (1, 0, 1, 0)


def test_the_answer_is_a_copy() -> None:
    index = Index()
    listeners: list[Subscriber] = [subscriber(exact("a")) for _ in range(3)]
    for listener in listeners:
        index.add(listener)
    found = index.matching(["a"])
    for listener in listeners:
        index.remove(listener)
    assert found == listeners


def test_the_second_one_with_a_pattern_is_seen_for_topics_that_are_remembered() -> None:
    index = Index()
    first, second = (subscriber(pattern("https://pair.example/:id")) for _ in range(2))
    index.add(first)
    assert index.matching(["https://pair.example/1"]) == [first]
    index.add(second)
    assert index.matching(["https://pair.example/1"]) == [first, second]
    index.remove(first)
    assert index.matching(["https://pair.example/1"]) == [second]


def test_who_listens_with_a_matcher_as_it_is_written() -> None:
    index = Index()
    first = subscriber(exact("a"), template("a"), pattern("https://example.com/:id"))
    second = subscriber(exact("b"), template("/{id}"), exact("a"))
    third = subscriber(exact("*"), exact("https://example.com/:id"))
    for one in (first, second, third):
        index.add(one)
    assert index.listening_with("a") == [first, second]
    assert index.listening_with("https://example.com/:id") == [third, first]
    assert index.listening_with("/{id}") == [second]
    assert index.listening_with("*") == [third]
    assert index.listening_with("c") == index.listening_with("/1") == []
