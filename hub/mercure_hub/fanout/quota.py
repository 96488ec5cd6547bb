"""Limits of connections: in total, per address, per token, per process (spec, Subscription).

Sibling processes share their counts in memory that they inherit by fork. Each process writes its own part and
reads the others', so nothing is locked.
"""

from __future__ import annotations

import mmap
from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from mercure_hub.fanout.subscriber import Subscriber
from mercure_hub.protocol.errors import TooManyRequests

Key = TypeVar("Key", str, bytes)

_RETRY_AFTER = 10  # seconds
_ROW = 1 << 15  # counters for keys; each key is counted in two rows
_COUNTERS = 1 + 2 * _ROW  # of a process; the first is its total
_COUNTER_SIZE = 4  # bytes


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Maximums, 0 for none.

    :param total: connections of all subscribers.
    :param per_address: of one client address.
    :param per_token: with one access token.
    :param descriptors: connections of this process, whose descriptors are limited.
    """

    total: int = 0
    per_address: int = 0
    per_token: int = 0
    descriptors: int = 0


class SharedCounts:
    """The counts of all processes, created before they are forked.

    :param processes: how many there are.
    """

    def __init__(self, processes: int) -> None:
        self._processes = processes
        self._counters = memoryview(mmap.mmap(-1, processes * _COUNTERS * _COUNTER_SIZE)).cast("i")

    def of(self, process: int) -> Siblings:
        """The view of one process, whose own counts start at zero.

        :param process: its number, from 0.
        """
        self.clear(process)
        others = [other * _COUNTERS for other in range(self._processes) if other != process]
        return Siblings(self._counters, process * _COUNTERS, others)

    def clear(self, process: int) -> None:
        """Forget the connections of a process that died.

        :param process: its number, from 0.
        """
        start = process * _COUNTERS
        self._counters[start : start + _COUNTERS] = memoryview(bytes(_COUNTERS * _COUNTER_SIZE)).cast("i")


class Siblings:
    """Publishes the connections of one process to its siblings, and reads theirs.

    Addresses and tokens are counted by hash, in two rows; the lower count is taken, which makes it rare that
    one pays for another's connections.

    :param counters: the shared memory.
    :param own: index of the first counter of this process.
    :param others: the same of its siblings.
    """

    def __init__(self, counters: memoryview[int], own: int, others: list[int]) -> None:
        self._counters = counters
        self._own = own
        self._others = others

    def publish(self, key: Hashable, change: int) -> None:
        """Count connections of a key: 1 for one more, -1 for one less."""
        first, second = _indexes(key)
        self._counters[self._own + first] += change
        self._counters[self._own + second] += change

    def publish_total(self, change: int) -> None:
        """Count connections of anybody."""
        self._counters[self._own] += change

    def connections(self, key: Hashable) -> int:
        """How many connections of a key the siblings have."""
        first, second = _indexes(key)
        counters = self._counters
        return sum(min(counters[start + first], counters[start + second]) for start in self._others)

    def total(self) -> int:
        """How many connections the siblings have."""
        return sum(self._counters[start] for start in self._others)


def _indexes(key: Hashable) -> tuple[int, int]:
    # Python's hash is keyed with a secret that forked processes share, so nobody can aim at a counter.
    hashed = hash(key)
    return 1 + hashed % _ROW, 1 + _ROW + (hashed >> 20) % _ROW


class Slot:
    """A counted connection that has no subscriber yet.

    :param release: called once, unless a subscriber keeps the slot.
    """

    __slots__ = ("_release",)

    def __init__(self, release: Callable[[], None]) -> None:
        self._release: Callable[[], None] | None = release

    def keep(self) -> None:
        """Pass the slot to a subscriber, who gives it back with ``Quota.leave``."""
        self._release = None

    def release(self) -> None:
        """Stop counting the connection, unless a subscriber keeps the slot."""
        release, self._release = self._release, None
        if release is not None:
            release()


class Quota:
    """Counts connected subscribers from the moment they are admitted.

    :param limits: the maximums.
    :param siblings: the other processes of the hub; ``None`` if it has only this one.
    """

    def __init__(self, limits: ConnectionLimits, siblings: Siblings | None = None) -> None:
        self._limits = limits
        self._siblings = siblings
        self._total = 0
        self._by_address: Counter[str] = Counter()
        self._by_token: Counter[bytes] = Counter()

    def enter(self, address: str, fingerprint: bytes) -> Slot:
        """Count one connection more, or refuse it.

        :param address: of the client.
        :param fingerprint: of its token; empty without one.
        :returns: its slot, to be released or kept.
        :raises TooManyRequests: a limit is reached; the message names its setting.
        """
        limits = self._limits
        total = self._total + (self._siblings.total() if self._siblings is not None and limits.total else 0)
        if limits.total and total >= limits.total:
            raise TooManyRequests(f"The hub has {total} subscribers (MERCURE_MAX_CONNECTIONS).", _RETRY_AFTER)
        if limits.descriptors and self._total >= limits.descriptors:
            raise TooManyRequests(
                f"The process has {self._total} subscribers and no descriptor for another one "
                "(LimitNOFILE, ulimit -n).",
                _RETRY_AFTER,
            )
        if limits.per_address and self._connections(self._by_address, address) >= limits.per_address:
            raise TooManyRequests(
                f"Your address has {limits.per_address} connections (MERCURE_MAX_CONNECTIONS_PER_ADDRESS).",
                _RETRY_AFTER,
            )
        if (
            limits.per_token
            and fingerprint
            and self._connections(self._by_token, fingerprint) >= limits.per_token
        ):
            raise TooManyRequests(
                f"This token has {limits.per_token} connections (MERCURE_MAX_CONNECTIONS_PER_TOKEN).",
                _RETRY_AFTER,
            )

        self._change(address, fingerprint, 1)
        return Slot(partial(self._change, address, fingerprint, -1))

    def leave(self, subscriber: Subscriber) -> None:
        """Stop counting a subscriber."""
        self._change(subscriber.peer, subscriber.grant.fingerprint, -1)

    def _connections(self, own: Counter[Key], key: Key) -> int:
        return own[key] + (0 if self._siblings is None else self._siblings.connections(key))

    def _change(self, address: str, fingerprint: bytes, change: int) -> None:
        self._total += change
        if self._siblings is not None:
            self._siblings.publish_total(change)
        if self._limits.per_address:
            self._add(self._by_address, address, change)
        if self._limits.per_token:
            self._add(self._by_token, fingerprint, change)

    def _add(self, own: Counter[Key], key: Key, change: int) -> None:
        own[key] += change
        if not own[key]:  # Counter keeps keys at 0, and addresses keep coming and going
            del own[key]
        if self._siblings is not None:
            self._siblings.publish(key, change)
