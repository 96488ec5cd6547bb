"""Real processes that are killed under an app that keeps writing: nothing is lost, nothing overtakes."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from flask import Flask
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from flask_mercure.database import outbox_stats
from tests.flask_mercure.database.counting import Base, Counter, create_app
from tests.hub.running import HUB_PATH, SECRET, RunningHub

pytestmark = pytest.mark.minutes

ROOT = Path(__file__).resolve().parents[3]
NAMES = ("a", "b", "c", "d", "e")
TIMEOUT = 60.0


class Killable:
    """A process that is started, killed and started again."""

    def __init__(self, arguments: list[str], environment: dict[str, str], log: Path) -> None:
        self._arguments = arguments
        self._environment = {**os.environ, **environment}
        self._log = log
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *self._arguments],
                cwd=ROOT,
                env=self._environment,
                stdout=log,
                stderr=log,
            )

    def stop(self, number: int) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(30)

    def kill(self) -> None:
        self.stop(signal.SIGKILL)

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.kill()


@dataclass
class World:
    """A database, a hub and relays."""

    app: Flask
    hub: Killable
    port: int
    new_relay: Callable[[], Killable]
    committed: dict[str, int] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)
    grown: threading.Condition = field(init=False)
    errors: list[BaseException] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.grown = threading.Condition(self.lock)

    def await_hub(self) -> None:
        def answers() -> bool:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
            except OSError:
                return False
            return True

        wait_until(answers)

    def write(self, seed: int, count: int) -> None:
        """Raise counters; every fourth change is taken back."""
        chance = random.Random(seed)
        try:
            with self.app.app_context():
                for number in range(count):
                    name = chance.choice(NAMES)
                    with self.app.config["SESSIONS"]() as session:
                        self.raise_one(session, name, keep=number % 4 != 3)
        except BaseException as error:
            with self.grown:
                self.errors.append(error)
                self.grown.notify_all()

    def raise_one(self, session: Session, name: str, *, keep: bool) -> None:
        # Only so that the row is locked before it is read; it bypasses the session, and so is not published.
        session.execute(update(Counter).where(Counter.name == name).values(value=Counter.value))
        counter = session.get_one(Counter, name)
        counter.value += 1
        if not keep:
            session.flush()
            session.rollback()
            return
        session.commit()
        with self.grown:
            self.committed[name] = self.committed.get(name, 0) + 1
            self.grown.notify_all()

    def await_commits(self, count: int) -> None:
        with self.grown:
            assert self.grown.wait_for(lambda: self.errors or sum(self.committed.values()) >= count, TIMEOUT)
        assert self.errors == []

    def await_empty(self) -> None:
        wait_until(lambda: outbox_stats(self.app).waiting == 0)

    def arrived(self, known: int) -> dict[str, list[int]]:
        """What a subscriber gets for each counter, repeats left out, as its id tells them."""
        client = RunningHub(self.port)
        try:
            stream = client.subscribe({"match": "*", "last_event_id": "earliest"}, client.token())
            found: dict[str, list[int]] = {}
            ids: set[str] = set()
            while len(ids) < known:
                event = stream.next()
                if event.id not in ids:
                    ids.add(event.id)
                    data = json.loads(event.data)
                    found.setdefault(data["name"], []).append(data["value"])
            # Whatever else is there would come before this one.
            client.send("end", "end")
            while (event := stream.next()).data != "end":
                assert event.id in ids, f"nobody has committed {event.data}"
            return found
        finally:
            client.close()


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)  # another process has no event to wait for


@pytest.fixture
def world(database: str, tmp_path: Path) -> Iterator[World]:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    url = f"http://127.0.0.1:{port}{HUB_PATH}"
    hub = Killable(
        ["mercure_hub"],
        {
            "MERCURE_LISTEN": f"127.0.0.1:{port}",
            "MERCURE_TRANSPORT_URL": f"sqlite:///{tmp_path}/hub.db",
            "MERCURE_PUBLISHER_JWT_KEY": SECRET,
            "MERCURE_SUBSCRIBER_JWT_KEY": SECRET,
        },
        tmp_path / "hub.log",
    )
    with ExitStack() as ends:

        def new_relay() -> Killable:
            relay = Killable(
                ["flask", "--app", "tests.flask_mercure.database.counting", "mercure", "relay"],
                {"COUNTING_DATABASE": database, "COUNTING_HUB": url},
                tmp_path / "relay.log",
            )
            ends.callback(relay.close)
            relay.start()
            return relay

        app = create_app(database, url)
        engine = app.config["SESSIONS"].kw["bind"]
        Base.metadata.create_all(engine)
        with app.config["SESSIONS"]() as session:  # without an app context: not published
            session.execute(Counter.__table__.insert(), [{"name": name, "value": 0} for name in NAMES])  # type: ignore[attr-defined]
            session.commit()
        ends.callback(hub.close)
        hub.start()
        made = World(app, hub, port, new_relay)
        made.await_hub()
        yield made


@contextmanager
def writing(world: World, threads: int = 3, count: int = 60) -> Iterator[None]:
    workers = [threading.Thread(target=world.write, args=(seed, count)) for seed in range(threads)]
    for worker in workers:
        worker.start()
    try:
        yield
    finally:
        for worker in workers:
            worker.join(TIMEOUT)
    assert world.errors == []
    assert sum(world.committed.values()) == threads * count * 3 // 4


def check(world: World) -> None:
    world.await_empty()
    with world.app.config["SESSIONS"]() as session:
        values = {row.name: row.value for row in session.execute(select(Counter.name, Counter.value))}
    assert values == {name: world.committed.get(name, 0) for name in NAMES}
    total = sum(values.values())
    assert world.arrived(total) == {
        name: list(range(1, value + 1)) for name, value in values.items() if value
    }
    assert outbox_stats(world.app).parked == 0


def test_a_hub_that_is_killed_twice(world: World) -> None:
    relay = world.new_relay()
    with writing(world):
        for commits in (30, 80):
            world.await_commits(commits)
            world.hub.kill()
            world.await_commits(commits + 25)  # the app goes on without it
            world.hub.start()
            world.await_hub()
    check(world)
    assert relay.stop(signal.SIGTERM) == 0


def test_a_relay_that_is_killed_and_two_at_once(world: World) -> None:
    first, second = world.new_relay(), world.new_relay()
    with writing(world):
        world.await_commits(40)
        first.kill()
        world.await_commits(80)
        third = world.new_relay()
        second.kill()
        world.hub.kill()
        world.await_commits(100)
        world.hub.start()
        world.await_hub()
    check(world)
    assert third.stop(signal.SIGINT) == 0
