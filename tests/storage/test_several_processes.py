"""Several processes on one log, here as several transports: one order, nothing twice, nothing missing."""

from __future__ import annotations

import errno
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from itertools import pairwise
from pathlib import Path

import pytest

from mercure_hub.protocol.errors import StorageError
from mercure_hub.storage.doorbell import Doorbell, bells
from mercure_hub.storage.interface import Entry, Presence, Retention
from mercure_hub.storage.sqlite.link import Appender, SqliteLink
from mercure_hub.storage.sqlite.locks import Seats
from mercure_hub.storage.store import Store
from tests.storage.log import (
    Log,
    beside,
    broken,
    leave_presence,
    no_thread_left,
    until,
    update,
    waiting_for_locks,
)

pytestmark = pytest.mark.minutes

PATIENCE = 30.0


class Member(Log):
    """A transport that takes note of all that is handed over."""

    def __init__(self, path: Path, kept: Retention | None, doorbell: Doorbell) -> None:
        super().__init__(path, kept, doorbell)
        self.entries: list[Entry] = []
        self.answered: list[int] = []
        self.sizes: list[int] = []
        self.is_crowded = False
        self._changed = threading.Condition()

    def open(self) -> None:
        self.store.open(self._take, lambda: self.is_crowded)

    def _take(self) -> None:
        with self._changed:
            for commit in self.store.collect():
                self.entries += commit.entries
                self.sizes.append(sum(len(entry.update.data) for entry in commit.entries))
                self.answered += commit.tickets
                assert commit.error is None
            self._changed.notify_all()

    def until(self, condition: Callable[[], bool]) -> None:
        with self._changed:
            assert self._changed.wait_for(condition, PATIENCE)

    def has(self, entries: int, answers: int = 0) -> None:
        """Wait for so many of each."""
        self.until(lambda: len(self.entries) >= entries and len(self.answered) >= answers)

    @property
    def ids(self) -> list[str]:
        return [entry.update.id for entry in self.entries]


@contextmanager
def several(path: Path, count: int, kept: Retention | None = None) -> Iterator[list[Member]]:
    all_bells = bells(count)
    members = [
        Member(path, kept, Doorbell(bell, [other for other in all_bells if other != bell]))
        for bell in all_bells
    ]
    with no_thread_left():
        for member in members:
            member.open()
        try:
            yield members
        finally:
            for member in members:
                member.close()
            for bell in all_bells:
                bell.close()


def test_each_gets_what_the_others_write(tmp_path: Path) -> None:
    with several(tmp_path / "hub.db", 3) as members:
        for number, member in enumerate(members):
            member.store.append((update(id=f"of {number}"),), number)
            for other in members:
                other.has(number + 1)
        for number, member in enumerate(members):
            assert member.ids == ["of 0", "of 1", "of 2"]
            assert member.answered == [number]


def test_all_see_one_order_whoever_writes(tmp_path: Path) -> None:
    with several(tmp_path / "hub.db", 3) as members:

        def write(member: Member, name: str) -> None:
            for number in range(400):
                member.store.append((update(id=f"{name}{number}"),), number)

        writers = [
            threading.Thread(target=write, args=[member, name])
            for member, name in zip(members, "abc", strict=True)
        ]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
        for member in members:
            member.has(1200, 400)
        assert members[0].ids == members[1].ids == members[2].ids
        for member in members:
            sequences = [entry.sequence for entry in member.entries]
            assert all(after == before + 1 for before, after in pairwise(sequences))
            assert member.answered == list(range(400))


def test_large_updates_come_too(tmp_path: Path) -> None:
    with several(tmp_path / "hub.db", 2) as (writer, reader):
        for number in range(45):
            writer.store.append((update(id=str(number), data="x" * 100_000),), number)
        reader.until(lambda: len(reader.entries) == 45)
        assert reader.ids == [str(number) for number in range(45)]


def test_who_was_away_reads_large_updates_in_parts(tmp_path: Path) -> None:
    with several(tmp_path / "hub.db", 2) as (writer, reader):
        reader.is_crowded = True
        for number in range(60):
            writer.store.append((update(id=str(number), data="x" * 500_000),), number)
        writer.has(60, 60)
        assert reader.entries == []
        reader.is_crowded = False
        reader.has(60)
        assert reader.ids == writer.ids
        assert max(reader.sizes) <= 14_000_000


def test_who_comes_later_begins_at_the_end(tmp_path: Path) -> None:
    all_bells = bells(2)
    first = Member(tmp_path / "hub.db", None, Doorbell(all_bells[0], all_bells[1:]))
    first.open()
    first.store.append((update(id="before"),), 0)
    first.until(lambda: len(first.entries) == 1)
    second = Member(tmp_path / "hub.db", None, Doorbell(all_bells[1], all_bells[:1]))
    assert second.store.open(second._take) == (1, "before")
    first.store.append((update(id="after"),), 1)
    second.until(lambda: len(second.entries) == 1)
    assert second.ids == ["after"]
    first.close()
    second.close()
    for bell in all_bells:
        bell.close()


def test_a_ring_brings_the_updates_of_the_others_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Store, "look_interval", 10 * PATIENCE)  # nobody looks without a ring
    with several(tmp_path / "hub.db", 3) as (first, second, third):
        for number, writer in enumerate((first, second)):
            writer.store.append((update(id=str(number)),), number)
            third.has(number + 1)
        assert third.ids == ["0", "1"]


def test_a_lost_ring_delays_and_loses_nothing(tmp_path: Path) -> None:
    """A process without a bell, such as one of another hub on this log, is noticed all the same."""
    with several(tmp_path / "hub.db", 1) as (follows,):
        silent = Log(tmp_path / "hub.db")
        silent.open()
        silent.append(update(id="silent"))
        silent.close()
        follows.until(lambda: follows.ids == ["silent"])


def test_who_has_much_to_do_leaves_the_others_updates_in_the_log(tmp_path: Path) -> None:
    with several(tmp_path / "hub.db", 2) as (writer, busy):
        busy.is_crowded = True
        writer.store.append((update(id="x"),), 0)
        writer.until(lambda: len(writer.entries) == 1)
        busy.store.append((update(id="own"),), 7)  # brings what was before it, for the order's sake
        busy.until(lambda: busy.ids == ["x", "own"])
        writer.store.append((update(id="later"),), 1)
        writer.until(lambda: len(writer.entries) == 3)
        assert busy.ids == ["x", "own"]
        busy.is_crowded = False
        busy.until(lambda: busy.ids == ["x", "own", "later"])


def test_a_small_history_takes_nothing_from_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SqliteLink, "discard_interval", 0.0)
    with several(tmp_path / "hub.db", 2, Retention(size=1)) as (writer, reader):
        for number in range(20):
            writer.store.append((update(id=str(number)),), number)
            writer.has(0, number + 1)
        reader.until(lambda: len(reader.entries) == 20)
        assert len(writer.sequences()) == 20
        writer.now += 31
        writer.store.append((update(id="late"),), 20)
        writer.until(lambda: len(writer.answered) == 21)
        writer.store.append((update(id="later"),), 21)  # the step before it is over then
        writer.until(lambda: len(writer.answered) == 22)
        assert writer.sequences() == [21, 22]


def test_what_was_discarded_before_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with several(tmp_path / "hub.db", 1) as (follows,):
        with beside(tmp_path / "hub.db") as database:
            database.execute("UPDATE mercure_position SET last_sequence = 10")
        follows.store.append((update(id="eleventh"),), 0)
        follows.until(lambda: follows.ids == ["eleventh"])
    assert "updates between 1 and 11 were discarded" in caplog.text


class TestWhileAnotherProcessHasTheTurn:
    @pytest.fixture
    def lock(self, tmp_path: Path) -> Path:
        return tmp_path / "hub.db-lock"

    @pytest.fixture
    def log(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Log]:
        log = Log(tmp_path / "hub.db", Retention(size=2))
        log.link.discard_interval = log.store.look_interval = 0.02
        log.open()
        yield log
        log.close()

    @pytest.fixture
    def another(self, log: Log, lock: Path) -> Iterator[Seats]:
        with closing(Seats(str(lock))) as seats:
            yield seats

    def test_nothing_is_committed(self, log: Log, lock: Path, another: Seats) -> None:
        with another.turn():
            log.store.append((update(id="x"),), 1)
            until(lambda: waiting_for_locks(lock) or log.sequences())
            assert log.sequences() == []
            assert log.store.collect() == []
        assert [entry.update.id for commit in log.wait(1) for entry in commit.entries] == ["x"]

    def test_nothing_is_discarded(self, log: Log, lock: Path, another: Seats) -> None:
        log.append(*[update() for _ in range(2)])
        log.append(update())
        assert log.sequences() == [1, 2, 3]
        with another.turn():
            log.now += 1
            until(lambda: waiting_for_locks(lock) or len(log.sequences()) < 3)
            assert log.sequences() == [1, 2, 3]
        until(lambda: log.sequences() == [2, 3])

    def test_no_subscriptions_of_the_dead_are_ended(self, log: Log, lock: Path, another: Seats) -> None:
        adopted = threading.Event()

        def adopt() -> None:
            log.store.adopt(1000)
            adopted.set()

        leave_presence(log.path)
        adopts = threading.Thread(target=adopt)
        with another.turn():
            adopts.start()
            until(lambda: waiting_for_locks(lock) or adopted.is_set())
            assert not adopted.is_set()
        adopts.join()


def test_who_comes_while_others_write_without_a_pause_gets_in(tmp_path: Path) -> None:
    path = tmp_path / "hub.db"
    with several(path, 1) as (writer,):
        opened = threading.Event()
        turns = 0

        def write() -> None:
            nonlocal turns
            with closing(Seats(f"{path}-lock")) as seats, beside(path) as database:
                while not opened.is_set():
                    with seats.turn():
                        database.execute("BEGIN IMMEDIATE")
                        opened.wait(0.05)
                        database.execute("COMMIT")
                    turns += 1
                    time.sleep(0.002)  # or the kernel lets nobody else have it

        writes = threading.Thread(target=write)
        writes.start()
        try:
            late = Log(path)
            late.open()
            assert late.store.adopt(1000) == []
        finally:
            opened.set()
            writes.join()
        late.close()
        assert turns < 40  # one or two for each of its own; it would never get in otherwise
        writer.store.append((update(),), 1)
        writer.has(1, 1)


def test_a_connection_needs_nothing_of_who_writes(tmp_path: Path) -> None:
    """Opening one took the lock of writers: a busy hub's readers failed with "database is locked"."""
    path = tmp_path / "hub.db"
    with several(path, 1) as (member,), beside(path) as database:
        member.store.append((update(id="x"),), 0)
        member.has(1, 1)
        database.execute("BEGIN IMMEDIATE")
        reads = Log(path)
        assert reads.store.newest() == (1, "x")
        reads.close()
        database.execute("ROLLBACK")


def test_presence_is_seen_by_the_others_and_ends_with_its_update(tmp_path: Path) -> None:
    with several(tmp_path / "hub.db", 2) as (first, second):
        first.store.append((update(id="came"),), 0, Presence("key", "record"))
        second.until(lambda: second.ids == ["came"])
        assert second.store.others(None, None, 1000).records == ["record"]
        assert first.store.others(None, None, 1000).records == []
        first.store.append((update(id="went"),), 1, Presence("key", None))
        second.until(lambda: second.ids == ["came", "went"])
        assert second.store.others(None, None, 1000).records == []


def test_presence_of_one_commit_is_in_order(tmp_path: Path) -> None:
    with several(tmp_path / "hub.db", 2) as (first, second):
        for number in range(50):
            first.store.append((update(id="came"),), number, Presence(str(number), f"record {number}"))
            first.store.append((update(id="went"),), number, Presence(str(number), None))
        first.store.append((update(id="stays"),), 50, Presence("stays", "stays"))
        second.until(lambda: len(second.entries) == 101)
        assert second.store.others(None, None, 1000).records == ["stays"]


@contextmanager
def no_table(path: Path, name: str) -> Iterator[None]:
    """A database with an error that passes, as that of a full disk does."""
    with beside(path) as database:
        database.execute(f"ALTER TABLE {name} RENAME TO elsewhere")
        yield
        database.execute(f"ALTER TABLE elsewhere RENAME TO {name}")


@pytest.mark.parametrize("comes", ["an update", "nothing"])
def test_presence_that_could_not_be_written_is_written_later(
    tmp_path: Path, comes: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "hub.db"
    with closing(Log(path)) as log, closing(Log(path)) as other:
        log.open()
        other.open()
        log.store.append((update(id="came"),), 0, Presence("key", "record"))
        log.wait(1)
        with no_table(path, "mercure_update"):
            log.store.append((update(id="went"),), 1, Presence("key", None))
            assert log.wait(1)[0].error is not None
            log.store.append((update(id="briefly"),), 2, Presence("brief", "record"))
            assert log.wait(1)[0].error is not None
            log.store.append((update(id="briefly"),), 3, Presence("brief", None))
            log.store.append((update(id="late"),), 4, Presence("late", "late"))
            log.store.append((update(id="refused"),), 5)
            assert all(commit.error is not None for commit in log.wait(3))
            time.sleep(1.1)  # it is tried again meanwhile
        expected = ["came", "went", "late"]
        if comes == "an update":
            log.append(update(id="next"))
            expected.append("next")
        deadline = time.monotonic() + PATIENCE
        while other.store.others(None, None, 1000).records != ["late"]:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert [entry.update.id for entry in log.everything()] == expected
        assert len(caplog.messages) <= 5


def test_a_lock_file_that_cannot_be_asked_for_a_while_stops_no_follower(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = threading.Event()

    def fail(_: Seats) -> int:
        asked.set()
        raise OSError(errno.ENOLCK, "No locks available")

    with several(tmp_path / "hub.db", 2) as (first, second):
        with monkeypatch.context() as patch:
            patch.setattr(Seats, "others", fail)
            first.store.append((update(id="meanwhile"),), 0)
            assert asked.wait(PATIENCE)
            second.until(lambda: second.ids == ["meanwhile"])
        first.store.append((update(id="later"),), 1)
        second.until(lambda: second.ids == ["meanwhile", "later"])


@pytest.mark.parametrize(
    "error",
    [
        sqlite3.DatabaseError("database disk image is malformed"),  # what SQLite makes of a read that fails
        sqlite3.OperationalError("disk I/O error"),
        OSError(errno.ENOLCK, "No locks available"),
        MemoryError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_presence_is_owed_whatever_failed_but_its_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    path = tmp_path / "hub.db"
    append = Appender.append

    def fail(*_: object) -> None:
        monkeypatch.setattr(Appender, "append", append)
        raise error

    with closing(Log(path)) as log, closing(Log(path)) as other:
        log.open()
        other.open()
        log.store.append((update(id="came"),), 0, Presence("key", "record"))
        log.wait(1)
        monkeypatch.setattr(Appender, "append", fail)
        log.store.append((update(id="went"),), 1, Presence("key", None))
        (answer,) = [one.error for one in log.wait(1) if one.tickets]
        is_sent_again = isinstance(error, MemoryError)  # nobody knew what became of it
        assert (answer is None) is is_sent_again
        log.append(update(id="next"))
        assert [entry.update.id for entry in log.everything()] == ["came", "went", "next"]
        assert other.store.others(None, None, 1000).records == []


def test_presence_that_can_never_be_written_is_not_tried_again(tmp_path: Path) -> None:
    with closing(Log(tmp_path / "hub.db")) as log:
        log.open()
        log.store.append((update(data="\ud800"),), 1, Presence("key", "record"))
        assert log.wait(1)[0].error is not None
        assert [entry.update.id for entry in log.append(update(id="next"))] == ["next"]


def test_the_dead_are_adopted_once_and_the_living_are_not(tmp_path: Path) -> None:
    path = tmp_path / "hub.db"
    with several(path, 3) as (dies, first, second):
        dies.store.append((update(id="a"),), 0, Presence("of the dead", "dead"))
        first.store.append((update(id="b"),), 0, Presence("of the living", "living"))
        second.until(lambda: len(second.entries) == 2)
        assert second.store.adopt(1000) == []
        dies.close()
        assert second.store.adopt(1000) == ["dead"]
        assert first.store.others(None, None, 1000).records == ["dead"]


def test_after_a_crash_of_all_nothing_is_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "hub.db"
    with several(path, 1) as (crashes,):
        crashes.store.append((update(id="a"),), 0, Presence("key", "record"))
        crashes.until(lambda: len(crashes.entries) == 1)
    with several(path, 2) as (first, second):
        assert [first.store.adopt(1000), second.store.adopt(1000)] == [["record"], []]


def test_a_process_that_could_not_adopt_the_dead_before_spares_its_own(tmp_path: Path) -> None:
    """They have the same seat, when one that died had it before."""
    path = tmp_path / "hub.db"
    with several(path, 1) as (crashes,):
        crashes.store.append((update(id="a"),), 0, Presence("of the dead", "dead"))
        crashes.until(lambda: len(crashes.entries) == 1)
    with several(path, 1) as (log,):
        with broken(path, ["mercure_presence"]), pytest.raises(StorageError):
            log.store.adopt(1000)
        log.store.append((update(id="b"),), 0, Presence("of the living", "living"))
        log.until(lambda: len(log.entries) == 1)
        assert log.store.adopt(1000) == ["dead"]
        assert log.store.adopt(1000) == []
