"""Ending access at once: the request to the hub, and what a logout ends (docs/protocol.md, Revocations)."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import urlencode

import requests
from flask import Flask, Response, has_request_context, request

from flask_mercure.client.answer import reason
from flask_mercure.client.session import Reply, ask
from flask_mercure.errors import HubUnreachable, InvalidArgument, MercureError, Refused
from flask_mercure.publishing import recorder
from flask_mercure.state import HubState
from flask_mercure.tokens import User, subject, without_frames
from flask_mercure.topics import Topics, matchers
from mercure_hub.protocol.tokens.claims import DETAILS, OLD_CLAIM, REVOCATION_TYPE, REVOKE

KEY = "flask_mercure.revoked"
"""Of the users that a request has revoked, in its environment, each with the name of the hub."""

_PATH = "/revocations"
_LIFETIME = 30 * 86400  # seconds for which a hub keeps a revocation unless it is told
_LONGEST = 366 * 86400.0  # for which it can
_MARGIN = 60  # seconds by which clocks may differ
_MAX_ANSWER = 1 << 16

_log = logging.getLogger("flask_mercure")


@dataclass(frozen=True, slots=True)
class Session:
    """A browser's tokens, from a login to a logout.

    :param sid: claim of the tokens (OpenID Connect).
    :param end: of the last of them, in seconds since the epoch.
    """

    sid: str
    end: float


def revoke(
    state: HubState,
    user: User | None = None,
    topics: Topics = (),
    *,
    sid: str | None = None,
    jti: str | None = None,
    lifetime: float | timedelta | None = None,
) -> None:
    """Have the hub refuse tokens; arguments and errors are those of :meth:`flask_mercure.Mercure.revoke`."""
    configuration = state.configuration
    named = (("sub", user, "user"), ("sid", sid, "sid"), ("jti", jti, "jti"))
    ids = {claim: subject(id, argument) for claim, id, argument in named if id is not None}
    fields = list(ids.items())
    wanted = [str(topic) for topic in matchers(topics, configuration.protocol, "topics")]
    if not fields:
        raise InvalidArgument("revoke needs a user, a token (jti) or a session (sid)")
    if user is None and wanted:
        raise InvalidArgument("topics belongs to user: a token or a session ends as a whole")
    if user is not None and len(fields) > 1:
        raise InvalidArgument("name a user, a session or a token, one at a time")
    fields += [("topic", topic) for topic in wanted]
    if user is not None:
        fields.append(("before", repr(time.time())))
    if lifetime is not None:
        fields.append(("lifetime", repr(_seconds(lifetime))))
    elif configuration.lifetime > _LIFETIME:
        fields.append(("lifetime", repr(min(configuration.lifetime, _LONGEST))))
    if recorder.is_recording():
        recorder.take_revocation(
            recorder.RecordedRevocation(
                ids.get("sub"), tuple(wanted), ids.get("sid"), ids.get("jti"), state.name
            )
        )
    else:
        _post(state, fields)
    if user is not None and has_request_context():
        request.environ.setdefault(KEY, set()).add((state.name, ids["sub"]))


def _seconds(lifetime: float | timedelta) -> float:
    value = lifetime.total_seconds() if isinstance(lifetime, timedelta) else lifetime
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"lifetime is {lifetime!r}; give seconds or a timedelta")
    if not 0 < value < float("inf"):
        raise InvalidArgument(f"lifetime is {lifetime!r}; give a number of seconds above 0")
    return float(value)


@without_frames
def _post(state: HubState, fields: Sequence[tuple[str, str]]) -> None:
    configuration = state.configuration
    headers = {
        "Authorization": f"Bearer {_token(state)}",
        "Content-Type": "application/x-www-form-urlencoded",
    }
    url = configuration.url.rstrip("/") + _PATH
    content = urlencode(fields).encode()
    session = state.publisher.session
    reply = ask(session, "POST", url, configuration, headers=headers, content=content, most=_MAX_ANSWER)
    if isinstance(reply, Exception):
        raise HubUnreachable(
            f"no answer from {url} ({configuration.setting('URL')}): the access may not have been ended; "
            "calling again does no harm",
            possibly_published=False,
        )
    if reply.status_code != requests.codes.no_content:
        raise Refused(_refusal(reply, url), reply.status_code)


def _token(state: HubState) -> str:
    """A token that allows this and nothing else, where the app makes its tokens itself."""
    configuration = state.configuration
    if not configuration.makes_publisher_tokens:
        return state.publisher.token()
    right: dict[str, Any] = {DETAILS: [{"type": REVOCATION_TYPE, "actions": [REVOKE]}]}
    if configuration.protocol == "0.x":
        right = {OLD_CLAIM: {REVOKE: True}}
    # A topic that nobody uses makes it a publisher's token.
    return configuration.tokens.create(None, [REVOCATION_TYPE], {**configuration.own_claims, **right})


def _refusal(reply: Reply, url: str) -> str:
    said = reason(reply, reply.body)
    answered = f"{url} answered {reply.status_code}" + (f" ({said})" if said else "")
    match reply.status_code:
        case requests.codes.not_found | requests.codes.method_not_allowed:
            return (
                f"{answered}: the hub ends no access. In this project's hub set MERCURE_REVOCATIONS=1; other "
                "hubs do not have it"
            )
        case requests.codes.forbidden:
            return (
                f"{answered}: a token of the app's own, from MERCURE_JWT, MERCURE_TOKEN_PROVIDER or "
                f"MERCURE_TOKEN_FACTORY, needs an authorization detail of the type {REVOCATION_TYPE!r} with "
                f"the action {REVOKE!r}"
            )
    return f"{answered}; its log has the cause"


def end_later(app: Flask, state: HubState, sessions: Sequence[Session], response: Response) -> None:
    """End sessions once a response has been sent: it is not delayed, and has the new cookie if there is one.

    What fails is logged.

    :param app: of the hub.
    :param sessions: of browsers.
    :param response: to be sent.
    """

    def end() -> None:
        with app.app_context():  # a factory of the app's own may need it
            for session in sessions:
                _end(state, session)

    if recorder.is_recording():  # the client of a test closes no response
        end()
    else:
        response.call_on_close(end)


def _end(state: HubState, session: Session) -> None:
    left = min(session.end - time.time() + _MARGIN, _LONGEST)
    if left <= 0:
        return
    try:
        revoke(state, sid=session.sid, lifetime=left)
    except Exception as error:  # of a token factory of the app's own, too
        is_ours = isinstance(error, MercureError)
        _log.error(
            "a browser's access was not ended, and its token stays valid for %.0f s: %s",
            left - _MARGIN,
            error if is_ours else type(error).__name__,
            exc_info=None if is_ours else error,
        )
