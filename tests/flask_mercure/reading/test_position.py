"""Where the hub is: what a page begins with, so that its stream misses nothing."""

from __future__ import annotations

import logging
from pathlib import Path

import jwt
import pytest
from flask import Flask, current_app
from requests.adapters import HTTPAdapter

from flask_mercure import Mercure
from flask_mercure.extension import state_of
from flask_mercure.reading.position import KEY, Position
from flask_mercure.reading.subscriber import Gap
from tests.chosen_engine import discard_all
from tests.flask_mercure.fake_hub import SECRET, Answer, FakeHub, Silent, make_app
from tests.flask_mercure.real_hub import app_on
from tests.hub.running import RunningHub, running_hub

pytestmark = pytest.mark.minutes

PATIENCE = 10.0
mercure = Mercure()


@pytest.mark.parametrize("protocol", ["1.0", "0.x"])
def test_position_lets_a_page_miss_nothing_and_get_nothing_twice(hub: RunningHub, protocol: str) -> None:
    own = Mercure()
    with app_on(hub, own, PROTOCOL=protocol):
        own.publish("position/1", "before", private=False)
        newest = own.publish("elsewhere", "of another topic", private=False)
        position = own.last_event_id()
        assert position == newest == own.last_event_id()
        adapter = state_of(current_app).publisher.session.get_adapter(hub.url)
        assert isinstance(adapter, HTTPAdapter)
        pools = adapter.poolmanager.pools
        assert [pool.num_connections for pool in map(pools.__getitem__, pools.keys())] == [1]
        own.publish("position/1", "between the data and the stream", private=False)
        gaps: list[Gap] = []
        with own.subscribe("position/1", position, on_gap=gaps.append) as events:
            assert events.wait(PATIENCE).data == "between the data and the stream"
            with pytest.raises(TimeoutError):
                events.wait(0.05)
        assert gaps == []


def test_position_of_a_hub_without_updates_or_history(folder: Path) -> None:
    with running_hub(folder) as hub, app_on(hub, mercure):
        assert mercure.last_event_id() == "earliest"
        newest = mercure.publish("a", "1", private=False)
        discard_all(folder)
        gaps: list[Gap] = []
        assert mercure.last_event_id() == newest
        with mercure.subscribe("a", newest, on_gap=gaps.append) as events:
            mercure.publish("a", "2", private=False)
            assert events.wait(PATIENCE).data == "2"
        assert gaps == []


def test_position_takes_one_request_for_each_page(other: FakeHub) -> None:
    other.answers = [
        Answer(b"", 200, None, {"Mercure-Last-Event-ID": "urn:uuid:1"}),
        Answer(b"", 200, None, {"Mercure-Last-Event-ID": "urn:uuid:2"}),
    ]
    app = make_app(URL=other.url)

    @app.get("/")
    def page() -> str:
        return f"{mercure.last_event_id()} {mercure.last_event_id()}"

    client = app.test_client()
    with app.app_context():  # which the requests of a test share
        assert client.get("/").text == "urn:uuid:1 urn:uuid:1"
        assert client.get("/").text == "urn:uuid:2 urn:uuid:2"
        assert mercure.last_event_id() == "urn:uuid:2"
    assert [one.method for one in other.received] == ["HEAD"] * 3
    assert other.received[0].headers["Last-Event-ID"] == ""
    assert other.received[0].headers["Authorization"].startswith("Bearer ")
    assert len({one.connection for one in other.received}) == 1
    state_of(app).publisher.close()


def _foreign(subscriptions: Answer) -> list[Answer]:
    """As the reference implementation answers HEAD, then what it says to OPTIONS and of subscriptions."""
    head = Answer(b"", 200, None, {"Mercure-Last-Event-ID": "earliest"})
    return [head, Answer(b"", 405), subscriptions]


def test_position_of_another_hub_from_its_active_subscriptions(other: FakeHub) -> None:
    link = '<https://e.example/>; rel="mercure"; last-event-id="urn:uuid:9"'
    other.answers = _foreign(Answer(b'{"subscriptions": []}', 200, "application/json", {"Link": link}))
    app = make_app(URL=other.url)
    with app.app_context():
        assert mercure.last_event_id() == "urn:uuid:9"
        assert mercure.last_event_id() == "urn:uuid:9"
    assert [one.method for one in other.received] == ["HEAD", "OPTIONS", "GET", "GET"]
    assert other.received[-1].target.endswith("/subscriptions/exact/urn%3Aflask-mercure%3Aposition")
    state_of(app).publisher.close()


@pytest.mark.parametrize(
    "answers",
    [
        _foreign(Answer(b"", 404)),
        _foreign(Answer(b"no json", 200, "application/json")),
        _foreign(Answer(b"[]", 200, "application/json")),
        [Answer(b"", 405), Answer(b"", 405), Answer(b"", 404)],
        [Answer(b"", 401)],
        [Answer(b"", 503)],
        [Answer(b"", 302, None, {"Location": "/"})],
    ],
)
def test_position_is_not_asked_again_soon_after_a_failure(
    other: FakeHub, answers: list[Answer], caplog: pytest.LogCaptureFixture
) -> None:
    other.answers = answers
    app = make_app(URL=other.url)
    with app.app_context(), caplog.at_level(logging.WARNING, "flask_mercure"):
        assert mercure.last_event_id() is None
        asked = len(other.received)
        assert mercure.last_event_id() is None
    assert len(other.received) == asked
    assert caplog.text.count("position of the hub 'default'") == 1
    state_of(app).publisher.close()


def test_position_of_a_hub_that_is_away_takes_a_second_at_most(
    other: FakeHub, caplog: pytest.LogCaptureFixture
) -> None:
    other.answers = [Silent()]
    app = make_app(URL=other.url, TIMEOUT=30)
    with app.app_context(), caplog.at_level(logging.WARNING, "flask_mercure"):
        assert mercure.last_event_id() is None
    assert "within 1 s" in caplog.text
    assert "Bearer" not in caplog.text
    state_of(app).publisher.close()
    down = make_app(URL="http://127.0.0.1:9/")
    with down.app_context():
        assert mercure.last_event_id() is None


def test_position_is_asked_again_after_a_pause(other: FakeHub) -> None:
    other.answers = [Answer(b"", 503), Answer(b"", 200, None, {"Mercure-Last-Event-ID": "urn:uuid:1"})]
    app = make_app(URL=other.url)
    now = [100.0]
    app.extensions[KEY] = {"default": Position(state_of(app).hub(), lambda: now[0])}
    with app.app_context():
        assert mercure.last_event_id() is None
        now[0] += 6
        assert mercure.last_event_id() == "urn:uuid:1"
    state_of(app).publisher.close()


def test_position_is_asked_with_the_token_of_an_app_without_a_key(other: FakeHub) -> None:
    other.answers = [Answer(b"", 200, None, {"Mercure-Last-Event-ID": "urn:uuid:1"})]
    token = jwt.encode({"exp": 4102444800}, SECRET, "HS256")
    app = Flask("sample")
    app.config.update(MERCURE_URL=other.url, MERCURE_JWT=token)
    Mercure(app)
    with app.app_context():
        assert mercure.last_event_id() == "urn:uuid:1"
    assert other.received[0].headers["Authorization"] == f"Bearer {token}"
    state_of(app).publisher.close()


def test_position_is_unknown_when_the_token_factory_fails(
    other: FakeHub, caplog: pytest.LogCaptureFixture
) -> None:
    class Failing:
        def create(self, *_: object, **__: object) -> str:
            raise LookupError("the vault is sealed")

    app = make_app(URL=other.url, TOKEN_FACTORY=Failing())
    with app.app_context(), caplog.at_level(logging.WARNING, "flask_mercure"):
        assert mercure.last_event_id() is None
    assert "MERCURE_TOKEN_FACTORY raised LookupError" in caplog.text
    assert other.received == []


def test_position_is_not_asked_in_a_recording(other: FakeHub) -> None:
    with make_app(URL=other.url).app_context(), mercure.record():
        assert mercure.last_event_id() is None
    assert other.received == []
