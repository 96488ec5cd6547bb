"""Limits on connections: 429 with Retry-After (spec, Subscription)."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from mercure_hub.protocol.errors import StorageError
from mercure_hub.protocol.matching.matcher import _heavy, _recent_heavy
from mercure_hub.storage.interface import Resume, Resumed
from mercure_hub.storage.store import Store
from tests.hub.running import HUB_PATH, RunningHub, read_reply, running_hub

pytestmark = pytest.mark.minutes


def assert_full(hub: RunningHub, setting: str, **options: str) -> None:
    """One connection more is refused."""
    reply = hub.get({"match": "a"}, **options)
    assert reply.status == 429
    assert int(reply.headers["retry-after"]) > 0
    assert setting in reply.json()["detail"]


def wait_until_left(hub: RunningHub, count: int) -> None:
    """Return when the hub has seen that subscribers left."""
    while (
        len(hub.get(path="/.well-known/mercure/subscriptions", token=hub.token()).json()["subscriptions"])
        > count
    ):
        pass


def test_connections_in_total_are_limited(folder: Path) -> None:
    with running_hub(folder, anonymous=1, subscriptions=1, max_connections=3) as hub:
        hub.send("a", "old")
        streams = [hub.subscribe({"match": "a", "last_event_id": "earliest"}) for _ in range(3)]
        assert_full(hub, "MERCURE_MAX_CONNECTIONS")
        assert hub.publish({"topic": "a"}).status == 200
        streams[0].close()
        wait_until_left(hub, 2)
        hub.subscribe({"match": "a"})
        assert_full(hub, "MERCURE_MAX_CONNECTIONS")


def test_connections_of_an_address_are_limited(folder: Path) -> None:
    settings: dict[str, Any] = {"max_connections_per_address": 2, "trusted_proxies": "127.0.0.1"}
    with running_hub(folder, anonymous=1, subscriptions=1, **settings) as hub:
        streams = [hub.subscribe({"match": "a"}, X_Forwarded_For="203.0.113.1") for _ in range(2)]
        assert_full(hub, "PER_ADDRESS", X_Forwarded_For="203.0.113.1")
        assert_full(hub, "PER_ADDRESS", X_Forwarded_For="198.51.100.1, 203.0.113.1")
        hub.subscribe({"match": "a"}, X_Forwarded_For="203.0.113.2")
        streams[0].close()
        wait_until_left(hub, 2)
        hub.subscribe({"match": "a"}, X_Forwarded_For="203.0.113.1")


@pytest.mark.parametrize(
    ("setting", "token"),
    [("max_connections", ""), ("max_connections_per_address", ""), ("max_connections_per_token", "token")],
)
def test_of_many_that_come_back_at_once_no_more_are_admitted(folder: Path, setting: str, token: str) -> None:
    """Each waits for a look-up of its cursor: meanwhile the others are counted."""
    with running_hub(folder, limits=None, anonymous=1, **{setting: 3}) as hub:
        known = hub.send("a", "old")
        fields = f"Authorization: Bearer {hub.token()}\r\n" if token else ""
        target = f"{HUB_PATH}?match=a&last_event_id={known}"
        head = f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1:{hub.port}\r\n{fields}\r\n"
        with ExitStack() as stack:
            sockets = [stack.enter_context(hub.connect()) for _ in range(60)]
            for sock in sockets:
                sock.sendall(head.encode())
            statuses = [read_reply(sock, only_head=True)[2].status for sock in sockets]
        assert (statuses.count(200), statuses.count(429)) == (3, 57)


def test_a_place_is_free_again_after_each_way_not_to_become_a_subscriber(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resume = Store.resume

    def fail(store: Store[Any], wanted: Sequence[Resume]) -> list[Resumed]:
        if wanted[0].event_id == "unreadable":
            raise StorageError("the disk is broken")
        if wanted[0].event_id == "defect":
            raise ValueError(wanted)
        return resume(store, wanted)

    monkeypatch.setattr(Store, "resume", fail)
    with running_hub(folder, anonymous=1, max_connections=1) as hub:
        known = hub.send("a", "old")
        assert hub.get({"match": "a", "last_event_id": "unreadable"}).status == 503
        assert hub.get({"match": "a", "last_event_id": "defect"}).status == 500
        assert hub.request("HEAD", f"{HUB_PATH}?match=a&last_event_id={known}").status == 200
        assert hub.get({"match": "a" * 3000}).status == 400
        with hub.connect() as sock:  # who leaves before it is answered
            sock.sendall(f"GET {HUB_PATH}?match=a&last_event_id={known} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        while hub.request("HEAD", f"{HUB_PATH}?match=a").status == 429:
            pass
        hub.subscribe({"match": "a", "last_event_id": known})
        assert_full(hub, "MERCURE_MAX_CONNECTIONS")


def test_connections_of_a_token_are_limited(folder: Path) -> None:
    with running_hub(folder, anonymous=1, max_connections_per_token=1) as hub:
        one, other = hub.token(), hub.token()
        hub.subscribe({"match": "a"}, one)
        assert_full(hub, "PER_TOKEN", token=one)
        hub.subscribe({"match": "a"}, other)
        for _ in range(3):
            hub.subscribe({"match": "a"})  # those without a token are not counted


def test_heavy_patterns_are_limited(folder: Path) -> None:
    _recent_heavy.cache_clear()
    gc.collect()
    in_use = len(_heavy)  # what other tests keep in this process
    with running_hub(folder, anonymous=1, subscriptions=1, max_heavy_patterns=in_use + 2) as hub:
        streams = [hub.subscribe({"match_urlpattern": rf"/heavy/{name}/:id(\d+)"}) for name in "ab"]
        reply = hub.get({"match_urlpattern": r"/heavy/c/:id(\d+)"})
        assert reply.status == 429
        assert int(reply.headers["retry-after"]) > 0
        assert "MERCURE_MAX_HEAVY_PATTERNS" in reply.json()["detail"]
        assert reply.json()["type"] == "urn:flask-mercure:problem:too-many-patterns"
        hub.subscribe({"match_urlpattern": r"/heavy/a/:id(\d+)"})  # shared with the first one
        for number in range(5):
            hub.subscribe({"match_urlpattern": f"/light/{number}/:id"})
        streams[1].close()
        wait_until_left(hub, 7)
        hub.subscribe({"match_urlpattern": r"/heavy/c/:id(\d+)"})


def test_heavy_patterns_of_one_client_leave_some_to_others(folder: Path) -> None:
    _recent_heavy.cache_clear()
    gc.collect()
    most = 2 * len(_heavy) + 40
    settings: dict[str, Any] = {"max_heavy_patterns": most, "trusted_proxies": "127.0.0.1"}
    with running_hub(folder, anonymous=1, **settings) as hub:

        def status(number: int, token: str | None = None, **headers: str) -> int:
            query = {"match_urlpattern": rf"/share/{number}/:id(\d+)"}
            try:
                return hub.subscribe(query, token, **headers).reply.status
            except AssertionError:
                return hub.get(query, token, **headers).status

        greedy = [status(number, X_Forwarded_For="203.0.113.1") for number in range(most)]
        assert set(greedy[:20]) == {200}
        assert greedy[-1] == 429
        assert status(most, X_Forwarded_For="203.0.113.2") == 200
        assert status(most + 1, hub.token(sub="Ada"), X_Forwarded_For="203.0.113.1") == 200
