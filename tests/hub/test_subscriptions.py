"""Active subscriptions: events and API (spec, Active Subscriptions; 0.x, the same section)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import quote, urlencode

import pytest

from mercure_hub.protocol.errors import StorageError
from mercure_hub.server.assembly import Limits
from mercure_hub.storage.sqlite.link import SqliteLink
from mercure_hub.storage.store import Store
from tests.hub.running import HUB_PATH, RunningHub, running_hub
from tests.storage.log import beside, broken, until

pytestmark = [pytest.mark.minutes, pytest.mark.every_engine]

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
    def refuse(*_: object) -> list[str]:
        raise StorageError("the disk is full")

    monkeypatch.setattr(Store, "adopt", refuse)
    with running_hub(folder, anonymous=1, subscriptions=1) as hub:
        stream = hub.subscribe({"match": "t"})
        hub.send("t", "hello")
        assert stream.take(1) == ["hello"]


@pytest.mark.sqlite("copies its file")
def test_subscriptions_of_the_dead_end_as_soon_as_that_can_be_stored(folder: Path) -> None:
    def listed() -> list[str]:
        return [one["match"] for one in hub.get(path=API, token=hub.token()).json()["subscriptions"]]

    crashed = folder / "crashed"
    crashed.mkdir()
    with running_hub(folder, anonymous=1, subscriptions=1) as hub:
        hub.subscribe({"match": "of the dead"})
        with beside(folder / "hub.db") as database, beside(crashed / "hub.db") as copy:
            until(lambda: database.execute("SELECT count(*) FROM mercure_presence").fetchone() == (1,))
            database.backup(copy)
            copy.execute("UPDATE mercure_presence SET seat = 5")  # of another worker
    with ExitStack() as stack:
        broke = stack.enter_context(ExitStack())
        broke.enter_context(broken(crashed / "hub.db", ["mercure_presence"]))
        limits = Limits(adoption_interval=0.05)
        hub = stack.enter_context(running_hub(crashed, limits=limits, anonymous=1, subscriptions=1))
        watcher = hub.subscribe(ALL, hub.token())
        assert "of the dead" in listed()
        broke.close()
        until(lambda: listed() == [ALL["match_urlpattern"]])
        hub.send("t", "hello")
        watcher.close()


def test_events_are_private(folder: Path) -> None:
    with running_hub(folder, anonymous=1, subscriptions=1) as hub:
        nobody = hub.subscribe({"match": "*"})
        limited = hub.subscribe({"match": "*"}, hub.token(subscribe=["other"]))
        hub.subscribe({"match": "a"})
        hub.send("b", "public")
        assert nobody.take(1) == ["public"]
        assert limited.take(1) == ["public"]


def test_the_api_lists_subscriptions(folder: Path) -> None:
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


def test_active_subscriptions_are_off_by_default(folder: Path) -> None:
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


@pytest.fixture
def trim_always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SqliteLink, "discard_interval", 0.0)


def test_those_who_come_and_go_push_out_no_updates(folder: Path, trim_always: None) -> None:
    with running_hub(folder, anonymous=1, subscriptions=1, history_size=20) as hub:
        expected = [str(number) for number in range(20)]
        for data in expected:
            hub.send("t", data)
        for visitor in range(3):
            hub.subscribe({"match": [f"https://example.com/{visitor}/{number}" for number in range(100)]})
        everything = hub.subscribe({"match": "*", "last_event_id": "earliest"}, hub.token())
        assert len(everything.take(321)) == 321
        assert hub.subscribe({"match": "t", "last_event_id": "earliest"}).take(20) == expected


@pytest.mark.sqlite("where other machines read it, the history keeps the last five minutes")
class TestWhenEventsWereDiscarded:
    """All but the newest, since they are large for what the hub keeps of them."""

    @pytest.fixture
    def hub(self, folder: Path, trim_always: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunningHub]:
        monkeypatch.setattr("mercure_hub.storage.sqlite.retention.EVENTS_BYTES", 1)
        with running_hub(folder, anonymous=1, subscriptions=1) as hub:
            yield hub

    def come_and_go(self, hub: RunningHub) -> None:
        """Events of which one is left, and a trim after them."""
        watcher = hub.subscribe(ALL, hub.token())
        watcher.take(1)
        hub.subscribe({"match": "visitor"}).close()
        watcher.take(2)
        hub.send("other", "")
        hub.send("other", "")

    def test_a_subscriber_of_events_is_told(self, hub: RunningHub) -> None:
        cursor = hub.send("t", "1")
        self.come_and_go(hub)
        stream = hub.subscribe({**ALL, "match": "t", "last_event_id": cursor}, hub.token())
        assert stream.reply.headers["mercure-last-event-id"] == "earliest"
        assert stream.take(1) == ["1"]
        assert json.loads(stream.next().data)["match"] == "visitor"
        assert [json.loads(stream.next().data)["active"] for _ in range(2)] == [True, True]
        hub.send("t", "2")
        assert stream.take(1) == ["2"]

    @pytest.mark.parametrize(
        ("query", "token"),
        [
            ({"match": "t"}, "*"),
            ({"match_urlpattern": "/.well-known/:any"}, "t"),
            ({"match_urlpattern": ["t", "/rooms/*", "https://elsewhere.example/*"]}, "*"),
            ({"topic": ["t", "https://elsewhere.example/{any}"]}, "*"),
            ({"match": "*"}, ""),
        ],
    )
    def test_the_others_are_not(self, hub: RunningHub, query: dict[str, object], token: str) -> None:
        cursor = hub.send("t", "1")
        self.come_and_go(hub)
        hub.send("t", "2")
        grant = hub.token(subscribe=[token]) if token else None
        stream = hub.subscribe({**query, "last_event_id": cursor}, grant)
        assert stream.reply.headers["mercure-last-event-id"] == cursor
        while stream.next().data != "2":
            pass

    def test_their_position_is_that_of_an_update(self, hub: RunningHub) -> None:
        cursor = hub.send("t", "1")
        hub.subscribe(ALL, hub.token()).take(1)
        first = hub.subscribe({"match": "t", "last_event_id": ""}, hub.token())
        assert first.reply.headers["mercure-last-event-id"] == cursor
        with_events = hub.subscribe({**ALL, "last_event_id": ""}, hub.token())
        assert with_events.reply.headers["mercure-last-event-id"] != cursor

    def test_whoever_leaves_is_seen_to_leave(self, hub: RunningHub) -> None:
        """Each end is told, whatever was discarded of the beginnings."""
        watcher = hub.subscribe(ALL, hub.token())
        watcher.take(1)
        visitor = hub.subscribe({"match": [f"{number}/{'x' * 400}" for number in range(100)]})
        came = [json.loads(watcher.next().data) for _ in range(100)]
        visitor.close()
        went = [json.loads(watcher.next().data) for _ in range(100)]
        assert [one["id"] for one in went] == [one["id"] for one in came]
        assert all(one["active"] for one in came)
        assert not any(one["active"] for one in went)
        listed = hub.get(path=API, token=hub.token()).json()["subscriptions"]
        assert [one["match"] for one in listed] == [ALL["match_urlpattern"]]

    def test_whoever_is_refused_is_not_seen(self, hub: RunningHub) -> None:
        watcher = hub.subscribe(ALL, hub.token())
        watcher.take(1)
        assert hub.get({"match": ["fine", "x" * 513]}).status == 400
        hub.subscribe({"match": "next"})
        assert json.loads(watcher.next().data)["match"] == "next"


def test_the_position_of_an_update_is_known_after_a_restart(folder: Path) -> None:
    with running_hub(folder, anonymous=1, subscriptions=1) as hub:
        cursor = hub.send("t", "1")
        hub.subscribe(ALL, hub.token()).take(1)
    with running_hub(folder, anonymous=1, subscriptions=1) as hub:
        stream = hub.subscribe({"match": "t", "last_event_id": ""})
        assert stream.reply.headers["mercure-last-event-id"] == cursor


@pytest.mark.parametrize(
    ("query", "detail"),
    [
        ({"match": "x" * 513}, "A matcher has 513 characters"),
        (
            {"match": [str(number) + "\N{SNOWMAN}" * 500 for number in range(60)]},
            "have [0-9]+ bytes; the limit is",
        ),
    ],
)
def test_what_the_hub_would_have_to_tell_too_much_of_is_refused(
    folder: Path, query: dict[str, object], detail: str
) -> None:
    body = urlencode(query, doseq=True).encode()
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    with running_hub(folder, anonymous=1, subscriptions=1) as hub:
        refused = hub.request("QUERY", HUB_PATH, headers, body)
        assert (refused.status, bool(re.search(detail, refused.text))) == (400, True)
        assert hub.get(path=API, token=hub.token()).json()["subscriptions"] == []
    with running_hub(folder, anonymous=1) as hub:
        hub.subscribe({"match": "x" * 2048})
