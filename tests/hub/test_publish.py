"""Publishing over HTTP (spec, Publication)."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from tests.chosen_engine import place_of, refusing
from tests.hub.running import HUB_PATH, RunningHub, running_hub

pytestmark = [pytest.mark.minutes, pytest.mark.every_engine]

FORM = {"Content-Type": "application/x-www-form-urlencoded"}


def test_answers_with_the_id_as_text(hub: RunningHub) -> None:
    reply = hub.publish({"topic": "https://example.com/a", "data": "x"})
    assert reply.status == 200
    assert reply.headers["content-type"] == "text/plain; charset=utf-8"
    assert reply.text.startswith("urn:uuid:")


def test_keeps_the_id_that_was_given(hub: RunningHub) -> None:
    assert hub.send("own-id", id="https://example.com/é#1") == "https://example.com/é#1"


def test_subscribers_get_every_field(hub: RunningHub) -> None:
    stream = hub.subscribe({"match": "fields"})
    hub.send("fields", "one\r\ntwo\rthree\n", id="urn:x:1", type="note", retry="1500")
    stream.read_until(b"\n\n")
    assert (
        stream.raw
        == b":\nid: urn:x:1\nevent: note\nretry: 1500\ndata: one\ndata: two\ndata: three\ndata: \n\n"
    )


def test_data_cannot_forge_fields(hub: RunningHub) -> None:
    stream = hub.subscribe({"match": "forge"})
    hub.send("forge", "a\n\nevent: mercure\rid: stolen\r\n\r\ndata: x", id="urn:x:2")
    event = stream.next()
    assert (event.id, event.type) == ("urn:x:2", "message")
    assert event.data == "a\n\nevent: mercure\nid: stolen\n\ndata: x"


def test_an_alternate_topic_reaches_its_subscribers_once(hub: RunningHub) -> None:
    stream = hub.subscribe({"match": ["alt-1", "alt-2"]})
    hub.publish({"topic": ["alt-0", "alt-1", "alt-2"], "data": "first"})
    hub.send("alt-1", "second")
    assert stream.take(2) == ["first", "second"]


@pytest.mark.parametrize("value", ["on", "", "0", "false"])
def test_private_whatever_its_value(hub: RunningHub, value: str) -> None:
    topic = f"private-{value}"
    public = hub.subscribe({"match": topic})
    allowed = hub.subscribe({"match": topic}, hub.token(subscribe=[topic]))
    other = hub.subscribe({"match": topic}, hub.token(subscribe=["another"]))
    hub.send(topic, "secret", private=value)
    hub.send(topic, "open")
    assert allowed.take(2) == ["secret", "open"]
    assert public.take(1) == ["open"]
    assert other.take(1) == ["open"]


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"data": "x"}, "topic"),
        ({"topic": ""}, "topic"),
        ({"topic": "a\nb"}, "topic"),
        ({"topic": "a\u200bb"}, "topic"),
        ({"topic": "*"}, "topic"),
        ({"topic": ["ok", "*"]}, "topic"),
        ({"topic": ["ok", "/.well-known/mercure/x"]}, "topic"),
        ({"topic": [*(f"ok/{number}" for number in range(99)), "/.well-known/mercure/x"]}, "topic"),
        ({"topic": "/.well-known/mercure/subscriptions/exact/a/b"}, "topic"),
        ({"topic": "https://elsewhere.example/.well-known/%6Dercure/x"}, "topic"),
        ({"topic": "x", "id": "#1"}, "id"),
        ({"topic": "x", "id": "earliest"}, "id"),
        ({"topic": "x", "id": "a\r\nb"}, "id"),
        ({"topic": "x", "type": "mercure"}, "type"),
        ({"topic": "x", "type": "a\nb"}, "type"),
        ({"topic": "x", "retry": "-1"}, "retry"),
        ({"topic": "x", "retry": "1.5"}, "retry"),
        ({"topic": "x", "retry": ""}, "retry"),
        ({"topic": "x", "retry": "\u0663"}, "retry"),
    ],
)
def test_refuses_and_names_the_field(hub: RunningHub, fields: dict[str, object], field: str) -> None:
    reply = hub.publish(fields)
    assert reply.status == 400
    assert reply.headers["content-type"] == "application/problem+json"
    assert reply.json()["field"] == field


def test_the_reserved_namespace_is_refused_before_the_token_is_looked_at(hub: RunningHub) -> None:
    assert hub.publish({"topic": "mercure/x"}, token=None).status == 400
    assert hub.publish({"topic": "*"}, token="not-a-token").status == 400
    assert hub.publish({"topic": "fine"}, token=None).status == 401


def test_all_topics_must_be_allowed(hub: RunningHub) -> None:
    token = hub.token(publish=["a", {"match": "https://example.com/books/:id", "match_type": "urlpattern"}])
    assert hub.publish({"topic": ["a", "https://example.com/books/1"]}, token).status == 200
    reply = hub.publish({"topic": ["a", "b"]}, token)
    assert reply.status == 403
    assert 'error="insufficient_scope"' in reply.headers["www-authenticate"]
    assert "'b'" in reply.json()["detail"]


@pytest.mark.parametrize("place", [0, 1, 4, 99])
def test_a_topic_that_the_token_does_not_allow_is_refused_at_any_place(hub: RunningHub, place: int) -> None:
    topics = [f"allowed/{number}" for number in range(100)]
    token = hub.token(publish=topics)
    assert hub.publish({"topic": topics}, token).status == 200
    topics[place] = "forbidden"
    reply = hub.publish({"topic": topics}, token)
    assert reply.status == 403, reply.text
    assert "'forbidden'" in reply.json()["detail"]


def test_unknown_fields_are_ignored(hub: RunningHub) -> None:
    assert hub.publish({"topic": "u", "Topic": "\x00", "priority": "high", "data": ""}).status == 200


@pytest.mark.parametrize(
    "media", ["application/ld+json", "multipart/form-data; boundary=x", "", "text/plain"]
)
def test_other_content_types_are_refused(hub: RunningHub, media: str) -> None:
    assert hub.publish({"topic": "x"}, headers={"Content-Type": media}).status == 415


def test_a_content_type_with_a_charset(hub: RunningHub) -> None:
    media = {"Content-Type": "Application/X-WWW-Form-Urlencoded; charset=UTF-8"}
    assert hub.publish({"topic": "x"}, headers=media).status == 200


def test_a_form_that_is_not_utf8_is_refused(hub: RunningHub) -> None:
    headers = {**FORM, "Authorization": f"Bearer {hub.token()}"}
    reply = hub.request("POST", HUB_PATH, headers, b"topic=a&data=%ff")
    assert (reply.status, reply.json()["field"]) == (400, "data")


@pytest.mark.parametrize(
    "fields",
    [
        {"topic": [f"t{i}" for i in range(101)]},
        {"topic": "x" * 2049},
        {"topic": "x", "id": "x" * 2049},
        {"topic": "x", "data": "x" * (1 << 20)},
        {"topic": "x", "y": [""] * 1001},
    ],
    ids=["topics", "topic", "id", "body", "fields"],
)
def test_a_body_that_is_too_large_is_refused(hub: RunningHub, fields: dict[str, object]) -> None:
    assert hub.publish(fields).status == 413


def test_an_update_of_nearly_the_limit_arrives_whole(hub: RunningHub) -> None:
    stream = hub.subscribe({"match": "large"})
    data = "0123456789abcdef" * 60_000
    hub.send("large", data)
    assert stream.next().data == data


def test_a_keep_alive_connection_publishes_many(hub: RunningHub) -> None:
    stream = hub.subscribe({"match": "many"})
    body = b"topic=many&data=x"
    head = (
        f"POST {HUB_PATH} HTTP/1.1\r\nHost: 127.0.0.1:{hub.port}\r\nAuthorization: Bearer {hub.token()}\r\n"
        f"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode()
    with hub.connect() as sock:
        sock.sendall((head + body) * 20)
        answers = b""
        while answers.count(b"HTTP/1.1 200 OK") < 20 or answers.count(b"urn:uuid:") < 20:
            answers += sock.recv(65536)
    assert stream.take(20) == ["x"] * 20


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH"])
def test_other_methods_are_refused(hub: RunningHub, method: str) -> None:
    reply = hub.request(method, HUB_PATH)
    assert reply.status == 405
    assert reply.headers["allow"] == "GET, HEAD, QUERY, POST, OPTIONS"


def test_a_storage_that_fails_is_told_without_its_place_and_logged_once(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = place_of(folder)
    with running_hub(folder) as hub:
        hub.send("t", "before")
        with refusing(folder):
            for _ in range(3):
                caplog.clear()
                reply = hub.publish({"topic": "t", "data": "lost"})
                assert reply.status == 503
                assert place not in reply.text
                (line,) = [one.getMessage() for one in caplog.records if one.levelno >= logging.ERROR]
                assert place in line
            assert place not in hub.get(path="/healthz").text
