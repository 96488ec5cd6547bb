"""A hub whose engine is away, lags or breaks, on an engine in memory that does so on demand."""

from __future__ import annotations

import json
import logging
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from mercure_hub.server import assembly
from mercure_hub.server.assembly import Limits
from mercure_hub.storage.store import Store
from tests.hub.running import HUB_PATH, RunningHub, running_hub
from tests.storage.log import until
from tests.storage.memory import MemoryEngine, MemoryLink, goes_away, is_lost

pytestmark = pytest.mark.minutes

Start = Callable[..., AbstractContextManager[RunningHub]]
AWAY = "the database cannot be reached, and nothing can be published"
PRESENCE = f"{HUB_PATH}/subscriptions"


@pytest.fixture
def engine() -> MemoryEngine:
    return MemoryEngine()


@pytest.fixture
def links() -> list[MemoryLink]:
    """Those of the hubs, in the order in which they started."""
    return []


@pytest.fixture
def start(
    folder: Path, engine: MemoryEngine, links: list[MemoryLink], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Start]:
    """Starts hubs that share the engine."""

    def link_to(*_: object, **__: object) -> MemoryLink:
        links.append(MemoryLink(engine))
        return links[-1]

    monkeypatch.setattr(assembly, "link_to", link_to)
    monkeypatch.setattr(Store, "first_retry", 0.01)
    monkeypatch.setattr(Store, "last_retry", 0.05)
    monkeypatch.setattr(Store, "look_interval", 0.05)

    def start(patience: float = 30.0, **settings: int) -> AbstractContextManager[RunningHub]:
        limits = Limits(adoption_interval=0.05, patience=patience)
        return running_hub(folder, limits=limits, anonymous=1, **settings)

    yield start
    for link in links:
        link.is_away = False


def away(link: MemoryLink, hub: RunningHub) -> None:
    """Let the engine go away, and the hub notice it."""
    link.appends = [goes_away, goes_away]
    link.is_away = True
    assert hub.publish({"topic": "t"}).status == 503
    until(lambda: hub.publish({"topic": "t"}).json()["type"].endswith(":storage-away"))


def back(link: MemoryLink, hub: RunningHub) -> None:
    link.is_away = False
    until(lambda: hub.get(path="/readyz").text == "ok, relaxed durability\n")


def waiting(hub: RunningHub, query: dict[str, object]) -> socket.socket:
    """A subscription whose answer does not come yet."""
    sock = hub.connect()
    target = f"{HUB_PATH}?" + "&".join(f"{name}={value}" for name, value in query.items())
    sock.sendall(f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1:{hub.port}\r\n\r\n".encode())
    return sock


class TestAway:
    def test_publishers_are_refused_at_once_and_told_when_to_try_again(
        self, start: Start, links: list[MemoryLink], engine: MemoryEngine, caplog: pytest.LogCaptureFixture
    ) -> None:
        with start() as hub:
            hub.send("t", "before")
            away(links[0], hub)
            began = time.monotonic()
            replies = [hub.publish({"topic": "t"}) for _ in range(20)]
            assert time.monotonic() - began < 5
            assert {reply.status for reply in replies} == {503}
            assert {reply.headers["retry-after"] for reply in replies} == {"2"}
            assert replies[0].json()["detail"] == (
                "The database cannot be reached now. Nothing was stored; try again."
            )
            back(links[0], hub)
            hub.send("t", "after")
        assert [entry.update.data for entry, _ in engine.stored] == ["before", "after"]
        errors = [one.message for one in caplog.records if one.levelno >= logging.ERROR]
        assert [message for message in errors if "publications are refused" in message] == [
            "the memory is away; publications are refused until it answers"
        ]
        assert len(errors) <= 2

    def test_streams_go_on(self, start: Start, links: list[MemoryLink]) -> None:
        with start(heartbeat=1) as hub:
            stream = hub.subscribe({"match": "t"})
            away(links[0], hub)
            seen = len(stream.raw)
            stream.read_until(b":\n")
            while len(stream.raw) == seen:
                stream.read_until(stream.raw + b":\n")
            back(links[0], hub)
            hub.send("t", "after")
            assert stream.take(1) == ["after"]

    def test_a_subscriber_without_a_cursor_is_welcome(self, start: Start, links: list[MemoryLink]) -> None:
        with start() as hub:
            away(links[0], hub)
            stream = hub.subscribe({"match": "t"})
            back(links[0], hub)
            hub.send("t", "x")
            assert stream.take(1) == ["x"]

    def test_one_with_a_cursor_waits_for_the_engine(self, start: Start, links: list[MemoryLink]) -> None:
        with start(max_connections=3) as hub:
            first = hub.send("t", "first")
            hub.send("t", "second")
            away(links[0], hub)
            socks = [waiting(hub, {"match": "t", "last_event_id": first}) for _ in range(3)]
            until(lambda: hub.get({"match": "t"}).status == 429)  # they count
            back(links[0], hub)
            for sock in socks:
                received = b""
                while b"data: second" not in received:
                    piece = sock.recv(65536)
                    assert piece
                    received += piece
                assert received.startswith(b"HTTP/1.1 200")
                sock.close()

    def test_it_is_refused_in_the_end(self, start: Start, links: list[MemoryLink]) -> None:
        with start(patience=0.2) as hub:
            first = hub.send("t", "first")
            away(links[0], hub)
            reply = hub.get({"match": "t", "last_event_id": first})
            assert (reply.status, reply.headers["retry-after"]) == (503, "2")
            assert reply.json()["type"] == "urn:flask-mercure:problem:storage-away"

    def test_a_client_that_leaves_counts_no_more(self, start: Start, links: list[MemoryLink]) -> None:
        with start(max_connections=1) as hub:
            first = hub.send("t", "first")
            away(links[0], hub)
            sock = waiting(hub, {"match": "t", "last_event_id": first})
            until(lambda: hub.get({"match": "t"}).status == 429)
            sock.close()

            def is_free() -> bool:
                with waiting(hub, {"match": "t"}) as other:
                    return other.recv(65536).startswith(b"HTTP/1.1 200")

            until(is_free)

    def test_a_hub_can_be_stopped_meanwhile(self, start: Start, links: list[MemoryLink]) -> None:
        with start() as hub:
            first = hub.send("t", "first")
            away(links[0], hub)
            sock = waiting(hub, {"match": "t", "last_event_id": first})
            began = time.monotonic()
        assert time.monotonic() - began < 10
        with sock:
            assert sock.recv(65536)[:12] in (b"HTTP/1.1 503", b"")

    def test_health(self, start: Start, links: list[MemoryLink], monkeypatch: pytest.MonkeyPatch) -> None:
        with start(metrics=1) as hub:
            assert hub.get(path="/healthz").text == "ok, relaxed durability\n"
            away(links[0], hub)
            reply = hub.get(path="/readyz")
            assert (reply.status, reply.text) == (200, f"ok, but {AWAY}, for 0 s\n")
            monkeypatch.setattr("mercure_hub.storage.interface.MAX_LAG", 0.1)
            until(lambda: hub.get(path="/readyz").status == 503)
            assert hub.get(path="/readyz").text.startswith(f"{AWAY}, for ")
            reply = hub.get(path="/healthz")  # a restart would not help
            assert (reply.status, reply.text.partition(",")[0]) == (200, "ok")
            assert hub.get(path="/livez").text == "ok\n"
            text = hub.get(path="/metrics").text
            assert 'mercure_storage_state{state="away",worker="0"} 1.0' in text
            assert 'mercure_storage_absences_total{worker="0"} 1.0' in text
            back(links[0], hub)
            hub.send("t")
            text = hub.get(path="/metrics").text
            assert 'mercure_storage_state{state="up",worker="0"} 1.0' in text
            assert 'mercure_storage_append_seconds_count{worker="0"} 1.0' in text
            assert 'mercure_storage_batch_updates_count{worker="0"} 1.0' in text

    def test_subscriptions_cannot_be_listed(self, start: Start, links: list[MemoryLink]) -> None:
        with start(subscriptions=1) as hub:
            assert hub.get(path=PRESENCE, token=hub.token()).status == 200
            away(links[0], hub)
            reply = hub.get(path=PRESENCE, token=hub.token())
            assert (reply.status, reply.headers["retry-after"]) == (503, "2")


class TestDoubt:
    def test_nobody_waits_long(
        self, start: Start, links: list[MemoryLink], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Store, "doubt_timeout", 0.1)
        with start() as hub:
            links[0].appends = [is_lost, is_lost]
            links[0].is_away = True
            reply = hub.publish({"topic": "t"})
            assert (reply.status, reply.headers["retry-after"]) == (503, "5")
            assert reply.json()["type"] == "urn:flask-mercure:problem:storage-in-doubt"
            back(links[0], hub)
            hub.send("t")


class TestLag:
    def test_a_follower_that_cannot_read_makes_the_hub_not_ready(
        self, start: Start, links: list[MemoryLink], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("mercure_hub.storage.interface.MAX_LAG", 0.2)

        def breaks(*_: object) -> None:
            raise OSError(5, "EIO")

        with start() as hub:
            assert hub.get(path="/readyz").status == 200
            links[0].after = breaks  # type: ignore[method-assign,assignment]
            until(lambda: hub.get(path="/readyz").status == 503)
            text = hub.get(path="/readyz").text
            assert re.fullmatch(r"updates of other hubs are late by \d+ s: they cannot be read\n", text)
            assert hub.get(path="/healthz").status == 200
            del links[0].after
            until(lambda: hub.get(path="/readyz").status == 200)


class TestBreak:
    def test_streams_get_nothing_more_and_end_one_after_the_other(
        self, start: Start, engine: MemoryEngine, links: list[MemoryLink], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("mercure_hub.broker.broker._ENDS_PER_SECOND", 5)
        with start() as hub:
            first = hub.send("t", "first")
            lost = hub.send("t", "lost")
            streams = [hub.subscribe({"match": "t"}) for _ in range(4)]
            began = time.monotonic()
            engine.rewind(1)
            links[0].appends = [goes_away, goes_away]
            assert hub.publish({"topic": "t"}).status == 503
            assert streams[0].ended()
            back(links[0], hub)
            hub.send("t", "new")
            late = hub.subscribe({"match": "t"})
            hub.send("t", "newer")
            assert late.take(1) == ["newer"]
            for stream in streams[1:]:
                assert stream.ended()
                assert b"data" not in stream.raw
            assert time.monotonic() - began > 0.5
            again = hub.subscribe({"match": "t", "last_event_id": lost})
            assert again.reply.headers["mercure-last-event-id"] == "earliest"
            assert again.take(3) == ["first", "new", "newer"]
            assert hub.subscribe({"match": "t", "last_event_id": first}).take(2) == ["new", "newer"]

    def test_a_position_of_a_lost_history_is_looked_up_again(
        self, start: Start, engine: MemoryEngine, links: list[MemoryLink]
    ) -> None:
        with start(subscriptions=0) as hub:
            first = hub.send("t", "first")
            for number in range(3):
                hub.send("t", f"lost {number}")
            resume = links[0].resume
            lost: list[str] = []

            def breaks_meanwhile(wanted: object) -> object:
                found = resume(wanted)  # type: ignore[arg-type]
                if not lost:
                    lost.append("now")
                    engine.rewind(1)
                    links[0].appends = [goes_away, goes_away]
                    assert hub.publish({"topic": "t"}).status == 503
                    until(lambda: hub.publish({"topic": "t", "data": "new"}).status == 200)
                return found

            links[0].resume = breaks_meanwhile  # type: ignore[method-assign,assignment]
            stream = hub.subscribe({"match": "t", "last_event_id": first})
            assert stream.take(1) == ["new"]


class TestPresence:
    def listed(self, hub: RunningHub) -> set[str]:
        subscriptions = hub.get(path=PRESENCE, token=hub.token()).json()["subscriptions"]
        ids = [one["id"] for one in subscriptions]
        assert len(ids) == len(set(ids))
        return set(ids)

    def test_a_dead_hub_is_noticed_and_each_subscription_ended_once(
        self, start: Start, engine: MemoryEngine, links: list[MemoryLink]
    ) -> None:
        with start(subscriptions=1) as dead, start(subscriptions=1) as one, start(subscriptions=1) as other:
            for number in range(3):
                dead.subscribe({"match": f"t{number}"})
            until(lambda: len(self.listed(one)) == 3)
            events = one.subscribe({"match_urlpattern": f"{PRESENCE}/exact/t:number/:id"}, one.token())
            links[0].is_away = True  # it cannot tell that it lives
            engine.bury(0)
            ended = [json.loads(data) for data in events.take(3)]
            assert {document["match"] for document in ended} == {"t0", "t1", "t2"}
            assert {document["active"] for document in ended} == {False}
            until(lambda: not any("/exact/t" in key for key in self.listed(other)))
            links[0].is_away = False
            began = [json.loads(data) for data in events.take(3)]  # it is back, under other ids
            assert {document["active"] for document in began} == {True}
            assert {one["id"] for one in began}.isdisjoint({one["id"] for one in ended})
            assert {one["id"] for one in began} <= self.listed(other)

    def test_whoever_leaves_before_it_is_announced_again_is_ended_by_others(
        self, start: Start, engine: MemoryEngine, links: list[MemoryLink]
    ) -> None:
        with start(subscriptions=1) as hub, start(subscriptions=1) as other:
            streams = [hub.subscribe({"match": "t"}) for _ in range(20)]
            until(lambda: len(self.listed(other)) == 20)
            links[0].is_away = True
            engine.bury(0)
            for stream in streams[:10]:
                stream.close()
            links[0].is_away = False
            until(lambda: len(self.listed(other)) == 10)
            until(lambda: len(self.listed(hub)) == 10)
            assert self.listed(hub) == self.listed(other)

    def test_one_subscription_can_be_read_wherever_it_is(self, start: Start) -> None:
        with start(subscriptions=1) as hub, start(subscriptions=1) as other:
            for _ in range(3):
                hub.subscribe({"match": "t"})
            until(lambda: len(self.listed(other)) == 3)
            for path in self.listed(other):
                for one in (hub, other):
                    reply = one.get(path=path, token=one.token())
                    assert (reply.status, reply.json()["id"]) == (200, path)
            reply = hub.get(path=f"{path}0", token=hub.token())
            assert reply.status == 404
