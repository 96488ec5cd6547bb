"""What the hub serves, over HTTP/2: streams, publications and everything else on one connection."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from tests.http2.client import Connection, EventStream, open_socket
from tests.http2.frames import Flag, block, data, headers
from tests.hub.running import HUB_PATH, RunningHub, running_hub

pytestmark = pytest.mark.minutes

API = f"{HUB_PATH}/subscriptions"


def test_publishers_and_subscribers_share_a_connection(hub: RunningHub, connection: Connection) -> None:
    streams = [connection.subscribe({"match": ["all", f"own-{number}"]}) for number in range(20)]
    token = hub.token()
    first = connection.publish({"topic": "all", "data": "1"}, token)
    assert first.status == 200
    connection.publish({"topic": "own-7", "data": "seven"}, token)
    second = connection.publish({"topic": "all", "data": "2"}, token)
    for number, stream in enumerate(streams):
        events = [stream.next() for _ in range(3 if number == 7 else 2)]
        assert [one.data for one in events] == (["1", "seven", "2"] if number == 7 else ["1", "2"])
        assert (events[0].id, events[-1].id) == (first.text, second.text)


def test_the_last_value_comes_first(hub: RunningHub, connection: Connection) -> None:
    for data_ in ("old", "value"):
        hub.send("http2/last", data_)
    stream = connection.subscribe({"match": "http2/last", "last_value": "1"})
    hub.send("http2/last", "live")
    assert [stream.next().data for _ in range(2)] == ["value", "live"]


def test_an_answer_has_the_fields_of_http_1_1(hub: RunningHub, connection: Connection) -> None:
    stream = connection.subscribe({"match": "fields"}, origin="https://app.example")
    expected = hub.subscribe({"match": "fields"}, Origin="https://app.example").reply.headers
    unlike = {"transfer-encoding", "connection", "keep-alive", "date", "mercure-last-event-id"}
    assert {name: value for name, value in expected.items() if name not in unlike} == {
        name: value for name, value in stream.answer.headers.items() if name not in unlike
    }
    assert not {"transfer-encoding", "connection", "keep-alive"} & set(stream.answer.headers)


@pytest.mark.parametrize("target", [HUB_PATH, f"{HUB_PATH}?match=x", API, "/nowhere", "/healthz", "/livez"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "OPTIONS"])
def test_each_answer_is_that_of_http_1_1(
    hub: RunningHub, connection: Connection, method: str, target: str
) -> None:
    if (method, target) == ("GET", f"{HUB_PATH}?match=x"):
        pytest.skip("a stream")
    body = b"topic=x" if method == "POST" else None
    fields = {"content-type": "application/x-www-form-urlencoded", "origin": "https://app.example"}
    stream = connection.request(method, target, list(fields.items()), body)
    answer = connection.answer(stream)
    expected = hub.request(method, target, fields, body or b"")
    assert (answer.status, bytes(answer.content)) == (expected.status, expected.body)
    unlike = {"connection", "keep-alive", "date", "transfer-encoding", "retry-after"}
    assert {name: value for name, value in answer.headers.items() if name not in unlike} == {
        name: value for name, value in expected.headers.items() if name not in unlike
    }


def test_the_history_is_replayed_and_then_live_updates_come(hub: RunningHub, connection: Connection) -> None:
    token = hub.token()
    ids = [connection.publish({"topic": "replayed", "data": str(one)}, token).text for one in range(300)]
    streams = [
        connection.subscribe({"match": "replayed", "last_event_id": "earliest"}),
        connection.subscribe({"match": "replayed"}, last_event_id=ids[99]),
        connection.subscribe({"match": "replayed", "last_event_id": ids[-1]}),
    ]
    hub.send("replayed", "live")
    for stream, missed in zip(streams, (0, 100, 300), strict=True):
        expected = [str(number) for number in range(missed, 300)]
        assert stream.take(len(expected) + 1) == [*expected, "live"]


def test_a_large_history_waits_for_the_windows(hub: RunningHub) -> None:
    text = "0123456789abcdef" * 10_000
    for number in range(20):
        hub.send("large", f"{number}{text}")
    with Connection.to(hub, window_size=20_000) as connection:
        stream = connection.subscribe({"match": "large", "last_event_id": "earliest"})
        other = connection.subscribe({"match": "beside"})
        hub.send("beside", "at once")
        assert other.take(1) == ["at once"]
        taken = 0
        received = bytearray()
        while received.count(b"\n\n") < 20:
            connection.until(lambda: stream.answer.content)
            received += stream.answer.content
            taken = len(stream.answer.content)
            stream.answer.content.clear()
            connection.grant(stream.number, taken)
        assert received.count(text.encode()) == 20


def test_a_batch(hub: RunningHub, connection: Connection) -> None:
    stream = connection.subscribe({"match": "batch"})
    fields = [("content-type", "application/json"), ("authorization", f"Bearer {hub.token()}")]
    body = json.dumps([{"topic": "batch", "data": str(number)} for number in range(500)]).encode()
    answer = connection.answer(connection.request("POST", HUB_PATH, fields, body))
    assert answer.status == 200
    events = [stream.next() for _ in range(500)]
    assert [one.id for one in events] == json.loads(answer.content)["ids"]


def test_publications_at_a_time_are_all_answered(hub: RunningHub, connection: Connection) -> None:
    token = hub.token()
    numbers = [connection.publication({"topic": "many", "data": str(one)}, token) for one in range(100)]
    answers = [connection.answer(number) for number in numbers]
    assert {one.status for one in answers} == {200}
    assert len({bytes(one.content) for one in answers}) == 100


def test_a_query(hub: RunningHub, connection: Connection) -> None:
    fields = [("content-type", "application/x-www-form-urlencoded")]
    number = connection.request("QUERY", HUB_PATH, fields, b"match=asked")
    stream = EventStream(connection, number, connection.head(number))
    assert stream.answer.status == 200
    hub.send("asked", "x")
    assert stream.take(1) == ["x"]


def test_an_authorised_stream_by_header_and_by_cookies_in_pieces(
    hub: RunningHub, connection: Connection
) -> None:
    token = hub.token(subscribe=["secret"])
    target = f"{HUB_PATH}?match=secret"
    # A client may split a cookie field for a better compression (RFC 9113 section 8.2.3).
    cookies = [("cookie", "a=1"), ("cookie", f"__Secure-mercure_access_token={token}"), ("cookie", "b=2")]
    numbers = [
        connection.request("GET", target, [("authorization", f"Bearer {token}")]),
        connection.request("GET", target, [*cookies, ("origin", "https://app.example")]),
        connection.request("GET", target),
    ]
    assert [connection.head(number).status for number in numbers] == [200, 200, 200]
    hub.send("secret", "for two", private="on")
    hub.send("secret", "for all")
    for number, expected in zip(numbers, (2, 2, 1), strict=True):
        stream = EventStream(connection, number, connection.answers[number])
        assert stream.read_until(b"for all").count(b"data: ") == expected


def test_the_api_lists_streams_and_forgets_those_that_were_reset(
    hub: RunningHub, connection: Connection
) -> None:
    token = hub.token()
    api = f"{API}/exact/listed"
    events = connection.subscribe({"match_urlpattern": f"{api}/:subscriber"}, token)
    stream = connection.subscribe({"match": "listed"})
    assert len(json.loads(connection.get(api, token).body)["subscriptions"]) == 1
    connection.reset(stream.number)
    while json.loads(connection.get(api, token).body)["subscriptions"]:
        pass
    assert [json.loads(events.next().data)["active"] for _ in range(2)] == [True, False]


def test_the_debugger(connection: Connection) -> None:
    page = connection.get(f"{HUB_PATH}/debugger/")
    assert page.status == 200
    assert page.headers["content-type"].startswith("text/html")
    assert b"</html>" in page.body


def test_compressed_streams(hub: RunningHub, connection: Connection) -> None:
    text = "compressible " * 1000
    hub.send("zstd", f"stored {text}")
    streams = [
        connection.subscribe({"match": "zstd", "last_event_id": "earliest"}, accept_encoding="gzip, zstd")
        for _ in range(3)
    ]
    hub.send("zstd", f"live {text}")
    for stream in streams:
        assert stream.answer.headers["content-encoding"] == "zstd"
        assert stream.take(2) == [f"stored {text}", f"live {text}"]


def test_a_head_of_a_stream_has_no_content(connection: Connection) -> None:
    answer = connection.answer(connection.request("HEAD", f"{HUB_PATH}?match=x"))
    assert (answer.status, bytes(answer.content)) == (200, b"")
    assert answer.headers["content-type"] == "text/event-stream"


def test_the_authority_is_the_host(hub: RunningHub, connection: Connection) -> None:
    """A token names the hub that it is for."""
    own = hub.token(aud=f"{hub.scheme}://hub.example{HUB_PATH}")
    form = block(
        [
            (":method", "POST"),
            (":scheme", hub.scheme),
            (":path", HUB_PATH),
            (":authority", "hub.example"),
            ("content-type", "application/x-www-form-urlencoded"),
            ("authorization", f"Bearer {own}"),
        ]
    )
    number = connection.new_stream()
    connection.send(headers(number, form, Flag.END_HEADERS), data(number, b"topic=t", Flag.END_STREAM))
    assert connection.answer(number).status == 200
    assert connection.publish({"topic": "t"}, own).status == 401


def test_a_body_without_a_length(hub: RunningHub, connection: Connection) -> None:
    stream = connection.subscribe({"match": "pieces"})
    number = connection.new_stream()
    fields = [
        ("content-type", "application/x-www-form-urlencoded"),
        ("authorization", f"Bearer {hub.token()}"),
    ]
    whole = block(connection.fields("POST", HUB_PATH, fields))
    connection.send(headers(number, whole, Flag.END_HEADERS))
    for piece in (b"topic=pie", b"", b"ces&data", b"=x"):
        connection.send(data(number, piece, 0, 3))
        assert connection.fence()
    connection.send(data(number, b"", Flag.END_STREAM))
    assert connection.answer(number).status == 200
    assert stream.take(1) == ["x"]


def test_a_body_that_is_too_large_gets_413_and_the_connection_goes_on(
    hub: RunningHub, connection: Connection
) -> None:
    token = hub.token()
    fields = [("content-type", "application/x-www-form-urlencoded"), ("authorization", f"Bearer {token}")]
    number = connection.new_stream()
    too_long = [*fields, ("content-length", str(1 << 21))]
    connection.send(headers(number, block(connection.fields("POST", HUB_PATH, too_long)), Flag.END_HEADERS))
    connection.until(lambda: number in connection.answers and connection.answers[number].status)
    assert connection.answers[number].status == 413
    assert connection.publish({"topic": "t"}, token).status == 200


def test_a_publication_as_large_as_can_be(hub: RunningHub, connection: Connection) -> None:
    """The hub opens its windows while the body comes."""
    stream = connection.subscribe({"match": "great"})
    text = "x" * 1_000_000
    assert connection.upload({"topic": "great", "data": text}, hub.token()).status == 200
    assert stream.take(1) == [text]


def test_heartbeats_reach_each_stream(folder: Path) -> None:
    with running_hub(folder, anonymous=1, heartbeat=0.2) as hub, Connection.to(hub) as connection:
        streams = [connection.subscribe({"match": "t"}) for _ in range(5)]
        for stream in streams:
            assert set(bytes(stream.read_until(b":\n:\n:\n")).split(b"\n")) == {b":", b""}


@pytest.mark.parametrize("is_token", [False, True], ids=["write_timeout", "exp"])
def test_the_end_of_a_lifetime_ends_the_stream_and_not_the_connection(folder: Path, is_token: bool) -> None:
    with (
        running_hub(folder, anonymous=1, write_timeout=0 if is_token else 1) as hub,
        Connection.to(hub) as connection,
    ):
        stream = connection.subscribe({"match": "t"}, hub.token(lifetime=1.5) if is_token else None)
        assert stream.ended()
        assert connection.publish({"topic": "t"}, hub.token()).status == 200
        assert connection.fence()


@pytest.mark.parametrize(
    "setting", ["max_connections", "max_connections_per_address", "max_connections_per_token"]
)
def test_each_stream_counts_as_a_subscriber(folder: Path, setting: str) -> None:
    limit: dict[str, Any] = {setting: 3}
    with running_hub(folder, subscriptions=1, **limit) as hub, Connection.to(hub) as connection:
        token = hub.token()
        target = f"{HUB_PATH}?match=t"
        fields = [("authorization", f"Bearer {token}")]
        numbers = [connection.request("GET", target, fields) for _ in range(20)]
        statuses = [connection.head(number).status for number in numbers]
        assert (statuses.count(200), statuses.count(429)) == (3, 17)
        allowed = numbers[statuses.index(200)]
        connection.reset(allowed)
        assert connection.fence()
        # Who was reset has left.
        while connection.head(number := connection.request("GET", target, fields)).status == 429:
            connection.answer(number)
        assert connection.publish({"topic": "t"}, token).status == 200


def test_a_url_that_is_not_served_is_misdirected(folder: Path) -> None:
    """So that a client that shares a connection between names asks elsewhere (RFC 9110 section 15.5.20)."""
    url = "http://hub.example/.well-known/mercure"
    with running_hub(folder, anonymous=1, allowed_urls=url) as hub, Connection.to(hub) as connection:
        assert connection.get(f"{HUB_PATH}?match=t").status == 421
        connection.authority = "hub.example"
        connection.subscribe({"match": "t"})


def test_tls_without_alpn_or_with_http_1_1_stays_with_it(hub: RunningHub) -> None:
    if hub.scheme != "https":
        pytest.skip("there is no ALPN")
    for protocols, chosen in (
        (("h2", "http/1.1"), "h2"),
        (("http/1.1", "h2"), "h2"),
        (("http/1.1",), "http/1.1"),
    ):
        with open_socket(hub, protocols) as sock:
            assert sock.selected_alpn_protocol() == chosen  # type: ignore[attr-defined]
    assert hub.get(path="/healthz").status == 200


def test_the_old_way_from_http_1_1_is_passed_over(hub: RunningHub) -> None:
    """RFC 9113 section 3.1 has removed the Upgrade from h2c."""
    reply = hub.request(
        "GET",
        "/healthz",
        {
            "Connection": "Upgrade, HTTP2-Settings",
            "Upgrade": "h2c",
            "HTTP2-Settings": "AAMAAABkAAQAoAAAAAIAAAAA",
        },
    )
    assert reply.status == 200


def test_the_log_has_a_line_for_each_request(
    hub: RunningHub, connection: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    token = hub.token()
    with caplog.at_level(logging.INFO, "mercure_hub"):
        connection.publish({"topic": "logged"}, token)
        connection.get("/nowhere?authorization=secret")
        assert connection.fence()
        connection.until(lambda: "/nowhere" in caplog.text)
    assert f"POST {HUB_PATH}" in caplog.text
    assert token not in caplog.text
