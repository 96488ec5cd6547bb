"""Whether an update that was not published may be sent again, and when.

Values and functions; time and chance are passed in.
"""

from __future__ import annotations

from enum import Enum
from http import HTTPStatus

from flask_mercure.errors import InvalidArgument, MercureError, PublishError, TokenUnavailable

FIRST_DELAY = 0.25
LONGEST_DELAY = 30.0
LONGEST_RETRY_AFTER = 3600.0
MOST_REFUSALS = 8

_OF_THE_SETTINGS = frozenset(
    {
        HTTPStatus.UNAUTHORIZED,
        HTTPStatus.NOT_FOUND,
        HTTPStatus.METHOD_NOT_ALLOWED,
        HTTPStatus.PROXY_AUTHENTICATION_REQUIRED,
    }
)
_OF_THE_UPDATE = frozenset(
    {
        HTTPStatus.BAD_REQUEST,
        HTTPStatus.FORBIDDEN,
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        HTTPStatus.UNPROCESSABLE_ENTITY,
    }
)


class Verdict(Enum):
    """What a failure says about the next attempt."""

    REFUSED = "refused"
    """The hub read this update and will never take it."""
    LATER = "later"
    """The hub may take this update later; others may pass now."""
    UNCLEAR = "unclear"
    """The request went out and no hub answered: because of this update, or there is no hub for any."""
    UNREACHABLE = "unreachable"
    """There is no hub now, for any update."""
    MISCONFIGURED = "misconfigured"
    """No update will be taken until somebody changes a setting."""


def verdict(error: MercureError) -> Verdict:
    """Judge a failure (spec, Publication and Error Responses; RFC 9110 section 15).

    :param error: what publishing raised.
    """
    match error:
        case InvalidArgument():
            return Verdict.REFUSED
        case TokenUnavailable():  # what the app has its tokens from may be down itself
            return Verdict.UNREACHABLE
        case PublishError(status=None):
            return Verdict.UNCLEAR if error.possibly_published else Verdict.UNREACHABLE
        case PublishError(status=int(status)):
            return _of_status(status, from_hub=error.from_hub)
    return Verdict.MISCONFIGURED  # no token can be made


def _of_status(status: int, *, from_hub: bool) -> Verdict:
    if status == HTTPStatus.TOO_MANY_REQUESTS or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return Verdict.LATER
    if from_hub and status in _OF_THE_UPDATE:
        return Verdict.REFUSED
    if from_hub or 300 <= status < 400 or status in _OF_THE_SETTINGS:
        return Verdict.MISCONFIGURED
    return Verdict.UNCLEAR  # a proxy does not like the content, or something else than a hub answers there


def delay(attempts: int, jitter: float, retry_after: float | None = None) -> float:
    """Seconds until the next attempt: doubled each time, between half and whole.

    :param attempts: that failed, 1 or more.
    :param jitter: from 0 to 1, by chance, so that those who failed together do not come back together.
    :param retry_after: seconds that the hub asked for (RFC 9110 section 10.2.3).
    """
    longest = min(LONGEST_DELAY, FIRST_DELAY * 2.0 ** min(attempts - 1, 30))
    wanted = 0.0 if retry_after is None else min(retry_after, LONGEST_RETRY_AFTER)
    return max(longest * (0.5 + jitter / 2), wanted)


def pause(error: MercureError, attempts: int, jitter: float) -> float | None:
    """Seconds until the next attempt at an update; ``None`` when there shall be none.

    :param error: of the last attempt.
    :param attempts: that failed, 1 or more.
    :param jitter: from 0 to 1, by chance.
    """
    again = verdict(error)
    if again in (Verdict.UNREACHABLE, Verdict.UNCLEAR) or (
        again is Verdict.LATER and attempts < MOST_REFUSALS
    ):
        return delay(attempts, jitter, error.retry_after if isinstance(error, PublishError) else None)
    return None
