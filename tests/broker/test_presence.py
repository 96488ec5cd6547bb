"""Who is connected: what is announced, listed and ended for others, with a storage that the test fills."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import cast

import gevent
import pytest

from mercure_hub.broker.dispatch import Dispatcher, Storage
from mercure_hub.broker.presence import ActiveSubscriptions
from mercure_hub.fanout.engine import Engine
from mercure_hub.fanout.subscriber import Subscriber
from mercure_hub.protocol.count import Part
from mercure_hub.protocol.errors import StorageAway, StorageError
from mercure_hub.protocol.subscription import Subscription
from mercure_hub.protocol.update import Update
from mercure_hub.storage.interface import Presence, Records
from tests.fanout.bench import HUB, exact, may_read, subscriber


class FakeStorage:
    """Has the records of others, by their keys, and those of dead processes."""

    def __init__(self) -> None:
        self.absence: StorageAway | None = None
        self.records: dict[str, str] = {}
        self.dead: list[str] = []
        self.failure: StorageError | None = None
        self.asked = 0
        self.between: Callable[[], None] = lambda: None

    def others(self, value: str | None, beyond: str | None, limit: int) -> Records:
        self.asked += 1
        found = [key for key in sorted(self.records) if beyond is None or key > beyond][:2]
        records = [self.records[key] for key in found]
        self.between()
        return Records(records, found[-1] if len(found) == 2 else None)

    def adopt(self, limit: int) -> list[str]:
        if self.failure is not None:
            raise self.failure
        taken, self.dead = self.dead[:limit], self.dead[limit:]
        return taken


class FakeDispatcher:
    def __init__(self) -> None:
        self.announced: list[tuple[Update, Presence]] = []
        self.is_slow = False

    def announce(self, event: Update, presence: Presence) -> None:
        self.announced.append((event, presence))

    def wait_for_answers(self) -> None:
        gevent.sleep(0)


class FakeEngine(list[Subscriber]):
    def __init__(self) -> None:
        super().__init__()
        self.told: list[tuple[str, int]] = []

    def tell(self, update: Update, only: Subscriber | None = None) -> Iterator[None]:
        self.told.append((update.topics[0], json.loads(update.data)["count"]))
        yield

    def listening_with(self, value: str) -> list[Subscriber]:
        return [one for one in self if any(matcher.value == value for matcher in one.matchers)]


class World:
    def __init__(self) -> None:
        self.storage = FakeStorage()
        self.dispatcher = FakeDispatcher()
        self.engine = FakeEngine()
        self.active = ActiveSubscriptions(
            cast(Storage, self.storage),
            cast(Dispatcher, self.dispatcher),
            cast(Engine, self.engine),
            are_announced=True,
            interval=0.01,
        )

    def come(self, *topics: str) -> Subscriber:
        one = subscriber(*map(exact, topics))
        self.active.announce(one, active=True)
        self.engine.append(one)
        return one

    def go(self, one: Subscriber) -> None:
        self.engine.remove(one)
        self.active.announce(one, active=False)

    def take(self) -> list[tuple[str, bool, int]]:
        """Subscriber, whether it begins, and the lease, of what was announced since the last call."""
        announced, self.dispatcher.announced = self.dispatcher.announced, []
        documents = [(json.loads(event.data), presence) for event, presence in announced]
        for document, presence in documents:
            assert document["id"] == presence.key
            assert presence.value == document["match"]
            assert (presence.record is not None) is document["active"]
        return [(document["subscriber"], document["active"], one.lease) for document, one in documents]

    def listed(self, value: str | None = None, subscriber: str | None = None) -> list[str]:
        return [one.subscriber for one in self.active.matching(value, subscriber)]


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    world.active.close()


def id_of(subscriber: Subscriber) -> str:
    assert subscriber.announced is not None
    return subscriber.announced.id


def record(subscriber: str, topic: str = "t") -> str:
    return Subscription(exact(topic), subscriber).record(HUB)


def until(condition: Callable[[], object]) -> None:
    with gevent.Timeout(20):
        while not condition():
            gevent.sleep(0.001)


class TestLease:
    def test_all_are_announced_again_under_other_ids(self, world: World) -> None:
        subscribers = [world.come("a", "b") for _ in range(250)]
        before = list(map(id_of, subscribers))
        assert world.take() == [(one, True, 0) for one in before for _ in range(2)]
        world.active.begin_lease(1)
        until(lambda: len(world.dispatcher.announced) == 500)
        after = set(map(id_of, subscribers))
        assert after.isdisjoint(before)
        taken = world.take()
        assert {one for one, _, _ in taken} == after
        assert {(is_active, lease) for _, is_active, lease in taken} == {(True, 1)}
        world.go(subscribers[0])
        assert world.take() == [(id_of(subscribers[0]), False, 1)] * 2

    def test_whoever_leaves_before_that_is_ended_by_others(self, world: World) -> None:
        stays, leaves = world.come("t"), world.come("t")
        world.take()
        world.active.begin_lease(1)
        world.go(leaves)
        assert world.take() == []
        until(lambda: world.dispatcher.announced)
        gevent.sleep(0.01)
        assert world.take() == [(id_of(stays), True, 1)]

    def test_whoever_comes_meanwhile_is_announced_once(self, world: World) -> None:
        world.come("t")
        world.take()
        world.active.begin_lease(1)
        late = world.come("t")
        world.go(late)
        assert world.take() == [(id_of(late), True, 1), (id_of(late), False, 1)]
        until(lambda: world.dispatcher.announced)
        assert len(world.take()) == 1

    def test_a_lease_that_is_lost_again_counts(self, world: World) -> None:
        subscribers = [world.come("t") for _ in range(250)]
        world.take()
        world.active.begin_lease(1)
        until(lambda: len(world.dispatcher.announced) >= 100)
        world.active.begin_lease(2)
        until(lambda: sum(one.lease == 2 for _, one in world.dispatcher.announced) == 250)
        newest = {one for one, _, lease in world.take() if lease == 2}
        assert newest == set(map(id_of, subscribers))


class TestList:
    def test_it_has_the_own_ones_and_those_of_others(self, world: World) -> None:
        own = id_of(world.come("t"))
        world.storage.records = {name: record(name) for name in "abcde"}
        assert world.listed() == [own, *"abcde"]
        assert world.listed("t", "c") == ["c"]
        assert world.listed("t", "f") == []
        assert world.listed("x") == []

    def test_one_that_is_here_is_not_looked_up(self, world: World) -> None:
        own = id_of(world.come("t"))
        assert next(world.active.matching("t", own)).subscriber == own
        assert world.storage.asked == 0

    def test_none_is_listed_twice_while_things_change(self, world: World) -> None:
        own = world.come("t")
        before = id_of(own)
        world.storage.records = {name: record(name) for name in "abcde"}

        def changes() -> None:
            # The lease is lost: what was the own one belongs to a dead process now, under its old id.
            world.storage.records["z"] = record(before)
            assert own.announced is not None
            own.announced.id = "another"

        world.storage.between = changes
        assert world.listed() == [before, *"abcde"]

    def test_nobody_waits_for_an_engine_that_is_away(self, world: World) -> None:
        world.storage.absence = StorageAway("no route")
        with pytest.raises(StorageAway, match="no route"):
            world.listed()
        assert world.storage.asked == 0


class TestAdoption:
    def test_each_is_ended_with_one_event(self, world: World) -> None:
        world.storage.dead = [record(f"dead {number}") for number in range(1200)]
        world.active.end_of_dead_processes()
        assert len(world.dispatcher.announced) == 500  # the others do not keep a hub from its start
        until(lambda: len(world.dispatcher.announced) == 1200)
        assert world.take() == [(f"dead {number}", False, 0) for number in range(1200)]
        world.storage.dead = [record("later")]
        until(lambda: world.dispatcher.announced)
        assert world.take() == [("later", False, 0)]

    def test_a_failure_is_logged_once_and_tried_again(
        self, world: World, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("INFO", "mercure_hub.subscriber")
        world.storage.failure = StorageError("the disk is full")
        world.storage.dead = [record("dead")]
        world.active.end_of_dead_processes()
        gevent.sleep(0.05)
        world.storage.failure = None
        until(lambda: world.dispatcher.announced)
        assert caplog.messages == [
            "subscriptions of processes that died are still listed: the disk is full",
            "subscriptions of processes that died are no longer listed",
        ]

    def test_nothing_is_asked_of_an_engine_that_is_away(self, world: World) -> None:
        world.active.end_of_dead_processes()
        world.storage.absence = StorageAway("no route")
        world.storage.dead = [record("dead")]
        gevent.sleep(0.05)
        assert world.storage.dead
        world.storage.absence = None
        until(lambda: world.dispatcher.announced)


class TestCounts:
    """The numbers that a process tells others and its readers, once a second."""

    PATH = "/.well-known/mercure/counts/t"

    def come(self, world: World) -> Subscriber:
        one = subscriber(exact("t"), grant=may_read(exact("t"), exact(self.PATH)))
        world.active.announce(one, active=True)
        world.engine.append(one)
        return one

    def second(self, world: World) -> tuple[list[tuple[int, bool]], list[tuple[str, int]]]:
        """What is told: numbers to other processes, each with whether it is kept; and numbers to readers."""
        for _ in world.active.tell_counts():
            pass
        announced, world.dispatcher.announced = world.dispatcher.announced, []
        told, world.engine.told = world.engine.told, []
        numbers = [(json.loads(event.data)["count"], one.record is not None) for event, one in announced]
        return numbers, told

    def test_many_cost_one_number(self, world: World) -> None:
        some = [self.come(world) for _ in range(1000)]
        assert self.second(world) == ([(1000, True)], [(self.PATH, 1000)])
        assert self.second(world) == ([], [])
        for one in some:
            world.go(one)
        assert self.second(world) == ([(0, False)], [(self.PATH, 0)])

    def test_they_are_neither_announced_nor_listed(self, world: World) -> None:
        self.come(world)
        world.storage.records = {f"{self.PATH}/b": json.dumps(["count", self.PATH, "b", 3])}
        assert (world.dispatcher.announced, world.listed(), world.listed("t")) == ([], [], [])

    def test_what_others_told_before_is_read(self, world: World) -> None:
        world.storage.records = {
            f"{self.PATH}/{process}": json.dumps(["count", self.PATH, process, 2]) for process in "abcde"
        }
        assert self.second(world) == ([], [(self.PATH, 10)])
        assert world.active.count(self.PATH) == 10

    def test_it_is_read_again_after_a_gap_and_when_that_has_failed(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.second(world)
        world.storage.records = {f"{self.PATH}/a": json.dumps(["count", self.PATH, "a", 2])}
        world.active.forget_counts()

        def fail(*_: object) -> Records:
            raise StorageError("cannot be read")

        with monkeypatch.context() as broken:
            broken.setattr(world.storage, "others", fail)
            assert self.second(world) == ([], [])
        assert self.second(world) == ([], [(self.PATH, 2)])

    def test_what_is_told_while_the_others_are_read_counts(self, world: World) -> None:
        def part(process: str, number: int) -> Part:
            return Part(self.PATH, process, number)

        world.storage.records = {
            part(process, 1).key: json.dumps(["count", self.PATH, process, 1]) for process in "ab"
        }
        pages = iter(
            [[part("a", 5), part("b", 0), part("c", 7)], []]  # all after the first page has been read
        )

        def between() -> None:
            for one in next(pages):
                world.active.take(one.event())

        world.storage.between = between
        assert self.second(world) == ([], [(self.PATH, 12)])

    def test_a_gap_while_the_others_are_read_has_them_read_again(self, world: World) -> None:
        world.storage.between = world.active.forget_counts
        self.second(world)
        world.storage.between = lambda: None
        world.storage.records = {f"{self.PATH}/a": json.dumps(["count", self.PATH, "a", 2])}
        assert self.second(world) == ([], [(self.PATH, 2)])

    def test_a_lease_that_is_lost_in_a_pause_leaves_no_number_behind(self, world: World) -> None:
        self.second(world)
        for number in range(250):
            path = f"/.well-known/mercure/counts/{number}"
            one = subscriber(exact(f"{number}"), grant=may_read(exact(f"{number}"), exact(path)))
            world.active.announce(one, active=True)
            world.engine.append(one)
        losing = gevent.spawn(world.active.begin_lease, 1)  # in the first pause
        for _ in range(2):
            for _ in world.active.tell_counts():
                pass
        losing.get()
        kept = {one.key for _, one in world.dispatcher.announced if one.lease == 1 and one.record}
        assert len(kept) == 250

    def test_nothing_piles_up_while_the_storage_is_away_or_slow(self, world: World) -> None:
        self.come(world)
        world.storage.absence = StorageAway("away")
        assert self.second(world) == ([], [(self.PATH, 1)])  # readers here are told all the same
        world.storage.absence = None
        world.dispatcher.is_slow = True
        self.come(world)
        assert self.second(world) == ([], [(self.PATH, 2)])
        world.dispatcher.is_slow = False
        assert self.second(world) == ([(2, True)], [])

    def test_a_dead_process_is_taken_off(self, world: World) -> None:
        world.storage.dead = [json.dumps(["count", self.PATH, "a", 2]), record("urn:dead")]
        world.active.end_of_dead_processes()
        ends = [(json.loads(event.data), one.record) for event, one in world.dispatcher.announced]
        assert [(one["type"], one.get("count"), kept) for one, kept in ends] == [
            ("count", 0, None),
            ("subscription", None, None),
        ]

    def test_under_a_new_lease_the_numbers_are_told_again(self, world: World) -> None:
        self.come(world)
        self.second(world)
        world.active.begin_lease(1)
        assert self.second(world) == ([(1, True)], [])
