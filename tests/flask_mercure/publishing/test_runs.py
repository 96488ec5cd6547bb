"""Runs: events on a topic of their own, with exactly one end, whatever happens to the job."""

from __future__ import annotations

import asyncio
import logging
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from flask_mercure import (
    HubUnreachable,
    InvalidArgument,
    Mercure,
    MercureError,
    PublishError,
    Refused,
    Run,
    URLPattern,
    build_topic,
)
from flask_mercure.publishing.runs import Attempt, Reading, joined
from flask_mercure.publishing.stream import Delivery, Grouping
from flask_mercure.updates import as_text
from tests.flask_mercure.fake_hub import make_app
from tests.flask_mercure.publishing.run_rules import GONE, RULES, STOPPED, TOPIC, done, some, start
from tests.flask_mercure.real_hub import app_on
from tests.hub.running import SECRET, RunningHub

PATIENCE = 10.0
mercure = Mercure()


@dataclass
class Published:
    """An update as a subscriber gets it."""

    data: str


class Topic:
    """A topic of a hub: its history, and subscriptions from its beginning."""

    def __init__(self) -> None:
        self.updates: list[dict[str, Any]] = []
        self.failures: list[Exception] = []
        self.changed = threading.Condition()
        self.closed = 0

    def publish(self, update: dict[str, Any], id: str = "") -> None:
        assert isinstance(id, str)
        if self.failures:
            raise self.failures.pop(0)
        with self.changed:
            self.updates.append(update)
            self.changed.notify_all()

    def wait_for(self, condition: Callable[[], bool]) -> None:
        with self.changed:
            assert self.changed.wait_for(condition, PATIENCE)

    def subscribe(self) -> Subscriber:
        return Subscriber(self)

    def attempt(self, subscribe: Any = None, interval: float = 0.0) -> Attempt:
        delivery = Delivery(self.publish, lambda *_: None, patience=0)
        return Attempt(TOPIC, delivery, Grouping(interval), subscribe or self.subscribe)

    def read(self) -> Reading:
        reading = Reading()
        for update in self.updates:
            reading.add(update)
        return reading

    @property
    def kinds(self) -> list[str]:
        return [update["kind"] for update in self.updates]


class Subscriber:
    def __init__(self, topic: Topic) -> None:
        self.topic = topic
        self.next = 0

    def wait(self, timeout: float | None = None) -> Published:
        with self.topic.changed:
            if not self.topic.changed.wait_for(lambda: len(self.topic.updates) > self.next, timeout):
                raise TimeoutError
        self.next += 1
        return Published(as_text(self.topic.updates[self.next - 1]))

    def close(self) -> None:
        with self.topic.changed:
            self.topic.closed += 1
            self.topic.changed.notify_all()


@pytest.fixture(autouse=True)
def context() -> Iterator[None]:
    with make_app(URL="http://127.0.0.1:9/").app_context():
        yield


@pytest.mark.parametrize(("updates", "ended", "events"), RULES)
def test_what_updates_tell_of_a_run(updates: list[Any], ended: str | None, events: list[Any]) -> None:
    reading = Reading()
    for update in updates:
        reading.add(update)
    assert (reading.ended, reading.events) == (ended, events)


@pytest.mark.parametrize(
    "junk",
    [
        *("text", None, 7, [], {}, {"kind": "start"}, {"kind": ["done"]}),
        {"kind": "events", "stream": "a", "seq": 1, "events": 1},
        {"kind": "events", "stream": "a", "seq": "1", "events": []},
        {"kind": "events", "stream": 7, "seq": 1, "events": []},
    ],
)
def test_what_is_no_update_of_a_run_is_ignored(junk: Any) -> None:
    reading = Reading()
    reading.add(junk)
    assert reading == Reading()


def test_strings_that_follow_each_other_are_joined() -> None:
    assert list(joined(["a", "b", {"c": 1}, {"d": 2}, "e", 3, "f", "g"])) == [
        "ab",
        {"c": 1},
        {"d": 2},
        "e",
        3,
        "fg",
    ]
    assert Run("done", ["ab", {"c": 1}, "d"]).text == "abd"


def test_events_arrive_in_order_and_end_once() -> None:
    topic = Topic()
    given = [{"type": "start"}, *({"type": "delta", "n": n} for n in range(500)), {"type": "finish"}]
    run = topic.attempt().publish(iter(given), "Sorry.")
    assert run == Run("done", given)
    assert topic.kinds[0] == "start"
    assert topic.kinds[-1] == "done"
    assert set(topic.kinds[1:-1]) == {"events"}
    assert [update["seq"] for update in topic.updates] == list(range(len(topic.updates)))
    assert {update["run"] for update in topic.updates} == {TOPIC}
    assert len({update["stream"] for update in topic.updates}) == 1
    assert topic.read().events == given
    assert topic.closed == 1


def test_events_within_an_interval_are_one_update() -> None:
    topic = Topic()
    run = topic.attempt(interval=30).publish(["a", "b", {"tool": 1}, "c", "d"], "Sorry.")
    assert run.events == ["ab", {"tool": 1}, "cd"]
    assert len(topic.updates) <= 4  # the first one may leave alone, and the end does not wait
    assert list(joined(topic.read().events)) == run.events


def test_events_are_copied_when_they_are_given() -> None:
    topic = Topic()

    def reused() -> Iterator[dict[str, int]]:
        event = {"n": 0}
        for n in range(3):
            event["n"] = n
            yield event

    run = topic.attempt(interval=30).publish(reused(), "Sorry.")
    assert run.events == topic.read().events == [{"n": 0}, {"n": 1}, {"n": 2}]


def test_what_cannot_be_written_as_json_ends_the_run() -> None:
    topic = Topic()
    with pytest.raises(TypeError):
        topic.attempt().publish(["a", object()], "Sorry.")
    assert topic.updates[-1]["kind"] == "error"


def test_a_source_that_raises_ends_the_run_unless_it_is_tried_again() -> None:
    def broken() -> Iterator[str]:
        yield "half"
        raise LookupError("the-secret")

    topic = Topic()
    with pytest.raises(LookupError):
        topic.attempt().publish(broken(), None)
    assert topic.kinds == ["start", "events"]
    with pytest.raises(LookupError):
        topic.attempt().publish(broken(), "Try again.")
    assert topic.kinds == ["start", "events", "start", "events", "error"]
    assert topic.updates[-1]["message"] == "Try again."
    assert "the-secret" not in str(topic.updates)
    assert topic.closed == 2


def never() -> Iterator[str]:
    """A source that must not be started."""
    yield from ()
    raise AssertionError("the source was started")


def test_a_job_that_crashed_before_its_end_is_tried_again() -> None:
    topic = Topic()
    topic.updates = [start("a"), some("a", 1, "half an ans")]
    assert topic.attempt().publish(["another answer"], "Sorry.") == Run("done", ["another answer"])
    reading = topic.read()
    assert (reading.ended, reading.events) == ("done", ["another answer"])
    assert topic.kinds.count("done") == 1


@pytest.mark.parametrize("last", [done("a", 3), STOPPED, GONE])
def test_a_run_that_has_ended_is_not_begun_again(last: dict[str, Any]) -> None:
    topic = Topic()
    topic.updates = [start("a"), some("a", 1, "the ans"), some("a", 2, "wer"), last]
    run = topic.attempt().publish(never(), "Sorry.")
    assert (run.ended, run.text) == (last["kind"], "the answer")
    assert topic.kinds[4:] == ["start"]


def test_a_run_is_stopped_before_it_begins() -> None:
    topic = Topic()
    topic.publish(STOPPED)
    assert topic.attempt().publish(never(), "Sorry.") == Run("stopped", [])


def test_a_run_is_stopped_from_elsewhere() -> None:
    topic = Topic()
    closed = []

    def endless() -> Iterator[str]:
        try:
            yield "some "
            topic.wait_for(lambda: "events" in topic.kinds)
            topic.publish(STOPPED)
            while True:
                yield ""  # until it is heard
        finally:
            closed.append(True)

    assert topic.attempt().publish(endless(), "Sorry.") == Run("stopped", ["some "])
    assert closed == [True]
    assert topic.kinds == ["start", "events", "stopped"]


def test_a_stop_is_noticed_while_the_source_gives_nothing() -> None:
    topic = Topic()

    def slow() -> Iterator[str]:
        topic.publish(STOPPED)
        topic.wait_for(lambda: topic.closed == 1)
        yield "late"

    assert topic.attempt().publish(slow(), "Sorry.") == Run("stopped", [])
    assert topic.kinds == ["start", "stopped"]


def test_an_attempt_gives_way_to_a_newer_one() -> None:
    topic = Topic()

    def endless() -> Iterator[str]:
        yield "some"
        topic.wait_for(lambda: "events" in topic.kinds)
        topic.publish(start("newer"))
        while True:
            yield ""

    run = topic.attempt().publish(endless(), "Sorry.")
    assert run.ended == "superseded"
    assert topic.kinds == ["start", "events", "start"]


def test_a_run_whose_topic_cannot_be_read_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    topic = Topic()

    def refuse() -> Any:
        raise Refused("the hub answered 403", 403)

    with caplog.at_level(logging.WARNING, "flask_mercure"):
        assert topic.attempt(refuse).publish(["a"], "Sorry.") == Run("done", ["a"])
    assert len(caplog.records) == 1
    assert "will not notice" in caplog.text


def test_a_run_follows_its_topic_once_the_hub_is_back() -> None:
    topic = Topic()
    attempts = []

    def subscribe() -> Subscriber:
        attempts.append(True)
        if len(attempts) < 3:
            raise HubUnreachable("restarting")
        return topic.subscribe()

    def words() -> Iterator[str]:
        topic.publish(STOPPED)
        while True:
            yield ""

    assert topic.attempt(subscribe).publish(words(), "Sorry.") == Run("stopped", [])


def test_the_source_does_not_start_while_the_hub_is_down() -> None:
    topic = Topic()
    topic.failures = [HubUnreachable("down")] * 9
    with pytest.raises(HubUnreachable, match="down"):
        topic.attempt().publish(never(), "Sorry.")
    topic.failures = [PublishError("no", status=403)]
    with pytest.raises(PublishError, match="no"):
        topic.attempt().publish(never(), "Sorry.")
    assert topic.kinds == ["error"]
    assert [thread.name for thread in threading.enumerate() if thread.name == "mercure-stream"] == []


async def tokens() -> AsyncIterator[str]:
    for word in ("a", "b", "c"):
        await asyncio.sleep(0)
        yield word


def test_an_asynchronous_run() -> None:
    topic = Topic()
    assert asyncio.run(topic.attempt().publish_async(tokens(), "Sorry.")).text == "abc"
    assert topic.kinds[-1] == "done"

    async def endless() -> AsyncIterator[str]:
        topic.publish(STOPPED)
        while True:
            await asyncio.sleep(0)
            yield ""

    stopped = Topic()
    topic = stopped
    assert asyncio.run(stopped.attempt().publish_async(endless(), "Sorry.")).ended == "stopped"

    cancelled = Topic()

    async def cancel() -> None:
        async def silent() -> AsyncIterator[str]:
            await asyncio.Event().wait()
            yield ""

        task = asyncio.create_task(cancelled.attempt().publish_async(silent(), "Sorry."))
        await asyncio.to_thread(cancelled.wait_for, lambda: cancelled.kinds == ["start"])
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel())
    assert cancelled.kinds == ["start", "error"]


def test_runs_of_an_app_are_private_and_recorded() -> None:
    with mercure.record() as updates:
        assert mercure.stream_events(TOPIC, ["a", "b"]).text == "ab"
        assert mercure.stream_events(TOPIC, tokens()).text == "abc"
        mercure.stop(TOPIC)
        mercure.stop(TOPIC, error="The worker is gone.")
    assert all(update.private and update.topic == TOPIC for update in updates)
    assert [update.json["kind"] for update in updates].count("done") == 2
    assert updates[-2].json == {"run": TOPIC, "kind": "stopped"}
    assert updates[-1].json == {"run": TOPIC, "kind": "error", "message": "The worker is gone."}


def test_what_is_no_source_of_events() -> None:
    with mercure.record() as updates:
        for wrong in (None, "text", 7):
            with pytest.raises(TypeError, match="iterable"):
                mercure.stream_events(TOPIC, wrong)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=r"mercure\.stream_events\(\)"):
            asyncio.run(mercure.astream_events(TOPIC, ["a"]))  # type: ignore[arg-type]
        for topic, options in (("*", {}), (TOPIC, {"interval": -1}), (TOPIC, {"type": "mercure"})):
            with pytest.raises(MercureError):
                mercure.stream_events(topic, never(), **options)
        with pytest.raises(InvalidArgument):
            mercure.stop("*")

        async def in_a_loop() -> None:
            mercure.stream_events(TOPIC, tokens())

        with pytest.raises(RuntimeError, match=r"await mercure\.astream_events\(\)"):
            asyncio.run(in_a_loop())
    assert updates == []


JOB = """
import sys
from flask import Flask
from flask_mercure import Mercure

url, secret, topic, is_first = *sys.argv[1:4], sys.argv[4] == "first"
app = Flask("job")
app.config.from_mapping(MERCURE_URL=url, MERCURE_JWT_SECRET=secret)
mercure = Mercure(app)


def tokens():
    if is_first:
        yield "half an ans"
        sys.stdin.read()  # killed here
    yield from ("another ", "answer")


with app.app_context():
    run = mercure.stream_events(topic, tokens(), interval=0)
print(run.ended, run.text)
"""


@contextmanager
def job(folder: Path, hub: RunningHub, topic: str, which: str) -> Iterator[subprocess.Popen[str]]:
    """A worker's process that runs the job."""
    script = folder / "job.py"
    script.write_text(JOB)
    with subprocess.Popen(
        [sys.executable, str(script), hub.url, SECRET, topic, which],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def follow(topic: str) -> Iterator[dict[str, Any]]:
    """The updates of a run from its beginning, up to its end."""
    with mercure.subscribe(topic, "earliest") as events:
        while True:
            update = events.wait(PATIENCE).json()
            yield update
            if update["kind"] in ("done", "stopped", "error"):
                return


@pytest.mark.minutes
@pytest.mark.every_engine
def test_a_worker_is_killed_and_its_job_is_tried_again(hub: RunningHub, tmp_path: Path) -> None:
    with app_on(hub, mercure):
        with job(tmp_path, hub, "runs/killed", "first") as first:
            for update in follow("runs/killed"):
                if update["kind"] == "events":
                    first.send_signal(signal.SIGKILL)
                    break
            first.wait()
        for _ in range(2):  # the second time it had ended, and its worker died before it said so
            with job(tmp_path, hub, "runs/killed", "again") as again:
                assert again.communicate(timeout=30)[0] == "done another answer\n"
        reading = Reading()
        for update in follow("runs/killed"):
            reading.add(update)
        assert (reading.ended, "".join(reading.events)) == ("done", "another answer")
        with mercure.subscribe("runs/killed", "earliest", timeout=0.5) as events:
            kinds = [event.json()["kind"] for event in events]
        assert kinds.count("done") == 1


@pytest.mark.minutes
def test_a_run_in_another_process_is_stopped(hub: RunningHub, tmp_path: Path) -> None:
    with app_on(hub, mercure), job(tmp_path, hub, "runs/stopped", "first") as worker:
        updates = follow("runs/stopped")
        assert next(updates)["kind"] == "start"
        assert next(updates)["events"] == ["half an ans"]
        mercure.stop("runs/stopped")
        assert next(updates) == {
            "run": "runs/stopped",
            "kind": "stopped",
        }  # the page need not wait for the job
        assert worker.communicate(timeout=30)[0] == "stopped half an ans\n"


@pytest.mark.minutes
def test_a_run_that_is_stopped_twice_is_stopped_once(hub: RunningHub) -> None:
    with app_on(hub, mercure):
        for _ in range(2):
            mercure.stop("runs/twice")
        with mercure.subscribe("runs/twice", "earliest", timeout=0.5) as events:
            assert [event.json()["kind"] for event in events] == ["stopped"]


@pytest.mark.minutes
def test_a_pattern_grants_the_runs_of_one_user(hub: RunningHub) -> None:
    with app_on(hub, mercure):
        topic = build_topic("/users/{}/runs/{}", 7, "a*b/../../8/runs/1")
        mercure.stream_events(topic, ["for 7"])
        mercure.publish("/public", "for all", private=False)

        def seen(user: int) -> list[str]:
            token = mercure.create_token([URLPattern.build("/users/{}/runs/*", user)])
            everything = (("match", "*"), ("last_event_id", "earliest"))
            stream = hub.subscribe(everything, token)
            found: list[str] = []
            while (event := stream.next()).data != "for all":
                found.append(event.data)
            return found

        assert sum("for 7" in data for data in seen(7)) == 1
        assert not any("for 7" in data for data in seen(8))
