"""Subscribing with QUERY, whose body carries matchers that are too many for a URL (spec, Subscription)."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlencode

import pytest

from tests.hub.running import HUB_PATH, Form, RunningHub, Stream, _pairs, read_reply, running_hub

pytestmark = pytest.mark.minutes

FORM = "application/x-www-form-urlencoded"


def query(hub: RunningHub, target: str, fields: Form, **headers: str) -> Stream:
    """Subscribe with QUERY."""
    body = urlencode(_pairs(fields)).encode()
    given = {"Host": "x", "Content-Type": FORM, "Content-Length": str(len(body)), **headers}
    head = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in given.items())
    sock = hub.connect()
    sock.sendall(f"QUERY {HUB_PATH}{target} HTTP/1.1\r\n{head}\r\n".encode() + body)
    _, rest, reply = read_reply(sock, only_head=True)
    assert reply.status == 200
    stream = Stream(sock, rest, reply)
    hub._open.append(stream)
    return stream


def test_matchers_in_the_body(folder: Path) -> None:
    topics = [f"https://example.com/query/{'x' * 1000}/{number}" for number in range(100)]
    with running_hub(folder, anonymous=1) as hub:
        stream = query(hub, "", {"match": topics})
        hub.send(topics[99], "last")
        hub.send(topics[0], "first")
        assert stream.take(2) == ["last", "first"]


def test_the_union_of_both(hub: RunningHub) -> None:
    stream = query(hub, "?match=q-one&match=q-both", {"match": ["q-two", "q-both"]})
    for topic in ("q-one", "q-two", "q-both"):
        hub.send(topic, topic)
    assert stream.take(3) == ["q-one", "q-two", "q-both"]


def test_the_cursor_of_the_query_component_wins_and_the_header_over_it(hub: RunningHub) -> None:
    ids = [hub.send("q-cursor", str(number)) for number in range(4)]
    body = {"match": "q-cursor", "last_event_id": ids[0]}
    assert query(hub, "", body).take(1) == ["1"]
    assert query(hub, f"?last_event_id={ids[1]}", body).take(1) == ["2"]
    assert query(hub, f"?last_event_id={ids[1]}", body, Last_Event_ID=ids[2]).take(1) == ["3"]


@pytest.mark.parametrize(
    ("target", "media", "body", "status"),
    [
        ("", FORM, b"", 400),
        ("", FORM, b"match_foo=x", 400),
        ("", FORM, b"match=%ff", 400),
        ("?match=a", "application/json", b"{}", 415),
        ("?match=a", "", b"match=b", 415),
        ("", FORM, b"match=a&" * 1002, 400),
        ("", FORM, b"&".join(b"match=%d" % number for number in range(10_001)), 400),
        ("", FORM, b"match=" + b"a" * (1 << 20), 413),
        (
            "?" + "&".join(f"match={number}" for number in range(60)),
            FORM,
            b"&".join(b"match=b%d" % n for n in range(60)),
            400,
        ),
    ],
    ids=[
        "none",
        "unknown",
        "not-utf8",
        "json",
        "no-type",
        "fields",
        "matchers",
        "bytes",
        "too-many-together",
    ],
)
def test_query_bodies_that_are_refused(
    hub: RunningHub, target: str, media: str, body: bytes, status: int
) -> None:
    headers = {"Content-Type": media} if media else {}
    assert hub.request("QUERY", HUB_PATH + target, headers, body).status == status
