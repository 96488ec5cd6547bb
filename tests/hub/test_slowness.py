"""Clients that take their time on purpose, and clients that come and go all the time."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from mercure_hub.server.assembly import Limits
from mercure_hub.server.site import RequestTimes
from tests.hub.running import HUB_PATH, RunningHub, running_hub

pytestmark = pytest.mark.minutes

API = HUB_PATH + "/subscriptions"


HASTY = Limits(requests=RequestTimes(first_byte=0.3, whole=0.6))
"""Time limits that a test can wait for."""


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"G", b"HTTP/1.1 408"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA: ", b"HTTP/1.1 408"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nabc", b"HTTP/1.1 408"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", b"HTTP/1.1 408"),
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", b"HTTP/1.1 200"),
    ],
)
def test_a_request_that_never_completes_gets_408(folder: Path, raw: bytes, status: bytes) -> None:
    with running_hub(folder, limits=HASTY) as hub, hub.connect() as sock:
        sock.sendall(raw)
        received = b""
        while more := sock.recv(65536):
            received += more
        assert received[:12] == status


@pytest.mark.parametrize(
    "raw",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\nA: ",
        b"GET / HTTP/1.1\r\nHost: x\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9999\r\n\r\n",
    ],
    ids=["head", "field names", "body"],
)
def test_a_request_sent_byte_by_byte_gets_408(folder: Path, raw: bytes) -> None:
    """Each byte arrives in time, but the request does not."""
    with running_hub(folder, limits=HASTY) as hub, hub.connect() as sock:
        started = time.monotonic()
        left = [raw[index : index + 1] for index in range(len(raw))][::-1]
        received = b""
        sock.settimeout(0.005)
        while not received:
            assert time.monotonic() - started < 10
            sock.sendall(left.pop() if left else b"x")
            try:
                received = sock.recv(65536)
            except TimeoutError:
                continue
        assert received.startswith(b"HTTP/1.1 408 ")


def test_empty_lines_do_not_count_as_a_request(folder: Path) -> None:
    """A server passes over them (RFC 9112 section 2.2), and waits for a request no longer for it."""
    with running_hub(folder, limits=HASTY) as hub, hub.connect() as sock:
        started = time.monotonic()
        sock.settimeout(0.005)
        while True:
            assert time.monotonic() - started < 10
            try:
                sock.sendall(b"\r\n")
                if not sock.recv(1):
                    break
            except TimeoutError:
                continue
            except ConnectionError:
                break


def test_many_slow_requests_keep_nobody_waiting(hub: RunningHub) -> None:
    slow = [hub.connect() for _ in range(200)]
    for sock in slow:
        sock.sendall(b"POST /.well-known/mercure HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n")
    stream = hub.subscribe({"match": "slow"})
    hub.send("slow", "at once")
    assert stream.take(1) == ["at once"]
    for sock in slow:
        sock.close()


def test_coming_and_going_leaves_no_phantom(folder: Path) -> None:
    with running_hub(folder, anonymous=1, subscriptions=1) as hub:

        def visit(number: int) -> None:
            for turn in range(100):
                sock = hub.connect()
                cursor = "&last_event_id=earliest" if turn % 10 == 0 else ""
                sock.sendall(f"GET {HUB_PATH}?match=v{number}{cursor} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                if turn % 3:
                    sock.recv(100)
                sock.close()

        visitors = [threading.Thread(target=visit, args=(number,)) for number in range(8)]
        for visitor in visitors:
            visitor.start()
        for visitor in visitors:
            visitor.join()
        deadline = time.monotonic() + 10
        while active := hub.get(path=API, token=hub.token()).json()["subscriptions"]:
            assert time.monotonic() < deadline, active
        hub.send("end", "end")
        stream = hub.subscribe({"match": "*", "last_event_id": "earliest"}, hub.token())
        came = went = 0
        while (data := stream.next().data) != "end":
            came += '"active":true' in data
            went += '"active":false' in data
        assert came == went
        assert came >= 8 * 60  # those that waited for an answer have surely been subscribers
