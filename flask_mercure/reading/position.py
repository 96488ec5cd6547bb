"""The position of a hub: the id of its newest update, after which the stream of a page begins.

A hub of this project answers ``HEAD`` with it. Other hubs tell it with the active subscriptions, if they have
that feature. A page waits a short time for it, and does without it if there is no answer.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable

import requests
from flask import Flask, has_request_context, request

from flask_mercure.client.answer import reason
from flask_mercure.client.session import Reply, ask
from flask_mercure.errors import HubUnreachable, MercureError, TokenUnavailable
from flask_mercure.publishing import recorder
from flask_mercure.reading import presence
from flask_mercure.state import HubState
from flask_mercure.tokens import without_frames
from mercure_hub.protocol.update import EARLIEST

KEY = "mercure.positions"
"""Of the positions in ``app.extensions``, and of the known ones in the environment of a request."""

_TOPIC = "urn:flask-mercure:position"  # nobody publishes on it, and nobody subscribes to it
_PATIENCE = 1.0
_PAUSE = 5.0
_LONG_PAUSE = 600.0
_MAX_ANSWER = 1 << 20

_log = logging.getLogger("flask_mercure")


class Position:
    """Asks one hub for its position.

    :param hub: of an app.
    :param clock: monotonic time in seconds.
    """

    def __init__(self, hub: HubState, clock: Callable[[], float] = time.monotonic) -> None:
        self._hub = hub
        self._clock = clock
        self._not_before = float("-inf")
        self._is_foreign = False

    def get(self) -> str | None:
        """The id of the newest update; ``earliest`` without updates; ``None`` if the hub does not tell.

        Each request waits a second at most. A hub that is empty, or not of this project, is also asked once
        whether it takes batches, within the configured timeouts. After a failure, no hub is asked for five
        seconds.
        """
        if self._clock() < self._not_before:
            return None
        try:
            return self._ask()
        except MercureError as error:
            self._pause(_PAUSE, str(error))
        return None

    def _pause(self, seconds: float, why: str) -> None:
        self._not_before = self._clock() + seconds
        _log.warning(
            "the position of the hub %r is unknown, so pages may miss updates until their stream is open: %s",
            self._hub.name,
            why,
        )

    def _ask(self) -> str | None:
        if not self._is_foreign:
            position = self._from_head()
            if position not in (None, EARLIEST) or self._hub.publisher.takes_batches():
                return position
            # The reference implementation answers with "earliest" whatever it has.
            self._is_foreign = True
        position = self._from_subscriptions()
        if position is None:
            self._is_foreign = False  # after the pause, another hub may answer there
            self._pause(_LONG_PAUSE, "it is not a hub of this project, and shows no active subscriptions")
        return position

    def _from_head(self) -> str | None:
        configuration = self._hub.configuration
        parameter = "topic" if configuration.protocol == "0.x" else "match"
        headers = {"Last-Event-ID": "", "Accept": "text/event-stream"}
        response = self._send("HEAD", f"{configuration.url}?{parameter}={_TOPIC}", headers, [_TOPIC])
        if response.status_code in (requests.codes.method_not_allowed, requests.codes.not_implemented):
            return None  # not a hub of this project
        if response.status_code != requests.codes.ok:
            said = reason(response, b"")
            raise HubUnreachable(f"it answered {response.status_code}" + (f" ({said})" if said else ""))
        position = response.headers.get("Mercure-Last-Event-ID")
        return None if position is None else position.encode("latin-1").decode("utf-8", "replace")

    def _from_subscriptions(self) -> str | None:
        configuration = self._hub.configuration
        wanted = presence.resource(_TOPIC, configuration)
        headers = {"Accept": "application/json, application/ld+json"}
        url = presence.address(wanted, configuration)
        response = self._send("GET", url, headers, presence.token_topics(wanted, configuration))
        if response.status_code != requests.codes.ok:
            return None
        try:
            return presence.cursor(response, json.loads(response.body))
        except (ValueError, RecursionError):
            return None

    @without_frames
    def _send(self, method: str, url: str, headers: dict[str, str], topics: list[str]) -> Reply:
        configuration = self._hub.configuration
        authorized = {**headers, "Authorization": f"Bearer {self._token(topics)}"}
        session = self._hub.publisher.session
        reply = ask(
            session, method, url, configuration, headers=authorized, most=_MAX_ANSWER, timeout=_PATIENCE
        )
        if isinstance(reply, Exception):
            raise HubUnreachable(f"{configuration.url} does not answer within {_PATIENCE:g} s")
        return reply

    def _token(self, topics: list[str]) -> str:
        configuration = self._hub.configuration
        if not configuration.gives_tokens:
            return self._hub.publisher.token()
        try:
            return configuration.tokens.create(topics, None, configuration.own_claims)
        except MercureError:
            raise
        except Exception as error:
            setting = configuration.setting("TOKEN_FACTORY")
            raise TokenUnavailable(
                f"no token to ask with: {setting} raised {type(error).__name__}"
            ) from error


def position(app: Flask, hub: HubState) -> str | None:
    """The position of a hub; during one request the answer stays that of the first call.

    :param app: of the hub, whose context is active.
    :param hub: to ask.
    """
    if recorder.is_recording():
        return None  # a test without a hub
    known: dict[str, str | None] = request.environ.setdefault(KEY, {}) if has_request_context() else {}
    if hub.name not in known:
        positions: dict[str, Position] = app.extensions.setdefault(KEY, {})
        known[hub.name] = positions.setdefault(hub.name, Position(hub)).get()
    return known[hub.name]
