"""Sending again what may have been published, to a hub that stores it once (docs/protocol.md, Once).

A hub tells that in the header ``Mercure-Once`` of its answers, to publications and to OPTIONS. It is asked
before each repetition: another one may answer there by now, and would send the update to subscribers twice.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import TypeVar

from flask_mercure.client.session import Reply
from flask_mercure.config.settings import Configuration
from flask_mercure.errors import PublishError
from mercure_hub.protocol.update import ONCE_HEADER, ONCE_VALUE

_T = TypeVar("_T")

Timeout = tuple[float, float] | None
"""Seconds for the connection, and for each wait for the answer; ``None``: as configured."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 1.0
_LEAST = 0.1


def stores_once(reply: Reply) -> bool:
    """Whether an answer says that its hub stores an update once."""
    return reply.headers.get(ONCE_HEADER, "").partition(";")[0].strip() == ONCE_VALUE


def pause_before(attempts: int, error: PublishError, left: float, jitter: float) -> float | None:
    """Seconds to wait before an update is sent again.

    :param attempts: that failed, 1 or more.
    :param error: of the last one.
    :param left: seconds of those that publishing may take.
    :param jitter: random, from 0 to 1, so that publishers that failed together do not return together.
    :returns: ``None``: there is no time for another attempt.
    """
    doubled = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** min(attempts - 1, 10))
    pause = max(doubled * (0.5 + jitter / 2), error.retry_after or 0.0)
    return pause if pause + _LEAST <= left else None


def may_pass(error: PublishError) -> bool:
    """Whether the next attempt may fare better than one that failed with this error."""
    status = error.status
    return (
        error.possibly_published
        or status is None
        or status == HTTPStatus.TOO_MANY_REQUESTS
        or status >= HTTPStatus.INTERNAL_SERVER_ERROR
    )


class Repeating:
    """Publishes on one hub, in several attempts if necessary.

    :param configuration: of the hub.
    :param clock: monotonic time in seconds.
    :param sleep: waits for seconds.
    :param chance: gives random numbers from 0 to 1.
    """

    def __init__(
        self,
        configuration: Configuration,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._configuration = configuration
        self._clock = clock
        self._sleep = sleep
        self._chance = chance
        self._is_known = False

    def note(self, reply: Reply) -> None:
        """Note what the answer to a publication says of the hub."""
        self._is_known = stores_once(reply)

    def publish(self, attempt: Callable[[Timeout], _T], ask: Callable[[Timeout], Reply | Exception]) -> _T:
        """Publish, and if that is in doubt, again.

        All attempts together take no longer than one may.

        :param attempt: publishes an update with ``once``, the same each time.
        :param ask: asks the hub with OPTIONS.
        :returns: what the attempt that succeeded did.
        :raises PublishError: of the first attempt, or of a later one that the hub refused.
        """
        until = self._clock() + self._configuration.read_timeout
        try:
            return attempt(None)
        except PublishError as error:
            if not error.possibly_published:
                raise
            first = last = error
        attempts = 0
        while True:  # outside of the handler: an error must not refer to the one before
            attempts += 1
            pause = pause_before(attempts, last, until - self._clock(), self._chance())
            if pause is None:
                raise first
            self._sleep(pause)
            reply = ask(self._timeout(until))
            if isinstance(reply, Exception):
                if self._is_known:  # it is being restarted, maybe
                    continue
                raise first
            self._is_known = stores_once(reply)
            if not self._is_known:
                raise first
            try:
                return attempt(self._timeout(until))
            except PublishError as error:
                last = error
            if not may_pass(last):
                last.possibly_published = True
                raise last

    def _timeout(self, until: float) -> Timeout:
        left = max(until - self._clock(), _LEAST)
        return min(self._configuration.connect_timeout, left), left
