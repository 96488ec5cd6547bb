"""Reconnection: cursors, history, and the moment between history and live (spec, Reconciliation)."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from hub import broker
from hub.transport.interface import Page
from hub.transport.reading import Reader
from tests.hub.running import RunningHub, running_hub

pytestmark = pytest.mark.minutes


@pytest.mark.parametrize("how", ["last_event_id", "header", "lastEventID", "Last-Event-ID"])
def test_resumes_after_the_id(hub: RunningHub, how: str) -> None:
    topic = f"resume-{how}"
    ids = [hub.send(topic, str(i)) for i in range(4)]
    if how == "header":
        stream = hub.subscribe({"match": topic}, Last_Event_ID=ids[1])
    else:
        stream = hub.subscribe({"match": topic, how: ids[1]})
    assert stream.reply.headers["mercure-last-event-id"] == ids[1]
    assert stream.reply.headers["last-event-id"] == ids[1]
    hub.send(topic, "live")
    assert stream.take(3) == ["2", "3", "live"]


def test_the_header_wins_over_the_parameter(hub: RunningHub) -> None:
    ids = [hub.send("wins", str(i)) for i in range(3)]
    stream = hub.subscribe({"match": "wins", "last_event_id": ids[0]}, Last_Event_ID=ids[1])
    assert stream.take(1) == ["2"]


@pytest.mark.parametrize("cursor", ["earliest", "urn:uuid:never-existed"])
def test_from_the_beginning(hub: RunningHub, cursor: str) -> None:
    topic = f"beginning-{cursor}"
    hub.send(topic, "1")
    hub.send(topic, "2")
    stream = hub.subscribe({"match": topic, "last_event_id": cursor})
    assert stream.reply.headers["mercure-last-event-id"] == "earliest"
    assert stream.take(2) == ["1", "2"]


@pytest.mark.parametrize(
    "query",
    [
        {"match_urlpattern": "https://example.com/replay/:id"},
        {"topic": "https://example.com/replay/{id}"},
        {"match": ["https://example.com/replay/1", "https://example.com/replay/2"]},
        {"match": ["https://example.com/replay/1"], "match_urlpattern": "https://example.com/replay/:x"},
    ],
)
def test_each_kind_of_matcher_replays(hub: RunningHub, query: dict[str, object]) -> None:
    start = hub.send("https://example.com/elsewhere", "before")
    both = ["https://example.com/replay/1", "https://example.com/replay/2"]
    hub.publish({"topic": both, "data": "both"})
    hub.send("https://example.com/elsewhere", "no")
    hub.publish({"topic": both[::-1], "data": "second"})
    stream = hub.subscribe({**query, "last_event_id": start})
    assert stream.take(2) == ["both", "second"]


def test_a_reused_id_means_its_first_update(hub: RunningHub) -> None:
    for data in ("1", "2", "3"):
        hub.send("reused", data, id="urn:same")
    assert hub.subscribe({"match": "reused", "last_event_id": "urn:same"}).take(2) == ["2", "3"]


def test_private_updates_are_checked_again(hub: RunningHub) -> None:
    start = hub.send("replay-private", "0")
    hub.send("replay-private", "secret", private="on")
    hub.send("replay-private", "open")
    query = {"match": "replay-private", "last_event_id": start}
    assert hub.subscribe(query).take(1) == ["open"]
    assert hub.subscribe(query, hub.token(subscribe=["other"])).take(1) == ["open"]
    assert hub.subscribe(query, hub.token(subscribe=["replay-private"])).take(2) == ["secret", "open"]


def test_an_id_that_is_not_ascii(hub: RunningHub) -> None:
    hub.send("é", "1", id="https://example.com/é")
    hub.send("é", "2")
    header = "https://example.com/é".encode().decode("latin-1")
    stream = hub.subscribe({"match": "é"}, Last_Event_ID=header)
    assert stream.reply.headers["mercure-last-event-id"] == header
    assert stream.take(1) == ["2"]


def test_history_survives_a_restart(folder: Path) -> None:
    with running_hub(folder, anonymous=1) as hub:
        ids = [hub.send("t", str(i)) for i in range(3)]
    with running_hub(folder, anonymous=1) as hub:
        assert hub.subscribe({"match": "t", "last_event_id": ids[0]}).take(2) == ["1", "2"]


def test_a_long_history_in_pages(folder: Path) -> None:
    with running_hub(folder, anonymous=1) as hub:
        expected = [str(i) for i in range(1203)]
        _publish_all(hub, "t", expected)
        assert hub.subscribe({"match": "t", "last_event_id": "earliest"}).take(1203) == expected
        assert (
            hub.subscribe({"match_urlpattern": ":all*", "last_event_id": "earliest"}).take(1203) == expected
        )


@pytest.mark.parametrize("others", [0, 9, 400], ids=["all topics", "a tenth", "some of many topics"])
def test_a_long_history_by_pattern(folder: Path, monkeypatch: pytest.MonkeyPatch, others: int) -> None:
    """Only what the pattern selects is read, where that is less; what comes meanwhile is not missed."""
    read: list[int] = []
    page = Reader.page

    def noted(*arguments: Any) -> Page:
        found = page(*arguments)
        read.append(len(found.entries))
        return found

    monkeypatch.setattr(broker, "_PAGE", 20)
    monkeypatch.setattr(Reader, "page", noted)
    with running_hub(folder, anonymous=1) as hub:
        topics = [f"https://example.com/wanted/{n % 5}" for n in range(200)]
        for n, topic in enumerate(topics):
            topics[n] = topic if n % 10 == 0 or not others else f"https://example.com/others/{n % others}"
        for n, topic in enumerate(topics):
            _publish_all(hub, topic, [str(n)])
        expected = [str(n) for n, topic in enumerate(topics) if "/wanted/" in topic]
        for query in (
            {"match_urlpattern": "https://example.com/wanted/:id"},
            {"topic": "https://example.com/wanted/{id}"},
            {"match": "https://example.com/wanted/0", "match_urlpattern": "https://example.com/wanted/:id"},
        ):
            read.clear()
            stream = hub.subscribe({**query, "last_event_id": "earliest"})
            assert stream.take(len(expected)) == expected
            assert (sum(read) == len(expected)) is (others != 400)
            hub.send("https://example.com/wanted/another", "live")
            assert stream.take(1) == ["live"]
            expected.append("live")


def test_no_gap_and_no_duplicate_while_others_publish(folder: Path) -> None:
    """Subscribers join with a cursor all the time while a publisher goes on."""
    with running_hub(folder, anonymous=1) as hub:
        first = hub.send("t", "0")
        expected = [str(i) for i in range(1, 1500)]
        publisher = threading.Thread(target=_publish_all, args=(hub, "t", expected))
        publisher.start()
        kinds = [{"match": "t"}, {"match_urlpattern": "t"}, {"topic": "t"}]
        streams = [hub.subscribe({**kinds[i % 3], "last_event_id": first}) for i in range(60)]
        for stream in streams:
            assert stream.take(len(expected)) == expected
        publisher.join()


def test_a_cursor_just_published_brings_nothing_twice(hub: RunningHub) -> None:
    for number in range(30):
        topic = f"just-{number}"
        hub.send(topic, "old")
        stream = hub.subscribe({"match": topic, "last_event_id": hub.send(topic, "known")})
        hub.send(topic, "new")
        assert stream.take(1) == ["new"]
        stream.close()


def test_old_updates_are_discarded(folder: Path) -> None:
    with running_hub(folder, anonymous=1, history_size=10) as hub:
        ids = [hub.send("t", str(i)) for i in range(60)]
    with running_hub(folder, anonymous=1, history_size=10) as hub:
        # The first trim after a start comes with the first batch.
        hub.send("t", "60")
        hub.send("t", "61")
        stream = hub.subscribe({"match": "t", "last_event_id": ids[0]})
        assert stream.reply.headers["mercure-last-event-id"] == "earliest"
        left = [stream.next().data]
        while left[-1] != "61":
            left.append(stream.next().data)
        assert left == [str(i) for i in range(62 - len(left), 62)]
        assert len(left) <= 11  # ten, and the one that came after the trim


def _publish_all(hub: RunningHub, topic: str, values: list[str]) -> None:
    token = hub.token()
    requests = b"".join(
        (
            f"POST /.well-known/mercure HTTP/1.1\r\nHost: 127.0.0.1:{hub.port}\r\n"
            f"Authorization: Bearer {token}\r\nContent-Type: application/x-www-form-urlencoded\r\n"
            f"Content-Length: {len(body)}\r\n\r\n{body}"
        ).encode()
        for body in (f"topic={topic}&data={value}" for value in values)
    )
    with hub.connect() as sock:
        sender = threading.Thread(target=sock.sendall, args=(requests,))
        sender.start()
        answered = 0
        while answered < len(values):
            octets = sock.recv(1 << 20)
            assert octets
            answered += octets.count(b"HTTP/1.1 200 OK")
        sender.join()


def test_a_history_of_large_updates_in_pages_of_bounded_size(folder: Path) -> None:
    with running_hub(folder, anonymous=1) as hub:
        expected = [f"{number}:{'x' * 900_000}" for number in range(15)]
        for data in expected:
            hub.send("t", data)
        assert hub.subscribe({"match": "t", "last_event_id": "earliest"}).take(15) == expected
        assert hub.subscribe({"match_urlpattern": "*", "last_event_id": "earliest"}).take(15) == expected
