"""Streams that share a connection: windows, order, stalling, and one write for all of them."""

from __future__ import annotations

import gc
import socket
import weakref
from collections.abc import Iterator

import pytest

from mercure_hub.fanout import multiplexed
from mercure_hub.fanout.encoding import HEARTBEATS, Form
from mercure_hub.fanout.engine import EngineLimits
from mercure_hub.fanout.multiplexed import Reader, Stream
from mercure_hub.fanout.subscriber import State, Subscriber
from mercure_hub.protocol import http2
from mercure_hub.protocol.http2 import MAX_WINDOW, WINDOW, Code
from tests.fanout.bench import HUB_STOPS, Bench, encoded, exact, subscriber

TIMEOUT = 5.0
WIDE = 1 << 24


class Notes(Reader):
    """What the receiving half was told."""

    def __init__(self) -> None:
        self.ended_streams: list[int] = []
        self.is_lost = False
        self.postponed = 0

    def postpone(self) -> None:
        self.postponed += 1

    def receive(self) -> None:
        pass

    def ended(self, stream: Stream) -> None:
        self.ended_streams.append(int(stream))

    def lost(self) -> None:
        self.is_lost = True


class Client:
    """The other end of a connection with many streams."""

    def __init__(self, bench: Bench, *, small: bool = False) -> None:
        self._bench = bench
        ours, self.sock = socket.socketpair()
        bench.adopt(self.sock)
        for sock in (ours, self.sock):
            sock.setblocking(False)
            if small:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        self.notes = Notes()
        self.connection = bench.engine.connect(ours.detach(), None, self.notes)
        self.received = bytearray()

    def subscribe(self, number: int, *topics: str, form: Form = Form.STREAM) -> Subscriber:
        one = subscriber(*map(exact, topics), form=form)
        one.stream = self.connection.open(number)
        self._bench.engine.start(one)
        return one

    def read(self) -> int:
        """Take what has arrived; the number of reads that it took."""
        reads = 0
        while True:
            try:
                received = self.sock.recv(1 << 16)
            except BlockingIOError:
                return reads
            if not received:
                return reads
            self.received += received
            reads += 1
            self._bench.poll()

    def frames(self) -> list[tuple[int, int, int, bytes]]:
        """Kind, flags, stream and content of each frame up to now."""
        self.read()
        found, at = [], 0
        while at < len(self.received):
            size = int.from_bytes(self.received[at : at + 3], "big")
            kind, flags = self.received[at + 3 : at + 5]
            number = int.from_bytes(self.received[at + 5 : at + 9], "big")
            found.append((kind, flags, number, bytes(self.received[at + 9 : at + 9 + size])))
            at += 9 + size
        return found

    def data(self, number: int) -> bytes:
        """The content of a stream up to now."""
        return b"".join(
            [content for kind, _, of, content in self.frames() if kind == http2.DATA and of == number]
        )


@pytest.fixture
def bench(no_descriptor_left: None) -> Iterator[Bench]:
    bench = Bench(EngineLimits(heartbeat=0, dispatch_timeout=TIMEOUT, buffer=1 << 20))
    yield bench
    bench.close()


def test_all_streams_of_a_connection_get_an_update_in_one_write(bench: Bench) -> None:
    client, other = Client(bench), Client(bench)
    ones = [client.subscribe(number, "a") for number in range(1, 201, 2)]
    other.subscribe(1, "a")
    plain = bench.connect(exact("a"))
    entry = bench.publish("a", data="x")
    assert client.read() == 1
    assert {client.data(number) for number in range(1, 201, 2)} == {entry.update.encode()}
    assert other.data(1) == entry.update.encode()
    assert plain.ids() == ["1"]
    assert {one.state for one in ones} == {State.READY_STREAM}
    assert len(bench.engine) == 102
    assert client.connection.window == WINDOW - 100 * len(entry.update.encode())


def test_different_updates_keep_their_order(bench: Bench) -> None:
    client = Client(bench)
    client.subscribe(1, "a", "b")
    client.subscribe(3, "b")
    entries = [bench.update(topic, data=topic) for topic in "abab"]
    bench.dispatch(*entries)
    assert client.data(1) == encoded(entries)
    assert client.data(3) == encoded(entries[1::2])


def test_a_stream_that_still_reads_history_delays_no_other(bench: Bench) -> None:
    client = Client(bench)
    reads_history = subscriber(exact("a"), form=Form.STREAM)
    bench.engine.hold(reads_history)
    client.subscribe(1, "a", "b")
    first = bench.publish("a", data="x")
    assert client.data(1) == first.update.encode()
    bench.dispatch(second := bench.update("a"), third := bench.update("b"))
    assert client.data(1) == encoded([first, second, third])
    bench.engine.release(reads_history)


def test_a_closed_window_delays_its_own_stream_only(bench: Bench) -> None:
    client = Client(bench)
    narrow, wide = client.subscribe(1, "a"), client.subscribe(3, "a")
    client.connection.widen(WIDE)
    assert wide.stream is not None
    assert narrow.stream is not None
    client.connection.widen_stream(wide.stream, WIDE)
    sent = b"".join([bench.publish("a", data="x" * 20_000).update.encode() for _ in range(6)])
    assert client.data(3) == sent
    assert client.data(1) == sent[:WINDOW]
    assert narrow.queued == len(sent) - WINDOW
    for size in (1, 1, 10):
        client.connection.widen_stream(narrow.stream, size)
        bench.engine.flush(client.connection)
    assert client.data(1) == sent[: WINDOW + 12]
    client.connection.widen_stream(narrow.stream, WIDE)
    bench.engine.flush(client.connection)
    assert client.data(1) == sent
    assert narrow.state is State.READY_STREAM
    assert max(len(content) for *_, content in client.frames()) == http2.FRAME_SIZE


def test_a_window_that_shrinks_while_something_waits(bench: Bench) -> None:
    client = Client(bench)
    client.subscribe(1, "a")
    client.connection.widen(-WINDOW)  # so that the stream waits for the connection
    entry = bench.publish("a", data="x")
    client.connection.set_initial_window(0)
    client.connection.widen(WINDOW)
    bench.engine.flush(client.connection)
    assert client.data(1) == b""
    client.connection.set_initial_window(WINDOW)
    bench.engine.flush(client.connection)
    assert client.data(1) == entry.update.encode()


def test_a_client_that_opens_all_windows_at_once_does_not_keep_others_waiting(bench: Bench) -> None:
    client = Client(bench)
    ours = socket.socket(fileno=client.connection.fd)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8 << 20)
    ours.detach()
    ones = [client.subscribe(number, "a") for number in range(1, 41, 2)]
    sent = b"".join([bench.publish("a", data="x" * 50_000).update.encode() for _ in range(3)])
    client.read()
    client.connection.widen(WIDE)
    client.connection.set_initial_window(WIDE)
    bench.engine.flush(client.connection)
    assert client.notes.postponed == 1
    assert client.connection.is_unfinished
    while client.notes.postponed:
        client.notes.postponed -= 1
        client.read()
        bench.engine.flush(client.connection)
    assert [client.data(number) for number in range(1, 41, 2)] == [sent] * len(ones)


def test_a_stream_without_a_window_ends_after_the_timeout(bench: Bench) -> None:
    client = Client(bench)
    client.connection.widen(WIDE)
    client.subscribe(1, "a")
    client.subscribe(3, "b")
    bench.publish("a", data="x" * 70_000)
    bench.tick(TIMEOUT - 1)
    assert bench.reasons() == []
    bench.tick(1)
    assert bench.reasons() == ["took nothing for 5 s"]
    assert client.frames()[-1] == (http2.RST_STREAM, 0, 1, Code.CANCEL.to_bytes(4, "big"))
    assert bench.publish("b").update.encode() == client.data(3)
    assert not client.notes.is_lost


def test_a_stream_that_is_too_far_behind_ends(bench: Bench) -> None:
    client = Client(bench)
    client.subscribe(1, "a")
    for _ in range(5):
        bench.publish("a", data="x" * 300_000)
    assert bench.reasons() == [f"fell behind by more than {1 << 20} bytes"]


@pytest.mark.parametrize("blocker", ["window", "socket"])
def test_a_connection_that_takes_nothing_ends(bench: Bench, blocker: str) -> None:
    client = Client(bench, small=True)
    first, second = client.subscribe(1, "a"), client.subscribe(3, "b")
    for one in (first, second):
        assert one.stream is not None
        client.connection.widen_stream(one.stream, WIDE)
    if blocker == "socket":
        client.connection.widen(WIDE)
    for _ in range(3):
        bench.publish("a", data="x" * 70_000)
        if blocker == "window":
            client.read()
    assert client.connection.is_stuck
    bench.tick(1)
    bench.tick(TIMEOUT)
    assert bench.reasons() == ["took nothing for 5 s"] * 2
    assert client.notes.is_lost
    assert len(bench.engine) == 0


def test_what_a_full_socket_takes_later_continues_in_order(bench: Bench) -> None:
    client = Client(bench, small=True)
    client.connection.set_initial_window(WIDE)
    client.connection.widen(WIDE)
    for number in (1, 3, 5):
        client.subscribe(number, "a")
    sent = b"".join([bench.publish("a", data=f"{n}" * 9_000).update.encode() for n in range(20)])
    assert client.connection.is_full
    assert [client.data(number) for number in (1, 3, 5)] == [sent] * 3
    assert not client.connection.is_unfinished


def test_the_end_of_one_stream_is_not_that_of_others(bench: Bench) -> None:
    client = Client(bench)
    first, second = client.subscribe(1, "a"), client.subscribe(3, "a")
    bench.engine.end(first, HUB_STOPS)
    assert client.frames() == [(http2.DATA, http2.END_STREAM, 1, b"")]
    assert client.notes.ended_streams == [1]
    assert list(bench.engine) == [second]
    bench.publish("a")
    assert client.data(3)


def test_heartbeats_of_a_connection_are_one_write(no_descriptor_left: None) -> None:
    bench = Bench(EngineLimits(heartbeat=40))
    try:
        client = Client(bench)
        client.connection.set_initial_window(MAX_WINDOW)
        for number in range(1, 41, 2):
            bench.tick(1)  # so each of them comes at another time
            client.subscribe(number, "a", form=Form.STREAM_ZSTD if number % 4 == 1 else Form.STREAM)
        for _ in range(20):
            bench.tick(1)
        assert client.read() == 1
        assert client.data(1) == HEARTBEATS[Form.STREAM_ZSTD]
        assert client.data(3) == HEARTBEATS[Form.STREAM]
        assert len(client.frames()) == 20
    finally:
        bench.close()


def test_a_connection_of_any_moment_has_one_heartbeat_each_time(no_descriptor_left: None) -> None:
    bench = Bench(EngineLimits(heartbeat=40))
    try:
        bench.tick(0.9)
        client = Client(bench)
        client.subscribe(1, "a")
        bench.tick(0.2)
        client.subscribe(3, "a")
        for _ in range(100):  # each of the ticks early in its second, the connection late in its own
            bench.tick(1)
        assert client.data(1) == client.data(3) == HEARTBEATS[Form.STREAM] * 2
    finally:
        bench.close()


def test_a_connection_that_is_gone_is_forgotten_also_without_a_timeout(no_descriptor_left: None) -> None:
    bench = Bench(EngineLimits(heartbeat=0, dispatch_timeout=0))
    try:
        client = Client(bench)
        for number in (1, 3):
            client.subscribe(number, "a")
        bench.publish("a", data="x" * 70_000)
        connection = weakref.ref(client.connection)
        client.sock.close()
        bench.poll()
        bench.engine.disconnect(client.connection, HUB_STOPS)
        del client
        bench.tick(1)
        gc.collect()
        assert connection() is None
    finally:
        bench.close()


def test_a_client_that_only_asks_is_not_answered_for_ever(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(multiplexed, "_MAX_CONTROL", 100_000)
    client = Client(bench, small=True)
    for _ in range(300):
        client.connection.write(http2.frame(http2.PING, http2.ACK, 0, bytes(1000)))
        bench.engine.flush(client.connection)
    assert client.notes.is_lost
