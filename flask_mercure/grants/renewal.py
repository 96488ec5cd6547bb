"""The authorization cookie on responses: given, renewed, changed and taken away with the user."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from typing import Any, ParamSpec, TypeVar, overload

from flask import Flask, Response, current_app, request
from flask.globals import request_ctx
from werkzeug.http import dump_cookie

from flask_mercure.cookies import keep_private, replace_cookie
from flask_mercure.errors import ConfigurationError, CookieError, MercureError
from flask_mercure.grants.access import GivesAccess
from flask_mercure.grants.grant import Grants, as_grants
from flask_mercure.grants.mark import digest, is_of_another, seal, sealed_times, visitor
from flask_mercure.state import HubState, state_of
from flask_mercure.tokens import expiry

_P = ParamSpec("_P")
_R = TypeVar("_R")
_Callback = TypeVar("_Callback", bound=Callable[[], Any])

_NOT_OURS = "0"
"""In place of a digest: a cookie that a view has set itself. No digest is equal to it."""

_REST = 1 / 3
"""Of a token's lifetime: with less than this left, the cookie is renewed."""


class FollowsUsers(GivesAccess):
    """The part of :class:`flask_mercure.Hub` whose cookie follows the user (spec, Cookie)."""

    _name: str | None

    def __init__(self) -> None:
        self._grants: Callable[[], Any] | None = None
        self._is_automatic = True

    @property
    def has_grants(self) -> bool:
        """Whether something is registered with :meth:`subscribe_grants`."""
        return self._grants is not None

    @overload
    def subscribe_grants(self, callback: _Callback, /) -> _Callback: ...

    @overload
    def subscribe_grants(self, *, automatic: bool = True) -> Callable[[_Callback], _Callback]: ...

    def subscribe_grants(self, callback: Any = None, *, automatic: bool = True) -> Any:
        """Register what tells which topics the current user may read.

        The callback takes no argument and is called in the context of the request, after its view. It returns
        topics, :class:`~flask_mercure.Grants`, or ``None`` for a visitor who gets no cookie. The cookie is
        then set when the browser has none, is renewed in the last third of its life, is replaced when the
        user or the topics are others, and is deleted when there is no user any more; other responses
        stay as they are. What a view sets with :meth:`set_cookie` wins in its response.

        What the callback raises is logged, and the response left as it is, but for the cookie of an earlier
        user; in tests and debug mode it is raised, but not in place of an error.

        :param callback: the function; the decorator can be used without parentheses.
        :param automatic: whether each response may give the cookie; ``False``: only views with
            :meth:`subscriber` give it, and all responses still replace or delete it.
        """

        def register(function: _Callback) -> _Callback:
            self._grants = function
            self._is_automatic = automatic
            return function

        return register if callback is None else register(callback)

    def subscriber(self, view: Callable[_P, _R]) -> Callable[_P, _R]:
        """Have a view give the browser the cookie, with what :meth:`subscribe_grants` tells.

        Needed with ``subscribe_grants(automatic=False)``; put it below ``@app.route``.

        :param view: whose page opens a stream.
        """

        @wraps(view)
        def with_cookie(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            if self._grants is None:
                raise ConfigurationError(
                    f"the view {view.__name__!r} has @mercure.subscriber, and nothing tells what its "
                    "visitor may read: register a function with @mercure.subscribe_grants, on the same hub"
                )
            _wanted().add(self._name)
            result: _R = current_app.ensure_sync(view)(*args, **kwargs)
            return result

        return with_cookie

    def _renew(self, response: Response, callback: Callable[[], Any]) -> None:
        """Bring the cookie of this hub up to date, after a request."""
        state = self._state
        mark = request.cookies.get(_mark_name(state))
        given = state.configuration.cookie.is_set(response.headers)
        if given is not None:
            _follow(state, response, given)
        elif mark is not None or self._is_automatic or self._name in _wanted():
            try:
                grants = as_grants(current_app.ensure_sync(callback)())
            except Exception:
                is_other = mark is not None and is_of_another(mark, visitor())
                if is_other:
                    self._take(state, response)
                if _is_for_developers(response):
                    raise
                current_app.logger.exception(
                    "The function of subscribe_grants failed for %s; the Mercure cookie %s",
                    request.path,
                    "is deleted: the user is another one" if is_other else "stays as it is",
                )
                return
            if grants is not None:
                self._give(state, response, grants, mark)
            elif mark is not None:
                self._take(state, response)

    def _give(self, state: HubState, response: Response, grants: Grants, mark: str | None) -> None:
        """The cookie for a user, unless the mark shows that the browser has just this one."""
        is_other = mark is not None
        try:
            content = digest(grants, state.name, state.configuration)
            times = None if mark is None else sealed_times(mark, content)
            if times is not None:
                is_other = False
                start, end = times
                if end - time.time() > (end - start) * _REST:
                    return
            self.set_cookie(
                response,
                grants.topics,
                payload=grants.payload,
                additional_claims=grants.additional_claims,
                lifetime=grants.lifetime,
            )
        except Exception as error:  # of a token factory of the app's own, too
            if is_other:  # what the browser has may be of another user
                self._take(state, response)
            if _is_for_developers(response):
                raise
            is_ours = isinstance(error, MercureError)
            current_app.logger.error(
                "The Mercure cookie was not set for %s: %s",
                request.path,
                error if is_ours else type(error).__name__,
                exc_info=None if is_ours else error,
            )
            return
        token = state.configuration.cookie.is_set(response.headers) or ""
        _set_mark(state, response, content, expiry(token))

    def _take(self, state: HubState, response: Response) -> None:
        """Have the browser delete the cookie; where none can be, there is nothing to delete."""
        with suppress(CookieError):
            self.clear_cookie(response)
        _set_mark(state, response, "", 0)


def renew_all(hubs: Iterable[FollowsUsers], response: Response) -> None:
    """Bring the cookies of an app's hubs up to date, after a request.

    :param hubs: those with :meth:`FollowsUsers.subscribe_grants` that the app has are looked after.
    :param response: to the request. Answers that no view has made are left alone, and so are static files and
        errors of the server, after which a database may not answer the app's function either.
    """
    endpoint = request.endpoint
    if endpoint is None or endpoint.rpartition(".")[2] == "static" or request.method == "OPTIONS":
        return
    if response.status_code >= 500:
        return
    there = state_of(current_app).hubs
    seen: set[str] = set()
    for hub in hubs:
        if hub._grants is None or (hub._name is not None and hub._name not in there):
            continue
        name = hub._state.name
        if name in seen:
            problem = f"the hub {name!r} has subscribe_grants twice, with and without its name"
            if _is_for_developers(response):
                raise ConfigurationError(problem)
            current_app.logger.error("%s: the first one counts", problem)
            continue
        seen.add(name)
        with _session_unread():
            hub._renew(response, hub._grants)


def keep_cookies_private(app: Flask, response: Response, **_: object) -> None:
    """Keep a response with the cookie out of shared caches, whatever the app's own hooks made of it since.

    For Flask's signal ``request_finished``, which comes after all of them.

    :param app: that made the response.
    :param response: as it goes out.
    """
    hubs = state_of(app).hubs.values()
    if any(hub.configuration.cookie.is_set(response.headers) is not None for hub in hubs):
        keep_private(response.headers)


def _is_for_developers(response: Response) -> bool:
    """Whether an error of ours may take the place of a response: not of one that tells of an error itself."""
    is_error = response.status_code >= 400
    return (current_app.debug or current_app.testing) and not is_error


@contextmanager
def _session_unread() -> Iterator[None]:
    """What is read of the session here does not make the response depend on it.

    Flask adds ``Vary: Cookie`` to the response of a session that was read. This one is as the view made it;
    where it gets a cookie, that adds the header (RFC 9110 section 12.5.5).
    """
    # Not flask.session, whose mere use counts as reading.
    context = vars(request_ctx._get_current_object())  # type: ignore[attr-defined]
    held = context.get("_session", context.get("session"))
    was_read = getattr(held, "accessed", True)
    try:
        yield
    finally:
        if not was_read:
            held.accessed = False


def _follow(state: HubState, response: Response, token: str) -> None:
    """A view has set or cleared the cookie itself: the next response compares it with the grants."""
    if token:
        _set_mark(state, response, _NOT_OURS, expiry(token))
    elif _mark_name(state) in request.cookies:
        _set_mark(state, response, "", 0)


def _wanted() -> set[str | None]:
    """The hubs whose cookie the view of this request gives."""
    # not in g, which is that of an outer app context if there is one
    found: set[str | None] = request.environ.setdefault("flask_mercure.subscriber", set())
    return found


def _mark_name(state: HubState) -> str:
    return f"mercure_grants_{state.name}"


def _set_mark(state: HubState, response: Response, content: str, end: float | None) -> None:
    """The mark beside the cookie, for the paths of the app, as its session.

    :param end: of the token; ``None`` for a cookie that ends with the browser's session, 0 deletes the mark.
    """
    sessions = current_app.session_interface
    policy = state.configuration.cookie
    now = time.time()
    last = now + state.configuration.lifetime if end is None else end
    line = dump_cookie(
        _mark_name(state),
        "" if end == 0 else seal(math.floor(now), math.floor(last), visitor(), content),
        max_age=None if end is None else max(0, math.floor(end - now)),
        expires=0 if end == 0 else None,
        path=sessions.get_cookie_path(current_app),
        domain=sessions.get_cookie_domain(current_app),
        secure=policy.secure,
        httponly=True,
        samesite="None" if policy.partitioned else "Lax",
    ) + ("; Partitioned" if policy.partitioned else "")
    replace_cookie(response.headers, line)
