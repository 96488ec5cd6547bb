"""Subscribers that are ended while something waits for them: what they read is a beginning of their stream.

A last chunk or a close frame would come in the middle of an event, or tell that nothing is missing.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator

import pytest

from mercure_hub.fanout import output
from mercure_hub.fanout.encoding import Form
from mercure_hub.fanout.endings import Ending, Reason
from mercure_hub.fanout.engine import EngineLimits
from mercure_hub.fanout.subscriber import Subscriber
from mercure_hub.fanout.tls import TlsLayer
from mercure_hub.fanout.writer import write_front
from tests.fanout.bench import HUB_STOPS, Bench, Reader, exact

LARGE = random.Random(1).randbytes(100_000).hex()


@pytest.fixture
def bench(no_descriptor_left: None) -> Iterator[Bench]:
    bench = Bench(EngineLimits(heartbeat=0, compress_from=256))
    yield bench
    bench.close()


def connect(bench: Bench, form: Form, *, small: bool = False) -> Reader:
    return bench.connect(exact("a"), exact("b"), form=form, small=small)


def end(bench: Bench, reader: Reader) -> bytes:
    """End a subscriber, which then reads.

    :returns: all that it ever got.
    """
    bench.engine.end(reader.subscriber, HUB_STOPS)
    reader.read()
    assert reader.at_end
    return bytes(reader.received)


@pytest.mark.parametrize("form", Form)
def test_a_stream_with_an_empty_queue_ends_in_order(bench: Bench, form: Form) -> None:
    reader = connect(bench, form)
    bench.publish("a", data=LARGE[:1000])
    reader.read()
    sent = bytes(reader.received)
    last = b"0\r\n\r\n" if form.is_chunked else b""
    if form.is_websocket:
        last = b"\x88\x0f\x03\xe9the hub stops"
    assert end(bench, reader) == sent + last


@pytest.mark.parametrize("form", Form)
def test_a_stream_ended_with_a_full_socket_is_a_beginning_of_the_stream(bench: Bench, form: Form) -> None:
    other, reader = (connect(bench, form, small=small) for small in (False, True))
    for _ in range(3):
        bench.publish("a", data=LARGE)
        other.read()
        bench.poll()
    assert reader.subscriber.queue
    taken = reader.read()  # makes room, of which the engine does not know yet
    assert 0 < len(taken) < len(other.received)
    assert end(bench, reader) == taken
    assert other.received.startswith(taken)


class Narrow:
    """Writes to one subscriber no more than its socket is said to take."""

    def __init__(self, subscriber: Subscriber, room: int) -> None:
        self._subscriber = subscriber
        self._room = room
        self._write = write_front

    def __call__(self, fd: int, tls: TlsLayer | None, queue: list[bytes | memoryview]) -> int:
        if fd != self._subscriber.fd:
            return self._write(fd, tls, queue)
        if not self._room:
            raise BlockingIOError
        written = os.write(fd, b"".join(queue)[: self._room])
        self._room -= written
        return written


@pytest.mark.parametrize("form", Form)
@pytest.mark.parametrize("cut", [0, 1, 2, 3, 4, 5, 6, 16, 17, 18, 40, -1])
def test_a_stream_ended_within_an_event_gets_no_end(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, form: Form, cut: int
) -> None:
    """``cut`` is the number of bytes of the second frame that the socket took."""
    other, reader = connect(bench, form), connect(bench, form)
    updates = [bench.update(topic, data=topic * 50) for topic in "ab"]
    first, second = (
        b"".join(bench.engine.history([one.update], form, lambda update: update.topics)) for one in updates
    )
    room = len(first) + (cut if cut >= 0 else len(second) - 1)
    with monkeypatch.context() as full:
        full.setattr(output, "write_front", Narrow(reader.subscriber, room))
        bench.dispatch(*updates)
    assert reader.subscriber.queue
    assert end(bench, reader) == (first + second)[:room]
    other.read()
    assert other.received == first + second


@pytest.mark.parametrize("reason", [Reason.TOKEN_EXPIRED, Reason.KEY_IS_GONE])
def test_a_websocket_without_a_valid_token_is_told_to_get_another(bench: Bench, reason: Reason) -> None:
    reader = connect(bench, Form.WEBSOCKET)
    bench.engine.end(reader.subscriber, Ending(reason))
    reader.read()
    assert bytes(reader.received) == bytes([0x88, 2 + len(reason.text)]) + b"\x03\xf0" + reason.text.encode()
