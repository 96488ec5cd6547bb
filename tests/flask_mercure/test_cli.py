"""``flask mercure``: publish, token, subscribe, and the hub for development."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jwt
import pytest
from click.testing import Result
from flask import Flask

from flask_mercure import Event, Subscription, development
from flask_mercure.cli import mercure
from flask_mercure.extension import state_of
from mercure_hub.protocol.tokens import keys
from mercure_hub.protocol.tokens.access_token import TokenVerifier
from mercure_hub.protocol.tokens.issuer import Issuer
from tests.flask_mercure.fake_hub import SECRET, Answer, Dropped, FakeHub, make_app, running


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with running() as hub:
        yield hub


def run(app: Flask, *arguments: str, **keywords: Any) -> Result:
    result = app.test_cli_runner().invoke(mercure, arguments, **keywords)
    if "mercure" in app.extensions:
        state_of(app).publisher.close()
    return result


@pytest.mark.minutes
def test_publish_is_private_unless_told(hub: FakeHub) -> None:
    assert run(make_app(URL=hub.url), "publish", "a", "--public").exit_code == 0
    assert hub.received[0].given == [("topic", "a"), ("data", "")]


@pytest.mark.minutes
def test_publish_sends_its_options(hub: FakeHub) -> None:
    arguments = [
        "publish",
        "a",
        "b",
        "--data",
        "text",
        "--id",
        "urn:x",
        "--type",
        "t",
        "--retry",
        "5",
    ]
    result = run(make_app(URL=hub.url), *arguments)
    assert (result.exit_code, result.stdout) == (0, "urn:uuid:1\n")
    assert hub.received[0].pairs == [
        ("topic", "a"),
        ("topic", "b"),
        ("data", "text"),
        ("private", "on"),
        ("id", "urn:x"),
        ("type", "t"),
        ("retry", "5"),
        ("once", "on"),
    ]


@pytest.mark.parametrize("protocol", ["1.0", "0.x"])
def test_wildcards_and_templates_need_no_mark_at_the_shell(protocol: str) -> None:
    made = run(make_app(PROTOCOL=protocol), "token", "--subscribe", "*", "--subscribe", "/books/{id}").stdout
    claims = jwt.decode(made.strip(), options={"verify_signature": False})
    if protocol == "1.0":  # there a brace is a brace
        topics = [{"match": "*"}, {"match": "/books/{id}"}]
        assert claims["authorization_details"][0]["topics"] == topics
    else:
        assert claims["mercure"]["subscribe"] == ["*", "/books/{id}"]


@pytest.fixture
def two(hub: FakeHub) -> Flask:
    """An app whose second hub is there and whose first is not."""
    here = {"URL": hub.url, "PUBLIC_URL": "https://eu.example/.well-known/mercure", "JWT_SECRET": SECRET}
    return make_app(HUBS={"default": {"URL": "http://127.0.0.1:9/m"}, "eu": here})


@pytest.mark.minutes
def test_a_hub_is_chosen_by_its_name(two: Flask, hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(two, "publish", "a", "--hub", "eu").exit_code == 0
    assert hub.received[0].given == [("topic", "a"), ("data", ""), ("private", "on")]
    made = run(two, "token", "--hub", "eu", "--subscribe", "a").stdout.strip()
    claims = jwt.decode(made, options={"verify_signature": False})
    assert "https://eu.example/.well-known/mercure" in claims["aud"]
    hub.answers = [Answer(b"data: 1\n\n", content_type="text/event-stream")]
    shown = run(two, "subscribe", "a", "--hub", "eu", "--count", "1")
    assert (shown.exit_code, "data: 1" in shown.stdout) == (0, True), shown.output
    started: list[dict[str, str]] = []
    monkeypatch.setattr(os, "execve", lambda _path, _command, environment: started.append(environment))
    monkeypatch.setattr(development, "find_spec", lambda name: name)
    assert run(two, "hub", "--hub", "eu", "--log-level", "debug").exit_code == 0
    assert started[0]["MERCURE_PUBLIC_URL"] == "https://eu.example/.well-known/mercure"
    assert started[0]["MERCURE_LISTEN"] in hub.url


@pytest.mark.minutes
@pytest.mark.parametrize("command", [["publish", "a"], ["token"], ["subscribe", "a"], ["hub"]])
def test_a_hub_that_the_app_does_not_have(two: Flask, command: Sequence[str]) -> None:
    result = run(two, command[0], "--hub", "us", *command[1:])
    assert result.exit_code == 1
    assert "there is no hub named 'us'; MERCURE_HUBS of this app has 'default', 'eu'" in result.stderr


@pytest.mark.minutes
def test_publish_reads_standard_input(hub: FakeHub) -> None:
    run(make_app(URL=hub.url), "publish", "a", "--data", "-", input="one\ntwo é\n")
    assert dict(hub.received[0].pairs)["data"] == "one\ntwo é\n"


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["publish"], 2, "Missing argument"),
        (["publish", "a", "--retry", "-1"], 2, "--retry"),
        (["publish", "*"], 1, "wildcard"),
        (["publish", "a\nb"], 1, "U+000A"),
        (["publish", "a", "--id", "#1"], 1, "#1"),
        (["token", "--lifetime", "0"], 2, "--lifetime"),
        (["token", "--subscribe", ""], 1, "empty"),
        (["subscribe"], 2, "name a topic"),
        (["subscribe", "a", "--count", "0"], 2, "--count"),
        (["subscribe", "a\x00"], 1, "U+0000"),
    ],
)
def test_a_mistake_at_the_shell_is_one_message(arguments: Sequence[str], status: int, words: str) -> None:
    result = run(make_app(URL="http://127.0.0.1:9/m"), *arguments)
    assert result.exit_code == status
    assert words in result.stderr
    assert "Traceback" not in result.output


@pytest.mark.minutes
def test_publish_to_a_hub_that_refuses(hub: FakeHub) -> None:
    hub.answers = [Answer(b"", 401, None)]
    result = run(make_app(URL=hub.url), "publish", "a")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "MERCURE_ISSUER" in result.stderr


@pytest.mark.parametrize("command", [["publish", "a"], ["token"], ["subscribe", "a"], ["hub"]])
def test_an_app_without_the_extension(command: Sequence[str]) -> None:
    result = run(Flask("bare"), *command)
    assert result.exit_code == 1
    assert "call Mercure(app)" in result.stderr


def test_token_prints_a_token_for_its_options() -> None:
    result = run(
        make_app(),
        *[
            "token",
            "--subscribe",
            "a",
            "--subscribe-urlpattern",
            "/b/:id",
            "--publish",
            "c",
            "--lifetime",
            "60",
        ],
    )
    trusted = (keys.load(SECRET, exists=os.path.exists),)
    verifier = TokenVerifier([Issuer("urn:flask-mercure", trusted, trusted)], "1.0")
    resource = "http://127.0.0.1:3000/.well-known/mercure"
    grant = verifier.verify(result.stdout.strip(), "subscribe", resource, time.time())
    assert [grant.subscribe.covers(topic) for topic in ("a", "/b/1", "c")] == [True, True, False]
    assert [grant.publish.covers(topic) for topic in ("a", "c")] == [False, True]
    assert grant.expires_at is not None
    assert grant.expires_at - time.time() == pytest.approx(60, abs=3)


def stream(body: bytes) -> Answer:
    return Answer(body, content_type="text/event-stream")


@pytest.mark.minutes
def test_subscribe_prints_events_through_lost_connections(hub: FakeHub) -> None:
    hub.answers = [
        stream(b"retry: 0\nid: 1\ndata: one\ndata: more\n\n:\nid: 2\nevent: change\ndata: two\n\ndata: cut"),
        Dropped(),
        Answer(b"starting", 503),
        stream(b"id: 3\ndata: three\n\nid: 4\ndata: four\n\n"),
    ]
    result = run(
        make_app(URL=hub.url),
        *["subscribe", "a", "--urlpattern", "/b/:id", "--last-event-id", "0", "--count", "3"],
    )
    assert result.exit_code == 0, result.output
    assert result.stdout == (
        "id: 1\ndata: one\ndata: more\n\nid: 2\nevent: change\ndata: two\n\nid: 3\ndata: three\n\n"
    )
    assert hub.received[0].target.partition("?")[2] == "match=a&match_urlpattern=%2Fb%2F%3Aid&with=topics"
    assert [request.headers["Last-Event-ID"] for request in hub.received] == ["0", "2", "2", "2"]
    token = hub.received[0].headers["Authorization"].removeprefix("Bearer ")
    claims = jwt.decode(token, options={"verify_signature": False})
    (detail,) = claims["authorization_details"]
    assert detail["topics"] == [{"match": "a"}, {"match": "/b/:id", "match_type": "urlpattern"}]


@pytest.mark.minutes
@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (Answer(b"", 401, None, {"WWW-Authenticate": 'Bearer error="invalid_token"'}), "401 (invalid_token)"),
        (Answer(b"", 503, None), "503"),
        (Answer(b"<html>", 200, "text/html"), "not an event stream"),
        (Answer(b"", 302, None, {"Location": "/"}), "302"),
    ],
)
def test_subscribe_to_a_hub_that_does_not_stream(hub: FakeHub, answer: Answer, words: str) -> None:
    hub.answers = [answer]
    result = run(make_app(URL=hub.url), "subscribe", "a")
    assert result.exit_code == 1
    assert words in result.stderr
    assert len(hub.received) == 1


@pytest.mark.minutes
def test_a_refusal_ends_subscribe_after_the_first_connection(hub: FakeHub) -> None:
    hub.answers = [stream(b"retry: 0\nid: 1\ndata: one\n\n"), Answer(b"", 403, None)]
    result = run(make_app(URL=hub.url), "subscribe", "a")
    assert (result.exit_code, result.stdout) == (1, "id: 1\ndata: one\n\n")
    assert "403" in result.stderr


@pytest.mark.minutes
def test_ctrl_c_ends_subscribe_quietly(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: Subscription) -> Event:
        raise KeyboardInterrupt

    hub.answers = [stream(b"data: 1\n\n")]
    monkeypatch.setattr(Subscription, "__next__", interrupt)
    result = run(make_app(URL=hub.url), "subscribe", "a")
    assert (result.exit_code, result.output) == (0, "")


def test_hub_replaces_itself_with_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[tuple[str, list[str], dict[str, str]]] = []
    monkeypatch.setattr(os, "execve", lambda *arguments: started.append(arguments))
    monkeypatch.setattr(development, "find_spec", lambda name: name)
    result = run(make_app(), "hub", "--cors-origins", "http://x", "--log-level", "debug")
    assert result.exit_code == 0, result.output
    ((path, command, made),) = started
    assert path == sys.executable
    assert command[-6:] == ["-m", "mercure_hub", "--cors-origins", "http://x", "--log-level", "debug"]
    assert made["MERCURE_PUBLISHER_JWT_KEY"] == SECRET
    assert made["PATH"] == os.environ["PATH"]


def test_hub_without_its_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(development, "find_spec", lambda name: None if name == "gevent" else name)
    monkeypatch.setattr(os, "execve", lambda *_: pytest.fail("started"))
    result = run(make_app(), "hub")
    assert result.exit_code == 1
    assert "pip install '.[hub]'" in result.stderr
    assert "(gevent)" in result.stderr


@pytest.mark.minutes
@pytest.mark.parametrize(
    ("arguments", "sent"),
    [
        (["7"], [("sub", "7")]),
        (
            ["ann", "--topic", "a", "--topic", "b", "--topic-urlpattern", "/t/:id"],
            [("sub", "ann"), ("topic", "a"), ("topic", "b"), ("topic", "/t/:id")],
        ),
        (["--jti", "urn:uuid:1", "--lifetime", "60"], [("jti", "urn:uuid:1"), ("lifetime", "60.0")]),
        (["--sid", "s"], [("sid", "s")]),
    ],
)
def test_revoke_sends_its_options(hub: FakeHub, arguments: list[str], sent: list[tuple[str, str]]) -> None:
    hub.answers = [Answer(b"", 204, None)]
    result = run(make_app(URL=hub.url), "revoke", *arguments)
    assert result.exit_code == 0, result.output
    assert [pair for pair in hub.received[0].pairs if pair[0] != "before"] == sent


@pytest.mark.minutes
@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        ([], 204, "revoke needs a user, a token (jti) or a session (sid)"),
        (["--jti", "x", "--topic", "a"], 204, "topics belongs to user"),
        (["7"], 404, "set MERCURE_REVOCATIONS=1"),
    ],
)
def test_what_cannot_be_revoked_is_said(hub: FakeHub, arguments: list[str], status: int, said: str) -> None:
    hub.answers = [Answer(b"", status, None)]
    result = run(make_app(URL=hub.url), "revoke", *arguments)
    assert result.exit_code == 1
    assert said in result.output
