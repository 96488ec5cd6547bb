"""Blocking work in threads: what waits together goes together, and each gets its own outcome."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from types import SimpleNamespace

import gevent
import pytest
from gevent.hub import get_hub
from gevent.threadpool import ThreadPool

from mercure_hub.broker import threads
from mercure_hub.broker.threads import Lookups, in_thread, reserve_threads
from mercure_hub.protocol.errors import StorageAway, StorageError


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many functions each way into a thread took along."""
    counts: list[int] = []
    run_all = threads._run_all

    def noted(functions: Sequence[Callable[[], object]]) -> list[object]:
        counts.append(len(functions))
        return run_all(functions)

    monkeypatch.setattr(threads, "_run_all", noted)
    return counts


def test_one_lookup_runs_in_a_thread(begun: list[int]) -> None:
    lookups = Lookups()
    here = threading.get_ident()
    assert lookups.run(threading.get_ident) != here
    assert lookups.run(lambda: None) is None
    assert begun == [1, 1]


def test_each_of_a_hundred_lookups_gets_its_own_outcome(begun: list[int]) -> None:
    """A hundred at once: some fail, and nobody gets another's outcome."""
    lookups = Lookups()

    def work(number: int) -> int:
        if number % 7 == 3:
            raise StorageError(f"the disk is gone: {number}")
        return number * number

    def outcome(number: int) -> int | str:
        try:
            return lookups.run(lambda: work(number))
        except StorageError as error:
            return error.detail

    greenlets = [gevent.spawn(outcome, number) for number in range(100)]
    gevent.joinall(greenlets, timeout=20, raise_error=True)
    expected = [f"the disk is gone: {n}" if n % 7 == 3 else n * n for n in range(100)]
    assert [greenlet.value for greenlet in greenlets] == expected
    assert sum(begun) == 100
    assert max(begun) == 16
    assert len(begun) == 7


def test_two_lookups_run_at_once_and_a_third_waits(begun: list[int]) -> None:
    lookups = Lookups()
    gates = [threading.Event() for _ in range(3)]
    entered = [threading.Event() for _ in range(3)]

    def work(number: int) -> int:
        entered[number].set()
        assert gates[number].wait(20)
        return number

    greenlets = []
    for number in range(3):
        greenlets.append(gevent.spawn(lookups.run, lambda number=number: work(number)))
        gevent.sleep(0)
        gevent.sleep(0)  # a way into a thread of its own, if there is one
    pool = get_hub().threadpool
    assert pool.apply(lambda: entered[0].wait(20) and entered[1].wait(20))
    assert begun[:2] == [1, 1]
    assert not entered[2].is_set()  # and the event loop goes on meanwhile
    gates[1].set()
    assert pool.apply(lambda: entered[2].wait(20))
    assert [greenlet.ready() for greenlet in greenlets] == [False, True, False]
    gates[0].set()
    gates[2].set()
    gevent.joinall(greenlets, timeout=20, raise_error=True)
    assert [greenlet.value for greenlet in greenlets] == [0, 1, 2]


def test_a_killed_greenlet_keeps_no_other_from_its_outcome() -> None:
    lookups = Lookups()
    gate = threading.Event()
    blocked = gevent.spawn(lookups.run, lambda: gate.wait(20))
    second = gevent.spawn(lookups.run, lambda: 2)
    gevent.sleep(0)
    gevent.sleep(0)
    blocked.kill()
    gate.set()
    assert second.get(timeout=20) == 2
    assert lookups.run(lambda: 3) == 3


def test_lookups_wait_while_all_threads_are_busy(begun: list[int]) -> None:
    """It waits for one, and no lane is lost."""
    lookups = Lookups()
    pool = get_hub().threadpool
    gate = threading.Event()
    others = [gevent.spawn(pool.apply, gate.wait, (20,)) for _ in range(pool.maxsize)]
    gevent.sleep(0)
    gevent.sleep(0)
    waiting = [gevent.spawn(lookups.run, lambda number=number: number) for number in range(50)]
    for _ in range(5):
        gevent.sleep(0)
    assert begun == []
    gate.set()
    gevent.joinall([*others, *waiting], timeout=20, raise_error=True)
    assert [greenlet.value for greenlet in waiting] == list(range(50))
    assert lookups._busy == 0


@pytest.fixture
def no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system has no thread left, as with a TasksMax of systemd's."""

    def fail(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    pool = SimpleNamespace(apply=fail)
    hub = SimpleNamespace(threadpool=pool, loop=get_hub().loop)
    monkeypatch.setattr(gevent, "get_hub", lambda: hub)


@pytest.mark.usefixtures("no_thread")
@pytest.mark.parametrize("do", [in_thread, Lookups().run], ids=["alone", "together"])
def test_a_thread_that_cannot_be_started_is_an_error_of_the_storage(do: Callable[..., object]) -> None:
    for _ in range(5):  # and no lane is lost
        with pytest.raises(StorageError, match="can't start new thread; allow more threads"):
            do(lambda: None)


@pytest.mark.parametrize("do", [in_thread, Lookups().run], ids=["alone", "together"])
def test_reserved_threads_need_not_be_started(
    monkeypatch: pytest.MonkeyPatch, do: Callable[..., object]
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    reserve_threads()
    monkeypatch.setattr(ThreadPool, "_add_thread", fail)
    numbers = [gevent.spawn(do, lambda number=number: number) for number in range(100)]
    gevent.joinall(numbers, timeout=20, raise_error=True)
    assert [greenlet.value for greenlet in numbers] == list(range(100))


@pytest.mark.parametrize("do", [in_thread, Lookups().run], ids=["alone", "together"])
def test_a_runtime_error_of_a_function_is_raised_unchanged(do: Callable[..., object]) -> None:
    def fail() -> None:
        raise RuntimeError("a defect")

    with pytest.raises(RuntimeError, match="a defect"):
        do(fail)


def test_joint_calls_that_wait_together_are_one_call(begun: list[int]) -> None:
    lookups = Lookups()
    calls: list[list[int]] = []

    def squares(numbers: Sequence[int]) -> list[int]:
        calls.append(list(numbers))
        return [number * number for number in numbers]

    greenlets = [gevent.spawn(lookups.run_jointly, squares, number) for number in range(20)]
    greenlets.append(gevent.spawn(lookups.run, lambda: -1))
    gevent.joinall(greenlets, timeout=20, raise_error=True)
    results = [greenlet.value for greenlet in greenlets]
    assert results.pop() == -1
    assert results == [number * number for number in range(20)]
    assert [len(numbers) for numbers in calls] == [16, 4]
    assert begun == [16, 5]


def test_one_argument_that_fails_spoils_no_other() -> None:
    lookups = Lookups()

    def inverses(numbers: Sequence[int]) -> list[float]:
        return [1 / number for number in numbers]

    def outcome(number: int) -> float | str:
        try:
            return lookups.run_jointly(inverses, number)
        except ZeroDivisionError:
            return "no"

    greenlets = [gevent.spawn(outcome, number) for number in (1, 2, 0, 4)]
    gevent.joinall(greenlets, timeout=20, raise_error=True)
    assert [greenlet.value for greenlet in greenlets] == [1, 0.5, "no", 0.25]


def test_an_engine_that_is_away_is_asked_once() -> None:
    lookups = Lookups()
    asked: list[object] = []

    def resume(numbers: Sequence[int]) -> list[int]:
        asked.append(numbers)
        raise StorageAway("no route")

    def read() -> int:
        return resume([0])[0]

    def outcome(attempt: Callable[[], int]) -> StorageAway:
        with pytest.raises(StorageAway, match="no route") as caught:
            attempt()
        return caught.value

    ways = [lambda: lookups.run_jointly(resume, 1), lambda: lookups.run(read)] * 4
    greenlets = [gevent.spawn(outcome, way) for way in ways]
    gevent.joinall(greenlets, timeout=20, raise_error=True)
    assert len(asked) == 1
