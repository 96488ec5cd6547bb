"""Requirements of both specs that are only seen over HTTP and that no other test shows (docs/protocol.md)."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import requests

from tests.hub.running import HUB_PATH, RunningHub, running_hub

pytestmark = pytest.mark.minutes

METADATA = "/.well-known/oauth-protected-resource" + HUB_PATH
API = HUB_PATH + "/subscriptions"


def test_the_metadata_document(hub: RunningHub) -> None:
    reply = hub.get(path=METADATA)
    assert reply.headers["content-type"] == "application/json"
    document = reply.json()
    assert document["resource"] == hub.url
    assert document["authorization_details_types_supported"] == ["https://mercure.rocks/authorization-detail"]
    assert document["bearer_methods_supported"] == ["header"]
    assert document["mercure_cookie"] == "__Secure-mercure_access_token"
    assert document["mercure_matcher_types_supported"] == ["exact", "urlpattern"]
    assert document["mercure_subscriptions"] is True
    assert "authorization_servers" not in document
    assert hub.request("HEAD", METADATA).status == 200
    assert hub.request("POST", METADATA).status == 405
    assert hub.get(path="/.well-known/oauth-protected-resource").status == 404


def test_the_parameter_of_rfc_6750_is_no_token(folder: Path) -> None:
    with running_hub(folder) as hub:
        assert hub.get({"match": "a", "access_token": hub.token()}).status == 401
        reply = hub.request(
            "POST",
            f"{HUB_PATH}?access_token={hub.token()}",
            {"Content-Type": "application/x-www-form-urlencoded"},
            b"topic=a&access_token=" + hub.token().encode(),
        )
        assert reply.status == 401


@pytest.mark.parametrize("generation", ["1.0", "0.x"])
def test_an_alternate_topic_lets_a_subscriber_read(hub: RunningHub, generation: str) -> None:
    """The worked example of both specs: listen to all books, read those that are also your own."""
    if generation == "1.0":
        own = {"match": "https://example.com/users/42/*", "match_type": "urlpattern"}
        query, token = {"match_urlpattern": "https://example.com/books/:id"}, hub.token(subscribe=[own])
    else:
        query = {"topic": "https://example.com/books/{id}"}
        token = hub.old_token(subscribe=["https://example.com/users/42/{?topic}"])
    stream = hub.subscribe(query, token)
    hub.send("https://example.com/books/2", "not yours", private="on")
    alternate = {
        "1.0": "https://example.com/users/42/books/1",
        "0.x": "https://example.com/users/42/?topic=" + quote("https://example.com/books/1", safe=""),
    }
    topics = ["https://example.com/books/1", alternate[generation]]
    hub.publish({"topic": topics, "data": "yours", "private": "on"})
    assert stream.take(1) == ["yours"]


def test_an_update_that_is_allowed_in_part_is_not_sent(hub: RunningHub) -> None:
    stream = hub.subscribe({"match": "part-a"})
    for token in (hub.token(publish=["part-a"]), hub.old_token(publish=["part-a"])):
        reply = hub.publish({"topic": ["part-a", "part-b"], "data": "refused"}, token)
        assert reply.status == 403
        assert "resource_metadata=" in reply.headers["www-authenticate"]
    hub.send("part-a", "allowed")
    assert stream.take(1) == ["allowed"]


def test_nobody_chooses_the_id_of_a_subscriber(folder: Path) -> None:
    with running_hub(folder, anonymous=1, subscriptions=1) as hub:
        wanted = "urn:uuid:00000000-0000-4000-8000-000000000000"
        token = hub.token(sub=wanted)
        for _ in range(2):
            hub.subscribe({"match": "a", "subscriber": wanted, "id": wanted}, token, Subscriber=wanted)
        found = hub.get(path=API, token=hub.token()).json()["subscriptions"]
        ids = {one["subscriber"] for one in found}
        assert len(ids) == 2
        assert wanted not in ids
        assert all(one.startswith("urn:uuid:") for one in ids)


def test_payloads_in_the_order_of_the_token(folder: Path) -> None:
    with running_hub(folder, subscriptions=1) as hub:
        details = [
            {"match": "https://example.com/foo"},
            {"match": "https://example.com/bar/:id", "match_type": "urlpattern"},
            {"match": "*"},
        ]
        token = hub.token(
            authorization_details=[
                {
                    "type": "https://mercure.rocks/authorization-detail",
                    "actions": ["subscribe"],
                    "topics": [topic],
                    "payload": {"number": number},
                }
                for number, topic in enumerate(details)
            ]
        )
        query = {
            "match": ["https://example.com/foo", "https://example.com/bar/1"],
            "match_urlpattern": ["https://example.com/bar/:id", "https://example.com/:x"],
        }
        hub.subscribe(query, token)
        found = hub.get(path=API, token=token).json()["subscriptions"]
        assert {one["match"]: one["payload"]["number"] for one in found} == {
            "https://example.com/foo": 0,
            "https://example.com/bar/1": 1,
            "https://example.com/bar/:id": 1,
            "https://example.com/:x": 2,
        }


def test_any_page_may_read_without_cookies(folder: Path) -> None:
    with running_hub(folder, anonymous=1, cors_origins="* https://app.example") as hub:
        anybody = hub.subscribe({"match": "a"}, Origin="https://other.example").reply.headers
        assert anybody["access-control-allow-origin"] == "*"
        assert "access-control-allow-credentials" not in anybody
        trusted = hub.subscribe({"match": "a"}, Origin="https://app.example").reply.headers
        assert trusted["access-control-allow-origin"] == "https://app.example"
        assert trusted["access-control-allow-credentials"] == "true"


def test_a_page_of_another_origin_can_read_the_cursor(folder: Path) -> None:
    with running_hub(folder, subscriptions=1, cors_origins="https://app.example") as hub:
        reply = hub.get(path=API, token=hub.token(), Origin="https://app.example")
        exposed = {name.strip() for name in reply.headers["access-control-expose-headers"].split(",")}
        assert {"Link", "Mercure-Last-Event-ID", "Last-Event-ID"} <= exposed
        preflight = {
            "Origin": "https://app.example",
            "Access-Control-Request-Method": "GET",
            "Access-Control-Request-Headers": "authorization",
            "Access-Control-Request-Private-Network": "true",
        }
        for path in (API, HUB_PATH):
            reply = hub.request("OPTIONS", path, preflight)
            assert reply.status == 204
            assert "Authorization" in reply.headers["access-control-allow-headers"]
            assert "QUERY" in reply.headers["access-control-allow-methods"]
            assert reply.headers["access-control-allow-private-network"] == "true"


def test_a_preflight_says_everything_once(folder: Path) -> None:
    """Browsers join a header that comes twice to "origin, origin", and refuse that (Fetch, CORS check)."""
    fields = {"Origin": "https://app.example", "Access-Control-Request-Method": "GET"}
    private = {"Access-Control-Request-Private-Network": "true"}
    with running_hub(folder, subscriptions=1, cors_origins="https://app.example") as hub:
        for path, more in ((HUB_PATH, {}), (HUB_PATH, private), (API, {}), (API, private)):
            connection = HTTPConnection("127.0.0.1", hub.port, timeout=10)
            with contextlib.closing(connection):
                connection.request("OPTIONS", path, headers=fields | more)
                response = connection.getresponse()
            names = [name.lower() for name, _ in response.getheaders()]
            assert response.status == 204
            assert sorted(names) == sorted(set(names))
            assert response.getheader("Access-Control-Allow-Origin") == "https://app.example"
            assert response.getheader("Access-Control-Allow-Credentials") == "true"
            assert ("access-control-allow-private-network" in names) is bool(more)


def test_the_names_of_0x_are_unknown_where_only_1_0_is_spoken(folder: Path) -> None:
    with running_hub(folder, anonymous=1, protocol="1.0") as hub:
        first = hub.send("a", "1")
        for name in ("lastEventID", "Last-Event-ID"):
            stream = hub.subscribe({"match": "a", name: first})
            assert "mercure-last-event-id" not in stream.reply.headers
        stream = hub.subscribe({"match": "a", "last_event_id": first})
        assert stream.reply.headers["mercure-last-event-id"] == first
        assert "last-event-id" not in stream.reply.headers


def test_a_stream_for_a_token_in_the_query_is_private(hub: RunningHub) -> None:
    stream = hub.subscribe({"topic": "a", "authorization": hub.old_token(subscribe=["*"])})
    assert "private" in stream.reply.headers["cache-control"]


def test_a_token_of_0x_may_have_its_claim_under_a_name_of_its_own(hub: RunningHub) -> None:
    import jwt

    claim: dict[str, Any] = {"https://mercure.rocks/": {"publish": ["namespaced"]}}
    token = jwt.encode(claim, hub.secret, "HS256")
    assert hub.publish({"topic": "namespaced"}, token).status == 200
    assert hub.publish({"topic": "other"}, token).status == 403


def test_an_old_token_ends_a_connection_too(folder: Path) -> None:
    import time

    import jwt

    with running_hub(folder) as hub:
        token = jwt.encode({"exp": time.time() + 2, "mercure": {"subscribe": ["*"]}}, hub.secret, "HS256")
        assert hub.subscribe({"topic": "a"}, token).ended()


def test_every_event_has_an_id(folder: Path) -> None:
    with running_hub(folder, anonymous=1, subscriptions=1) as hub:
        stream = hub.subscribe({"match": ["id-1", "id-2"], "match_urlpattern": API + "/*"}, hub.token())
        hub.send("id-1")
        hub.send("id-2", id="urn:own")
        events = [stream.next() for _ in range(5)]
        ids = [event.id for event in events]
        assert len(set(ids)) == 5
        assert ids[-1] == "urn:own"
        assert all(one.startswith("urn:") for one in ids)
        presence = [json.loads(event.data)["id"] for event in events if event.type == "mercure"]
        assert len(presence) == 3


def test_a_replay_ends_with_its_token(folder: Path) -> None:
    """A client that reads slowly: its history would take half a minute, its token ends after two seconds."""
    with running_hub(folder) as hub:
        for _ in range(100):
            hub.send("big", "x" * 400_000, private="on")
        token, ends = hub.token(lifetime=2), time.time() + 2
        with hub.connect() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
            sock.sendall(
                f"GET {HUB_PATH}?match=big&last_event_id=earliest HTTP/1.1\r\nHost: 127.0.0.1:{hub.port}\r\n"
                f"Authorization: Bearer {token}\r\n\r\n".encode()
            )
            pause = threading.Event()
            while time.time() < ends + 1:
                if not sock.recv(65536):
                    return
                pause.wait(0.05)  # the slow client itself, not a wait for anything
            left = 0
            with contextlib.suppress(ConnectionResetError):
                while (piece := sock.recv(1 << 20)) and left <= 8_000_000:
                    left += len(piece)
            assert left <= 8_000_000  # what the kernel may have had already


def test_the_api_needs_a_token(hub: RunningHub) -> None:
    reply = hub.get(path=HUB_PATH + "/subscriptions")
    assert reply.status == 401
    assert "error=" not in reply.headers["www-authenticate"]


def test_two_authorization_fields(hub: RunningHub) -> None:
    fields = "Host: x\r\nAuthorization: Bearer a\r\nAuthorization: Bearer b\r\n"
    answer = hub.raw(f"GET {HUB_PATH}?match=a HTTP/1.1\r\n{fields}\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 400")
    assert b'error="invalid_request"' in answer


@pytest.mark.parametrize("event_id", ["urn:x:%41", "a b", "https://example.com/é", 'a"b\\c'])
def test_the_cursor_in_the_link_is_the_id(hub: RunningHub, event_id: str) -> None:
    hub.send("link", id=event_id)
    link = hub.get(path=HUB_PATH + "/subscriptions", token=hub.token()).headers["link"]
    quoted = link.split('last-event-id="')[1].rsplit('"; type=')[0]
    shown = quoted.replace('\\"', '"').replace("\\\\", "\\").encode("latin-1").decode()
    assert shown == event_id
    stream = hub.subscribe({"match": "link", "last_event_id": shown})
    assert stream.reply.headers["mercure-last-event-id"] != "earliest"


def test_a_current_token_is_not_taken_from_the_query(folder: Path) -> None:
    with running_hub(folder) as hub:
        assert hub.get({"topic": "a", "authorization": hub.token()}).status == 401
        assert (
            hub.subscribe({"topic": "a", "authorization": hub.old_token(subscribe=["*"])}).reply.status == 200
        )


def test_head_of_a_stream_has_no_length(hub: RunningHub) -> None:
    assert "content-length" not in hub.request("HEAD", HUB_PATH + "?match=a").headers


def test_no_wildcard_for_a_request_with_cookies(folder: Path) -> None:
    with running_hub(folder, anonymous=1, cors_origins="*") as hub:
        bare = hub.get({"match_x": "a"}, Origin="https://other.example")
        assert bare.headers["access-control-allow-origin"] == "*"
        reply = hub.get({"match_x": "a"}, Origin="https://other.example", Cookie="session=1")
        assert "access-control-allow-origin" not in reply.headers


def test_python_clients_get_an_event_at_once(hub: RunningHub) -> None:
    """requests reads a body without chunks in blocks, and a short event waits for the next ones."""
    with requests.get(f"{hub.url}?match=py", stream=True, timeout=5) as response:
        lines = response.iter_lines()
        assert next(lines) == b":"
        hub.send("py", "x")
        assert b"data: x" in (next(lines), next(lines))


def test_publishing_with_a_token_in_the_query_is_private(hub: RunningHub) -> None:
    target = f"{HUB_PATH}?authorization={hub.old_token(publish=['*'])}"
    media = {"Content-Type": "application/x-www-form-urlencoded"}
    assert "private" in hub.request("POST", target, media, b"topic=a").headers["cache-control"]


def test_an_empty_cursor_is_answered(hub: RunningHub) -> None:
    last = hub.send("empty-cursor")
    stream = hub.subscribe({"match": "empty-cursor", "last_event_id": ""})
    assert stream.reply.headers["mercure-last-event-id"] == last
    hub.send("empty-cursor", "new")
    assert stream.take(1) == ["new"]
