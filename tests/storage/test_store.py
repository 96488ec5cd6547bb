"""The pump: order, answers, and what is owed, on an engine in memory that fails on demand."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise

import pytest

from mercure_hub.protocol.errors import StorageError
from mercure_hub.storage.interface import Break, Commit, Presence, Retention
from mercure_hub.storage.store import Store
from tests.storage.log import until, update
from tests.storage.memory import MemoryEngine, MemoryLink, fails, is_lost, is_not_answered

PATIENCE = 30.0


class Node:
    """A process with a store; all that it collects is kept."""

    def __init__(self, engine: MemoryEngine, kept: Retention | None = None) -> None:
        self.link = MemoryLink(engine, kept)
        self.store: Store[int | None] = Store(self.link)
        self.store.look_interval = self.store.first_retry = 0.01
        self.commits: list[Commit[int | None]] = []
        self.is_crowded = False

    def open(self) -> tuple[int, str | None]:
        return self.store.open(self._collect, lambda: self.is_crowded)

    def _collect(self) -> None:
        self.commits += self.store.collect()

    def publish(self, *ids: str, ticket: int | None = 0, presence: Presence | None = None) -> None:
        self.store.append([update(id=one, data=one) for one in ids], ticket, presence)

    def announce(self, key: str, record: str | None) -> None:
        self.publish(f"{key}: {record}", ticket=None, presence=Presence(key, record))

    @property
    def ids(self) -> list[str]:
        return [entry.update.id for commit in self.commits for entry in commit.entries]

    @property
    def sequences(self) -> list[int]:
        return [entry.sequence for commit in self.commits for entry in commit.entries]

    @property
    def answers(self) -> dict[int | None, str]:
        """What each ticket was answered; empty: it is stored."""
        return {ticket: str(one.error or "") for one in self.commits for ticket in one.tickets}

    @property
    def breaks(self) -> list[Break]:
        return [one.broken for one in self.commits if one.broken is not None]

    def wait_for(self, *ids: str) -> None:
        until(lambda: self.ids[-len(ids) :] == list(ids))

    def answered(self, *tickets: int) -> None:
        until(lambda: set(tickets) <= set(self.answers))

    def expire(self, seconds: float = 60.0) -> None:
        """Let so much time pass for those that wait."""
        self.store.expire(time.monotonic() + seconds)


@pytest.fixture
def engine() -> MemoryEngine:
    return MemoryEngine()


@pytest.fixture
def join(engine: MemoryEngine) -> Iterator[Callable[..., Node]]:
    nodes: list[Node] = []

    def join(kept: Retention | None = None) -> Node:
        nodes.append(Node(engine, kept))
        nodes[-1].open()
        return nodes[-1]

    yield join
    for node in nodes:
        node.store.close()
    assert not [thread.name for thread in threading.enumerate() if "mercure-store" in thread.name]


@pytest.fixture
def node(join: Callable[..., Node]) -> Node:
    return join()


class TestOrder:
    def test_updates_are_answered_and_delivered_in_order(self, node: Node) -> None:
        for number in range(200):
            node.publish(str(number), ticket=number)
        node.answered(199)
        assert node.ids == [str(number) for number in range(200)]
        assert list(node.answers) == list(range(200))
        assert set(node.answers.values()) == {""}

    def test_what_waits_becomes_one_batch(self, node: Node, engine: MemoryEngine) -> None:
        with engine.turn:
            for number in range(50):
                node.publish(str(number), ticket=number)
        node.answered(49)
        assert len(engine.batches) == 1
        (number, _) = engine.batches[0]
        assert number <= 2  # the first may have been taken alone

    def test_all_processes_see_one_order(self, join: Callable[..., Node]) -> None:
        nodes = [join() for _ in range(3)]

        def publish(node: Node, name: str) -> None:
            for number in range(100):
                node.publish(f"{name}{number}", ticket=number)

        threads = [threading.Thread(target=publish, args=one) for one in zip(nodes, "abc", strict=True)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        until(lambda: all(len(node.ids) == 300 for node in nodes))
        assert nodes[0].ids == nodes[1].ids == nodes[2].ids
        for node in nodes:
            assert all(after == before + 1 for before, after in pairwise(node.sequences))
            node.answered(*range(100))

    def test_a_store_begins_where_the_history_ends(
        self, join: Callable[..., Node], engine: MemoryEngine
    ) -> None:
        first = join()
        first.publish("before")
        first.wait_for("before")
        second = Node(engine)
        assert second.open() == (1, "before")
        first.publish("after")
        second.wait_for("after")
        assert second.ids == ["after"]
        second.store.close()

    def test_updates_of_others_wait_while_the_caller_is_crowded(self, join: Callable[..., Node]) -> None:
        writer, busy = join(), join()
        busy.is_crowded = True
        busy.publish("first")  # when it is delivered, the follower has seen that it is crowded
        busy.wait_for("first")
        writer.publish("x")
        writer.wait_for("x")
        busy.publish("own")
        busy.wait_for("x", "own")  # its own brings those before it
        writer.publish("later")
        writer.wait_for("later")
        time.sleep(0.1)
        assert busy.ids == ["first", "x", "own"]
        busy.is_crowded = False
        busy.wait_for("later")

    def test_commits_that_nobody_collects_are_bounded(self, join: Callable[..., Node]) -> None:
        writer, reader = join(), join()
        reader.store.max_commits = 3
        reader.store.max_read = 1
        reader.store._wake = lambda: None
        for number in range(20):
            writer.publish(str(number))
        writer.wait_for("19")
        until(lambda: len(reader.store._commits) == 4)
        time.sleep(0.1)
        assert len(reader.store._commits) == 4
        reader.store._wake = reader._collect
        reader._collect()
        until(lambda: reader.ids == [str(number) for number in range(20)])

    def test_catching_up_waits_for_nothing(self, join: Callable[..., Node]) -> None:
        writer, reader = join(), join()
        reader.is_crowded = True
        for number in range(20):
            writer.publish(str(number))
        writer.wait_for("19")
        reader.store.catch_up()
        assert reader.ids == [str(number) for number in range(20)]


class TestFailure:
    def test_a_failure_before_the_commit_is_answered(
        self, node: Node, caplog: pytest.LogCaptureFixture
    ) -> None:
        node.link.appends = [fails]
        node.publish("lost", ticket=1)
        node.answered(1)
        assert node.answers == {1: "the memory is full"}
        assert caplog.text == ""  # whoever waits logs it
        node.publish("next", ticket=2)
        node.answered(2)
        assert (node.answers[2], node.ids, node.sequences) == ("", ["next"], [1])

    @pytest.mark.parametrize("error", [MemoryError(), OSError(5, "EIO"), ZeroDivisionError("x")])
    def test_any_other_error_is_answered_too(self, node: Node, error: Exception) -> None:
        def breaks(append: Callable[[], int]) -> int:
            raise error

        node.link.appends = [breaks]
        node.publish("lost", ticket=1)
        node.answered(1)
        assert node.answers[1] == f"the memory cannot be written: {str(error) or type(error).__name__}"
        node.publish("next", ticket=2)
        node.wait_for("next")

    def test_updates_of_one_call_share_their_fate(self, node: Node) -> None:
        node.store.append([update(id="good"), update(id="bad", data="\ud800")], 1)
        node.answered(1)
        assert node.answers[1]
        node.publish("next", ticket=2)
        node.answered(2)
        assert node.sequences == [1]

    def test_health_is_told_until_a_write_succeeds(self, node: Node) -> None:
        node.store.check()
        node.link.appends = [fails]
        node.publish("lost", ticket=1)
        node.answered(1)
        written: list[bool] = []
        node.link.check = lambda *, by_writing: written.append(by_writing)  # type: ignore[method-assign]
        node.store.check()
        node.store.check()
        assert written == [True, False]
        node.link.is_away = True
        del node.link.check
        with pytest.raises(StorageError, match="away"):
            node.store.check()
        node.link.is_away = False

    def test_a_link_that_cannot_be_read_is_told_once(
        self, join: Callable[..., Node], caplog: pytest.LogCaptureFixture
    ) -> None:
        writer, reader = join(), join()
        reader.link.is_away = True
        writer.publish("x")
        until(lambda: caplog.messages)
        time.sleep(0.1)
        assert caplog.messages == ["the updates of other processes have to wait: the memory is away"]
        reader.link.is_away = False
        reader.wait_for("x")

    def test_a_wait_that_fails_ends_no_follower_and_is_logged_once(
        self, join: Callable[..., Node], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        writer, reader = join(), join()

        def breaks(after: int, timeout: float) -> None:
            raise StorageError("the connection broke")

        with monkeypatch.context() as patched:
            patched.setattr(reader.link, "wait", breaks)
            writer.publish("x")
            reader.wait_for("x")
            time.sleep(4 * reader.store.first_retry)
        assert caplog.messages == ["the updates of other processes have to wait: the connection broke"]
        writer.publish("y")
        reader.wait_for("y")


class TestDoubt:
    """An append whose answer did not come."""

    def test_a_batch_that_was_committed_is_answered_as_stored(self, node: Node) -> None:
        node.link.appends = [is_not_answered]
        node.publish("x", "y", ticket=1)
        node.answered(1)
        assert node.answers[1] == ""
        until(lambda: node.ids == ["x", "y"])
        node.publish("z", ticket=2)
        node.wait_for("x", "y", "z")
        assert node.sequences == [1, 2, 3]

    def test_a_batch_that_was_not_committed_fails(self, node: Node) -> None:
        node.link.appends = [is_lost]
        node.publish("x", ticket=1)
        node.answered(1)
        assert node.answers[1] == "the connection broke"
        node.publish("y", ticket=2)
        node.wait_for("y")
        assert node.sequences == [1]

    def in_doubt(self, node: Node, how: Callable[[Callable[[], int]], int]) -> None:
        """A publication and an event of whose batch the engine does not tell the outcome."""
        with node.link.engine.turn:
            node.publish("x", ticket=1)
            node.announce("key", "record")
            node.link.appends = [how]
            node.link.is_away = True
        until(lambda: node.store._wait is not None and node.store._wait.is_sent)
        node.publish("queued", ticket=2)

    def test_nobody_waits_long_for_the_outcome(self, node: Node) -> None:
        self.in_doubt(node, is_not_answered)
        node.expire(2)
        assert node.answers == {}
        with pytest.raises(StorageError):
            node.store.check()
        node.expire()
        node.answered(1, 2)
        assert node.answers[1] == "the connection broke; the update may have been stored"
        assert node.answers[2] == "the connection broke"
        node.link.is_away = False
        node.wait_for("x", "key: record")
        node.publish("next", ticket=3)
        node.wait_for("x", "key: record", "next")
        assert node.sequences == [1, 2, 3]

    def test_presence_of_a_batch_that_was_not_committed_is_written_later(self, node: Node) -> None:
        self.in_doubt(node, is_lost)
        node.expire()
        node.answered(1, 2)
        node.link.is_away = False
        node.wait_for("key: record")
        assert node.ids == ["key: record"]
        assert node.link.engine.records == {"key": (0, "record")}

    def test_a_store_in_doubt_can_be_closed(self, engine: MemoryEngine) -> None:
        node = Node(engine)
        node.open()
        node.store.doubt_timeout = 0.1
        self.in_doubt(node, is_not_answered)
        node.store.close()
        node.store._writer.join(PATIENCE)
        assert not node.store._writer.is_alive()


class TestOwed:
    """Changes of presence that could not be written."""

    def test_they_come_with_the_next_batch_in_order(self, node: Node) -> None:
        node.link.appends = [fails]
        with node.link.engine.turn:
            node.announce("a", "1")
            node.announce("b", "2")
        until(lambda: node.link.engine.presence)
        assert node.link.engine.records == {"a": (0, "1"), "b": (0, "2")}
        node.publish("next")
        node.wait_for("a: 1", "b: 2", "next")

    def test_an_end_is_forgotten_with_its_beginning(self, node: Node) -> None:
        node.link.appends = [fails] * 3
        node.announce("brief", "record")
        until(lambda: len(node.link.appends) <= 2)
        node.announce("brief", None)
        node.announce("stays", "record")
        node.wait_for("stays: record")
        assert "brief: None" not in node.ids
        assert node.link.engine.presence.get("brief") is None

    def test_what_can_never_be_stored_is_not_tried_again(self, node: Node) -> None:
        node.store.append([update(data="\ud800")], 1, Presence("key", "record"))
        node.answered(1)
        node.publish("next")
        node.wait_for("next")
        assert node.ids == ["next"]

    def test_a_failure_that_lasts_is_logged_once(self, node: Node, caplog: pytest.LogCaptureFixture) -> None:
        node.link.appends = [fails] * 10
        node.announce("key", "record")
        node.wait_for("key: record")
        assert caplog.messages == ["the memory is full"]


class TestExpiry:
    def test_publications_are_answered_when_the_turn_does_not_come(
        self, node: Node, engine: MemoryEngine
    ) -> None:
        with engine.turn:
            node.publish("first", ticket=1)
            until(lambda: node.store._wait)
            node.expire(2)
            node.store.check()
            assert node.answers == {}
            node.expire()
            node.publish("second", ticket=2)
            node.expire()
            assert list(node.answers) == [1, 2]
            assert node.answers[1].startswith("the memory was in use for")
            with pytest.raises(StorageError, match="was in use"):
                node.store.turn_timeout = 0.0
                node.store._wait.bound = 0.0  # type: ignore[union-attr]
                node.store.check()
        node.publish("third", ticket=3)
        node.wait_for("third")
        assert node.sequences == [1]

    def test_presence_is_kept_in_order(self, node: Node, engine: MemoryEngine) -> None:
        with engine.turn:
            node.announce("key", "record")
            node.publish("lost", ticket=1)
            until(lambda: node.store._wait)
            node.expire()
            node.announce("key", None)
            node.expire()
        node.wait_for("key: record", "key: None")
        assert node.ids == ["key: record", "key: None"]

    def test_nothing_expires_while_nothing_waits(self, node: Node, caplog: pytest.LogCaptureFixture) -> None:
        node.expire()
        node.store.check()
        assert (node.commits, caplog.text) == ([], "")

    def test_a_wait_without_publications_is_logged(
        self, node: Node, engine: MemoryEngine, caplog: pytest.LogCaptureFixture
    ) -> None:
        with engine.turn:
            node.announce("key", "record")
            until(lambda: node.store._wait)
            for _ in range(3):
                node.expire()
        assert [message[:17] for message in caplog.messages] == ["the memory was in"]


class TestBreak:
    def test_updates_that_were_discarded_unread_are_told(
        self, join: Callable[..., Node], engine: MemoryEngine, caplog: pytest.LogCaptureFixture
    ) -> None:
        writer, reader = join(), join()
        reader.is_crowded = True
        reader.publish("crowded")
        reader.wait_for("crowded")
        time.sleep(0.05)  # the follower finds it crowded
        for number in range(5):
            writer.publish(str(number))
        writer.wait_for("4")
        with engine.changed:
            del engine.stored[:4]
        reader.is_crowded = False
        reader.wait_for("3", "4")
        assert reader.breaks == [Break.TRIMMED]
        assert "updates 2 to 4 were discarded before this process could send them" in caplog.text

    def test_a_history_that_lost_its_end_is_told(
        self, join: Callable[..., Node], engine: MemoryEngine, caplog: pytest.LogCaptureFixture
    ) -> None:
        node = join()
        for number in range(5):
            node.publish(str(number))
        node.wait_for("4")
        node.link.is_away = True
        engine.rewind(2)
        until(lambda: node.store._is_link_suspect)
        node.link.is_away = False
        until(lambda: node.breaks)
        node.publish("new")
        node.wait_for("new")
        assert node.breaks == [Break.REWOUND]
        assert [one.newest for one in node.commits if one.broken is not None] == [(2, "1")]
        assert node.sequences[-1] == 3
        assert "lost its newest updates" in caplog.text

    def test_a_history_that_lost_its_end_and_went_on_is_told(
        self, join: Callable[..., Node], engine: MemoryEngine
    ) -> None:
        node = join()
        for number in range(3):
            node.publish(str(number))
        node.wait_for("2")
        node.link.is_away = True
        engine.rewind(2)
        other = join()
        other.publish("another 3", "another 4")
        other.wait_for("another 4")
        until(lambda: node.store._is_link_suspect)
        node.link.is_away = False
        until(lambda: node.breaks)
        assert node.breaks == [Break.REWOUND]
        node.publish("5")
        node.wait_for("5")
        assert node.sequences[-1] == 5

    def test_a_rewound_engine_is_noticed_by_the_writer(self, node: Node, engine: MemoryEngine) -> None:
        for number in range(5):
            node.publish(str(number))
        node.wait_for("4")
        engine.rewind(2)
        node.link.appends = [fails]
        node.publish("fails", ticket=1)
        node.answered(1)
        node.publish("new", ticket=2)
        node.answered(2)
        until(lambda: node.breaks)
        assert node.breaks == [Break.REWOUND]

    def test_another_history_is_told(self, node: Node, engine: MemoryEngine) -> None:
        node.publish("x")
        node.wait_for("x")
        node.link.is_away = True
        engine.epoch = "second"
        until(lambda: node.store._is_link_suspect)
        node.link.is_away = False
        until(lambda: node.breaks)
        node.publish("y")
        node.wait_for("y")
        assert node.breaks == [Break.REPLACED]

    def test_a_failure_that_broke_nothing_is_no_break(self, node: Node) -> None:
        node.publish("x")
        node.wait_for("x")
        for _ in range(3):
            node.link.is_away = True
            until(lambda: node.store._is_link_suspect)
            node.link.is_away = False
            until(lambda: not node.store._is_link_suspect)
        node.publish("y")
        node.wait_for("x", "y")
        assert node.breaks == []


class TestDiscard:
    def test_the_writer_discards_in_its_turn(self, join: Callable[..., Node], engine: MemoryEngine) -> None:
        node = join(Retention(size=3))
        for number in range(10):
            node.publish(str(number))
        node.wait_for("9")
        until(lambda: len(engine.stored) == 3)
        with engine.turn:
            node.publish("x")
            time.sleep(0.05)
            assert len(engine.stored) == 3
        until(lambda: [entry.update.id for entry, _ in engine.stored] == ["8", "9", "x"])

    def test_a_discard_that_fails_is_logged_and_tried_again(
        self, join: Callable[..., Node], engine: MemoryEngine, caplog: pytest.LogCaptureFixture
    ) -> None:
        node = join(Retention(size=1))
        discard, node.link.discard = node.link.discard, self.breaks  # type: ignore[method-assign]
        node.publish("x", "y")
        until(lambda: "no" in caplog.messages)
        node.link.discard = discard  # type: ignore[method-assign]
        until(lambda: len(engine.stored) == 1)
        node.store.check()

    @staticmethod
    def breaks() -> None:
        raise StorageError("no")


class TestClose:
    def test_what_is_queued_is_stored(self, engine: MemoryEngine) -> None:
        node = Node(engine)
        node.open()
        for number in range(2500):
            node.publish(str(number), ticket=number)
        node.store.close()
        node._collect()
        assert len(engine.stored) == len(node.ids) == len(node.answers) == 2500
        node.store.close()
        with pytest.raises(StorageError, match="writer of the memory has stopped"):
            node.store.check()

    def test_a_writer_whose_turn_does_not_come_is_left(self, engine: MemoryEngine) -> None:
        node = Node(engine)
        node.open()
        node.store.turn_timeout = 0.05
        with engine.turn:
            node.publish("x", ticket=1)
            node.store.close()
        node.store._writer.join(PATIENCE)
        assert engine.stored == []

    def test_a_store_that_is_closed_while_it_opens_is_not_open(
        self, engine: MemoryEngine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        node = Node(engine)
        opens = node.link.open

        def is_closed_meanwhile() -> None:
            opens()
            node.store.close()

        monkeypatch.setattr(node.link, "open", is_closed_meanwhile)
        with pytest.raises(StorageError, match="the memory was closed"):
            node.open()
        assert engine.living == set()


def test_nothing_is_logged_when_all_is_well(node: Node, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "mercure_hub")
    node.publish("x")
    node.wait_for("x")
    assert caplog.records == []
