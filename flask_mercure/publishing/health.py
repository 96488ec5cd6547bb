"""Whether the hub fails, or one update alone: what a sender knows of a hub.

One failure often does not tell: a proxy may cut the connection because of what is in the request. So the
sender tries another update next. When the hub takes that one, only the first waits; when it does not, the hub
rests.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field

from flask_mercure.errors import MercureError, PublishError
from flask_mercure.publishing.retry import Verdict, delay, verdict

_MOST_FAILING = {Verdict.LATER: 10, Verdict.UNCLEAR: 2}
"""Different updates that fail in a row before the hub is to blame; an unclear failure may take seconds."""
_LONG_OUTAGE = 60.0
"""Seconds; in one that is shorter, some bad updates may have failed together while the hub was well."""
_MOST_PROVED = 10_000


@dataclass
class Health:
    """One hub, as one sender sees it. Updates have keys, which the sender chooses.

    ``failing`` has the updates that failed since the hub last took one, ``proved`` those after which it took
    another: it is not the hub that keeps them. ``until`` is the time, in seconds, to which the hub rests, and
    ``recovered_at`` that of its first success after a long outage.
    """

    failing: set[Hashable] = field(default_factory=set)
    proved: set[Hashable] = field(default_factory=set)
    until: float = -math.inf
    recovered_at: float = -math.inf
    outages: int = 0
    out_since: float = math.inf
    is_batch_in_doubt: bool = False

    @property
    def is_in_doubt(self) -> bool:
        """Whether something failed since the last success: send one update at a time."""
        return bool(self.failing or self.outages or self.is_batch_in_doubt)

    def took(self, keys: Iterable[Hashable], now: float) -> bool:
        """The hub took updates.

        :param now: in seconds.
        :returns: whether an outage is over.
        """
        was_out = self.outages > 0
        if now - self.out_since >= _LONG_OUTAGE:
            self.recovered_at = now
        elif len(self.proved) < _MOST_PROVED:
            self.proved |= self.failing
        else:  # other relays may have sent most of them long ago
            self.proved = set(self.failing)
        self.proved.difference_update(keys)
        self.failing.clear()
        self.until, self.outages, self.out_since, self.is_batch_in_doubt = -math.inf, 0, math.inf, False
        return was_out

    def failed(self, key: Hashable, error: MercureError, now: float, chance: float) -> float | None:
        """An update failed that may be sent again.

        :param error: what publishing raised.
        :param now: in seconds.
        :param chance: from 0 to 1, by which pauses differ.
        :returns: the seconds for which the hub rests, or ``None`` when this update alone waits.
        """
        judgement = verdict(error)
        most = _MOST_FAILING.get(judgement)
        if most is not None:
            self.failing.add(key)
            if not self.outages and len(self.failing) < most:
                return None
        self.outages += 1
        self.out_since = min(self.out_since, now)
        pause = delay(self.outages, chance, error.retry_after if isinstance(error, PublishError) else None)
        self.until = now + pause
        return pause

    def forget(self, key: Hashable) -> None:
        """An update is not tried again."""
        self.failing.discard(key)
        self.proved.discard(key)
