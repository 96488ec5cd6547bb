"""A hub whose server of PostgreSQL or Valkey is killed or stands still."""

from __future__ import annotations

import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engines import EngineServer, PostgresqlServer, RedisServer, running
from tests.hub.running import HUB_PATH, RunningHub, running_hub
from tests.hub.test_away import waiting
from tests.needs import need
from tests.storage.log import until

pytestmark = pytest.mark.minutes

ATTEMPT = 3.0  # seconds after which a hub gives a request to the engine up
DOUBT = 5.0  # seconds for which it asks for the outcome
SLOW = 10.0  # seconds more, on a busy machine


@pytest.fixture(params=["postgresql", "valkey"])
def server(request: pytest.FixtureRequest) -> Iterator[EngineServer]:
    """One that the test may kill."""
    if request.param == "postgresql":
        need("postgresql")
        with running(PostgresqlServer()) as server:
            yield server
    else:
        need("valkey-server")
        with running(RedisServer()) as server:
            yield server


@pytest.fixture
def hub(folder: Path, server: EngineServer) -> Iterator[RunningHub]:
    with running_hub(folder, transport_url=server.url(), anonymous=1, subscriptions=1) as hub:
        yield hub


class Publisher:
    """Publishes all the time; notes what was acknowledged, and what may have been stored."""

    def __init__(self, hub: RunningHub) -> None:
        self._hub = hub
        self.acknowledged: list[str] = []
        self.doubtful: set[str] = set()
        self.refused: set[str] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        number = 0
        while not self._stop.is_set():
            number += 1
            reply = self._hub.publish({"topic": "t", "data": str(number)})
            if reply.status == 200:
                self.acknowledged.append(str(number))
                continue
            assert reply.status == 503
            assert int(reply.headers["retry-after"]) in (2, 5)
            is_doubtful = reply.json()["type"].endswith(":storage-in-doubt")
            (self.doubtful if is_doubtful else self.refused).add(str(number))
            self._stop.wait(0.05)

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()


def test_it_is_killed_and_comes_back(hub: RunningHub, server: EngineServer) -> None:
    first = hub.send("t", "first")
    stream = hub.subscribe({"match": "t"})
    publisher = Publisher(hub)
    until(lambda: len(publisher.acknowledged) > 20)
    server.kill()
    until(lambda: publisher.refused)
    assert "cannot be reached" in hub.get(path="/readyz").text
    assert hub.get(path="/healthz").status == hub.get(path="/livez").status == 200
    assert hub.get(path=f"{HUB_PATH}/subscriptions", token=hub.token()).status == 503
    began = time.monotonic()
    assert hub.publish({"topic": "t"}).status == 503
    assert time.monotonic() - began < ATTEMPT
    sock = waiting(hub, {"match": "other", "last_event_id": first})
    before = len(publisher.acknowledged)
    server.start()
    began = time.monotonic()
    until(lambda: len(publisher.acknowledged) > before)
    assert sock.recv(65536).startswith(b"HTTP/1.1 200")
    until(lambda: hub.get(path="/readyz").text == "ok\n")
    assert time.monotonic() - began < 5 + SLOW
    until(lambda: len(publisher.acknowledged) > before + 20)
    publisher.stop()
    sock.close()
    hub.send("t", "last")
    received = [stream.next().data]
    while received[-1] != "last":
        received.append(stream.next().data)
    history = hub.subscribe({"match": "t", "last_event_id": "earliest"}).take(len(received) + 1)
    assert history == ["first", *received]
    sure = [data for data in received if data not in publisher.doubtful]
    assert sure == [*publisher.acknowledged, "last"]
    assert len(set(received)) == len(received)


def test_it_stands_still(hub: RunningHub, server: EngineServer) -> None:
    first = hub.send("t", "first")
    stream = hub.subscribe({"match": "t"})
    server.signal(signal.SIGSTOP)
    try:
        began = time.monotonic()
        reply = hub.publish({"topic": "t", "data": "in doubt"})
        assert time.monotonic() - began < ATTEMPT + DOUBT + SLOW
        assert reply.status == 503  # in doubt, unless the hub was just telling the engine that it lives
        is_doubtful = reply.json()["type"] == "urn:flask-mercure:problem:storage-in-doubt"
        began = time.monotonic()
        reply = hub.publish({"topic": "t", "data": "refused"})
        assert time.monotonic() - began < 1 + SLOW
        assert (reply.status, reply.json()["type"]) == (503, "urn:flask-mercure:problem:storage-away")
        sock = waiting(hub, {"match": "t", "last_event_id": first})
        assert "cannot be reached" in hub.get(path="/readyz").text
        assert hub.get(path="/livez").status == 200
    finally:
        server.signal(signal.SIGCONT)
    began = time.monotonic()
    until(lambda: hub.publish({"topic": "t", "data": "after"}).status == 200)
    assert time.monotonic() - began < 5 + SLOW
    received = [stream.next().data]
    if received[0] == "in doubt":
        assert is_doubtful
        received.append(stream.next().data)
    assert received[-1] == "after"
    content = b""
    while b"data: after" not in content:
        piece = sock.recv(65536)
        assert piece
        content += piece
    assert (b"in doubt" in content) == ("in doubt" in received)
    sock.close()


def test_a_hub_can_be_stopped_while_it_stands_still(folder: Path, server: EngineServer) -> None:
    with running_hub(folder, transport_url=server.url(), anonymous=1, subscriptions=1) as hub:
        hub.send("t", "first")
        hub.subscribe({"match": "t"})
        server.signal(signal.SIGSTOP)
        began = time.monotonic()
    assert time.monotonic() - began < 10 + SLOW
    server.kill()


def test_it_comes_back_without_its_newest_updates(hub: RunningHub, server: EngineServer) -> None:
    """As a replica does that takes over before it has them."""
    api = f"{HUB_PATH}/subscriptions/exact/t"
    before = hub.send("t", "before")
    gone = hub.subscribe({"match": "t"})
    until(lambda: len(hub.get(path=api, token=hub.token()).json()["subscriptions"]) == 1)
    server.kill()
    saved = server.folder.with_name(server.folder.name + "-saved")
    subprocess.run(["cp", "-a", server.folder, saved], check=True)
    try:
        server.start()
        until(lambda: hub.publish({"topic": "t", "data": "lost"}).status == 200)
        stays = hub.subscribe({"match": "t"})
        lost = hub.send("t", "lost too")
        assert stays.next().id == lost
        gone.close()  # its end will be lost too
        until(lambda: len(hub.get(path=api, token=hub.token()).json()["subscriptions"]) == 1)
        server.kill()
        shutil.rmtree(server.folder)
        saved.rename(server.folder)
        server.start()
        assert stays.ended()
        until(lambda: hub.publish({"topic": "t", "data": "after"}).status == 200)
        again = hub.subscribe({"match": "t", "last_event_id": lost})
        assert again.reply.headers["mercure-last-event-id"] == "earliest"
        assert again.take(2) == ["before", "after"]
        assert hub.subscribe({"match": "other", "last_event_id": before}).reply.status == 200
        until(lambda: len(hub.get(path=api, token=hub.token()).json()["subscriptions"]) == 1)
    finally:
        shutil.rmtree(saved, ignore_errors=True)
