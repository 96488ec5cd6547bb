"""What is published again after a lost answer arrives once: each way to publish, on a real hub."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import MetaData, create_engine
from sqlalchemy.pool import NullPool

from flask_mercure import HubUnreachable, Mercure, PublishError, Update
from flask_mercure.database import Outbox
from flask_mercure.database.outbox import relay_for
from flask_mercure.publishing.pipeline import pipeline_of
from flask_mercure.state import state_of
from tests.flask_mercure.proxies import proxy
from tests.flask_mercure.real_hub import app_on
from tests.hub.running import HUB_PATH, RunningHub
from tests.hub.test_process import process

pytestmark = [pytest.mark.minutes, pytest.mark.every_engine]

PATIENCE = 30.0


class Losing:
    """What a proxy does that loses answers to publications.

    :param count: of the next answers that it loses; they go out of the hub, and never arrive.
    """

    def __init__(self, count: int = 0) -> None:
        self.count = count
        self.lost = 0
        self.on_loss: list[Any] = []
        self._methods = threading.local()  # of the last request on the connection that a thread serves

    def request(self, data: bytes) -> bytes:
        for method in (b"POST ", b"OPTIONS "):
            if data.startswith(method):
                self._methods.value = method
        return data

    def answer(self, data: bytes) -> bytes:
        if self._methods.value != b"POST " or self.lost >= self.count:
            return data
        self.lost += 1
        assert b" 200 " in data
        for action in self.on_loss:
            action()
        raise ConnectionResetError


@contextmanager
def losing(hub: RunningHub, losing: Losing, mercure: Mercure, **config: object) -> Iterator[Flask]:
    """An app whose hub is behind a proxy that loses answers."""
    with (
        proxy(hub.port, request=losing.request, answer=losing.answer) as port,
        app_on(f"http://127.0.0.1:{port}{HUB_PATH}", mercure, PUBLIC_URL=hub.url, **config) as app,
    ):
        yield app


def stored(hub: RunningHub, topic: str) -> list[str]:
    """The data of all updates of a topic, which one of its own ends."""
    hub.send(topic, "end")
    stream = hub.subscribe({"match": topic, "last_event_id": "earliest"}, hub.token())
    return list(iter(lambda: stream.next().data, "end"))


def test_publish_returns_the_id_of_the_first_attempt(hub: RunningHub) -> None:
    mercure, loss = Mercure(), Losing(2)
    with losing(hub, loss, mercure):
        stream = hub.subscribe({"match": "p-one"}, hub.token())
        published = mercure.publish("p-one", "x", private=True)
        assert loss.lost == 2
        event = stream.next()
        assert (event.id, event.data) == (published, "x")
    assert stored(hub, "p-one") == ["x"]


def test_an_encrypted_update_is_the_same_in_each_attempt(hub: RunningHub) -> None:
    mercure, loss = Mercure(), Losing(1)
    with losing(hub, loss, mercure):
        mercure.publish(
            "p-jwe", "secret", encrypt_for=[{"kty": "oct", "kid": "1", "k": "A" * 43}], private=False
        )
    assert loss.lost == 1
    assert len(stored(hub, "p-jwe")) == 1


def test_publish_many(hub: RunningHub) -> None:
    mercure, loss = Mercure(), Losing(1)
    with losing(hub, loss, mercure):
        ids = mercure.publish_many(Update("p-many", str(n), private=False) for n in range(50))
    assert (loss.lost, len(set(ids))) == (1, 50)
    assert stored(hub, "p-many") == list(map(str, range(50)))


def test_a_stream_of_text(hub: RunningHub) -> None:
    mercure, loss = Mercure(), Losing(2)
    with losing(hub, loss, mercure):
        assert mercure.stream("p-text", iter("abc"), interval=0, private=False) == "abc"
    found = stored(hub, "p-text")
    assert loss.lost == 2
    assert len(found) == len(set(found))


@pytest.mark.parametrize("timeout", [5.0, 0.05])
def test_the_background_queue(hub: RunningHub, timeout: float) -> None:
    """With a short timeout, the queue repeats it, not the publisher."""
    mercure, loss = Mercure(), Losing(2)
    topic = f"p-background-{timeout}"
    with losing(hub, loss, mercure, TIMEOUT=timeout) as app:
        for number in range(5):
            mercure.publish(topic, str(number), on_failure="background", private=False)
        assert pipeline_of(app).queue(state_of(app).hub()).join(PATIENCE)
    assert loss.lost == 2
    assert stored(hub, topic) == list(map(str, range(5)))


@pytest.mark.parametrize("timeout", [5.0, 0.05])
def test_the_relay(hub: RunningHub, tmp_path: Path, timeout: float) -> None:
    """With a short timeout, the relay repeats a batch update by update."""
    mercure, loss = Mercure(), Losing(2)
    topic = f"p-relay-{timeout}"
    engine = create_engine(f"sqlite:///{tmp_path}/outbox.db", poolclass=NullPool)
    metadata = MetaData()
    outbox = Outbox(engine, metadata)
    with losing(hub, loss, mercure, OUTBOX=outbox, TIMEOUT=timeout) as app, ExitStack() as stack:
        metadata.create_all(engine)
        for number in range(5):
            mercure.outbox().publish(topic, str(number), private=False)
        relay = relay_for(app)
        stack.callback(relay.close)
        sent = 0
        while sent < 5:
            sent += relay.run_once().sent
    engine.dispose()
    assert loss.lost == 2
    assert stored(hub, topic) == list(map(str, range(5)))


def test_a_hub_that_is_killed_before_its_answer_arrives(folder: Path) -> None:
    """The update is committed, nobody was told; the next hub on the same history finds it."""
    mercure, loss = Mercure(), Losing()
    with ExitStack() as stack:
        child, hub = stack.enter_context(process(folder))
        stack.callback(hub.close)
        stack.enter_context(losing(hub, loss, mercure, TIMEOUT=PATIENCE))
        mercure.publish("p-killed", "before", private=False)

        def kill() -> None:
            child.kill()
            child.wait()
            starting.start()

        def start() -> None:
            stack.enter_context(process(folder, MERCURE_LISTEN=f"127.0.0.1:{hub.port}"))

        starting = threading.Thread(target=start)
        loss.on_loss.append(kill)
        loss.count = 1
        mercure.publish("p-killed", "x", private=False)
        starting.join()
        assert loss.lost == 1
        assert stored(hub, "p-killed") == ["before", "x"]


def test_a_hub_that_does_not_come_back_leaves_the_update_in_doubt(folder: Path) -> None:
    mercure, loss = Mercure(), Losing()
    with process(folder) as (child, hub), losing(hub, loss, mercure, TIMEOUT=0.5):
        mercure.publish("p-away", "before", private=False)
        loss.on_loss.append(child.kill)
        loss.count = 1
        with pytest.raises(HubUnreachable, match="may have been published") as caught:
            mercure.publish("p-away", "x", private=False)
        assert caught.value.possibly_published
        hub.close()
        assert isinstance(caught.value, PublishError)
