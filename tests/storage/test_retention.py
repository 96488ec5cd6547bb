"""How much history is kept: by number and by age, in bounded steps, and the file shrinks."""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest

from mercure_hub.storage.interface import Retention
from mercure_hub.storage.sqlite.database import Database, writing
from mercure_hub.storage.sqlite.link import SqliteLink
from mercure_hub.storage.sqlite.retention import Trimmer
from mercure_hub.storage.store import Store
from tests.storage.conftest import Opener
from tests.storage.log import Log, beside, until, update

pytestmark = pytest.mark.minutes

DAY = 86400.0
NOW = 1_000_000.0


def trim(log: Log, steps: int = 1) -> int:
    """Have the writer trim: each append lets it take one step.

    :returns: the updates that were appended for it.
    """
    for _ in range(steps):
        log.now += 2
        log.append(update("trim"))
    log.append(update("trim"))  # after this one the step before is complete
    return steps + 1


def test_the_newest_are_kept(open_log: Opener) -> None:
    log = open_log(Retention(size=10))
    log.append(*[update("a", "b") for _ in range(50)])
    extra = trim(log)
    # The step may have come before the last append, or after it.
    kept = log.sequences()
    assert kept[-1] == 50 + extra
    assert len(kept) in (10, 11)
    assert kept == list(range(kept[0], kept[-1] + 1))
    assert log.topic_rows() == sum(len(entry.update.topics) for entry in log.everything())


def test_as_many_are_kept_as_configured_and_no_fewer(open_log: Opener) -> None:
    log = open_log()
    log.append(*[update() for _ in range(5)])
    with beside_as_hub(log) as connection:
        assert Trimmer(Retention(size=3)).step(connection, log.now, 0.0) == 2
    assert log.sequences() == [3, 4, 5]
    with beside_as_hub(log) as connection:
        assert Trimmer(Retention(size=3)).step(connection, log.now, 0.0) == 0
    assert log.sequences() == [3, 4, 5]


def test_what_is_too_old_goes(open_log: Opener) -> None:
    log = open_log(Retention(max_age=DAY))
    log.append(*[update() for _ in range(5)])
    log.now += DAY / 2
    log.append(*[update() for _ in range(5)])
    trim(log)
    assert log.sequences()[0] == 1
    log.now += DAY / 2
    trim(log)
    assert log.sequences()[0] == 6
    log.now += DAY * 9
    trim(log)
    assert log.sequences()[0] > 10


def test_both_bounds_hold(open_log: Opener) -> None:
    log = open_log(Retention(size=20, max_age=DAY))
    log.append(*[update() for _ in range(100)])
    trim(log)
    assert len(log.sequences()) in (20, 21)
    log.now += DAY * 2
    trim(log)
    assert len(log.sequences()) <= 4


def test_without_bounds_all_is_kept(open_log: Opener) -> None:
    log = open_log()
    log.append(*[update() for _ in range(20)])
    log.now += DAY * 1000
    extra = trim(log, 3)
    assert log.sequences() == list(range(1, 20 + extra + 1))


def test_a_step_is_bounded(open_log: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mercure_hub.storage.trimming.STEP", 10)
    everything = open_log()
    everything.append(*[update() for _ in range(100)])
    everything.close()
    log = open_log(Retention(size=5))
    before = 100
    for _ in range(9):
        log.append(update())
        log.append(update())  # each of the two takes a step or has none to take
        now = len(log.sequences())
        assert before - now <= 30  # one step may have been left over
        before = now
    trim(log, 3)
    assert len(log.sequences()) <= 8


def test_a_quiet_log_is_trimmed_without_a_publication(
    open_log: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SqliteLink, "discard_interval", 0.002)
    monkeypatch.setattr(Store, "look_interval", 0.002)
    log = open_log(Retention(max_age=DAY))
    log.append(*[update() for _ in range(5)])
    log.now += DAY * 2
    until(lambda: not log.sequences())
    assert log.topic_rows() == 0


def test_what_could_not_be_discarded_is_discarded_first_later(
    open_log: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def breaks(connection: sqlite3.Connection) -> Iterator[None]:
        with writing(connection):
            yield
            raise OSError(errno.EIO, "the disk is broken")

    log = open_log(Retention(size=3))
    log.append(*[update() for _ in range(20)])
    with monkeypatch.context() as patched:
        patched.setattr("mercure_hub.storage.sqlite.link.writing", breaks)
        trim(log)
    log.append(*[update() for _ in range(20)])
    trim(log)
    kept = log.sequences()
    assert kept == list(range(kept[0], kept[-1] + 1))


def test_the_sequence_goes_on_when_nothing_is_left(open_log: Opener) -> None:
    log = open_log(Retention(max_age=DAY))
    log.append(*[update(id="x") for _ in range(7)])
    log.now += DAY * 2
    log.append(update(id="old"))
    log.now += DAY * 2
    log.append(update(id="newest"))
    with beside(log.path) as database:
        database.execute("DELETE FROM mercure_update")
        database.execute("DELETE FROM mercure_topic")
    assert log.store.newest() == (9, None)
    assert log.find("newest") is None
    log.close()
    again = open_log()
    assert again.store.newest() == (9, None)
    assert again.append(update())[0].sequence == 10
    assert again.store.read(3, 10, None, 100).entries == again.everything()


def test_the_file_shrinks(open_log: Opener) -> None:
    full = open_log()
    full.append(*[update(data="x" * 10_000) for _ in range(200)])
    full.close()
    large = full.path.stat().st_size
    assert large > 2_000_000
    log = open_log(Retention(size=5))
    trim(log, 8)
    log.close()  # the last connection writes the log's pages back
    assert log.path.stat().st_size < large / 10


def test_a_clock_that_is_set_back_does_not_stop_it(open_log: Opener) -> None:
    log = open_log(Retention(size=3))
    log.append(*[update() for _ in range(10)])
    trim(log)
    log.now -= DAY * 400
    log.append(*[update() for _ in range(10)])
    trim(log)
    assert len(log.sequences()) in (3, 4)


@pytest.mark.parametrize(
    "kept", [Retention(size=2), Retention(max_age=60.0), Retention(size=2, max_age=60.0)]
)
@pytest.mark.parametrize("grace", [0.0, 30.0])
@pytest.mark.parametrize("jump", [90.0, DAY, -90.0, -DAY])
def test_what_is_left_after_a_jump_of_the_clock_has_no_hole(
    log: Log, kept: Retention, grace: float, jump: float
) -> None:
    """A reader who resumes before a hole would be told that nothing is missing."""
    for seconds in (-100.0, -50.0, -10.0, jump, jump, -5.0, -1.0):
        log.now = NOW + seconds
        log.append(update())
    with beside_as_hub(log) as connection:
        Trimmer(kept).step(connection, NOW, grace)
    left = log.sequences()
    assert left == list(range(8 - len(left), 8))
    if grace:
        assert left[0] <= 3  # what was published within the grace stays for the other processes


def test_updates_of_a_clock_that_was_ahead_are_as_old_as_what_came_after_them(log: Log) -> None:
    for seconds in (DAY, DAY, -100.0, -1.0):
        log.now = NOW + seconds
        log.append(update())
    with beside_as_hub(log) as connection:
        Trimmer(Retention(max_age=60.0)).step(connection, NOW, 0.0)
    assert log.sequences() == [4]


def test_many_updates_of_a_clock_that_was_ahead_are_no_younger(log: Log) -> None:
    """With several processes, what seems to be of this moment stays for the others."""
    log.now = NOW + DAY
    log.append(*[update() for _ in range(20)])
    log.now = NOW - 3600
    log.append(*[update() for _ in range(5)])
    with beside_as_hub(log) as connection:
        assert Trimmer(Retention(size=3)).step(connection, NOW, 30.0) == 22
    assert log.sequences() == [23, 24, 25]


class TestEventsOfTheHub:
    """The writer of the log discards them too, at any time: only what is left can be told."""

    def test_they_push_out_no_updates(self, log: Log) -> None:
        for _ in range(3):
            log.append(update("a"))
            log.announce(*"0123456789")
        kept = Retention(size=3)
        assert self.left(log, kept) == list(range(1, 34))
        assert log.store.size().updates == 3
        log.append(update("a"))
        assert self.left(log, kept) == list(range(2, 35))
        assert log.store.size().updates == 3
        assert [entry.sequence for entry in log.everything() if not entry.is_event] == [12, 23, 34]

    def test_of_them_only_so_many_bytes_are_kept(self, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
        log.append(update("a"))
        entries = log.announce(*["x" * 1000] * 5)
        size = 1000 + len('["/subscriptions/x"]')
        monkeypatch.setattr("mercure_hub.storage.sqlite.retention.EVENTS_BYTES", 2 * size + 1)
        for _ in range(2):
            assert self.left(log, Retention()) == [1, 4, 5, 6]
        assert log.everything()[1:] == entries[2:]
        assert log.topic_rows() == 4
        beginning = log.store.beginning(6)
        assert (beginning.updates, beginning.events) == (1, 4)

    @pytest.mark.parametrize("max_age", [0.0, 3 * DAY, 60.0])
    def test_they_are_kept_for_a_day_and_no_longer_than_updates(self, log: Log, max_age: float) -> None:
        log.announce("old", "older")
        log.now += min(max_age or DAY, DAY) - 1
        assert self.left(log, Retention(max_age=max_age)) == [1, 2]
        log.now += 2
        assert self.left(log, Retention(max_age=max_age)) == []

    def test_in_a_log_of_several_processes_they_stay_for_the_grace(self, log: Log) -> None:
        log.announce("x")
        assert self.left(log, Retention(max_age=1.0), grace=30.0, now=log.now + 29) == [1]
        assert self.left(log, Retention(max_age=1.0), grace=30.0, now=log.now + 31) == []

    def test_the_writer_discards_them_without_bounds_for_updates(
        self, open_log: Opener, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(SqliteLink, "discard_interval", 0.002)
        monkeypatch.setattr(Store, "look_interval", 0.002)
        log = open_log()
        log.append(update("a"))
        log.announce("x")
        log.now += 2 * DAY
        until(lambda: log.sequences() == [1])
        log.announce("y")
        log.close()
        again = open_log()
        again.now = log.now + 2 * DAY
        until(lambda: again.sequences() == [1])

    def test_a_reader_misses_only_what_it_reads(self, log: Log) -> None:
        log.append(update("a"))  # 1
        log.announce("x", "y")  # 2 and 3
        log.append(update("a"), update("a"))  # 4 and 5
        log.announce("z")  # 6
        log.now += DAY + 1
        self.left(log, Retention(size=1))
        beginning = log.store.read(0, 6, None, 10).beginning
        assert (beginning.updates, beginning.events) == (5, 7)
        for after, lacks, lacks_events in [
            (0, True, True),
            (3, True, True),
            (4, False, True),
            (6, False, False),
        ]:
            assert beginning.lacks(after, events=False) is lacks
            assert beginning.lacks(after, events=True) is lacks_events
        assert not beginning.lacks(5, beginning, events=True)

    def test_many_updates_and_events_go_in_steps(self, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("mercure_hub.storage.trimming.STEP", 10)
        for _ in range(30):
            log.append(update("a"))
            log.announce("x")
        trimmer = Trimmer(Retention(size=3, max_age=60.0))
        log.now += 61
        for _ in range(3):
            with beside_as_hub(log) as connection:
                assert trimmer.step(connection, log.now, 0.0) == 10
        assert log.sequences() == []
        log.append(update("a"), update("a"), update("a"), update("a"))
        with beside_as_hub(log) as connection:
            assert trimmer.step(connection, log.now, 0.0) == 1
        assert log.sequences() == [62, 63, 64]

    @staticmethod
    def left(log: Log, kept: Retention, *, grace: float = 0.0, now: float | None = None) -> list[int]:
        with beside_as_hub(log) as connection:
            Trimmer(kept).step(connection, log.now if now is None else now, grace)
        return log.sequences()


class TestJump:
    """The clock is set by a day, and all that is stored looks a day older."""

    @pytest.fixture
    def log(self, open_log: Opener) -> Log:
        log = open_log(Retention(max_age=12 * 3600.0))
        log.append(*[update() for _ in range(5)])
        trim(log)
        return log

    def test_nothing_is_discarded_by_its_age(self, log: Log, caplog: pytest.LogCaptureFixture) -> None:
        log.ahead = DAY
        trim(log)
        log.now += 60
        trim(log)
        assert log.sequences()[0] == 1
        assert caplog.text.count("the clock was set by +86400 s") == 1

    def test_after_an_hour_it_is(self, log: Log) -> None:
        log.ahead = DAY
        trim(log)
        log.now += 3600
        trim(log)
        assert log.sequences()[0] > 5

    def test_after_a_reload_it_is(self, log: Log) -> None:
        log.ahead = DAY
        trim(log)
        log.store.trust_clock()
        trim(log)
        assert log.sequences()[0] > 5

    def test_a_clock_that_was_set_right_again(self, log: Log) -> None:
        log.ahead = DAY
        trim(log)
        log.now += 60
        log.ahead = 0.0
        trim(log)
        log.now += 60
        trim(log)
        assert log.sequences()[0] == 1
        log.now += 11.98 * 3600
        trim(log)
        assert 5 < log.sequences()[0] < 10

    def test_the_number_still_bounds(self, open_log: Opener) -> None:
        log = open_log(Retention(size=3, max_age=12 * 3600.0))
        log.append(*[update() for _ in range(5)])
        log.ahead = DAY
        trim(log)
        log.now += 60
        trim(log)
        assert log.sequences()[0] > 1


@contextmanager
def beside_as_hub(log: Log) -> Iterator[sqlite3.Connection]:
    """A connection in a transaction that writes."""
    with closing(Database(str(log.path)).connect()) as connection, writing(connection):
        yield connection
