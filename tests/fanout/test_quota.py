"""Connection limits, of one process and over several."""

from __future__ import annotations

import os

import pytest

from mercure_hub.fanout.quota import ConnectionLimits, Quota, SharedCounts
from mercure_hub.fanout.subscriber import Subscriber
from mercure_hub.protocol.errors import TooManyRequests
from mercure_hub.protocol.hub_url import Identity
from mercure_hub.protocol.tokens.grant import Grant

IDENTITY = Identity("https://example.com/.well-known/mercure")


def subscriber(peer: str = "10.0.0.1", fingerprint: bytes = b"") -> Subscriber:
    return Subscriber(
        matchers=(),
        grant=Grant(fingerprint=fingerprint),
        identity=IDENTITY,
        peer=peer,
        connected_at=0,
        ends_at=1.0,
    )


def quotas(limits: ConnectionLimits, processes: int) -> list[Quota]:
    if processes == 1:
        return [Quota(limits)] * 2
    counts = SharedCounts(processes)
    return [Quota(limits, counts.of(number)) for number in range(processes)]


def enter(quota: Quota, one: Subscriber) -> None:
    """Admit a subscriber."""
    quota.enter(one.peer, one.grant.fingerprint).keep()


def check(quota: Quota, address: str, fingerprint: bytes) -> None:
    """See whether another connection would be admitted."""
    quota.enter(address, fingerprint).release()


@pytest.mark.parametrize("processes", [1, 2, 5])
@pytest.mark.parametrize(
    ("limits", "setting"),
    [
        (ConnectionLimits(total=4), "MERCURE_MAX_CONNECTIONS"),
        (ConnectionLimits(per_address=4), "MERCURE_MAX_CONNECTIONS_PER_ADDRESS"),
        (ConnectionLimits(per_token=4), "MERCURE_MAX_CONNECTIONS_PER_TOKEN"),
    ],
)
def test_a_limit_counts_connections_of_all_processes(
    processes: int, limits: ConnectionLimits, setting: str
) -> None:
    several = quotas(limits, processes)
    connected = [subscriber(fingerprint=b"token") for _ in range(4)]
    for number, one in enumerate(connected):
        enter(several[number % len(several)], one)
    for quota in several:
        with pytest.raises(TooManyRequests, match=setting):
            check(quota, "10.0.0.1", b"token")
    several[0].leave(connected[0])
    for quota in several:
        check(quota, "10.0.0.1", b"token")


def test_a_limit_is_per_address_and_per_token() -> None:
    first, second = quotas(ConnectionLimits(per_address=1, per_token=1), 2)
    enter(first, subscriber("10.0.0.1", b"one"))
    check(second, "10.0.0.2", b"two")
    check(second, "10.0.0.2", b"")
    with pytest.raises(TooManyRequests):
        check(second, "10.0.0.2", b"one")
    with pytest.raises(TooManyRequests):
        check(second, "10.0.0.1", b"two")


def test_the_limit_of_descriptors_is_per_process() -> None:
    first, second = quotas(ConnectionLimits(descriptors=1), 2)
    enter(first, subscriber())
    check(second, "10.0.0.1", b"")
    with pytest.raises(TooManyRequests, match="LimitNOFILE"):
        check(first, "10.0.0.1", b"")


def test_the_successor_of_a_dead_process_starts_at_zero() -> None:
    counts = SharedCounts(2)
    limits = ConnectionLimits(total=2, per_address=2)
    lives, dies = Quota(limits, counts.of(0)), Quota(limits, counts.of(1))
    for _ in range(2):
        enter(dies, subscriber())
    with pytest.raises(TooManyRequests):
        check(lives, "10.0.0.1", b"")
    counts.of(1)
    check(lives, "10.0.0.1", b"")


def test_counting_by_hash_tells_many_addresses_apart() -> None:
    """Counting by hash may overcount, and seldom does: 5,000 addresses with one connection each."""
    counts = SharedCounts(2)
    limits = ConnectionLimits(per_address=3)
    first, second = Quota(limits, counts.of(0)), Quota(limits, counts.of(1))
    for number in range(5000):
        enter(first, subscriber(f"10.0.{number >> 8}.{number & 255}"))
    refused = 0
    for number in range(5000):
        try:
            check(second, f"10.0.{number >> 8}.{number & 255}", b"")
        except TooManyRequests:
            refused += 1
    assert refused <= 5


def test_all_counts_return_to_zero() -> None:
    counts = SharedCounts(2)
    limits = ConnectionLimits(total=200, per_address=1, per_token=1)
    first, second = Quota(limits, counts.of(0)), Quota(limits, counts.of(1))
    for _ in range(3):
        connected = [subscriber(f"10.0.0.{number}", bytes([number])) for number in range(200)]
        for one in connected:
            enter(first, one)
        for one in connected:
            first.leave(one)
    for one in connected:
        enter(second, one)


@pytest.mark.minutes
def test_forked_processes_share_their_counts() -> None:
    counts = SharedCounts(2)
    limits = ConnectionLimits(total=1, per_address=1)
    own = Quota(limits, counts.of(0))
    pid = os.fork()
    if pid == 0:
        enter(Quota(limits, counts.of(1)), subscriber("10.9.9.9"))
        os._exit(0)
    os.waitpid(pid, 0)
    with pytest.raises(TooManyRequests):
        check(own, "10.9.9.9", b"")


def test_connections_of_a_dead_process_stop_counting() -> None:
    counts = SharedCounts(2)
    dies, lives = (Quota(ConnectionLimits(total=1, per_address=1), counts.of(number)) for number in range(2))
    enter(dies, subscriber())
    with pytest.raises(TooManyRequests):
        check(lives, "10.0.0.1", b"")
    counts.clear(0)
    check(lives, "10.0.0.1", b"")
    enter(lives, subscriber())
    counts.clear(0)
    with pytest.raises(TooManyRequests):
        check(lives, "10.0.0.1", b"")


def test_a_slot_is_released_once_and_kept_by_a_subscriber() -> None:
    (quota, _) = quotas(ConnectionLimits(per_address=2), 1)
    one, other = (quota.enter("10.0.0.1", b"") for _ in range(2))
    with pytest.raises(TooManyRequests):
        check(quota, "10.0.0.1", b"")
    for _ in range(2):
        one.release()
    other.keep()
    other.release()
    enter(quota, subscriber())
    with pytest.raises(TooManyRequests):
        check(quota, "10.0.0.1", b"")
