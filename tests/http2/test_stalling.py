"""Clients that let others wait: no window, one byte at a time, half a request, or gone in the middle."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import hpack
import pytest

from mercure_hub.server.assembly import Limits
from mercure_hub.server.site import RequestTimes
from tests.http2.client import Connection, EventStream, open_socket
from tests.http2.frames import (
    DEFAULT_WINDOW,
    GREATEST_WINDOW,
    PREFACE,
    Code,
    Flag,
    Kind,
    Setting,
    block,
    continuation,
    data,
    goaway,
    headers,
    ping,
    reset,
    settings,
)
from tests.http2.victim import Victim, victim
from tests.hub.running import HUB_PATH, RunningHub, running_hub

pytestmark = pytest.mark.minutes

HASTY = Limits(requests=RequestTimes(first_byte=0.3, whole=0.6))
"""Time limits that a test can wait for."""
LARGE = "0123456789abcdef" * 4000


@pytest.fixture(scope="module")
def abused(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Victim]:
    """Streams are dropped after a second without progress."""
    with victim(
        tmp_path_factory.mktemp("hub"), MERCURE_SUBSCRIPTIONS="1", MERCURE_DISPATCH_TIMEOUT="1"
    ) as running:
        yield running


class TestWindows:
    def test_streams_without_a_window_hold_nobody_up(self, abused: Victim) -> None:
        """They are dropped, and no other stream of the connection is."""
        with abused.bounded(16 << 20), Connection.to(abused.hub, window_size=0) as connection:
            assert connection.fence()
            stalled = [connection.subscribe({"match": "w"}) for _ in range(100)]
            reader = connection.subscribe({"match": "w"})
            connection.grant(reader.number, GREATEST_WINDOW)
            expected = []
            for number in range(30):
                expected.append(f"{number}{LARGE}")
                abused.hub.send("w", expected[-1])
                assert reader.take(1) == expected[-1:]
            assert not any(stream.answer.content for stream in stalled)
            for stream in stalled:
                assert not stream.ended(), "a stream that lost updates ends with RST_STREAM"
            abused.hub.send("w", "last")
            assert reader.take(1) == ["last"]

    def test_a_stream_that_stalls_for_a_while_gets_everything(self, abused: Victim) -> None:
        with Connection.to(abused.hub, window_size=0) as connection:
            stream = connection.subscribe({"match": "while"})
            for number in range(10):
                abused.hub.send("while", str(number))
            assert connection.fence()
            connection.grant(stream.number, 10_000)
            assert stream.take(10) == [str(number) for number in range(10)]

    @pytest.mark.parametrize("on_stream", [True, False], ids=["stream", "connection"])
    def test_a_byte_at_a_time(self, abused: Victim, on_stream: bool) -> None:
        with abused.bounded(), Connection.to(abused.hub, window_size=0) as connection:
            stream = connection.subscribe({"match": "byte"})
            abused.hub.send("byte", "abcdefghij")
            if on_stream:
                while not stream.answer.content.endswith(b"\n\n"):
                    before = len(stream.answer.content)
                    connection.grant(stream.number, 1)
                    connection.until(lambda: len(stream.answer.content) > before)  # noqa: B023
                    abused.hub.send("byte", "more") if before == 20 else None
                    if before > 150:
                        break
                assert stream.read_until(b"data: abcdefghij\n\n")
            else:
                connection.grant(stream.number, GREATEST_WINDOW)
                assert stream.take(1) == ["abcdefghij"]

    def test_a_window_of_the_connection_is_shared(self, abused: Victim) -> None:
        """65,535 bytes for all streams, and no more until the client says so."""
        with abused.bounded(16 << 20), abused.wild() as wild:
            connection = wild
            targets = [f"{HUB_PATH}?match=shared"] * 10
            numbers = [connection.request("GET", target) for target in targets]
            for number in numbers:
                assert connection.head(number).status == 200
            for _ in range(10):
                abused.hub.send("shared", LARGE)
            assert connection.fence()
            taken = sum(len(one.payload) for one in connection.of(Kind.DATA))
            assert taken <= DEFAULT_WINDOW
            # Nothing more comes, and after the timeout the hub gives up.
            connection.until(
                lambda: connection.is_closed or all(connection.answers[one].is_over for one in numbers)
            )
            assert sum(len(one.payload) for one in connection.of(Kind.DATA)) <= DEFAULT_WINDOW

    def test_a_client_that_reads_nothing_is_dropped(self, abused: Victim) -> None:
        with abused.bounded(16 << 20):
            sock = open_socket(abused.hub)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 14)
            with Connection(sock, checks=True) as connection:
                connection.configure((Setting.INITIAL_WINDOW_SIZE, GREATEST_WINDOW))
                connection.grant(0, GREATEST_WINDOW - DEFAULT_WINDOW)
                streams = [connection.subscribe({"match": "deaf"}) for _ in range(50)]
                for _ in range(100):
                    abused.hub.send("deaf", LARGE)
                    abused.serves()
                api = f"{HUB_PATH}/subscriptions/exact/deaf"
                while abused.hub.get(path=api, token=abused.token).json()["subscriptions"]:
                    pass
                connection.end()
                received = sum(len(stream.answer.content) for stream in streams)
                assert received < 50 * 100 * len(LARGE)

    def test_windows_that_change_while_updates_flow(self, abused: Victim) -> None:
        """Up, down, below zero and up again: every byte comes once, and none too many."""
        with Connection.to(abused.hub, window_size=1000) as connection:
            streams = [connection.subscribe({"match": "change"}) for _ in range(5)]
            expected = []
            for number, size in enumerate([10, 5000, 0, 1, 70_000, 16_384, 3] * 3):
                expected.append(f"{number}{'x' * 3000}")
                abused.hub.send("change", expected[-1])
                connection.configure((Setting.INITIAL_WINDOW_SIZE, size))
                assert connection.fence()
            for stream in streams:
                connection.grant(stream.number, 1_000_000)
                assert stream.take(len(expected)) == expected


def test_a_thousand_streams_on_one_connection(abused: Victim) -> None:
    with Connection.to(abused.hub) as connection:
        connection.until(lambda: connection.settings)
        most = connection.settings[Setting.MAX_CONCURRENT_STREAMS]
        before = abused.memory()
        target = f"{HUB_PATH}?match=thousand"
        numbers = [connection.request("GET", target) for _ in range(most)]
        streams = [EventStream(connection, one, connection.head(one)) for one in numbers]
        grown = (abused.memory() - before) / most
        assert grown < 4096, f"{grown:.0f} bytes for a stream"
        refused = connection.request("GET", target)
        answer = connection.answer(refused)
        assert answer.reset in (Code.REFUSED_STREAM, Code.PROTOCOL_ERROR)
        for number in range(3):
            abused.hub.send("thousand", str(number))
        for stream in streams:
            assert stream.take(3) == ["0", "1", "2"]
        for number in numbers[::2]:
            connection.reset(number)
        assert connection.fence()
        again = connection.subscribe({"match": "thousand"})
        abused.hub.send("thousand", "end")
        assert again.take(1) == streams[1].take(1) == ["end"]


class TestHalfRequests:
    """Each ends in time, with or without a word."""

    @pytest.mark.parametrize(
        "sent",
        [
            PREFACE[:10],
            PREFACE,
            PREFACE + settings(),
            PREFACE + settings() + b"\0\0",
            PREFACE + settings() + headers(1, block([(":method", "GET")]), Flag.NONE),
        ],
        ids=["half a preface", "a preface", "settings", "half a head", "half a block"],
    )
    def test_a_connection_without_a_request_ends(self, folder: Path, sent: bytes) -> None:
        with running_hub(folder, limits=HASTY) as hub, Connection(open_socket(hub), sent) as connection:
            last = connection.end()
            assert last is None or last.code in (Code.NO_ERROR, Code.PROTOCOL_ERROR, Code.ENHANCE_YOUR_CALM)

    @pytest.mark.parametrize("is_steady", [False, True], ids=["stalled", "byte by byte"])
    def test_a_body_that_never_ends_gets_408_and_nobody_else_waits(
        self, folder: Path, is_steady: bool
    ) -> None:
        with (
            running_hub(folder, limits=HASTY, anonymous=1) as hub,
            Connection(open_socket(hub)) as connection,
        ):
            stream = connection.subscribe({"match": "t"})
            fields = [
                ("content-type", "application/x-www-form-urlencoded"),
                ("authorization", f"Bearer {hub.token()}"),
            ]
            number = connection.new_stream()
            head = headers(number, block(connection.fields("POST", HUB_PATH, fields)), Flag.END_HEADERS)
            connection.send(head, data(number, b"topic=t&data="))
            hub.send("t", "at once")
            assert stream.take(1) == ["at once"]
            deadline = time.monotonic() + 10
            while is_steady and number not in connection.answers:
                assert time.monotonic() < deadline
                connection.send(data(number, b"x"))
                assert connection.fence()
            answer = connection.answer(number)
            assert answer.status == 408 or answer.reset is not None
            hub.send("t", "still here")
            assert stream.take(1) == ["still here"]

    def test_a_header_block_byte_by_byte_ends(self, folder: Path) -> None:
        with (
            running_hub(folder, limits=HASTY, anonymous=1) as hub,
            Connection(open_socket(hub)) as connection,
        ):
            connection.send(headers(1, b"", Flag.END_STREAM))
            connection.sock.settimeout(0.02)
            deadline = time.monotonic() + 10
            while not connection.is_closed:
                assert time.monotonic() < deadline
                connection.send(continuation(1, b"\x82"[:1], 0))
                try:
                    connection.read()
                except TimeoutError:
                    continue

    def test_an_idle_connection_ends_with_goaway_and_one_with_a_stream_does_not(self, folder: Path) -> None:
        with (
            running_hub(folder, limits=HASTY, anonymous=1) as hub,
            Connection(open_socket(hub)) as idle,
            Connection(open_socket(hub)) as busy,
        ):
            stream = busy.subscribe({"match": "t"})
            assert idle.get("/livez").status == 200
            last = idle.end()
            assert last is not None
            assert (last.code, int.from_bytes(last.payload[:4])) == (Code.NO_ERROR, 1)
            hub.send("t", "x")
            assert stream.take(1) == ["x"]


def test_bodies_that_take_too_much_memory_end_the_connection_that_holds_them(folder: Path) -> None:
    little = Limits(open_requests=2 << 20)
    with (
        running_hub(folder, limits=little, anonymous=1) as hub,
        Connection.to(hub) as greedy,
        Connection.to(hub) as other,
    ):
        stream = other.subscribe({"match": "t"})
        token = hub.token()
        for _ in range(5):
            greedy.begin_upload({"topic": "t", "data": "x" * 900_000}, token)
            if greedy.is_closed:
                break
        last = greedy.end()
        assert last is not None
        assert last.code == Code.ENHANCE_YOUR_CALM
        assert other.publish({"topic": "t", "data": "x"}, token).status == 200
        assert stream.take(1) == ["x"]


@pytest.mark.parametrize("flags", [Flag.END_HEADERS, Flag.END_HEADERS | Flag.END_STREAM])
def test_fields_that_take_too_much_memory_end_the_connection_that_holds_them(
    folder: Path, flags: Flag
) -> None:
    """A few bytes stand for 60 KiB of fields, in requests that wait for others or are not complete."""
    little, encoder = Limits(open_requests=2 << 20), hpack.Encoder()
    with (
        running_hub(folder, limits=little, anonymous=1) as hub,
        Connection.to(hub, window_size=0) as greedy,
        Connection.to(hub) as other,
    ):
        stream = other.subscribe({"match": "t"})
        for _ in range(200):  # more than are served at once: their answers have no window
            greedy.request("GET", "/nothing")
        assert greedy.fence()
        fields = [*greedy.fields("GET", "/nothing"), *[("cookie", "x" * 3900)] * 15]
        for _ in range(40):
            greedy.send(headers(greedy.new_stream(), encoder.encode(fields), flags))
        last = greedy.end()
        assert last is not None
        assert last.code == Code.ENHANCE_YOUR_CALM
        assert other.publish({"topic": "t", "data": "x"}, hub.token()).status == 200
        assert stream.take(1) == ["x"]


class TestLeaving:
    def test_a_client_that_says_goodbye_keeps_its_streams(self, abused: Victim) -> None:
        """GOAWAY says that it takes no new streams from the server, which opens none."""
        with Connection.to(abused.hub) as connection:
            stream = connection.subscribe({"match": "goodbye"})
            connection.send(goaway())
            assert connection.fence()
            abused.hub.send("goodbye", "still")
            assert stream.take(1) == ["still"]

    def test_streams_that_are_reset_during_a_replay(self, abused: Victim) -> None:
        for number in range(40):
            abused.hub.send("history", f"{number}{LARGE}")
        with abused.bounded(16 << 20), Connection.to(abused.hub, window_size=10_000) as connection:
            target = f"{HUB_PATH}?match=history&last_event_id=earliest"
            numbers = [connection.request("GET", target) for _ in range(50)]
            for number in numbers:
                assert connection.head(number).status == 200
            for number in numbers[:-1]:
                connection.reset(number)
            last = EventStream(connection, numbers[-1], connection.answers[numbers[-1]])
            connection.grant(last.number, GREATEST_WINDOW // 2)
            assert [one[:2] for one in last.take(40)] == [f"{number}{LARGE}"[:2] for number in range(40)]

    def test_streams_that_are_reset_during_a_publication(self, abused: Victim) -> None:
        with abused.bounded(), Connection.to(abused.hub) as connection:
            for number in range(60):
                stream = connection.publication({"topic": "reset", "data": str(number)}, abused.token)
                connection.reset(stream)
            assert connection.fence()
            assert connection.publish({"topic": "reset", "data": "kept"}, abused.token).status == 200
            stored = connection.subscribe({"match": "reset", "last_event_id": "earliest"})
            while stored.next().data != "kept":
                pass

    @pytest.mark.parametrize("is_abrupt", [False, True], ids=["closed", "aborted"])
    def test_connections_that_end_in_the_middle(self, abused: Victim, is_abrupt: bool) -> None:
        stream = headers(1, block(_fields(abused.hub)))
        publication = headers(3, block(_fields(abused.hub, "POST")), Flag.END_HEADERS) + data(3, b"topic=")
        whole = PREFACE + settings() + stream + publication
        cuts = [1, 20, 24, 30, 33, 40, len(PREFACE + settings() + stream), len(whole) - 3, len(whole)]
        with abused.bounded():
            for cut in cuts * 5:
                sock = open_socket(abused.hub)
                sock.sendall(whole[:cut])
                if is_abrupt:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                sock.close()
        token = abused.token
        while (
            abused.hub.get(path=f"{HUB_PATH}/subscriptions/exact/middle", token=token)
            .json()
            .get("subscriptions")
        ):
            pass

    def test_requests_behind_the_end_of_a_connection_are_not_served(self, abused: Victim) -> None:
        """The hub notices the end when it writes, while it still has requests to read."""
        connection = Connection(open_socket(abused.hub))
        first = connection.subscribe({"match": "behind"})
        assert connection.fence()
        abused.hub.child.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, abused.hub.child.pid, os.WSTOPPED | os.WNOWAIT)
        try:
            target = f"{HUB_PATH}?match=behind"
            late = [
                headers(connection.new_stream(), block(connection.fields("GET", target))) for _ in range(3)
            ]
            connection.send(ping(b"answer: "), reset(first.number), *late)
            connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            connection.close()
        finally:
            abused.hub.child.send_signal(signal.SIGCONT)
        api, deadline = f"{HUB_PATH}/subscriptions/exact/behind", time.monotonic() + 10
        while found := abused.hub.get(path=api, token=abused.token).json().get("subscriptions"):
            assert time.monotonic() < deadline, found

    def test_coming_and_going_leaves_no_descriptor_and_no_phantom(self, abused: Victim) -> None:
        api = f"{HUB_PATH}/subscriptions"
        fds = Path(f"/proc/{abused.hub.child.pid}/fd")

        def descriptors() -> int:
            return len(list(fds.iterdir()))

        before = descriptors()

        def visit() -> None:
            for _ in range(10):
                with Connection.to(abused.hub) as connection:
                    for _ in range(10):
                        connection.subscribe({"match": "visit"})

        visitors = [threading.Thread(target=visit) for _ in range(4)]
        for visitor in visitors:
            visitor.start()
        for visitor in visitors:
            visitor.join()
        deadline = time.monotonic() + 10
        while len(abused.hub.get(path=api, token=abused.token).json()["subscriptions"]) > 1:
            assert time.monotonic() < deadline
        deadline = time.monotonic() + 10
        while descriptors() > before + 1:
            assert time.monotonic() < deadline


def _fields(hub: RunningHub, method: str = "GET") -> list[tuple[str, str]]:
    return [
        (":method", method),
        (":scheme", "http"),
        (":path", HUB_PATH if method == "POST" else f"{HUB_PATH}?match=middle"),
        (":authority", f"127.0.0.1:{hub.port}"),
    ]
