"""Several hubs on one history, as on several machines: what their users are promised."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mercure_hub.storage.interface import LEASE
from tests.engines import EngineServer
from tests.hub.running import HUB_PATH, RunningHub, Stream, running_hub
from tests.hub.test_process import process
from tests.hub.websocket import client, messages
from tests.storage.log import until

pytestmark = pytest.mark.minutes

PUBLIC_URL = f"https://hub.example{HUB_PATH}"
ADOPTION = 5.0  # seconds after the end of a lease
PATIENCE = 2 * (LEASE + ADOPTION)  # seconds, for a machine that is busy
API = HUB_PATH + "/subscriptions"
PRESENCE = {"match_urlpattern": "/.well-known/mercure/subscriptions/:type/:match/:subscriber"}


@pytest.fixture(params=["postgresql", "valkey"])
def url(request: pytest.FixtureRequest) -> str:
    """``MERCURE_TRANSPORT_URL`` of a new history, on each engine."""
    server: EngineServer = request.getfixturevalue(f"{request.param}_engine")
    return server.url()


@contextmanager
def node(folder: Path, url: str) -> Iterator[RunningHub]:
    with running_hub(folder, transport_url=url, anonymous=1, subscriptions=1, public_url=PUBLIC_URL) as hub:
        yield hub


@pytest.fixture
def nodes(folder: Path, url: str) -> Iterator[tuple[RunningHub, RunningHub]]:
    with node(folder, url) as first, node(folder, url) as second:
        yield first, second


Nodes = tuple[RunningHub, RunningHub]


def watch(nodes: Nodes) -> list[Stream]:
    """A watcher of subscriptions on each node, which has seen the beginning of both watchers'."""
    start = nodes[0].send("start")
    watchers = [hub.subscribe({**PRESENCE, "last_event_id": start}, hub.token()) for hub in nodes]
    for watcher in watchers:
        for _ in watchers:
            watcher.next()
    return watchers


def test_what_is_published_on_one_reaches_the_subscribers_of_both(nodes: Nodes) -> None:
    streams = [hub.subscribe({"match": "t"}) for hub in nodes]
    sent = []
    for number in range(10):
        sent.append(nodes[number % 2].send("t", str(number)))
        for stream in streams:
            event = stream.next()
            assert (event.id, event.data) == (sent[-1], str(number))


def test_a_websocket_gets_what_another_node_stores(nodes: Nodes) -> None:
    with client(nodes[1], {"match": "t"}) as connection:
        sent = nodes[0].send("t", "hello")
        (message,) = messages(connection)
        assert (message["id"], message["data"]) == (sent, "hello")


def test_updates_of_publishers_on_both_have_one_order(nodes: Nodes) -> None:
    count = 100
    streams = [hub.subscribe(query) for hub in nodes for query in ({"match": "t"}, {"match_urlpattern": "*"})]
    publishers = [
        threading.Thread(
            target=lambda name=name, hub=hub: [hub.send("t", f"{name}{n}") for n in range(count)]
        )
        for name, hub in (("a", nodes[0]), ("b", nodes[1]), ("c", nodes[0]))
    ]
    for publisher in publishers:
        publisher.start()
    for publisher in publishers:
        publisher.join()
    received = [stream.take(3 * count) for stream in streams]
    assert all(one == received[0] for one in received)
    for name in "abc":
        assert [one for one in received[0] if one[0] == name] == [f"{name}{n}" for n in range(count)]
    replayed = nodes[1].subscribe({"match": "t", "last_event_id": "earliest"}).take(3 * count)
    assert replayed == received[0]


def test_a_batch_stays_together(nodes: Nodes) -> None:
    def publish(hub: RunningHub, name: str) -> None:
        token = hub.token()
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {token}"}
        for number in range(10):
            items = [{"topic": "t", "data": f"{name}{number}"}] * 20
            assert hub.request("POST", HUB_PATH, headers, json.dumps(items).encode()).status == 200

    streams = [hub.subscribe({"match": "t"}) for hub in nodes]
    publishers = [
        threading.Thread(target=publish, args=(hub, name)) for hub, name in zip(nodes, "ab", strict=True)
    ]
    for publisher in publishers:
        publisher.start()
    for publisher in publishers:
        publisher.join()
    received = [stream.take(400) for stream in streams]
    assert received[0] == received[1]
    assert all(len(set(received[0][begin : begin + 20])) == 1 for begin in range(0, 400, 20))


def test_a_client_goes_on_at_another_node_without_gap_and_duplicate(nodes: Nodes) -> None:
    """As when a node ends and its balancer sends the client elsewhere, while publishers go on."""
    count = 200
    publisher = threading.Thread(target=lambda: [nodes[n % 2].send("t", str(n)) for n in range(count)])
    stream = nodes[0].subscribe({"match": "t"})
    publisher.start()
    received: list[str] = []
    for turn in range(10):
        for _ in range(count // 10):
            event = stream.next()
            received.append(event.data)
        stream.close()
        if turn < 9:
            stream = nodes[(turn + 1) % 2].subscribe({"match": "t", "last_event_id": event.id})
            assert stream.reply.headers["mercure-last-event-id"] == event.id
    publisher.join()
    assert received == [str(number) for number in range(count)]


@pytest.mark.parametrize("cursor", ["earliest", "urn:uuid:00000000-0000-4000-8000-000000000000"])
def test_the_whole_history_comes_from_any_node(nodes: Nodes, cursor: str) -> None:
    for number in range(6):
        nodes[number % 2].send("t", str(number))
    for hub in nodes:
        stream = hub.subscribe({"match": "t", "last_event_id": cursor})
        assert stream.reply.headers["mercure-last-event-id"] == "earliest"
        assert stream.take(6) == list("012345")


def test_a_node_that_comes_later_has_the_history(folder: Path, url: str) -> None:
    with node(folder, url) as first:
        sent = first.send("t", "1")
        first.send("t", "2")
        with node(folder, url) as second:
            assert second.subscribe({"match": "t", "last_event_id": sent}).take(1) == ["2"]
            second.send("t", "3")
    with node(folder, url) as again:
        assert again.subscribe({"match": "t", "last_event_id": sent}).take(2) == ["2", "3"]


def test_a_token_means_the_same_on_each_node(nodes: Nodes) -> None:
    reader = nodes[0].token(publish=(), subscribe=["t"])
    stranger = nodes[0].token(publish=(), subscribe=["other"])
    publisher = nodes[0].token(publish=["t"], subscribe=())
    allowed = [hub.subscribe({"match": "t"}, reader) for hub in nodes]
    strangers = [hub.subscribe({"match": "t"}, stranger) for hub in nodes]
    for number, hub in enumerate(nodes):
        private = {"topic": "t", "data": f"private {number}", "private": "on"}
        assert hub.publish(private, publisher).status == 200
        assert hub.publish({"topic": "t", "data": f"public {number}"}, publisher).status == 200
        assert hub.publish({"topic": "other"}, publisher).status == 403
        assert hub.publish({"topic": "t"}, reader).status == 403
    for stream in allowed:
        assert stream.take(4) == ["private 0", "public 0", "private 1", "public 1"]
    for stream in strangers:
        assert stream.take(2) == ["public 0", "public 1"]


def listed(hub: RunningHub, path: str = "") -> set[str]:
    """The subscribers that the API of a node lists."""
    reply = hub.get(path=API + path, token=hub.token())
    assert reply.status == 200, reply.text
    return {one["subscriber"] for one in reply.json()["subscriptions"]}


def until_listed(hub: RunningHub, path: str, expected: set[str]) -> None:
    until(lambda: listed(hub, path) == expected)


class TestPresence:
    def test_both_list_the_subscriptions_of_both(self, nodes: Nodes) -> None:
        watcher = nodes[0].subscribe(PRESENCE, nodes[0].token())
        own = json.loads(watcher.next().data)["subscriber"]
        for number, hub in enumerate(nodes):
            for topic in ("a", "b"):
                hub.subscribe({"match": topic}, hub.token(payload={"node": number}))
        documents = [json.loads(watcher.next().data) for _ in range(4)]
        came = {one["subscriber"] for one in documents}
        for hub in nodes:
            until_listed(hub, "", came | {own})
            for topic in ("a", "b"):
                assert listed(hub, f"/exact/{topic}") == {
                    one["subscriber"] for one in documents if one["match"] == topic
                }
            for one in documents:
                found = hub.get(path=f"{API}/exact/{one['match']}/{one['subscriber']}", token=hub.token())
                assert found.status == 200
                assert found.json()["payload"] == one["payload"]

    def test_events_of_both_are_seen_on_both(self, nodes: Nodes) -> None:
        watchers = watch(nodes)
        for hub in nodes:
            visitor = hub.subscribe({"match": "t"}, hub.token(payload={"name": "Ada"}))
            came = [json.loads(watcher.next().data) for watcher in watchers]
            assert came[0] == came[1]
            assert (came[0]["match"], came[0]["active"], came[0]["payload"]) == ("t", True, {"name": "Ada"})
            visitor.close()
            went = [json.loads(watcher.next().data) for watcher in watchers]
            assert went[0] == went[1] == {**came[0], "active": False}

    def test_a_node_that_stops_ends_its_subscriptions_at_once(self, folder: Path, url: str) -> None:
        with node(folder, url) as stays:
            watcher = stays.subscribe(PRESENCE, stays.token())
            watcher.next()
            with node(folder, url) as stops:
                visitors = [stops.subscribe({"match": "t"}) for _ in range(5)]
                came = {json.loads(watcher.next().data)["subscriber"] for _ in visitors}
            ended = [json.loads(watcher.next().data) for _ in visitors]
            assert {one["subscriber"] for one in ended if not one["active"]} == came
            assert listed(stays, "/exact/t") == set()

    def test_subscriptions_of_a_killed_node_end_once(self, folder: Path, url: str) -> None:
        """Within the lease and five seconds, whichever of the others ends them."""
        variables = {
            "MERCURE_TRANSPORT_URL": url,
            "MERCURE_SUBSCRIPTIONS": "1",
            "MERCURE_PUBLIC_URL": PUBLIC_URL,
        }
        with node(folder, url) as first, node(folder, url) as second:
            watchers = watch((first, second))
            for watcher in watchers:
                watcher.sock.settimeout(PATIENCE)
            with process(folder, **variables) as (child, dies):
                for number in range(20):
                    dies.subscribe({"match": f"topic {number}"})
                came = {json.loads(watchers[0].next().data)["subscriber"] for _ in range(20)}
                child.send_signal(signal.SIGKILL)
                child.wait(PATIENCE)
                killed_at = time.monotonic()
                dies.close()
            ended = [json.loads(watchers[0].next().data) for _ in range(20)]
            took = time.monotonic() - killed_at
            assert {one["subscriber"] for one in ended} == came
            assert not any(one["active"] for one in ended)
            assert took < PATIENCE
            for hub in (first, second):
                until_listed(hub, "/exact/topic%200", set())
                assert not listed(hub) & came
            # What comes next shows that nothing came twice.
            last = first.subscribe({"match": "last"})
            for watcher in watchers:
                documents = [json.loads(watcher.next().data)]
                while documents[-1]["match"] != "last":
                    documents.append(json.loads(watcher.next().data))
                ends = [one["subscriber"] for one in documents if not one["active"]]
                assert len(ends) == (0 if watcher is watchers[0] else 20)
                assert len(set(ends)) == len(ends)
            last.close()


def test_counts_are_of_all_nodes_also_after_one_died(folder: Path, url: str) -> None:
    variables = {
        "MERCURE_TRANSPORT_URL": url,
        "MERCURE_SUBSCRIPTIONS": "1",
        "MERCURE_PUBLIC_URL": PUBLIC_URL,
    }
    path = HUB_PATH + "/counts/room"

    def told(stream: Stream, expected: int) -> None:
        while json.loads(stream.next().data)["count"] != expected:
            pass

    with node(folder, url) as first, node(folder, url) as second:
        token = first.token(subscribe=["room", path])
        readers = [hub.subscribe({"match": path}, token) for hub in (first, second)]
        for reader in readers:
            reader.sock.settimeout(PATIENCE)
        with process(folder, **variables) as (child, dies):
            for hub in (first, second, dies, dies):
                hub.subscribe({"match": "room"}, token)
            for reader in readers:
                told(reader, 4)
            with node(folder, url) as late:  # knows at once what the others have told before
                told(late.subscribe({"match": path}, token), 4)
            child.send_signal(signal.SIGKILL)
            child.wait(PATIENCE)
            dies.close()
        for reader in readers:
            told(reader, 2)
        assert second.get(path=path, token=token).json()["count"] == 2
