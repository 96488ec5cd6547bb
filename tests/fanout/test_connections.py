"""Connections that end: noticed without a write, reported once, their descriptors free for others."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from mercure_hub.fanout.engine import EngineLimits
from mercure_hub.fanout.subscriber import State
from tests.fanout.bench import HUB_STOPS, LEFT, START, Bench, exact

HEARTBEAT = b":\n"


def wait_for_events(bench: Bench) -> None:
    """Wait until the kernel has something to tell; on loopback that is at once."""
    assert bench.has_news(timeout=10)


@pytest.mark.minutes
@pytest.mark.parametrize("how", ["close", "reset", "half close"])
def test_a_client_that_leaves_is_noticed_without_a_write(bench: Bench, how: str) -> None:
    leaves, stays = bench.connect(exact("a"), tcp=True), bench.connect(exact("a"), tcp=True)
    bench.poll()  # both are writable, which is no news
    if how == "close":
        leaves.close()
    elif how == "reset":
        leaves.reset()
    else:
        leaves.sock.shutdown(socket.SHUT_WR)
    wait_for_events(bench)
    bench.poll()
    bench.poll()
    assert bench.gone == [(leaves.subscriber, "closed by the client")]
    assert list(bench.engine) == [stays.subscriber]
    assert not leaves.subscriber.is_connected


def test_what_a_client_sends_after_its_request_is_ignored(bench: Bench) -> None:
    reader = bench.connect(exact("a"))
    reader.sock.send(b"GET / HTTP/1.1\r\n\r\n" * 100)
    bench.poll()
    bench.publish("a")
    assert reader.ids() == ["1"]
    assert bench.gone == []


@pytest.mark.minutes
def test_a_reset_that_the_write_meets_first_is_reported_once(bench: Bench) -> None:
    reader = bench.connect(exact("a"), tcp=True)
    reader.reset()
    wait_for_events(bench)
    bench.publish("a")
    bench.publish("a")
    bench.poll()
    bench.tick(100)
    assert bench.reasons() == ["closed by the client"]


def test_a_client_that_left_before_the_start_is_noticed(bench: Bench) -> None:
    reader = bench.connect(exact("a"), start=False)
    reader.close()
    bench.start(reader)
    bench.poll()
    assert bench.reasons() == ["closed by the client"]


def test_dropping_a_subscriber_ends_its_connection_once(bench: Bench) -> None:
    reader = bench.connect(exact("a"))
    bench.engine.drop(reader.subscriber, HUB_STOPS)
    bench.engine.drop(reader.subscriber, LEFT)
    bench.publish("a")
    assert reader.read() == b""
    assert reader.at_end
    assert bench.reasons() == ["the hub stops"]
    assert len(bench.engine) == 0


def test_a_descriptor_is_used_again(bench: Bench) -> None:
    first = bench.connect(exact("a"))
    descriptor = first.subscriber.fd
    first.close()  # the kernel holds an event for it
    bench.engine.drop(first.subscriber, LEFT)
    second = bench.connect(exact("b"))
    assert second.subscriber.fd == descriptor
    bench.poll()
    bench.publish("a")
    bench.publish("b")
    bench.tick(100)
    assert second.ids() == ["2"]
    assert bench.reasons() == ["closed by the client"]


def test_subscribers_may_be_dropped_while_others_leave(bench: Bench) -> None:
    """``on_gone`` may call the engine."""
    readers = [bench.connect(exact("a")) for _ in range(20)]
    bench.poll()
    for reader in readers[:10]:
        reader.close()
    bench.engine.drop(readers[3].subscriber, HUB_STOPS)
    bench.poll()
    assert len(bench.engine) == 10
    assert len(bench.gone) == len({gone for gone, _ in bench.gone}) == 10


def test_subscribers_may_be_dropped_while_iterating(bench: Bench) -> None:
    for _ in range(10):
        bench.connect(exact("a"))
    for subscriber in bench.engine:
        bench.engine.drop(subscriber, HUB_STOPS)
    assert len(bench.engine) == 0
    assert bench.reasons() == ["the hub stops"] * 10


def test_more_events_than_one_poll_returns_are_not_lost(bench: Bench) -> None:
    readers = [bench.connect(exact("a")) for _ in range(1500)]
    while bench.has_news():
        bench.poll()
    for reader in readers:
        reader.close()
    while bench.has_news():
        bench.poll()
    assert len(bench.gone) == 1500


def test_a_client_that_never_stops_sending_is_read_a_little_at_a_time() -> None:
    """Where its end is an empty read, what it sends has to be read."""
    bench = Bench(use_epoll=False)
    reader = bench.connect(exact("a"))
    size = 4096 * 20
    reader.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * size)
    sent = reader.sock.send(bytes(size))
    assert sent > 4096 * 16
    turns = 0
    while bench.has_news():
        bench.poll()
        turns += 1
    assert turns > 1
    bench.publish("a")
    reader.sock.shutdown(socket.SHUT_WR)
    bench.poll()
    assert (reader.ids(), bench.reasons()) == (["1"], ["closed by the client"])
    bench.close()


def test_a_full_socket_is_watched_for_room_only_until_there_is_some() -> None:
    bench = Bench(use_epoll=False)
    reader = bench.connect(exact("a"), small=True)
    assert not bench.has_news()

    def is_full() -> bool:
        return reader.subscriber.state is State.QUEUED

    for _ in range(2):
        while not is_full():
            bench.publish("a", data="x" * 10_000)
        assert not bench.has_news()
        while is_full():
            reader.read()
            assert bench.has_news()
            bench.poll()
        reader.read()
        assert not bench.has_news()
    bench.close()


class TestTime:
    """Heartbeats, and connections whose time is over."""

    @pytest.fixture
    def bench(self, no_descriptor_left: None) -> Iterator[Bench]:
        bench = Bench(EngineLimits(heartbeat=40))
        yield bench
        bench.close()

    def test_heartbeats_come_at_their_interval(self, bench: Bench) -> None:
        reader = bench.connect(exact("a"))
        beats = []
        for _ in range(121):
            bench.tick(1)
            if reader.read():
                beats.append(bench.now - START)
        assert beats == [40, 80, 120]
        assert bytes(reader.received) == HEARTBEAT * 3

    def test_updates_do_not_put_off_heartbeats(self, bench: Bench) -> None:
        reader = bench.connect(exact("a"))
        for _ in range(8):
            bench.tick(5)
            bench.publish("a")
        assert reader.read().count(HEARTBEAT + b"id") == 1

    def test_a_pause_of_the_process_costs_one_heartbeat(self, bench: Bench) -> None:
        reader = bench.connect(exact("a"))
        bench.tick(1e6)
        assert reader.read() == HEARTBEAT
        bench.tick(39)
        assert reader.read() == b""
        bench.tick(1)
        assert reader.read() == HEARTBEAT

    def test_many_heartbeats_go_out_in_slices(self, bench: Bench) -> None:
        readers = [bench.connect(exact("a")) for _ in range(1100)]
        bench.now += 40
        assert len(list(bench.engine.tick())) == 2
        assert {reader.read() for reader in readers} == {HEARTBEAT}

    def test_a_subscriber_that_leaves_between_two_slices_gets_no_heartbeat(self, bench: Bench) -> None:
        readers = [bench.connect(exact("a")) for _ in range(600)]
        bench.now += 40
        for _ in bench.engine.tick():
            bench.engine.drop(readers[-1].subscriber, LEFT)
            readers.append(bench.connect(exact("a")))
        assert {reader.read() for reader in readers[:-2]} == {HEARTBEAT}
        assert readers[-1].read() == b""

    def test_a_heartbeat_finds_a_broken_connection(self, bench: Bench) -> None:
        reader = bench.connect(exact("a"))
        reader.close()
        bench.tick(40)
        assert bench.reasons() == ["closed by the client"]
        bench.tick(40)

    def test_a_connection_ends_in_the_second_of_its_time_and_never_after(self, bench: Bench) -> None:
        ends = [START + 10, START + 10.9, START + 100, START + 0.2, START - 5]
        readers = [bench.connect(exact("a"), ends_at=at) for at in ends]
        ended: dict[int, float] = {}
        for _ in range(110):
            bench.tick(1)
            for place, reader in enumerate(readers):
                if place not in ended and not reader.subscriber.is_connected:
                    ended[place] = bench.now
        assert ended == {0: START + 10, 1: START + 10, 2: START + 100, 3: START + 1, 4: START + 1}
        assert bench.reasons() == ["its time is over"] * 5

    def test_a_connection_ends_in_its_time_without_heartbeats(self, no_descriptor_left: None) -> None:
        bench = Bench(EngineLimits(heartbeat=0))
        endless, bounded = bench.connect(exact("a")), bench.connect(exact("a"), ends_at=START + 50)
        bench.tick(49)
        assert bench.gone == []
        bench.tick(1)
        assert bench.gone == [(bounded.subscriber, "its time is over")]
        bench.tick(1e9)
        assert endless.read() == b""
        assert endless.subscriber.is_connected
        bench.close()
