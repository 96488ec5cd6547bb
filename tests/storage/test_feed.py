"""A feeder and its workers: one order from one copy, whatever dies, and nothing of a history that is gone."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from mercure_hub.protocol.update import Update
from mercure_hub.storage.feed.database import Bounds
from mercure_hub.storage.interface import Batch, Break, Commit, Presence, Resume
from mercure_hub.storage.store import Store
from tests.storage.fed import Machine, SettledLink
from tests.storage.log import no_thread_left, until, update
from tests.storage.memory import MemoryEngine, MemoryLink

pytestmark = pytest.mark.minutes


class Worker:
    """A process with a store that reads a copy; all that it collects is kept."""

    def __init__(self, link: SettledLink) -> None:
        self.link = link
        self.tickets = 0
        self.is_crowded = False
        self.store: Store[int] = Store(link, link)
        self.store.crowded_pause = 0.001
        self.commits: list[Commit[int]] = []
        self.store.open(self._collect, lambda: self.is_crowded)

    def _collect(self) -> None:
        self.commits += self.store.collect()

    def publish(self, *ids: str) -> None:
        """Store updates, one after the other."""
        for one in ids:
            self.tickets += 1
            self.store.append([update(id=one)], self.tickets)
        until(lambda: self.tickets in [ticket for one in self.commits for ticket in one.tickets])
        assert [one.error for one in self.commits if one.error is not None] == []

    @property
    def ids(self) -> list[str]:
        return [entry.update.id for commit in self.commits for entry in commit.entries]

    @property
    def sequences(self) -> list[int]:
        return [entry.sequence for commit in self.commits for entry in commit.entries]

    @property
    def breaks(self) -> list[Break]:
        return [one.broken for one in self.commits if one.broken is not None]


class Site:
    """An engine, a machine with a feeder, and a node of another machine."""

    def __init__(self, folder: Path, bounds: Bounds | None = None) -> None:
        self.engine = MemoryEngine()
        self.fed_by = MemoryLink(self.engine)
        self.machine = Machine(folder, self.fed_by, bounds)
        self.workers: list[Worker] = []
        self.elsewhere = MemoryLink(self.engine)
        self.elsewhere.open()
        self._numbers = 0

    def work(self, engine: MemoryLink | None = None, number: int | None = None) -> Worker:
        """Start a worker.

        :param engine: its link to it.
        """
        self.workers.append(Worker(self.machine.link_to(engine or MemoryLink(self.engine), number)))
        return self.workers[-1]

    def store(self, *ids: str) -> None:
        """Store updates on another machine."""
        self.append(*[update(id=one) for one in ids])

    def append(self, *updates: Update) -> None:
        self._numbers += 1
        self.elsewhere.append(Batch(self._numbers, updates, [False] * len(updates), ()))

    def restart_feeder(self, meanwhile: Callable[[], None] = lambda: None) -> None:
        self.machine.stop()
        meanwhile()
        self.machine.start(MemoryLink(self.engine))

    def close(self) -> None:
        for worker in self.workers:
            worker.store.close()
        self.machine.close()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with no_thread_left():
        found = Site(tmp_path)
        yield found
        found.close()


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Site]:
    """One whose copy has three updates."""
    with no_thread_left():
        found = Site(tmp_path, Bounds(updates=3, step=1))
        yield found
        found.close()


class TestOrder:
    def test_all_workers_see_one_order_whoever_writes(self, site: Site) -> None:
        workers = [site.work() for _ in range(3)]
        writers = [
            threading.Thread(target=worker.publish, args=[f"{name}{number}" for number in range(200)])
            for name, worker in zip("abc", workers, strict=True)
        ]
        for writer in writers:
            writer.start()
        for number in range(50):
            site.store(f"of another machine {number}")
        for writer in writers:
            writer.join()
        until(lambda: all(len(worker.ids) == 650 for worker in workers))
        assert workers[0].ids == workers[1].ids == workers[2].ids
        for worker in workers:
            assert all(after == before + 1 for before, after in pairwise(worker.sequences))

    def test_a_worker_delivers_its_own_updates_once(self, site: Site) -> None:
        worker = site.work()
        for number in range(50):
            worker.publish(str(number))
        until(lambda: len(worker.ids) >= 50)
        worker.store.catch_up()
        assert worker.ids == [str(number) for number in range(50)]

    def test_a_worker_begins_where_the_copy_ends(self, site: Site) -> None:
        site.store("before")
        until(lambda: site.machine.state.last == 1)
        worker = site.work()
        site.store("after")
        until(lambda: worker.ids == ["after"])

    def test_catching_up_waits_for_what_the_worker_has_stored(self, site: Site) -> None:
        worker = site.work()
        worker.link.settles = False
        site.restart_feeder(lambda: worker.publish("x"))
        worker.store.catch_up()
        assert worker.ids == ["x"]

    def test_catching_up_does_not_wait_for_ever(self, site: Site) -> None:
        worker = site.work()
        worker.link.settles = False
        worker.store.copy_timeout = 0.01

        def meanwhile() -> None:
            worker.publish("x")
            worker.store.catch_up()
            assert worker.ids == []

        site.restart_feeder(meanwhile)
        until(lambda: worker.ids == ["x"])


class TestFeeder:
    def test_workers_go_on_when_it_is_replaced(self, site: Site) -> None:
        worker = site.work()
        worker.link.settles = False
        worker.publish("1")
        until(lambda: worker.ids == ["1"])

        def meanwhile() -> None:
            worker.publish("2")
            site.store("3")

        site.restart_feeder(meanwhile)
        site.store("4")
        until(lambda: worker.ids == ["1", "2", "3", "4"])
        assert worker.breaks == []

    def test_it_goes_on_after_a_death_before_it_could_tell(self, site: Site) -> None:
        """The copy has more than the workers were told."""
        worker = site.work()
        site.store("1", "2")
        until(lambda: worker.ids == ["1", "2"])
        site.restart_feeder(lambda: site.machine.state.advance(1))
        assert site.machine.state.last == 2

    def test_it_begins_anew_after_a_death_while_it_did_that(self, site: Site) -> None:
        worker = site.work()
        site.store("1")
        until(lambda: worker.ids == ["1"])

        def meanwhile() -> None:
            site.machine.state.begin_anew()
            assert not site.machine.state.is_steady
            site.store("2")

        site.restart_feeder(meanwhile)
        site.store("3")
        until(lambda: worker.ids == ["1", "2", "3"])
        assert worker.breaks == []

    def test_a_worker_waits_after_a_death_while_it_began_anew(self, site: Site) -> None:
        """Although there is more than the worker has seen: nobody may read it now."""
        site.store("1")
        until(lambda: site.machine.state.last == 1)
        link = site.machine.link_to(MemoryLink(site.engine), None)
        link.open()
        link.wait(0, 60)  # returns at once

        def meanwhile() -> None:
            link.wait(1, 0)  # for what the feeder has rung for
            site.machine.state.begin_anew()
            began = time.monotonic()
            link.wait(0, 0.2)
            assert time.monotonic() - began >= 0.2

        site.restart_feeder(meanwhile)
        link.close(is_writer_left=False)

    def test_a_worker_that_is_behind_a_new_copy_reads_from_the_engine(self, site: Site) -> None:
        worker = site.work()
        site.machine.stop()
        site.store("1", "2")
        site.machine.path.unlink()
        site.machine.start(MemoryLink(site.engine))
        assert site.machine.state.base == 2
        site.store("3")
        until(lambda: worker.ids == ["1", "2", "3"])
        assert worker.breaks == []

    def test_workers_are_told_how_far_it_is_behind(self, site: Site) -> None:
        worker = site.work()
        now = time.monotonic()
        assert worker.store.lag(now).seconds == 0.0
        site.machine.stop()
        assert not worker.store.lag(time.monotonic()).is_long
        assert worker.store.lag(time.monotonic() + 60.0).is_long
        site.machine.start(MemoryLink(site.engine))
        assert worker.store.lag(time.monotonic()).seconds == 0.0

    def test_workers_are_told_that_it_cannot_reach_the_engine(self, site: Site) -> None:
        worker = site.work()
        assert not worker.store.lag(time.monotonic()).is_away
        site.fed_by.is_away = True
        until(lambda: worker.store.lag(time.monotonic()).is_away)
        site.fed_by.is_away = False
        until(lambda: not worker.store.lag(time.monotonic()).is_away)

    def test_it_can_forget_everything(self, site: Site) -> None:
        worker = site.work()
        site.store("1", "2")
        until(lambda: worker.ids == ["1", "2"])
        assert site.machine.feeder is not None
        site.machine.feeder.forget()
        until(lambda: site.machine.state.base == 2)
        site.store("3")
        until(lambda: worker.ids == ["1", "2", "3"])
        assert worker.breaks == []


class TestBreaks:
    def wait_for_break(self, site: Site, worker: Worker) -> None:
        site.fed_by.is_away = True  # a failure makes the feeder look
        until(lambda: worker.store.lag(time.monotonic()).is_away)
        site.fed_by.is_away = False
        until(lambda: worker.breaks)

    def test_a_rewound_history_is_one_for_the_workers_too(self, site: Site) -> None:
        worker = site.work()
        site.store("1", "2", "3")
        until(lambda: len(worker.ids) == 3)
        site.engine.rewind(1)
        self.wait_for_break(site, worker)
        assert worker.breaks == [Break.REWOUND]
        site.store("two", "three", "four")
        until(lambda: worker.ids == ["1", "2", "3", "two", "three", "four"])
        assert worker.sequences == [1, 2, 3, 2, 3, 4]

    def test_a_rewound_history_that_has_grown_again(self, site: Site) -> None:
        worker = site.work()
        site.store("1", "2", "3")
        until(lambda: len(worker.ids) == 3)

        def meanwhile() -> None:
            site.engine.rewind(1)
            site.store("two", "three", "four")

        site.restart_feeder(meanwhile)
        until(lambda: worker.breaks == [Break.REWOUND])
        site.store("five")
        until(lambda: worker.ids[-1] == "five")

    def test_a_worker_that_has_nothing_of_what_was_lost_goes_on(self, site: Site) -> None:
        worker = site.work()
        site.store("1")
        until(lambda: worker.ids == ["1"])

        def meanwhile() -> None:
            site.store("2")
            site.engine.rewind(1)

        site.restart_feeder(meanwhile)
        site.store("two")
        until(lambda: worker.ids == ["1", "two"])
        assert worker.breaks == []

    def test_another_history_is_one_for_the_workers_too(self, site: Site) -> None:
        worker = site.work()
        site.store("1")
        until(lambda: worker.ids == ["1"])
        site.engine.epoch = "second"
        self.wait_for_break(site, worker)
        assert worker.breaks == [Break.REPLACED]
        site.store("2")
        until(lambda: worker.ids == ["1", "2"])

    def test_a_history_that_was_trimmed_before_the_feeder_read_it(self, site: Site) -> None:
        worker = site.work()
        site.store("1")
        until(lambda: worker.ids == ["1"])

        def meanwhile() -> None:
            site.store("2", "3", "4")
            del site.engine.stored[1:3]
            site.engine.gone[False] = 3

        site.restart_feeder(meanwhile)
        until(lambda: worker.ids == ["1", "4"])
        assert worker.breaks == [Break.TRIMMED]


class TestReading:
    def test_what_is_too_old_for_the_copy_comes_from_the_engine(self, small: Site) -> None:
        worker = small.work()
        small.store(*[f"urn:uuid:{number}" for number in range(1, 11)])
        until(lambda: small.machine.state.base == 7)
        for first in range(1, 10):
            (found,) = worker.store.resume([Resume(f"urn:uuid:{first}", 10, None, 100)])
            assert found.after == first
            assert found.page is not None
            assert [one.sequence for one in found.page.entries] == list(range(first + 1, 11))
            assert not found.beginning.lacks(first, events=True)

    def test_what_is_in_the_copy_needs_no_engine(self, small: Site) -> None:
        engine = MemoryLink(small.engine)
        worker = small.work(engine)
        small.store(*[f"urn:uuid:{number}" for number in range(1, 11)])
        until(lambda: small.machine.state.base == 7)
        engine.is_away = True
        (found,) = worker.store.resume([Resume("urn:uuid:8", 10, ("a",), 100)])
        assert found.page is not None
        assert [one.sequence for one in found.page.entries] == [9, 10]
        assert worker.store.newest() == (10, "urn:uuid:10")
        assert worker.store.newest_update() == "urn:uuid:10"
        engine.is_away = False

    def test_an_id_that_is_not_in_the_copy_yet_is_not_unknown(self, site: Site) -> None:
        worker = site.work()

        def meanwhile() -> None:
            site.store("urn:uuid:1")
            (found,) = worker.store.resume([Resume("urn:uuid:1", 0, None, 100)])
            assert (found.after, found.page) == (1, None)

        site.restart_feeder(meanwhile)

    def test_the_earliest_of_updates_with_one_id_counts(self, small: Site) -> None:
        worker = small.work()
        small.store("same", "1", "2", "3", "same", "5")
        until(lambda: small.machine.state.base == 3)
        (found,) = worker.store.resume([Resume("same", 6, None, 100)])
        assert found.after == 1

    def test_topics_of_a_copy_that_is_trimmed_between_two_pages(self, small: Site) -> None:
        worker = small.work()
        small.append(*[update(topic) for topic in "abc"])
        until(lambda: small.machine.state.last == 3)
        first = worker.store.topics(0, 3, None, 2)
        assert first.beyond is not None
        small.store("4")
        until(lambda: small.machine.state.base == 1)
        topics = list(first.topics)
        beyond: int | None = first.beyond
        while beyond is not None:
            page = worker.store.topics(0, 3, beyond, 2)
            topics += page.topics
            beyond = page.beyond
        assert set(topics) == set("abc")

    def test_a_slow_worker_reads_on_from_the_engine(self, small: Site) -> None:
        worker = small.work()
        worker.is_crowded = True
        small.store("0")
        until(lambda: worker.ids == ["0"] or small.machine.state.last == 1)
        small.store(*[str(number) for number in range(1, 20)])
        until(lambda: small.machine.state.base == 17)
        worker.is_crowded = False
        until(lambda: worker.ids == [str(number) for number in range(20)])
        assert worker.breaks == []


class TestPresence:
    def announce(self, worker: Worker, key: str) -> None:
        worker.tickets += 1
        worker.store.append([update(id=key)], worker.tickets, Presence(key, f"of {key}"))
        until(lambda: key in worker.ids)

    def test_a_worker_adopts_at_once_what_the_one_before_it_left(self, site: Site) -> None:
        self.announce(site.work(number=0), "dies")
        other = site.work(number=1)
        self.announce(other, "lives")
        assert other.store.adopt(10) == []
        assert site.work(number=0).store.adopt(10) == ["of dies"]

    def test_a_worker_with_a_new_lease_is_found_under_its_new_name(self, site: Site) -> None:
        engine = MemoryLink(site.engine)
        worker = site.work(engine, number=0)
        before = engine.node
        site.engine.bury(int(before))
        assert not worker.link.renew()
        assert site.machine.state.node_of(0) == engine.node != before
