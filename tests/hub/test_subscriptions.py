"""Active subscriptions: events and API (spec, Active Subscriptions; 0.x, the same section)."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import quote

import pytest

from hub.protocol.errors import StorageError
from hub.transport.sqlalchemy import SqlTransport
from tests.hub.running import HUB_PATH, RunningHub, running_hub

pytestmark = pytest.mark.minutes

API = HUB_PATH + "/subscriptions"
ALL = {"match_urlpattern": "/.well-known/mercure/subscriptions/:type/:match/:subscriber"}


def test_events_tell_of_coming_and_going(folder: Path) -> None:
    with running_hub(folder, anonymous=1, subscriptions=1) as hub:
        watcher = hub.subscribe(ALL, hub.token())
        own = json.loads(watcher.next().data)
        assert own["match"] == ALL["match_urlpattern"]
        visitor = hub.subscribe(
            {"match": "https://example.com/a b/%41", "match_urlpattern": "https://example.com/:id"},
            hub.token(payload={"name": "Ada"}),
        )
        came = [watcher.next(), watcher.next()]
        visitor.close()
        went = [watcher.next(), watcher.next()]
    for event, active in [(came[0], True), (came[1], True), (went[0], False), (went[1], False)]:
        document = json.loads(event.data)
        assert event.type == "mercure"
        assert document["type"] == "subscription"
        assert document["active"] is active
        assert document["payload"] == {"name": "Ada"}
        encoded = quote(document["match"], safe="")
        subscriber = quote(document["subscriber"], safe="")
        assert document["id"] == f"{API}/{document['match_type']}/{encoded}/{subscriber}"
    documents = [json.loads(event.data) for event in came]
    assert [(one["match_type"], one["match"]) for one in documents] == [
        ("exact", "https://example.com/a b/%41"),
        ("urlpattern", "https://example.com/:id"),
    ]
    assert len({one["subscriber"] for one in documents}) == 1


def test_a_hub_that_cannot_end_the_subscriptions_of_a_dead_one_starts_all_the_same(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: object) -> list[str]:
        raise StorageError("the disk is full")

    monkeypatch.setattr(SqlTransport, "adopt", refuse)
    with running_hub(folder, anonymous=1, subscriptions=1) as hub:
        stream = hub.subscribe({"match": "t"})
        hub.send("t", "hello")
        assert stream.take(1) == ["hello"]


def test_events_are_private(folder: Path) -> None:
    with running_hub(folder, anonymous=1, subscriptions=1) as hub:
        nobody = hub.subscribe({"match": "*"})
        limited = hub.subscribe({"match": "*"}, hub.token(subscribe=["other"]))
        hub.subscribe({"match": "a"})
        hub.send("b", "public")
        assert nobody.take(1) == ["public"]
        assert limited.take(1) == ["public"]


def test_the_api(folder: Path) -> None:
    with running_hub(folder, anonymous=1, subscriptions=1) as hub:
        watcher = hub.subscribe(ALL, hub.token())
        visitor = hub.subscribe({"match": "https://example.com/a"}, hub.token(payload={"n": 1}))
        watcher.take(2)
        reply = hub.get(path=API, token=hub.token())
        assert reply.headers["content-type"] == "application/json"
        document = reply.json()
        assert (document["id"], document["type"]) == (API, "subscriptions")
        assert len(document["subscriptions"]) == 2
        (one,) = [each for each in document["subscriptions"] if each["match_type"] == "exact"]
        assert one["payload"] == {"n": 1}
        by_matcher = hub.get(path=f"{API}/exact/{quote('https://example.com/a', safe='')}", token=hub.token())
        assert by_matcher.json()["subscriptions"] == [one]
        assert hub.get(path=one["id"], token=hub.token()).json() == one
        visitor.close()
        watcher.take(1)
        assert hub.get(path=one["id"], token=hub.token()).status == 404
        assert hub.get(path=f"{API}/exact/none", token=hub.token()).json()["subscriptions"] == []


def test_the_cursor_continues_where_the_list_ends(folder: Path) -> None:
    with running_hub(folder, anonymous=1, subscriptions=1) as hub:
        first = hub.get(path=API, token=hub.token())
        assert 'last-event-id="earliest"' in first.headers["link"]
        hub.subscribe(ALL, hub.token()).take(1)
        reply = hub.get(path=API, token=hub.token())
        link = reply.headers["link"]
        assert f'<{hub.url}>; rel="mercure"' in link
        assert 'type="mercure"; content-type="application/json"' in link
        cursor = link.split('last-event-id="')[1].split('"')[0]
        hub.subscribe({"match": "later"})
        stream = hub.subscribe({**ALL, "last_event_id": cursor}, hub.token())
        assert json.loads(stream.next().data)["match"] == "later"


def test_an_unchanged_list_is_not_sent_again(folder: Path) -> None:
    with running_hub(folder, anonymous=1, subscriptions=1) as hub:
        tag = hub.get(path=API, token=hub.token()).headers["etag"]
        for value in (tag, f'"x", W/{tag}', "*"):
            reply = hub.get(path=API, token=hub.token(), If_None_Match=value)
            assert (reply.status, reply.body, reply.headers["etag"]) == (304, b"", tag)
        assert hub.get(path=API, token=hub.token(), If_None_Match='"x"').status == 200
        hub.send("a", "b")
        assert hub.get(path=API, token=hub.token(), If_None_Match=tag).status == 200


def test_who_may_read_it(hub: RunningHub) -> None:
    assert hub.get(path=API).status == 401
    assert hub.get(path=API, token="garbage").status == 401
    assert hub.get(path=API, token=hub.token(subscribe=["other"])).status == 403
    assert hub.get(path=API, token=hub.token(subscribe=[API])).status == 200
    pattern = {"match": API + "{/*}?", "match_type": "urlpattern"}
    for path in (API, f"{API}/exact/a"):
        assert hub.get(path=path, token=hub.token(subscribe=[pattern])).status == 200
    narrow = hub.token(subscribe=[{"match": API + "/exact/a/:who", "match_type": "urlpattern"}])
    assert hub.get(path=API, token=narrow).status == 403
    assert hub.get(path=f"{API}/exact/a/nobody", token=narrow).status == 404
    assert hub.request("HEAD", API, {"Authorization": f"Bearer {hub.token()}"}).status == 200
    assert hub.request("POST", API, {"Authorization": f"Bearer {hub.token()}"}).status == 405
    assert hub.get(path=API + "x", token=hub.token()).status == 404
    assert hub.get(path=API + "/exact", token=hub.token()).status == 404


def test_an_anonymous_reader_of_a_strict_hub(folder: Path) -> None:
    with running_hub(folder, subscriptions=1) as hub:
        assert hub.get(path=API).status == 401


def test_off_by_default(folder: Path) -> None:
    with running_hub(folder, anonymous=1) as hub:
        assert hub.get(path=API, token=hub.token()).status == 404
        metadata = "/.well-known/oauth-protected-resource/.well-known/mercure"
        assert "mercure_subscriptions" not in hub.get(path=metadata).json()
        stream = hub.subscribe({"match": "*"}, hub.token())
        hub.subscribe({"match": "a"})
        hub.send("a", "only this")
        assert stream.take(1) == ["only this"]


def test_the_shape_of_the_earlier_generation(folder: Path) -> None:
    with running_hub(folder, subscriptions=1) as hub:
        token = hub.old_token(
            subscribe=["/.well-known/mercure/subscriptions{/topic}{/subscriber}"], payload="Ada"
        )
        watcher = hub.subscribe({"topic": API + "/{topic}/{subscriber}"}, token)
        watcher.take(1)
        hub.subscribe({"topic": "https://example.com/{id}"}, token)
        event = watcher.next()
        document = json.loads(event.data)
        assert event.type == "message"
        assert document.pop("@context") == "https://mercure.rocks/"
        assert (document["type"], document["topic"]) == ("Subscription", "https://example.com/{id}")
        assert (document["active"], document["payload"]) == (True, "Ada")
        listing = hub.get(path=API, token=token)
        assert listing.headers["content-type"] == "application/ld+json"
        collection = listing.json()
        assert (collection["type"], collection["@context"]) == ("Subscriptions", "https://mercure.rocks/")
        assert collection["lastEventID"] == event.id
        assert document in collection["subscriptions"]
        by_topic = hub.get(path=f"{API}/{quote('https://example.com/{id}', safe='')}", token=token).json()
        assert by_topic["subscriptions"] == [document]
        single = hub.get(path=document["id"], token=token).json()
        assert (single["topic"], single["lastEventID"]) == ("https://example.com/{id}", event.id)


def test_no_phantom_after_any_kind_of_end(folder: Path) -> None:
    import socket
    import struct

    with running_hub(folder, anonymous=1, subscriptions=1) as hub:
        watcher = hub.subscribe(ALL, hub.token())
        watcher.take(1)
        polite, half, rude = (hub.subscribe({"match": name}) for name in ("polite", "half", "rude"))
        watcher.take(3)
        polite.close()
        half.sock.shutdown(socket.SHUT_WR)
        rude.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        rude.close()
        gone = {json.loads(watcher.next().data)["match"] for _ in range(3)}
        assert gone == {"polite", "half", "rude"}
        assert len(hub.get(path=API, token=hub.token()).json()["subscriptions"]) == 1


def test_a_subscriber_hears_of_itself_after_the_replay(folder: Path) -> None:
    """A page tells old from new by it: ``EventSource`` does not say where the replay ends."""
    with running_hub(folder, anonymous=1, subscriptions=1) as hub:
        token = hub.token()
        for number in range(7):
            hub.send("room", str(number))
        first = hub.subscribe({**ALL, "match": "room", "last_event_id": "earliest"}, token)
        events = [first.next() for _ in range(9)]
        assert [event.type for event in events] == ["message"] * 7 + ["mercure"] * 2
        second = hub.subscribe({**ALL, "match": "room", "last_event_id": "earliest"}, token)
        own = {document["subscriber"] for document in map(json.loads, second.take(11)[-2:])}
        assert len(own) == 1
        assert own != {json.loads(events[-1].data)["subscriber"]}


def test_the_end_of_the_hub_ends_its_subscriptions(folder: Path) -> None:
    with running_hub(folder, anonymous=1, subscriptions=1) as hub:
        start = hub.send("x", "start")
        hub.subscribe({"match": "a"})
        hub.send("x", "end")
    with running_hub(folder, anonymous=1, subscriptions=1) as hub:
        stream = hub.subscribe({**ALL, "last_event_id": start}, hub.token())
        assert [json.loads(stream.next().data)["active"] for _ in range(2)] == [True, False]
