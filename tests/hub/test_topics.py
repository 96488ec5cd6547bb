"""``with=topics``: each update comes with those of its topics that the subscriber selects."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.http2.client import Connection
from tests.hub.running import HUB_PATH, RunningHub, Stream, running_hub
from tests.hub.test_query import query
from tests.hub.websocket import client, messages

pytestmark = [pytest.mark.minutes, pytest.mark.every_engine]

Fields = list[tuple[str, str]]
Read = Callable[[RunningHub, Fields, str, int], list[dict[str, Any]]]


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningHub]:
    """A hub with all forms of streams; tests use topics of their own."""
    with running_hub(
        tmp_path_factory.mktemp("hub"),
        anonymous=1,
        subscriptions=1,
        compression="zstd",
        cors_origins="https://app.example",
    ) as running:
        yield running


def parsed(event: str) -> dict[str, Any]:
    """What an event says, with its topics."""
    lines = [line.partition(": ")[::2] for line in event.split("\n") if not line.startswith(":")]
    found: dict[str, Any] = {"topics": [value for name, value in lines if name == "topic"]}
    found |= {name: value for name, value in lines if name != "topic"}
    return found


def events(stream: Stream, count: int) -> list[dict[str, Any]]:
    while stream.raw.count(b"\n\n") < count:
        stream._take(stream.sock.recv(65536))
    return [parsed(one) for one in stream.raw.decode().split("\n\n")[:count]]


def over_http(version: str, **headers: str) -> Read:
    def read(hub: RunningHub, fields: Fields, token: str, count: int) -> list[dict[str, Any]]:
        return events(hub.subscribe(fields, token, version=version, **headers), count)

    return read


def by_query(hub: RunningHub, fields: Fields, token: str, count: int) -> list[dict[str, Any]]:
    host = f"127.0.0.1:{hub.port}"  # the token names it
    return events(query(hub, "", fields, Authorization=f"Bearer {token}", Host=host), count)


def by_websocket(hub: RunningHub, fields: Fields, token: str, count: int) -> list[dict[str, Any]]:
    with client(hub, fields, token) as connection:
        return messages(connection, count)


def over_http2(hub: RunningHub, fields: Fields, token: str, count: int) -> list[dict[str, Any]]:
    with Connection.to(hub) as connection:
        stream = connection.subscribe(fields, token)
        text = stream.read_until(f"data: {count}\n\n".encode()).decode()
        return [parsed(one) for one in text.split("\n\n")[:count]]


WAYS: dict[str, Read] = {
    "HTTP/1.1": over_http("1.1"),
    "HTTP/1.0": over_http("1.0"),
    "compressed": over_http("1.1", Accept_Encoding="zstd"),
    "QUERY": by_query,
    "WebSocket": by_websocket,
    "HTTP/2": over_http2,
}


@pytest.mark.parametrize("way", WAYS)
def test_the_history_names_the_topics_that_were_selected(hub: RunningHub, way: str) -> None:
    fields = [("topic", f"{way}/canonical"), ("topic", f"{way}/secret"), ("topic", f"{way}/7")]
    assert hub.publish([*fields, ("data", "1")]).status == 200
    assert hub.publish([*fields, ("data", "2"), ("private", "on")]).status == 200
    wanted = [
        ("match", f"{way}/canonical"),
        ("match_urlpattern", f"/.well-known/{way}/:id"),
        ("match", f"{way}/7"),
        ("last_event_id", "earliest"),
        ("with", "topics"),
    ]
    token = hub.token(subscribe=[f"{way}/canonical", f"{way}/7"])
    found = WAYS[way](hub, wanted, token, 2)
    assert [(one["data"], one["topics"]) for one in found] == [
        # The pattern selects them all, and a public update has no secrets.
        ("1", [f"{way}/canonical", f"{way}/secret", f"{way}/7"]),
        ("2", [f"{way}/canonical", f"{way}/7"]),
    ]


@pytest.mark.parametrize(
    ("version", "headers"),
    [("1.1", {}), ("1.0", {}), ("1.1", {"Accept_Encoding": "zstd"})],
    ids=["1.1", "1.0", "compressed"],
)
def test_live_updates(hub: RunningHub, version: str, headers: dict[str, str]) -> None:
    name = f"live-{version}-{len(headers)}"
    asked = [("match", f"{name}/a"), ("match", f"{name}/b"), ("with", "topics")]
    named = hub.subscribe(asked, version=version, **headers)
    plain = hub.subscribe(asked[:2], version=version, **headers)
    sent = [("topic", f"{name}/{one}") for one in "abc"]
    assert hub.publish([*sent, ("data", "1\n2"), ("type", "t"), ("retry", "9")]).status == 200
    expected = {"topics": [f"{name}/a", f"{name}/b"], "event": "t", "retry": "9", "data": "2"}
    (event,) = events(named, 1)
    assert {key: event[key] for key in expected} == expected
    received = named.next()
    assert received.topics == (f"{name}/a", f"{name}/b")
    assert replace(received, topics=()) == plain.next()
    assert b"topic" not in plain.raw


def test_live_updates_over_http_2_and_websocket(hub: RunningHub) -> None:
    asked = [("match", "live-2/a"), ("with", "topics")]
    with Connection.to(hub) as connection, client(hub, asked) as socket, client(hub, asked[:1]) as other:
        streams = [connection.subscribe(asked), connection.subscribe(asked[:1])]
        assert hub.publish([("topic", "live-2/a"), ("topic", "live-2/b"), ("data", "x")]).status == 200
        contents = [bytes(stream.read_until(b"data: x\n\n")) for stream in streams]
        assert [content.count(b"topic: live-2/a\n") for content in contents] == [1, 0]
        assert b"live-2/b" not in contents[0]
        assert b"topic" not in contents[1]
        assert messages(socket)[0]["topics"] == ["live-2/a"]
        assert messages(other)[0].keys() == {"id", "type", "data"}


def test_replay_goes_over_to_live_updates(hub: RunningHub) -> None:
    for number in range(700):  # more than a page
        hub.send(f"over/{number % 2}", str(number))
    stream = hub.subscribe(
        [("match_urlpattern", "/.well-known/over/:n"), ("last_event_id", "earliest"), ("with", "topics")]
    )
    hub.send("over/1", "live")
    found = events(stream, 701)
    assert [one["topics"] for one in found] == [[f"over/{number % 2}"] for number in range(700)] + [
        ["over/1"]
    ]


def test_subscription_events_name_their_topic(hub: RunningHub) -> None:
    pattern = f"{HUB_PATH}/subscriptions/exact/watched/:subscriber"
    watcher = hub.subscribe([("match_urlpattern", pattern), ("with", "topics")], hub.token())
    hub.subscribe({"match": "watched"}, hub.token())
    (event,) = events(watcher, 1)
    assert event["topics"] == [json.loads(event["data"])["id"]]


def test_topics_of_any_text_arrive_as_they_are(hub: RunningHub) -> None:
    topics = [" leading", "é 😀", "a: b", "https://x.example/?a=1&b=2#c", ":", "a\u2028b"]
    asked = [*[("match", topic) for topic in topics], ("with", "topics")]
    stream = hub.subscribe(asked)
    with client(hub, asked) as socket:
        for topic in topics:
            hub.send(topic, "x")
        assert [one["topics"] for one in events(stream, len(topics))] == [[topic] for topic in topics]
        assert [one["topics"] for one in messages(socket, len(topics))] == [[topic] for topic in topics]


@pytest.mark.parametrize("topic", ["a\ndata: forged", "a\r", "a\x00", "a\x85"])
def test_no_topic_can_inject_a_field(hub: RunningHub, topic: str) -> None:
    assert hub.publish({"topic": topic, "data": "x"}).status == 400


@pytest.mark.parametrize(
    ("asked", "answered"),
    [
        ([("with", "topics")], "topics"),
        ([("with", "colours"), ("with", "topics")], "topics"),
        ([("with", "topics"), ("with", "topics")], "topics"),
        ([("with", "")], None),
        ([("with", "Topics")], None),
        ([("with", "topics,colours")], None),
        ([("With", "topics")], None),
        ([], None),
    ],
)
def test_the_answer_says_whether_topics_come(hub: RunningHub, asked: Fields, answered: str | None) -> None:
    head = hub.request(
        "HEAD", f"{HUB_PATH}?match=told" + "".join(f"&{name}={value}" for name, value in asked)
    )
    assert head.headers.get("mercure-with") == answered
    stream = hub.subscribe([("match", "told"), *asked], Origin="https://app.example")
    assert stream.reply.headers.get("mercure-with") == answered
    assert "Mercure-With" in stream.reply.headers["access-control-expose-headers"]
    hub.send("told", "x")
    assert events(stream, 1)[0]["topics"] == (["told"] if answered else [])


def test_the_parameter_alone_subscribes_to_nothing(hub: RunningHub) -> None:
    assert hub.get({"with": "topics"}).status == 400


def test_the_metadata_lists_what_may_be_asked_for(hub: RunningHub) -> None:
    metadata = hub.get(path=f"/.well-known/oauth-protected-resource{HUB_PATH}").json()
    assert metadata["flask_mercure_with"] == ["topics", "live", "access"]


def test_subscribers_of_0x_may_ask_too(folder: Path) -> None:
    with running_hub(folder, anonymous=1, protocol="0.x") as hub:
        stream = hub.subscribe([("topic", "https://x.example/{id}"), ("with", "topics")])
        hub.publish([("topic", "https://x.example/1"), ("topic", "other")], hub.old_token(publish=["*"]))
        assert events(stream, 1)[0]["topics"] == ["https://x.example/1"]
