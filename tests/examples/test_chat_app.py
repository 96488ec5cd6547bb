"""The chat's application without a browser and without a hub."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlsplit

import jwt
import pytest
from flask import Flask
from flask.testing import FlaskClient

from flask_mercure import Mercure, PublishError
from tests.examples.loading import load_example

_SECRET = "a secret of the tests with more than 32 bytes"


@pytest.fixture
def app() -> Flask:
    made: Flask = load_example("chat").create_app(
        {
            "TESTING": True,
            "SECRET_KEY": "of the tests",
            "MERCURE_URL": "http://localhost:3000/.well-known/mercure",
            "MERCURE_JWT_SECRET": _SECRET,
            "MERCURE_COOKIE_NAME": "mercure_access_token",
            "MERCURE_COOKIE_SECURE": False,
        }
    )
    return made


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], dict[str, Any]]]:
    """What the app publishes, instead of publishing it."""
    calls: list[tuple[list[str], dict[str, Any]]] = []

    def publish(_self: Mercure, topics: list[str], data: dict[str, Any], *, private: bool) -> str:
        assert private
        calls.append((topics, data))
        return "urn:uuid:1"

    monkeypatch.setattr(Mercure, "publish", publish)
    return calls


@pytest.fixture
def ada(app: Flask) -> FlaskClient:
    client = app.test_client()
    assert client.post("/sign-in", data={"name": "Ada"}).status_code == 302
    return client


def _say(client: FlaskClient, body: object) -> tuple[int, dict[str, Any]]:
    answer = client.post("/messages", json=body)
    return answer.status_code, answer.get_json()


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("Ada", "Ada"),
        ("  Ada   Lovelace ", "Ada Lovelace"),
        ("Åse-Marie O'Neill", "Åse-Marie O'Neill"),
        ("7", "7"),
    ],
)
def test_names(app: Flask, given: str, shown: str) -> None:
    client = app.test_client()
    assert client.post("/sign-in", data={"name": given}).status_code == 302
    with client.session_transaction() as session:
        assert session["name"] == shown


@pytest.mark.parametrize("name", ["", "   ", "-", "<b>", "a" * 25, "a\u202eb", "a/b"])
def test_names_that_are_refused(app: Flask, name: str) -> None:
    answer = app.test_client().post("/sign-in", data={"name": name})
    assert answer.status_code == 422
    assert 'role="alert"' in answer.text
    assert "mercure" not in str(answer.headers.getlist("Set-Cookie"))


def test_the_cookie_allows_what_it_should(ada: FlaskClient) -> None:
    cookie = ada.get_cookie("mercure_access_token", path="/.well-known/mercure")
    assert cookie is not None
    claims = jwt.decode(
        cookie.value, _SECRET, ["HS256"], audience="http://localhost:3000/.well-known/mercure"
    )
    [detail] = claims["authorization_details"]
    assert detail["actions"] == ["subscribe"]
    assert detail["payload"] == {"sub": "ada", "name": "Ada"}
    assert claims["sub"] == "ada"
    people = "/.well-known/mercure/subscriptions/exact/"
    shown = [
        people + topic for topic in ("%2Fhere", "%2Frooms%2Flobby", "%2Frooms%2Fworkshop", "%2Frooms%2Fmusic")
    ]
    assert [topic["match"] for topic in detail["topics"]] == [
        *("/rooms/:room", "/here", "/users/ada"),
        *(match for path in shown for match in (path, f"{path}/:subscriber")),
    ]


def test_signing_out_takes_the_cookie_back(ada: FlaskClient) -> None:
    assert ada.post("/sign-out").status_code == 302
    assert ada.get_cookie("mercure_access_token", path="/.well-known/mercure") is None
    assert urlsplit(ada.get("/rooms/lobby").headers["Location"]).path == "/sign-in"
    assert _say(ada, {"room": "lobby", "text": "a"})[0] == 401


def test_a_message_to_a_room(ada: FlaskClient, published: list[tuple[list[str], dict[str, Any]]]) -> None:
    assert _say(ada, {"room": "lobby", "text": " Hello\r\nall "}) == (201, {"id": "urn:uuid:1"})
    [(topics, message)] = published
    assert topics == ["/rooms/lobby"]
    assert message["from"] == {"id": "ada", "name": "Ada"}
    assert message["text"] == "Hello\nall"


def test_a_private_message_is_for_both(
    ada: FlaskClient, published: list[tuple[list[str], dict[str, Any]]]
) -> None:
    assert _say(ada, {"to": "Grace Hopper", "text": "Hello"})[0] == 201
    [(topics, message)] = published
    assert topics == ["/users/grace%20hopper", "/users/ada"]
    assert message["to"] == "grace hopper"


@pytest.mark.parametrize(
    "body",
    [
        [],
        {"room": "lobby"},
        {"room": "lobby", "text": " \n "},
        {"room": "lobby", "text": 1},
        {"room": "lobby", "text": "a" * 2001},
        {"room": "../users/grace", "text": "a"},
        {"room": "a-room", "text": "a"},
        {"to": "<b>", "text": "a"},
        {"text": "a"},
    ],
    ids=json.dumps,
)
def test_messages_that_are_refused(
    ada: FlaskClient, published: list[tuple[list[str], dict[str, Any]]], body: object
) -> None:
    status, answer = _say(ada, body)
    assert status == 422
    assert answer["error"]
    assert published == []


def test_errors_of_the_page_are_json(app: Flask, ada: FlaskClient) -> None:
    assert _say(app.test_client(), {"room": "lobby", "text": "a"})[0] == 401
    for data in (b"{", b"a" * 70_000):
        answer = ada.post("/messages", data=data, content_type="application/json")
        assert "error" in answer.get_json()


@pytest.mark.parametrize(("possibly", "status"), [(False, 502), (True, 504)])
def test_the_hub_does_not_take_a_message(
    ada: FlaskClient, monkeypatch: pytest.MonkeyPatch, possibly: bool, status: int
) -> None:
    def publish(*_: object, **__: object) -> str:
        raise PublishError("the hub is down", possibly_published=possibly)

    monkeypatch.setattr(Mercure, "publish", publish)
    found, answer = _say(ada, {"room": "lobby", "text": "a"})
    assert found == status
    assert "hub is down" not in answer["error"]  # that is for the log


@pytest.mark.parametrize("site", ["same-site", "cross-site", "none"])
@pytest.mark.parametrize("path", ["/sign-in", "/sign-out", "/messages"])
def test_other_sites_change_nothing(ada: FlaskClient, site: str, path: str) -> None:
    answer = ada.post(path, headers={"Sec-Fetch-Site": site})
    assert answer.status_code == 403
    assert "Set-Cookie" not in answer.headers


@pytest.mark.parametrize("path", ["/sign-in", "/nothing", "/static/chat.js"])
def test_security_headers(app: Flask, path: str) -> None:
    with app.test_client().get(path) as answer:
        policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'; script-src 'self'" in policy
    assert "connect-src 'self' http://localhost:3000; " in policy
    assert "unsafe" not in policy


@pytest.mark.parametrize("path", ["/rooms/Lobby", "/rooms/a%20b", "/people/%3Cb%3E", "/people/%E0%A4%A"])
def test_conversations_that_cannot_be(ada: FlaskClient, path: str) -> None:
    assert ada.get(path).status_code == 404


def test_a_name_cannot_leave_its_place_in_the_page(app: Flask) -> None:
    client = app.test_client()
    with client.session_transaction() as session:
        session["name"] = "</script><b>"
    page = client.get("/rooms/lobby").text
    assert "<b>" not in page
    assert page.count("</script>") == 3
