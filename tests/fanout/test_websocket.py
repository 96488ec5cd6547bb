"""The engine with WebSockets among its subscribers."""

from __future__ import annotations

import json
import select
from typing import Any

import pytest

from mercure_hub.fanout.encoding import Form
from mercure_hub.protocol.websocket import BUDGET, WebSocket
from tests.fanout.bench import HUB_STOPS, Bench, Reader, exact
from tests.hub.websocket import CLOSE, PING, PONG, TEXT, frame

LARGE = "x" * 300_000


def connect(bench: Bench, *, ends_with_token: bool = False, **options: Any) -> Reader:
    reader = bench.connect(exact("a"), form=Form.WEBSOCKET, start=False, **options)
    reader.subscriber.websocket = WebSocket(ends_with_token=ends_with_token)
    bench.start(reader)
    return reader


def frames(reader: Reader) -> list[tuple[int, bytes]]:
    """Every frame up to now that is complete."""
    reader.read()
    rest, found = bytes(reader.received), []
    while rest:
        start = {126: 4, 127: 10}.get(rest[1], 2)
        length = rest[1] if start == 2 else int.from_bytes(rest[2:start], "big")
        if len(rest) < start + length:
            break
        found.append((rest[0] & 0x0F, rest[start : start + length]))
        rest = rest[start + length :]
    return found


def data(reader: Reader) -> list[str]:
    return [json.loads(content)["data"] for opcode, content in frames(reader) if opcode == TEXT]


def test_an_update_reaches_all_websockets_as_the_same_bytes(bench: Bench) -> None:
    sockets = [connect(bench) for _ in range(3)]
    streams = [bench.connect(exact("a"), form=form) for form in (Form.PLAIN, Form.CHUNKED)]
    entries = [bench.update("a", data=str(n)) for n in range(5)]
    bench.dispatch(*entries)
    assert [data(one) for one in sockets] == [["0", "1", "2", "3", "4"]] * 3
    assert len({bytes(one.received) for one in sockets}) == 1
    assert [event.data for event in streams[0].events()] == ["0", "1", "2", "3", "4"]


def test_updates_held_for_a_websocket_come_in_order(bench: Bench) -> None:
    reader = bench.connect(exact("a"), form=Form.WEBSOCKET, start=False)
    reader.subscriber.websocket = WebSocket(ends_with_token=False)
    bench.engine.hold(reader.subscriber)
    bench.publish("a", data="held")
    bench.start(reader)
    bench.publish("a", data="live")
    assert data(reader) == ["held", "live"]


def test_a_full_websocket_gets_whole_frames_with_pongs_between_them(bench: Bench) -> None:
    reader = connect(bench, small=True)
    bench.publish("a", data=LARGE)
    assert reader.subscriber.queue
    reader.sock.send(frame(PING, b"?"))
    bench.poll()
    bench.publish("a", data="next")
    while reader.subscriber.queue:
        reader.read()
        bench.poll()
    assert [opcode for opcode, _ in frames(reader)] == [TEXT, PONG, TEXT]
    assert data(reader) == [LARGE, "next"]


def test_a_stalled_websocket_is_dropped(bench: Bench) -> None:
    connect(bench, small=True)
    bench.publish("a", data=LARGE)
    bench.tick(5)
    assert bench.reasons() == ["took nothing for 5 s"]


def test_a_client_may_send_a_budget_of_bytes_between_two_pings(bench: Bench) -> None:
    reader = connect(bench)
    for _ in range(3):
        bench.tick(40)
        reader.sock.send(frame(PONG) * (BUDGET // 6))
        bench.poll()
    assert frames(reader) == [(PING, b"")] * 3
    reader.sock.send(frame(PONG) * 2)
    bench.poll()
    assert bench.reasons() == [f"sent what it must not: more than {BUDGET} bytes within a heartbeat"]
    assert frames(reader)[-1][1][:2] == (1008).to_bytes(2, "big")


def test_the_close_code_tells_whether_a_new_token_is_needed(bench: Bench) -> None:
    readers = [connect(bench, ends_at=bench.now + 30, ends_with_token=it_is) for it_is in (True, False)]
    bench.tick(30)
    codes = [int.from_bytes(content[:2], "big") for one in readers for _, content in frames(one)]
    assert codes == [1008, 1001]
    assert bench.reasons() == ["its time is over"] * 2


def test_a_close_frame_is_answered_and_the_descriptor_waits_for_the_end(bench: Bench) -> None:
    reader = connect(bench)
    reader.sock.send(frame(CLOSE, b"\x03\xe8") + b"more")
    bench.poll()
    assert frames(reader) == [(CLOSE, b"\x03\xe8closed by the client")]
    assert reader.at_end
    assert bench.reasons() == ["closed by the client"]
    bench.publish("a")
    reader.close()
    bench.poll()  # closes it: the fixture counts the descriptors


def is_let_go(reader: Reader) -> bool:
    """Whether the hub has closed its socket, and not only its sending half."""
    waits = select.poll()
    waits.register(reader.sock, 0)
    return any(events & select.POLLHUP for _, events in waits.poll(0))


@pytest.mark.parametrize("more", [b"", b"x" * 100], ids=["silent", "goes on to send"])
def test_a_client_that_never_answers_the_close_frame_is_let_go_after_two_seconds(
    bench: Bench, more: bytes
) -> None:
    reader = connect(bench)
    bench.engine.end(reader.subscriber, HUB_STOPS)
    assert frames(reader) == [(CLOSE, b"\x03\xe9the hub stops")]
    assert reader.at_end
    for seconds in (0.0, 1.0, 0.9):
        bench.tick(seconds)
        reader.sock.send(more)
        bench.poll()
        assert not is_let_go(reader)
    bench.tick(0.1)
    assert is_let_go(reader)


def test_a_client_that_floods_after_the_close_frame_is_let_go_at_once(bench: Bench) -> None:
    reader = connect(bench)
    bench.engine.end(reader.subscriber, HUB_STOPS)
    for _ in range(16):
        reader.sock.send(b"x" * 4096)
    bench.poll()
    assert is_let_go(reader)


def test_a_websocket_client_that_resets_the_connection_is_noticed(bench: Bench) -> None:
    reader = connect(bench)
    reader.reset()
    bench.poll()
    assert bench.reasons() == ["closed by the client"]
