"""Batches over HTTP: many updates, one transaction, one answer (docs/protocol.md, Batches)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.chosen_engine import refusing
from tests.hub.running import HUB_PATH, Reply, RunningHub, running_hub

pytestmark = [pytest.mark.minutes, pytest.mark.every_engine]

JSON = {"Content-Type": "application/json"}


def send(hub: RunningHub, items: Any, token: str | None = "", **headers: str) -> Reply:
    fields = {**JSON, **headers}
    if token is not None:
        fields["Authorization"] = f"Bearer {token or hub.token()}"
    return hub.request("POST", HUB_PATH, fields, json.dumps(items).encode())


def stored(hub: RunningHub, topic: str, count: int) -> list[str]:
    """All updates of a topic, which an update of their own ends."""
    hub.send(topic, "end")
    stream = hub.subscribe({"match": topic, "last_event_id": "earliest"}, hub.token())
    found = stream.take(count + 1)
    assert found.pop() == "end"
    return found


def test_updates_arrive_in_order_and_the_answer_has_their_ids(hub: RunningHub) -> None:
    stream = hub.subscribe({"match": ["b1", "b2"]})
    reply = send(hub, [{"topic": "b1" if n % 2 else "b2", "data": str(n)} for n in range(500)])
    assert (reply.status, reply.headers["content-type"]) == (200, "application/json")
    assert reply.headers["cache-control"] == "private, no-store"
    events = [stream.next() for _ in range(500)]
    assert [event.data for event in events] == [str(n) for n in range(500)]
    assert [event.id for event in events] == reply.json()["ids"]


def test_private_updates_stay_private(hub: RunningHub) -> None:
    public = hub.subscribe({"match": "b-private"})
    allowed = hub.subscribe({"match": "b-private"}, hub.token(subscribe=["b-private"]))
    send(hub, [{"topic": "b-private", "data": "1", "private": True}, {"topic": "b-private", "data": "2"}])
    assert allowed.take(2) == ["1", "2"]
    assert public.take(1) == ["2"]


@pytest.mark.parametrize(
    ("bad", "status", "field"),
    [
        ({"topic": "*"}, 400, "/1/topic"),
        ({"topic": "/.well-known/mercure/subscriptions/x"}, 400, "/1/topic"),
        ({"topic": "x" * 3000}, 413, "/1/topic"),
        ({"topic": "b-none", "type": "mercure"}, 400, "/1/type"),
        ("text", 400, "/1"),
    ],
)
def test_one_bad_update_refuses_all(hub: RunningHub, bad: object, status: int, field: str) -> None:
    topic = f"b-none-{field}-{status}-{len(str(bad))}"
    reply = send(hub, [{"topic": topic, "data": "1"}, bad])
    assert (reply.status, reply.json()["field"]) == (status, field)
    assert "Update 1" in reply.json()["detail"]
    assert stored(hub, topic, 0) == []


def test_the_token_has_to_allow_each_topic(hub: RunningHub) -> None:
    token = hub.token(publish=["b-own"])
    assert send(hub, [{"topic": "b-own"}], token).status == 200
    reply = send(hub, [{"topic": "b-own", "data": "1"}, {"topic": ["b-own", "b-other"]}], token)
    assert reply.status == 403
    assert 'error="insufficient_scope"' in reply.headers["www-authenticate"]
    assert "'b-other'" in reply.json()["detail"]
    assert "update 1" in reply.json()["detail"]
    assert stored(hub, "b-own", 1) == [""]


@pytest.mark.parametrize("place", [0, 1, 4])
@pytest.mark.parametrize("index", [0, 1, 2])
@pytest.mark.parametrize(
    ("topic", "status", "said"),
    [
        ("/.well-known/mercure/subscriptions/x", 400, "in the namespace of the hub"),
        ("*", 400, "the wildcard of subscribers"),
        ("b-forbidden", 403, "does not allow publishing to 'b-forbidden'"),
    ],
)
def test_each_topic_of_each_update_is_checked(
    hub: RunningHub, topic: str, status: int, said: str, index: int, place: int
) -> None:
    allowed = [f"b-{status}-{len(topic)}-{index}-{place}/{number}" for number in range(5)]
    items = [{"topic": list(allowed), "data": "x"} for _ in range(3)]
    items[index]["topic"][place] = topic  # type: ignore[index]
    token = hub.token(publish=["*"] if status == 400 else allowed)
    reply = send(hub, items, token)
    assert reply.status == status, reply.text
    assert said in reply.json()["detail"]
    assert f"update {index} " in reply.json()["detail"].lower()
    assert stored(hub, allowed[0], 0) == []
    assert send(hub, [{"topic": allowed}], token).status == 200


def test_without_a_token_the_body_is_not_even_read(hub: RunningHub) -> None:
    assert send(hub, [{"topic": "a"}], None).status == 401
    assert hub.request("POST", HUB_PATH, JSON, b"no json").status == 401
    assert send(hub, [{"topic": "a"}], hub.token(lifetime=-10)).status == 401
    assert send(hub, [{"topic": "a"}], hub.token(publish=[])).status in (401, 403)


def test_a_cookie_from_another_site(hub: RunningHub) -> None:
    cookie = f"__Secure-mercure_access_token={hub.token()}"
    reply = send(hub, [{"topic": "a"}], None, Cookie=cookie, Origin="https://evil.example")
    assert reply.status == 403


def test_a_batch_in_the_old_generation(hub: RunningHub) -> None:
    assert send(hub, [{"topic": "b-old"}], hub.old_token(publish=["b-old"])).status == 200
    assert send(hub, [{"topic": "b-other"}], hub.old_token(publish=["b-old"])).status == 403


def test_a_failed_transaction_stores_nothing(folder: Path) -> None:
    with running_hub(folder, anonymous=1) as hub:
        stream = hub.subscribe({"match": "t"})
        with refusing(folder):
            assert send(hub, [{"topic": "t", "data": "lost"}] * 3).status == 503
        assert send(hub, [{"topic": "t", "data": "kept"}] * 2).status == 200
        assert stream.take(2) == ["kept", "kept"]
        assert stored(hub, "t", 2) == ["kept", "kept"]


def test_a_batch_over_a_limit_is_refused(folder: Path) -> None:
    with running_hub(folder, max_request_body_size=100_000) as hub:
        assert send(hub, [{"topic": "a"}] * 1000).status == 200
        reply = send(hub, [{"topic": "a"}] * 1001)
        assert (reply.status, "1000" in reply.json()["detail"]) == (413, True)
        assert send(hub, [{"topic": "a", "data": "x" * 100_000}]).status == 413
        assert send(hub, [{"topic": ["a", "b", "c", "d", "e", "f"]}] * 999).status == 413


def test_the_hub_tells_that_it_takes_batches(hub: RunningHub) -> None:
    described = hub.request("OPTIONS", HUB_PATH)
    assert described.headers["accept-post"] == "application/x-www-form-urlencoded, application/json"
    assert "accept-post" not in hub.request("OPTIONS", f"{HUB_PATH}/subscriptions").headers
    metadata = hub.get(path=f"/.well-known/oauth-protected-resource{HUB_PATH}").json()
    assert metadata["flask_mercure_batch"] == {"updates": 1000, "topics": 5000}


def test_a_batch_and_single_updates_share_a_transaction_without_mixing_answers(hub: RunningHub) -> None:
    stream = hub.subscribe({"match": "b-mixed"})
    ids = [
        hub.send("b-mixed", "1"),
        *send(hub, [{"topic": "b-mixed"}] * 2).json()["ids"],
        hub.send("b-mixed"),
    ]
    assert [stream.next().id for _ in range(4)] == ids
