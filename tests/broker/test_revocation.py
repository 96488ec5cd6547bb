"""The list of a process: what it reads of others, what it does without an engine, and whose streams end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import cast

import gevent
import pytest

from mercure_hub.broker.dispatch import Storage
from mercure_hub.broker.revocation import Revocations
from mercure_hub.fanout.endings import Ending, Reason
from mercure_hub.fanout.subscriber import Subscriber
from mercure_hub.protocol.errors import StorageAway, StorageError, TooManyRequests
from mercure_hub.protocol.revocation import Revocation, digest_of
from mercure_hub.protocol.tokens.grant import ANONYMOUS, Grant
from mercure_hub.protocol.tokens.keys import Key
from mercure_hub.storage.interface import Revoked
from tests.fanout.bench import subscriber
from tests.storage.memory import MemoryEngine, MemoryLink

NOW = 1_800_000_000.0
KEY = Key(b"a" * 32, ("HS256",))


class FakeStorage:
    """On an engine that several have in common, and that goes away when the test says so."""

    name = "the memory"

    def __init__(self, engine: MemoryEngine) -> None:
        self.absence: StorageAway | None = None
        self.failure: Exception | None = None
        self.engine = engine
        self.reads = 0
        self._link = MemoryLink(engine)
        self._link.open()

    @property
    def epoch(self) -> str:
        return self.engine.epoch

    def revoke(self, revocations: Sequence[Revocation], now: float) -> None:
        if self.failure is not None:
            raise self.failure
        self._link.revoke(revocations, now)

    def revocations(self, after: int, limit: int) -> Revoked:
        self.reads += 1
        if self.failure is not None:
            raise self.failure
        return self._link.revocations(after, limit)


class Node:
    """A process with some subscribers."""

    def __init__(self, engine: MemoryEngine, limit: int = 100_000) -> None:
        self.storage = FakeStorage(engine)
        self.now = 1000.0
        self.wall = NOW
        self.everyone: list[Subscriber] = []
        self.ended: list[tuple[Subscriber, Reason]] = []
        self.revocations = Revocations(
            cast(Storage, self.storage),
            lambda: list(self.everyone),
            self._end,
            lambda: self.now,
            lambda: self.wall,
            interval=0.001,
            limit=limit,
        )

    def _end(self, subscriber: Subscriber, ending: Ending) -> None:
        self.everyone.remove(subscriber)
        self.ended.append((subscriber, ending.reason))

    def come(self, name: str) -> Subscriber:
        one = subscriber(grant=grant(name))
        self.everyone.append(one)
        return one


class World:
    def __init__(self) -> None:
        self.engine = MemoryEngine()
        self.nodes: list[Node] = []

    def node(self, limit: int = 100_000) -> Node:
        node = Node(self.engine, limit)
        self.nodes.append(node)
        node.revocations.open()
        return node


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    for node in world.nodes:
        node.revocations.close()


def grant(sub: str, sid: str = "", jti: str = "") -> Grant:
    return Grant(key=KEY, issuer="urn:issuer", issued_at=1.0, sub=sub, sid=sid, jti=jti)


def of(name: str, topic: str = "", until: float = NOW + 60) -> Revocation:
    return Revocation(digest_of("sub", "urn:issuer", name), topic, NOW, until)


def until(condition: Callable[[], object]) -> None:
    with gevent.Timeout(20):
        while not condition():
            gevent.sleep(0.001)


def test_a_revocation_counts_here_at_once_and_elsewhere_soon(world: World) -> None:
    here, there = world.node(), world.node()
    ann, bob = there.come("ann"), there.come("bob")
    mine = here.come("ann")
    here.revocations.revoke([of("ann")])
    assert here.revocations.refuses(grant("ann"))
    until(lambda: there.ended and here.ended)
    assert there.ended == [(ann, Reason.REVOKED)]
    assert here.ended == [(mine, Reason.REVOKED)]
    assert there.everyone == [bob]
    assert there.revocations.refuses(grant("ann"))
    assert not there.revocations.refuses(grant("bob"))


def test_what_was_revoked_before_the_start_is_known_at_the_start(world: World) -> None:
    world.node().revocations.revoke([of(str(number)) for number in range(2500)])
    late = world.node()
    assert len(late.revocations) == 2500
    assert late.revocations.refuses(grant("2499"))


def test_a_start_without_the_list_fails(world: World) -> None:
    node = Node(world.engine)
    node.storage.failure = StorageAway("no route")
    with pytest.raises(StorageAway):
        node.revocations.open()


def test_a_process_that_cannot_know_the_list_takes_no_token(world: World) -> None:
    node = world.node()
    node.storage.failure = StorageAway("no route")
    node.now += 9
    assert not node.revocations.refuses(grant("ann"))
    node.now += 2
    with pytest.raises(StorageAway, match="could not be read for 11 s, so no token is accepted"):
        node.revocations.refuses(grant("ann"))
    assert not node.revocations.refuses(ANONYMOUS)
    node.storage.failure = None
    before = node.storage.reads
    until(lambda: node.storage.reads > before + 1)
    assert not node.revocations.refuses(grant("ann"))


def test_what_was_known_counts_while_the_engine_is_away(world: World) -> None:
    node = world.node()
    node.revocations.revoke([of("ann")])
    node.storage.failure = StorageAway("no route")
    assert node.revocations.refuses(grant("ann"))


@pytest.mark.parametrize("is_known", [True, False])
def test_what_cannot_be_stored_is_not_revoked(world: World, is_known: bool) -> None:
    node = world.node()
    node.storage.failure = StorageError("disk full")
    if is_known:
        node.storage.absence = StorageAway("no route")
    with pytest.raises(StorageAway if is_known else StorageError):
        node.revocations.revoke([of("ann")])
    assert not node.revocations.refuses(grant("ann"))


def test_an_error_that_nobody_expects_ends_no_watch(world: World, caplog: pytest.LogCaptureFixture) -> None:
    here, there = world.node(), world.node()
    there.storage.failure = ZeroDivisionError()
    until(lambda: "this is a defect of the hub" in caplog.text)
    there.storage.failure = None
    here.revocations.revoke([of("ann")])
    until(lambda: there.revocations.refuses(grant("ann")))


def test_an_engine_that_lost_them_gets_them_back(world: World) -> None:
    """As after a failover to a replica that lacks them."""
    node = world.node()
    node.revocations.revoke([of(str(number)) for number in range(1500)])
    until(lambda: node.revocations._reached == 1500)
    world.engine.revoked.clear()
    world.engine.revocations = 0
    until(lambda: len(world.engine.revoked) == 1500)
    assert len(node.revocations) == 1500
    assert world.node().revocations.refuses(grant("7"))


@pytest.mark.parametrize("is_another", [False, True], ids=["without its end", "another"])
def test_an_engine_that_refuses_a_part_gets_it_later(
    world: World, monkeypatch: pytest.MonkeyPatch, is_another: bool
) -> None:
    node = world.node()
    node.revocations.revoke([of(str(number)) for number in range(1500)])
    until(lambda: node.revocations._reached == 1500)
    revoke, calls = node.storage.revoke, 0

    def sometimes(revocations: Sequence[Revocation], now: float) -> None:
        nonlocal calls
        calls += 1
        if calls in (2, 3):
            raise StorageError("the disk is full")
        revoke(revocations, now)

    monkeypatch.setattr(node.storage, "revoke", sometimes)
    world.engine.revoked = {}
    world.engine.revocations = 0
    if is_another:
        world.engine.epoch = "another"
    until(lambda: calls > 3)
    until(lambda: len(world.engine.revoked) == 1500)
    assert world.node().revocations.refuses(grant("1400"))


def test_another_history_is_read_from_its_beginning(world: World) -> None:
    node = world.node()
    node.revocations.revoke([of("ann")])
    world.engine.epoch = "another"
    world.engine.revoked = {of("bob").key: (1, of("bob"))}
    until(lambda: node.revocations.refuses(grant("bob")))
    assert node.revocations.refuses(grant("ann"))


def test_the_list_has_a_limit_and_forgets_what_is_over(world: World) -> None:
    node = world.node(limit=10)
    node.revocations.revoke([of(str(number)) for number in range(10)])
    with pytest.raises(TooManyRequests):
        node.revocations.revoke([of("one more")])
    node.revocations.revoke([of("7", until=NOW + 60)])  # of a user who has signed in again
    node.wall += 61
    node.revocations.revoke([of("one more", until=NOW + 600)])
    assert len(node.revocations) == 1
    assert not node.revocations.refuses(grant("7"))


def test_one_that_cannot_be_ended_keeps_nobody_else(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    node = world.node()
    stuck = node.come("ann")
    monkeypatch.setattr(node, "everyone", [stuck, stuck, node.come("ann")])
    node.everyone.remove(stuck)
    end = node.revocations._end

    def failing(one: Subscriber, ending: Ending) -> None:
        if one is stuck:
            raise ZeroDivisionError
        end(one, ending)

    monkeypatch.setattr(node.revocations, "_end", failing)
    node.revocations.revoke([of("ann")])
    until(lambda: len(node.ended) == 1)
    assert node.everyone == [stuck]


def test_looking_up_takes_no_longer_with_many(world: World) -> None:
    node = world.node()
    node.revocations.revoke([of(str(number)) for number in range(10_000)])
    asked = [grant(name, "session", "token") for name in ("ann", "bob")]  # in turn: one would be remembered

    def seconds(looks: int = 20_000) -> float:
        began = time.perf_counter()
        for look in range(looks):
            node.revocations.refuses(asked[look % 2])
        return time.perf_counter() - began

    assert min(seconds() for _ in range(5)) < 0.5  # 25 microseconds each, of which it takes three
