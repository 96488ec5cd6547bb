"""The progress of a job: the newest state from time to time, and exactly one end."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from numbers import Integral
from typing import Any

import pytest

from flask_mercure import HubUnreachable, InvalidArgument, Mercure, PublishError
from flask_mercure.publishing.progress import FAILED, Progress, pause
from flask_mercure.publishing.stream import Delivery
from tests.flask_mercure.fake_hub import make_app

PATIENCE = 10.0
mercure = Mercure()


class Sink:
    """Takes updates; while it is not ``free``, it is a hub that has not answered yet.

    :param failures: what attempts raise, in turn; ``None`` for none. Later ones succeed.
    :param patience: seconds for which the hub may be away.
    """

    def __init__(self, failures: Sequence[Exception | None] = (), patience: float = PATIENCE) -> None:
        self.updates: list[dict[str, Any]] = []
        self.tried: list[str] = []
        self.logged: list[str] = []
        self.free = threading.Event()
        self.free.set()
        self.changed = threading.Condition()
        self.failures = list(failures)
        self.delivery = Delivery(
            self.publish, lambda id, _: self.logged.append(id), patience=patience, chance=lambda: 0.0
        )

    def publish(self, update: dict[str, Any], id: str) -> None:
        with self.changed:
            self.tried.append(id)
            self.changed.notify_all()
        assert self.free.wait(PATIENCE)
        failure = self.failures.pop(0) if self.failures else None
        if failure is not None:
            raise failure
        with self.changed:
            self.updates.append(update)
            self.changed.notify_all()

    def wait_for(self, condition: Callable[[], bool]) -> None:
        with self.changed:
            assert self.changed.wait_for(condition, PATIENCE)

    def progress(self, total: float | None = None, error: str | None = FAILED) -> Progress:
        return Progress(self.delivery, total, 0.05, error)

    @property
    def states(self) -> list[tuple[str, float]]:
        return [(update["state"], update["value"]) for update in self.updates]


def away() -> Exception:
    return HubUnreachable("no hub", possibly_published=False)


def test_a_job_from_its_beginning_to_its_end() -> None:
    sink = Sink()
    with sink.progress(total=3) as step:
        sink.wait_for(lambda: sink.states == [("running", 0)])  # before there is any step
        step(label="one")
        sink.wait_for(lambda: len(sink.updates) == 2)
        step(2)
        step.result = {"url": "/report"}
    assert sink.updates == [
        {"state": "running", "value": 0, "total": 3, "label": None},
        {"state": "running", "value": 1, "total": 3, "label": "one"},
        {"state": "done", "value": 3, "total": 3, "label": "one", "result": {"url": "/report"}},
    ]


def test_a_job_is_faster_than_its_hub() -> None:
    """What happens while an update is under way becomes one update, and the job does not wait."""
    sink = Sink()
    sink.free.clear()
    with sink.progress() as step:
        for _ in range(10_000):
            step()
        sink.free.set()
        sink.wait_for(lambda: len(sink.updates) == 2)
        step.set(7, label="again")
        sink.wait_for(lambda: len(sink.updates) == 3)
    assert sink.states == [("running", 0), ("running", 10_000), ("running", 7), ("done", 7)]


def test_the_last_step_before_a_long_pause_is_shown() -> None:
    sink = Sink()
    with sink.progress() as step:
        for number in range(5):
            step(label=f"page {number}")
        sink.wait_for(lambda: sink.updates[-1:] != [] and sink.updates[-1]["label"] == "page 4")


def test_nothing_is_published_while_nothing_changes() -> None:
    sink = Sink()
    with sink.progress() as step:
        sink.wait_for(lambda: len(sink.updates) == 1)
        step(0)
        step.set(0)
    assert sink.states == [("running", 0), ("done", 0)]


@pytest.mark.parametrize(
    ("elapsed", "expected"), [(0.0, 0.25), (25.0, 0.25), (60.0, 0.6), (3600.0, 36.0), (86400.0, 864.0)]
)
def test_intervals_become_longer(elapsed: float, expected: float) -> None:
    assert pause(0.25, elapsed) == expected


def test_a_day_leaves_some_hundreds_of_updates() -> None:
    elapsed, count = 0.0, 0
    while elapsed < 86400:
        elapsed += pause(0.25, elapsed)
        count += 1
    assert 500 < count < 1000


def test_items_are_counted_once_they_are_done() -> None:
    sink = Sink()
    with sink.progress() as step:
        values = [(item, step.value, step.total) for item in step.of("abc")]
        assert step.value == 3
    assert values == [("a", 0, 3), ("b", 1, 3), ("c", 2, 3)]


def test_items_without_a_length() -> None:
    sink = Sink()
    with sink.progress() as step:
        assert list(step.of(iter("ab"))) == ["a", "b"]
        assert step.total is None
        step.total = 9
    with sink.progress(total=7) as step:
        assert list(step.of("ab")) == ["a", "b"]
    assert [(one["value"], one["total"]) for one in sink.updates if one["state"] == "done"] == [
        (2, 9),
        (2, 7),
    ]


class Secret(Exception):
    pass


def test_a_job_that_fails_does_not_tell_why() -> None:
    sink = Sink()
    with pytest.raises(Secret), sink.progress(total=3) as step:
        step()
        step.result = "half"
        raise Secret("password")
    assert sink.updates[-1] == {
        "state": "failed", "value": 1, "total": 3, "label": None, "message": "The job has failed.",
    }  # fmt: skip
    assert sum(one["state"] != "running" for one in sink.updates) == 1


def test_a_job_that_fails_and_is_tried_again_has_not_ended() -> None:
    sink = Sink()
    with pytest.raises(Secret), sink.progress(error=None):
        raise Secret
    assert sink.states == [("running", 0)]


def test_a_hub_that_is_away_does_not_stop_the_job() -> None:
    """Steps are left out and logged once; the end is tried until the hub has it, under one id."""
    sink = Sink([away(), away(), None, away(), away(), away()])
    with sink.progress() as step:
        for number in range(1, 4):
            sink.wait_for(lambda number=number: len(sink.tried) == number)  # type: ignore[misc]
            step()
        sink.wait_for(lambda: len(sink.tried) == 4)
    assert sink.states == [("running", 2), ("done", 3)]
    assert sink.logged == [sink.tried[0], sink.tried[3]]
    assert len(set(sink.tried)) == 5
    assert sink.tried[4:] == [sink.tried[4]] * 3


@pytest.mark.parametrize(
    ("error", "patience"),
    [
        (away(), 0.0),
        (InvalidArgument("no"), PATIENCE),
        (PublishError("403", status=403, from_hub=True, possibly_published=False), PATIENCE),
    ],
)
def test_an_end_that_the_hub_never_takes_is_logged(error: Exception, patience: float) -> None:
    sink = Sink([None, error], patience)
    with sink.progress():
        sink.wait_for(lambda: len(sink.updates) == 1)
    assert sink.states == [("running", 0)]
    assert sink.logged == sink.tried[1:]
    assert len(sink.tried) == 2


def test_whoever_ends_the_process_does_not_wait_for_the_hub() -> None:
    sink = Sink([None, away(), away()])
    with pytest.raises(SystemExit), sink.progress():
        sink.wait_for(lambda: len(sink.updates) == 1)
        raise SystemExit
    assert len(sink.tried) == 2


def test_an_error_of_the_apps_own_does_not_stop_the_job(caplog: pytest.LogCaptureFixture) -> None:
    sink = Sink([Secret(), Secret(), None, Secret()])
    with sink.progress() as step:
        for number in range(1, 4):
            sink.wait_for(lambda number=number: len(sink.tried) == number)  # type: ignore[misc]
            step()
        sink.wait_for(lambda: len(sink.updates) == 1)
    assert [one.getMessage() for one in caplog.records] == [
        "the progress of a job is not published",
        "the end of a job is not published",
    ]


def test_several_threads_take_steps() -> None:
    sink = Sink()
    with sink.progress() as step:
        threads = [
            threading.Thread(target=lambda: [step() for _ in range(1000)])  # type: ignore[func-returns-value]
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sink.states[-1] == ("done", 4000)


class _Scalar(Fraction):
    """Counts as NumPy's integers do: it is none of Python's, and JSON does not know it."""


Integral.register(_Scalar)


def test_steps_are_counted_in_any_numbers() -> None:
    sink = Sink()
    with sink.progress(total=_Scalar(3)) as step:  # type: ignore[arg-type]
        step(_Scalar(2))  # type: ignore[arg-type]
        step(Fraction(1, 2))  # type: ignore[arg-type]
    assert json.dumps([sink.updates[-1]["value"], sink.updates[-1]["total"]]) == "[2.5, 3]"


@pytest.mark.parametrize(
    ("use", "error", "words"),
    [
        (lambda step: step(-1), InvalidArgument, "count is -1"),
        (lambda step: step.set(float("nan")), InvalidArgument, "value is nan"),
        (lambda step: step.set(True), InvalidArgument, "value is True"),
        (lambda step: step.set("7"), InvalidArgument, "value is '7'"),
        (lambda step: setattr(step, "total", float("inf")), InvalidArgument, "total is inf"),
        (lambda step: step(label=7), TypeError, "label is 7"),
        (lambda step: setattr(step, "result", b"x"), TypeError, "data is bytes"),
    ],
)
def test_what_is_no_step(use: Callable[[Progress], None], error: type[Exception], words: str) -> None:
    sink = Sink()
    with pytest.raises(error, match=words), sink.progress() as step:
        use(step)


def test_steps_are_taken_in_the_block() -> None:
    sink = Sink()
    step = sink.progress()
    with pytest.raises(RuntimeError, match=r"with mercure.progress\(...\) as step"):
        step()
    with step:
        step()
    with pytest.raises(RuntimeError, match="as step"):
        step()
    with pytest.raises(RuntimeError, match="as step"):
        step.set(3)


def test_it_is_private_and_has_a_type_of_its_own() -> None:
    app = make_app()
    with app.app_context(), mercure.record() as updates, mercure.progress("jobs/7", 2) as step:
        step(label="ä")
    assert {(one.topics[0], one.private, one.type) for one in updates} == {("jobs/7", True, "progress")}
    assert updates[-1].json == {"state": "done", "value": 1, "total": 2, "label": "ä"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"topic": "*"}, "wildcard"),
        ({"topic": "a", "interval": 0}, "interval is 0"),
        ({"topic": "a", "total": -1}, "total is -1"),
        ({"topic": "a", "type": "mercure"}, "reserved"),
    ],
)
def test_wrong_arguments_are_refused_before_the_job_starts(arguments: Any, words: str) -> None:
    app = make_app()
    with app.app_context(), pytest.raises(InvalidArgument, match=words):
        mercure.progress(**arguments)


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    assert [one.name for one in threading.enumerate() if one.name == "mercure-progress"] == []
