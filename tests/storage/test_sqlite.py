"""Append and read: order, places without gaps, and each update as it was."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import sqlite3
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import IO, Any

import pytest

from mercure_hub.protocol.errors import StorageError, StorageUnusable
from mercure_hub.protocol.update import Update
from mercure_hub.storage import encoding
from mercure_hub.storage.interface import Entry, Presence, Retention
from mercure_hub.storage.sqlite import database as database_
from mercure_hub.storage.sqlite import link, reading
from mercure_hub.storage.sqlite.link import Appender, SqliteLink
from mercure_hub.storage.store import Store
from tests.storage.conftest import Opener
from tests.storage.log import Log, beside, broken, leave_presence, until, update

pytestmark = pytest.mark.minutes

ODD = [
    Update(("a",), "", "1"),
    Update(("a", "b", "c"), "one\ntwo\r\nthree\rfour", "urn:uuid:2", private=True, type="news", retry=0),
    Update(("https://example.com/\N{SNOWMAN}",), "\0nul\0", "3", retry=2**31 - 1),
    Update(("\N{GRINNING FACE}", '"quotes"\\'), "\N{GRINNING FACE}\u2028\ufeff\x85\x7f", "\N{GRINNING FACE}"),
    Update(("a' OR 1=1 --",), "x" * 2_000_000, "'; DROP TABLE mercure_update", type="\N{SNOWMAN}"),
    Update(("a",), "the same id again", "1"),
]


def test_what_is_appended_is_read_as_it_was(log: Log) -> None:
    entries = log.append(*ODD)
    assert [entry.sequence for entry in entries] == [1, 2, 3, 4, 5, 6]
    assert [entry.update for entry in entries] == ODD
    assert log.everything() == entries


def test_a_new_log_is_empty(log: Log) -> None:
    assert log.store.newest() == (0, None)
    assert log.find("x") is None
    assert log.everything() == []
    assert log.store.collect() == []
    log.store.check()


def test_tickets_come_back_in_order_with_their_entries(log: Log) -> None:
    for ticket in range(50):
        log.store.append((update(id=f"id-{ticket}"),), ticket)
    commits = log.wait(50)
    assert [ticket for commit in commits for ticket in commit.tickets] == list(range(50))
    for commit in commits:
        assert [entry.update.id for entry in commit.entries] == [f"id-{n}" for n in commit.tickets]
    assert log.sequences() == list(range(1, 51))


def test_many_threads_share_transactions_and_no_place_is_left_out(log: Log) -> None:
    together = threading.Barrier(8)

    def publish(first: int) -> None:
        together.wait()
        for ticket in range(first, first + 50):
            log.store.append((update(id=str(ticket)),), ticket)

    threads = [threading.Thread(target=publish, args=(n * 1000,)) for n in range(8)]
    for thread in threads:
        thread.start()
    commits = log.wait(400)
    for thread in threads:
        thread.join()
    tickets = [ticket for commit in commits for ticket in commit.tickets]
    entries = [entry for commit in commits for entry in commit.entries]
    assert len(tickets) == len(set(tickets)) == 400
    for first in range(8):
        own = [ticket for ticket in tickets if ticket // 1000 == first]
        assert own == sorted(own)
    assert [entry.sequence for entry in entries] == list(range(1, 401))
    assert [entry.update.id for entry in entries] == [str(ticket) for ticket in tickets]
    assert log.everything() == entries


def test_what_waits_becomes_one_transaction_up_to_a_limit(tmp_path: Path) -> None:
    log = Log(tmp_path / "mercure.db")
    log.store.max_batch = 10
    for ticket in range(25):
        log.store.append((update(),), ticket)
    log.open()
    commits = log.wait(25)
    log.close()
    assert [len(commit.entries) for commit in commits] == [10, 10, 5]


def test_a_batch_is_bounded_by_its_size_too(tmp_path: Path) -> None:
    log = Log(tmp_path / "mercure.db")
    log.store.max_batch_characters = 100
    for ticket, size in enumerate([60, 60, 500, 1, 1]):
        log.store.append((update(data="x" * size),), ticket)
    log.open()
    commits = log.wait(5)
    log.close()
    assert [len(commit.entries) for commit in commits] == [2, 1, 2]


def test_each_commit_waits_for_the_disk(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was acknowledged survives a power cut, which no test can make."""
    found: list[dict[str, object]] = []
    append = Appender.append

    def looked_at(appender: Appender, *arguments: Any) -> int:
        connection = appender.driver
        names = ("synchronous", "journal_mode")
        found.append({name: connection.execute(f"PRAGMA {name}").fetchone()[0] for name in names})
        return append(appender, *arguments)

    monkeypatch.setattr(Appender, "append", looked_at)
    log.append(update())
    log.append(update())
    full = 2  # as SQLite says it
    assert found == [{"synchronous": full, "journal_mode": "wal"}] * 2


def test_find_returns_the_earliest_place_of_an_id(log: Log) -> None:
    log.append(update(id="x"), update(id="y"), update(id="x"), update(id="Y"))
    assert log.find("x") == 1
    assert log.find("y") == 2
    assert log.find("z") is None
    assert log.find("") is None
    assert log.find("x\0") is None


def test_newest(log: Log) -> None:
    log.append(update(id="x"), update(id="y"))
    assert log.store.newest() == (2, "y")


class TestRead:
    @pytest.fixture
    def log(self, log: Log) -> Log:
        log.append(*[update("abc"[n % 3], f"all/{n}", id=str(n + 1)) for n in range(30)])
        return log

    def read(
        self, log: Log, *topics: str, after: int = 0, upto: int = 1 << 60, limit: int = 1000
    ) -> list[int]:
        return [entry.sequence for entry in log.store.read(after, upto, topics, limit).entries]

    def test_bounds(self, log: Log) -> None:
        assert [entry.sequence for entry in log.store.read(10, 13, None, 100).entries] == [11, 12, 13]
        assert log.store.read(10, 10, None, 100).entries == []
        assert log.store.read(13, 10, None, 100).entries == []
        assert log.store.read(30, 99, None, 100).entries == []
        assert self.read(log, "a", after=4, upto=13) == [7, 10, 13]
        assert self.read(log, "a", after=13, upto=13) == []

    def test_exact_topics(self, log: Log) -> None:
        assert self.read(log, "b") == list(range(2, 31, 3))
        assert self.read(log, "b", "all/0") == [1, *range(2, 31, 3)]
        assert self.read(log, "b", "all/1", "all/4") == list(range(2, 31, 3))  # by two topics, once
        assert self.read(log, "nothing") == []
        assert self.read(log) == []

    def test_pages_put_together_are_the_whole(self, log: Log) -> None:
        for topics in (None, ("a",), ("a", "b"), ("a", "b", "c", "all/7")):
            after = 0
            found: list[Entry] = []
            while page := log.store.read(after, 28, topics, 4).entries:
                assert len(page) <= 4
                found += page
                after = page[-1].sequence
            assert found == log.store.read(0, 28, topics, 1000).entries

    @pytest.mark.parametrize("unknown", [0, 63, 127, 128, 999])
    def test_any_number_of_topics(self, log: Log, unknown: int) -> None:
        topics = ["a", *[f"unknown/{n}" for n in range(unknown)]]
        assert self.read(log, *topics) == list(range(1, 31, 3))
        assert self.read(log, *topics, after=4, upto=13) == [7, 10, 13]

    def test_more_topics_than_are_looked_up_may_return_others_too(self, log: Log) -> None:
        """The reader compares the topics in any case; none may be missing."""
        assert set(self.read(log, "a", *[f"unknown/{n}" for n in range(1000)])) >= set(range(1, 31, 3))

    @pytest.mark.parametrize("window", [1, 2, 7, 1000])
    def test_pages_of_many_topics(self, log: Log, window: int, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(reading, "_FEW", 2)
        monkeypatch.setattr(reading, "_WINDOW", window)
        topics = ("a", "b", "all/7", "all/8", "all/29", "unknown")
        expected = self.read(log, *topics)
        assert expected == [n for n in range(1, 31) if n % 3 in (1, 2) or n - 1 in (8, 29)]
        for limit in (1, 2, 5, 30):
            found: list[int] = []
            after = 3
            while after < 29:
                page = log.store.read(after, 29, topics, limit)
                assert len(page.entries) <= limit
                assert after < page.reached <= 29
                found += [entry.sequence for entry in page.entries]
                after = page.reached
            assert found == [n for n in expected if 3 < n <= 29]


class TestTopics:
    @pytest.fixture
    def log(self, log: Log) -> Log:
        log.append(*[update("abc"[n % 3], f"all/{n // 3}") for n in range(30)])
        return log

    def topics(self, log: Log, after: int = 0, upto: int = 1 << 60, limit: int = 100) -> list[str]:
        found: list[str] = []
        beyond, more = None, True
        while more:
            page = log.store.topics(after, upto, beyond, limit)
            assert len(page.topics) <= limit
            found += page.topics
            beyond = page.beyond
            more = beyond is not None
        assert len(set(found)) == len(found)
        return sorted(found)

    @pytest.mark.parametrize("limit", [1, 2, 5, 12, 13, 14, 100])
    def test_each_once(self, log: Log, limit: int) -> None:
        assert self.topics(log, limit=limit) == ["a", *[f"all/{n}" for n in range(10)], "b", "c"]

    @pytest.mark.parametrize("limit", [1, 4, 100])
    def test_of_a_part(self, log: Log, limit: int) -> None:
        assert self.topics(log, 0, 1, limit) == ["a", "all/0"]
        assert self.topics(log, 4, 6, limit) == ["all/1", "b", "c"]
        assert self.topics(log, 27, 99, limit) == ["a", "all/9", "b", "c"]
        assert self.topics(log, 30, 99, limit) == []
        assert self.topics(log, 9, 9, limit) == []

    def test_of_nothing(self, open_log: Opener) -> None:
        assert self.topics(open_log()) == []


def test_topics_with_the_same_hash_lose_nothing(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (link, reading):
        monkeypatch.setattr(module, "topic_hash", lambda value: 7)
    log.append(update("a", "b"), update("b"), update("c"))
    wanted = [entry for entry in log.store.read(0, 9, ["b"], 100).entries if "b" in entry.update.topics]
    assert [entry.sequence for entry in wanted] == [1, 2]


def test_long_lists_of_topics_are_not_remembered() -> None:
    """A thousand of them would take 400 MiB."""
    encoding._recent_topics.cache_clear()
    topics = tuple(f"{number}/".ljust(2000, "x") for number in range(100))
    assert encoding.decoded_topics(json.dumps(topics)) == topics
    assert encoding.decoded_topics('["a"]') == ("a",)
    assert encoding._recent_topics.cache_info().currsize == 1


def test_the_hash_of_a_topic_is_the_same_in_each_process() -> None:
    assert encoding.topic_hash("https://example.com/books/1") == -5044126176089508998
    assert encoding.topic_hash("") == -1970711489451281740


def test_two_hubs_on_one_file_share_the_sequence(open_log: Opener) -> None:
    logs = [open_log(), open_log()]
    for ticket in range(100):
        for log in logs:
            log.store.append((update(id=f"{id(log)}"),), ticket)
    for log in logs:
        commits = log.wait(100, entries=200)
        assert [ticket for commit in commits for ticket in commit.tickets] == list(range(100))
        entries = [entry for commit in commits for entry in commit.entries]
        assert [entry.sequence for entry in entries] == list(range(1, 201))
        assert entries == log.everything()
        assert sum(entry.update.id == str(id(log)) for entry in entries) == 100


@pytest.mark.parametrize("count", [1, 3, 4, 5, 63, 64, 65, 149])
def test_a_batch_of_any_size_keeps_its_order_and_its_topics(open_log: Opener, count: int) -> None:
    """A statement takes up to 64 rows; what is left over goes into smaller ones."""
    log = open_log()
    batch = [update(f"a{number}", "all", id=str(number)) for number in range(count)]
    entries = log.append(*batch)
    assert [entry.update for entry in log.everything()] == batch
    assert [entry.sequence for entry in entries] == list(range(1, count + 1))
    for number in (0, count // 2, count - 1):
        found = log.store.read(0, count, [f"a{number}"], 1000).entries
        assert [entry.update.id for entry in found] == [str(number)]
    assert len(log.store.read(0, count, ["all"], 1000).entries) == count


def test_close_commits_what_is_queued(open_log: Opener) -> None:
    log = open_log()
    for ticket in range(2500):
        log.store.append((update(),), ticket)
    log.close()
    assert sum(len(commit.entries) for commit in log.store.collect()) == 2500
    log.close()
    again = open_log()
    assert again.store.newest()[0] == 2500
    again.store.check()


def test_a_reopened_log_goes_on_where_it_was(open_log: Opener) -> None:
    first = open_log()
    entries = first.append(update(id="x"), update(id="y"))
    first.close()
    second = open_log()
    assert second.store.newest() == (2, "y")
    assert second.find("x") == 1
    entries += second.append(update(id="z"))
    assert second.everything() == entries
    assert [entry.sequence for entry in entries] == [1, 2, 3]


class TestFailure:
    def test_nobody_is_told_that_it_is_stored_and_nothing_is(
        self, log: Log, caplog: pytest.LogCaptureFixture
    ) -> None:
        log.append(update(id="before"))
        with broken(log.path):
            for ticket in range(3):
                log.store.append((update(data="secret data"),), ticket)
            commits = log.wait(3)
            assert [ticket for commit in commits for ticket in commit.tickets] == [0, 1, 2]
            for commit in commits:
                assert commit.entries == ()
                assert commit.error is not None
                assert str(commit.error) == (
                    f"the database sqlite:///{log.path} cannot be written: the disk is full"
                )
            assert log.sequences() == [1]
            assert log.store.newest() == (1, "before")
            with pytest.raises(StorageError, match="the disk is full"):
                log.store.check()
        assert caplog.text == ""  # those who waited tell it
        assert [entry.sequence for entry in log.append(update())] == [2]
        log.store.check()

    def test_it_is_found_out_without_a_publication_that_it_is_over(self, log: Log) -> None:
        """A balancer that believes the health check sends nobody who could publish."""
        with broken(log.path):
            log.store.append((update(),), 0)
            log.wait(1)
            with pytest.raises(StorageError):
                log.store.check()
        log.store.check()
        assert log.append(update())[0].sequence == 1

    def test_a_probe_that_succeeds_meanwhile_acknowledges_nothing(self, log: Log) -> None:
        """A health check may find the storage well between a failed commit and the answers to it."""

        class Probe(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                log.store.check()

        probe = Probe()
        logging.getLogger("mercure_hub.storage").addHandler(probe)
        try:
            with broken(log.path, ["mercure_topic"]):
                log.store.append((update(),), 0)
                (commit,) = log.wait(1)
        finally:
            logging.getLogger("mercure_hub.storage").removeHandler(probe)
        assert commit.error is not None
        assert log.everything() == []

    def test_a_failure_that_lasts_costs_no_memory(self, log: Log) -> None:
        lengths = []
        with broken(log.path):
            log.store.append((update(),), 0)
            log.wait(1)
            for _ in range(5):
                with pytest.raises(StorageError) as caught:
                    log.store.check()
                lengths.append(len(caught.traceback))
        assert len(set(lengths)) == 1

    def test_what_no_database_takes_does_not_end_the_writer(self, log: Log) -> None:
        log.store.append((update(data="\ud800"),), 7)
        (commit,) = log.wait(1)
        assert commit.error is not None
        assert list(commit.tickets) == [7]
        assert log.append(update())[0].sequence == 1

    def test_a_broken_index_table_leaves_nothing_behind(self, log: Log) -> None:
        with broken(log.path, ["mercure_topic"]):
            log.store.append((update(),), 0)
            assert log.wait(1)[0].error is not None
        assert log.everything() == []
        assert log.store.newest() == (0, None)
        assert log.append(update())[0].sequence == 1

    def test_a_failed_trim_is_reported_and_the_next_one_mends_it(
        self, open_log: Opener, caplog: pytest.LogCaptureFixture
    ) -> None:
        log = open_log(Retention(size=1))
        log.append(update(), update())
        with beside(log.path) as database:
            database.execute(
                "CREATE TRIGGER stop BEFORE DELETE ON mercure_update BEGIN SELECT RAISE(ABORT, 'no'); END"
            )
            log.now += 10
            log.append(update())
            log.append(update())  # the writer comes here after it tried to trim
            assert "cannot be written: no" in caplog.text
            database.execute("DROP TRIGGER stop")
        log.now += 10
        log.append(update())
        log.append(update())
        assert log.sequences()[0] > 1
        log.store.check()

    def test_a_log_that_cannot_be_read(self, log: Log) -> None:
        with beside(log.path) as database:
            database.execute("DROP TABLE mercure_update")
        for attempt in (
            lambda: log.find("x"),
            lambda: log.store.read(0, 9, None, 9).entries,
            lambda: log.store.check() if log.store.newest()[0] else log.find("x"),
        ):
            with pytest.raises(StorageError, match="cannot be read: no such table: mercure_update"):
                attempt()


def test_a_damaged_database_may_be_a_disk_that_cannot_be_read(log: Log) -> None:
    """SQLite makes one error of both, EIO at a read and a page that cannot be right."""
    log.append(*[update(data="x" * 5000) for _ in range(20)])
    with beside(log.path) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    raw = log.path.read_bytes()
    log.path.write_bytes(raw[:-80_000] + b"\xff" * 80_000)  # the updates, and not the schema
    with (
        closing(database_.Database(str(log.path)).connect()) as connection,
        pytest.raises(sqlite3.DatabaseError) as caught,
    ):
        connection.execute("SELECT * FROM mercure_update").fetchall()
    assert database_.reason(caught.value) == (
        "database disk image is malformed, or the disk failed to read it, which SQLite reports alike: "
        "the log of the kernel tells"
    )


class TestUnopenable:
    """One sentence with the path, and nothing left behind."""

    def refused(self, url: str) -> str:
        store: Store[int] = Store(SqliteLink(url, Retention(), lambda: 0.0))
        with pytest.raises(StorageError) as caught:
            store.open(lambda: None)
        store.close()
        assert len(str(caught.value).splitlines()) == 1
        assert caught.value.__cause__ is None
        return str(caught.value)

    def test_a_directory_that_is_not_there(self, tmp_path: Path) -> None:
        path = tmp_path / "nowhere" / "mercure.db"
        assert self.refused(f"sqlite:///{path}") == (
            f"the database sqlite:///{path} cannot be opened: "
            f"there is no folder {str(path.parent)!r}; make it"
        )

    def test_a_directory(self, tmp_path: Path) -> None:
        assert "is a folder; give the path of a file" in self.refused(f"sqlite:///{tmp_path}")

    def test_another_file(self, tmp_path: Path) -> None:
        path = tmp_path / "mercure.db"
        path.write_text("this is a letter to my aunt" * 100)
        assert "is not an SQLite database" in self.refused(f"sqlite:///{path}")
        assert path.read_text().startswith("this is a letter")

    def test_a_file_that_only_begins_as_one(self, tmp_path: Path) -> None:
        """Another start does not help, so nobody should try."""
        path = tmp_path / "mercure.db"
        path.write_bytes(b"SQLite format 3\0" + b"\xff" * 4080)
        with pytest.raises(StorageUnusable, match="file is not a database"):
            SqliteLink(f"sqlite:///{path}", Retention(), lambda: 0.0).open()

    def test_a_file_that_may_not_be_written(self, tmp_path: Path) -> None:
        path = tmp_path / "mercure.db"
        path.touch()
        assert "readonly database" in self.refused(f"sqlite:///file:{path}%3Fmode=ro")

    def test_a_locked_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(database_, "_BUSY", 1)
        path = tmp_path / "mercure.db"
        with beside(path) as other:
            other.execute("BEGIN EXCLUSIVE")
            other.execute("CREATE TABLE other (x)")
            assert "locked" in self.refused(f"sqlite:///{path}")


def test_a_log_without_a_writer_is_not_healthy(open_log: Opener) -> None:
    log = open_log()
    log.close()
    with pytest.raises(StorageError, match=r"writer .* has stopped"):
        log.store.check()


def test_nothing_is_logged_when_all_is_well(log: Log, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "mercure_hub")
    log.append(update())
    assert caplog.records == []


def test_updates_that_are_appended_together_share_their_fate(log: Log) -> None:
    log.store.append([update(data="1"), update(data="2")], 7)
    (commit,) = log.wait(1)
    assert commit.tickets == [7]
    assert [entry.update.data for entry in commit.entries] == ["1", "2"]
    with broken(log.path):
        log.store.append([update(data="3"), update(data="4")], 8)
        (failed,) = log.wait(1)
    assert (failed.tickets, failed.entries) == ([8], ())
    assert failed.error is not None
    log.append(update(data="5"))
    assert [entry.update.data for entry in log.everything()] == ["1", "2", "5"]


def test_an_update_that_cannot_be_stored_keeps_those_before_it_in_its_batch_out_of_the_log(log: Log) -> None:
    with beside(log.path) as database:
        database.execute(
            "CREATE TRIGGER break_second BEFORE INSERT ON mercure_update WHEN new.id = 'second' "
            "BEGIN SELECT RAISE(ABORT, 'not this one'); END"
        )
    log.store.append([update(id=name) for name in ("first", "second", "third")], 7)
    (commit,) = log.wait(1)
    assert (commit.tickets, commit.entries) == ([7], ())
    assert "not this one" in str(commit.error)
    assert log.everything() == []
    assert log.topic_rows() == 0
    assert [entry.sequence for entry in log.append(update(id="next"))] == [1]


@pytest.mark.parametrize("by", ["nothing", "a copy"])
def test_nothing_is_acknowledged_that_goes_into_a_file_without_a_name(log: Log, by: str) -> None:
    log.append(update(id="before"))
    if by == "a copy":
        copy = log.path.with_name("copy.db")
        copy.write_bytes(log.path.read_bytes())
        copy.replace(log.path)
    else:
        log.path.unlink()
    log.store.append((update(id="lost"),), 1)
    (commit,) = log.wait(1)
    assert commit.entries == ()
    assert "was removed or replaced while the hub was running; restart the hub" in str(commit.error)
    with pytest.raises(StorageError, match="restart the hub"):
        log.store.check()


def remove(path: Path) -> None:
    path.unlink()


def cut(path: Path) -> None:
    os.truncate(path, 0)


def replace_by_a_copy(path: Path) -> None:
    copy = path.with_name("copy")
    copy.write_bytes(path.read_bytes())
    copy.replace(path)


@pytest.mark.parametrize("damage", [remove, cut, replace_by_a_copy])
def test_nothing_is_acknowledged_into_a_write_ahead_log_that_is_not_there(
    log: Log, damage: Callable[[Path], None]
) -> None:
    log.append(update(id="before"))
    damage(log.path.with_name(f"{log.path.name}-wal"))
    for ticket in range(2):
        log.store.append((update(id="lost"),), ticket)
        (commit,) = log.wait(1)
        assert commit.entries == ()
        assert "mercure.db-wal' was" in str(commit.error)
        assert "restart the hub" in str(commit.error)
    with pytest.raises(StorageError, match="restart the hub"):
        log.store.check()


@pytest.mark.parametrize("damage", [remove, replace_by_a_copy])
def test_nothing_is_acknowledged_beside_another_index_of_the_write_ahead_log(
    log: Log, damage: Callable[[Path], None]
) -> None:
    """Processes that have different ones do not see each other's locks."""
    log.append(update(id="before"))
    damage(log.path.with_name(f"{log.path.name}-shm"))
    log.store.append((update(id="lost"),), 0)
    assert "mercure.db-shm' was removed or replaced" in str(log.wait(1)[0].error)


def cut_in_half(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize("damage", [remove, cut, cut_in_half, replace_by_a_copy])
def test_an_update_that_went_into_a_damaged_file_is_not_acknowledged(
    log: Log, monkeypatch: pytest.MonkeyPatch, damage: Callable[[Path], None]
) -> None:
    """The damage may come between the look at the file and the commit, which makes a cut one long again."""
    for _ in range(5):
        log.append(update(id="before"))
    append = Appender.append

    def damage_first(*arguments: Any) -> int:
        damage(log.path.with_name(f"{log.path.name}-wal"))
        monkeypatch.setattr(Appender, "append", append)
        return append(*arguments)

    monkeypatch.setattr(Appender, "append", damage_first)
    for ticket in range(2):
        log.store.append((update(id="lost", data="x" * 100_000),), ticket)
        (commit,) = log.wait(1)
        assert commit.entries == ()
        assert "restart the hub" in str(commit.error)


@pytest.mark.parametrize("mode", ["TRUNCATE", "RESTART"])
def test_a_checkpoint_of_another_program_is_no_damage(log: Log, mode: str) -> None:
    for number in range(3):
        log.append(update(data=str(number)))
        with beside(log.path) as database:
            assert database.execute(f"PRAGMA wal_checkpoint({mode})").fetchone()[0] == 0
    log.store.check()
    assert [entry.update.data for entry in log.append(update(data="3"))] == ["3"]


def test_what_is_written_is_acknowledged_though_it_cannot_be_read_just_now(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refusal would be wrong: it is there after a restart."""

    def fails(*_: object) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    log.append(update(id="before"))
    monkeypatch.setattr(os, "pread", fails)
    assert [entry.update.id for entry in log.append(update(id="now"))] == ["now"]


def test_a_write_ahead_log_that_sqlite_makes_shorter_is_no_damage(log: Log) -> None:
    path = log.path.with_name(f"{log.path.name}-wal")
    with beside(log.path) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM mercure_update").fetchall()
        for _ in range(4):  # more than the limit of its size, which the reader keeps from being used again
            log.append(update(data="x" * 6_000_000))
        longest = path.stat().st_size
        reader.execute("COMMIT")
    for _ in range(3):
        log.append(update(data="after"))
    assert path.stat().st_size < longest
    log.store.check()


def test_a_lock_file_that_was_removed_is_told(log: Log) -> None:
    log.store.check()
    log.path.with_name(f"{log.path.name}-lock").unlink()
    log.append(update())
    with pytest.raises(StorageError, match=r"mercure.db-lock' was removed or replaced"):
        log.store.check()


@pytest.mark.linux("elsewhere there are more files with locks")
class TestModes:
    """Private updates are in these files."""

    @pytest.fixture(autouse=True)
    def usual(self) -> Iterator[None]:
        before = os.umask(0o022)
        yield
        os.umask(before)

    def modes(self, folder: Path) -> dict[str, int]:
        return {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.glob("mercure.db*")}

    def test_new_files_are_for_their_owner_only(
        self, log: Log, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        log.append(update())
        assert self.modes(tmp_path) == {
            f"mercure.db{suffix}": 0o600 for suffix in ("", "-wal", "-shm", "-lock")
        }
        assert caplog.text == ""

    def test_files_of_an_earlier_version_are_closed_to_others(
        self, open_log: Opener, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        first = open_log()
        first.append(update())
        for path in tmp_path.glob("mercure.db*"):
            path.chmod(0o644)
        open_log()
        assert set(self.modes(tmp_path).values()) == {0o640}
        assert len(self.modes(tmp_path)) == 4
        assert caplog.text.count("was open to every user") == 4
        open_log()
        assert caplog.text.count("was open to every user") == 4

    def test_what_the_group_may_stays(
        self, open_log: Opener, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        open_log().close()
        (tmp_path / "mercure.db").chmod(0o640)
        again = open_log()
        again.append(update())
        modes = self.modes(tmp_path)
        assert modes == dict.fromkeys(("mercure.db", "mercure.db-wal", "mercure.db-shm"), 0o640) | {
            "mercure.db-lock": 0o600
        }
        assert caplog.text == ""


@pytest.mark.linux("it locks a byte of the lock file")
class TestHeldLock:
    """Any process that may read the lock file can lock it."""

    @pytest.fixture
    def held(self, log: Log) -> Iterator[IO[str]]:
        """The lock file with a lock of somebody else; closing it lets go."""
        with Path(f"{log.path}-lock").open(encoding="ascii") as foreign:
            fcntl.lockf(foreign, fcntl.LOCK_SH, 1)  # the turn; the seat is locked already
            yield foreign

    def wait_until_it_is_late(self, log: Log) -> None:
        until(lambda: log.store._wait)
        log.store.expire(time.monotonic() + 6)

    def test_publishers_are_answered(self, log: Log, held: IO[str], caplog: pytest.LogCaptureFixture) -> None:
        log.store.append((update(id="first"),), 0)
        self.wait_until_it_is_late(log)
        log.store.append((update(id="second"),), 1)
        log.store.expire(time.monotonic() + 7)
        commits = log.wait(2)
        assert [commit.tickets for commit in commits] == [[0], [1]]
        assert f"process {os.getpid()} has held the lock on '{log.path}-lock'" in str(commits[0].error)
        assert "has held the lock" not in caplog.text  # those who waited tell it
        held.close()
        until(lambda: log.store._wait is None)
        assert [entry.update.id for entry in log.append(update(id="third"))] == ["third"]
        assert log.sequences() == [1]

    def test_nobody_is_answered_too_early(self, log: Log, held: IO[str]) -> None:
        log.store.append((update(id="first"),), 0)
        until(lambda: log.store._wait)
        log.store.expire(time.monotonic() + 2)
        log.store.check()
        assert log.store.collect() == []
        held.close()
        assert [entry.update.id for entry in log.wait(1)[0].entries] == ["first"]

    def test_what_was_written_is_not_kept(self, log: Log) -> None:
        log.append(update(data="x" * 1_000_000))
        assert log.store._wait is None

    def test_presence_is_kept_in_order(self, log: Log, held: IO[str]) -> None:
        comes, goes = Presence("key", "record"), Presence("key", None)
        log.store.append((update(id="comes"),), 0, comes)
        log.store.append((update(id="lost"),), 1)
        self.wait_until_it_is_late(log)
        log.store.append((update(id="goes"),), 2, goes)
        log.store.expire(time.monotonic() + 6)
        held.close()
        log.wait(3)
        assert [entry.update.id for entry in log.everything()] == ["comes", "goes"]

    def test_health_tells_and_recovers_by_itself(self, log: Log, held: IO[str]) -> None:
        log.store.append((update(),), 0)
        self.wait_until_it_is_late(log)
        log.link.patience = 0.02
        with pytest.raises(StorageError, match="has held the lock"):
            log.store.check()
        held.close()
        until(lambda: log.store._wait is None)
        log.store.check()

    def test_presence_of_the_dead_waits_no_longer_than_a_publication(self, log: Log, held: IO[str]) -> None:
        log.link.turn_timeout = 0.02
        leave_presence(log.path)
        with pytest.raises(StorageError, match="has held the lock"):
            log.store.adopt(1000)

    def test_the_log_can_be_closed(self, log: Log, held: IO[str]) -> None:
        log.store.turn_timeout = 0.02
        log.store.look_interval = 0.02
        log.store.append((update(),), 0)
        log.store.close()
        held.close()
        until(lambda: not log.store._writer.is_alive())
        with beside(log.path) as database:
            assert database.execute("SELECT count(*) FROM mercure_update").fetchone() == (0,)
