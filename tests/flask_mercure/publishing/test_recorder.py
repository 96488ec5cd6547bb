"""Recording what an app publishes."""

from __future__ import annotations

import threading

import pytest
from flask import Flask

from flask_mercure import Mercure, RecordedUpdate, Update
from tests.flask_mercure.fake_hub import make_app

mercure = Mercure()


@pytest.fixture
def app() -> Flask:
    """Its hub is nowhere: what is not recorded fails."""
    app = make_app(mercure, URL="http://127.0.0.1:9/.well-known/mercure")

    @app.post("/books/<id>")
    def save(id: str) -> str:
        return mercure.publish([f"books/{id}", "books"], {"id": id}, private=True, type="saved", retry=5)

    return app


def test_recording_has_what_a_view_publishes(app: Flask) -> None:
    with mercure.record() as updates:
        made = app.test_client().post("/books/1").text
    assert updates == [RecordedUpdate(("books/1", "books"), '{"id": "1"}', True, made, "saved", 5, "default")]
    assert (updates[0].topic, updates[0].json) == ("books/1", {"id": "1"})
    assert made.startswith("urn:uuid:")


def test_updates_are_private_by_default_whatever_publishes_them(app: Flask) -> None:
    with app.app_context(), mercure.record() as updates:
        mercure.publish("a")
        mercure.publish_many([Update("a")])
        with mercure.batch() as batch:
            batch.publish("a")
        mercure.stream("a", ["text"])
        with mercure.progress("a") as step:
            step()
        mercure.stream_events("a", ["event"])
        mercure.stop("a")
    assert len(updates) > 7
    assert all(update.private for update in updates)


def test_recording_keeps_the_id_of_the_app(app: Flask) -> None:
    with app.app_context(), mercure.record() as updates:
        assert mercure.publish("a", "text", id="urn:1", private=False) == "urn:1"
    assert updates.one().id == "urn:1"


def test_recording_finds_updates_by_topic(app: Flask) -> None:
    with app.app_context(), mercure.record() as updates:
        mercure.publish_many(
            [
                Update("a", "1", private=False),
                Update(["b", "a"], "2", private=False),
                Update("c", "three", private=False),
            ]
        )
    assert [update.data for update in updates.on("a")] == ["1", "2"]
    assert updates.one("c").data == "three"
    with pytest.raises(AssertionError, match=r"2 instead of one update of 'a'.*'c': 'three'"):
        updates.one("a")
    with pytest.raises(AssertionError, match="0 instead"):
        updates.one("z")
    with pytest.raises(AssertionError, match="3 instead of one update;"):
        updates.one()
    with pytest.raises(AssertionError, match="'c' is not JSON but 'three'"):
        _ = updates.one("c").json


def test_recordings_may_be_nested(app: Flask) -> None:
    with app.app_context(), mercure.record() as outer:
        mercure.publish("a", "1", private=False)
        with mercure.record() as inner:
            mercure.publish("a", "2", private=False)
        with mercure.record() as empty:
            pass
        mercure.publish("a", "3", private=False)
    assert [update.data for update in outer] == ["1", "2", "3"]
    assert [update.data for update in inner] == ["2"]
    assert empty == []


def test_recording_ends_with_an_error_of_the_block(app: Flask) -> None:
    with pytest.raises(LookupError), mercure.record() as updates:
        raise LookupError
    with app.app_context(), mercure.record():
        mercure.publish("a", private=False)
    assert updates == []


def test_recording_waits_for_other_threads(app: Flask) -> None:
    def work(number: int) -> None:
        with app.app_context():
            for _ in range(20):
                mercure.publish("a", str(number), private=False)

    with mercure.record() as updates:
        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        assert len(updates.wait(80)) == 80
        for thread in threads:
            thread.join()
        with pytest.raises(AssertionError, match="80 instead of 81 updates within 0 s"):
            updates.wait(81, timeout=0)


def test_recording_refuses_what_the_hub_would_refuse(app: Flask) -> None:
    with app.app_context(), mercure.record() as updates:
        with pytest.raises(ValueError, match="wildcard"):
            mercure.publish("*", private=False)
        with pytest.raises(TypeError):
            mercure.publish("a", b"bytes", private=False)
    assert updates == []


def test_recording_covers_every_app_and_extension_object(app: Flask) -> None:
    other = make_app(URL="http://127.0.0.1:9/")
    with mercure.record() as updates:
        for one in (app, other):
            with one.app_context():
                Mercure().publish("a", private=False)
    assert len(updates) == 2
