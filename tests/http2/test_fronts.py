"""Apache, Caddy and HAProxy that speak HTTP/2 to the hub. Debian's nginx cannot."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.certificates import self_signed
from tests.deployment.front import free_ports, wait_until
from tests.http2.fronts import PROXIES, Proxy, running_proxy
from tests.hub.running import HUB_PATH, RunningHub, running_hub
from tests.hub.websocket import client, messages
from tests.needs import need

pytestmark = pytest.mark.servers

API = f"{HUB_PATH}/subscriptions"


@pytest.fixture(scope="module", params=PROXIES)
def front(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningHub]:
    with _hub_behind(PROXIES[request.param], tmp_path_factory.mktemp("hub")) as seen:
        yield seen


@contextmanager
def _hub_behind(kind: Proxy, folder: Path) -> Iterator[RunningHub]:
    """The hub behind a proxy, as its clients see it."""
    need(kind.package)
    (port,) = free_ports(1)
    certificate = str(self_signed(folder)) if kind.is_tls else ""
    url = f"http://127.0.0.1:{port}{HUB_PATH}"
    with (
        running_hub(
            folder,
            anonymous=1,
            subscriptions=1,
            heartbeat=1,
            public_url=url,
            trusted_proxies="127.0.0.1",
            tls_cert=certificate,
        ) as hub,
        running_proxy(kind, port, hub.port, certificate),
    ):
        seen = RunningHub(port, public_url=url)
        yield seen
        seen.close()


def test_streams_get_each_update_at_once(front: RunningHub) -> None:
    streams = [front.subscribe({"match": "t"}) for _ in range(30)]
    for number in range(5):
        id_ = front.send("t", str(number))
        for stream in streams:
            event = stream.next()
            assert (event.data, event.id) == (str(number), id_)
    for stream in streams:
        stream.close()


def test_what_was_missed_comes_first(front: RunningHub) -> None:
    ids = [front.send("missed", f"{number}{'x' * 20_000}") for number in range(50)]
    stream = front.subscribe({"match": "missed"}, Last_Event_ID=ids[0])
    front.send("missed", "live")
    assert [one[:1] for one in stream.take(50)] == [*(str(number)[:1] for number in range(1, 50)), "l"]
    stream.close()


def test_large_updates_and_private_ones(front: RunningHub) -> None:
    stream = front.subscribe({"match": "large"}, front.token(subscribe=["large"]))
    other = front.subscribe({"match": "large"})
    text = "0123456789abcdef" * 50_000
    front.send("large", text, private="on")
    front.send("large", "public")
    assert stream.take(2) == [text, "public"]
    assert other.take(1) == ["public"]
    stream.close()
    other.close()


def test_refusals_come_through(front: RunningHub) -> None:
    reply = front.publish({"topic": "t"}, None)
    assert reply.status == 401
    assert reply.headers["content-type"] == "application/problem+json"
    assert "Bearer" in reply.headers["www-authenticate"]
    assert front.get({"match": "{"}).status in (200, 400)
    assert front.get(path=API, token=front.token()).status == 200


def test_who_leaves_is_noticed(front: RunningHub) -> None:
    def listed() -> int:
        found = front.get(path=f"{API}/exact/leaves", token=front.token())
        return len(found.json()["subscriptions"]) if found.status == 200 else 0

    stream = front.subscribe({"match": "leaves"})
    wait_until(lambda: listed() == 1, "the subscriber is not listed")
    stream.close()
    wait_until(lambda: listed() == 0, "the subscriber is still there")


def test_haproxy_takes_websockets_to_the_same_port(tmp_path: Path) -> None:
    with (
        _hub_behind(PROXIES["HAProxy"], tmp_path) as front,
        client(front, {"match": "t"}) as connection,
    ):
        id_ = front.send("t", "over HTTP/1.1")
        assert [one["id"] for one in messages(connection)] == [id_]
