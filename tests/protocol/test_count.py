"""Counts: who is counted, who is announced, and how the parts of several processes add up."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mercure_hub.protocol import count
from mercure_hub.protocol.count import Counts, Part
from mercure_hub.protocol.hub_url import Identity
from mercure_hub.protocol.matching.matcher import Matcher, make
from mercure_hub.protocol.matching.table import Scope
from mercure_hub.protocol.topics import MatcherType
from mercure_hub.protocol.update import Update

HUB = Identity("https://hub.example/.well-known/mercure")
COUNTS = "/.well-known/mercure/counts"
LIST = "/.well-known/mercure/subscriptions"


def exact(value: str) -> Matcher:
    return make(MatcherType.EXACT, value, HUB.url)


def pattern(value: str) -> Matcher:
    return make(MatcherType.URLPATTERN, value, HUB.url)


ROOM, PATH, ROOM_LIST = exact("rooms/1"), f"{COUNTS}/rooms%2F1", f"{LIST}/exact/rooms%2F1"


@pytest.mark.parametrize(
    ("matchers", "granted", "announced", "counted", "watched"),
    [
        # Without a grant of a count everything is announced, as ever.
        ([ROOM], [ROOM], [ROOM], [], []),
        ([ROOM, exact(PATH)], [ROOM], [ROOM, exact(PATH)], [], []),
        # With one, the connection is a number.
        ([ROOM], [ROOM, exact(PATH)], [], [PATH], []),
        ([ROOM, exact(PATH)], [ROOM, exact(PATH)], [], [PATH], [PATH]),
        ([ROOM, exact("users/7"), pattern("/a/:b")], [exact(PATH)], [], [PATH], []),
        ([exact(PATH)], [exact(PATH)], [], [], [PATH]),
        # Elsewhere it is announced, and so it is where the token grants the people.
        ([exact("users/7")], [exact(PATH)], [exact("users/7")], [], []),
        (
            [ROOM, exact("docs/1")],
            [exact(PATH), exact(f"{LIST}/exact/docs%2F1")],
            [exact("docs/1")],
            [PATH],
            [],
        ),
        ([ROOM], [exact(PATH), exact(ROOM_LIST)], [ROOM], [PATH], []),
        # Counts may be granted by a pattern.
        ([ROOM, exact("rooms/2")], [pattern(f"{COUNTS}/:topic")], [], [PATH, f"{COUNTS}/rooms%2F2"], []),
        # A token that grants everything is not hidden, and not counted.
        ([ROOM], [exact("*")], [ROOM], [], []),
        ([ROOM, exact(PATH)], [exact("*")], [ROOM, exact(PATH)], [], [PATH]),
        ([ROOM], [exact(LIST), exact(PATH)], [ROOM], [], []),
        # A pattern is no presence at a topic, and neither is everything.
        ([pattern("/rooms/:id")], [exact(f"{COUNTS}/%2Frooms%2F%3Aid")], [pattern("/rooms/:id")], [], []),
        ([exact("*")], [exact(f"{COUNTS}/%2A")], [exact("*")], [], []),
    ],
)
def test_who_is_counted_and_who_is_announced(
    matchers: list[Matcher],
    granted: list[Matcher],
    announced: list[Matcher],
    counted: list[str],
    watched: list[str],
) -> None:
    found = count.shown(tuple(matchers), Scope(granted), HUB)
    assert list(found.matchers) == announced
    assert (list(found.counted), list(found.watched)) == (counted, watched)


def test_the_documents() -> None:
    path = count.path_of("rooms/1 (ü)", HUB)
    assert path == f"{COUNTS}/rooms%2F1%20%28%C3%BC%29"
    assert count.document(path, 3) == {"id": path, "type": "count", "match": "rooms/1 (ü)", "count": 3}
    told = count.told(path, 3)
    assert (told.topics, told.private, told.type, told.id) == ((path,), True, "mercure", "")
    assert told.encode().startswith(b"event: mercure\ndata: {")


def test_parts_cross_between_processes() -> None:
    part = Part(PATH, "urn:uuid:1", 7)
    event = part.event()
    assert event.topics == (part.key,) == (f"{PATH}/urn%3Auuid%3A1",)
    assert (event.private, event.type, event.id != "") == (True, "mercure", True)
    assert count.part_of_event(event) == part
    record = part.record()
    assert record is not None
    assert count.is_part(record)
    assert count.part_of_record(record) == part
    assert Part(PATH, "urn:uuid:1", 0).record() is None


@pytest.mark.parametrize(
    ("topic", "document"),
    [
        (f"{LIST}/exact/t/urn", {"type": "subscription"}),
        ("/hub/counts/subscriptions/exact/t/urn", {"type": "subscription"}),  # the hub's path has that word
    ],
)
def test_events_of_subscriptions_are_no_parts(topic: str, document: dict[str, Any]) -> None:
    assert count.part_of_event(Update((topic,), json.dumps(document), "1")) is None


def test_records_of_subscriptions_are_no_parts() -> None:
    assert not count.is_part(json.dumps([HUB.url, "exact", "count", "urn:uuid:1", None]))


class TestCounts:
    def test_the_own_ones(self) -> None:
        counts = Counts("a")
        counts.enter(["x", "y"])
        counts.enter(["x"])
        assert counts.news() == [Part("x", "a", 2), Part("y", "a", 1)]
        assert counts.changes() == [("x", 2), ("y", 1)]
        assert (counts.news(), counts.changes()) == ([], [])
        counts.leave(["x", "y"])
        assert counts.news() == [Part("x", "a", 1), Part("y", "a", 0)]
        assert counts.changes() == [("x", 1), ("y", 0)]
        assert (counts.total("x"), counts.total("y"), counts.total("z")) == (1, 0, 0)

    def test_ten_thousand_who_come_and_go_are_no_news(self) -> None:
        counts = Counts("a")
        for _ in range(10_000):
            counts.enter(["x"])
        for _ in range(10_000):
            counts.leave(["x"])
        assert (counts.news(), counts.changes()) == ([], [])

    def test_those_of_others_are_added(self) -> None:
        counts = Counts("a")
        counts.enter(["x"])
        counts.take(Part("x", "b", 5))
        counts.take(Part("x", "c", 7))
        assert (counts.total("x"), counts.changes()) == (13, [("x", 13)])
        assert counts.news() == [Part("x", "a", 1)]  # what others told is not told again
        counts.take(Part("x", "b", 4))
        counts.take(Part("x", "c", 0))
        counts.take(Part("x", "c", 0))  # ended twice
        assert (counts.total("x"), counts.changes()) == (5, [("x", 5)])

    def test_what_it_told_itself_counts_once(self) -> None:
        counts = Counts("a")
        counts.enter(["x"])
        for part in counts.news():
            counts.take(part)
        assert counts.total("x") == 1

    def test_all_of_others_at_once(self) -> None:
        counts = Counts("a")
        counts.take(Part("x", "b", 5))
        counts.take(Part("y", "b", 5))
        counts.changes()
        counts.replace([Part("x", "b", 5), Part("x", "c", 1), Part("z", "c", 1)])
        assert counts.changes() == [("x", 6), ("z", 1), ("y", 0)]

    def test_under_another_name_everything_is_told_again(self) -> None:
        counts = Counts("a")
        counts.enter(["x", "y"])
        counts.news()
        counts.leave(["y"])
        counts.begin("b")
        assert counts.news() == [Part("x", "b", 1)]
        counts.take(Part("x", "a", 0))  # others end what had the name before
        assert (counts.total("x"), counts.total("y")) == (1, 0)

    def test_nothing_is_kept_of_topics_without_anybody(self) -> None:
        counts = Counts("a")
        counts.enter(["x"])
        counts.take(Part("x", "b", 1))
        counts.news(), counts.changes()
        counts.leave(["x"])
        counts.take(Part("x", "b", 0))
        counts.news(), counts.changes()
        kept = [value for value in vars(counts).values() if isinstance(value, dict)]
        assert kept == [{}] * len(kept)
