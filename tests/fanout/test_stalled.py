"""Readers that are slow, and readers that stopped: order and bytes are kept, time and memory bounded."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mercure_hub.fanout import output
from mercure_hub.fanout.engine import EngineLimits
from tests.fanout.bench import Bench, Reader, encoded, exact, ids

LARGE = "0123456789abcdef" * 4096
TIMEOUT = 5.0


@pytest.fixture
def bench(no_descriptor_left: None) -> Iterator[Bench]:
    bench = Bench(EngineLimits(heartbeat=0, dispatch_timeout=TIMEOUT, buffer=1 << 20))
    yield bench
    bench.close()


def read_all(bench: Bench, reader: Reader) -> None:
    """Read and let the engine write, until nothing comes any more."""
    while reader.read():
        bench.poll()


@pytest.mark.minutes
@pytest.mark.parametrize("tcp", [False, True], ids=["socketpair", "tcp"])
@pytest.mark.parametrize("topics", ["aaaa", "abab"], ids=["same receivers", "different receivers"])
def test_a_write_that_was_cut_goes_on_at_the_exact_byte(bench: Bench, tcp: bool, topics: str) -> None:
    reader = bench.connect(exact("a"), exact("b"), small=True, tcp=tcp)
    other = bench.connect(exact("a"), exact("b"))
    entries = [bench.update(topic, data=f"{n}{LARGE}") for n, topic in enumerate(topics)]
    bench.dispatch(*entries[:2])
    for entry in entries[2:]:
        bench.dispatch(entry)
        other.read()
        bench.poll()
    assert 0 < reader.subscriber.queued < len(encoded(entries))
    if tcp:  # the kernel moves bytes on its own time: wait for them
        reader.sock.setblocking(True)
        reader.sock.settimeout(10)
        while len(reader.received) < len(encoded(entries)):
            reader.received += reader.sock.recv(1 << 16)
            bench.poll()
    else:
        read_all(bench, reader)
    assert bytes(reader.received) == encoded(entries)
    assert reader.subscriber.queue is None
    assert reader.subscriber.queued == 0
    assert other.ids() == ids(entries)


def test_small_updates_behind_a_large_one_are_joined_in_order(bench: Bench) -> None:
    reader = bench.connect(exact("a"), small=True)
    entries = [bench.publish("a", data=LARGE)]
    entries += [bench.publish("a", data=str(n)) for n in range(1500)]
    read_all(bench, reader)
    assert bytes(reader.received) == encoded(entries)
    entries.append(bench.publish("a"))
    assert reader.ids() == ids(entries)


def test_a_stalled_subscriber_is_dropped_at_the_timeout_and_not_before(bench: Bench) -> None:
    stalled, other = bench.connect(exact("a"), small=True), bench.connect(exact("a"))
    bench.publish("a", data=LARGE)
    other.read()
    bench.poll()
    bench.tick(TIMEOUT - 0.1)
    bench.publish("a")
    assert bench.gone == []
    bench.tick(0.1)
    assert bench.gone == [(stalled.subscriber, "took nothing for 5 s")]
    bench.publish("a")
    assert other.ids() == ["1", "2", "3"]
    assert len(bench.engine) == 1


def test_the_timeout_counts_from_the_last_byte_that_was_taken(bench: Bench) -> None:
    reader = bench.connect(exact("a"), small=True)
    bench.publish("a", data=LARGE)
    for _ in range(4):
        bench.tick(TIMEOUT - 1)
        assert reader.read()
        bench.poll()
    assert bench.gone == []
    bench.tick(TIMEOUT)
    assert bench.reasons() == ["took nothing for 5 s"]


def test_a_slow_reader_takes_something_before_the_kernel_reports_it(bench: Bench) -> None:
    """The kernel calls a socket writable when a good part of its buffer is free; a write goes earlier."""
    reader = bench.connect(exact("a"), small=True)
    entries = [bench.publish("a", data="x" * 1000) for _ in range(200)]
    pending = reader.subscriber.queued
    assert pending
    reader.read(2000)
    assert reader.subscriber.queued == pending
    bench.tick(TIMEOUT)
    assert bench.gone == []
    assert reader.subscriber.queued < pending
    read_all(bench, reader)
    assert reader.ids() == ids(entries)


def test_a_client_that_acknowledges_is_alive_before_a_write_goes(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = iter([*range(5000, 4900, -1), *[4901] * 100])
    monkeypatch.setattr(output, "unsent", lambda _fd: next(left))
    bench.connect(exact("a"), small=True)
    bench.publish("a", data=LARGE)
    for _ in range(100):
        bench.tick(1)
    assert bench.gone == []
    for _ in range(5):
        bench.tick(1)
    assert bench.reasons() == ["took nothing for 5 s"]


def test_a_subscriber_that_caught_up_is_not_stalled_any_more(bench: Bench) -> None:
    reader = bench.connect(exact("a"), small=True)
    entries = [bench.publish("a", data=LARGE)]
    read_all(bench, reader)
    bench.tick(TIMEOUT * 3)
    assert bench.gone == []
    bench.now += 100
    entries.append(bench.publish("a", data=LARGE))  # stalls anew: the time counts anew
    bench.tick(TIMEOUT - 0.5)
    assert bench.gone == []
    read_all(bench, reader)
    assert reader.ids() == ids(entries)


def test_without_a_timeout_nobody_is_dropped_for_being_slow(no_descriptor_left: None) -> None:
    bench = Bench(EngineLimits(heartbeat=0, dispatch_timeout=0, buffer=1 << 20))
    reader = bench.connect(exact("a"), small=True)
    entry = bench.publish("a", data=LARGE)
    bench.tick(1e6)
    read_all(bench, reader)
    assert reader.ids() == ids([entry])
    bench.close()


def test_a_subscriber_further_behind_than_the_buffer_is_dropped(bench: Bench) -> None:
    stalled, other = bench.connect(exact("a"), small=True), bench.connect(exact("a"))
    published = []
    while not bench.gone:
        published.append(bench.publish("a", data=LARGE))
        other.read()
        bench.poll()
        assert len(published) < 30
    assert bench.gone == [(stalled.subscriber, f"fell behind by more than {1 << 20} bytes")]
    assert 15 <= len(published) <= 19
    assert other.ids() == ids(published)


def test_a_heartbeat_does_not_queue_behind_what_is_pending(no_descriptor_left: None) -> None:
    bench = Bench(EngineLimits(heartbeat=2, dispatch_timeout=0))
    reader = bench.connect(exact("a"), small=True)
    entry = bench.publish("a", data=LARGE)
    for _ in range(10):
        bench.tick(2)
    read_all(bench, reader)
    assert bytes(reader.received) == entry.update.encode()
    bench.tick(2)
    assert reader.read() == b":\n"
    bench.close()


def test_a_stalled_subscriber_whose_client_leaves_is_dropped_once(bench: Bench) -> None:
    reader = bench.connect(exact("a"), small=True)
    bench.publish("a", data=LARGE)
    reader.close()
    bench.poll()
    bench.tick(TIMEOUT)
    assert bench.reasons() == ["closed by the client"]
