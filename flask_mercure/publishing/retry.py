"""What a failure says of the update and of its hub, and when to try again.

One failure often does not tell which of the two is to blame: a proxy may cut the connection because of what
is in the request. So a sender tries another update next. If the hub takes that one, only the first waits; if
not, the hub rests.

Values and functions only; time and chance are passed in.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from enum import Enum
from http import HTTPStatus

from flask_mercure.errors import InvalidArgument, MercureError, PublishError, TokenUnavailable

FIRST_DELAY = 0.25
LONGEST_DELAY = 30.0
LONGEST_RETRY_AFTER = 3600.0
MAX_ATTEMPTS = 8
"""Of an update that the hub does not take while it takes others."""

_CONFIGURATION_STATUSES = frozenset(
    {
        HTTPStatus.UNAUTHORIZED,
        HTTPStatus.NOT_FOUND,
        HTTPStatus.METHOD_NOT_ALLOWED,
        HTTPStatus.PROXY_AUTHENTICATION_REQUIRED,
    }
)
_UPDATE_STATUSES = frozenset(
    {
        HTTPStatus.BAD_REQUEST,
        HTTPStatus.FORBIDDEN,
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        HTTPStatus.UNPROCESSABLE_ENTITY,
    }
)
_LONG_OUTAGE = 60.0
"""Seconds; in a shorter one, several bad updates may have failed together while the hub was well."""
_MAX_PROVED = 10_000


class Verdict(Enum):
    """What a failure says about the next attempt."""

    REFUSED = "refused"
    """The hub read this update and will never take it."""
    LATER = "later"
    """The hub may take this update later; others may pass now."""
    UNCLEAR = "unclear"
    """The request went out and no hub answered: because of this update, or no hub is there for any."""
    UNREACHABLE = "unreachable"
    """No hub is there now, for any update."""
    MISCONFIGURED = "misconfigured"
    """No update will be taken until somebody changes a setting."""


_UPDATES_BEFORE_OUTAGE = {Verdict.LATER: 10, Verdict.UNCLEAR: 2}
"""Different updates that fail in a row before the hub is to blame; an unclear failure may take seconds."""


def verdict(error: MercureError) -> Verdict:
    """Judge a failure (spec, Publication and Error Responses; RFC 9110 section 15).

    :param error: what publishing raised.
    """
    match error:
        case InvalidArgument():
            return Verdict.REFUSED
        case TokenUnavailable():  # the source of the app's tokens may be down itself
            return Verdict.UNREACHABLE
        case PublishError(is_storage_away=True):
            return Verdict.UNREACHABLE
        case PublishError(status=None):
            return Verdict.UNCLEAR if error.possibly_published else Verdict.UNREACHABLE
        case PublishError(status=int(status)):
            return _of_status(status, from_hub=error.from_hub)
    return Verdict.MISCONFIGURED  # no token can be made


def _of_status(status: int, *, from_hub: bool) -> Verdict:
    if status == HTTPStatus.TOO_MANY_REQUESTS or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return Verdict.LATER
    if from_hub and status in _UPDATE_STATUSES:
        return Verdict.REFUSED
    if from_hub or 300 <= status < 400 or status in _CONFIGURATION_STATUSES:
        return Verdict.MISCONFIGURED
    return Verdict.UNCLEAR  # a proxy does not like the content, or something other than a hub answers there


def delay(
    attempts: int, jitter: float, error: MercureError | None = None, longest: float = LONGEST_DELAY
) -> float:
    """Seconds until the next attempt: doubled each time, then scaled by a factor from 1/2 to 1.

    :param attempts: that failed, 1 or more.
    :param jitter: random, from 0 to 1, so that senders that failed together do not return together.
    :param error: of the last attempt; its ``retry_after`` is a lower bound (RFC 9110 section 10.2.3).
    :param longest: seconds, of the doubled delay.
    """
    doubled = min(longest, FIRST_DELAY * 2.0 ** min(attempts - 1, 30))
    retry_after = error.retry_after if isinstance(error, PublishError) else None
    wanted = 0.0 if retry_after is None else min(retry_after, LONGEST_RETRY_AFTER)
    return max(doubled * (0.5 + jitter / 2), wanted)


def next_attempt(error: MercureError, attempts: int, jitter: float) -> float | None:
    """Seconds until the next attempt of a sender that has one update at a time; ``None`` to give it up.

    :param error: of the last attempt.
    :param attempts: that failed, 1 or more.
    :param jitter: random, from 0 to 1.
    """
    match verdict(error):
        case Verdict.REFUSED | Verdict.MISCONFIGURED:
            return None
        case Verdict.LATER if attempts >= MAX_ATTEMPTS:
            return None
    return delay(attempts, jitter, error)


@dataclass
class Health:
    """What one sender knows of one hub. The sender chooses the keys of updates.

    :param longest_delay: seconds for which the hub rests at most, unless it asks for more.
    :param failing: updates that failed since the hub last took one.
    :param proved: updates that failed and after which the hub took another: the hub is not to blame.
    :param until: time at which the hub's rest ends, in seconds.
    :param recovered_at: time of the first success after a long outage, in seconds.
    :param outages: rests in a row without a success.
    :param out_since: time at which the first of them began, in seconds.
    :param is_batch_in_doubt: a batch failed, and maybe only because it was one.
    """

    longest_delay: float = LONGEST_DELAY
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
        """Note that the hub took updates.

        :param now: in seconds.
        :returns: whether an outage is over.
        """
        was_out = self.outages > 0
        if now - self.out_since >= _LONG_OUTAGE:
            self.recovered_at = now
        elif len(self.proved) < _MAX_PROVED:
            self.proved |= self.failing
        else:  # other relays may have sent most of them long ago
            self.proved = set(self.failing)
        self.proved.difference_update(keys)
        self.failing.clear()
        self.until, self.outages, self.out_since, self.is_batch_in_doubt = -math.inf, 0, math.inf, False
        return was_out

    def failed(self, key: Hashable, error: MercureError, now: float, jitter: float) -> float | None:
        """Note the failure of an update that may be sent again.

        :param error: what publishing raised.
        :param now: in seconds.
        :param jitter: random, from 0 to 1.
        :returns: the seconds for which the hub rests, or ``None`` if only this update waits.
        """
        threshold = _UPDATES_BEFORE_OUTAGE.get(verdict(error))
        if threshold is not None:
            self.failing.add(key)
            if not self.outages and len(self.failing) < threshold:
                return None
        self.outages += 1
        self.out_since = min(self.out_since, now)
        pause = delay(self.outages, jitter, error, self.longest_delay)
        self.until = now + pause
        return pause

    def forget(self, key: Hashable) -> None:
        """Drop an update that is not tried again."""
        self.failing.discard(key)
        self.proved.discard(key)
