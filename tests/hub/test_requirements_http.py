"""Requirements of both specs that are only seen over HTTP and that no other test shows (docs/protocol.md)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.hub.running import HUB_PATH, RunningHub, running_hub

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
