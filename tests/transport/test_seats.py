"""The lock file of a log: seats of processes that live, and the turn to write."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from hub.transport.seats import Seats
from tests.transport.log import until, waiting_for_locks

pytestmark = pytest.mark.minutes

TAKES_A_SEAT = """
import sys
from hub.transport.seats import Seats
seats = Seats(sys.argv[1])
print(seats.take(), flush=True)
with seats.turn():
    print("turn", flush=True)
    sys.stdin.readline()
sys.stdin.readline()
"""


@contextmanager
def another_process(path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process with a seat and the turn, until it is given a line."""
    with subprocess.Popen(
        [sys.executable, "-c", TAKES_A_SEAT, str(path)],
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
        assert not os.get_inheritable(seats._fd)


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
