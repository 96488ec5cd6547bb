"""Text that comes bit by bit: grouped, in order, with an end that subscribers can tell."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import pytest
from flask import Flask, current_app, request

from flask_mercure import HubUnreachable, InvalidArgument, Mercure, MercureError, PublishError
from flask_mercure.extension import state_of
from flask_mercure.publishing.pipeline import pipeline_of
from flask_mercure.publishing.stream import Delivery, Grouping, publish_async_text, publish_text
from tests.flask_mercure.fake_hub import Answer, make_app, running
from tests.flask_mercure.real_hub import app_on
from tests.hub.running import RunningHub

PATIENCE = 10.0
mercure = Mercure()
AT_ONCE = Grouping(interval=0)


class Sink:
    """Takes updates; without ``free`` it is a hub that has not answered yet.

    :param failures: what attempts raise, in turn; ``None`` for none. Later ones succeed.
    :param raises: the policy.
    :param patience: seconds for which the hub may be away.
    """

    def __init__(
        self, failures: Sequence[Exception | None] = (), *, raises: bool = True, patience: float = PATIENCE
    ) -> None:
        self.updates: list[dict[str, Any]] = []
        self.ids: list[str] = []
        self.tried: list[tuple[str, int]] = []
        self.logged: list[str] = []
        self.free = threading.Event()
        self.free.set()
        self.got = threading.Semaphore(0)
        self.failures = list(failures)
        self.delivery = Delivery(self.publish, lambda id, _: self.logged.append(id), raises, patience)

    def publish(self, update: dict[str, Any], id: str) -> None:
        assert self.free.wait(PATIENCE)
        self.tried.append((id, update["seq"]))
        failure = self.failures.pop(0) if self.failures else None
        if failure is not None:
            raise failure
        self.updates.append(update)
        self.ids.append(id)
        self.got.release()

    @property
    def kinds(self) -> list[str]:
        return [update["kind"] for update in self.updates]

    def wait(self) -> None:
        assert self.got.acquire(timeout=PATIENCE)


def test_stream_arrives_whole_and_in_order() -> None:
    sink = Sink()
    words = [f"word{n} " for n in range(500)]
    assert publish_text(words, sink.delivery, AT_ONCE, stream_id="s") == "".join(words)
    *pieces, last = sink.updates
    assert "".join(piece["text"] for piece in pieces) == "".join(words)
    assert last == {"stream": "s", "seq": len(pieces), "kind": "done", "text": "".join(words)}
    assert [update["seq"] for update in sink.updates] == list(range(len(sink.updates)))
    assert {piece["kind"] for piece in pieces} == {"text"}


def test_stream_joins_what_comes_while_the_hub_is_busy() -> None:
    sink = Sink()

    def words() -> Iterator[str]:
        yield "first"
        sink.wait()
        sink.free.clear()
        yield "a"
        time.sleep(0.05)  # until the writer has taken it
        yield from "bcd"
        sink.free.set()

    publish_text(words(), sink.delivery, AT_ONCE)
    texts = [update["text"] for update in sink.updates if update["kind"] == "text"]
    assert texts[0] == "first"
    assert len(texts) <= 3
    assert "".join(texts) == "firstabcd"


def test_stream_joins_text_within_an_interval() -> None:
    sink = Sink()
    publish_text(iter("abcdef"), sink.delivery, Grouping(interval=30))
    texts = [update["text"] for update in sink.updates if update["kind"] == "text"]
    assert len(texts) <= 2  # the first piece leaves at once, and the end does not wait
    assert "".join(texts) == "abcdef"


def test_stream_sends_a_full_piece_before_the_interval_ends() -> None:
    sink = Sink()

    def words() -> Iterator[str]:
        yield "x"
        sink.wait()
        yield "y" * 10
        sink.wait()

    started = time.monotonic()
    publish_text(words(), sink.delivery, Grouping(interval=30, size=10))
    assert time.monotonic() - started < PATIENCE
    assert [update.get("text") for update in sink.updates[:2]] == ["x", "y" * 10]


def test_stream_sends_a_piece_while_the_source_pauses() -> None:
    sink = Sink()

    def words() -> Iterator[str]:
        yield "a"
        sink.wait()
        yield "b"
        sink.wait()  # nothing more comes until it is out

    publish_text(words(), sink.delivery, Grouping(interval=0.05))
    assert [update["text"] for update in sink.updates] == ["a", "b", "ab"]


def test_stream_holds_the_source_back_while_the_hub_is_slow() -> None:
    sink = Sink()
    sink.free.clear()
    made = []

    def words() -> Iterator[str]:
        for number in range(1000):
            made.append(number)
            yield "x"

    thread = threading.Thread(
        target=lambda: publish_text(words(), sink.delivery, Grouping(interval=0, size=1))
    )
    thread.start()
    time.sleep(0.1)
    held_at = len(made)
    sink.free.set()
    thread.join(PATIENCE)
    assert held_at <= 130
    assert len(made) == 1000


def test_stream_of_a_source_that_raises() -> None:
    sink = Sink()
    closed = []

    def words() -> Iterator[str]:
        try:
            yield "half"
            raise LookupError("the-secret")
        finally:
            closed.append(True)

    with pytest.raises(LookupError):
        publish_text(words(), sink.delivery, AT_ONCE, error="Try again.")
    assert closed == [True]
    assert sink.updates[-1]["kind"] == "error"
    assert sink.updates[-1]["message"] == "Try again."
    assert "the-secret" not in str(sink.updates)
    assert sink.updates[0]["text"] == "half"


def test_stream_ends_the_source_when_the_hub_refuses() -> None:
    closed = []

    def words() -> Iterator[str]:
        try:
            while True:
                yield "x"
        finally:
            closed.append(True)

    refused = PublishError("no", status=403)
    sink = Sink([refused])
    with pytest.raises(PublishError, match="no"):
        publish_text(words(), sink.delivery, AT_ONCE, error="Sorry.")
    assert closed == [True]
    assert [(update["kind"], update["message"]) for update in sink.updates] == [("error", "Sorry.")]
    sink = Sink([refused])
    with pytest.raises(PublishError, match="no"):
        publish_text([], sink.delivery, AT_ONCE)
    assert [thread.name for thread in threading.enumerate() if thread.name == "mercure-stream"] == []


def test_stream_loses_nothing_during_a_short_outage() -> None:
    away = HubUnreachable("restarting")
    sink = Sink([None, away, away, PublishError("starting", status=503)])

    def words() -> Iterator[str]:
        yield "a"
        sink.wait()
        yield "b"

    assert publish_text(words(), sink.delivery, AT_ONCE) == "ab"
    assert [update["seq"] for update in sink.updates] == list(range(len(sink.updates)))
    assert sink.updates[-1]["text"] == "ab"
    assert "".join(update["text"] for update in sink.updates[:-1]) == "ab"
    # one update keeps its id and number, by which a page knows what comes twice
    assert [attempt for attempt in sink.tried if attempt[1] == 1] == [(sink.ids[1], 1)] * 4
    assert len(set(sink.ids)) == len(sink.ids)


def test_stream_tries_the_last_update_even_if_others_failed() -> None:
    sink = Sink([HubUnreachable("down")], patience=0)
    assert publish_text(iter("abc"), sink.delivery, Grouping(interval=30)) == "abc"  # they have it all
    assert sink.kinds[-1] == "done"
    assert sink.updates[-1]["text"] == "abc"
    assert sink.updates[-1]["seq"] >= 1  # the number tells that a piece is missing

    sink = Sink([HubUnreachable("down")] * 9, patience=0)
    with pytest.raises(HubUnreachable, match="down"):
        publish_text(iter("abc"), sink.delivery, AT_ONCE)
    assert sink.updates == []


def test_stream_with_policy_log_lets_the_source_end() -> None:
    down = HubUnreachable("down")
    sink = Sink([down, down, down], raises=False, patience=0)
    assert publish_text(["a"], sink.delivery, AT_ONCE) == "a"
    assert len(sink.logged) == 2
    assert sink.updates == []

    sink = Sink([PublishError("no", status=403)], raises=False)

    def words() -> Iterator[str]:
        yield "a"
        while not sink.logged:
            time.sleep(0.001)
        yield "b"

    assert publish_text(words(), sink.delivery, AT_ONCE) == "ab"
    assert [(update["kind"], update["text"]) for update in sink.updates] == [("text", "b"), ("done", "ab")]


def test_stream_logs_an_error_update_that_was_not_published() -> None:
    sink = Sink([None, PublishError("no", status=403)])

    def words() -> Iterator[str]:
        yield "a"
        sink.wait()
        raise LookupError

    with pytest.raises(LookupError):
        publish_text(words(), sink.delivery, AT_ONCE)
    assert len(sink.logged) == 1


def test_stream_that_is_interrupted_does_not_wait_for_the_hub() -> None:
    sink = Sink([HubUnreachable("down")] * 99, patience=3600)

    def words() -> Iterator[str]:
        yield "a"
        while not sink.tried:
            time.sleep(0.001)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        publish_text(words(), sink.delivery, AT_ONCE)
    assert sink.tried[-1][1] == 1  # the end was tried once


class AsyncWords(AsyncIterator[str]):
    """An asynchronous source with ``close``, as the clients of models are."""

    def __init__(self, words: Sequence[Any], ending: BaseException | None = None) -> None:
        self.words = list(words)
        self.ending = ending
        self.is_closed = False

    async def __anext__(self) -> str:
        await asyncio.sleep(0)
        if self.words:
            word: str = self.words.pop(0)
            return word
        if self.ending is not None:
            raise self.ending
        raise StopAsyncIteration

    async def close(self) -> None:
        self.is_closed = True


def test_async_stream_arrives_whole_and_in_order() -> None:
    sink = Sink()
    source = AsyncWords([f"word{n} " for n in range(500)])
    whole = "".join(source.words)
    assert asyncio.run(publish_async_text(source, sink.delivery, Grouping(interval=0, size=1))) == whole
    assert source.is_closed
    assert sink.updates[-1]["text"] == whole
    assert "".join(update["text"] for update in sink.updates[:-1]) == whole


def test_async_stream_does_not_block_the_event_loop() -> None:
    sink = Sink()
    sink.free.clear()
    turns = 0

    async def words() -> AsyncIterator[str]:
        for _ in range(200):
            yield "x"

    async def both() -> None:
        nonlocal turns
        task = asyncio.create_task(publish_async_text(words(), sink.delivery, Grouping(interval=0, size=1)))
        for _ in range(2000):  # the source waits for room long before
            await asyncio.sleep(0)
            turns += 1
        assert not task.done()
        sink.free.set()
        assert await task == "x" * 200

    asyncio.run(both())
    assert turns == 2000


def test_async_stream_of_a_source_that_raises_or_is_cancelled() -> None:
    sink = Sink()
    source = AsyncWords(["half"], LookupError("the-secret"))
    with pytest.raises(LookupError):
        asyncio.run(publish_async_text(source, sink.delivery, AT_ONCE, error="Sorry."))
    assert source.is_closed
    assert sink.updates[-1]["message"] == "Sorry."

    sink = Sink()
    closed = []

    async def words() -> AsyncIterator[str]:
        try:
            yield "a"
            await asyncio.Event().wait()
        finally:
            closed.append(True)

    async def cancel() -> None:
        task = asyncio.create_task(publish_async_text(words(), sink.delivery, AT_ONCE))
        assert await asyncio.to_thread(sink.got.acquire, timeout=PATIENCE)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel())
    assert closed == [True]
    assert sink.kinds == ["text", "error"]


class Endless(AsyncWords):
    """Never gives a word."""

    async def __anext__(self) -> str:
        return await asyncio.Event().wait() and ""


def test_async_stream_that_is_cancelled_twice_closes_its_source() -> None:
    sink = Sink()
    sink.free.clear()
    source = Endless([])

    async def cancel() -> None:
        task = asyncio.create_task(publish_async_text(source, sink.delivery, AT_ONCE))
        for _ in range(100):  # until it waits for the source, and then for the hub
            await asyncio.sleep(0)
        task.cancel()
        for _ in range(100):
            await asyncio.sleep(0)
        assert not task.done()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        sink.free.set()

    asyncio.run(cancel())
    assert source.is_closed


def test_stream_refuses_the_wrong_kind_of_source() -> None:
    async def words() -> AsyncIterator[str]:
        yield "a"

    sink = Sink()
    with pytest.raises(TypeError, match="astream"):
        publish_text(words(), sink.delivery, AT_ONCE)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"mercure\.stream\(\)"):
        asyncio.run(publish_async_text(["a"], sink.delivery, AT_ONCE))  # type: ignore[arg-type]
    assert sink.tried == []


def test_stream_refuses_tokens_that_are_not_text() -> None:
    sink = Sink()
    with pytest.raises(TypeError, match="NoneType"):
        publish_text(["a", None], sink.delivery, AT_ONCE)  # type: ignore[list-item]
    assert sink.updates[-1]["kind"] == "error"
    assert publish_text(["", ""], sink.delivery, AT_ONCE) == ""


@pytest.mark.parametrize(("interval", "size"), [(-1, 1), (61, 1), (1, 0), (float("nan"), 1)])
def test_grouping_refuses_values_out_of_range(interval: float, size: int) -> None:
    with pytest.raises(InvalidArgument):
        Grouping(interval, size)


@pytest.mark.minutes
def test_stream_of_a_view_reaches_its_subscribers(hub: RunningHub) -> None:
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


def test_stream_with_a_wrong_argument_does_not_start_the_source() -> None:
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
def test_stream_raises_when_the_hub_refuses() -> None:
    with running() as fake:
        fake.answers = [Answer(b"", 403)]
        app: Flask = make_app(URL=fake.url)
        with app.app_context(), pytest.raises(PublishError, match="403"):
            mercure.stream("a", iter("abc"), interval=0, private=False)
        state_of(app).publisher.close()


@pytest.mark.minutes
def test_stream_repeats_an_update_while_the_hub_restarts() -> None:
    with running() as fake:
        asked = Answer(b"", 405)  # whether it stores updates once, as one may have been published
        fake.answers = [Answer(), Answer(b"", 503), Answer(b"", 502), asked, Answer()]
        app = make_app(URL=fake.url)
        with app.app_context():
            assert mercure.stream("a", iter("abc"), interval=0, private=False) == "abc"
        sent = [dict(request.pairs) for request in fake.received if request.method == "POST"]
        assert sent[1] == sent[2] == sent[3]
        state_of(app).publisher.close()


@pytest.mark.minutes
def test_stream_follows_the_failure_policy(caplog: pytest.LogCaptureFixture) -> None:
    with running() as fake:
        fake.answers = [Answer(b"", 403)]
        app = make_app(URL=fake.url)
        with app.app_context(), caplog.at_level(logging.ERROR, "flask_mercure"):
            assert mercure.stream("a", iter("abc"), interval=0, on_failure="log", private=False) == "abc"
        assert "was not published" in caplog.text
        fake.answers = [Answer()]
        with app.app_context():
            assert (
                mercure.stream("a", iter("abc"), interval=0, on_failure="background", private=False) == "abc"
            )
            assert pipeline_of(app).queue(state_of(app).hub()).join(PATIENCE)
            with pytest.raises(ValueError, match="on_failure"):
                mercure.stream("a", iter("abc"), on_failure="sometimes", private=False)  # type: ignore[arg-type]
        assert '"kind":"done"' in dict(fake.received[-1].pairs)["data"].replace(" ", "")
        state_of(app).publisher.close()


def test_async_stream_in_a_view() -> None:
    app = make_app(URL="http://127.0.0.1:9/")

    async def answer() -> str:
        text: str = await mercure.astream("answers/1", AsyncWords(["a", "b"]), private=True, stream_id="s")
        return text

    @app.get("/")
    def view() -> str:
        return asyncio.run(answer())  # as Flask runs a view that is a coroutine

    with mercure.record() as updates:
        assert app.test_client().get("/").text == "ab"
    assert updates[-1].json == {"stream": "s", "seq": len(updates) - 1, "kind": "done", "text": "ab"}
    assert all(update.private for update in updates)
