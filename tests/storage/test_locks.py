"""The lock file of a log: seats of processes that live, and the turn to write."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from mercure_hub.storage.sqlite.locks import Seats, TurnTimeout
from mercure_hub.storage.sqlite.numbered_locks import ByteLocks, FileLocks, numbered_locks
from tests.storage.log import until, waiting_for_locks

pytestmark = pytest.mark.minutes

TAKES_A_SEAT = """
import fcntl, sys
if sys.argv[2] == "files":
    vars(fcntl).pop("F_OFD_SETLK", None)
from mercure_hub.storage.sqlite.locks import Seats, TurnTimeout
seats = Seats(sys.argv[1])
print(seats.take(), flush=True)
with seats.turn():
    print("turn", flush=True)
    sys.stdin.readline()
sys.stdin.readline()
"""


@pytest.fixture(autouse=True, params=["bytes", "files"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The locks that the system has."""
    if request.param == "files":
        monkeypatch.delattr(fcntl, "F_OFD_SETLK", raising=False)
    elif not hasattr(fcntl, "F_OFD_SETLK"):
        pytest.skip("no locks on bytes here")
    yield str(request.param)
    for thread in threading.enumerate():  # whoever gave up waiting goes on once nobody has the lock
        if thread.name == "mercure-turn":
            thread.join(10)


@pytest.fixture
def _bytes_only(kind: str) -> None:
    """About a program that locks bytes of the lock file."""
    if kind == "files":
        pytest.skip("such a lock is not in the way of those on files")


@contextmanager
def another_process(path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process with a seat and the turn, until it is given a line."""
    with subprocess.Popen(
        [
            *(sys.executable, "-c", TAKES_A_SEAT, str(path)),
            "bytes" if hasattr(fcntl, "F_OFD_SETLK") else "files",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline().strip().isdigit()
        assert child.stdout.readline() == "turn\n"
        try:
            yield child
        finally:
            child.kill()


def test_elsewhere_locks_are_those_of_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever its module ``fcntl`` knows: its struct flock is not that of Linux."""
    monkeypatch.setattr(sys, "platform", "darwin")
    with closing(numbered_locks(str(tmp_path / "lock"), create=True)) as locks:
        assert isinstance(locks, FileLocks)


def test_each_takes_the_first_free_seat(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    with closing(Seats(path)) as first, closing(Seats(path)) as second, closing(Seats(path)) as third:
        assert [first.take(), second.take(), third.take()] == [0, 1, 2]
        assert all(first.is_taken(seat) for seat in (0, 1, 2))
        assert not first.is_taken(3)
        second.close()
        assert not first.is_taken(1)
        with closing(Seats(path)) as fourth:
            assert fourth.take() == 1
            assert third.is_taken(1)


def test_looking_takes_nothing(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    with closing(Seats(path)) as looks, closing(Seats(path)) as comes:
        assert not looks.is_taken(0)
        assert comes.take() == 0


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_who_dies_lets_go(tmp_path: Path, number: signal.Signals) -> None:
    path = tmp_path / "lock"
    with closing(Seats(str(path))) as seats, another_process(path) as child:
        assert seats.is_taken(0)
        assert seats.take() == 1
        child.send_signal(number)
        child.wait()
        assert not seats.is_taken(0)
        with seats.turn():
            pass


def test_a_turn_waits_for_the_other_process(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    got = threading.Event()
    with closing(Seats(str(path))) as seats, another_process(path) as child:

        def wait() -> None:
            with seats.turn():
                got.set()

        waits = threading.Thread(target=wait)
        waits.start()
        assert not got.wait(0.05)
        assert child.stdin is not None
        child.stdin.write("\n")
        child.stdin.flush()
        assert got.wait(10)
        waits.join()


def test_a_turn_waits_for_the_other_thread(tmp_path: Path) -> None:
    got = threading.Event()
    with closing(Seats(str(tmp_path / "lock"))) as seats:

        def wait() -> None:
            with seats.turn():
                got.set()

        waits = threading.Thread(target=wait)
        with seats.turn():
            waits.start()
            assert not got.wait(0.05)
        assert got.wait(10)
        waits.join()


def test_who_waits_for_the_turn_gets_it_before_who_has_just_had_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    order: list[str] = []
    with closing(Seats(str(path))) as busy, closing(Seats(str(path))) as late:

        def wait() -> None:
            with late.turn():
                order.append("late")

        for _ in range(30):
            waits = threading.Thread(target=wait)
            with busy.turn():
                waits.start()
                until(lambda: waiting_for_locks(path))
            with busy.turn():
                order.append("busy")
            waits.join()
    assert order == ["late", "busy"] * 30


def test_the_turn_ends_with_an_error(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    with closing(Seats(path)) as first, closing(Seats(path)) as second:
        with pytest.raises(ZeroDivisionError), first.turn():
            raise ZeroDivisionError
        with second.turn():
            pass


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Seats(str(tmp_path / "missing" / "lock"))


def test_a_descriptor_is_not_inherited(tmp_path: Path) -> None:
    with closing(Seats(str(tmp_path / "lock"))) as seats:
        assert not os.get_inheritable(seats._locks.fileno())


def test_the_others_are_counted(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    several = [Seats(path) for _ in range(20)]
    for seats in several:
        seats.take()
    assert [seats.others() for seats in several] == [19] * 20
    for seats in several[3:9]:
        seats.close()
    assert several[0].others() == several[19].others() == 13
    for seats in several:
        seats.close()


@pytest.mark.parametrize("count", [1, 16, 17, 40])
def test_those_in_late_seats_are_counted_when_all_before_them_have_left(tmp_path: Path, count: int) -> None:
    """After a hand-over, the workers of the hub before have left as many free seats as there were workers."""
    path = str(tmp_path / "lock")
    before = [Seats(path) for _ in range(count)]
    after = [Seats(path) for _ in range(count)]
    for one in (*before, *after):
        one.take()
    for one in before:
        one.close()
    try:
        assert {one.others() for one in after} == {count - 1}
    finally:
        for one in after:
            one.close()


def test_a_process_that_writes_is_counted_once(tmp_path: Path) -> None:
    """The locks of the turn and of the first seat are neighbours."""
    path = str(tmp_path / "lock")
    with closing(Seats(path)) as first, closing(Seats(path)) as second:
        first.take()
        second.take()
        with first.turn():
            assert second.others() == 1
            assert second.is_taken(0)


@pytest.mark.usefixtures("_bytes_only")
def test_a_lock_on_the_whole_file_is_counted_once(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with closing(Seats(str(path))) as seats, path.open() as foreign:
        fcntl.lockf(foreign, fcntl.LOCK_SH)
        assert seats.others() == 1


class TestBound:
    def test_a_turn_that_does_not_come_is_given_up(self, tmp_path: Path) -> None:
        path = tmp_path / "lock"
        with closing(Seats(str(path))) as seats, another_process(path):
            with pytest.raises(TurnTimeout, match=r"^another process has held"), seats.turn_within(0.02):
                pass
            assert seats.is_taken(0)

    @pytest.mark.usefixtures("_bytes_only")
    def test_who_reads_the_file_and_locks_it_is_named(self, tmp_path: Path) -> None:
        path = tmp_path / "lock"
        with closing(Seats(str(path))) as seats, path.open() as foreign:
            fcntl.lockf(foreign, fcntl.LOCK_SH)
            by_whom = rf"^process {os.getpid()} has held the lock on '{re.escape(str(path))}'"
            with pytest.raises(TurnTimeout, match=by_whom), seats.turn_within(0.02):
                pass

    def test_what_was_given_up_is_let_go_of_when_it_comes(self, tmp_path: Path) -> None:
        path = tmp_path / "lock"
        with closing(Seats(str(path))) as first, closing(Seats(str(path))) as second:
            with first.turn():
                with pytest.raises(TurnTimeout), second.turn_within(0.02):
                    pass
                assert waiting_for_locks(path) == 1
            with first.turn(), pytest.raises(TurnTimeout), second.turn_within(0.02):
                pass
            with first.turn_within(10):
                pass
        until(lambda: not any(thread.name == "mercure-turn" for thread in threading.enumerate()))

    def test_it_parts_threads_and_processes(self, tmp_path: Path) -> None:
        path = str(tmp_path / "lock")
        with closing(Seats(path)) as seats:
            with seats.turn_within(10), pytest.raises(TurnTimeout), seats.turn_within(0.02):
                pass
            with seats.turn(), pytest.raises(TurnTimeout), seats.turn_within(0.02):
                pass


@pytest.mark.parametrize("number", [0, 1025], ids=["the turn", "the place of who is next"])
def test_a_turn_that_cannot_be_let_go_of_stops_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, number: int
) -> None:
    path = str(tmp_path / "lock")
    locks = ByteLocks if kind == "bytes" else FileLocks
    unlock = locks.unlock

    def fails(self: Any, which: int) -> None:
        if which == number:
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
        unlock(self, which)

    with closing(Seats(path)) as first, closing(Seats(path)) as second:
        first.take()
        with monkeypatch.context() as patched:
            patched.setattr(locks, "unlock", fails)
            with contextlib.suppress(OSError), first.turn():
                pass
        for seats in (second, first):
            with seats.turn_within(10):
                pass
        assert second.is_taken(0)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_root_does_not_shut_out_the_owner_of_the_file(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "lock"
    path.touch()
    os.chown(path, 1234, 1234)
    with closing(Seats(str(path))) as seats, seats.turn():
        seats.take()
    assert {one.stat().st_uid for one in tmp_path.iterdir()} == {1234}
