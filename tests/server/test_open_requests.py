"""What may wait for clients, by numbers: memory is bounded, and the oldest make room."""

from __future__ import annotations

import logging

import pytest

from mercure_hub.server.open_requests import OPEN_REQUEST, OpenRequests


class Ended(list[str]):
    """Who was ended, and a clock."""

    now = 100.0

    def clock(self) -> float:
        return self.now


@pytest.fixture
def ended() -> Ended:
    return Ended()


@pytest.fixture
def waiting(ended: Ended) -> OpenRequests[str]:
    return OpenRequests(10 * OPEN_REQUEST, ended.clock, ended.append)


def test_each_connection_counts_with_what_it_has_sent(waiting: OpenRequests[str]) -> None:
    waiting.begin("a")
    waiting.grow("a", 100)
    waiting.begin("b", 7)
    assert waiting.taken == 2 * OPEN_REQUEST + 107
    waiting.finish("a")
    assert waiting.taken == OPEN_REQUEST + 7
    waiting.finish("b")
    waiting.finish("b")
    assert (waiting.taken, len(waiting)) == (0, 0)


def test_the_oldest_connections_make_room(waiting: OpenRequests[str], ended: Ended) -> None:
    for name in "abcdefghij":
        waiting.begin(name)
    waiting.finish("a")
    waiting.begin("a")  # answered, and waits anew: the youngest
    assert ended == []
    waiting.begin("k")
    assert ended == ["b"]
    waiting.grow("k", 2 * OPEN_REQUEST)
    assert ended == ["b", "c", "d"]
    assert waiting.taken == 10 * OPEN_REQUEST


def test_a_connection_that_begins_again_counts_once(waiting: OpenRequests[str], ended: Ended) -> None:
    """Under TLS a connection waits for the handshake, and then for its first request."""
    for number in range(100):
        waiting.begin(str(number))
        waiting.grow(str(number), 100)
        waiting.begin(str(number))
        assert waiting.taken == OPEN_REQUEST
        waiting.finish(str(number))
    assert (waiting.taken, len(waiting), ended) == (0, 0, [])


def test_a_connection_that_was_ended_no_longer_counts(waiting: OpenRequests[str], ended: Ended) -> None:
    waiting.begin("a")
    for name in "bcdefghijk":
        waiting.begin(name)
    assert ended == ["a"]
    waiting.grow("a", 1 << 30)
    waiting.finish("a")
    assert ended == ["a"]
    assert waiting.taken == 10 * OPEN_REQUEST


def test_a_request_that_is_larger_than_all_memory_is_ended(waiting: OpenRequests[str], ended: Ended) -> None:
    waiting.begin("a")
    waiting.grow("a", 20 * OPEN_REQUEST)
    assert ended == ["a"]
    assert waiting.taken == 0


def test_connections_make_room_when_no_descriptor_is_left(waiting: OpenRequests[str], ended: Ended) -> None:
    for name in "abc":
        waiting.begin(name)
    waiting.make_room(2)
    assert ended == ["a", "b"]
    waiting.make_room(2)
    waiting.make_room(2)
    assert ended == ["a", "b", "c"]


def test_ended_connections_are_logged_once_a_minute(
    waiting: OpenRequests[str], ended: Ended, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "mercure_hub.server")
    for number in range(600):
        waiting.begin(str(number))
        ended.now += 0.25
    assert len(ended) == 590
    assert len(caplog.messages) == 3
    assert "1 so far, 10 are left" in caplog.messages[0]
