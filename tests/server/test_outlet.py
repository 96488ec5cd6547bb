"""Slow is not still: when a client that reads history is given up."""

from __future__ import annotations

import pytest

from mercure_hub.server.channel import Outlet, Timeout

PATIENCE = 5.0
DATA = memoryview(b"x" * 100)


class Channel:
    """A channel by the numbers: ``takes`` is what the next offer brings away, ``waiting`` the send queue."""

    def __init__(self) -> None:
        self.takes = 0
        self.waiting = 1000
        self.room = False
        self.now = 50.0

    def offer(self, data: memoryview) -> int:
        taken, self.takes = min(self.takes, len(data)), 0
        return taken

    def has_room(self, seconds: float) -> bool:
        if not self.room:
            self.now += seconds
        return self.room

    def unsent(self) -> int:
        return self.waiting


@pytest.fixture
def channel() -> Channel:
    return Channel()


@pytest.fixture
def outlet(channel: Channel) -> Outlet:
    return Outlet(channel, PATIENCE, lambda: channel.now)


def test_a_client_that_takes_nothing_times_out(channel: Channel, outlet: Outlet) -> None:
    for _ in range(4):
        assert not outlet.offer(DATA)
        assert not outlet.wait(1.0)
    with pytest.raises(Timeout):
        outlet.wait(1.0)
    assert channel.now == 55.0


def test_a_client_that_acknowledges_goes_on_though_its_socket_is_never_writable(
    channel: Channel, outlet: Outlet
) -> None:
    for _ in range(100):
        assert not outlet.offer(DATA)
        for _ in range(4):
            assert not outlet.wait(1.0)
        channel.waiting -= 1
    assert channel.now == 450.0


def test_the_timeout_restarts_with_each_byte_that_is_taken(channel: Channel, outlet: Outlet) -> None:
    for _ in range(10):
        for _ in range(4):
            assert not outlet.wait(1.0)
        channel.takes = 1
        channel.waiting += 1
        assert outlet.offer(DATA) == 1
    for _ in range(4):
        outlet.wait(1.0)
    with pytest.raises(Timeout):
        outlet.wait(1.0)


def test_the_time_that_the_hub_takes_does_not_count_against_a_client(
    channel: Channel, outlet: Outlet
) -> None:
    channel.room = True
    assert outlet.wait(1.0)
    channel.now += 100  # memory for the next page had to be waited for
    channel.room = False
    assert not outlet.offer(DATA)
    assert not outlet.wait(1.0)


def test_a_patience_below_the_pause_is_kept(channel: Channel) -> None:
    outlet = Outlet(channel, 0.25, lambda: channel.now)
    with pytest.raises(Timeout):
        outlet.wait(1.0)
    assert channel.now == 50.25
