"""The pump: order, answers, and what is owed, on an engine in memory that fails on demand."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from typing import NoReturn

import pytest

from mercure_hub.protocol.errors import StorageAway, StorageError, StorageInDoubt
from mercure_hub.storage.interface import Break, Commit, LeaseLost, Position, Presence, Retention
from mercure_hub.storage.store import Store
from tests.storage.log import no_thread_left, until, update
from tests.storage.memory import MemoryEngine, MemoryLink, fails, goes_away, is_lost, is_not_answered

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

    def publish(
        self, *ids: str, ticket: int | None = 0, presence: Presence | None = None, once: bool = False
    ) -> None:
        updates = [replace(update(id=one, data=one), once=once) for one in ids]
        self.store.append(updates, ticket, presence)

    def announce(self, key: str, record: str | None) -> None:
        presence = Presence(key, record, lease=self.store.lease)
        self.publish(f"{key}: {record}", ticket=None, presence=presence)

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
    def errors(self) -> list[tuple[int, type[StorageError]]]:
        """The kind of error that each ticket but 0 was answered, in order."""
        answered = [(ticket, one.error) for one in self.commits for ticket in one.tickets if ticket]
        return [(ticket, type(error)) for ticket, error in answered if error is not None]

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

    with no_thread_left():
        yield join
        for node in nodes:
            node.store.close()


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


class TestOnce:
    """Updates that are to be stored once."""

    def test_a_repeat_is_answered_and_neither_stored_nor_delivered(self, node: Node) -> None:
        for ticket in range(1, 4):
            node.publish("x", ticket=ticket, once=True)
            node.answered(ticket)
        node.publish("y", ticket=4, once=True)
        node.wait_for("y")
        assert (node.ids, node.sequences) == (["x", "y"], [1, 2])
        assert node.answers == {1: "", 2: "", 3: "", 4: ""}

    def test_of_repeats_in_one_batch_the_first_is_stored(self, node: Node, engine: MemoryEngine) -> None:
        node.publish("before", ticket=1, once=True)
        node.answered(1)
        with engine.turn:
            node.publish("x", "before", "y", ticket=2, once=True)
            node.publish("y", ticket=3)
            node.publish("y", ticket=4, once=True)
            node.store.append([update(id="y", data="other")], 5)
            node.publish("z", "x", "z", ticket=6, once=True)
            node.publish("before", "y", ticket=7, once=True)
        node.answered(7)
        assert node.ids == ["before", "x", "y", "y", "y", "z"]
        assert node.sequences == [1, 2, 3, 4, 5, 6]
        assert set(node.answers.values()) == {""}

    def test_a_repeat_on_another_node(self, join: Callable[..., Node], engine: MemoryEngine) -> None:
        one, other = join(), join()
        with engine.turn:
            for node in (one, other):
                node.publish("x", ticket=1, once=True)
        for node in (one, other):
            node.wait_for("x")
            node.answered(1)
            node.publish("end")
        for node in (one, other):
            node.wait_for("x", "end", "end")

    def test_presence_is_stored_beside_a_repeat(self, node: Node, engine: MemoryEngine) -> None:
        node.publish("x", ticket=1, once=True)
        node.answered(1)
        with engine.turn:
            node.publish("x", ticket=2, once=True)
            node.announce("key", "record")
        node.answered(2)
        node.wait_for("key: record")
        assert engine.records == {"key": (0, "record")}

    def test_a_batch_in_doubt_that_was_stored_is_not_stored_again(self, node: Node) -> None:
        node.link.appends = [is_not_answered]
        node.link.is_away = True
        node.publish("x", ticket=1, once=True)
        until(lambda: node.store._wait is not None and node.store._wait.is_sent)
        node.expire()
        assert node.errors == [(1, StorageInDoubt)]
        node.link.is_away = False
        until(lambda: node.store.absence is None)
        node.publish("x", ticket=2, once=True)
        node.answered(2)
        assert (node.ids, node.answers[2]) == (["x"], "")

    def test_a_failure_of_the_rest_is_answered(self, node: Node) -> None:
        node.publish("x", ticket=1, once=True)
        node.answered(1)
        node.link.appends = [lambda append: append(), fails]
        node.publish("x", "y", ticket=2, once=True)
        node.answered(2)
        assert node.answers[2] == "the memory is full"
        node.publish("x", "y", ticket=3, once=True)
        node.wait_for("y")
        assert (node.ids, node.answers[3]) == (["x", "y"], "")


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

        node.link.appends = [breaks, breaks]
        node.publish("lost", ticket=1)
        node.answered(1)
        reason = f"the memory cannot be written: {str(error) or type(error).__name__}"
        assert node.answers[1] == f"{reason}; it was not stored"
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
        reader.store.renew_interval = 60.0
        reader.link.after = self.breaks  # type: ignore[method-assign,assignment]
        writer.publish("x")
        until(lambda: caplog.messages)
        time.sleep(0.1)
        assert caplog.messages == ["the updates of other processes cannot be read: the disk is broken"]
        with caplog.at_level(logging.INFO, "mercure_hub.storage"):
            del reader.link.after
            reader.wait_for("x")
        assert caplog.messages[1:] == ["the updates of other processes can be read again"]

    @staticmethod
    def breaks(*_: object) -> None:
        raise StorageError("the disk is broken")

    def test_a_publication_that_cannot_be_stored_takes_no_presence_with_it(self, node: Node) -> None:
        with node.link.engine.turn:
            node.announce("key", "record")
            node.store.append([update(data="\ud800")], 1)
        node.answered(1)
        node.wait_for("key: record")
        assert node.link.engine.records == {"key": (0, "record")}

    def test_the_last_batch_may_fail(self, engine: MemoryEngine) -> None:
        node = Node(engine)
        node.open()
        with engine.turn:
            node.publish("x", ticket=1)
            until(lambda: node.store._wait)
            node.link.appends = [fails]
            closing = threading.Thread(target=node.store.close)
            closing.start()
            until(node.store._waiting.qsize)
        closing.join(PATIENCE)
        assert not closing.is_alive()
        assert node.answers == {1: "the memory is full"}

    def test_a_turn_that_fails_while_publications_expire_answers_each_once(
        self, node: Node, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        expires, expired = threading.Event(), threading.Event()

        def breaks() -> NoReturn:
            expires.set()
            assert node.store._claim.acquire(timeout=PATIENCE)  # as ``expire`` does
            expired.set()
            node.store._claim.release()
            raise StorageError("no lock")

        with monkeypatch.context() as patched:
            patched.setattr(node.link, "turn", breaks)
            node.publish("x", ticket=1)
            assert expires.wait(PATIENCE)
            node.expire()
            assert expired.wait(PATIENCE)
            node.answered(1)
        node.publish("next", ticket=2)
        node.answered(2)
        assert [ticket for one in node.commits for ticket in one.tickets] == [1, 2]

    def test_a_wait_that_fails_ends_no_follower_and_is_logged_once(
        self, join: Callable[..., Node], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)
        writer, reader = join(), join()
        waits: list[int] = []

        def breaks(after: int, timeout: float) -> None:
            waits.append(after)
            raise StorageError("the connection broke")

        with monkeypatch.context() as patched:
            patched.setattr(reader.link, "wait", breaks)
            writer.publish("x")
            reader.wait_for("x")
            until(lambda: len(waits) > 4)
        writer.publish("y")
        reader.wait_for("y")
        name, most = reader.link.name, reader.store.last_retry
        until(lambda: len(caplog.messages) == 2)
        assert caplog.messages == [
            f"{name} does not tell what other processes store, so this one looks every {most:g} s at most: "
            "the connection broke",
            f"{name} tells again what other processes store",
        ]


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

    @pytest.mark.parametrize("how", [is_lost, goes_away])
    def test_a_batch_that_was_not_committed_is_sent_once_more(
        self, node: Node, how: Callable[[Callable[[], int]], int]
    ) -> None:
        """As after a restart of the engine, which the publishers need not notice."""
        node.link.appends = [how]
        node.publish("x", "y", ticket=1)
        node.answered(1)
        assert node.answers[1] == ""
        until(lambda: node.ids == ["x", "y"])
        assert node.store.absence is None

    def test_a_batch_that_was_not_committed_again_fails(self, node: Node) -> None:
        node.link.appends = [is_lost, is_lost]
        node.publish("x", ticket=1)
        node.answered(1)
        assert node.answers[1] == "the connection broke; it was not stored"
        assert node.errors == [(1, StorageError)]
        node.publish("y", ticket=2)
        node.wait_for("y")
        assert node.sequences == [1]

    def in_doubt(self, node: Node, how: Callable[[Callable[[], int]], int]) -> None:
        """A publication and an event of whose batch the engine does not tell the outcome."""
        with node.link.engine.turn:
            node.publish("x", ticket=1)
            node.announce("key", "record")
            node.link.appends = [how, how]
            node.link.is_away = True
        until(lambda: node.store._wait is not None and node.store._wait.is_sent)
        node.publish("queued", ticket=2)

    def test_nobody_waits_long_for_the_outcome(self, node: Node) -> None:
        self.in_doubt(node, is_not_answered)
        until(lambda: node.store.absence)
        node.expire(2)
        assert node.errors == [(2, StorageAway)]  # it was not sent
        with pytest.raises(StorageAway):
            node.store.check()
        node.expire()
        assert node.errors == [(2, StorageAway), (1, StorageInDoubt)]
        assert node.answers[1] == "the connection broke; the update may be stored"
        node.link.is_away = False
        node.wait_for("x", "key: record")
        node.publish("next", ticket=3)
        node.wait_for("x", "key: record", "next")
        assert node.sequences == [1, 2, 3]

    def test_a_check_is_not_told_what_a_publisher_in_doubt_is(self, node: Node) -> None:
        node.store.doubt_timeout = 0.0
        self.in_doubt(node, is_not_answered)
        until(lambda: node.store.absence)
        node.store._absence = None  # as before the first attempt has failed
        with pytest.raises(StorageAway):
            node.store.check()

    def test_a_late_append_stores_nothing_after_its_outcome_was_told(self, node: Node) -> None:
        late: list[Callable[[], int]] = []

        def is_late(append: Callable[[], int]) -> int:
            late.append(append)
            raise StorageInDoubt("no answer")

        node.link.appends = [is_late]
        node.publish("x", ticket=1)
        node.answered(1)
        late[0]()
        node.publish("y", ticket=2)
        node.wait_for("x", "y")  # the first was sent once more, under another number
        assert node.sequences == [1, 2]
        assert node.store.doubts == 1

    @pytest.mark.parametrize("error", [StorageAway("moved"), LeaseLost("forgotten")])
    def test_what_is_sent_once_more_to_an_engine_without_its_newest_updates_hides_no_gap(
        self, node: Node, engine: MemoryEngine, error: StorageError
    ) -> None:
        node.publish("x", "lost", ticket=1)
        node.answered(1)

        def is_elsewhere(_: Callable[[], int]) -> int:
            engine.rewind(1)
            raise error

        node.link.appends = [is_elsewhere]
        node.publish("in its place", ticket=2)
        node.publish("next", ticket=3)
        node.answered(3)
        breaks = [one.broken for one in node.commits if one.broken is not None]
        assert breaks == [Break.REWOUND]
        assert node.commits.index(next(one for one in node.commits if one.broken)) < node.commits.index(
            next(one for one in node.commits if 2 in one.tickets)
        )

    @pytest.mark.parametrize(
        ("how", "expected"), [(is_lost, ["z"]), (is_not_answered, ["x", "key: record", "key: None", "z"])]
    )
    def test_an_end_that_is_queued_behind_a_beginning_in_doubt_stays_behind_it(
        self, node: Node, how: Callable[[Callable[[], int]], int], expected: list[str]
    ) -> None:
        self.in_doubt(node, how)
        node.announce("key", None)
        until(lambda: node.store.absence)
        for _ in range(3):
            node.expire()
        node.link.is_away = False
        until(lambda: node.store.absence is None)
        node.publish("z", ticket=3)
        node.wait_for("z")
        assert node.ids == expected
        assert node.link.engine.records == {}

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

    def test_the_end_of_what_may_be_stored_is_kept(self, node: Node) -> None:
        def change(record: str | None) -> None:
            presence = Presence("number", record, lease=node.store.lease, replaces=True)
            node.publish(f"number: {record}", ticket=None, presence=presence)

        change("3")
        node.wait_for("number: 3")
        node.link.appends = [fails] * 3
        change("5")
        until(lambda: len(node.link.appends) <= 2)
        change(None)
        node.wait_for("number: 3", "number: None")
        assert node.link.engine.presence.get("number") is None

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

    def test_more_than_one_batch_can_be_owed(self, node: Node, engine: MemoryEngine) -> None:
        node.store.max_batch = 10
        node.link.appends = [fails] * 3
        with engine.turn:
            for number in range(35):
                node.announce(str(number), "here")
        until(lambda: len(engine.presence) == 35)
        until(lambda: len(node.ids) == 35)
        assert sorted(node.ids) == sorted(f"{number}: here" for number in range(35))
        assert not node.store._owed

    def test_a_change_waits_for_an_earlier_one_that_is_owed(self, node: Node, engine: MemoryEngine) -> None:
        node.store.max_batch = 2
        node.link.is_away = True
        node.link.appends = [goes_away, goes_away]
        node.announce("first", "here")
        until(lambda: node.store.absence)
        for key in "abc":
            node.announce(key, "here")
        until(lambda: len(node.store._owed) == 4)
        node.announce("c", None)
        node.announce("first", None)
        node.publish("x", ticket=1)
        node.answered(1)
        node.link.is_away = False
        node.wait_for("a: here", "b: here")
        assert engine.records == {"a": (0, "here"), "b": (0, "here")}


class TestAbsence:
    """An engine that cannot be reached."""

    def away(self, node: Node) -> None:
        """Let the engine go away while somebody publishes."""
        node.link.is_away = True
        node.link.appends = [goes_away, goes_away]
        node.publish("lost", ticket=1)
        node.answered(1)

    def test_publications_are_refused_at_once(self, node: Node, engine: MemoryEngine) -> None:
        self.away(node)
        for ticket in range(2, 50):
            node.publish("refused", ticket=ticket)
        node.answered(*range(2, 50))
        assert {kind for _, kind in node.errors} == {StorageAway}
        assert engine.stored == []
        absence = node.store.absence
        assert str(absence) == "the memory is away"
        assert node.store.absence is not absence  # each that is raised keeps frames alive
        with pytest.raises(StorageAway, match="the memory is away"):
            node.store.check()

    def test_it_ends_when_the_engine_is_back(
        self, node: Node, engine: MemoryEngine, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO, "mercure_hub.storage")
        self.away(node)
        node.announce("key", "record")
        time.sleep(0.1)
        assert node.store.lag(time.monotonic()).is_away
        node.link.is_away = False
        until(lambda: node.store.absence is None)
        node.store.check()
        node.publish("next", ticket=2)
        node.wait_for("next")
        assert engine.records == {"key": (0, "record")}
        until(lambda: not node.store.lag(time.monotonic()).is_away)
        assert caplog.messages[0] == "the memory is away; publications are refused until it answers"
        assert caplog.messages[1].startswith("the memory is back after ")
        assert len(caplog.messages) == 2
        assert node.store.absences == 1

    def test_the_caller_is_woken_when_it_ends(self, node: Node) -> None:
        self.away(node)
        woken = threading.Event()
        node.store._wake = woken.set
        node.link.is_away = False
        assert woken.wait(PATIENCE)
        assert node.store.absence is None
        node.store._wake = node._collect

    def test_an_idle_writer_learns_of_it_from_the_follower(
        self, node: Node, caplog: pytest.LogCaptureFixture
    ) -> None:
        node.store.renew_interval = 60.0
        node.store._renew_at = time.monotonic() + 60.0
        node.link.is_away = True
        until(lambda: caplog.messages)
        assert caplog.messages == ["the memory is away; publications are refused until it answers"]
        node.link.is_away = False
        until(lambda: node.store.absence is None)

    def test_attempts_become_rarer(self, node: Node) -> None:
        node.store.last_retry = 0.04
        self.away(node)
        attempts: list[float] = []
        node.link.renewals = [lambda: attempts.append(time.monotonic())] * 12
        until(lambda: len(attempts) == 12)
        assert attempts[-1] - attempts[3] >= 8 * 0.02

    def test_any_error_of_an_attempt_is_another_failure(self, node: Node) -> None:
        def breaks() -> None:
            raise ZeroDivisionError("a defect")

        self.away(node)
        node.link.renewals = [breaks] * 3
        for ticket in range(2, 20):
            node.publish("refused", ticket=ticket)
            time.sleep(0.005)
        node.answered(*range(2, 20))
        assert {kind for _, kind in node.errors} == {StorageAway}
        node.link.is_away = False
        until(lambda: node.store.absence is None)

    def test_a_store_can_be_closed_meanwhile(self, engine: MemoryEngine) -> None:
        node = Node(engine)
        node.open()
        self.away(node)
        for ticket in range(2, 3000):
            node.publish("refused", ticket=ticket)
        node.store.close()
        assert not node.store._writer.is_alive()
        assert set(node.answers) == set(range(1, 3000))
        node.link.is_away = False

    def test_an_error_of_a_renewal_makes_no_writer_spin(self, node: Node) -> None:
        attempts: list[float] = []

        def breaks() -> None:
            attempts.append(time.monotonic())
            raise StorageError("read only")

        node.store.look_interval = 0.05
        node.link.renewals = [breaks] * 4
        node.store._renew_at = 0.0
        until(lambda: len(attempts) == 4)
        assert attempts[3] - attempts[1] >= 0.08
        node.publish("x", ticket=1)
        node.wait_for("x")


class TestLease:
    def test_a_process_that_counted_as_dead_announces_itself_anew(
        self, join: Callable[..., Node], engine: MemoryEngine, caplog: pytest.LogCaptureFixture
    ) -> None:
        node, other = join(), join()
        node.announce("old", "record")
        node.wait_for("old: record")
        engine.bury(0)
        assert other.store.adopt(10) == ["record"]
        with engine.turn:
            node.announce("late", "record")  # with the lease that it has lost
            node.publish("x", ticket=1)
        node.answered(1)
        assert node.answers[1] == ""
        until(lambda: node.ids[-1:] == ["x"])
        assert [one.lease for one in node.commits if one.lease is not None] == [1]
        assert node.ids == ["old: record", "x"]
        assert "the lease of this process expired" in caplog.text
        node.announce("new", "record")
        node.wait_for("new: record")
        assert engine.records == {"old": (1, "record"), "new": (2, "record")}
        tickets = [ticket for one in node.commits for ticket in one.tickets]
        assert tickets.count(None) == 3  # also those that were dropped

    def test_it_is_told_when_nothing_is_written_too(self, node: Node, engine: MemoryEngine) -> None:
        until(lambda: node.store._renew_at)
        engine.bury(0)
        node.store._renew_at = 0.0
        until(lambda: [one.lease for one in node.commits if one.lease is not None] == [1])
        assert engine.living == {1}

    def test_what_is_owed_is_ended_by_others(self, node: Node, engine: MemoryEngine) -> None:
        node.link.is_away = True
        node.link.appends = [goes_away, goes_away]
        node.announce("owed", "record")
        until(lambda: node.store.absence)
        engine.bury(0)
        node.link.is_away = False
        until(lambda: node.store.lease == 1)
        node.publish("x", ticket=1)
        node.wait_for("x")
        assert node.ids == ["x"]

    def test_a_lease_that_cannot_be_renewed_now_fails_the_batch(
        self, node: Node, engine: MemoryEngine
    ) -> None:
        until(lambda: node.store._renew_at)
        engine.bury(0)
        node.link.is_away = True
        node.publish("x", ticket=1)
        node.answered(1)
        assert node.errors == [(1, StorageAway)]
        node.link.is_away = False
        until(lambda: node.store.lease == 1)
        node.publish("y", ticket=2)
        node.wait_for("y")

    def test_subscriptions_are_announced_again_after_the_engine_has_lost_some(
        self, join: Callable[..., Node], engine: MemoryEngine
    ) -> None:
        node, other = join(), join()
        for number in range(3):
            node.publish(str(number))
        node.announce("key", "record")
        node.wait_for("key: record")
        engine.rewind(2)
        node.store._compare_at = 0.0
        until(lambda: [one.lease for one in node.commits if one.lease is not None] == [1])
        assert node.breaks == [Break.REWOUND]
        assert other.store.adopt(10) == ["record"]
        node.announce("new", "record")
        node.wait_for("new: record")
        time.sleep(0.05)
        assert node.store.lease == 1


class TestLag:
    def test_a_process_that_has_everything_is_not_behind(self, node: Node) -> None:
        node.publish("x")
        node.wait_for("x")
        lag = node.store.lag(time.monotonic())
        assert (lag.updates, lag.is_away, lag.is_long) == (0, False, False)

    def test_it_grows_while_the_engine_is_away(self, node: Node) -> None:
        node.link.is_away = True
        until(lambda: node.store.lag(time.monotonic()).is_away)
        lag = node.store.lag(time.monotonic() + 11)
        assert lag.is_away
        assert lag.is_long
        node.link.is_away = False
        until(lambda: not node.store.lag(time.monotonic() + 0.5).seconds > 0.5)

    def test_it_counts_what_is_left_to_read(self, join: Callable[..., Node]) -> None:
        writer, reader = join(), join()
        reader.is_crowded = True
        reader.publish("first")
        reader.wait_for("first")
        reader.store.max_read = 2
        for number in range(7):
            writer.publish(str(number))
        writer.wait_for("6")
        with reader.store._order:
            assert reader.store._try_to_read_on()
        assert reader.store.lag(time.monotonic()).updates == 5
        reader.is_crowded = False
        reader.wait_for("6")
        until(lambda: not reader.store.lag(time.monotonic()).updates)

    def test_a_busy_process_whose_own_updates_follow_each_other_is_not_behind(self, node: Node) -> None:
        node.is_crowded = True
        node.publish("x")
        node.wait_for("x")
        before = node.store._current_at
        node.publish("y")
        node.wait_for("y")
        until(lambda: node.store._current_at > before)

    def test_a_follower_that_has_died_is_told(self, node: Node) -> None:
        follower, node.store._follower = node.store._follower, threading.Thread()
        with pytest.raises(StorageError, match="the follower of the memory has stopped"):
            node.store.check()
        node.store._follower = follower


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
        assert "updates between 2 and 6 were discarded before this process could send them" in caplog.text

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
        until(lambda: node.breaks and node.store.absence is None)
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
        until(lambda: node.breaks and node.store.absence is None)
        assert node.breaks == [Break.REWOUND]
        until(lambda: node.store.absence is None)
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

    def test_a_break_that_no_failure_told_is_noticed(self, node: Node, engine: MemoryEngine) -> None:
        for number in range(5):
            node.publish(str(number))
        node.wait_for("4")
        engine.rewind(2)
        node.store._compare_at = 0.0
        until(lambda: node.breaks)
        assert node.breaks == [Break.REWOUND]

    def test_a_failure_while_a_break_is_looked_for_counts_again(
        self, node: Node, engine: MemoryEngine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        node.publish("x")
        node.wait_for("x")
        position = node.link.position

        def fails_meanwhile() -> Position:
            node.store._is_link_suspect = True
            return position()

        with node.store._order, monkeypatch.context() as patched:
            patched.setattr(node.link, "position", fails_meanwhile)
            node.store._look_for_break()
            assert node.store._is_link_suspect

    def test_another_history_is_told(self, node: Node, engine: MemoryEngine) -> None:
        node.publish("x")
        node.wait_for("x")
        node.link.is_away = True
        engine.epoch = "second"
        until(lambda: node.store._is_link_suspect)
        node.link.is_away = False
        until(lambda: node.breaks and node.store.absence is None)
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
            until(lambda: not node.store._is_link_suspect and node.store.absence is None)
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
