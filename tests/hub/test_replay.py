"""Reconnection: cursors, history, and the moment between history and live (spec, Reconciliation)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from mercure_hub.broker.replay import ReplayLimits
from mercure_hub.fanout.engine import Engine, Logged
from mercure_hub.server.assembly import Limits
from mercure_hub.storage.interface import Page
from mercure_hub.storage.sqlite.reading import Reader
from tests.chosen_engine import discard_all
from tests.hub.running import RunningHub, running_hub
from tests.storage.log import beside

pytestmark = [pytest.mark.minutes, pytest.mark.every_engine]

SMALL_PAGES = Limits(replay=ReplayLimits(page=20))


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
def test_replay_from_the_beginning(hub: RunningHub, cursor: str) -> None:
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
@pytest.mark.sqlite("looks into its reader")
def test_a_long_history_by_pattern(folder: Path, monkeypatch: pytest.MonkeyPatch, others: int) -> None:
    """Only what the pattern selects is read, where that is less; what comes meanwhile is not missed."""
    read: list[int] = []
    page = Reader.page

    def noted(*arguments: Any) -> Page:
        found = page(*arguments)
        read.append(len(found.entries))
        return found

    monkeypatch.setattr(Reader, "page", noted)
    with running_hub(folder, limits=SMALL_PAGES, anonymous=1) as hub:
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


@pytest.mark.parametrize("at_page", [1, 2, 3])
@pytest.mark.sqlite("looks into its reader")
def test_a_topic_that_is_new_during_a_paged_replay_by_pattern_is_not_missed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, at_page: int
) -> None:
    """The topics of the history are looked up when it begins, and say nothing of what comes meanwhile."""
    pages = 0
    page = Reader.page

    def publish_after_page(
        reader: Reader, after: int, upto: int, topics: Collection[str] | None, limit: int
    ) -> Page:
        nonlocal pages
        found = page(reader, after, upto, topics, limit)
        if topics is not None:
            pages += 1
            if pages == at_page:
                hub.send("https://example.com/wanted/new", "new")
                hub.send("https://example.com/others/1", "no")
                assert watcher.take(1) == ["new"]  # it has been dispatched
        return found

    with running_hub(folder, limits=SMALL_PAGES, anonymous=1) as hub:
        for n in range(50):
            _publish_all(hub, f"https://example.com/wanted/{n % 5}", [str(n)])
            _publish_all(hub, f"https://example.com/others/{n % 20}", ["no"] * 7)
        watcher = hub.subscribe({"match": "https://example.com/wanted/new"})
        monkeypatch.setattr(Reader, "page", publish_after_page)
        query = {"match_urlpattern": "https://example.com/wanted/:id", "last_event_id": "earliest"}
        stream = hub.subscribe(query)
        assert stream.take(51) == [*(str(n) for n in range(50)), "new"]
        assert pages == 3  # only what the pattern selects was read
        hub.send("https://example.com/wanted/other", "live")
        assert stream.take(1) == ["live"]


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


@pytest.mark.sqlite("looks into its reader")
def test_an_update_that_comes_while_the_history_is_read_comes_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = Reader.page
    with running_hub(folder, anonymous=1) as hub:
        hub.send("t", "history")
        live = hub.subscribe({"match": "t"})

        def publish_meanwhile(reader: Reader, *arguments: Any) -> Page:
            monkeypatch.setattr(Reader, "page", page)  # only the first time
            found = page(reader, *arguments)
            hub.send("t", "meanwhile")
            assert live.take(1) == ["meanwhile"]
            return found

        monkeypatch.setattr(Reader, "page", publish_meanwhile)
        stream = hub.subscribe({"match": "t", "last_event_id": "earliest"})
        assert stream.take(2) == ["history", "meanwhile"]
        hub.send("t", "later")
        assert stream.take(1) == ["later"]


def test_a_cursor_just_published_brings_nothing_twice(hub: RunningHub) -> None:
    for number in range(30):
        topic = f"just-{number}"
        hub.send(topic, "old")
        stream = hub.subscribe({"match": topic, "last_event_id": hub.send(topic, "known")})
        hub.send(topic, "new")
        assert stream.take(1) == ["new"]
        stream.close()


@pytest.mark.parametrize(
    "query",
    [
        {"match": "stored"},
        {"match_urlpattern": "stored"},
        {"match": ["stored", "other"], "topic": "{+any}"},
    ],
    ids=["exact", "pattern", "several"],
)
def test_resuming_from_an_id_that_is_stored_and_not_yet_dispatched(
    folder: Path, monkeypatch: pytest.MonkeyPatch, query: dict[str, object]
) -> None:
    """The subscriber has it already: it gets what comes after it, once."""
    goes_on = threading.Event()
    dispatch = Engine.dispatch

    def dispatch_later(engine: Engine, entries: Sequence[Logged]) -> Iterator[None]:
        while not goes_on.is_set():
            yield
        yield from dispatch(engine, entries)

    monkeypatch.setattr(Engine, "dispatch", dispatch_later)
    with running_hub(folder, anonymous=1) as hub:
        try:
            hub.send("stored", "before")
            last = hub.send("stored", "known")
            stream = hub.subscribe({**query, "last_event_id": last})
            assert stream.reply.headers["mercure-last-event-id"] == last
            hub.send("stored", "after")
        finally:
            goes_on.set()
        hub.send("stored", "live")
        assert stream.take(2) == ["after", "live"]


@pytest.fixture
def discard_after_page(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], None]:
    """Has retention be faster than a replay: after a page is read, the log begins later."""

    def arrange(number: int, before: int) -> None:
        pages = 0
        page = Reader.page

        def discard(reader: Reader, *arguments: Any) -> Page:
            nonlocal pages
            found = page(reader, *arguments)
            pages += 1
            if pages == number:
                with beside(folder / "hub.db") as database:
                    database.execute("DELETE FROM mercure_update WHERE sequence < ?", (before,))
            return found

        monkeypatch.setattr(Reader, "page", discard)

    return arrange


@pytest.mark.parametrize("query", [{"match": "t"}, {"match_urlpattern": "t"}, {"match": "*"}])
@pytest.mark.parametrize("cursor", ["earliest", "first"])
@pytest.mark.sqlite("looks into its reader")
def test_a_stream_ends_where_the_history_was_discarded_before_it_was_read(
    folder: Path,
    discard_after_page: Callable[[int, int], None],
    query: dict[str, str],
    cursor: str,
) -> None:
    """Its client comes back with its cursor, and is told that updates are missing."""
    with running_hub(folder, limits=SMALL_PAGES, anonymous=1) as hub:
        ids = [hub.send("t", str(number)) for number in range(100)]
        discard_after_page(2, 70)
        stream = hub.subscribe({**query, "last_event_id": ids[0] if cursor == "first" else cursor})
        begin = 1 if cursor == "first" else 0
        assert stream.take(40) == [str(number) for number in range(begin, begin + 40)]
        with pytest.raises(EOFError):
            stream.next()
        again = hub.subscribe({**query, "last_event_id": ids[begin + 39]})
        assert again.reply.headers["mercure-last-event-id"] == "earliest"
        assert again.take(31) == [str(number) for number in range(69, 100)]


@pytest.mark.sqlite("looks into its reader")
def test_a_stream_ends_where_the_history_was_discarded_while_its_first_page_was_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page is read by several statements: it may have what was before and what is after, and a hole."""
    read = Reader._entries

    def discard(reader: Reader, *arguments: Any) -> Any:
        found = read(reader, *arguments)
        with beside(folder / "hub.db") as database:
            database.execute("DELETE FROM mercure_update WHERE sequence < 15")
        return found

    with running_hub(folder, anonymous=1) as hub:
        for number in range(20):
            hub.send("t", str(number))
        monkeypatch.setattr(Reader, "_entries", discard)
        with pytest.raises(EOFError):
            hub.subscribe({"match": "t", "last_event_id": "earliest"}).next()
        again = hub.subscribe({"match": "t", "last_event_id": "earliest"})
        assert again.take(6) == [str(number) for number in range(14, 20)]


@pytest.mark.parametrize("query", [{"match": "t"}, {"match_urlpattern": "t"}])
@pytest.mark.sqlite("looks into its reader")
def test_a_stream_goes_on_where_only_what_it_has_read_was_discarded(
    folder: Path, discard_after_page: Callable[[int, int], None], query: dict[str, str]
) -> None:
    with running_hub(folder, limits=SMALL_PAGES, anonymous=1) as hub:
        ids = [hub.send("t", str(number)) for number in range(100)]
        discard_after_page(2, 42)  # the last one of the second page
        stream = hub.subscribe({**query, "last_event_id": ids[0]})
        assert stream.take(99) == [str(number) for number in range(1, 100)]


@pytest.mark.parametrize("query", [{"match": "t"}, {"match_urlpattern": "t"}])
@pytest.mark.sqlite("looks into its reader")
def test_an_id_that_is_discarded_while_it_is_looked_up_is_answered_with_earliest(
    folder: Path, monkeypatch: pytest.MonkeyPatch, query: dict[str, str]
) -> None:
    find = Reader.find

    def discard(reader: Reader, event_id: str) -> int | None:
        found = find(reader, event_id)
        with beside(folder / "hub.db") as database:
            database.execute("DELETE FROM mercure_update WHERE sequence <= 7")
        return found

    with running_hub(folder, anonymous=1) as hub:
        ids = [hub.send("t", str(number)) for number in range(10)]
        monkeypatch.setattr(Reader, "find", discard)
        stream = hub.subscribe({**query, "last_event_id": ids[2]})
        assert stream.reply.headers["mercure-last-event-id"] == "earliest"
        assert stream.take(3) == ["7", "8", "9"]


@pytest.mark.sqlite("where other machines read it, the history keeps the last five minutes")
def test_old_updates_are_discarded(folder: Path) -> None:
    with running_hub(folder, anonymous=1, history_size=10) as hub:
        ids = [hub.send("t", str(i)) for i in range(60)]
    with running_hub(folder, anonymous=1, history_size=10) as hub:
        # The first trim after a start comes before the first batch, the next one a second later.
        hub.send("t", "60")
        hub.send("t", "61")
        stream = hub.subscribe({"match": "t", "last_event_id": ids[0]})
        assert stream.reply.headers["mercure-last-event-id"] == "earliest"
        left = [stream.next().data]
        while left[-1] != "61":
            left.append(stream.next().data)
        assert left == [str(i) for i in range(62 - len(left), 62)]
        assert len(left) <= 12  # ten, and the two that came after the trim


def test_nothing_is_missing_after_the_newest_update_though_it_was_discarded(folder: Path) -> None:
    """A quiet hub with a bound on age has an empty log: that alone is no gap."""
    with running_hub(folder, anonymous=1) as hub:
        older, newest = hub.send("t", "1"), hub.send("t", "2")
        discard_all(folder)
        stream = hub.subscribe({"match": "t", "last_event_id": newest})
        assert stream.reply.headers["mercure-last-event-id"] == newest
        behind = hub.subscribe({"match": "t", "last_event_id": older})
        assert behind.reply.headers["mercure-last-event-id"] == "earliest"
        hub.send("t", "3")
        assert stream.take(1) == behind.take(1) == ["3"]


def test_an_id_that_is_used_again_does_not_prove_that_nothing_is_missing(folder: Path) -> None:
    with running_hub(folder, anonymous=1) as hub:
        for data in ("1", "2"):
            hub.send("t", data, id="same")
        discard_all(folder)
        stream = hub.subscribe({"match": "t", "last_event_id": "same"})
        assert stream.reply.headers["mercure-last-event-id"] == "earliest"


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
            raw = sock.recv(1 << 20)
            assert raw
            answered += raw.count(b"HTTP/1.1 200 OK")
        sender.join()


def test_a_history_of_large_updates_in_pages_of_bounded_size(folder: Path) -> None:
    with running_hub(folder, anonymous=1) as hub:
        expected = [f"{number}:{'x' * 900_000}" for number in range(15)]
        for data in expected:
            hub.send("t", data)
        assert hub.subscribe({"match": "t", "last_event_id": "earliest"}).take(15) == expected
        assert hub.subscribe({"match_urlpattern": "*", "last_event_id": "earliest"}).take(15) == expected
