"""From history to live: what comes while a subscriber reads history waits for it."""

from __future__ import annotations

from mercure_hub.fanout.engine import EngineLimits
from mercure_hub.fanout.subscriber import State
from tests.fanout.bench import Bench, Reader, encoded, exact, ids, may_read


def states(*readers: Reader) -> list[State]:
    return [reader.subscriber.state for reader in readers]


def test_updates_held_for_a_subscriber_follow_at_the_start(bench: Bench) -> None:
    reader = bench.connect(exact("a"), exact("b"), start=False)
    bench.publish("a")
    bench.engine.hold(reader.subscriber)
    entries = [bench.publish("a"), *[bench.update("ab"[n % 2]) for n in range(4)]]
    bench.dispatch(*entries[1:])
    assert states(reader) == [State.HELD]
    assert reader.read() == b""
    reader.ours.send(b":history\n")
    bench.start(reader)
    entries.append(bench.publish("a"))
    assert states(reader) == [State.READY]
    reader.read()
    assert bytes(reader.received) == b":history\n" + encoded(entries)


def test_no_private_update_is_held_for_a_subscriber_that_must_not_read_it(bench: Bench) -> None:
    allowed = bench.connect(exact("a"), grant=may_read(exact("a")), start=False)
    other = bench.connect(exact("a"), start=False)
    for reader in (allowed, other):
        bench.engine.hold(reader.subscriber)
    bench.publish("a", private=True)
    for reader in (allowed, other):
        bench.start(reader)
    assert allowed.ids() == ["1"]
    assert other.ids() == []


def test_a_held_subscriber_starts_without_updates(bench: Bench) -> None:
    reader = bench.connect(exact("a"), start=False)
    bench.engine.hold(reader.subscriber)
    bench.start(reader)
    bench.publish("a")
    assert reader.ids() == ["1"]


def test_a_held_subscriber_starts_with_more_than_its_socket_takes(bench: Bench) -> None:
    reader = bench.connect(exact("a"), small=True, start=False)
    bench.engine.hold(reader.subscriber)
    entries = [bench.publish("a", data="x" * 9999) for _ in range(30)]
    bench.start(reader)
    entries.append(bench.publish("a"))
    while reader.read():
        bench.poll()
    assert reader.ids() == ids(entries)


def test_a_held_subscriber_is_not_counted_and_has_no_heartbeat(bench: Bench) -> None:
    reader = bench.connect(exact("a"), start=False)
    bench.engine.hold(reader.subscriber)
    bench.tick(100)
    bench.poll()
    assert len(bench.engine) == 0
    assert list(bench.engine) == []
    assert reader.read() == b""
    bench.start(reader)
    assert len(bench.engine) == 1


def test_a_released_subscriber_gets_nothing_and_nobody_is_told(bench: Bench) -> None:
    reader = bench.connect(exact("a"), start=False)
    bench.engine.hold(reader.subscriber)
    bench.publish("a")
    bench.engine.release(reader.subscriber)
    bench.engine.release(reader.subscriber)
    bench.publish("a")
    assert states(reader) == [State.GONE]
    assert bench.gone == []
    reader.ours.close()
    assert reader.read() == b""


def test_a_held_subscriber_too_far_behind_is_released_and_harms_no_other(no_descriptor_left: None) -> None:
    bench = Bench(EngineLimits(buffer=10_000))
    held, held_too = bench.connect(exact("*"), start=False), bench.connect(exact("a"), start=False)
    live = bench.connect(exact("*"))
    bench.engine.hold(held.subscriber)
    bench.engine.hold(held_too.subscriber)
    entries = [bench.update("abb"[n % 3], data="x" * 1000) for n in range(12)]
    bench.dispatch(*entries)
    assert states(held, held_too) == [State.GONE, State.HELD]
    assert live.ids() == ids(entries)
    bench.start(held_too)
    assert held_too.ids() == ids(entries[::3])
    assert bench.gone == []
    held.ours.close()
    bench.close()


def test_a_client_that_left_while_it_was_held_is_dropped_at_the_start(bench: Bench) -> None:
    reader = bench.connect(exact("a"), start=False)
    bench.engine.hold(reader.subscriber)
    bench.publish("a")
    reader.close()
    bench.start(reader)
    assert bench.reasons() == ["closed by the client"]
    bench.poll()
    assert len(bench.gone) == 1
