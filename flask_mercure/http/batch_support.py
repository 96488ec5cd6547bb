"""Whether a hub takes batches: asked when the first one is to be sent, and remembered.

A hub that does tells it in the header ``Accept-Post`` of its answer to OPTIONS (docs/protocol.md,
Batches). The others are not tried with a batch: what they would make of it, nobody knows.
"""

from __future__ import annotations

from collections.abc import Callable

import requests

from flask_mercure.configuration.settings import Configuration
from flask_mercure.errors import HubUnreachable
from flask_mercure.http import answer
from flask_mercure.http.session import ask
from mercure_hub.protocol import batch

_REMEMBERED = 600.0
"""Seconds after which a hub that takes no batches is asked again: it may have been replaced."""


class BatchSupport:
    """What is known of one hub.

    :param configuration: of the hub.
    :param clock: gives the seconds since the epoch.
    """

    def __init__(self, configuration: Configuration, clock: Callable[[], float]) -> None:
        self._configuration = configuration
        self._clock = clock
        self._takes = False
        self._asked_at: float | None = None

    def are_taken(self, session: requests.Session) -> bool:
        """Whether to send a batch.

        :raises HubUnreachable: the hub gave no answer; nothing was published.
        """
        if self._takes:
            return True
        if self._asked_at is None or not 0 <= self._clock() - self._asked_at < _REMEMBERED:
            self._takes = self._ask(session)
            self._asked_at = self._clock()
        return self._takes

    def are_refused(self) -> None:
        """The hub did not know a batch, whatever it said before."""
        self._takes = False
        self._asked_at = self._clock()

    def _ask(self, session: requests.Session) -> bool:
        configuration = self._configuration
        # The content is read so that the connection can be used again.
        reply = ask(session, "OPTIONS", configuration.url, configuration, most=1 << 16)
        if isinstance(reply, Exception):
            unreachable = answer.unreachable(reply, configuration)
            if unreachable.possibly_published:
                raise HubUnreachable(
                    f"{configuration.url} ({configuration.setting('URL')}) was asked whether it takes "
                    "batches and did not answer; nothing was published"
                )
            raise unreachable
        accepted = reply.headers.get("Accept-Post", "").lower().split(",")
        is_success = 200 <= reply.status_code < 300  # to requests, a redirect is "ok" too
        return is_success and batch.MEDIA_TYPE in [one.partition(";")[0].strip() for one in accepted]
