"""Requests that no well-meaning client sends: each gets an answer or an end, and the hub goes on."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hub.running import HUB_PATH, RunningHub, read_reply

pytestmark = pytest.mark.minutes


@pytest.fixture(autouse=True)
def still_works(hub: RunningHub) -> Iterator[None]:
    """After each of these the hub publishes and delivers as before."""
    stream = hub.subscribe({"match": "abuse"})
    yield
    hub.send("abuse", "fine")
    assert stream.take(1) == ["fine"]
    stream.close()


HOST = "Host: x\r\n"
_POOLED = 12  # of connections to the database, of which several may be opened and stay


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a/../b\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: x\r\nBad Header: y\r\n\r\n", 400),
        ("GET /\x01 HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        ("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        ("PRI * HTTP/2.0\r\n\r\nMS\r\n\r\n", 400),
        ("HELLO\r\n\r\n", 400),
        (f"POST {HUB_PATH} HTTP/1.1\r\n{HOST}Content-Length: 5\r\nContent-Length: 6\r\n\r\n", 400),
        (f"POST {HUB_PATH} HTTP/1.1\r\n{HOST}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (f"POST {HUB_PATH} HTTP/1.1\r\n{HOST}Content-Length: -5\r\n\r\n", 400),
        (f"POST {HUB_PATH} HTTP/1.1\r\n{HOST}Transfer-Encoding: chunked\r\n\r\nZZ\r\n", 400),
        (f"POST {HUB_PATH} HTTP/1.1\r\n{HOST}Content-Length: 99999999999999999999\r\n\r\n", 400),
        (f"POST {HUB_PATH} HTTP/1.1\r\n{HOST}Content-Length: 9999999\r\n\r\n", 413),
        (f"GET {HUB_PATH}?match=a HTTP/1.1\r\n{HOST}X: {'y' * 70000}\r\n\r\n", 431),
        (f"GET {HUB_PATH}?match={'y' * 70000} HTTP/1.1\r\n{HOST}\r\n", 431),
        ("GET / HTTP/1.1\r\nHost: x\r\n" + "A: b\r\n" * 300 + "\r\n", 431),
        ("CONNECT evil.example:443 HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        ("OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        ("GET http://x/healthz HTTP/1.1\r\nHost: x\r\n\r\n", 200),
        ("GET /healthz HTTP/1.0\r\n\r\n", 200),
        ("GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", 200),
        ("GET /%2e%2e/etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        (f"GET {HUB_PATH}/ HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        (f"GET {HUB_PATH}/subscriptions/%ff/%00/x HTTP/1.1\r\nHost: x\r\n\r\n", 401),
    ],
    ids=lambda value: repr(value)[:60],
)
def test_odd_requests_get_an_answer(hub: RunningHub, request_: str, status: int) -> None:
    assert hub.raw(request_.encode("latin-1")).split(b" ", 2)[1] == str(status).encode()


def test_a_body_that_grows_over_the_limit_in_chunks(hub: RunningHub) -> None:
    with hub.connect() as sock:
        sock.sendall(f"POST {HUB_PATH} HTTP/1.1\r\n{HOST}Transfer-Encoding: chunked\r\n\r\n".encode())
        chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
        with pytest.raises((BrokenPipeError, ConnectionResetError, AssertionError)):
            for _ in range(1000):
                sock.sendall(chunk)
            raise AssertionError


def test_a_client_waits_for_100_continue(hub: RunningHub) -> None:
    body = b"topic=continue&data=x"
    with hub.connect() as sock:
        sock.sendall(
            (
                f"POST {HUB_PATH} HTTP/1.1\r\nHost: 127.0.0.1:{hub.port}\r\nExpect: 100-continue\r\n"
                f"Authorization: Bearer {hub.token()}\r\nContent-Length: {len(body)}\r\n"
                "Content-Type: application/x-www-form-urlencoded\r\n\r\n"
            ).encode()
        )
        assert sock.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(body)
        assert read_reply(sock)[2].status == 200


def test_clients_that_go_away_at_every_point(hub: RunningHub) -> None:
    whole = (
        f"GET {HUB_PATH}?match=gone&last_event_id=earliest HTTP/1.1\r\nHost: x\r\n"
        f"Authorization: Bearer {hub.token(aud='http://x' + HUB_PATH)}\r\n\r\n"
    ).encode()
    for number in range(30):
        hub.send("gone", "x" * 100_000 if number == 0 else "y")
    for cut in [1, 20, len(whole) - 1, len(whole)]:
        for linger in (False, True):
            sock = hub.connect()
            sock.sendall(whole[:cut])
            if linger:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            sock.close()


def test_header_values_cannot_be_injected(hub: RunningHub) -> None:
    hub.send("inject", "1", id="a%0d%0aSet-Cookie: x=1")
    reply = hub.subscribe({"match": "inject", "last_event_id": "a%0d%0aSet-Cookie: x=1"}).reply
    assert reply.headers["mercure-last-event-id"] == "a%0d%0aSet-Cookie: x=1"
    assert "set-cookie" not in reply.headers
    assert (
        "set-cookie" not in hub.subscribe({"match": "i", "last_event_id": "a\r\nSet-Cookie: x"}).reply.headers
    )


def test_patterns_made_to_be_slow_do_not_stall_others(hub: RunningHub) -> None:
    import time

    started = time.monotonic()
    for pattern in ("/(a+)+b", "/:a(.*)*", "/((?:a|aa)+)+$", "/" + "{a}?" * 100, r"/(\w{1,200})"):
        assert hub.get({"match_urlpattern": pattern}).status in (0, 200, 400)
    for template in ("{a*}" * 60, "/{a}{b}{c}" * 20, "{+a}{+b}{+c}{+d}"):
        assert hub.get({"topic": template}).status in (0, 200, 400)
    hub.send("https://example.com/" + "a" * 1900)
    assert time.monotonic() - started < 20  # seconds or hours, not milliseconds


def test_no_descriptor_is_lost(hub: RunningHub) -> None:
    descriptors = Path("/proc/self/fd")
    before = len(list(descriptors.iterdir()))
    for _ in range(50):
        stream = hub.subscribe({"match": "leak"})
        stream.close()
        hub.get(path="/nowhere")
        hub.raw(b"nonsense\r\n\r\n")
    watcher = hub.subscribe({"match": "abuse-leak"})
    hub.send("abuse-leak", "x")
    watcher.take(1)
    watcher.close()
    for _ in range(500):
        if len(list(descriptors.iterdir())) <= before + _POOLED:
            break
        hub.get(path="/healthz")
    assert len(list(descriptors.iterdir())) <= before + _POOLED


def test_junk_behind_a_request_is_refused_at_once(hub: RunningHub) -> None:
    with hub.connect() as sock:
        sock.settimeout(5)
        sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\nnonsense\r\n\r\n")
        received = b""
        while content := sock.recv(65536):
            received += content
    assert received.count(b"HTTP/1.1 ") == 2
    assert b"HTTP/1.1 200 OK" in received
    assert b"HTTP/1.1 400 Bad Request" in received


def test_the_host_of_an_absolute_target_counts(hub: RunningHub) -> None:
    target = f"HTTP://example.com{HUB_PATH}?match=a"
    request = f"GET {target} HTTP/1.1\r\nHost: other\r\nAuthorization: Bearer %s\r\n\r\n"
    good = hub.token(aud=f"http://example.com{HUB_PATH}")
    bad = hub.token(aud=f"http://other{HUB_PATH}")
    assert hub.raw((request % good).encode()).startswith(b"HTTP/1.1 200")
    assert hub.raw((request % bad).encode()).startswith(b"HTTP/1.1 401")
