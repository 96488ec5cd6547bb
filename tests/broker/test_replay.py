"""Subscribers that come back at once: what many of them lack is looked up and encoded once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import cast

import gevent
import pytest

from mercure_hub.broker.dispatch import Dispatcher, Storage
from mercure_hub.broker.replay import ReplayLimits, Replays, Start
from mercure_hub.fanout.encoding import Form
from mercure_hub.fanout.engine import Engine, EngineLimits
from mercure_hub.fanout.subscriber import Subscriber
from mercure_hub.protocol.matching.matcher import Matcher
from mercure_hub.protocol.update import Update
from mercure_hub.storage.interface import Beginning, Entry, Page, Resume, Resumed
from tests.fanout.bench import exact, may_read, subscriber

UPDATES = [
    Update(("news",), "for all", "2"),
    Update(("news", "users/1"), "for one", "3", private=True),
]
BEGINNING = Beginning(0, 0)


class FakeStorage:
    """A history that notes what it is asked."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def resume(self, wanted: Sequence[Resume]) -> list[Resumed]:
        self.asked.append([one.event_id for one in wanted])
        entries = [Entry(number, update, False) for number, update in enumerate(UPDATES, 2)]
        return [Resumed(1, Page(entries, 3, BEGINNING), BEGINNING) for _ in wanted]


class FakeOutlet:
    """A client that takes everything."""

    def __init__(self) -> None:
        self.content = b""

    def offer(self, content: memoryview) -> int:
        self.content += content
        return len(content)

    def wait(self, seconds: float) -> bool:
        raise AssertionError(seconds)


class World:
    def __init__(self) -> None:
        self.storage = FakeStorage()
        self.engine = Engine(EngineLimits(), lambda: 0.0, lambda *_: None)
        self.engine.dispatched = 3
        dispatcher = SimpleNamespace(
            generation=0, last_event_id="9", last_update_id="9", is_dispatching=False
        )
        self.replays = Replays(
            cast(Storage, self.storage),
            cast(Dispatcher, dispatcher),
            self.engine,
            lambda: 0.0,
            buffer=1000,
            limits=ReplayLimits(),
        )

    def locate(self, cursor: str, *matchers: Matcher) -> Start:
        return self.replays.locate(cursor, matchers, takes_events=False)

    def missed(self, one: Subscriber) -> bytes:
        """What a subscriber is sent of the history."""
        outlet = FakeOutlet()
        self.replays.enter(one)
        assert self.replays.replay(one, self.locate("1", *one.matchers), outlet)
        self.engine.release(one)
        return outlet.content


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    world.engine.close()


def test_those_who_lack_the_same_are_looked_up_together(world: World) -> None:
    wanted = [("1", "news"), ("1", "news"), ("1", "sport"), ("0", "news"), ("1", "news")]
    gevent.joinall(
        [gevent.spawn(world.locate, cursor, exact(topic)) for cursor, topic in wanted],
        raise_error=True,
        timeout=20,
    )
    assert world.storage.asked == [["1", "1", "0"]]


def test_each_gets_what_its_token_and_its_form_allow_although_others_come_between(world: World) -> None:
    token = may_read(exact("users/1"))
    public, private = UPDATES[0].encode(), UPDATES[1].encode()
    with_topics = b"".join(one.encode(("news",)) for one in UPDATES)
    for _ in range(2):
        assert world.missed(subscriber(exact("news"))) == public
        assert world.missed(subscriber(exact("news"), grant=token)) == public + private
        assert world.missed(subscriber(exact("news"), grant=token, form=Form.PLAIN_TOPICS)) == with_topics
        chunked = world.missed(subscriber(exact("news"), form=Form.CHUNKED))
        assert chunked == b"%x\r\n%b\r\n" % (len(public), public)
