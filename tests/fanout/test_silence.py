"""Subscribers that lack an update: they get heartbeats until they are ended, and no update."""

from __future__ import annotations

import pytest

from mercure_hub.fanout.encoding import Form
from tests.fanout.bench import HUB_STOPS, Bench, exact, pattern


@pytest.mark.parametrize("form", [Form.PLAIN, Form.CHUNKED, Form.WEBSOCKET])
def test_a_silent_subscriber_gets_no_update_and_ends_in_order(bench: Bench, form: Form) -> None:
    silent = bench.connect(exact("a"), pattern("a*"), form=form)
    other = bench.connect(exact("a"), form=form)
    bench.publish("a", data="before")
    bench.engine.silence(silent.subscriber)
    bench.engine.silence(silent.subscriber)
    bench.publish("a", data="after")
    for reader in (silent, other):
        reader.read()
    assert b"before" in silent.received
    assert b"after" not in silent.received
    assert b"after" in other.received
    was_at_end = silent.at_end
    bench.engine.end(silent.subscriber, HUB_STOPS)
    silent.read()
    assert (was_at_end, silent.at_end) == (False, True)
    bench.publish("a", data="later")
    other.read()
    assert b"later" in other.received


def test_it_counts_until_it_is_ended(bench: Bench) -> None:
    reader = bench.connect(exact("a"), form=Form.WEBSOCKET)
    bench.engine.silence(reader.subscriber)
    assert (len(bench.engine), bench.engine.websockets) == (1, 1)
    assert bench.engine.listening_with("a") == [reader.subscriber]
    bench.engine.drop(reader.subscriber, HUB_STOPS)
    assert (len(bench.engine), bench.engine.websockets) == (0, 0)
    assert bench.engine.listening_with("a") == []


def test_one_that_is_not_connected_stays_as_it_is(bench: Bench) -> None:
    reader = bench.connect(exact("a"))
    bench.engine.drop(reader.subscriber, HUB_STOPS)
    bench.engine.silence(reader.subscriber)
    assert bench.engine.everyone() == []


def test_heartbeats_go_on(bench: Bench) -> None:
    reader = bench.connect(exact("a"))
    bench.engine.silence(reader.subscriber)
    reader.read()
    seen = len(reader.received)
    bench.tick(100)
    reader.read()
    assert reader.received[seen:] == b":\n"
