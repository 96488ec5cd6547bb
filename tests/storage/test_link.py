"""What each link has to do, whatever its engine."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import pytest

from mercure_hub.protocol.revocation import Revocation
from mercure_hub.protocol.update import Update
from mercure_hub.storage.address import address_of
from mercure_hub.storage.doorbell import Doorbell, bells
from mercure_hub.storage.feed.database import Bounds
from mercure_hub.storage.interface import (
    MOST_COMPARED,
    AlreadyStored,
    Batch,
    Entry,
    Link,
    Position,
    Presence,
    Resume,
    Retention,
    Unstorable,
)
from mercure_hub.storage.postgresql.link import PostgresqlLink
from mercure_hub.storage.redis.link import RedisLink
from mercure_hub.storage.sqlite.link import SqliteLink
from tests.storage.fed import Machine
from tests.storage.log import update
from tests.storage.memory import MemoryEngine, MemoryLink

DAY = 86400.0
END = 1 << 60
PATIENCE = 30.0

ODD = [
    Update(("a",), "", "1"),
    Update(("a", "b", "c"), "one\ntwo\r\nthree\rfour", "urn:uuid:2", private=True, type="news", retry=0),
    Update(("https://example.com/\N{SNOWMAN}",), "\0nul\0", "3", retry=2**31 - 1),
    Update(("\N{GRINNING FACE}", '"quotes"\\'), "\N{GRINNING FACE}\u2028\ufeff\x85\x7f", "\N{GRINNING FACE}"),
    Update(("a' OR 1=1 --",), "x" * 2_000_000, "'; DROP TABLE mercure_update", type="\N{SNOWMAN}"),
    Update(("a",), "the same id again", "1"),
]


class Node:
    """A process, with its numbers of batches."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.number = 0

    def batch(self, *updates: Update, presence: Presence | None = None) -> Batch:
        self.number += 1
        is_event = presence is not None
        return Batch(self.number, updates, [is_event] * len(updates), [presence] if presence else ())

    def append(self, *updates: Update, presence: Presence | None = None) -> int:
        with self.link.turn():
            return self.link.append(self.batch(*updates, presence=presence))

    def announce(self, key: str, record: str | None, value: str = "") -> int:
        return self.append(update(f"/subscriptions/{key}", data=key), presence=Presence(key, record, value))

    def others(self) -> list[str]:
        return list(self.link.others(None, None, 100).records)

    def discard(self) -> None:
        with self.link.turn():
            self.link.discard()

    def everything(self) -> list[Update]:
        return [entry.update for entry in self.link.after(0, 1 << 30, 1 << 30)]

    def sequences(self) -> list[int]:
        return [entry.sequence for entry in self.link.after(0, 1 << 30, 1 << 30)]


class Cluster(Protocol):
    """An engine on which several processes are at work."""

    now: float

    def join(self, kept: Retention | None = None) -> Node:
        """One more process; of at most three."""


class SqliteCluster:
    def __init__(self, path: Path) -> None:
        self.now = 1_000_000.0
        self._path = path
        self._bells = bells(3)
        self._links: list[SqliteLink] = []

    def join(self, kept: Retention | None = None) -> Node:
        own = self._bells[len(self._links) % 3]
        doorbell = Doorbell(own, [bell for bell in self._bells if bell != own])
        link = SqliteLink(
            f"sqlite:///{self._path}",
            kept or Retention(),
            lambda: self.now,
            doorbell,
            boot=lambda: self.now,
        )
        link.open()
        self._links.append(link)
        return Node(link)

    def close(self) -> None:
        for link in self._links:
            link.close(is_writer_left=False)
        for bell in self._bells:
            bell.close()


class MemoryCluster:
    def __init__(self) -> None:
        self.now = 1_000_000.0
        self._engine = MemoryEngine()

    def join(self, kept: Retention | None = None) -> Node:
        link = MemoryLink(self._engine, kept, lambda: self.now)
        link.open()
        return Node(link)

    def close(self) -> None:
        pass


class SharedCluster:
    """On an engine for several machines.

    :param engine: makes the links.
    :param url: of an empty history.
    """

    def __init__(self, engine: type[PostgresqlLink | RedisLink], url: str) -> None:
        self._engine = engine
        self._url = url
        self.now = self._begin = 1_000_000.0
        self._links: list[Link] = []

    def join(self, kept: Retention | None = None) -> Node:
        address = address_of(self._url)
        link = self._engine(address, kept or Retention(), ahead=self.ahead)
        link.open()
        self._links.append(link)
        return Node(link)

    @property
    def prefix(self) -> str:
        """The beginning of the keys in Redis."""
        return f"{{{address_of(self._url).name}}}:"

    def ahead(self) -> float:
        """Seconds by which the server's clock counts as fast."""
        return self.now - self._begin

    def close(self) -> None:
        for link in self._links:
            link.close(is_writer_left=False)


class FedCluster:
    """Processes of one machine with a feeder.

    :param bounds: of what they find in its copy.
    """

    def __init__(self, folder: Path, bounds: Bounds) -> None:
        self.now = 1_000_000.0
        self._engine = MemoryEngine()
        self._machine = Machine(folder, self._link(None), bounds)
        self._links: list[Link] = []

    def _link(self, kept: Retention | None) -> MemoryLink:
        return MemoryLink(self._engine, kept, lambda: self.now)

    def join(self, kept: Retention | None = None) -> Node:
        link = self._machine.link_to(self._link(kept))
        link.open()
        self._links.append(link)
        return Node(link)

    def close(self) -> None:
        for link in self._links:
            link.close(is_writer_left=False)
        self._machine.close()


@pytest.fixture(
    params=[
        "memory",
        *[
            pytest.param(name, marks=pytest.mark.minutes)
            for name in ("sqlite", "fed", "fed with little", "postgresql", "valkey")
        ],
    ]
)
def cluster(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Cluster]:
    found: SqliteCluster | MemoryCluster | FedCluster | SharedCluster
    match request.param:
        case "memory":
            found = MemoryCluster()
        case "sqlite":
            found = SqliteCluster(tmp_path / "mercure.db")
        case "fed":
            found = FedCluster(tmp_path, Bounds())
        case "fed with little":
            found = FedCluster(tmp_path, Bounds(updates=2, step=1))
        case "postgresql":
            found = SharedCluster(PostgresqlLink, request.getfixturevalue("postgresql_engine").quick_url())
        case _:
            found = SharedCluster(RedisLink, request.getfixturevalue("valkey_engine").url())
    yield found
    found.close()


@pytest.fixture
def node(cluster: Cluster) -> Node:
    return cluster.join()


class TestAppend:
    def test_an_engine_begins_empty(self, node: Node) -> None:
        position = node.link.position()
        assert position == Position(position.epoch, 0)
        assert node.link.id_at(0) is None
        assert node.link.newest_update() is None
        assert node.everything() == []
        assert node.link.size().updates == 0
        assert not node.link.is_discard_due()
        node.link.check(by_writing=False)

    def test_updates_are_stored_as_they_are(self, node: Node) -> None:
        assert node.append(*ODD) == 1
        assert node.everything() == ODD
        assert node.link.position().last == 6
        assert node.link.size().updates == 6

    def test_sequences_have_no_gaps_whoever_appends(self, cluster: Cluster) -> None:
        nodes = [cluster.join() for _ in range(3)]
        firsts: list[tuple[int, str]] = []

        def publish(node: Node, name: str) -> None:
            for number in range(30):
                ids = [f"{name}{number}", f"{name}{number} too"]
                first = node.append(*[update(id=one) for one in ids])
                firsts.extend((first + offset, one) for offset, one in enumerate(ids))

        threads = [threading.Thread(target=publish, args=one) for one in zip(nodes, "abc", strict=True)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        entries = nodes[0].link.after(0, 1000, 1 << 30)
        assert [entry.sequence for entry in entries] == list(range(1, 181))
        assert [(entry.sequence, entry.update.id) for entry in entries] == sorted(firsts)
        assert {node.link.position() for node in nodes} == {nodes[0].link.position()}

    def test_a_batch_is_stored_once(self, node: Node) -> None:
        node.append(update(id="before"))
        batch = node.batch(update(id="x"), update(id="y"))
        with node.link.turn():
            assert [node.link.append(batch) for _ in range(3)] == [2, 2, 2]
        assert [one.id for one in node.everything()] == ["before", "x", "y"]

    def test_the_outcome_of_the_last_batch_is_known(self, node: Node) -> None:
        node.append(update())
        assert node.link.outcome(node.number) == 1
        assert node.link.outcome(node.number + 1) is None

    def test_the_outcome_is_that_of_the_own_batch(self, cluster: Cluster) -> None:
        one, other = cluster.join(), cluster.join()
        one.append(update())
        other.append(update())
        assert [one.link.outcome(1), other.link.outcome(1)] == [1, 2]

    def test_a_batch_that_cannot_be_stored_leaves_nothing(self, node: Node) -> None:
        change = Presence("key", "record")
        with pytest.raises(Unstorable):
            node.append(update(id="x"), update(data="\ud800"), presence=change)
        assert node.link.outcome(node.number) is None
        assert node.everything() == []
        assert node.append(update()) == 1

    def test_a_history_stays_when_all_processes_have_left(self, cluster: Cluster) -> None:
        first = cluster.join()
        first.append(update(id="x"), update(id="y"))
        first.link.close(is_writer_left=False)
        first.link.close(is_writer_left=False)
        second = cluster.join()
        assert second.link.position().last == 2
        assert second.link.id_at(2) == "y"
        assert second.append(update(id="z")) == 3


ONCE = Update(("a", "b"), "d\0ata", "x", private=True, type="news", retry=5, once=True)


class TestOnce:
    @pytest.mark.parametrize("stored", [replace(one, once=True) for one in ODD], ids=range(len(ODD)))
    def test_an_update_is_stored_once_whoever_stored_it(self, cluster: Cluster, stored: Update) -> None:
        one, other = cluster.join(), cluster.join()
        one.append(stored)
        for node in (one, other, one):
            with pytest.raises(AlreadyStored) as caught:
                node.append(replace(stored))
            assert list(caught.value.positions) == [0]
        assert one.everything() == [stored]
        assert other.append(update(id="next")) == 2

    @pytest.mark.parametrize(
        "other",
        [
            replace(ONCE, topics=("b", "a")),
            replace(ONCE, topics=("a",)),
            replace(ONCE, topics=("a", "b", "c")),
            replace(ONCE, data=""),
            replace(ONCE, data="d\0ATA"),
            replace(ONCE, id="X"),
            replace(ONCE, private=False),
            replace(ONCE, type=None),
            replace(ONCE, type=""),
            replace(ONCE, retry=None),
            replace(ONCE, retry=0),
        ],
    )
    def test_an_update_with_another_value_is_another_one(self, node: Node, other: Update) -> None:
        node.append(ONCE)
        node.append(other)
        assert node.everything() == [ONCE, other]
        for stored in (ONCE, other):
            with pytest.raises(AlreadyStored):
                node.append(stored)

    def test_what_is_not_to_be_stored_once_is_stored_again(self, node: Node) -> None:
        plain = replace(ONCE, once=False)
        node.append(ONCE)
        node.append(plain, plain)
        with pytest.raises(AlreadyStored):
            node.append(ONCE)
        assert node.everything() == [ONCE] * 3

    def test_a_batch_with_such_an_update_is_not_stored(self, node: Node) -> None:
        stored = [update(id=f"{number}") for number in range(0, 200, 2)]
        node.append(*stored)
        batch = [replace(update(id=f"{number}"), once=True) for number in range(200)]
        batch[4] = replace(batch[4], once=False)
        with pytest.raises(AlreadyStored) as caught:
            node.append(*batch)
        assert list(caught.value.positions) == [number for number in range(0, 200, 2) if number != 4]
        assert node.link.outcome(node.number) is None
        assert node.everything() == stored
        assert node.append(*batch[1::2]) == 101
        assert node.sequences() == list(range(1, 201))

    def test_presence_is_not_stored_either(self, cluster: Cluster) -> None:
        node, other = cluster.join(), cluster.join()
        node.append(ONCE)
        presence = [Presence("key", "record")]
        with node.link.turn(), pytest.raises(AlreadyStored) as caught:
            node.link.append(Batch(2, [update(id="event"), ONCE], [True, False], presence))
        assert list(caught.value.positions) == [1]
        assert other.others() == []
        assert [one.id for one in node.everything()] == ["x"]

    def test_an_event_of_the_hub_is_no_update(self, node: Node) -> None:
        event = replace(update("/subscriptions/x", id="x"), once=True)
        node.append(replace(event, once=False), presence=Presence("key", "record"))
        node.append(event)
        assert len(node.everything()) == 2

    def test_what_was_discarded_is_stored_again(self, cluster: Cluster) -> None:
        node = cluster.join(Retention(size=1))
        node.append(ONCE)
        node.append(update(id="newer"))
        cluster.now += DAY
        node.discard()
        assert node.append(ONCE) == 3

    def test_one_of_several_nodes_stores_it(self, cluster: Cluster) -> None:
        nodes = [cluster.join() for _ in range(3)]
        numbers = range(40)
        updates = [replace(update(id=f"{number}", data="x" * 1000), once=True) for number in numbers]

        def publish(node: Node) -> None:
            for number in range(0, len(updates), 4):
                batch = updates[number : number + 4]
                while batch:
                    try:
                        node.append(*batch)
                    except AlreadyStored as known:
                        batch = [one for k, one in enumerate(batch) if k not in set(known.positions)]
                    else:
                        break

        threads = [threading.Thread(target=publish, args=(node,)) for node in nodes]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        entries = nodes[0].link.after(0, 1000, 1 << 30)
        assert sorted(int(entry.update.id) for entry in entries) == list(numbers)
        assert [entry.sequence for entry in entries] == [number + 1 for number in numbers]

    def test_an_id_for_everything_costs_no_more(self, node: Node) -> None:
        others = [replace(ONCE, data=f"{number}") for number in range(MOST_COMPARED)]
        node.append(replace(ONCE, data="earliest"))
        node.append(ONCE)
        node.append(*others)
        assert node.append(ONCE) == MOST_COMPARED + 3  # the first is not among the newest
        for stored in (ONCE, *others[2:]):
            with pytest.raises(AlreadyStored):
                node.append(stored)

    def test_values_that_cannot_be_stored(self, node: Node) -> None:
        with pytest.raises(Unstorable):
            node.append(ONCE, replace(ONCE, data="\ud800"))
        assert node.append(ONCE) == 1


class TestFollow:
    def returns(self, wait: Callable[[], None], then: Callable[[], object]) -> None:
        done = threading.Event()

        def wait_once() -> None:
            wait()
            done.set()

        thread = threading.Thread(target=wait_once)
        thread.start()
        then()
        assert done.wait(PATIENCE)
        thread.join()

    def test_an_append_of_another_process_wakes(self, cluster: Cluster) -> None:
        reads, writes = cluster.join(), cluster.join()
        self.returns(lambda: reads.link.wait(0, 10 * PATIENCE), lambda: writes.append(update()))

    def test_an_append_before_the_wait_wakes_too(self, cluster: Cluster) -> None:
        reads, writes = cluster.join(), cluster.join()
        writes.append(update())
        self.returns(lambda: reads.link.wait(0, 10 * PATIENCE), lambda: None)

    def test_a_wait_can_be_interrupted(self, node: Node) -> None:
        self.returns(lambda: node.link.wait(0, 10 * PATIENCE), node.link.interrupt)

    def test_a_wait_ends(self, node: Node) -> None:
        begin = time.monotonic()
        node.link.wait(0, 0.01)
        assert time.monotonic() - begin < PATIENCE

    def test_entries_are_bounded_by_number_and_by_size(self, node: Node) -> None:
        node.append(*[update(data="x" * 100) for _ in range(10)])
        sequences = [entry.sequence for entry in node.link.after(3, 4, 1 << 30)]
        assert sequences == [4, 5, 6, 7]
        assert [entry.sequence for entry in node.link.after(3, 100, 250)] == [4, 5, 6]
        assert [entry.sequence for entry in node.link.after(3, 100, 1)] == [4]
        assert node.link.after(10, 100, 1 << 30) == []

    def test_events_are_told_from_updates(self, node: Node) -> None:
        node.append(update(id="x"))
        node.announce("key", "record")
        assert [entry.is_event for entry in node.link.after(0, 10, 1 << 30)] == [False, True]
        assert node.link.newest_update() == "x"
        assert node.link.size().updates == 1


class TestRead:
    @pytest.fixture
    def node(self, node: Node) -> Node:
        node.append(*[update("abc"[n % 3], f"all/{n}", id=str(n + 1)) for n in range(30)])
        return node

    def read(self, node: Node, *topics: str, after: int = 0, upto: int = END, limit: int = 1000) -> list[int]:
        page = node.link.read(after, upto, topics, limit)
        return [entry.sequence for entry in page.entries]

    def test_a_part(self, node: Node) -> None:
        for after, upto, expected in [(10, 13, [11, 12, 13]), (10, 10, []), (13, 10, []), (30, 99, [])]:
            page = node.link.read(after, upto, None, 100)
            assert [entry.sequence for entry in page.entries] == expected
            assert page.reached == upto

    def test_exact_topics(self, node: Node) -> None:
        assert self.read(node, "b") == list(range(2, 31, 3))
        assert self.read(node, "b", "all/0") == [1, *range(2, 31, 3)]
        assert self.read(node, "b", "all/1", "all/4") == list(range(2, 31, 3))
        assert self.read(node, "a", after=4, upto=13) == [7, 10, 13]
        assert self.read(node, "nothing") == self.read(node) == []

    @pytest.mark.parametrize("unknown", [0, 63, 127, 128, 999])
    def test_any_number_of_topics(self, node: Node, unknown: int) -> None:
        assert self.read(node, "a", *[f"unknown/{n}" for n in range(unknown)]) == list(range(1, 31, 3))

    def test_too_many_topics_may_leave_out_nothing(self, node: Node) -> None:
        topics = [f"unknown/{n}" for n in range(1000)]
        assert set(self.read(node, "a", *topics)) >= set(range(1, 31, 3))

    @pytest.mark.parametrize("topics", [None, ("a",), ("a", "b"), ("a", "b", "c", "all/7")])
    @pytest.mark.parametrize("limit", [1, 4, 100])
    def test_pages_put_together_are_the_whole(
        self, node: Node, topics: tuple[str, ...] | None, limit: int
    ) -> None:
        after = 0
        entries: list[Entry] = []
        while after < 28:
            page = node.link.read(after, 28, topics, limit)
            assert len(page.entries) <= limit
            assert page.reached > after
            entries += page.entries
            after = page.reached
        assert entries == list(node.link.read(0, 28, topics, 1000).entries)

    @pytest.mark.parametrize("limit", [1, 2, 7, 1000])
    def test_topics(self, node: Node, limit: int) -> None:
        topics: list[str] = []
        beyond, more = None, True
        while more:
            page = node.link.topics(3, 6, beyond, limit)
            topics += page.topics
            beyond, more = page.beyond, page.beyond is not None
        assert sorted(topics) == ["a", "all/3", "all/4", "all/5", "b", "c"]


class TestNewest:
    def test_of_each_topic_the_newest_first(self, node: Node) -> None:
        node.append(*[update("abc"[n % 3], f"all/{n}", id=str(n + 1)) for n in range(30)])
        wanted = [("a", END), ("nothing", END), ("b", 20), ("all/7", END), ("all/7", 7)]
        found = node.link.newest_of(wanted, 2)
        assert [[one.sequence for one in some] for some in found] == [[28, 25], [], [20, 17], [8], []]
        assert [one.topics for one in found[0]] == [("a", "all/27"), ("a", "all/24")]
        assert [[one.sequence for one in some] for some in node.link.newest_of(wanted[:1], 1)] == [[28]]
        assert node.link.newest_of([], 1) == []

    def test_an_outline_tells_what_is_known_without_the_data(self, node: Node) -> None:
        node.append(*ODD)
        for number, one in enumerate(ODD, 1):
            (outline,) = node.link.newest_of([(one.topics[0], number)], 1)[0]
            assert (outline.sequence, outline.topics, outline.private) == (number, one.topics, one.private)
            assert outline.size == len(one.data.encode())

    def test_events_do_not_count(self, node: Node) -> None:
        node.announce("key", "record")
        assert node.link.newest_of([("/subscriptions/key", END)], 1) == [[]]

    def test_of_many_topics(self, node: Node) -> None:
        topics = [f"t/{n}" for n in range(600)]
        node.append(*[update(topic) for topic in topics])
        found = node.link.newest_of([(topic, END) for topic in topics], 3)
        assert [[one.sequence for one in some] for some in found] == [[n + 1] for n in range(600)]

    def test_entries_at_sequences(self, node: Node) -> None:
        node.append(*[update(id=str(n + 1)) for n in range(20)])
        entries = node.link.at([2, 3, 17, 25])
        assert [(entry.sequence, entry.update.id) for entry in entries] == [(2, "2"), (3, "3"), (17, "17")]
        assert node.link.at([]) == node.link.at([30]) == []

    def test_large_entries_at_sequences_come_one_after_the_other(self, node: Node) -> None:
        node.append(*[update(data=str(n) * 200_000) for n in range(1, 6)])
        left, found = [1, 2, 3, 5], list[int]()
        while left:
            some = node.link.at(left)
            assert 0 < len(some) <= 2
            found += [entry.sequence for entry in some]
            left = [one for one in left if one > found[-1]]
        assert found == [1, 2, 3, 5]


class TestResume:
    @pytest.fixture
    def node(self, node: Node) -> Node:
        node.append(*[update("ab"[n % 2], id=str(n + 1)) for n in range(10)], update(id="3"))
        return node

    def test_it_is_after_the_earliest_update_with_the_id(self, node: Node) -> None:
        (found,) = node.link.resume([Resume("3", 11, None, 100)])
        assert found.after == 3
        assert found.page is not None
        assert [entry.sequence for entry in found.page.entries] == list(range(4, 12))
        assert found.beginning == found.page.beginning

    @pytest.mark.parametrize("event_id", ["", "30", "3\0", "x'"])
    def test_an_id_that_is_not_there(self, node: Node, event_id: str) -> None:
        (found,) = node.link.resume([Resume(event_id, 11, None, 100)])
        assert (found.after, found.page) == (None, None)
        assert found.beginning == node.link.beginning(11)

    def test_answers_are_in_order(self, node: Node) -> None:
        ids = ["5", "no", "1"]
        found = node.link.resume([Resume(one, 11, ("a",), 2) for one in ids])
        assert [one.after for one in found] == [5, None, 1]
        assert node.link.resume([]) == []

    def test_only_wanted_topics_are_in_the_page(self, node: Node) -> None:
        (found,) = node.link.resume([Resume("1", 11, ("a",), 2)])
        assert found.page is not None
        assert [entry.sequence for entry in found.page.entries] == [3, 5]
        assert found.page.reached == 5

    def test_without_topics_a_page_has_all_or_is_not_read(self, node: Node) -> None:
        whole, part, nothing = node.link.resume(
            [Resume("7", 11, None, 4), Resume("6", 11, None, 4), Resume("5", 5, None, 4)]
        )
        assert whole.page is not None
        assert whole.page.reached == 11
        assert (part.after, part.page) == (6, None)
        assert (nothing.after, nothing.page) == (5, None)


class TestDiscard:
    def test_the_newest_updates_are_kept(self, cluster: Cluster) -> None:
        node = cluster.join(Retention(size=3))
        node.append(*[update() for _ in range(10)])
        node.announce("key", "record")
        assert node.link.is_discard_due()
        node.discard()
        assert node.sequences() == [8, 9, 10, 11]
        beginning = node.link.beginning(11)
        assert (beginning.updates, beginning.events) == (8, 1)
        assert node.link.read(0, 11, None, 10).beginning == beginning
        assert node.link.position().last == 11
        assert node.link.size().updates == 3

    def test_updates_are_discarded_by_age(self, cluster: Cluster) -> None:
        node = cluster.join(Retention(max_age=3600.0))
        node.append(update())
        cluster.now += 3000
        node.append(update())
        cluster.now += 1000
        assert node.link.is_discard_due()
        node.discard()
        assert node.sequences() == [2]

    def test_sequences_go_on_when_nothing_is_left(self, cluster: Cluster) -> None:
        node = cluster.join(Retention(max_age=3600.0))
        node.append(update(), update())
        cluster.now += 4000
        node.link.is_discard_due()
        node.discard()
        assert node.sequences() == []
        assert node.append(update()) == 3

    def test_events_go_after_a_day(self, cluster: Cluster, node: Node) -> None:
        node.append(update())
        node.announce("key", "record")
        cluster.now += DAY + 60
        assert node.link.is_discard_due()
        node.discard()
        assert node.sequences() == [1]
        assert node.others() == []


class TestPresence:
    def test_the_others_see_a_record_until_it_ends(self, cluster: Cluster) -> None:
        one, other = cluster.join(), cluster.join()
        one.announce("key", "record")
        assert (one.others(), other.others()) == ([], ["record"])
        one.announce("key", "another")
        assert other.others() == ["another"]
        one.announce("key", None)
        assert other.others() == []

    def test_changes_of_one_batch_are_made_in_order(self, cluster: Cluster) -> None:
        one, other = cluster.join(), cluster.join()
        changes = [Presence("a", "1"), Presence("b", "2"), Presence("a", None), Presence("b", "3")]
        with one.link.turn():
            one.link.append(Batch(1, [update() for _ in changes], [True] * len(changes), changes))
        assert other.others() == ["3"]

    @pytest.mark.parametrize("limit", [1, 2, 3, 100])
    def test_they_come_in_pages(self, cluster: Cluster, limit: int) -> None:
        one, other = cluster.join(), cluster.join()
        for key in ("e", "b", "a", "d", "c"):
            one.announce(key, f"of {key}", value="ab" if key in "ab" else "")
        other.announce("aa", "its own", value="ab")
        for value, expected in [(None, "abcde"), ("ab", "ab"), ("unknown", "")]:
            records: list[str] = []
            beyond, more = None, True
            while more:
                page = other.link.others(value, beyond, limit)
                assert len(page.records) <= limit
                records += page.records
                beyond, more = page.beyond, page.beyond is not None
            assert records == [f"of {key}" for key in expected]

    def test_a_value_is_compared_as_it_is(self, cluster: Cluster) -> None:
        one, other = cluster.join(), cluster.join()
        values = ["a*", "a", "A", "a'b", "\N{SNOWMAN}", "x" * 512, "", "%"]
        for number, value in enumerate(values):
            one.announce(str(number), value or "empty", value=value)
        for value in values:
            assert list(other.link.others(value, None, 100).records) == [value or "empty"]

    def test_adoption_goes_in_steps(self, cluster: Cluster) -> None:
        dies, adopts = cluster.join(), cluster.join()
        for key in "abcde":
            dies.announce(key, key)
        adopts.announce("own", "own")
        dies.link.close(is_writer_left=False)
        steps = [adopts.link.adopt(2) for _ in range(4)]
        assert [len(step) for step in steps] == [2, 2, 1, 0]
        assert sorted(record for step in steps for record in step) == list("abcde")

    def test_what_a_dead_process_adopted_is_adopted_again(self, cluster: Cluster) -> None:
        dies, adopts, other = (cluster.join() for _ in range(3))
        dies.announce("key", "record")
        dies.link.close(is_writer_left=False)
        assert adopts.link.adopt(100) == ["record"]
        adopts.link.close(is_writer_left=False)
        assert other.link.adopt(100) == ["record"]

    def test_a_lease_of_a_living_process_is_kept(self, cluster: Cluster, node: Node) -> None:
        assert [node.link.renew(), node.link.renew()] == [True, True]
        assert cluster.join().link.adopt(100) == []

    def test_one_process_adopts_what_a_dead_one_left(self, cluster: Cluster) -> None:
        dies, living, adopts = (cluster.join() for _ in range(3))
        dies.announce("of the dead", "dead")
        living.announce("of the living", "living")
        assert adopts.link.adopt(100) == []
        dies.link.close(is_writer_left=False)
        assert adopts.link.adopt(100) == ["dead"]
        assert living.link.adopt(100) == adopts.link.adopt(100) == []
        assert living.others() == ["dead"]

    def test_one_that_leaves_begins_anew_and_others_adopt_what_it_had(self, cluster: Cluster) -> None:
        leaves, other = cluster.join(), cluster.join()
        leaves.append(update(), presence=Presence("old", "old record"))
        leaves.link.leave()
        if leaves.link.renew():
            assert isinstance(leaves.link, SqliteLink)  # which loses nothing
            return
        leaves.append(update(), presence=Presence("new", "new record"))
        assert other.link.adopt(10) == ["old record"]
        assert leaves.link.adopt(10) == []
        assert other.link.others(None, None, 10).records == ["new record"]
        assert leaves.link.others(None, None, 10).records == ["old record"]

    def test_a_process_that_starts_after_all_have_died_adopts_everything(self, cluster: Cluster) -> None:
        dies = cluster.join()
        dies.announce("key", "record")
        dies.link.close(is_writer_left=False)
        after = cluster.join()
        after.announce("own", "own")
        assert after.link.adopt(100) == ["record"]


def test_a_check_changes_nothing(node: Node) -> None:
    node.append(update(id="x"))
    for by_writing in (False, True):
        node.link.check(by_writing=by_writing)
    assert node.sequences() == [1]
    assert node.append(update()) == 2


def revocation(name: str, topic: str = "", before: float = 100.0, until: float = 2000.0) -> Revocation:
    return Revocation(name.encode().ljust(16, b"\0"), topic, before, until)


def revoked(node: Node, after: int = 0, limit: int = 100) -> list[Revocation]:
    return list(node.link.revocations(after, limit).revocations)


class TestRevocations:
    def test_an_engine_has_none_at_first(self, node: Node) -> None:
        found = node.link.revocations(0, 10)
        assert (list(found.revocations), found.reached, found.newest) == ([], 0, 0)

    def test_they_are_kept_as_they_are(self, node: Node) -> None:
        some = [
            revocation("a", before=1_732_641_000.123456, until=2.0**53),
            revocation("a", "orders/1"),
            revocation("\xff\xfe", "\N{GRINNING FACE} it's \"quoted\\ %s" + "x" * 2000, before=0.0),
        ]
        node.link.revoke(some, 0.0)
        assert revoked(node) == some

    def test_the_others_read_what_is_new_in_order(self, cluster: Cluster) -> None:
        one, other = cluster.join(), cluster.join()
        one.link.revoke([revocation("a"), revocation("b")], 0.0)
        reached = other.link.revocations(0, 100).reached
        assert revoked(other, reached) == []
        one.link.revoke([revocation("c")], 0.0)
        other.link.revoke([revocation("a", until=3000.0)], 0.0)
        assert revoked(one, reached) == [revocation("c"), revocation("a", until=3000.0)]
        assert one.link.revocations(reached, 100).newest > reached

    def test_they_come_in_pages(self, node: Node) -> None:
        some = [revocation(str(number)) for number in range(7)]
        node.link.revoke(some, 0.0)
        found: list[Revocation] = []
        reached, newest = 0, -1
        while reached != newest:
            page = node.link.revocations(reached, 3)
            assert len(page.revocations) <= 3
            found += page.revocations
            reached, newest = page.reached, page.newest
        assert found == some

    def test_several_of_one_user_are_one(self, node: Node) -> None:
        node.link.revoke([revocation("a", before=100.0, until=5000.0)], 0.0)
        node.link.revoke([revocation("a", before=300.0, until=2000.0)], 0.0)
        node.link.revoke([revocation("a", before=200.0, until=3000.0)], 0.0)
        assert revoked(node) == [revocation("a", before=300.0, until=5000.0)]

    def test_those_whose_time_is_over_are_discarded(self, node: Node) -> None:
        node.link.revoke([revocation("a", until=10.0), revocation("b", until=30.0)], 0.0)
        newest = node.link.revocations(0, 100).newest
        node.link.revoke([revocation("c", until=30.0)], 20.0)
        assert revoked(node) == [revocation("b", until=30.0), revocation("c", until=30.0)]
        assert revoked(node, newest) == [revocation("c", until=30.0)]

    def test_a_version_is_never_given_twice(self, node: Node) -> None:
        node.link.revoke([revocation("a", until=10.0)], 0.0)
        reached = node.link.revocations(0, 100).reached
        node.link.revoke([revocation("b")], 20.0)
        assert revoked(node, reached) == [revocation("b")]

    def test_those_of_several_processes_at_once_are_all_read(self, cluster: Cluster) -> None:
        nodes = [cluster.join() for _ in range(3)]
        found: set[bytes] = set()
        is_over = threading.Event()

        def write(node: Node, name: str) -> None:
            for number in range(20):
                node.link.revoke([revocation(f"{name}{number}")], 0.0)

        def read() -> None:
            reached, is_last = 0, False
            while not is_last:
                is_last = is_over.is_set()
                page = nodes[0].link.revocations(reached, 100)
                found.update(one.name for one in page.revocations)
                reached = page.reached

        reader = threading.Thread(target=read)
        threads = [threading.Thread(target=write, args=one) for one in zip(nodes, "abc", strict=True)]
        for thread in [reader, *threads]:
            thread.start()
        for thread in threads:
            thread.join()
        is_over.set()
        reader.join()
        assert len(found) == 60
