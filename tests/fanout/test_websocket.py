"""The engine with WebSockets among its subscribers."""

from __future__ import annotations

import json
import select
from typing import Any

import pytest

from mercure_hub.fanout.framing import CHUNKED, WEBSOCKET
from mercure_hub.protocol.websocket import BUDGET, WebSocket
from tests.fanout.bench import HUB_STOPS, Bench, Reader, exact
from tests.hub.websocket import CLOSE, PING, PONG, TEXT, frame

LARGE = "x" * 300_000


def connect(bench: Bench, *, ends_with_token: bool = False, **options: Any) -> Reader:
    reader = bench.connect(exact("a"), form=WEBSOCKET, start=False, **options)
    reader.subscriber.websocket = WebSocket(ends_with_token=ends_with_token)
    bench.engine.start(reader.subscriber)
    return reader


def frames(reader: Reader) -> list[tuple[int, bytes]]:
    """Every frame up to now that is complete."""
    reader.read()
    octets, found = bytes(reader.received), []
    while octets:
        start = {126: 4, 127: 10}.get(octets[1], 2)
        length = octets[1] if start == 2 else int.from_bytes(octets[2:start], "big")
        if len(octets) < start + length:
            break
        found.append((octets[0] & 0x0F, octets[start : start + length]))
        octets = octets[start + length :]
    return found


def data(reader: Reader) -> list[str]:
    return [json.loads(content)["data"] for opcode, content in frames(reader) if opcode == TEXT]


def test_all_of_an_update_get_the_same_octets_once(bench: Bench) -> None:
    sockets = [connect(bench) for _ in range(3)]
    streams = [bench.connect(exact("a"), form=form) for form in (0, CHUNKED)]
    entries = [bench.update("a", data=str(n)) for n in range(5)]
    bench.dispatch(*entries)
    assert [data(one) for one in sockets] == [["0", "1", "2", "3", "4"]] * 3
    assert len({bytes(one.received) for one in sockets}) == 1
    assert [event.data for event in streams[0].events()] == ["0", "1", "2", "3", "4"]


def test_what_was_held_comes_in_order(bench: Bench) -> None:
    reader = bench.connect(exact("a"), form=WEBSOCKET, start=False)
    reader.subscriber.websocket = WebSocket(ends_with_token=False)
    bench.engine.hold(reader.subscriber)
    bench.publish("a", data="held")
    bench.engine.start(reader.subscriber)
    bench.publish("a", data="live")
    assert data(reader) == ["held", "live"]


def test_a_full_socket_gets_its_frames_whole_and_pongs_between_them(bench: Bench) -> None:
    reader = connect(bench, small=True)
    bench.publish("a", data=LARGE)
    assert reader.subscriber.pending
    reader.sock.send(frame(PING, b"?"))
    bench.engine.poll()
    bench.publish("a", data="next")
    while reader.subscriber.pending:
        reader.read()
        bench.engine.poll()
    assert [opcode for opcode, _ in frames(reader)] == [TEXT, PONG, TEXT]
    assert data(reader) == [LARGE, "next"]


def test_a_stalled_one_is_dropped(bench: Bench) -> None:
    connect(bench, small=True)
    bench.publish("a", data=LARGE)
    bench.tick(5)
    assert bench.reasons() == ["took nothing for 5 s"]


def test_pings_at_the_heartbeat_and_what_may_be_sent_until_the_next(bench: Bench) -> None:
    reader = connect(bench)
    for _ in range(3):
        bench.tick(40)
        reader.sock.send(frame(PONG) * (BUDGET // 6))
        bench.engine.poll()
    assert frames(reader) == [(PING, b"")] * 3
    reader.sock.send(frame(PONG) * 2)
    bench.engine.poll()
    assert bench.reasons() == [f"sent what it must not: more than {BUDGET} bytes within a heartbeat"]
    assert frames(reader)[-1][1][:2] == (1008).to_bytes(2, "big")


def test_the_code_at_the_end_tells_whether_a_new_token_is_needed(bench: Bench) -> None:
    readers = [connect(bench, ends_at=bench.now + 30, ends_with_token=it_is) for it_is in (True, False)]
    bench.tick(30)
    codes = [int.from_bytes(content[:2], "big") for one in readers for _, content in frames(one)]
    assert codes == [1008, 1001]
    assert bench.reasons() == ["its time is over"] * 2


def test_a_close_is_answered_and_the_descriptor_waits_for_the_end(bench: Bench) -> None:
    reader = connect(bench)
    reader.sock.send(frame(CLOSE, b"\x03\xe8") + b"more")
    bench.engine.poll()
    assert frames(reader) == [(CLOSE, b"\x03\xe8closed by the client")]
    assert reader.at_end
    assert bench.reasons() == ["closed by the client"]
    bench.publish("a")
    reader.close()
    bench.engine.poll()  # closes it: the fixture counts the descriptors


def is_let_go(reader: Reader) -> bool:
    """Whether the hub has closed its socket, and not only its sending half."""
    waits = select.poll()
    waits.register(reader.sock, 0)
    return any(events & select.POLLHUP for _, events in waits.poll(0))


@pytest.mark.parametrize("more", [b"", b"x" * 100], ids=["silent", "goes on to send"])
def test_who_never_answers_the_close_frame_is_let_go_after_two_seconds(bench: Bench, more: bytes) -> None:
    reader = connect(bench)
    bench.engine.end(reader.subscriber, HUB_STOPS)
    assert frames(reader) == [(CLOSE, b"\x03\xe9the hub stops")]
    assert reader.at_end
    for seconds in (0.0, 1.0, 0.9):
        bench.tick(seconds)
        reader.sock.send(more)
        bench.engine.poll()
        assert not is_let_go(reader)
    bench.tick(0.1)
    assert is_let_go(reader)


def test_who_sends_a_lot_in_place_of_an_answer_to_the_close_frame_is_let_go_at_once(bench: Bench) -> None:
    reader = connect(bench)
    bench.engine.end(reader.subscriber, HUB_STOPS)
    for _ in range(16):
        reader.sock.send(b"x" * 4096)
    bench.engine.poll()
    assert is_let_go(reader)


def test_a_client_that_leaves_without_a_word(bench: Bench) -> None:
    reader = connect(bench)
    reader.reset()
    bench.engine.poll()
    assert bench.reasons() == ["closed by the client"]
