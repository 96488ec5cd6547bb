"""The way of an update, with a storage that the test commits for."""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Iterator, Sequence
from typing import cast

import gevent
import pytest
from gevent.event import Event
from gevent.hub import Waiter

from mercure_hub.broker.dispatch import Dispatcher, Storage, unbroken_runs
from mercure_hub.fanout.engine import Engine
from mercure_hub.metrics.tally import Board
from mercure_hub.protocol.errors import StorageAway, StorageError, StorageInDoubt
from mercure_hub.protocol.update import EARLIEST, Update
from mercure_hub.storage.interface import Break, Commit, Entry, Presence

Appended = tuple[Sequence[Update], Waiter | None, Presence | None]


class FakeStorage:
    """Notes what is appended; ``commits`` are what it returns next."""

    def __init__(self) -> None:
        self.absence: StorageAway | None = None
        self.appended: list[Appended] = []
        self.commits: list[Commit[Waiter | None]] = []
        self._has_come = Event()

    def append(self, updates: Sequence[Update], ticket: Waiter | None, presence: Presence | None) -> None:
        self.appended.append((updates, ticket, presence))
        self._has_come.set()

    def wait(self, count: int) -> None:
        """Wait for so many publications."""
        while len(self.appended) < count:
            self._has_come.clear()
            assert self._has_come.wait(5)

    def collect(self) -> list[Commit[Waiter | None]]:
        commits, self.commits = self.commits, []
        return commits


class FakeEngine:
    """Notes the sequences that are dispatched, or fails."""

    def __init__(self) -> None:
        self.dispatched = 0
        self.delivered = 0
        self.sent: list[list[int]] = []
        self.failure: Exception | None = None
        self.slices = 1

    def dispatch(self, entries: Sequence[Entry]) -> Iterator[None]:
        if self.failure is not None:
            failure, self.failure = self.failure, None
            raise failure
        self.dispatched = entries[-1].sequence
        self.sent.append([entry.sequence for entry in entries])
        yield from [None] * self.slices


class World:
    def __init__(self) -> None:
        self.storage = FakeStorage()
        self.engine = FakeEngine()
        self.gaps = 0
        self.leases: list[int] = []
        self.dispatcher = Dispatcher(
            cast(Storage, self.storage),
            cast(Engine, self.engine),
            lambda: 0.0,
            Board(1).of(0),
            self.note_gap,
            on_lease=self.leases.append,
            max_characters=1000,
        )
        self.dispatcher.start(0, None, None)

    def note_gap(self) -> None:
        self.gaps += 1

    def commit(
        self,
        *entries: Entry,
        error: StorageError | None = None,
        broken: Break | None = None,
        newest: tuple[int, str | None] | None = None,
    ) -> None:
        """Answer everything that was appended."""
        turns()
        tickets = [ticket for _, ticket, _ in self.storage.appended]
        self.storage.appended.clear()
        self.storage.commits.append(Commit(entries, tickets, error, broken, newest))
        gevent.get_hub().loop.run_callback(self.dispatcher.take_commits)
        turns()


def turns() -> None:
    """Let the event loop do everything that it has to do."""
    for _ in range(5):
        gevent.sleep(0)


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    world.dispatcher.close()


def update(number: int, data: str = "") -> Update:
    return Update(id=f"urn:{number}", topics=("t",), data=data)


def entry(number: int, *, is_event: bool = False, data: str = "") -> Entry:
    return Entry(number, update(number, data), is_event)


def test_what_one_turn_of_the_loop_brings_is_submitted_at_once(world: World) -> None:
    greenlets = [gevent.spawn(world.dispatcher.publish, (update(n),)) for n in range(3)]
    turns()
    assert [updates for updates, _, _ in world.storage.appended] == [(update(n),) for n in range(3)]
    world.commit(*(entry(n) for n in range(1, 4)))
    gevent.joinall(greenlets, timeout=5, raise_error=True)
    assert world.engine.sent == [[1, 2, 3]]


def commit_for_two(world: World) -> None:
    greenlets = [gevent.spawn(world.dispatcher.publish, (update(n),)) for n in (1, 2)]
    world.storage.wait(2)
    world.commit(entry(1), entry(2))
    for one in greenlets:
        one.get(timeout=5)


@pytest.fixture
def _unbounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mercure_hub.broker.dispatch._GATHERING", 60.0)


@pytest.mark.usefixtures("_unbounded")
def test_publishers_that_come_back_together_are_submitted_at_once(world: World) -> None:
    commit_for_two(world)
    world.commit(entry(3))  # of another process
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.send(b"the request of another publisher")
        submitted: list[int] = []

        def read() -> None:
            with contextlib.closing(gevent.get_hub().loop.io(ours.fileno(), 1)) as readable:
                gevent.get_hub().wait(readable)
            submitted.append(len(world.storage.appended))
            world.dispatcher.publish((update(5),))

        greenlets = [gevent.spawn(read), gevent.spawn(world.dispatcher.publish, (update(4),))]
        world.storage.wait(2)
        world.commit(entry(4), entry(5))
        for one in greenlets:
            one.get(timeout=5)
    assert submitted == [0]
    assert world.engine.sent == [[1, 2], [3], [4, 5]]


def test_a_busy_loop_holds_no_publication(world: World) -> None:
    commit_for_two(world)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.send(b"never read")
        busy = gevent.get_hub().loop.io(ours.fileno(), 1)
        busy.start(lambda: None)
        try:
            greenlet = gevent.spawn(world.dispatcher.publish, (update(3),))
            world.storage.wait(1)
        finally:
            busy.stop()
            busy.close()
    world.commit(entry(3))
    greenlet.get(timeout=5)


def test_a_publisher_gets_the_error_of_its_commit(world: World) -> None:
    def publish() -> str:
        with pytest.raises(StorageError) as caught:
            world.dispatcher.publish((update(1),))
        return caught.value.detail

    greenlet = gevent.spawn(publish)
    world.commit(error=StorageError("the disk is full"))
    assert greenlet.get(timeout=5) == "the disk is full"
    assert world.engine.sent == []


def test_publications_that_share_an_error_raise_one_each(world: World) -> None:
    def publish(number: int) -> StorageError:
        with pytest.raises(StorageInDoubt, match="no answer") as caught:
            world.dispatcher.publish((update(number),))
        return caught.value

    greenlets = [gevent.spawn(publish, number) for number in range(3)]
    world.commit(error=StorageInDoubt("no answer"))
    assert len({id(one.get(timeout=5)) for one in greenlets}) == 3  # a raised error keeps frames alive


def test_nothing_is_queued_while_the_engine_is_away(world: World) -> None:
    world.storage.absence = StorageAway("no route")
    with pytest.raises(StorageAway, match="no route"):
        world.dispatcher.publish((update(1),))
    turns()
    assert world.storage.appended == []


def test_a_lost_lease_is_told(world: World) -> None:
    world.storage.commits.append(Commit((), (), lease=3))
    world.dispatcher.take_commits()
    assert world.leases == [3]


def test_a_stream_that_comes_while_others_are_ended_begins_behind_the_gap(world: World) -> None:
    seen: list[int] = []
    world.dispatcher._on_gap = lambda: seen.append(world.engine.dispatched)
    world.commit(entry(1), entry(5))
    assert seen == [4]


def test_updates_of_other_processes_are_dispatched_too(world: World) -> None:
    world.commit(entry(1), entry(2))
    assert world.engine.sent == [[1, 2]]
    assert world.gaps == 0


def test_the_newest_ids_are_known_with_and_without_events(world: World) -> None:
    assert (world.dispatcher.last_event_id, world.dispatcher.last_update_id) == (EARLIEST, EARLIEST)
    world.commit(entry(1), entry(2, is_event=True))
    assert (world.dispatcher.last_event_id, world.dispatcher.last_update_id) == ("urn:2", "urn:1")


def test_a_missing_update_is_a_gap_and_the_rest_is_dispatched(world: World) -> None:
    world.commit(entry(1), entry(2), entry(5), entry(6))
    assert world.engine.sent == [[1, 2], [5, 6]]
    assert world.gaps == 1


@pytest.mark.parametrize("broken", [Break.REWOUND, Break.REPLACED])
def test_a_history_that_lost_updates_goes_on_where_it_ends_now(world: World, broken: Break) -> None:
    world.commit(entry(1), entry(2))
    world.commit(broken=broken, newest=(1, "urn:1"))
    assert (world.gaps, world.engine.dispatched, world.dispatcher.generation) == (1, 1, 1)
    assert (world.dispatcher.last_event_id, world.dispatcher.last_update_id) == ("urn:1", "urn:1")
    world.commit(entry(2))
    assert world.engine.sent == [[1, 2], [2]]
    assert (world.gaps, world.dispatcher.generation) == (1, 1)


def test_what_the_history_lost_is_not_dispatched(world: World) -> None:
    lost = entry(1, data="x" * 1001)
    world.storage.commits += [Commit([lost], []), Commit((), (), None, Break.REWOUND, (0, None))]
    world.dispatcher.take_commits()
    assert not world.dispatcher.is_crowded()
    world.commit(entry(1))
    assert world.engine.sent == [[1]]
    assert (world.gaps, world.dispatcher.generation) == (1, 1)
    assert world.dispatcher.last_event_id == "urn:1"


def test_a_break_while_updates_are_sent_counts_after_them(world: World) -> None:
    world.engine.slices = 3
    world.storage.commits.append(Commit([entry(5)], []))
    world.dispatcher.take_commits()
    while not world.engine.sent:
        gevent.sleep(0)
    world.storage.commits += [Commit((), (), None, Break.REWOUND, (1, "urn:1")), Commit([entry(2)], [])]
    world.dispatcher.take_commits()
    turns()
    turns()
    assert world.engine.sent == [[5], [2]]
    assert world.engine.dispatched == 2
    assert world.gaps == 2  # before 5, and the break


def test_a_defect_of_the_engine_is_a_gap_and_later_updates_are_dispatched(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.engine.failure = MemoryError()
    with caplog.at_level(logging.ERROR, "mercure_hub.subscriber"):
        world.commit(entry(1), entry(2))
    assert "not sent to all" in caplog.text
    assert world.gaps == 1
    world.commit(entry(3))
    assert world.engine.sent == [[3]]
    assert world.gaps == 1


def test_publishers_wait_while_the_backlog_is_large(world: World) -> None:
    world.storage.commits.append(Commit([entry(1, data="x" * 1001)], []))
    world.dispatcher.take_commits()
    assert world.dispatcher.is_crowded()
    greenlet = gevent.spawn(world.dispatcher.publish, (update(2),))
    gevent.sleep(0)
    assert world.storage.appended == []
    turns()
    assert not world.dispatcher.is_crowded()
    world.commit(entry(2))
    greenlet.get(timeout=5)
    assert world.engine.sent == [[1], [2]]


def test_draining_waits_for_the_commit_and_the_dispatch(world: World) -> None:
    publisher = gevent.spawn(world.dispatcher.publish, (update(1),))
    gevent.sleep(0)
    draining = gevent.spawn(world.dispatcher.drain)
    gevent.sleep(0.02)
    assert not draining.ready()
    world.commit(entry(1))
    draining.get(timeout=5)
    publisher.get(timeout=5)
    assert world.engine.sent == [[1]]


@pytest.mark.parametrize(
    ("before", "sequences", "expected"),
    [
        (0, [1, 2, 3], [[1, 2, 3]]),
        (0, [5, 6], [[5, 6]]),
        (4, [5, 7, 8, 12], [[5], [7, 8], [12]]),
        (9, [1, 2], [[1, 2]]),
    ],
)
def test_runs_without_a_missing_update(before: int, sequences: list[int], expected: list[list[int]]) -> None:
    runs = unbroken_runs([entry(number) for number in sequences], before)
    assert [[one.sequence for one in run] for run in runs] == expected
