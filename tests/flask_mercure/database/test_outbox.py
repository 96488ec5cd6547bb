"""The relay as a thread and as a command, the other commands, the numbers for monitoring."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import select

from flask_mercure.cli import mercure
from flask_mercure.database import OutboxCollector, outbox_stats
from flask_mercure.database.outbox import RelayThread, outbox_of, relay_for
from tests.flask_mercure.fake_hub import Answer, FakeHub, make_app, running
from tests.flask_mercure.library import Library, library

pytestmark = pytest.mark.minutes


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with running() as hub:
        yield hub


@pytest.fixture
def books(database: str, hub: FakeHub) -> Iterator[Library]:
    with library(database, hub.url, outbox=True) as opened:
        yield opened


def run(app: Flask, *arguments: str) -> str:
    result = app.test_cli_runner().invoke(mercure, [*arguments])
    assert result.exit_code == 0, result.output
    return result.output


def data_of(hub: FakeHub) -> list[str]:
    return [dict(request.pairs)["data"] for request in hub.received if request.method == "POST"]


def test_the_thread_sends_what_is_committed_at_once(database: str, hub: FakeHub) -> None:
    with library(database, hub.url, outbox=True) as books:
        arrived = threading.Semaphore(0)
        handle = hub.handle

        def handled(handler: Any) -> None:
            handle(handler)
            arrived.release()

        hub.handle = handled  # type: ignore[method-assign]
        thread = RelayThread(books.app, interval=300)
        outbox_of(books.app).relay_thread = thread
        try:
            for number in range(3):
                with books.sessions() as session:
                    books.mercure.outbox(session).publish("a", str(number), private=False)
                    session.commit()
                assert arrived.acquire(timeout=10)
        finally:
            thread.stop()
        assert data_of(hub) == ["0", "1", "2"]
        thread.wake()  # after its end, nothing begins anew
    assert not [one for one in threading.enumerate() if one.name == "mercure relay"]


def test_the_first_request_starts_the_thread(database: str, hub: FakeHub) -> None:
    with library(database, hub.url, outbox=True, RELAY_THREAD=True) as books:
        thread = outbox_of(books.app).relay_thread
        assert thread is not None

        def relays() -> list[str]:
            return [one.name for one in threading.enumerate() if one.name == "mercure relay"]

        assert relays() == []
        books.app.test_client().get("/")
        assert relays() == ["mercure relay"]
        thread.stop()


def test_the_relay_command_sends_once(books: Library, hub: FakeHub) -> None:
    hub.answers = [Answer(), Answer(), Answer(b"no", 403), Answer()]  # the first is to OPTIONS
    with books.sessions() as session:
        for number in range(3):
            books.mercure.outbox(session).publish("a", str(number), private=False)
        session.commit()
    assert run(books.app, "relay", "--once") == "2 sent, 0 to be tried again, 1 parked\n"
    assert data_of(hub) == ["0", "1", "2"]
    shown = run(books.app, "outbox", "list")
    assert "parked" in shown
    assert "403" in shown
    assert "after 1 attempts" in shown
    assert "parked   1" in run(books.app, "outbox", "stats")
    assert run(books.app, "outbox", "retry", "--all") == "1 updates are tried again\n"
    assert run(books.app, "relay", "--once").startswith("1 sent")
    assert run(books.app, "outbox", "list") == ""


@pytest.mark.parametrize(
    "config", [{"OUTBOX_PUBLISH": True}, {"ON_FAILURE": "log"}, {"ON_FAILURE": "background"}]
)
def test_the_relay_sends_whatever_publish_does(database: str, hub: FakeHub, config: dict[str, Any]) -> None:
    with library(database, hub.url, outbox=True, **config) as books:
        with books.sessions() as session:
            books.mercure.outbox(session).publish("a", "1", private=False)
            session.commit()
        # Without it the update could be due again before this run ends, and count twice.
        hub.answers = [Answer(b"no", 503, headers={"Retry-After": "3600"})]
        assert run(books.app, "relay", "--once") == "0 sent, 1 to be tried again, 0 parked\n"
        hub.answers = [Answer()]
        assert run(books.app, "outbox", "retry", "--all") == "1 updates are tried again\n"
        assert run(books.app, "relay", "--once") == "1 sent, 0 to be tried again, 0 parked\n"
        assert data_of(hub) == ["1", "1"]
        assert outbox_stats(books.app).waiting == 0


def test_the_purge_command_deletes_updates(books: Library) -> None:
    with books.sessions() as session:
        books.mercure.outbox(session).publish("a", "1", private=False)
        session.commit()
    runner = books.app.test_cli_runner()
    refused = runner.invoke(mercure, ["outbox", "purge", "--state", "waiting"], input="n\n")
    assert refused.exit_code == 1
    assert outbox_stats(books.app).waiting == 1
    assert run(books.app, "outbox", "purge", "--state", "waiting", "--older-than", "1", "--yes").startswith(
        "0"
    )
    assert run(books.app, "outbox", "purge", "--state", "waiting", "--yes") == "1 updates are deleted\n"
    for arguments in (["purge"], ["purge", "1", "--state", "parked"], ["retry"], ["retry", "1", "--all"]):
        assert runner.invoke(mercure, ["outbox", *arguments]).exit_code == 2


def test_an_app_without_outbox_is_told(hub: FakeHub) -> None:
    for arguments in (["relay", "--once"], ["outbox", "list"]):
        result = make_app(URL=hub.url).test_cli_runner().invoke(mercure, [*arguments])
        assert result.exit_code == 1
        assert "set MERCURE_OUTBOX" in result.output


def test_signals_end_the_command(books: Library, hub: FakeHub) -> None:
    from flask_mercure.database.outbox import ending_on_signals

    before = signal.getsignal(signal.SIGTERM)
    relay = relay_for(books.app)
    with ending_on_signals(relay):
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM)).start()
        relay.run()
    assert signal.getsignal(signal.SIGTERM) is before


def test_numbers_for_prometheus(books: Library) -> None:
    prometheus = pytest.importorskip("prometheus_client")
    registry = prometheus.CollectorRegistry()
    registry.register(OutboxCollector(books.app))
    with books.sessions() as session:
        books.mercure.outbox(session).publish("a", "1", private=False)
        session.commit()
    assert registry.get_sample_value("mercure_outbox_waiting") == 1
    assert registry.get_sample_value("mercure_outbox_parked") == 0
    age = registry.get_sample_value("mercure_outbox_oldest_age_seconds")
    assert age is not None
    assert 0 <= age < 60
    assert books.outbox is not None
    with books.engine.connect() as connection:
        assert connection.scalar(select(books.outbox.table.c.attempts)) == 0
