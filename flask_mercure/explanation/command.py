"""``flask mercure explain``: the command, and how a user becomes the current one."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click
import requests
from flask import Flask, current_app, g
from flask.cli import with_appcontext

from flask_mercure.client.session import Reply, ask
from flask_mercure.errors import ConfigurationError, HubUnreachable, MercureError
from flask_mercure.explanation.selection import Selection, selection, shown
from flask_mercure.grants import Grants, cookie_of, create_token
from flask_mercure.reading.subscriber import Subscription
from flask_mercure.state import HubState, state_of
from flask_mercure.tokens import without_frames
from flask_mercure.topics import EVERYTHING, Topics, matchers, subscription_url
from mercure_hub.protocol.event_stream import Event

_MAX_ANSWER = 1 << 16
_PATIENCE = 1.5  # seconds for the newest update of a topic
_LONG_AGO = 1  # seconds since the epoch
_PROBLEM = "urn:flask-mercure:problem:"
_REVOKED = (
    "tokens of this user were revoked: a page with an older one gets nothing until the app gives it "
    "a new cookie (sign in again, or load a page of the app)"
)


@click.command("explain")
@click.option("--hub", "name", metavar="NAME", help="One of MERCURE_HUBS; default: the default one.")
@click.option("--user", metavar="ID", help="The user's id; default: a visitor who is not signed in.")
@click.argument("topic")
@with_appcontext
def explain(name: str | None, user: str | None, topic: str) -> None:
    """Say why a user gets the private updates of a TOPIC, or why not.

    Calls the app's subscribe_grants function as in a request of that user, and asks the hub whether it
    takes such a token. The status is 1 if the user does not get them.
    """
    try:
        gets_it = _explain(state_of(current_app).hub(name), user, topic)
    except MercureError as error:
        raise click.ClickException(str(error)) from error
    sys.exit(0 if gets_it else 1)


def _explain(state: HubState, user: str | None, topic: str) -> bool:
    configuration = state.configuration
    (wanted,) = matchers([topic], configuration.protocol, "topic")
    app: Flask = current_app._get_current_object()  # type: ignore[attr-defined]
    with _as_user(app, state, user) as how:
        _say("user", f"{user}, {how}" if user else "nobody is signed in")
        cookie = cookie_of(app, state.name)
        if cookie is None:
            raise ConfigurationError(
                "nothing says what users may read: register a function with @mercure.subscribe_grants"
            )
        grants = cookie.current()
        if grants is None:
            _say("grants", "subscribe_grants gives None: no cookie, and so no private updates")
            return False
        granted = matchers(grants.topics, configuration.protocol, "topics")
        _say("grants", ", ".join(map(shown, granted)) or "subscribe_grants gives no topics")
        found = selection(str(wanted), granted, configuration.public_url)
        _say("topic", _of_selection(topic, found))
        is_accepted = _of_hub(state, grants)
    _of_newest(state, grants, topic)
    return found.by is not None and is_accepted


def _say(subject: str, words: str) -> None:
    click.echo(f"{subject:9}{words}")


def _of_selection(topic: str, found: Selection) -> str:
    if found.by is not None:
        return f"{topic!r} is selected by {shown(found.by)}"
    words = f"{topic!r} is selected by none of them"
    if found.near is not None:
        words += f". The nearest is {shown(found.near)}: it {found.why}"
    if found.skipped:
        words += f"; {found.skipped} patterns cannot be evaluated without the extra hub"
    return words


def _of_hub(state: HubState, grants: Grants) -> bool:
    """Ask the hub whether it takes the user's token, and one that was issued long ago."""
    problem = _refusal(state, grants)
    if problem is not None:
        _say("hub", f"refuses a new token of this user: {problem}")
        return False
    _say("hub", "takes a new token of this user")
    if _refusal(state, grants, iat=_LONG_AGO) == "token-revoked":
        _say("revoked", _REVOKED)
    return True


@without_frames
def _refusal(state: HubState, grants: Grants, **claims: Any) -> str | None:
    """Why the hub refuses a token with these grants; ``None`` if it does not."""
    configuration = state.configuration
    token = _token(state, grants, **claims)
    url = subscription_url(configuration.url, configuration.protocol, ["urn:flask-mercure:explain"])
    headers = {"Authorization": f"Bearer {token}", "Accept": "text/event-stream"}
    problem = ""
    for method in ("HEAD", "GET"):  # an answer to HEAD does not say why
        reply = ask(state.publisher.session, method, url, configuration, headers=headers, most=_MAX_ANSWER)
        if isinstance(reply, Exception):
            raise HubUnreachable(f"{configuration.url} does not answer. Does the hub run?")
        if reply.status_code == requests.codes.ok:
            return None
        problem = _problem(reply)
    return problem


def _problem(reply: Reply) -> str:
    try:
        problem = json.loads(reply.body)["type"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return f"{reply.status_code}"
    return str(problem).removeprefix(_PROBLEM)


def _token(state: HubState, grants: Grants, **claims: Any) -> str:
    """A token as in the user's cookie, which may also be sent to the hub's URL for the app."""
    own = {**state.configuration.own_claims, **(grants.additional_claims or {}), **claims}
    return create_token(
        state,
        grants.topics,
        additional_claims=own,
        lifetime=grants.lifetime,
        payload=grants.payload,
        user=grants.user,
    )


def _of_newest(state: HubState, grants: Grants, topic: str) -> None:
    """Whether the newest update of the topic was private, and reaches the user; a hub may not tell."""
    newest = _newest(state, topic, Grants(EVERYTHING))
    if newest is None:
        _say("update", "the hub has none on this topic, or does not say")
    elif _is_same(newest, _newest(state, topic, Grants(()))):
        _say("update", f"the newest one, {newest.id}, is public: everybody who can connect gets it")
    elif _is_same(newest, _newest(state, topic, grants)):
        _say("update", f"the newest one, {newest.id}, is private, and the hub gives it to this user")
    else:
        _say("update", f"the newest one, {newest.id}, is private, and the hub keeps it from this user")


def _is_same(one: Event, other: Event | None) -> bool:
    return other is not None and one.id == other.id


def _newest(state: HubState, topic: Topics, grants: Grants) -> Event | None:
    """The newest update of a topic that a token with some grants lets through."""
    configuration = state.configuration
    try:
        with Subscription(
            subscription_url(configuration.url, configuration.protocol, topic, last_value=True),
            lambda: _token(state, grants),
            verify=configuration.verify_tls,
            connect_timeout=configuration.connect_timeout,
            timeout=_PATIENCE,
        ) as events:
            return next(events, None)
    except MercureError:
        return None


@contextmanager
def _as_user(app: Flask, state: HubState, user: str | None) -> Iterator[str]:
    """A request of a user; gives how the user became the current one.

    :raises ConfigurationError: the app has no way that is known.
    """
    headers: dict[str, str] = {}
    sign_in: Callable[[str], object] | None = None
    how = ""
    cookie = cookie_of(app, state.name)
    if user is not None:
        if cookie is not None and cookie.sign_in is not None:
            sign_in, how = cookie.sign_in, "by the app's function of explain_user"
        elif hasattr(app, "login_manager"):
            sign_in, how = _flask_login, "loaded by Flask-Login"
        elif "flask-jwt-extended" in app.extensions:
            headers, how = _jwt(app, user), "with a token of Flask-JWT-Extended"
        else:
            raise ConfigurationError(
                "how does a user sign in? The app has neither Flask-Login nor Flask-JWT-Extended: register a "
                "function that is given the id and does what a login does, such as\n\n"
                "    @mercure.explain_user\n    def sign_in(user_id):\n        session['user'] = user_id"
            )
    with app.test_request_context("/", headers=headers):
        if sign_in is not None and user is not None:
            app.ensure_sync(sign_in)(user)
        yield how


def _flask_login(user: str) -> None:
    """Make a user the current one, as the loader of the app finds it; nothing is signalled or stored."""
    found = current_app.login_manager._user_callback(user)  # type: ignore[attr-defined]
    if found is None:
        raise ConfigurationError(f"there is no user {user!r}: the user_loader of Flask-Login gives None")
    g._login_user = found


def _jwt(app: Flask, user: str) -> dict[str, str]:
    from flask_jwt_extended import create_access_token  # noqa: PLC0415

    with app.app_context():
        token = create_access_token(user)
        locations = app.config.get("JWT_TOKEN_LOCATION", ["headers"])
        if "headers" in locations:
            kind = app.config.get("JWT_HEADER_TYPE", "Bearer")
            return {app.config.get("JWT_HEADER_NAME", "Authorization"): f"{kind} {token}".strip()}
        return {"Cookie": f"{app.config.get('JWT_ACCESS_COOKIE_NAME', 'access_token_cookie')}={token}"}
