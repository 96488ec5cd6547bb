"""Which updates are the last values of topics."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest

from mercure_hub.broker.dispatch import Dispatcher, Storage
from mercure_hub.broker.last_values import AT_ONCE, DEPTHS, MOST_DEEPER, Depth, Search, Values
from mercure_hub.broker.replay import Outlet, ReplayLimits, Replays, Start
from mercure_hub.fanout.endings import Ending, Reason
from mercure_hub.fanout.engine import Engine
from mercure_hub.storage.interface import Outline, TopicPage
from tests.fanout.bench import pattern, subscriber


def outline(sequence: int, *topics: str, private: bool = False, size: int = 1) -> Outline:
    return Outline(sequence, topics, private, size)


@pytest.mark.parametrize(
    ("added", "kept", "is_cut"),
    [
        ([], [], False),
        ([(3, 1), (1, 1), (2, 1), (3, 1)], [1, 2, 3], False),
        ([(3, 1), (1, 1), (2, 1), (4, 1)], [2, 3, 4], True),
        ([(1, 60), (2, 60), (3, 30)], [2, 3], True),
        ([(1, 500)], [1], False),
        ([(1, 500), (2, 1)], [2], True),
        ([(2, 1), (1, 500)], [2], True),
    ],
)
def test_the_newest_within_bounds_are_kept(
    added: list[tuple[int, int]], kept: list[int], is_cut: bool
) -> None:
    values = Values(most=3, most_bytes=100)
    for sequence, size in added:
        values.add(outline(sequence, size=size))
    assert (values.sequences, values.is_cut) == (kept, is_cut)


class History:
    """Answers questions as a link does.

    :param updates: topic and whether it is private, in order.
    """

    def __init__(self, *updates: tuple[str, bool]) -> None:
        self._stored = [
            outline(number, topic, private=private) for number, (topic, private) in enumerate(updates, 1)
        ]
        self.asked = 0

    def values(self, *topics: str, upto: int = 1 << 60, deeper: Depth | None = None) -> list[int]:
        search = Search(topics, upto, lambda one: not one.private, deeper or Depth())
        found: list[int] = []
        for wanted, limit in search.questions():
            assert len(wanted) * limit <= AT_ONCE
            self.asked += len(wanted)
            answers = [
                [one for one in reversed(self._stored) if topic in one.topics and one.sequence <= last][
                    :limit
                ]
                for topic, last in wanted
            ]
            found += [one.sequence for one in search.take(answers)]
        return found


def test_the_newest_update_of_each_topic_is_its_value() -> None:
    history = History(("a", False), ("b", False), ("a", False), ("c", False), ("b", False))
    assert history.values("a", "b", "none") == [3, 5]
    assert history.asked == 3
    assert history.values("a", "b", upto=2) == [1, 2]


@pytest.mark.parametrize("hidden", [0, 1, 7, 8, 9, sum(DEPTHS) - 1])
def test_a_topic_has_the_newest_that_may_be_read(hidden: int) -> None:
    history = History(("a", False), *[("a", True)] * hidden, ("b", False))
    assert history.values("a", "b") == ([1, hidden + 2] if hidden == 0 else [hidden + 2, 1])


def test_no_more_than_some_are_looked_at() -> None:
    assert History(("a", False), *[("a", True)] * sum(DEPTHS)).values("a") == []


def test_all_of_many_topics_are_looked_up() -> None:
    history = History(*[(str(number), False) for number in range(3000)])
    assert history.values(*map(str, range(3000))) == list(range(1, 3001))


def test_topics_that_may_not_be_read_are_looked_through_within_a_bound() -> None:
    history = History(*[(str(number), True) for number in range(1000)], ("mine", False))
    deeper = Depth(DEPTHS[1] * 10)
    assert history.values(*map(str, range(1000)), "mine", deeper=deeper) == [1001]
    assert deeper.is_used_up
    assert history.asked <= 1001 + AT_ONCE // DEPTHS[1]


def test_topics_that_may_be_read_need_none_of_it() -> None:
    history = History(*[(str(number), False) for number in range(3000)])
    deeper = Depth(0)
    assert history.values(*map(str, range(3000)), deeper=deeper) == list(range(1, 3001))
    assert not deeper.is_used_up


def test_as_many_topics_as_a_subscriber_gets_values_are_looked_through() -> None:
    assert ReplayLimits().values * sum(DEPTHS[1:]) == MOST_DEEPER


def test_a_topic_that_shares_its_hash_gives_no_value() -> None:
    search = Search(["a"], 9, lambda _: True, Depth())
    questions = search.questions()
    assert next(questions) == ([("a", 9)], 1)
    assert list(search.take([[outline(5, "other")]])) == []
    assert next(questions) == ([("a", 4)], DEPTHS[1])
    assert [one.sequence for one in search.take([[outline(3, "other"), outline(2, "a")]])] == [2]
    assert list(questions) == []


def test_who_is_ended_while_topics_are_looked_through_keeps_no_search_going() -> None:
    """Also if none of them is selected, and there may be a million."""
    ended = subscriber(pattern("https://nobody.example/:x"))
    pages = 0

    class Topics:
        def topics(self, after: int, upto: int, beyond: int | None, limit: int) -> TopicPage:
            nonlocal pages
            pages += 1
            if pages == 3:
                replays.end(ended, Ending(Reason.REVOKED))
            return TopicPage([f"{pages}"], pages if pages < 50 else None)

    replays = Replays(
        cast(Storage, Topics()),
        cast(Dispatcher, SimpleNamespace(generation=0)),
        cast(Engine, SimpleNamespace(dispatched=0, release=lambda _: None)),
        lambda: 0.0,
        buffer=1,
        limits=ReplayLimits(),
    )
    replays.enter(ended)
    assert not replays.replay(ended, Start(0, has_values=True), cast(Outlet, None))
    assert pages == 3
    ending = replays.leave(ended)
    assert ending is not None
    assert ending.reason is Reason.REVOKED
