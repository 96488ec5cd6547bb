"""The last value of each topic for a subscriber that begins (docs/protocol.md, Last values)."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from mercure_hub.broker.replay import ReplayLimits
from mercure_hub.server.assembly import Limits
from tests.hub.running import RunningHub, running_hub
from tests.hub.test_process import process
from tests.hub.websocket import client, messages

pytestmark = [pytest.mark.minutes, pytest.mark.every_engine]

BASE = "https://example.com/last"


def values(hub: RunningHub, topic: str, count: int, token: str | None = None, **more: str) -> list[str]:
    """What a subscriber gets first, which an update ends that comes after it began."""
    stream = hub.subscribe({"match_urlpattern": topic, "last_value": "1", **more}, token)
    assert "mercure-last-event-id" not in stream.reply.headers
    hub.send(f"{topic.rpartition(':')[0]}end", "end")
    found = stream.take(count + 1)
    assert found.pop() == "end"
    return found


def test_the_newest_update_of_each_topic_comes_first_and_then_live_ones(hub: RunningHub) -> None:
    for number in range(3):
        for name in ("a", "b"):
            hub.send(f"{BASE}/plain/{name}", f"{name}{number}")
    stream = hub.subscribe(
        {"match": [f"{BASE}/plain/{name}" for name in ("b", "a", "none")], "last_value": "1"}
    )
    hub.send(f"{BASE}/plain/none", "live")
    assert stream.take(3) == ["a2", "b2", "live"]
    stream = hub.subscribe({"match_urlpattern": f"{BASE}/plain/:name", "last_value": "true"})
    assert stream.take(3) == ["a2", "b2", "live"]


def test_without_asking_nothing_comes_first(hub: RunningHub) -> None:
    hub.send(f"{BASE}/unasked", "before")
    for wish in ({}, {"last_value": "0"}, {"last_value": ""}):
        stream = hub.subscribe({"match": f"{BASE}/unasked", **wish})
        hub.send(f"{BASE}/unasked", "after")
        assert stream.take(1) == ["after"]


def test_with_a_cursor_it_is_a_plain_resume(hub: RunningHub) -> None:
    hub.send(f"{BASE}/resume/a", "old")
    cursor = hub.send(f"{BASE}/resume/b", "known")
    hub.send(f"{BASE}/resume/b", "missed")
    query = {"match_urlpattern": f"{BASE}/resume/:x", "last_value": "1"}
    assert hub.subscribe({**query, "last_event_id": cursor}).take(1) == ["missed"]
    stream = hub.subscribe(query, Last_Event_ID=cursor)
    assert stream.reply.headers["mercure-last-event-id"] == cursor
    assert stream.take(1) == ["missed"]
    # An empty cursor is none, as of a script's first request.
    assert hub.subscribe({**query, "last_event_id": ""}).take(2) == ["old", "missed"]


def test_whoever_leaves_among_the_values_gets_the_rest(hub: RunningHub) -> None:
    for number in range(5):
        hub.send(f"{BASE}/rest/{number}", str(number))
    query = {"match_urlpattern": f"{BASE}/rest/:x", "last_value": "1"}
    stream = hub.subscribe(query)
    cursor = [stream.next() for _ in range(2)][-1].id
    stream.close()
    assert hub.subscribe(query, Last_Event_ID=cursor).take(3) == ["2", "3", "4"]


def test_an_update_of_several_topics_comes_once_and_in_order(hub: RunningHub) -> None:
    hub.publish({"topic": [f"{BASE}/several/{name}" for name in "abc"], "data": "all"})
    hub.send(f"{BASE}/several/a", "a")
    hub.publish({"topic": [f"{BASE}/several/{name}" for name in "bd"], "data": "two"})
    assert values(hub, f"{BASE}/several/:x", 3) == ["all", "a", "two"]


def test_a_value_is_the_newest_that_may_be_read(hub: RunningHub) -> None:
    for number in range(12):
        hub.publish({"topic": f"{BASE}/private/x", "data": f"open {number}"})
    for number in range(50):
        hub.publish(
            {"topic": [f"{BASE}/private/x", f"{BASE}/private-to/{number}"], "data": str(number), "private": 1}
        )
    assert values(hub, f"{BASE}/private/:x", 1) == ["open 11"]
    assert values(hub, f"{BASE}/private/:x", 1, hub.token(subscribe=[f"{BASE}/private-to/3"])) == ["3"]
    assert values(hub, f"{BASE}/private/:x", 1, hub.token(subscribe=[f"{BASE}/private/x"])) == ["49"]


def test_what_is_no_wish_is_refused(hub: RunningHub) -> None:
    reply = hub.get({"match": "x", "last_value": "maybe"})
    assert (reply.status, reply.json()["field"]) == (400, "last_value")


def test_the_hub_tells_that_it_knows_the_parameter(hub: RunningHub) -> None:
    metadata = hub.request("GET", "/.well-known/oauth-protected-resource/.well-known/mercure").json()
    assert metadata["flask_mercure_last_value"] is True


def test_events_of_subscriptions_are_no_values(hub: RunningHub) -> None:
    everything = {"match_urlpattern": "/.well-known/mercure/subscriptions/*"}
    watcher = hub.subscribe(everything, hub.token())
    hub.subscribe({"match": f"{BASE}/watched"}).close()
    while f"{BASE}/watched" not in (data := watcher.next().data) or '"active":false' not in data:
        pass
    stream = hub.subscribe({**everything, "match": f"{BASE}/ours", "last_value": "1"}, hub.token())
    hub.send(f"{BASE}/ours", "live")
    while (event := stream.next()).data != "live":
        assert f"{BASE}/watched" not in event.data


def test_over_a_websocket(hub: RunningHub) -> None:
    last = [hub.send(f"{BASE}/ws", data) for data in ("old", "new")][-1]
    with client(hub, {"match": f"{BASE}/ws", "last_value": "1"}) as connection:
        assert messages(connection) == [{"id": last, "type": "message", "data": "new"}]


def test_of_the_old_protocol(hub: RunningHub) -> None:
    hub.send(f"{BASE}/old/1", "value")
    stream = hub.subscribe({"topic": f"{BASE}/old/{{id}}", "last_value": "1"})
    assert stream.take(1) == ["value"]


def test_many_topics_in_pages_while_updates_come(folder: Path) -> None:
    """Each topic's last value arrives, whatever was published meanwhile, and nothing comes twice."""
    with running_hub(folder, limits=Limits(replay=ReplayLimits(page=20)), anonymous=1) as hub:
        for number in range(150):
            hub.send(f"{BASE}/{number}", "old")
            hub.send(f"{BASE}/{number}", "value")
        is_over = threading.Event()

        def publish() -> None:
            number = 0
            while not is_over.is_set():
                hub.send(f"{BASE}/{number % 150}", f"{number}")
                number += 1
            hub.send(f"{BASE}/end", "end")

        publisher = threading.Thread(target=publish)
        publisher.start()
        streams = [
            hub.subscribe({"match_urlpattern": f"{BASE}/:x", "last_value": "1"}),
            hub.subscribe({"match": [f"{BASE}/{n}" for n in (*range(99), "end")], "last_value": "1"}),
        ]
        firsts = [[stream.next() for _ in range(99)] for stream in streams]
        is_over.set()
        publisher.join()
        for stream, first in zip(streams, firsts, strict=True):
            events = list(first)
            while events[-1].data != "end":
                events.append(stream.next())
            ids = [event.id for event in events]
            assert len(set(ids)) == len(ids)
            live = [int(event.data) for event in events if event.data.isdigit()]
            assert live == sorted(live)


def test_of_too_many_topics_the_newest_come(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with running_hub(folder, limits=Limits(replay=ReplayLimits(values=10)), anonymous=1) as hub:
        for number in range(30):
            hub.send(f"{BASE}/{number}", str(number))
        assert values(hub, f"{BASE}/:x", 10) == [str(number) for number in range(20, 30)]
    assert "asked for the last values of more topics" in caplog.text


def test_of_two_workers(folder: Path) -> None:
    """A worker that is behind gives what it has, and then what came since."""
    with process(folder, MERCURE_WORKERS="2") as (_, hub):
        for number in range(10):
            hub.send(f"{BASE}/{number % 2}", str(number))
            stream = hub.subscribe({"match_urlpattern": f"{BASE}/:x", "last_value": "1"})
            found = [stream.next().data]
            while found[-1] != str(number):
                found += stream.take(1)
            assert [int(data) for data in found] == sorted(map(int, found))
            stream.close()


def test_the_wildcard(folder: Path) -> None:
    with running_hub(folder, anonymous=1) as hub:
        for number in range(9):
            hub.send(f"{number % 3}", str(number))
        assert hub.subscribe({"match": "*", "last_value": "1"}).take(3) == ["6", "7", "8"]
