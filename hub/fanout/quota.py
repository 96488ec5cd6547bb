"""How many connections there may be: in total, from an address, with a token (spec, Subscription)."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TypeVar

from hub.fanout.subscriber import Subscriber
from hub.protocol.errors import TooManyRequests

Key = TypeVar("Key", str, bytes)

_RETRY_AFTER = 10  # seconds


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Maximums, 0 for none.

    :param total: connections of all subscribers.
    :param per_address: of one client address.
    :param per_token: with one access token.
    """

    total: int = 0
    per_address: int = 0
    per_token: int = 0


class Quota:
    """Counts connected subscribers.

    :param limits: see there.
    """

    def __init__(self, limits: ConnectionLimits) -> None:
        self._limits = limits
        self._total = 0
        self._by_address: Counter[str] = Counter()
        self._by_token: Counter[bytes] = Counter()

    def check(self, address: str, fingerprint: bytes) -> None:
        """Refuse one connection too many.

        :param address: of the client.
        :param fingerprint: of its token; empty without one.
        :raises TooManyRequests: a limit is reached; the message names its setting.
        """
        limits = self._limits
        if limits.total and self._total >= limits.total:
            raise TooManyRequests(
                f"The hub has {self._total} subscribers (MERCURE_MAX_CONNECTIONS).", _RETRY_AFTER
            )
        if limits.per_address and self._by_address[address] >= limits.per_address:
            raise TooManyRequests(
                f"Your address has {limits.per_address} connections (MERCURE_MAX_CONNECTIONS_PER_ADDRESS).",
                _RETRY_AFTER,
            )
        if limits.per_token and fingerprint and self._by_token[fingerprint] >= limits.per_token:
            raise TooManyRequests(
                f"This token has {limits.per_token} connections (MERCURE_MAX_CONNECTIONS_PER_TOKEN).",
                _RETRY_AFTER,
            )

    def enter(self, subscriber: Subscriber) -> None:
        """Count a subscriber."""
        self._total += 1
        if self._limits.per_address:
            self._by_address[subscriber.peer] += 1
        if self._limits.per_token:
            self._by_token[subscriber.grant.fingerprint] += 1

    def leave(self, subscriber: Subscriber) -> None:
        """Count a subscriber no more."""
        self._total -= 1
        if self._limits.per_address:
            _decrement(self._by_address, subscriber.peer)
        if self._limits.per_token:
            _decrement(self._by_token, subscriber.grant.fingerprint)


def _decrement(counter: Counter[Key], key: Key) -> None:
    """Counter keeps keys at 0; addresses come and go for ever."""
    counter[key] -= 1
    if not counter[key]:
        del counter[key]
