"""Several workers on an engine that machines share: one process reads it for all of them."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mercure_hub.config.settings import SettingError
from mercure_hub.server.feeder import PROCESS_NAME, Feed
from tests.engines import EngineServer, PostgresqlServer, RedisServer, running
from tests.hub.running import HUB_PATH, Stream, process_environment
from tests.needs import need
from tests.server.test_workers import ENOUGH, Workers, all_get_one_order, many, workers
from tests.storage.log import until

pytestmark = pytest.mark.minutes

API = HUB_PATH + "/subscriptions"


@pytest.fixture(scope="module", params=["postgresql", "valkey"])
def engine(request: pytest.FixtureRequest) -> Iterator[EngineServer]:
    """One that can be killed."""
    need("valkey-server" if request.param == "valkey" else "postgresql")
    with running(RedisServer() if request.param == "valkey" else PostgresqlServer()) as server:
        yield server


@contextlib.contextmanager
def fed(engine: EngineServer, folder: Path, count: int = 3, **variables: str) -> Iterator[Workers]:
    """A hub of several workers and a feeder."""
    url = variables.pop("MERCURE_TRANSPORT_URL", "") or engine.url()
    with workers(
        folder, count, 0, MERCURE_TRANSPORT_URL=url, XDG_RUNTIME_DIR=str(folder), **variables
    ) as hub:
        yield hub
    assert list(folder.glob("*mercure-feed-*")) == []


def processes_of(hub: Workers) -> dict[int, str]:
    """The names of workers and feeder."""
    children = Path(f"/proc/{hub.child.pid}/task/{hub.child.pid}/children").read_text(encoding="ascii")
    names: dict[int, str] = {}
    for pid in map(int, children.split()):
        with contextlib.suppress(OSError):
            names[pid] = Path(f"/proc/{pid}/comm").read_text(encoding="ascii").strip()
    return names


def feeder_of(hub: Workers) -> int:
    return next(pid for pid, name in processes_of(hub).items() if name == PROCESS_NAME)


def killed(hub: Workers, victim: int) -> int:
    """Kill a process, and wait for the one that replaces it."""
    before = set(processes_of(hub))
    os.kill(victim, signal.SIGKILL)
    until(lambda: set(processes_of(hub)) - before)
    (fresh,) = set(processes_of(hub)) - before
    return fresh


def has_ended(stream: Stream) -> bool:
    stream.sock.setblocking(False)
    try:
        return stream.sock.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True


def test_each_update_reaches_all_workers_in_one_order(engine: EngineServer, folder: Path) -> None:
    with fed(engine, folder) as hub:
        all_get_one_order(hub, many(hub))


def test_hubs_on_two_machines_have_one_history(engine: EngineServer, folder: Path) -> None:
    url = engine.url()
    folders = [folder / name for name in "ab"]
    for each in folders:
        each.mkdir()
    with (
        fed(engine, folders[0], 2, MERCURE_TRANSPORT_URL=url) as one,
        fed(engine, folders[1], 2, MERCURE_TRANSPORT_URL=url) as other,
    ):
        streams = [*many(one), *many(other)]
        ids = [(one, other)[number % 2].send("t", str(number)) for number in range(40)]
        for stream in streams:
            assert stream.take(40) == [str(number) for number in range(40)]
        for hub in (one, other):
            for position in (0, 20, 38):
                stream = hub.subscribe({"match": "t"}, last_event_id=ids[position])
                assert stream.take(39 - position) == [str(n) for n in range(position + 1, 40)]


@pytest.mark.linux("a process has a name of its own in /proc")
def test_a_killed_feeder_is_replaced_and_streams_go_on(engine: EngineServer, folder: Path) -> None:
    with fed(engine, folder) as hub:
        streams = many(hub)
        sent = [hub.send("t", str(number)) for number in range(10)]
        feeder = feeder_of(hub)
        for first in (10, 20, 30):
            feeder = killed(hub, feeder)
            sent += [hub.send("t", str(number)) for number in range(first, first + 10)]
        for stream in streams:
            assert stream.take(len(sent)) == [str(number) for number in range(len(sent))]
        stream = hub.subscribe({"match": "t"}, last_event_id=sent[0])
        assert stream.take(len(sent) - 1) == [str(number) for number in range(1, len(sent))]


def test_streams_go_on_when_the_engine_was_killed(engine: EngineServer, folder: Path) -> None:
    with fed(engine, folder, 2) as hub:
        streams = many(hub)
        hub.send("t", "before")
        engine.kill()
        until(lambda: hub.get(path="/readyz").status == 503)
        engine.start()
        until(lambda: hub.publish({"topic": "t", "data": "after"}).status == 200)
        for stream in streams:
            assert stream.take(2) == ["before", "after"]
        until(lambda: hub.get(path="/readyz").status == 200)


@pytest.mark.linux("a process has a name of its own in /proc")
def test_workers_whose_feeder_stands_still_are_not_ready(engine: EngineServer, folder: Path) -> None:
    with fed(engine, folder, 2) as hub:
        feeder = feeder_of(hub)
        os.kill(feeder, signal.SIGSTOP)
        try:
            until(lambda: all(hub.get(path="/readyz").status == 503 for _ in range(ENOUGH)))
            hub.send("t", "while it stands still")
        finally:
            os.kill(feeder, signal.SIGCONT)
        until(lambda: all(hub.get(path="/readyz").status == 200 for _ in range(ENOUGH)))


def test_subscriptions_of_a_killed_worker_end(engine: EngineServer, folder: Path) -> None:
    with fed(engine, folder, MERCURE_SUBSCRIPTIONS="1") as hub:
        token = hub.token()
        streams = [hub.subscribe({"match": "t"}, token) for _ in range(ENOUGH)]
        until(lambda: len(hub.get(path=API, token=token).json()["subscriptions"]) == ENOUGH)
        killed(hub, max(processes_of(hub)))
        left = ENOUGH - sum(map(has_ended, streams))
        assert 0 < left < ENOUGH
        until(lambda: len(hub.get(path=API, token=token).json()["subscriptions"]) == left)


def test_a_reload_begins_the_copy_anew_and_streams_go_on(engine: EngineServer, folder: Path) -> None:
    with fed(engine, folder, 2) as hub:
        streams = many(hub)
        first = hub.send("t", "0")
        hub.send("t", "1")
        for stream in streams:
            assert stream.take(2) == ["0", "1"]
        hub.child.send_signal(signal.SIGHUP)
        hub.wait_for_log("were reloaded")
        for number in range(2, 10):
            hub.send("t", str(number))
        for stream in [*streams, hub.subscribe({"match": "t"}, last_event_id=first)]:
            assert stream.take(8 + (stream not in streams))[-8:] == [str(number) for number in range(2, 10)]


def test_nothing_is_left_of_a_killed_hub(engine: EngineServer, folder: Path) -> None:
    log = folder / "hub.log"
    environment = process_environment(
        folder,
        MERCURE_TRANSPORT_URL=engine.url(),
        MERCURE_WORKERS="2",
        MERCURE_LOG_FILE=str(log),
        XDG_RUNTIME_DIR=str(folder),
    )
    with subprocess.Popen([sys.executable, "-m", "mercure_hub"], env=environment) as child:
        try:
            until(lambda: log.exists() and "listens on" in log.read_text(encoding="utf-8"))
            assert list(folder.glob("mercure-feed-*"))
        finally:
            child.kill()
    until(lambda: not list(folder.glob("mercure-feed-*")))


def test_the_engine_has_one_reader(folder: Path) -> None:
    need("postgresql")
    with running(PostgresqlServer()) as server:
        assert isinstance(server, PostgresqlServer)
        with fed(server, folder, 8) as hub:
            streams = many(hub)
            hub.send("t", "x")
            for stream in streams:
                assert stream.take(1) == ["x"]
            statement = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'"
            assert server.run(statement) == ["1"]


class TestFolder:
    def make(self, folder: Path, **environment: str) -> Feed:
        return Feed.make([], {"XDG_RUNTIME_DIR": str(folder), **environment})

    def remove(self, feed: Feed) -> None:
        os.close(feed.life[1])
        feed.remove()

    def test_only_its_owner_may_read_it(self, tmp_path: Path) -> None:
        feed = self.make(tmp_path)
        assert feed.folder.parent == tmp_path
        assert feed.folder.stat().st_mode & 0o777 == 0o700
        self.remove(feed)
        assert list(tmp_path.iterdir()) == []

    def test_that_of_the_service_comes_first(self, tmp_path: Path) -> None:
        (tmp_path / "run").mkdir()
        feed = self.make(tmp_path, RUNTIME_DIRECTORY=f"{tmp_path}/run:/elsewhere")
        assert feed.folder.parent == tmp_path / "run"
        self.remove(feed)

    def test_what_a_killed_hub_left_is_removed(self, tmp_path: Path) -> None:
        left = tmp_path / "mercure-feed-left"
        left.mkdir()
        (left / "copy.db").touch()
        feed = self.make(tmp_path)
        assert list(tmp_path.iterdir()) == [feed.folder]
        self.remove(feed)

    def test_what_a_living_hub_uses_stays(self, tmp_path: Path) -> None:
        first, second = self.make(tmp_path), self.make(tmp_path)
        assert sorted(tmp_path.iterdir()) == sorted([first.folder, second.folder])
        with pytest.raises(BlockingIOError):
            fcntl.flock(os.open(first.folder, os.O_RDONLY), fcntl.LOCK_EX | fcntl.LOCK_NB)
        for feed in (first, second):
            self.remove(feed)

    def test_one_that_cannot_be_made(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
        with pytest.raises(SettingError, match="the workers need a folder"):
            Feed.make([], {})
