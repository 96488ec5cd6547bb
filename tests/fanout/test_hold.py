"""From history to live: what comes while a subscriber reads history waits for it."""

from __future__ import annotations

import os

from mercure_hub.fanout.engine import EngineLimits
from tests.fanout.bench import Bench, encoded, exact, ids, may_read


def test_what_came_while_it_was_held_follows_at_the_start(bench: Bench) -> None:
    reader = bench.connect(exact("a"), exact("b"), start=False)
    bench.publish("a")
    bench.engine.hold(reader.subscriber)
    entries = [bench.publish("a"), *[bench.update("ab"[n % 2]) for n in range(4)]]
    bench.dispatch(*entries[1:])
    assert bench.engine.is_held(reader.subscriber)
    assert reader.read() == b""
    os.write(reader.subscriber.fd, b":history\n")
    bench.engine.start(reader.subscriber)
    entries.append(bench.publish("a"))
    assert not bench.engine.is_held(reader.subscriber)
    reader.read()
    assert bytes(reader.received) == b":history\n" + encoded(entries)


def test_a_held_one_gets_no_private_update_that_is_not_for_it(bench: Bench) -> None:
    allowed = bench.connect(exact("a"), grant=may_read(exact("a")), start=False)
    other = bench.connect(exact("a"), start=False)
    for reader in (allowed, other):
        bench.engine.hold(reader.subscriber)
    bench.publish("a", private=True)
    for reader in (allowed, other):
        bench.engine.start(reader.subscriber)
    assert allowed.ids() == ["1"]
    assert other.ids() == []


def test_nothing_came_while_it_was_held(bench: Bench) -> None:
    reader = bench.connect(exact("a"), start=False)
    bench.engine.hold(reader.subscriber)
    bench.engine.start(reader.subscriber)
    bench.publish("a")
    assert reader.ids() == ["1"]


def test_more_than_the_socket_takes_at_the_start(bench: Bench) -> None:
    reader = bench.connect(exact("a"), small=True, start=False)
    bench.engine.hold(reader.subscriber)
    entries = [bench.publish("a", data="x" * 9999) for _ in range(30)]
    bench.engine.start(reader.subscriber)
    entries.append(bench.publish("a"))
    while reader.read():
        bench.engine.poll()
    assert reader.ids() == ids(entries)


def test_a_held_one_is_not_counted_and_has_no_heartbeat(bench: Bench) -> None:
    reader = bench.connect(exact("a"), start=False)
    bench.engine.hold(reader.subscriber)
    bench.tick(100)
    bench.engine.poll()
    assert len(bench.engine) == 0
    assert list(bench.engine) == []
    assert reader.read() == b""
    bench.engine.start(reader.subscriber)
    assert len(bench.engine) == 1


def test_released_before_the_start_it_gets_nothing_and_nobody_is_told(bench: Bench) -> None:
    reader = bench.connect(exact("a"), start=False)
    bench.engine.hold(reader.subscriber)
    bench.publish("a")
    bench.engine.release(reader.subscriber)
    bench.engine.release(reader.subscriber)
    bench.publish("a")
    assert not bench.engine.is_held(reader.subscriber)
    assert bench.gone == []
    os.close(reader.subscriber.fd)
    assert reader.read() == b""


def test_too_much_to_hold_releases_it_and_harms_no_other(no_descriptor_left: None) -> None:
    bench = Bench(EngineLimits(buffer=10_000))
    held, held_too = bench.connect(exact("*"), start=False), bench.connect(exact("a"), start=False)
    live = bench.connect(exact("*"))
    bench.engine.hold(held.subscriber)
    bench.engine.hold(held_too.subscriber)
    entries = [bench.update("abb"[n % 3], data="x" * 1000) for n in range(12)]
    bench.dispatch(*entries)
    assert not bench.engine.is_held(held.subscriber)
    assert bench.engine.is_held(held_too.subscriber)
    assert live.ids() == ids(entries)
    bench.engine.start(held_too.subscriber)
    assert held_too.ids() == ids(entries[::3])
    assert bench.gone == []
    os.close(held.subscriber.fd)
    bench.close()


def test_a_client_that_left_while_it_was_held_is_dropped_at_the_start(bench: Bench) -> None:
    reader = bench.connect(exact("a"), start=False)
    bench.engine.hold(reader.subscriber)
    bench.publish("a")
    reader.close()
    bench.engine.start(reader.subscriber)
    assert bench.reasons() == ["closed by the client"]
    bench.engine.poll()
    assert len(bench.gone) == 1
