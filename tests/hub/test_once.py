"""``once`` over HTTP: an id that comes again is stored and sent once (docs/protocol.md, Once)."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.chosen_engine import discard_all
from tests.hub.running import HUB_PATH, Reply, RunningHub, running_hub
from tests.hub.test_process import process

pytestmark = [pytest.mark.minutes, pytest.mark.every_engine]


def once(hub: RunningHub, topic: str, data: str = "", token: str = "", **fields: str) -> Reply:
    return hub.publish({"topic": topic, "data": data, "id": "urn:1", **fields, "once": "on"}, token)


def batch(hub: RunningHub, *items: dict[str, Any], token: str = "") -> Reply:
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {token or hub.token()}"}
    return hub.request("POST", HUB_PATH, headers, json.dumps(items).encode())


def stored(hub: RunningHub, topic: str) -> list[str]:
    """The data of all updates of a topic, which one of its own ends."""
    hub.send(topic, "end")
    stream = hub.subscribe({"match": topic, "last_event_id": "earliest"}, hub.token())
    return list(iter(lambda: stream.next().data, "end"))


def test_an_id_that_comes_again_is_stored_and_sent_once(hub: RunningHub) -> None:
    stream = hub.subscribe({"match": "o-same"})
    replies = [once(hub, "o-same", "x") for _ in range(3)]
    assert [(one.status, one.text) for one in replies] == [(200, "urn:1")] * 3
    assert [one.headers["content-type"] for one in replies] == ["text/plain; charset=utf-8"] * 3
    hub.send("o-same", "next")
    assert stream.take(2) == ["x", "next"]
    assert stored(hub, "o-same") == ["x", "next"]


def test_without_the_field_both_are_stored_and_sent(hub: RunningHub) -> None:
    stream = hub.subscribe({"match": "o-plain"})
    for _ in range(2):
        hub.send("o-plain", "x", id="urn:plain")
    assert once(hub, "o-plain", "x", id="urn:plain").status == 200
    hub.send("o-plain", "x", id="urn:plain")
    hub.send("o-plain", "next")
    assert stream.take(4) == ["x", "x", "x", "next"]


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("data", {"data": "y"}),
        ("private", {"private": "on"}),
        ("type", {"type": "t"}),
        ("retry", {"retry": "5"}),
        ("id", {"id": "urn:2"}),
    ],
)
def test_an_update_with_another_value_is_stored(hub: RunningHub, name: str, changed: dict[str, str]) -> None:
    """Nothing is acknowledged that the history does not have exactly so: no id can be taken by others."""
    topic = f"o-{name}"
    values = {"data": "x", **changed}
    assert once(hub, topic, "x").status == once(hub, topic, **values).status == 200
    assert once(hub, topic, "x").status == once(hub, topic, **values).status == 200
    assert stored(hub, topic) == ["x", values["data"]]


def test_the_answer_tells_nothing_of_topics_that_the_token_does_not_cover(hub: RunningHub) -> None:
    """Whether an id is in use on another topic cannot be probed: answer and effect are the same."""
    hub.send("o-secret", "secret", id="urn:secret", private="on")
    token = hub.token(publish=["o-own"])
    probes = [
        once(hub, "o-own", "secret", token, id=one, private="on") for one in ("urn:secret", "urn:unused")
    ]
    assert [one.status for one in probes] == [200, 200]
    heads = [{k: v for k, v in one.headers.items() if k not in ("date", "content-length")} for one in probes]
    assert heads[0] == heads[1]
    assert stored(hub, "o-own") == ["secret", "secret"]
    refused = [
        once(hub, "o-secret", "secret", token, id=one, private="on") for one in ("urn:secret", "urn:unused")
    ]
    assert [one.status for one in refused] == [403, 403]
    assert refused[0].json() == refused[1].json()


def test_nobody_can_take_an_id_before_its_publisher(hub: RunningHub) -> None:
    attacker = hub.token(publish=["o-shop"])
    for fake in ("", "paid!", "x" * 1000):
        assert once(hub, "o-shop", fake, attacker, id="order-42").status == 200
    stream = hub.subscribe({"match": "o-shop"}, hub.token())
    assert once(hub, "o-shop", "paid", id="order-42", private="on").status == 200
    assert stream.take(1) == ["paid"]


@pytest.mark.parametrize("fields", [{}, {"id": ""}])
def test_an_update_without_an_id_cannot_be_stored_once(hub: RunningHub, fields: dict[str, str]) -> None:
    reply = hub.publish({"topic": "o-none", "once": "on", **fields})
    assert (reply.status, reply.json()["field"]) == (400, "id")
    reply = batch(hub, {"topic": "o-none"}, {"topic": "o-none", "once": True, **fields})
    assert (reply.status, reply.json()["field"]) == (400, "/1/id")
    assert stored(hub, "o-none") == []


def test_updates_of_a_batch_are_looked_up_one_by_one(hub: RunningHub) -> None:
    items = [{"topic": "o-batch", "data": str(n), "id": f"urn:b:{n}", "once": True} for n in range(100)]
    assert batch(hub, *items[:40:2]).status == 200
    assert once(hub, "o-batch", "99", id="urn:b:99").status == 200
    for _ in range(2):
        reply = batch(hub, *items, *items)
        assert (reply.status, reply.headers["mercure-once"]) == (200, "?1")
        assert reply.json()["ids"] == [one["id"] for one in items] * 2
    found = stored(hub, "o-batch")
    assert sorted(map(int, found)) == list(range(100))
    assert found[:21] == [*map(str, range(0, 40, 2)), "99"]


@pytest.mark.parametrize("value", [None, "on", 1])
def test_the_member_of_a_batch_is_true_or_false(hub: RunningHub, value: object) -> None:
    reply = batch(hub, {"topic": "o-kind", "id": "urn:k", "once": value})
    assert (reply.status, reply.json()["field"]) == (400, "/0/once")


def test_the_hub_tells_that_it_knows_the_field(hub: RunningHub) -> None:
    assert hub.request("OPTIONS", HUB_PATH).headers["mercure-once"] == "?1"
    assert once(hub, "o-tells").headers["mercure-once"] == "?1"
    assert "mercure-once" not in hub.publish({"topic": "o-tells"}).headers
    metadata = hub.get(path=f"/.well-known/oauth-protected-resource{HUB_PATH}").json()
    assert metadata["flask_mercure_once"] is True


def test_a_subscriber_resumes_after_an_id_that_came_again(hub: RunningHub) -> None:
    for data in ("1", "2"):
        once(hub, "o-resume", data, id=f"urn:r:{data}")
        once(hub, "o-resume", "1", id="urn:r:1")
    assert hub.subscribe({"match": "o-resume", "last_event_id": "urn:r:1"}).take(1) == ["2"]
    assert hub.subscribe({"match": "o-resume", "last_event_id": "earliest"}).take(2) == ["1", "2"]


def test_tokens_of_the_old_generation(hub: RunningHub) -> None:
    token = hub.old_token(publish=["o-old"])
    assert [once(hub, "o-old", "x", token).text for _ in range(2)] == ["urn:1", "urn:1"]
    assert stored(hub, "o-old") == ["x"]


def test_what_was_discarded_is_stored_again(folder: Path) -> None:
    with running_hub(folder, anonymous=1) as hub:
        once(hub, "o-gone", "x")
        discard_all(folder)
        once(hub, "o-gone", "x")
        assert stored(hub, "o-gone") == ["x"]


@pytest.mark.parametrize("workers", [1, 2])
def test_of_many_at_once_one_is_stored(folder: Path, workers: int) -> None:
    with process(folder, MERCURE_WORKERS=str(workers)) as (_, hub):
        stream = hub.subscribe({"match": "o-many"})
        begin = threading.Barrier(8)

        def publish(publisher: int) -> set[int]:
            begin.wait()
            found: set[int] = set()
            for number in range(20):
                found.add(once(hub, "o-many", str(number), id=f"urn:m:{number}").status)
                if publisher % 2:
                    items = [
                        {"topic": "o-many", "data": str(n), "id": f"urn:m:{n}", "once": True}
                        for n in range(number, 20)
                    ]
                    found.add(batch(hub, *items).status)
            return found

        with ThreadPoolExecutor(8) as pool:
            statuses = set().union(*pool.map(publish, range(8)))
        assert statuses == {200}
        hub.send("o-many", "end")
        assert sorted(stream.take(21)) == sorted([*map(str, range(20)), "end"])
        hub.close()


def test_an_id_is_known_after_kill_9(folder: Path) -> None:
    with process(folder) as (child, hub):
        once(hub, "o-killed", "x")
        child.kill()
    with process(folder) as (_, hub):
        assert once(hub, "o-killed", "x").text == "urn:1"
        assert stored(hub, "o-killed") == ["x"]
        hub.close()
