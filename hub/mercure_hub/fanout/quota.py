"""How many connections there may be: in total, from an address, with a token (spec, Subscription)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from mercure_hub.fanout.census import Count
from mercure_hub.fanout.subscriber import Subscriber
from mercure_hub.protocol.errors import TooManyRequests

Key = TypeVar("Key", str, bytes)

_RETRY_AFTER = 10  # seconds


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


class Place:
    """A connection that counts, though it has no subscriber yet.

    :param release: called once, unless a subscriber keeps the place.
    """

    __slots__ = ("_release",)

    def __init__(self, release: Callable[[], None]) -> None:
        self._release: Callable[[], None] | None = release

    def keep(self) -> None:
        """Have a subscriber count instead, until ``Quota.leave``."""
        self._release = None

    def release(self) -> None:
        """Count no more, unless a subscriber does."""
        release, self._release = self._release, None
        if release is not None:
            release()


class Quota:
    """Counts connected subscribers, from the moment at which they are admitted.

    :param limits: see there.
    :param count: those of sibling processes; ``None`` when there are none.
    """

    def __init__(self, limits: ConnectionLimits, count: Count | None = None) -> None:
        self._limits = limits
        self._count = count
        self._total = 0
        self._by_address: Counter[str] = Counter()
        self._by_token: Counter[bytes] = Counter()

    def enter(self, address: str, fingerprint: bytes) -> Place:
        """Count one connection more, or refuse it.

        :param address: of the client.
        :param fingerprint: of its token; empty without one.
        :returns: its place, to be released or kept.
        :raises TooManyRequests: a limit is reached; the message names its setting.
        """
        limits, count = self._limits, self._count
        total = self._total + (count.total_elsewhere() if count is not None and limits.total else 0)
        if limits.total and total >= limits.total:
            raise TooManyRequests(f"The hub has {total} subscribers (MERCURE_MAX_CONNECTIONS).", _RETRY_AFTER)
        if limits.descriptors and self._total >= limits.descriptors:
            raise TooManyRequests(
                f"The process has {self._total} subscribers and no descriptor for another one "
                "(LimitNOFILE, ulimit -n).",
                _RETRY_AFTER,
            )
        if limits.per_address and self._of(self._by_address, address) >= limits.per_address:
            raise TooManyRequests(
                f"Your address has {limits.per_address} connections (MERCURE_MAX_CONNECTIONS_PER_ADDRESS).",
                _RETRY_AFTER,
            )
        if limits.per_token and fingerprint and self._of(self._by_token, fingerprint) >= limits.per_token:
            raise TooManyRequests(
                f"This token has {limits.per_token} connections (MERCURE_MAX_CONNECTIONS_PER_TOKEN).",
                _RETRY_AFTER,
            )

        self._change(address, fingerprint, 1)
        return Place(partial(self._change, address, fingerprint, -1))

    def _of(self, own: Counter[Key], key: Key) -> int:
        return own[key] + (0 if self._count is None else self._count.elsewhere(key))

    def leave(self, subscriber: Subscriber) -> None:
        """Count a subscriber no more."""
        self._change(subscriber.peer, subscriber.grant.fingerprint, -1)

    def _change(self, address: str, fingerprint: bytes, number: int) -> None:
        self._total += number
        if self._count is not None:
            self._count.add_to_total(number)
        if self._limits.per_address:
            self._add(self._by_address, address, number)
        if self._limits.per_token:
            self._add(self._by_token, fingerprint, number)

    def _add(self, own: Counter[Key], key: Key, number: int) -> None:
        own[key] += number
        if not own[key]:  # Counter keeps keys at 0; addresses come and go for ever
            del own[key]
        if self._count is not None:
            self._count.add(key, number)
