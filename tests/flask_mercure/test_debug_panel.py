"""The panel of Flask-DebugToolbar, in a real app with the real toolbar."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask
from flask_debugtoolbar import DebugToolbarExtension
from markupsafe import escape

from flask_mercure import Mercure, PublishError
from flask_mercure.extension import state_of
from tests.flask_mercure.fake_hub import Answer, FakeHub, make_app, running

pytestmark = pytest.mark.minutes

mercure = Mercure()
PAGE = "<!doctype html><html><body><p>{}</p></body></html>"


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with running() as hub:
        yield hub


@pytest.fixture
def app(hub: FakeHub) -> Iterator[Flask]:
    app = make_app(mercure, URL=hub.url)
    app.debug = True
    app.config.update(
        SECRET_KEY="x",
        DEBUG_TB_ENABLED=True,
        DEBUG_TB_INTERCEPT_REDIRECTS=False,
        DEBUG_TB_PANELS=("flask_mercure.debug_panel.MercurePanel",),
    )
    DebugToolbarExtension(app)

    @app.get("/quiet")
    def quiet() -> str:
        return PAGE.format("quiet")

    @app.get("/loud")
    def loud() -> str:
        mercure.publish(["books/1", "books"], "<script>x</script>", private=True, type="saved")
        hub.answers = [Answer(b"", 403)]
        try:
            mercure.publish("refused", "y" * 5000, private=False)
        except PublishError:
            return PAGE.format("loud")
        raise AssertionError

    yield app
    state_of(app).publisher.close()


def test_panel_lists_what_a_request_published(app: Flask, hub: FakeHub) -> None:
    page = app.test_client().get("/loud").text
    assert "Updates published in this request" in page
    assert "2 updates, " in page
    assert ", 1 failed" in page
    for shown in ("books/1", "books", "saved", "urn:uuid:1", "default", "PublishError", "(5000 characters)"):
        assert shown in page
    assert str(escape("<script>x</script>")) in page
    assert "<script>x</script>" not in page
    token = hub.received[0].headers["Authorization"].removeprefix("Bearer ")
    assert token not in page


@pytest.mark.parametrize(
    ("answer", "shown"),
    [
        (lambda: ["books/1"], "reads it, by &#39;books/1&#39;"),
        (lambda: ["Books/1"], "cannot read it: &#39;Books/1&#39; differs in upper and lower case"),
        (lambda: ["orders/1"], "cannot read it"),
        (lambda: None, "cannot read it"),
        (lambda: 1 / 0, "unknown: subscribe_grants raised ZeroDivisionError"),
    ],
)
def test_panel_says_whether_the_current_user_reads_it(hub: FakeHub, answer: Any, shown: str) -> None:
    mercure = Mercure()
    app = make_app(mercure, URL=hub.url, PUBLIC_URL="http://localhost/.well-known/mercure")
    app.config.update(
        SECRET_KEY="x",
        DEBUG_TB_ENABLED=True,
        DEBUG_TB_PANELS=("flask_mercure.debug_panel.MercurePanel",),
    )
    DebugToolbarExtension(app)
    mercure.subscribe_grants(automatic=False)(answer)

    @app.get("/")
    def index() -> str:
        mercure.publish("books/1", private=True)
        return PAGE.format("page")

    assert shown in app.test_client().get("/").text
    state_of(app).publisher.close()


def test_panel_does_not_mix_requests(app: Flask) -> None:
    client = app.test_client()
    client.get("/loud")
    page = client.get("/quiet").text
    assert "This request published nothing." in page
    assert "0 updates" in page


def test_panel_collects_nothing_without_the_toolbar(app: Flask) -> None:
    with app.app_context():
        mercure.publish("a", private=False)
    with app.test_request_context("/"):
        mercure.publish("a", private=False)
