"""Requests that wait for an engine that is away."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import cast

import gevent
import pytest

from mercure_hub.broker.dispatch import Storage
from mercure_hub.broker.waiting import WaitingRoom
from mercure_hub.protocol.errors import StorageAway


class World:
    def __init__(self) -> None:
        self.storage = SimpleNamespace(absence=StorageAway("no route"))
        self.now = 0.0
        self.room = WaitingRoom(cast(Storage, self.storage), lambda: self.now, 30.0)
        self.attempts = 0
        self.failures: list[StorageAway] = []
        self.leave: list[Callable[[], None]] = []

    def attempt(self) -> int:
        self.attempts += 1
        if self.failures:
            raise self.failures.pop()
        return self.attempts

    @contextmanager
    def watch(self, on_end: Callable[[], None]) -> Iterator[None]:
        self.leave.append(on_end)
        yield
        self.leave.remove(on_end)

    def come(self) -> gevent.Greenlet:
        greenlet = gevent.spawn(self.result)
        gevent.sleep(0)
        return greenlet

    def result(self) -> int | str:
        try:
            return self.room.run(self.attempt, self.watch)
        except StorageAway as error:
            return error.detail


@pytest.fixture
def world() -> World:
    return World()


def test_nobody_waits_for_an_engine_that_is_there(world: World) -> None:
    world.storage.absence = None
    assert world.result() == 1
    assert world.leave == []


def test_all_go_on_when_it_is_back(world: World) -> None:
    waiting = [world.come() for _ in range(3)]
    world.room.look()
    gevent.sleep(0)
    assert (len(world.room), world.attempts) == (3, 0)
    world.storage.absence = None
    world.room.look()
    assert sorted(one.get(timeout=5) for one in waiting) == [1, 2, 3]
    assert len(world.room) == 0
    assert world.leave == []


def test_an_engine_that_goes_away_again_is_waited_for_again(world: World) -> None:
    waiting = world.come()
    world.storage.absence = None
    world.room.look()
    world.storage.absence = StorageAway("again")
    gevent.sleep(0)
    gevent.sleep(0)
    assert not waiting.ready()
    world.storage.absence = None
    world.room.look()
    assert waiting.get(timeout=5) == 1


def test_an_attempt_that_finds_it_away_is_made_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mercure_hub.broker.waiting._LOOK", 0.001)
    world.storage.absence = None
    world.failures = [StorageAway("the connection broke")] * 2
    assert world.come().get(timeout=5) == 3


def test_patience_ends(world: World) -> None:
    waiting = world.come()
    world.now = 31.0
    world.storage.absence = None
    world.room.look()
    world.storage.absence = StorageAway("still")
    assert waiting.get(timeout=5) == "still"


def test_the_longest_wait_is_bounded() -> None:
    storage = SimpleNamespace(absence=StorageAway("no route"))
    now = iter([0.0, 0.0, 1.0])
    room = WaitingRoom(cast(Storage, storage), lambda: next(now), 0.01)
    with pytest.raises(StorageAway, match="no route"):
        room.run(lambda: None, lambda _: nullcontext())


def test_a_client_that_leaves_waits_no_more(world: World) -> None:
    waiting = world.come()
    world.leave[0]()
    assert waiting.get(timeout=5) == "no route"
    assert (len(world.room), world.attempts) == (0, 0)


def test_nobody_waits_in_a_hub_that_stops(world: World) -> None:
    waiting = world.come()
    world.room.close()
    assert waiting.get(timeout=5) == "no route"
    assert world.come().get(timeout=5) == "no route"
