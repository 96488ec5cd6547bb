"""What a token allows."""

from __future__ import annotations

import pytest

from mercure_hub.protocol.matching.matcher import Matcher, make
from mercure_hub.protocol.matching.table import NOTHING, Scope
from mercure_hub.protocol.tokens.grant import ANONYMOUS, Grant, Json
from mercure_hub.protocol.topics import MatcherType

HUB = "https://hub.example.com/.well-known/mercure"


def exact(value: str) -> Matcher:
    return make(MatcherType.EXACT, value, HUB)


def pattern(value: str) -> Matcher:
    return make(MatcherType.URLPATTERN, value, HUB)


def template(value: str) -> Matcher:
    return make(MatcherType.TEMPLATE, value, HUB)


@pytest.mark.parametrize(
    ("matchers", "covered", "outside"),
    [
        ([], [], ["", "a", "*"]),
        ([exact("a")], ["a"], ["b", "", "*", "A"]),
        ([exact("a"), exact("b")], ["a", "b"], ["c"]),
        ([exact("a"), exact("*")], ["a", "b", "", "https://["], []),
        ([pattern("*")], ["a", "https://["], []),
        ([template("*")], ["a"], []),
        ([pattern("/a/:id")], ["/a/1", "https://hub.example.com/a/1"], ["/a", "/b/1", "https://["]),
        ([template("/a/{id}")], ["/a/1", "/a/{id}"], ["/b/1", "/a/1/2"]),
        ([exact("x"), pattern("/a/:id"), template("/b/{id}")], ["x", "/a/1", "/b/1"], ["/c/1"]),
        ([exact("/a/:id")], ["/a/:id"], ["/a/1"]),
    ],
)
def test_topics_that_a_scope_covers(matchers: list[Matcher], covered: list[str], outside: list[str]) -> None:
    scope = Scope(matchers)
    assert [topic for topic in covered if not scope.covers(topic)] == []
    assert [topic for topic in outside if scope.covers(topic)] == []
    assert scope.first_outside(covered) is None
    assert scope.covers_any([*outside, *covered]) is bool(covered)
    if outside:
        assert not scope.covers_any(outside)
        assert scope.first_outside([*covered, *outside]) == outside[0]


@pytest.mark.parametrize("place", [0, 1, 2, 3, 4, 5, 9, 50, 99])
def test_a_topic_that_is_not_allowed_is_found_at_any_place(place: int) -> None:
    topics = [f"a/{number}" for number in range(100)]
    for scope in (
        Scope([exact(topic) for topic in topics]),
        Scope([pattern("/a/:number"), *map(exact, topics)]),
    ):
        assert scope.first_outside(topics) is None
        some = [*topics[:place], "outside", *topics[place + 1 :]]
        assert scope.first_outside(some) == "outside"


def test_no_topics_at_all() -> None:
    assert not Scope([exact("*")]).covers_any([])
    assert Scope([]).first_outside([]) is None


def test_anonymous_allows_nothing() -> None:
    for scope in (NOTHING, ANONYMOUS.publish, ANONYMOUS.subscribe):
        assert not scope.covers("")
        assert not scope.covers("*")
    assert ANONYMOUS.payload_for(exact("a")) is None
    assert ANONYMOUS.expires_at is None


@pytest.mark.parametrize(
    ("payloads", "subscribed", "payload"),
    [
        ((), exact("a"), None),
        ((((exact("a"),), {"n": 1}),), exact("a"), {"n": 1}),
        ((((exact("a"),), {"n": 1}),), exact("b"), None),
        ((((exact("a"),), {"n": 1}), ((exact("*"),), {"n": 2})), exact("a"), {"n": 1}),
        ((((exact("*"),), {"n": 2}), ((exact("a"),), {"n": 1})), exact("a"), {"n": 2}),
        ((((exact("a"),), None), ((exact("*"),), {"n": 2})), exact("a"), None),
        ((((exact("a"),), None), ((exact("*"),), {"n": 2})), exact("b"), {"n": 2}),
        ((((exact("x"), pattern("/:id")), {"n": 1}),), pattern("/:id"), {"n": 1}),
        ((((exact("x"), pattern("/:id")), {"n": 1}),), exact("/1"), {"n": 1}),
        ((((exact("/:id"),), {"n": 1}),), pattern("/:id"), {"n": 1}),
        ((((exact("a"),), {}),), exact("a"), {}),
        ((((), "of 0.x"),), template("anything"), "of 0.x"),
        ((((), 0),), exact("anything"), 0),
    ],
)
def test_the_first_entry_that_covers_gives_the_payload(
    payloads: tuple[tuple[tuple[Matcher, ...], Json], ...], subscribed: Matcher, payload: Json
) -> None:
    assert Grant(payloads=payloads).payload_for(subscribed) == payload
