"""Where a hub is: the id of its newest update, after which a page lets its stream begin.

A hub of this project answers ``HEAD`` with it. Others tell it with the active subscriptions, where they have
that feature, and otherwise not at all. A page does not wait long for it, and does without when there is none.
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
"""Of the objects in ``app.extensions``, and of what a request has learned, in its environment."""

_TOPIC = "urn:flask-mercure:position"  # nobody publishes on it, and nobody subscribes to it
_PATIENCE = 1.0
_PAUSE = 5.0
_LONG_PAUSE = 600.0
_MAX_ANSWER = 1 << 20

_log = logging.getLogger("flask_mercure")


class Position:
    """Asks one hub where it is.

    :param hub: of an app.
    :param clock: monotonic time in seconds.
    """

    def __init__(self, hub: HubState, clock: Callable[[], float] = time.monotonic) -> None:
        self._hub = hub
        self._clock = clock
        self._not_before = float("-inf")
        self._is_foreign = False

    def get(self) -> str | None:
        """The id of the newest update, ``earliest`` when there is none, ``None`` when the hub does not tell.

        Each request for it waits a second at most. A hub without updates, or of others, is also asked once
        what it can do, within the configured timeouts. After a failure it is left alone for five seconds.
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
            "pages begin with the next update, and may miss one until their stream is open, because the "
            "position of the hub %r is not known: %s",
            self._hub.name,
            why,
        )

    def _ask(self) -> str | None:
        if not self._is_foreign:
            found = self._from_head()
            if found not in (None, EARLIEST) or self._hub.publisher.takes_batches():
                return found
            # The reference implementation answers with "earliest" whatever it has.
            self._is_foreign = True
        found = self._from_subscriptions()
        if found is None:
            self._is_foreign = False  # it may have been replaced until then
            self._pause(_LONG_PAUSE, "it is none of this project's, and shows no active subscriptions")
        return found

    def _from_head(self) -> str | None:
        read = self._hub.configuration
        parameter = "topic" if read.protocol == "0.x" else "match"
        headers = {"Last-Event-ID": "", "Accept": "text/event-stream"}
        response = self._send("HEAD", f"{read.url}?{parameter}={_TOPIC}", headers, [_TOPIC])
        if response.status_code in (requests.codes.method_not_allowed, requests.codes.not_implemented):
            return None  # a hub of others
        if response.status_code != requests.codes.ok:
            said = reason(response, b"")
            raise HubUnreachable(f"it answered {response.status_code}" + (f" ({said})" if said else ""))
        found = response.headers.get("Mercure-Last-Event-ID")
        return None if found is None else found.encode("latin-1").decode("utf-8", "replace")

    def _from_subscriptions(self) -> str | None:
        read = self._hub.configuration
        wanted = presence.resource(_TOPIC, read)
        headers = {"Accept": "application/json, application/ld+json"}
        url = presence.address(wanted, read)
        response = self._send("GET", url, headers, presence.token_topics(wanted, read))
        if response.status_code != requests.codes.ok:
            return None
        try:
            return presence.cursor(response, json.loads(response.body))
        except (ValueError, RecursionError):
            return None

    @without_frames
    def _send(self, method: str, url: str, headers: dict[str, str], topics: list[str]) -> Reply:
        read = self._hub.configuration
        authorized = {**headers, "Authorization": f"Bearer {self._token(topics)}"}
        session = self._hub.publisher.session
        reply = ask(session, method, url, read, headers=authorized, most=_MAX_ANSWER, timeout=_PATIENCE)
        if isinstance(reply, Exception):
            raise HubUnreachable(f"{read.url} does not answer within {_PATIENCE:g} s")
        return reply

    def _token(self, topics: list[str]) -> str:
        read = self._hub.configuration
        if not read.gives_tokens:
            return self._hub.publisher.token()
        try:
            return read.tokens.create(topics, None, read.own_claims)
        except MercureError:
            raise
        except Exception as error:
            raise TokenUnavailable(
                f"no token to ask with: {read.setting('TOKEN_FACTORY')} raised {type(error).__name__}"
            ) from error


def position(app: Flask, hub: HubState) -> str | None:
    """Where a hub is; during one request the answer stays that of the first call.

    :param app: of the hub, whose context is active.
    :param hub: to be asked.
    """
    if recorder.is_recording():
        return None  # a test without a hub
    known: dict[str, str | None] = request.environ.setdefault(KEY, {}) if has_request_context() else {}
    if hub.name not in known:
        positions: dict[str, Position] = app.extensions.setdefault(KEY, {})
        known[hub.name] = positions.setdefault(hub.name, Position(hub)).get()
    return known[hub.name]
