"""Histories for clients that take their time: none is cut for it, and none keeps another one waiting."""

from __future__ import annotations

import logging
import socket
import ssl
import time
from collections import Counter
from collections.abc import Collection
from pathlib import Path

import pytest

from mercure_hub.broker.replay import ReplayLimits
from mercure_hub.server.assembly import Limits
from mercure_hub.storage.interface import Page
from mercure_hub.storage.sqlite.reading import Reader
from tests.certificates import self_signed
from tests.chosen_engine import discard_all
from tests.hub.running import HUB_PATH, TIMEOUT, RunningHub, Stream, read_reply, running_hub
from tests.hub.test_compression import BROWSER
from tests.hub.websocket import client, messages
from tests.metrics.test_tally import of, samples
from tests.storage.log import beside

pytestmark = pytest.mark.minutes

MANY = 12
LARGE = "0123456789abcdef" * 50_000


def fill(hub: RunningHub) -> list[str]:
    """More history than the kernel holds for a connection."""
    expected = [f"{number}{LARGE}" for number in range(MANY)]
    for data in expected:
        hub.send("t", data)
    return expected


def subscribe(hub: RunningHub, **headers: str) -> Stream:
    """A client with a small buffer, which has read no more than the head."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 14)
    sock.settimeout(TIMEOUT)
    sock.connect(("127.0.0.1", hub.port))
    if hub.scheme == "https":
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        sock = context.wrap_socket(sock)
    fields = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    target = f"{HUB_PATH}?match=t&last_event_id=earliest"
    sock.sendall(f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1:{hub.port}\r\n{fields}\r\n".encode())
    _, rest, reply = read_reply(sock, only_head=True)
    assert reply.status == 200
    stream = Stream(sock, rest, reply)
    hub._open.append(stream)
    return stream


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[int]:
    """How often each part of the history was read, by where it begins."""
    counts: Counter[int] = Counter()
    page = Reader.page

    def noted(reader: Reader, after: int, upto: int, topics: Collection[str] | None, limit: int) -> Page:
        counts[after] += 1
        return page(reader, after, upto, topics, limit)

    monkeypatch.setattr(Reader, "page", noted)
    return counts


LITTLE_MEMORY = Limits(replay=ReplayLimits(memory=1 << 20))
"""Memory for the history of one client at a time."""


@pytest.mark.sqlite("looks into its reader")
def test_stalled_clients_keep_no_other_from_the_history(folder: Path, reads: Counter[int]) -> None:
    with running_hub(
        folder, limits=LITTLE_MEMORY, anonymous=1, dispatch_timeout=0, compression="zstd"
    ) as hub:
        expected = fill(hub)
        still = [subscribe(hub) for _ in range(3)] + [subscribe(hub, Accept_Encoding=BROWSER)]
        with client(hub, {"match": "t", "last_event_id": "earliest"}) as socket_still:
            other = hub.subscribe({"match": "t", "last_event_id": "earliest"})
            assert other.take(MANY) == expected
            hub.send("t", "live")
            assert other.take(1) == ["live"]
            for stream in still:  # each goes on where it stood, to the byte
                assert stream.take(MANY + 1) == [*expected, "live"]
            assert [one["data"] for one in messages(socket_still, MANY + 1)] == [*expected, "live"]
    assert max(reads.values()) > 6  # some were read again, for their memory had been taken away


def test_a_history_that_changes_while_a_client_stalls_ends_its_stream(folder: Path) -> None:
    """Of what was read again the beginning has been sent, so it has to be the same."""
    with running_hub(folder, limits=LITTLE_MEMORY, anonymous=1, dispatch_timeout=0) as hub:
        expected = fill(hub)
        stream = subscribe(hub)
        other = hub.subscribe({"match": "t", "last_event_id": "earliest"})
        assert other.take(MANY) == expected  # with the memory of the first one
        discard_all(folder)
        got = []
        with pytest.raises(EOFError):
            while True:
                got.append(stream.next().data)
        assert got == expected[: len(got)]


@pytest.mark.sqlite("changes its file")
def test_a_history_that_changes_ends_a_stream_under_tls_too(folder: Path) -> None:
    """A part of a write that TLS refuses may have been sent all the same."""
    with running_hub(
        folder, limits=LITTLE_MEMORY, anonymous=1, dispatch_timeout=0, tls_cert=self_signed(folder)
    ) as hub:
        expected = fill(hub)
        stream = subscribe(hub)
        other = hub.subscribe({"match": "t", "last_event_id": "earliest"})
        assert other.take(MANY) == expected  # with the memory of the first one
        with beside(folder / "hub.db") as database:
            database.execute("DELETE FROM mercure_update WHERE sequence = 1")
        got: list[str] = []
        with pytest.raises(EOFError):
            while len(got) < MANY:
                got.append(stream.next().data)
        assert got == expected[: len(got)]


@pytest.mark.parametrize("is_tls", [False, True])
def test_a_slow_reader_is_not_cut(folder: Path, is_tls: bool) -> None:
    """The kernel calls its socket writable when a third of the buffer is free, which takes it too long."""
    certificate = self_signed(folder) if is_tls else ""
    with running_hub(folder, anonymous=1, dispatch_timeout=1.5, tls_cert=certificate) as hub:
        expected = fill(hub)
        stream = subscribe(hub)
        slowly = b""
        for _ in range(50):  # for longer than one may take nothing
            slowly += stream.sock.recv(1 << 14)
            time.sleep(0.15)
        stream._take(slowly)
        assert stream.take(MANY) == expected


def test_a_client_that_takes_nothing_is_cut_logged_and_counted(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "mercure_hub.subscriber")
    with running_hub(folder, anonymous=1, dispatch_timeout=0.5, metrics=1) as hub:
        fill(hub)
        stream = subscribe(hub)
        figure = "mercure_subscribers_ended_total"
        deadline = time.monotonic() + TIMEOUT
        while True:
            assert time.monotonic() < deadline
            values = samples(hub.get(path="/metrics").text)
            if values[of(figure, reason="slow")]:
                break
        assert values[of("mercure_subscribers_total", transport="sse")] == 1
        assert stream.ended()
    assert [message for message in caplog.messages if "took nothing for 0.5 s" in message]


def test_replays_end_with_the_hub(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "mercure_hub.subscriber")
    with running_hub(folder, anonymous=1, dispatch_timeout=0) as hub:
        fill(hub)
        subscribe(hub)
    assert [message for message in caplog.messages if message.endswith(": the hub stops")]
