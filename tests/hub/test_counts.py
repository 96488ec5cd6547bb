"""Counts of those who are connected to a topic, without who."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.hub.running import HUB_PATH, RunningHub, Stream, running_hub
from tests.hub.websocket import client, messages
from tests.storage.log import until

pytestmark = [pytest.mark.minutes, pytest.mark.every_engine]

COUNT = HUB_PATH + "/counts/rooms%2F1"
API = HUB_PATH + "/subscriptions"
ROOM = "rooms/1"


@pytest.fixture
def hub(folder: Path) -> Iterator[RunningHub]:
    with running_hub(folder, anonymous=1, subscriptions=1) as hub:
        yield hub


def visitor(hub: RunningHub, *more: str, **query: str) -> Stream:
    """Somebody in the room, whose token grants its count."""
    token = hub.token(subscribe=[ROOM, COUNT], payload={"sub": "ada"})
    return hub.subscribe([("match", ROOM), *(("match", one) for one in more), *query.items()], token)


def number(stream: Stream) -> int:
    """The next count that a stream tells."""
    event = stream.next()
    document: dict[str, Any] = json.loads(event.data)
    assert event.type == "mercure"
    assert document == {"id": COUNT, "type": "count", "match": ROOM, "count": document["count"]}
    found: int = document["count"]
    return found


def wait_number(stream: Stream, expected: int) -> None:
    while number(stream) != expected:
        pass


def of(hub: RunningHub) -> int:
    reply = hub.get(path=COUNT, token=hub.token(subscribe=[COUNT]))
    assert (reply.status, reply.headers["content-type"]) == (200, "application/json")
    found: int = reply.json()["count"]
    return found


def listed(hub: RunningHub) -> list[str]:
    return [one["match"] for one in hub.get(path=API, token=hub.token()).json()["subscriptions"]]


def test_a_reader_gets_the_number_at_once_and_when_it_changes(hub: RunningHub) -> None:
    empty = hub.subscribe({"match": COUNT}, hub.token(subscribe=[COUNT]))
    assert number(empty) == 0
    first, second = visitor(hub), visitor(hub)
    wait_number(empty, 2)
    late = visitor(hub, COUNT)
    assert number(late) == 3
    assert of(hub) == 3
    first.close()
    second.close()
    wait_number(late, 1)
    assert of(hub) == 1


def test_nobody_who_is_counted_is_announced(hub: RunningHub) -> None:
    everything = hub.subscribe({"match_urlpattern": f"{API}/:type/:match/:subscriber"}, hub.token())
    assert json.loads(everything.next().data)["match"].startswith(API)
    inside = visitor(hub, COUNT, "users/7")
    assert number(inside) == 1
    assert listed(hub) == [f"{API}/:type/:match/:subscriber"]
    inside.close()
    outside = hub.subscribe({"match": ROOM}, hub.token(subscribe=[ROOM]))
    assert json.loads(everything.next().data)["match"] == ROOM  # whose token says nothing of counts
    assert of(hub) == 0
    outside.close()


def test_people_can_be_announced_in_one_room_and_counted_in_another(hub: RunningHub) -> None:
    people = f"{API}/exact/docs%2F1"
    token = hub.token(subscribe=[ROOM, COUNT, "docs/1", people], payload={"sub": "ada"})
    stream = hub.subscribe([("match", ROOM), ("match", "docs/1")], token)
    until(lambda: of(hub) == 1)
    assert listed(hub) == ["docs/1"]
    stream.close()
    until(lambda: of(hub) == 0)


def test_a_token_for_everything_is_announced_and_not_counted(hub: RunningHub) -> None:
    admin = hub.subscribe([("match", ROOM), ("match", COUNT)], hub.token())
    assert number(admin) == 0
    assert sorted(listed(hub)) == sorted([ROOM, COUNT])


def test_who_may_read_it(hub: RunningHub) -> None:
    inside = visitor(hub)
    assert hub.get(path=COUNT).status == 401
    for topics in ([ROOM], [f"{API}/exact/rooms%2F1"], [HUB_PATH + "/counts/rooms%2F2"], [COUNT + "/a"]):
        token = hub.token(subscribe=topics)
        assert hub.get(path=COUNT, token=token).status == 403
        stream = hub.subscribe([("match", COUNT), ("match", "t")], token)
        hub.send("t", "hello")
        assert stream.next().data == "hello"  # and no number before
    assert hub.get(path=COUNT + "/a", token=hub.token()).status == 404
    assert hub.request("POST", COUNT, {"Authorization": f"Bearer {hub.token()}"}).status == 405
    # However the path is written, and whoever asks.
    for path in (COUNT.replace("%2F", "%2f"), COUNT.replace("rooms", "%72ooms")):
        assert hub.get(path=path, token=hub.token(subscribe=[COUNT])).json()["id"] == COUNT
    inside.close()


def test_nobody_else_publishes_a_count(hub: RunningHub) -> None:
    for topic in (COUNT, COUNT + "/urn%3Auuid%3A1"):
        assert hub.publish({"topic": topic, "data": "{}"}).status == 400


def test_a_count_changes_no_position(hub: RunningHub) -> None:
    stream = visitor(hub, COUNT)
    sent = hub.send(ROOM, "hello")
    events = [stream.next(), stream.next()]
    assert {event.data for event in events} >= {"hello"}
    other = visitor(hub)
    wait_number(stream, 2)
    assert b"id: " + sent.encode() in stream.raw
    assert stream.raw.count(b"\nid: ") + stream.raw.startswith(b"id: ") == 1
    resumed = visitor(hub, COUNT, last_event_id=sent)
    assert number(resumed) == 3  # nothing of the counts before comes again
    other.close()


def test_a_websocket_gets_the_number(hub: RunningHub) -> None:
    inside = visitor(hub)
    until(lambda: of(hub) == 1)
    with client(hub, {"match": COUNT}, hub.token(subscribe=[COUNT])) as connection:
        (message,) = messages(connection)
        assert json.loads(message["data"])["count"] == 1
        assert message["id"] == ""
    inside.close()


def test_what_the_hub_says_of_it(folder: Path) -> None:
    metadata = "/.well-known/oauth-protected-resource/.well-known/mercure"
    with running_hub(folder, anonymous=1) as hub:
        assert "flask_mercure_counts" not in hub.get(path=metadata).json()
        assert hub.get(path=COUNT, token=hub.token()).status == 404
        stream = hub.subscribe([("match", COUNT), ("match", "t")], hub.token())
        hub.send("t", "hello")
        assert stream.next().data == "hello"
    with running_hub(folder, anonymous=1, subscriptions=1) as hub:
        assert hub.get(path=metadata).json()["flask_mercure_counts"] is True


def test_a_hub_that_starts_again_counts_anew(folder: Path) -> None:
    with running_hub(folder, anonymous=1, subscriptions=1) as hub:
        visitor(hub)
        until(lambda: of(hub) == 1)
    with running_hub(folder, anonymous=1, subscriptions=1) as hub:
        stream = visitor(hub, COUNT)
        assert number(stream) == 1
