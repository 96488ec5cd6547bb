"""Text that comes bit by bit: grouped, in order, with an end that subscribers can tell."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask, current_app, request

from flask_mercure import InvalidArgument, Mercure, MercureError, PublishError
from flask_mercure.extension import state_of
from flask_mercure.publishing.token_stream import Grouping, stream
from tests.flask_mercure.fake_hub import Answer, make_app, running
from tests.flask_mercure.real_hub import app_on
from tests.hub.running import RunningHub

PATIENCE = 10.0
mercure = Mercure()
AT_ONCE = Grouping(interval=0)


class Sink:
    """Takes updates; ``busy`` is the hub that has not answered yet."""

    def __init__(self) -> None:
        self.updates: list[dict[str, Any]] = []
        self.free = threading.Event()
        self.free.set()
        self.got = threading.Semaphore(0)

    def publish(self, update: dict[str, Any]) -> None:
        assert self.free.wait(PATIENCE)
        self.updates.append(update)
        self.got.release()

    def wait(self) -> None:
        assert self.got.acquire(timeout=PATIENCE)


def test_the_text_arrives_whole_and_in_order() -> None:
    sink = Sink()
    words = [f"word{n} " for n in range(500)]
    assert stream(words, sink.publish, AT_ONCE, stream_id="s") == "".join(words)
    *pieces, last = sink.updates
    assert "".join(piece["text"] for piece in pieces) == "".join(words)
    assert last == {"stream": "s", "seq": len(pieces), "kind": "done", "text": "".join(words)}
    assert [update["seq"] for update in sink.updates] == list(range(len(sink.updates)))
    assert {piece["kind"] for piece in pieces} == {"text"}


def test_what_comes_while_the_hub_is_busy_is_one_update() -> None:
    sink = Sink()

    def words() -> Iterator[str]:
        yield "first"
        sink.wait()
        sink.free.clear()
        yield "a"
        time.sleep(0.05)  # until the writer has taken it
        yield from "bcd"
        sink.free.set()

    stream(words(), sink.publish, AT_ONCE)
    texts = [update["text"] for update in sink.updates if update["kind"] == "text"]
    assert texts[0] == "first"
    assert len(texts) <= 3
    assert "".join(texts) == "firstabcd"


def test_an_interval_groups() -> None:
    sink = Sink()
    stream(iter("abcdef"), sink.publish, Grouping(interval=30))
    texts = [update["text"] for update in sink.updates if update["kind"] == "text"]
    assert len(texts) <= 2  # the first piece leaves at once, and the end does not wait
    assert "".join(texts) == "abcdef"


def test_much_text_does_not_wait_for_the_interval() -> None:
    sink = Sink()

    def words() -> Iterator[str]:
        yield "x"
        sink.wait()
        yield "y" * 10
        sink.wait()

    started = time.monotonic()
    stream(words(), sink.publish, Grouping(interval=30, size=10))
    assert time.monotonic() - started < PATIENCE
    assert [update.get("text") for update in sink.updates[:2]] == ["x", "y" * 10]


def test_a_piece_leaves_while_the_source_hesitates() -> None:
    sink = Sink()

    def words() -> Iterator[str]:
        yield "a"
        sink.wait()
        yield "b"
        sink.wait()  # nothing more comes until it is out

    stream(words(), sink.publish, Grouping(interval=0.05))
    assert [update["text"] for update in sink.updates] == ["a", "b", "ab"]


def test_a_slow_hub_holds_the_source_back() -> None:
    sink = Sink()
    sink.free.clear()
    made = []

    def words() -> Iterator[str]:
        for number in range(1000):
            made.append(number)
            yield "x"

    thread = threading.Thread(target=lambda: stream(words(), sink.publish, Grouping(interval=0, size=1)))
    thread.start()
    time.sleep(0.1)
    held_at = len(made)
    sink.free.set()
    thread.join(PATIENCE)
    assert held_at <= 130
    assert len(made) == 1000


def test_a_source_that_raises() -> None:
    sink = Sink()
    closed = []

    def words() -> Iterator[str]:
        try:
            yield "half"
            raise LookupError("the-secret")
        finally:
            closed.append(True)

    with pytest.raises(LookupError):
        stream(words(), sink.publish, AT_ONCE, error="Try again.")
    assert closed == [True]
    assert sink.updates[-1]["kind"] == "error"
    assert sink.updates[-1]["message"] == "Try again."
    assert "the-secret" not in str(sink.updates)
    assert sink.updates[0]["text"] == "half"


def test_a_hub_that_fails_ends_the_source() -> None:
    closed = []

    def words() -> Iterator[str]:
        try:
            while True:
                yield "x"
        finally:
            closed.append(True)

    def publish(_: object) -> None:
        raise PublishError("no")

    with pytest.raises(PublishError, match="no"):
        stream(words(), publish, AT_ONCE)
    assert closed == [True]
    with pytest.raises(PublishError, match="no"):
        stream([], publish, AT_ONCE)
    assert [thread.name for thread in threading.enumerate() if thread.name == "mercure-stream"] == []


def test_what_is_no_text() -> None:
    sink = Sink()
    with pytest.raises(TypeError, match="NoneType"):
        stream(["a", None], sink.publish, AT_ONCE)  # type: ignore[list-item]
    assert sink.updates[-1]["kind"] == "error"
    assert stream(["", ""], sink.publish, AT_ONCE) == ""


@pytest.mark.parametrize(("interval", "size"), [(-1, 1), (61, 1), (1, 0), (float("nan"), 1)])
def test_values_out_of_range(interval: float, size: int) -> None:
    with pytest.raises(InvalidArgument):
        Grouping(interval, size)


@pytest.mark.minutes
def test_a_view_streams_to_its_subscribers(hub: RunningHub) -> None:
    with app_on(hub, mercure) as app:

        @app.post("/ask")
        def ask() -> str:
            def words() -> Iterator[str]:
                for word in request.form["question"].split():
                    yield f"{word} {current_app.name} "

            return mercure.stream("answers/1", words(), private=True, type="answer", interval=0)

        with mercure.subscribe("answers/1") as events:
            answer = app.test_client().post("/ask", data={"question": "a b c"}).text
            text = ""
            while (event := events.wait(PATIENCE)).json()["kind"] == "text":
                text += event.json()["text"]
                assert event.type == "answer"
        assert text == event.json()["text"] == answer == "a sample b sample c sample "


def test_nothing_starts_with_a_wrong_argument() -> None:
    started: list[str] = []

    def words() -> Iterator[str]:
        started.append("x")
        yield "x"

    with make_app(URL="http://127.0.0.1:9/").app_context():
        cases: list[tuple[Any, dict[str, Any]]] = [
            ("*", {}),
            ([], {}),
            ("a", {"type": "mercure"}),
            ("a", {"interval": -1}),
        ]
        for topics, options in cases:
            with pytest.raises(MercureError):
                mercure.stream(topics, words(), **options)
    assert started == []


@pytest.mark.minutes
def test_a_hub_that_is_down() -> None:
    with running() as fake:
        fake.answers = [Answer(b"", 503)]
        app: Flask = make_app(URL=fake.url)
        with app.app_context(), pytest.raises(PublishError, match="503"):
            mercure.stream("a", iter("abc"), interval=0)
        state_of(app).publisher.close()
