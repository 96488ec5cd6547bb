"""Subscribing over HTTP (spec, Subscription and Matcher Types; 0.x, Topic Selectors)."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from tests.hub.running import HUB_PATH, Form, RunningHub, Stream, read_reply, running_hub

pytestmark = pytest.mark.minutes


def test_the_head_comes_at_once(hub: RunningHub) -> None:
    stream = hub.subscribe({"match": "quiet"})
    assert stream.reply.headers["content-type"] == "text/event-stream"
    assert "no-store" in stream.reply.headers["cache-control"]
    assert stream.reply.headers["x-accel-buffering"] == "no"
    assert "mercure-last-event-id" not in stream.reply.headers
    assert stream.reply.headers["transfer-encoding"] == "chunked"


def test_http_1_0_gets_no_chunks(folder: Path) -> None:
    """nginx speaks it to a hub until it is told otherwise."""
    with running_hub(folder, anonymous=1, heartbeat=1) as hub:
        first = hub.send("t", "0")
        hub.send("t", "1")
        with hub.connect() as sock:
            target = f"{HUB_PATH}?match=t&last_event_id={first}"
            sock.sendall(f"GET {target} HTTP/1.0\r\nHost: 127.0.0.1:{hub.port}\r\n\r\n".encode())
            _, rest, reply = read_reply(sock, only_head=True)
            old = Stream(sock, rest, reply)
            assert old.take(1) == ["1"]
            modern = hub.subscribe({"match": "t"})
            for number in range(2, 6):
                hub.send("t", str(number))
            assert old.take(4) == modern.take(4) == ["2", "3", "4", "5"]
            old.read_until(b"\n\n:\n")
            modern.read_until(b"\n\n:\n")
            assert "transfer-encoding" not in reply.headers


def test_a_stream_ends_with_a_last_chunk(folder: Path) -> None:
    with running_hub(folder, anonymous=1, write_timeout=2) as hub, hub.connect() as sock:
        sock.sendall(f"GET {HUB_PATH}?match=t HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        received = b""
        while raw := sock.recv(65536):
            received += raw
        assert received.endswith(b"2\r\n:\n\r\n0\r\n\r\n")


@pytest.mark.parametrize(
    ("query", "topic", "other"),
    [
        ({"match": "https://example.com/a"}, "https://example.com/a", "https://example.com/A"),
        ({"match_exact": "plain text é"}, "plain text é", "plain text e"),
        ({"match": "https://example.com/:id"}, "https://example.com/:id", "https://example.com/1"),
        (
            {"match_urlpattern": "https://example.com/b/:id"},
            "https://example.com/b/1",
            "https://example.com/b/1/2",
        ),
        ({"match_urlpattern": "/rel/:id"}, "/rel/1", "https://elsewhere.example/rel/1"),
        (
            {"match_urlpattern": "https://example.com/c/*"},
            "https://example.com/c/x/y",
            "https://example.com/d",
        ),
        ({"topic": "https://example.com/e"}, "https://example.com/e", "https://example.com/f"),
        ({"topic": "https://example.com/g/{id}"}, "https://example.com/g/1", "https://example.com/g/1/2"),
        (
            {"topic": "https://example.com/h{?q,r}"},
            "https://example.com/h?q=1&r=2",
            "https://example.com/h?z=1",
        ),
        ([("match", "one"), ("match", "two"), ("topic", "three")], "three", "four"),
    ],
)
def test_subscribers_get_what_their_matchers_select(
    hub: RunningHub, query: Form, topic: str, other: str
) -> None:
    stream = hub.subscribe(query)
    hub.send(other, "no")
    hub.send(topic, "yes")
    assert stream.take(1) == ["yes"]


@pytest.mark.parametrize("name", ["match", "match_urlpattern", "match_exact", "topic"])
def test_the_wildcard_gets_every_topic(folder: Path, name: str) -> None:
    with running_hub(folder, anonymous=1) as hub:
        stream = hub.subscribe({name: "*"})
        hub.send("https://example.com/anything", "1")
        hub.send("not a url at all", "2")
        assert stream.take(2) == ["1", "2"]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ([], "match"),
        ({"last_event_id": "x"}, "match"),
        ({"match_uritemplate": "x"}, "match_uritemplate"),
        ({"Match": "x"}, "Match"),
        ({"MATCH_EXACT": "x", "match": "y"}, "MATCH_EXACT"),
        ({"matches": "x", "match": "y"}, "matches"),
        ({"match": "a\x00b"}, "match"),
        ({"match": "a\u202eb"}, "match"),
        ({"match_urlpattern": "https://example.com/("}, "match_urlpattern"),
        ({"match": "x" * 2049}, "match"),
        ([("match", str(i)) for i in range(101)], "match"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_refuses_and_names_the_parameter(hub: RunningHub, query: Form, field: str) -> None:
    reply = hub.get(query)
    assert reply.status == 400
    assert reply.json()["field"] == field


def test_parameters_that_are_not_utf8_are_refused(hub: RunningHub) -> None:
    assert hub.get(path=HUB_PATH + "?match=%ff").status == 400


def test_head_has_the_headers_and_no_stream(hub: RunningHub) -> None:
    reply = hub.request("HEAD", HUB_PATH + "?match=a")
    assert (reply.status, reply.headers["content-type"]) == (200, "text/event-stream")
    assert hub.request("HEAD", HUB_PATH).status == 400


def test_head_tells_where_the_hub_is_and_keeps_the_connection(hub: RunningHub) -> None:
    newest = hub.send("position", "1")
    request = f"HEAD {HUB_PATH}?match=a HTTP/1.1\r\nHost: x\r\nLast-Event-ID:\r\n\r\n".encode()
    with hub.connect() as sock:
        for _ in range(2):
            sock.sendall(request)
            reply = read_reply(sock, is_head=True)[2]
            assert reply.headers["mercure-last-event-id"] == newest
            assert "connection" not in reply.headers
            assert reply.body == b""


def test_heartbeats_on_a_quiet_stream(folder: Path) -> None:
    with running_hub(folder, anonymous=1, heartbeat=1) as hub:
        stream = hub.subscribe({"match": "quiet"})
        stream.read_until(b":\n:\n:\n")
        hub.send("quiet", "still here")
        assert stream.take(1) == ["still here"]


def test_the_connection_ends_after_its_time(folder: Path) -> None:
    with running_hub(folder, anonymous=1, write_timeout=2) as hub:
        assert hub.subscribe({"match": "a"}).ended()


def test_the_connection_ends_with_its_token(folder: Path) -> None:
    with running_hub(folder) as hub:
        assert hub.subscribe({"match": "a"}, hub.token(lifetime=2)).ended()


@pytest.mark.parametrize(
    ("protocol", "good", "bad"),
    [("1.0", {"match": "a"}, {"topic": "a"}), ("0.x", {"topic": "a"}, {"match": "a"})],
)
def test_a_hub_of_one_generation_refuses_the_other(
    folder: Path, protocol: str, good: Form, bad: Form
) -> None:
    with running_hub(folder, anonymous=1, protocol=protocol) as hub:
        assert hub.subscribe(good).reply.status == 200
        assert hub.get(bad).status == 400


def test_the_log_knows_the_page_of_the_host_that_was_asked(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The browser sees one origin where Host is the page's, whatever MERCURE_PUBLIC_URL says."""
    public = "https://hub.example.com/.well-known/mercure"
    with running_hub(folder, anonymous=1, public_url=public) as hub:
        logging.getLogger("mercure_hub").propagate = True
        caplog.set_level(logging.INFO, "mercure_hub")
        for origin in (
            "https://hub.example.com",
            f"http://127.0.0.1:{hub.port}",
            f"https://127.0.0.1:{hub.port}",
        ):
            hub.subscribe({"match": "a"}, Origin=origin)
        assert "the browser keeps" not in caplog.text
        for origin in ("http://hub.example.com", "http://127.0.0.1:5000"):
            caplog.clear()
            hub.subscribe({"match": "a"}, Origin=origin)
            assert (
                f"a page of {origin!r}, since the hub is at https://hub.example.com (MERCURE_PUBLIC_URL) or, "
                f"as Host says, '127.0.0.1:{hub.port}': name the page's origin"
            ) in caplog.text


@pytest.mark.parametrize(
    ("protocol", "sent", "words"),
    [
        ("1.0", {"topic": "https://example.com/{id}"}, ("protocol 1.0 only", "match_urlpattern=PATTERN")),
        ("0.x", {"match": "a"}, ("protocol 0.x only", "match is of 1.0. Send topic=TOPIC")),
        ("0.x", {"match_urlpattern": "/a/:id"}, ("protocol 0.x only", "match_urlpattern is of 1.0")),
    ],
)
def test_the_other_generation_is_told_which_one_this_hub_speaks(
    folder: Path, protocol: str, sent: dict[str, str], words: tuple[str, ...]
) -> None:
    with running_hub(folder, anonymous=1, protocol=protocol) as hub:
        reply = hub.get(sent)
        assert reply.status == 400
        assert reply.json()["field"] == next(iter(sent))
        for one in (*words, "MERCURE_PROTOCOL"):
            assert one in reply.json()["detail"]
        assert "Name at least one topic" in hub.get({}).json()["detail"]
        both = hub.subscribe({"topic": "a", "match": "a"})
        assert both.reply.status == 200


def test_cross_origin_subscribers(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with running_hub(folder, anonymous=1, cors_origins="https://app.example") as hub:
        logging.getLogger("mercure_hub").propagate = True
        caplog.set_level(logging.INFO, "mercure_hub")
        stream = hub.subscribe({"match": "a"}, Origin="https://app.example")
        assert stream.reply.headers["access-control-allow-origin"] == "https://app.example"
        assert stream.reply.headers["access-control-allow-credentials"] == "true"
        assert stream.reply.headers["vary"] == "Origin"
        stranger = hub.subscribe({"match": "a"}, Origin="https://evil.example")
        assert "access-control-allow-origin" not in stranger.reply.headers
        assert (
            f"page of 'https://evil.example', since the hub is at http://127.0.0.1:{hub.port}: "
            "name the page's origin in MERCURE_CORS_ORIGINS"
        ) in caplog.text
        assert "page of 'https://app.example'" not in caplog.text
        refusal = hub.get({"match_x": "a"}, Origin="https://app.example")
        assert refusal.headers["access-control-allow-origin"] == "https://app.example"
        preflight = hub.request(
            "OPTIONS",
            HUB_PATH,
            {"Origin": "https://app.example", "Access-Control-Request-Method": "POST"},
        )
        assert preflight.status == 204
        assert "POST" in preflight.headers["access-control-allow-methods"]


def test_the_public_url_may_have_a_prefix(folder: Path) -> None:
    with running_hub(folder, public_url="https://example.com/hub/", subscriptions=1) as hub:
        token = hub.token(aud="https://example.com/hub/")
        stream = hub.subscribe({"match_urlpattern": "/hub/subscriptions/:type/:match/:id"}, token)
        assert '"id":"/hub/subscriptions/' in stream.next().data
        for path in ("/hub/subscriptions", HUB_PATH + "/subscriptions"):
            assert hub.get(path=path, token=token).json()["id"] == "/hub/subscriptions"
        assert hub.publish({"topic": "/hub/x"}, token).status == 400
        assert hub.publish({"topic": "/.well-known/mercure/x"}, token).status == 200
        metadata = hub.get(path="/.well-known/oauth-protected-resource/hub/")
        assert metadata.json()["resource"] == "https://example.com/hub/"


def test_only_allowed_urls_are_served(folder: Path) -> None:
    with running_hub(folder, anonymous=1, allowed_urls="https://example.com/.well-known/mercure") as hub:
        assert hub.get({"match": "a"}).status == 421
        assert hub.get(path="/healthz").status == 200
