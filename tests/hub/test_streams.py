"""Streams under stress: slow readers, many subscribers, TLS, the end of the hub."""

from __future__ import annotations

import contextlib
import gc
import socket
from pathlib import Path

import pytest

from mercure_hub.endpoints.request import Request
from mercure_hub.server.connection import ClientConnection
from mercure_hub.server.http import RequestReader
from tests.certificates import self_signed
from tests.hub.running import RunningHub, running_hub

pytestmark = pytest.mark.minutes


def test_a_stalled_reader_harms_nobody_and_is_dropped(folder: Path) -> None:
    with running_hub(folder, anonymous=1, dispatch_timeout=1) as hub:
        stalled = hub.subscribe({"match": "t"})
        others = [hub.subscribe({"match": "t"}) for _ in range(3)]
        data = "x" * 500_000
        for number in range(40):
            hub.send("t", f"{number}{data}")
            for other in others:
                assert other.next().data == f"{number}{data}"
        # Reading on now gives what the kernel had taken, then the end.
        received = 0
        while raw := stalled.sock.recv(1 << 20):
            received += len(raw)
        assert 0 < received < 40 * 500_000


def test_a_slow_reader_gets_everything_in_order(folder: Path) -> None:
    with running_hub(folder, anonymous=1, dispatch_timeout=10) as hub:
        slow = hub.subscribe({"match": "t"})
        expected = [f"{number}:{'y' * 500_000}" for number in range(16)]
        for data in expected:
            hub.send("t", data)
        assert slow.take(16) == expected


def test_many_subscribers_get_every_update(folder: Path) -> None:
    with running_hub(folder, anonymous=1) as hub:
        streams = [hub.subscribe({"match": ["all", f"own-{number}"]}) for number in range(600)]
        hub.send("all", "1")
        for number in range(0, 600, 100):
            hub.send(f"own-{number}", f"only {number}")
        hub.send("all", "2")
        for number, stream in enumerate(streams):
            expected = ["1", f"only {number}", "2"] if number % 100 == 0 else ["1", "2"]
            assert stream.take(len(expected)) == expected


def test_streams_end_with_the_hub(folder: Path) -> None:
    with running_hub(folder, anonymous=1) as hub:
        streams = [hub.subscribe({"match": "t"}) for _ in range(3)]
        hub.send("t", "last words")
    for stream in streams:
        with pytest.raises(OSError, match=r"Bad file|closed"):
            stream.sock.getpeername()


def test_streams_over_tls(folder: Path) -> None:
    certificate = self_signed(folder)
    with running_hub(folder, anonymous=1, subscriptions=1, tls_cert=certificate) as hub:
        assert hub.url.startswith("https://")
        streams = [hub.subscribe({"match": "t"}) for _ in range(20)]
        data = "z" * 300_000
        for number in range(10):
            hub.send("t", f"{number}{data}")
        for stream in streams:
            assert stream.take(10) == [f"{number}{data}" for number in range(10)]
        first = hub.send("t", "again")
        hub.send("t", "and again")
        assert hub.subscribe({"match": "t", "last_event_id": first}).take(1) == ["and again"]
        # Plain text on the TLS port ends that connection and no other.
        with socket.create_connection(("127.0.0.1", hub.port), timeout=5) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
            with contextlib.suppress(ConnectionResetError):
                assert b"HTTP/1.1 200" not in sock.recv(1000)
        hub.send("t", "fine")
        assert streams[0].take(3)[-1] == "fine"


def test_a_vanished_client_is_noticed_on_a_quiet_topic(folder: Path) -> None:
    with running_hub(folder, anonymous=1, subscriptions=1, heartbeat=0) as hub:
        _assert_count(hub, 0)
        streams = [hub.subscribe({"match": "quiet"}) for _ in range(50)]
        _assert_count(hub, 50)
        watcher = hub.subscribe({"match": "*"}, hub.token())
        for stream in streams:
            stream.close()
        watcher.take(51)
        _assert_count(hub, 1)


def _assert_count(hub: RunningHub, count: int) -> None:
    path = "/.well-known/mercure/subscriptions"
    assert len(hub.get(path=path, token=hub.token()).json()["subscriptions"]) == count


def test_a_subscriber_leaves_nothing_of_its_request_behind(folder: Path) -> None:
    """No reference cycles: what waits for the garbage collector is memory for each subscriber."""
    with running_hub(folder, anonymous=1) as hub:
        gc.collect()
        gc.disable()
        try:
            streams = [hub.subscribe({"match": "t"}) for _ in range(30)]
            for _ in range(30):
                hub.send("t", "x")
            assert [stream.take(30) for stream in streams] == [["x"] * 30] * 30
            kinds = (ClientConnection, RequestReader, Request)
            left = [one for one in gc.get_objects() if issubclass(type(one), kinds)]
        finally:
            gc.enable()
    assert len(left) <= 15  # of the last publications, which may not have ended yet
