"""The queue of a process: order, repeats, its end, a full one, a fork."""

from __future__ import annotations

import logging
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import jwt
import pytest

from flask_mercure import HubUnreachable, Mercure, PublishError, TokenError, TokenUnavailable
from flask_mercure.publishing.background import BackgroundCounters, BackgroundQueue
from flask_mercure.publishing.pipeline import pipeline_of
from flask_mercure.publishing.retry import MAX_ATTEMPTS
from flask_mercure.updates import Publication
from tests.flask_mercure.fake_hub import SECRET, Answer, make_app, running

pytestmark = pytest.mark.minutes

Send = Callable[[Publication], None]


@contextmanager
def queue(send: Send, size: int = 100, longest_delay: float = 30.0) -> Iterator[BackgroundQueue]:
    made = BackgroundQueue(send, size, longest_delay=longest_delay, chance=lambda: 0.0)
    try:
        yield made
    finally:
        made.close(0)


def update(data: str) -> Publication:
    return Publication(["a topic"], data, True, id=f"urn:x:{data}")


class Sink:
    """Records what is sent; raises what is planned, in turn."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.attempts: list[str] = []
        self.sent: list[str] = []

    def __call__(self, publication: Publication) -> None:
        self.attempts.append(publication.data)
        if self.errors:
            raise self.errors.pop(0)
        self.sent.append(publication.data)


def test_background_queue_sends_in_order() -> None:
    sink = Sink()
    with queue(sink) as waiting:
        for number in range(50):
            assert waiting.put(update(str(number)))
        assert waiting.join(10)
        assert sink.sent == [str(number) for number in range(50)]
        assert waiting.counters == BackgroundCounters(sent=50)


def test_background_queue_drops_updates_while_no_thread_can_be_started(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    sink = Sink()
    with queue(sink) as waiting:
        with monkeypatch.context() as limited:
            limited.setattr(threading.Thread, "start", fail)
            assert not waiting.put(update("1"))
        assert "urn:x:1 on ['a topic'] was not published: no thread" in caplog.text
        assert waiting.put(update("2"))
        assert waiting.join(10)
        assert waiting.counters == BackgroundCounters(sent=1, dropped=1)


def test_background_queue_repeats_and_holds_back_later_updates() -> None:
    sink = Sink(
        HubUnreachable("refused"),
        PublishError("busy", status=503),
        PublishError("slow", status=429, retry_after=0.01),
        HubUnreachable("no answer", possibly_published=True),
    )
    with queue(sink) as waiting:
        waiting.put(update("1"))
        waiting.put(update("2"))
        assert waiting.join(10)
        assert sink.attempts == ["1"] * 5 + ["2"]
        assert waiting.counters == BackgroundCounters(sent=2, retried=4)


@pytest.mark.parametrize(
    "error", [*[PublishError("no", status=status) for status in (400, 401, 403)], TokenError("no key")]
)
def test_background_queue_logs_a_refused_update_once(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    sink = Sink(error)
    with queue(sink) as waiting:
        waiting.put(update("secret data"))
        waiting.put(update("2"))
        assert waiting.join(10)
        assert sink.sent == ["2"]
        assert waiting.counters == BackgroundCounters(sent=1, failed=1)
    (record,) = caplog.records
    assert record.getMessage() == f"update urn:x:secret data on ['a topic'] was not published: {error}"


def test_background_queue_gives_up_after_the_last_attempt() -> None:
    sink, both_wait = Sink(*[PublishError("500", status=500)] * MAX_ATTEMPTS), threading.Event()

    def send(publication: Publication) -> None:
        assert both_wait.wait(10)  # an update is given up only if the hub takes others
        sink(publication)

    with queue(send, longest_delay=0.0) as waiting:
        waiting.put(update("1"))
        waiting.put(update("2"))
        both_wait.set()
        assert waiting.join(10)
        assert sink.sent == ["2"]


CUT = HubUnreachable("the connection broke before the answer", possibly_published=True)


class Picky:
    """A hub behind a proxy that cuts the connection when it sees some of the updates."""

    def __init__(self, *refused: str) -> None:
        self.refused = set(refused)
        self.attempts: list[str] = []
        self.sent: list[str] = []

    def __call__(self, publication: Publication) -> None:
        self.attempts.append(publication.data)
        if publication.data in self.refused:
            raise CUT
        self.sent.append(publication.data)


def on(topic: str, data: str) -> Publication:
    return Publication([topic], data, id=f"urn:x:{data}", private=False)


def test_background_queue_stops_only_the_topic_of_an_update_that_breaks_connections() -> None:
    sink = Picky("poison")
    with queue(sink) as waiting:
        for topic, data in (("big", "poison"), ("big", "behind"), *[(f"t{n}", str(n)) for n in range(50)]):
            waiting.put(on(topic, data))
        wait_for(lambda: len(sink.sent) == 50)
        assert sink.sent == [str(number) for number in range(50)]
        assert waiting.counters.waiting == 2
        sink.refused.clear()
        assert waiting.flush(10)
        assert sink.sent[-2:] == ["poison", "behind"]


@pytest.mark.parametrize("topic", ["big", "other"])
def test_background_queue_gives_up_what_the_hub_never_takes_while_it_takes_others(
    topic: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Be it the next update of the same topic that tells."""
    sink = Picky("poison")
    with queue(sink, longest_delay=0.0) as waiting:
        waiting.put(on("big", "poison"))
        wait_for(lambda: sink.attempts.count("poison") >= MAX_ATTEMPTS)
        waiting.put(on(topic, "fine"))
        assert waiting.join(10)
        assert sink.sent == ["fine"]
        assert waiting.counters.failed == 1
    assert "urn:x:poison on ['big'] was not published" in caplog.text


def test_background_queue_gives_up_nothing_while_the_hub_takes_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    sink = Picky("1", "2", "3")
    complete = threading.Event()

    def send(publication: Publication) -> None:
        complete.wait(10)
        sink(publication)

    with queue(send, longest_delay=0.0) as waiting:
        for data in "123":
            waiting.put(on(f"topic {data}", data))
        complete.set()
        wait_for(lambda: len(sink.attempts) > 5 * MAX_ATTEMPTS)
        sink.refused.clear()
        assert waiting.flush(10)
        assert sorted(sink.sent) == ["1", "2", "3"]
    assert "was not published" not in caplog.text


@pytest.mark.parametrize("count", [1, 3])
def test_background_queue_gives_up_nothing_while_a_proxy_answers_502(
    caplog: pytest.LogCaptureFixture, count: int
) -> None:
    sink = Sink()
    returned = threading.Event()

    def send(publication: Publication) -> None:
        if not returned.is_set():
            sink.attempts.append(publication.data)
            raise PublishError("Bad Gateway", status=502)
        sink(publication)

    with queue(send, longest_delay=0.0) as waiting:
        for number in range(count):
            waiting.put(on(f"topic {number}", str(number)))
        wait_for(lambda: len(sink.attempts) > 5 * MAX_ATTEMPTS * count)
        returned.set()
        assert waiting.join(10)
        assert sorted(sink.sent) == [str(number) for number in range(count)]
    assert "was not published" not in caplog.text


def test_background_queue_logs_an_outage_and_its_end_once(caplog: pytest.LogCaptureFixture) -> None:
    sink = Sink(*[HubUnreachable("no connection")] * 3)
    with queue(sink) as waiting:
        waiting.put(update("1"))
        assert waiting.join(10)
    assert [record.getMessage().partition(",")[0] for record in caplog.records] == [
        "updates in the background wait",
        "updates in the background are sent again",
    ]


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)  # what is behind another thread's attempts has no event


def test_background_thread_survives_an_unexpected_error(caplog: pytest.LogCaptureFixture) -> None:
    sink = Sink(ZeroDivisionError("in a token factory"))
    with queue(sink) as waiting:
        waiting.put(update("1"))
        waiting.put(update("2"))
        assert waiting.join(10)
        assert sink.sent == ["2"]
    assert "ZeroDivisionError" in caplog.text


def test_background_queue_drops_the_newest_when_full(caplog: pytest.LogCaptureFixture) -> None:
    inside, release = threading.Event(), threading.Event()

    def send(publication: Publication) -> None:
        inside.set()
        release.wait(10)

    with queue(send, 2) as waiting:
        assert waiting.put(update("1"))
        assert inside.wait(10)
        assert waiting.put(update("2"))
        assert not waiting.put(update("3"))
        assert waiting.counters == BackgroundCounters(waiting=2, dropped=1)
        release.set()
        assert waiting.join(10)
    assert "MERCURE_BACKGROUND_QUEUE=2" in caplog.text
    assert "urn:x:3" in caplog.text


def test_background_queue_closes_within_its_timeout(caplog: pytest.LogCaptureFixture) -> None:
    sink = Sink(*[HubUnreachable("down")] * 10_000)
    waiting = BackgroundQueue(sink, 10)
    waiting.put(update("1"))
    waiting.put(update("2"))
    waiting.close(0.3)
    assert waiting.counters.failed == 2
    assert caplog.text.count("before the hub could be reached") == 2
    assert not waiting.put(update("3"))


def test_background_queue_waits_once_in_a_process_that_ends_without_notice(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """And what may be lost is said, which nothing would say later."""
    sink = Sink(*[HubUnreachable("down")] * 10_000)
    waiting = BackgroundQueue(sink, 10, drain=0.2, ends_without_notice=lambda: True)
    for number in range(5):
        waiting.put(update(str(number)))
        waiting.save()
    waiting.close(0)
    said = [record.getMessage() for record in caplog.records if "without notice" in record.getMessage()]
    assert len(said) == 1
    assert "1 updates of it still wait for the hub" in said[0]


def test_publish_in_the_background() -> None:
    mercure = Mercure()
    with running() as hub:
        app = make_app(mercure, URL=hub.url, ON_FAILURE="background")
        with app.app_context():
            ids = [mercure.publish("a", str(number), private=False) for number in range(5)]
            waiting = pipeline_of(app).queue(mercure._state)
            assert waiting.join(10)
            assert pipeline_of(app).background["default"].sent == 5
            waiting.close(0)
            mercure._state.publisher.close()
        assert [dict(request.pairs)["id"] for request in hub.received] == ids


class Vault:
    """Gives the app its tokens; is away at first."""

    def __init__(self, failures: int) -> None:
        self.failures = failures

    def create(self, **_: object) -> str:
        if self.failures > 0:
            self.failures -= 1
            raise ConnectionError("vault.example refused the password hunter2")
        return jwt.encode({"mercure": {"publish": ["*"]}}, SECRET, "HS256")

    def __call__(self) -> str:
        return self.create()


@pytest.mark.parametrize("setting", ["TOKEN_PROVIDER", "TOKEN_FACTORY"])
def test_publish_treats_a_failing_token_provider_as_any_failure(
    setting: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Raised, logged, or tried again in the background, as asked; not an error of its own."""
    mercure = Mercure()
    with running() as hub:
        vault = Vault(2)
        app = make_app(mercure, URL=hub.url, **{setting: vault})
        with app.app_context():
            with pytest.raises(TokenUnavailable, match=r"raised ConnectionError in .*, line") as caught:
                mercure.publish("a", private=False)
            mercure.publish("a", on_failure="log", private=False)
            assert hub.received == []
            vault.failures = 2
            mercure.publish("a", on_failure="background", private=False)
            waiting = pipeline_of(app).queue(mercure._state)
            assert waiting.join(10)
            assert waiting.counters == BackgroundCounters(sent=1, retried=2)
            waiting.close(0)
            mercure._state.publisher.close()
        assert len(hub.received) == 1
    assert isinstance(caught.value.__cause__, ConnectionError)
    assert "was not published: no token to publish with: " in caplog.text
    assert "hunter2" not in caplog.text


def test_publish_logs_a_failure(caplog: pytest.LogCaptureFixture) -> None:
    mercure = Mercure()
    with running() as hub:
        hub.answers = [Answer(b"no", 503)]
        app = make_app(mercure, URL=hub.url)
        with app.app_context(), caplog.at_level(logging.WARNING, "flask_mercure"):
            id_ = mercure.publish("a", "secret data", private=True, on_failure="log")
            with pytest.raises(PublishError):
                mercure.publish("a", "x", private=False)
            with pytest.raises(ValueError, match="on_failure is 'ignore'"):
                mercure.publish("a", "x", on_failure="ignore", private=False)  # type: ignore[arg-type]
            mercure._state.publisher.close()
    lines = [record.getMessage() for record in caplog.records if "was not published" in record.getMessage()]
    assert len(lines) == 1
    assert id_ in lines[0]
    assert "secret" not in caplog.text


_PROGRAM = """
import os, sys
from flask import Flask
from flask_mercure import Mercure

mercure = Mercure()
app = Flask("worker")
app.config.update(MERCURE_URL=sys.argv[1], MERCURE_JWT_SECRET=sys.argv[2], MERCURE_ON_FAILURE="background")
mercure.init_app(app)
with app.app_context():
    mercure.publish("parent", "1")
    child = os.fork()
    if child == 0:
        mercure.publish("child", "2")
        mercure.publish("child", "3")
        sys.exit(0)
    mercure.publish("parent", "4")
    _, status = os.waitpid(child, 0)
    sys.exit(os.waitstatus_to_exitcode(status))
"""


def test_background_queues_of_a_process_and_its_fork_empty_at_exit() -> None:
    with running() as hub:
        arguments = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(_PROGRAM), hub.url, SECRET]
        assert subprocess.run(arguments, timeout=60, check=False).returncode == 0
        received = [(dict(request.pairs)["topic"], dict(request.pairs)["data"]) for request in hub.received]
    assert sorted(received) == [("child", "2"), ("child", "3"), ("parent", "1"), ("parent", "4")]
    assert [data for topic, data in received if topic == "child"] == ["2", "3"]


def test_background_queue_does_not_keep_a_process_alive() -> None:
    arguments = [
        sys.executable,
        "-W",
        "ignore",
        "-c",
        textwrap.dedent(_PROGRAM),
        "http://127.0.0.1:9/x",
        SECRET,
    ]
    ended = subprocess.run(arguments, timeout=60, check=False, capture_output=True, text=True)
    assert ended.returncode == 0
    assert ended.stderr.count("was not published") == 4
