"""``with=live``: a mark between the history and live updates; ``with=access``: whether a token was taken."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.http2.client import Connection
from tests.hub.running import RunningHub, Stream, running_hub
from tests.hub.test_query import query
from tests.hub.websocket import client

pytestmark = [pytest.mark.minutes, pytest.mark.every_engine]

Fields = list[tuple[str, str]]
Read = Callable[[RunningHub, Fields, Callable[[], object], str], str]
_WITH = [("with", "live"), ("with", "topics")]


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningHub]:
    """A hub with all forms of streams; tests use topics of their own."""
    with running_hub(tmp_path_factory.mktemp("hub"), anonymous=1, compression="zstd") as running:
        yield running


def _until(stream: Stream, end: str) -> str:
    while end.encode() not in stream.raw:
        stream._take(stream.sock.recv(65536))
    return stream.raw.decode()


def over_http(version: str, **headers: str) -> Read:
    def read(hub: RunningHub, fields: Fields, then: Callable[[], object], end: str) -> str:
        stream = hub.subscribe(fields, version=version, **headers)
        _until(stream, ": live\n")
        then()
        return _until(stream, end)

    return read


def by_query(hub: RunningHub, fields: Fields, then: Callable[[], object], end: str) -> str:
    stream = query(hub, "", fields, Host=f"127.0.0.1:{hub.port}")
    _until(stream, ": live\n")
    then()
    return _until(stream, end)


def over_http2(hub: RunningHub, fields: Fields, then: Callable[[], object], end: str) -> str:
    with Connection.to(hub) as connection:
        stream = connection.subscribe(fields)
        stream.read_until(b": live\n")
        then()
        return stream.read_until(end.encode()).decode()


def by_websocket(hub: RunningHub, fields: Fields, then: Callable[[], object], end: str) -> str:
    """What came, with the mark as in a stream."""
    said = ""
    with client(hub, fields) as connection:
        while end not in said:
            message = str(connection.recv(timeout=10))
            is_mark = message == '{"live":true}'
            said += ": live\n" if is_mark else message + "\n\n"
            if is_mark:
                then()
    return said


WAYS: dict[str, Read] = {
    "HTTP/1.1": over_http("1.1"),
    "HTTP/1.0": over_http("1.0"),
    "compressed": over_http("1.1", Accept_Encoding="zstd"),
    "QUERY": by_query,
    "HTTP/2": over_http2,
    "WebSocket": by_websocket,
}


@pytest.mark.parametrize("way", WAYS)
def test_the_mark_follows_the_history(hub: RunningHub, way: str) -> None:
    topic = f"history of {way}"
    for number in range(3):
        assert hub.publish([("topic", topic), ("data", f"old {number}")]).status == 200
    fields = [("match", topic), ("last_event_id", "earliest"), *_WITH]
    text = WAYS[way](hub, fields, lambda: hub.publish([("topic", topic), ("data", "new")]), "new")
    assert text.count(": live\n") == 1
    assert text.index("old 0") < text.index("old 2") < text.index(": live\n") < text.index("new")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("cursor", [[], [("last_event_id", "")], [("last_event_id", "earliest")]], ids=str)
def test_without_history_it_comes_at_once(hub: RunningHub, way: str, cursor: Fields) -> None:
    topic = f"nothing in {way} {cursor}"
    fields = [("match", topic), *cursor, *_WITH]
    text = WAYS[way](hub, fields, lambda: hub.publish([("topic", topic), ("data", "new")]), "new")
    assert text.count(": live\n") == 1
    assert text.index(": live\n") < text.index("new")


def test_only_those_who_ask_get_it(hub: RunningHub) -> None:
    asked = hub.subscribe([("match", "ask"), *_WITH])
    assert asked.reply.headers["mercure-with"] == "topics, live"
    other = hub.subscribe([("match", "ask"), ("with", "topics"), ("with", "more")])
    assert other.reply.headers["mercure-with"] == "topics"
    assert hub.publish([("topic", "ask"), ("data", "new")]).status == 200
    assert ": live" not in _until(other, "new")


def test_only_those_with_a_token_are_told_that_it_was_taken(hub: RunningHub) -> None:
    fields = [("match", "ask"), *_WITH, ("with", "access")]
    assert hub.subscribe(fields).reply.headers["mercure-with"] == "topics, live"
    assert hub.subscribe(fields, hub.token()).reply.headers["mercure-with"] == "topics, live, access"
    assert hub.subscribe(fields[:-1], hub.token()).reply.headers["mercure-with"] == "topics, live"
