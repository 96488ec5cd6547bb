"""Tokens and the authorization cookie: given by a view, or following the current user.

The cookie with the access token goes to the hub's path, so the app does not see it again. Beside it the app
gives the browser a *mark* for its own paths, which ends with the token and holds nothing but that end and
keyed digests: of the user, and of what was granted and to whom. When these differ in the next request, the
cookie is another user's, or not what the app would grant now.

A second mark, which scripts can read, tells the pages of two users apart: see :func:`_set_identity`.

With ``MERCURE_REVOKE_ON_LOGOUT`` the tokens of a browser have a ``sid`` from its login to its logout, by
which the hub can end them. The mark then has what the app makes it of: nobody can make that of another.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import math
import re
import secrets
import sys
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from flask import Flask, Response, current_app, g, has_request_context, request, session
from flask.globals import request_ctx
from flask.json.tag import TaggedJSONSerializer
from werkzeug.datastructures import Headers
from werkzeug.http import dump_cookie
from werkzeug.wrappers import Response as BaseResponse

from flask_mercure import revocation
from flask_mercure.config.settings import Configuration
from flask_mercure.cookies import CookiePolicy, host_of, identity_cookie, keep_private, replace_cookie
from flask_mercure.errors import ConfigurationError, CookieError, InvalidArgument, MercureError, TokenError
from flask_mercure.state import HubState, MercureState, state_of
from flask_mercure.tokens import User, expiry, subject, without_frames
from flask_mercure.topics import EVERYTHING, Topics, URITemplate, URLPattern, as_list, matchers
from mercure_hub.protocol.errors import InvalidRequest
from mercure_hub.protocol.topics import MatcherType

_P = ParamSpec("_P")
_R = TypeVar("_R")

_MARK = re.compile(r"(\d{1,15})-(\d{1,15})\.([\w-]{24})\.(?:([\w-]{24})\.([\w-]{12})\.([\w-]*)\.)?", re.ASCII)
_UNKNOWN = "-" * 24
_NOBODY = "-" * 12
"""In place of a digest of a user's name."""
_TOPIC = 8
"""Characters of the digest of a topic."""
_MANY = 32
"""Topics of which the mark tells each one."""
_UNNAMED = re.compile(r"([\w-]{16})\.([\w-]*)\.([\w-]{8})", re.ASCII)
"""A mark of a user whom nobody names: a random part, what the cookie grants, and the session."""
_REMEMBERED = 31 * 24 * 3600
"""Seconds for which browsers keep whose cookie they had."""
_NOT_OURS = "0"
"""In place of a digest: a cookie that a view has set itself. No digest is equal to it."""
KEY = "mercure.cookies"
"""In ``app.extensions``, of what gives the cookie of a hub's users by the name of the hub."""
_DOMAIN = b"flask-mercure: what the authorization cookie grants"
_ENDED = "flask_mercure.ended"
"""Of the sessions that end with a request, in its environment."""
_CHANGING = frozenset({"_flashes", "_fresh", "_permanent", "csrf_token"})
"""Of a session, what says nothing about the user and changes while the user is the same."""
_RENEWED_BELOW = 1 / 3
"""Of a token's lifetime: with less than this left, the cookie is renewed."""


@dataclass(frozen=True, slots=True)
class Grants:
    """What the current user's browser may read; see :meth:`~flask_mercure.Mercure.subscribe_grants`.

    :param topics: whose private updates may be read, in the forms of
        :meth:`~flask_mercure.Mercure.set_cookie`; none at all makes a cookie that only connects.
    :param payload: shown with the active subscriptions, to everybody who may see those.
    :param user: whose grants they are, the ``sub`` of the token. Left out, Flask-Login or Flask-JWT-Extended
        tell it, or else the whole content of the session stands for it, and ``sub`` is random.
    :param additional_claims: replace or join those of the token.
    :param lifetime: seconds or a timedelta; default: ``MERCURE_TOKEN_LIFETIME``.
    """

    topics: Topics = ()
    payload: Any = None
    user: User | None = None
    additional_claims: Mapping[str, Any] | None = None
    lifetime: float | timedelta | None = None


def as_grants(answer: object) -> Grants | None:
    """The answer of a callback as grants.

    :param answer: topics in any of their forms, :class:`Grants`, or ``None``.
    :raises TypeError: it is something else, such as ``False``, whose meaning is unclear.
    """
    match answer:
        case None | Grants():
            return answer
        case str() | URLPattern() | Mapping():
            return Grants(answer)
        case list() | tuple() | set() | frozenset():
            return Grants(tuple(answer))
    raise TypeError(
        f"the callback of subscribe_grants gave a {type(answer).__name__}; it gives topics, Grants, or None "
        "for a visitor who gets no cookie"
    )


def ungranted(topics: Topics, grants: Grants, configuration: Configuration) -> list[str]:
    """Those of some topics whose private updates grants do not allow to be read.

    Patterns are only evaluated where the extra ``hub`` is installed; without it, the hub alone decides.

    :param topics: to subscribe to.
    :param grants: of the current user.
    :param configuration: of the hub.
    :raises InvalidArgument: a topic cannot be expressed, or the hub would refuse a pattern.
    """
    wanted = matchers(topics, configuration.protocol, "topics")
    allowed = matchers(grants.topics, configuration.protocol, "topics")
    if EVERYTHING in allowed:
        return []
    patterns = [one for one in allowed if isinstance(one, URLPattern | URITemplate)]
    left = [str(one) for one in wanted if one not in allowed]
    if not left or not patterns:
        return left
    try:
        # Loads compiled libraries.
        from mercure_hub.protocol.matching.matcher import make  # noqa: PLC0415
    except ModuleNotFoundError:
        return [one for one in left if one == EVERYTHING]
    try:
        made = [
            make(
                MatcherType.URLPATTERN if isinstance(one, URLPattern) else MatcherType.TEMPLATE,
                str(one),
                configuration.public_url,
            )
            for one in patterns
        ]
    except InvalidRequest as error:
        raise InvalidArgument(f"subscribe_grants gave a pattern that hubs refuse: {error.detail}") from None
    return [one for one in left if one == EVERYTHING or not any(each.matches(one) for each in made)]


def create_token(
    state: HubState,
    subscribe: Topics | None = None,
    publish: Topics | None = None,
    additional_claims: Mapping[str, Any] | None = None,
    *,
    lifetime: float | timedelta | None = None,
    payload: Any = None,
    user: User | None = None,
) -> str:
    """Make a token; arguments and errors are those of :meth:`flask_mercure.Mercure.create_token`."""
    claims = dict(additional_claims or {})
    if lifetime is not None:
        if "exp" in claims:
            raise InvalidArgument("give lifetime, or exp in additional_claims, not both")
        claims["exp"] = math.ceil(time.time() + _seconds(lifetime))
    if "sub" not in claims and (name := _subject(user)) is not None:
        claims["sub"] = name
    subscribe = as_list(subscribe, "subscribe")  # iterators are read once
    publish = as_list(publish, "publish")
    for topics, argument in ((subscribe, "subscribe"), (publish, "publish")):
        # Here, since a factory of the app's own cannot tell a user's "*" from all topics.
        matchers(topics, state.configuration.protocol, argument)
    token = state.configuration.tokens.create(subscribe, publish, claims, payload)
    state.readers.are_let_in = True
    return token


@without_frames
def set_cookie(
    state: HubState,
    response: BaseResponse,
    subscribe: Topics = (),
    *,
    publish: Topics | None = None,
    additional_claims: Mapping[str, Any] | None = None,
    lifetime: float | timedelta | None = None,
    payload: Any = None,
    user: User | None = None,
) -> None:
    """Add the cookie to a response; arguments and errors are those of :meth:`Mercure.set_cookie`."""
    subscribe = as_list(subscribe, "subscribe") or ()  # iterators are read once
    if state.configuration.revoke_on_logout:
        if "sid" in (additional_claims or {}):
            raise InvalidArgument(
                f"additional_claims has sid, and {state.configuration.setting('REVOKE_ON_LOGOUT')} is on: "
                "the extension names the session then"
            )
        login = _logins()[state.name] = _continued(state, subscribe, user)
        additional_claims = {**(additional_claims or {}), "sid": login.sid}
    host = host_of(request.host)
    if not request.is_secure and not state.configuration.cookie.is_delivered_over_http(host):
        _check_http(state.configuration.cookie, host)
    token = create_token(
        state, subscribe, publish, additional_claims, lifetime=lifetime, payload=payload, user=user
    )
    add_cookie(state, response.headers, host, token)
    _set_identity(state, response, subscribe, additional_claims or {}, user)


@without_frames
def add_cookie(state: HubState, headers: Headers, host: str, token: str) -> None:
    """Add the cookie with a token, which ends with the token, to the headers of a response.

    :param host: of the page, without port.
    :raises CookieError: a browser would refuse the cookie.
    :raises TokenError: it has expired, or is not a token.
    """
    end = expiry(token)
    max_age = None if end is None else math.floor(end - time.time())
    if max_age is not None and max_age <= 0:
        raise TokenError(f"the token has expired {-max_age} s ago; look at its exp claim and at lifetime")
    state.configuration.cookie.set(headers, host, token, max_age)


def clear_cookie(state: HubState, response: BaseResponse) -> None:
    """Have the browser delete the cookie.

    :raises CookieError: no browser can have the cookie from this host.
    """
    state.configuration.cookie.clear(response.headers, host_of(request.host))
    _mark_identity(state, response, "")


def _seconds(lifetime: object) -> float:
    if isinstance(lifetime, timedelta):
        lifetime = lifetime.total_seconds()
    if isinstance(lifetime, bool) or not isinstance(lifetime, int | float):
        raise TypeError(f"lifetime is {lifetime!r}; give seconds or a timedelta")
    if not math.isfinite(lifetime) or lifetime <= 0:
        raise InvalidArgument(f"lifetime is {lifetime!r}; give a number of seconds above 0")
    return lifetime


def _check_http(cookie: CookiePolicy, host: str) -> None:
    """A ``Secure`` cookie on a page that seems to come without TLS.

    It only seems so when a proxy ends TLS and the app has no ``ProxyFix``; then the cookie works. It
    cannot work when the hub has no TLS either.

    :raises CookieError: the hub has no TLS.
    """
    if cookie.public_url.startswith("https:"):
        current_app.logger.warning(
            "The Mercure cookie is Secure and this request to %s came over http. If a proxy ends TLS, use "
            "werkzeug's ProxyFix; if none does, browsers refuse the cookie.",
            host,
        )
        return
    raise no_tls(cookie, host)


def no_tls(cookie: CookiePolicy, host: str) -> CookieError:
    """The error of a ``Secure`` cookie for a hub without TLS.

    :param host: of the page, without port.
    """
    of = cookie.setting
    return CookieError(
        f"the page at {host!r} and the hub at {cookie.public_url} ({of('PUBLIC_URL')}) are not on https, and "
        "browsers refuse a Secure cookie there. For development without TLS open the page as "
        f"http://localhost, or set {of('COOKIE_SECURE')}=False and {of('COOKIE_NAME')}, in the hub too, to a "
        "name without the prefix __Secure-, such as mercure_access_token"
    )


@dataclass(slots=True)
class UserCookie:
    """The cookie of one hub that follows the user: given, renewed, replaced and deleted (spec, Cookie).

    :param hub: name of the hub; ``None`` for the default one.

    ``sign_in`` makes a user the current one; see :meth:`flask_mercure.Mercure.explain_user`.
    """

    hub: str | None
    sign_in: Callable[[str], object] | None = field(init=False, default=None)
    _callback: Callable[[], Any] | None = field(init=False, default=None)
    _is_automatic: bool = field(init=False, default=True)

    @property
    def is_used(self) -> bool:
        """Whether a callback tells what users may read."""
        return self._callback is not None

    def register(self, callback: Callable[[], Any], *, automatic: bool) -> None:
        """Use a callback; see :meth:`flask_mercure.Mercure.subscribe_grants`."""
        self._callback = callback
        self._is_automatic = automatic

    def given_by(self, view: Callable[_P, _R]) -> Callable[_P, _R]:
        """A view whose response gives the cookie, also where that is not automatic."""

        @wraps(view)
        def with_cookie(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            if self._callback is None:
                raise ConfigurationError(
                    f"the view {view.__name__!r} has @mercure.subscriber, and nothing says what its "
                    "visitor may read: register a function with @mercure.subscribe_grants, on the same hub"
                )
            _hubs_of_view().add(self.hub)
            result: _R = current_app.ensure_sync(view)(*args, **kwargs)
            return result

        return with_cookie

    def renew(self, state: HubState, response: Response) -> None:
        """Bring the cookie up to date, after a request.

        :param state: of the hub.
        :param response: gets the cookie.
        """
        mark = request.cookies.get(_mark_name(state))
        given = state.configuration.cookie.is_set(response.headers)
        if state.name in _given() and _given()[state.name] == given:
            return
        if given is not None:
            _mark_own_cookie(state, response, given)
        elif self._callback is not None and (
            mark is not None or self._is_automatic or self.hub in _hubs_of_view()
        ):
            try:
                grants = as_grants(current_app.ensure_sync(self._callback)())
            except Exception:
                is_other = mark is not None and _is_of_another(mark, _visitor())
                if is_other:
                    _take(state, response)
                if _is_for_developers(response):
                    raise
                current_app.logger.exception(
                    "The function of subscribe_grants failed for %s; the Mercure cookie %s",
                    request.path,
                    "is deleted: the user is another one" if is_other else "stays as it is",
                )
                return
            if grants is not None:
                _give(state, response, grants, mark)
            elif mark is not None:
                _take(state, response)

    def current(self) -> Grants | None:
        """What the current user may read; ``None`` for a visitor who gets no cookie.

        :raises ConfigurationError: no callback tells.
        :raises TypeError: its answer is of another type.
        """
        if self._callback is None:
            raise ConfigurationError(
                "nothing says what the current user may read: register a function with "
                "@mercure.subscribe_grants, on the same hub"
            )
        return as_grants(current_app.ensure_sync(self._callback)())

    def give(self, state: HubState, response: Response, grants: Grants) -> float | None:
        """Set the cookie anew, whatever the browser has.

        :param state: of the hub.
        :param response: gets the cookie.
        :param grants: of the current user.
        :returns: when it ends, in seconds since the epoch; ``None`` for a cookie without an end.
        :raises MercureError: it cannot be set.
        """
        end = _set_granted(state, response, grants)
        _given()[state.name] = state.configuration.cookie.is_set(response.headers)
        return end

    @without_frames
    def give_token(self, state: HubState, grants: Grants) -> tuple[str, float | None]:
        """Make a token for a page that sends it itself; its response leaves the cookie alone.

        :param state: of the hub.
        :param grants: of the current user.
        :returns: the token, and when it ends, in seconds since the epoch.
        :raises MercureError: it cannot be made.
        """
        _given()[state.name] = None
        claims = dict(grants.additional_claims or {})
        if state.configuration.revoke_on_logout:
            # Where there is a cookie, the token ends with it. Without one, nobody would notice a logout.
            login = _login_of(request.cookies.get(_mark_name(state), ""))
            if login is not None and not _is_of_another_account(login, _account(grants.user)):
                claims.setdefault("sid", login.sid)
        token = create_token(
            state,
            grants.topics,
            additional_claims=claims,
            lifetime=grants.lifetime,
            payload=grants.payload,
            user=grants.user,
        )
        return token, expiry(token)


def _given() -> dict[str, str | None]:
    """What the view of this request gave by itself: cookies by hub, ``None`` for a token without cookie."""
    given: dict[str, str | None] = request.environ.setdefault("flask_mercure.given", {})
    return given


def _set_granted(state: HubState, response: Response, grants: Grants) -> float | None:
    """Set the cookie for a user, with its mark; gives its end."""
    set_cookie(
        state,
        response,
        grants.topics,
        payload=grants.payload,
        additional_claims=grants.additional_claims,
        lifetime=grants.lifetime,
        user=grants.user,
    )
    end = expiry(state.configuration.cookie.is_set(response.headers) or "")
    _set_mark(state, response, _digest(grants, state.name, state.configuration), end)
    return end


def _give(state: HubState, response: Response, grants: Grants, mark: str | None) -> None:
    """The cookie for a user, unless the mark shows that the browser has just this one."""
    is_other = mark is not None
    try:
        content = _digest(grants, state.name, state.configuration)
        times = None if mark is None else _times_of(mark, content)
        if times is not None and mark is not None:
            is_other = False
            start, end = times
            is_fresh = end - time.time() > (end - start) * _RENEWED_BELOW
            lacks_login = state.configuration.revoke_on_logout and _login_of(mark) is None
            if is_fresh and not lacks_login and not _is_revoked(state, grants):
                return
        _set_granted(state, response, grants)
    except Exception as error:  # of a token factory of the app's own, too
        if is_other:  # what the browser has may be of another user
            _take(state, response)
        if _is_for_developers(response):
            raise
        is_ours = isinstance(error, MercureError)
        current_app.logger.error(
            "The Mercure cookie was not set for %s: %s",
            request.path,
            error if is_ours else type(error).__name__,
            exc_info=None if is_ours else error,
        )


def _take(state: HubState, response: Response) -> None:
    """Have the browser delete the cookie; where none can be, there is nothing to delete."""
    _end_login(state)
    with suppress(CookieError):
        clear_cookie(state, response)
    _set_mark(state, response, "", 0)


def renew_all(cookies: Iterable[UserCookie], response: Response) -> None:
    """Bring the cookies of an app's hubs up to date, after a request.

    :param cookies: of all hubs; those that are used and whose hub the app has are looked after.
    :param response: to the request. Answers that no view has made are left alone, and so are static files and
        errors of the server, after which a database may not answer the app's function either.
    """
    endpoint = request.endpoint
    if endpoint is None or endpoint.rpartition(".")[2] == "static" or request.method == "OPTIONS":
        return
    if response.status_code >= 500:
        return
    app = state_of(current_app)
    seen: set[str] = set()
    for cookie in cookies:
        if not cookie.is_used or (cookie.hub is not None and cookie.hub not in app.hubs):
            continue
        state = app.hub(cookie.hub)
        if state.name in seen:
            problem = f"the hub {state.name!r} has subscribe_grants twice, with and without its name"
            if _is_for_developers(response):
                raise ConfigurationError(problem)
            current_app.logger.error("%s: the first one counts", problem)
            continue
        seen.add(state.name)
        with _session_unread():
            cookie.renew(state, response)


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
    """Whether to raise an error instead of sending a response; not if that response is an error itself."""
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


def _mark_own_cookie(state: HubState, response: Response, token: str) -> None:
    """Mark a cookie that a view has set or cleared itself: the next response compares it with the grants."""
    if token:
        _set_mark(state, response, _NOT_OURS, expiry(token))
    elif _mark_name(state) in request.cookies:
        _end_login(state)
        _set_mark(state, response, "", 0)


def _hubs_of_view() -> set[str | None]:
    """The hubs whose cookie the view of this request gives."""
    # not in g, which is that of an outer app context if there is one
    hubs: set[str | None] = request.environ.setdefault("flask_mercure.subscriber", set())
    return hubs


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
    login = _logins().get(state.name)
    whose = _visitor() if login is None else f"{_visitor()}.{login}"
    line = dump_cookie(
        _mark_name(state),
        "" if end == 0 else _seal(math.floor(now), math.floor(last), whose, content),
        max_age=None if end is None else max(0, math.floor(end - now)),
        expires=0 if end == 0 else None,
        path=sessions.get_cookie_path(current_app),
        domain=sessions.get_cookie_domain(current_app),
        secure=policy.secure,
        httponly=True,
        samesite="None" if policy.partitioned else "Lax",
    ) + ("; Partitioned" if policy.partitioned else "")
    replace_cookie(response.headers, line)


def _digest(grants: Grants, name: str, configuration: Configuration) -> str:
    """What tells these grants, to this user on this hub, from others.

    :param grants: of the current user.
    :param name: of the hub.
    :param configuration: of the hub.
    """
    topics = matchers(grants.topics, configuration.protocol, "topics")
    # With another key browsers get a new cookie: the hub takes tokens of the key before for a while only.
    key = configuration.subscriber_key
    content = [
        [name, configuration.public_url, configuration.protocol, configuration.issuer],
        None if key is None else key.fingerprint.hex(),
        sorted([type(one).__name__, str(one)] for one in topics),
        grants.payload,
        grants.additional_claims and dict(grants.additional_claims),
        _user() if grants.user is None else ["user", subject(grants.user)],
    ]
    return keyed(json.dumps(content, sort_keys=True, default=str))


def _visitor() -> str:
    """A digest of the current user, as far as the app's login can name one."""
    try:
        user = _user()
    except Exception:  # its database may be away
        return _UNKNOWN
    return keyed(json.dumps(["visitor", user]))


def _seal(start: int, end: int, whose: str, content: str) -> str:
    """The value of the mark.

    :param start: when the cookie was set, in seconds since the epoch.
    :param end: of the token, likewise.
    :param whose: made by :func:`_visitor`, with the login if there is one.
    :param content: made by :func:`_digest`.
    """
    known = f"{start}-{end}.{whose}."
    return known + keyed(known + content)


def _times_of(mark: str, content: str) -> tuple[int, int] | None:
    """When the cookie that a mark belongs to was set, and its end.

    :param mark: as the browser sent it.
    :param content: the digest of what the current user may read.
    :returns: seconds since the epoch; ``None`` when the mark is of something else, or was tampered with.
    """
    parts = _MARK.match(mark)
    if parts is None:
        return None
    start, end = int(parts[1]), int(parts[2])
    login = _login_of(mark)
    sealed = _seal(start, end, parts[3] if login is None else f"{parts[3]}.{login}", content)
    same = hmac.compare_digest(sealed.encode(), mark.encode("utf-8", "surrogatepass"))
    return (start, end) if same else None


def _is_of_another(mark: str, whose: str) -> bool:
    """Whether a mark was given to another user, as far as is known of both.

    :param mark: as the browser sent it.
    :param whose: made by :func:`_visitor`.
    """
    parts = _MARK.match(mark)
    return parts is None or (_UNKNOWN not in (parts[3], whose) and parts[3] != whose)


@dataclass(frozen=True, slots=True)
class _Login:
    """What a mark tells of the tokens that a browser got since a login.

    :param nonce: of which the ``sid`` of the tokens is made.
    :param account: a digest of the user's name.
    :param topics: digests of the topics of the last token.
    """

    nonce: str
    account: str
    topics: str

    def __str__(self) -> str:
        return f"{self.nonce}.{self.account}.{self.topics}"

    @property
    def sid(self) -> str:
        """Nobody can make the nonce of another's."""
        return keyed(f"session {self.nonce}")


def _login_of(mark: str) -> _Login | None:
    """What a mark tells, which the browser may have changed; ``None`` without a login."""
    parts = _MARK.match(mark)
    return None if parts is None or parts[4] is None else _Login(parts[4], parts[5], parts[6])


def _logins() -> dict[str, _Login]:
    """The logins of the cookies that this request has set, by hub."""
    logins: dict[str, _Login] = request.environ.setdefault("flask_mercure.logins", {})
    return logins


def _continued(state: HubState, topics: Topics, user: User | None) -> _Login:
    """The login that the next token belongs to.

    It is that of the mark, unless the user is another one or the topics are fewer: then that login ends, and
    the token begins a new one.
    """
    account = _account(user)
    digests = _digests(topics, state.configuration)
    before = _login_of(request.cookies.get(_mark_name(state), ""))
    if before is not None:
        if not _is_of_another_account(before, account) and not _is_less(before.topics, digests):
            return replace(before, account=account, topics=digests)
        _end_login(state)
    return _Login(secrets.token_urlsafe(18), account, digests)


def _account(user: User | None) -> str:
    """A digest of a user's name."""
    name = _subject(user)
    return _NOBODY if name is None else keyed(json.dumps(["account", name]))[: len(_NOBODY)]


def _is_of_another_account(login: _Login, account: str) -> bool:
    """Whether a login is that of another user, as far as both are named."""
    return _NOBODY not in (login.account, account) and login.account != account


def _digests(topics: Topics, configuration: Configuration) -> str:
    """Join keyed digests of topics."""
    return _joined(_named(topics, configuration), lambda text: keyed(f"topic {text}"))


def _named(topics: Topics, configuration: Configuration) -> list[str]:
    """Name the kind of each topic with it: patterns and topics may be equal as text."""
    return [f"{type(one).__name__} {one}" for one in matchers(topics, configuration.protocol, "topics")]


def _joined(texts: Iterable[str], digest: Callable[[str], str]) -> str:
    """Join digests of texts; of many texts, return a single one that is longer.

    :param texts: texts in any order.
    :param digest: function from a text to its digest.
    """
    found = sorted(set(texts))
    if len(found) > _MANY:
        return digest(json.dumps(found))[: _TOPIC + 1]
    return "".join(sorted(digest(one)[:_TOPIC] for one in found))


def _is_less(before: str, after: str) -> bool:
    """Whether a topic is missing; of many topics, whether they differ."""
    if before == after:
        return False
    if len(before) % _TOPIC or len(after) % _TOPIC:
        return True
    old, new = ({some[at : at + _TOPIC] for at in range(0, len(some), _TOPIC)} for some in (before, after))
    return not old <= new


def _end_login(state: HubState) -> None:
    """Have the hub end the tokens that the browser of this request got since its login."""
    parts = _MARK.match(request.cookies.get(_mark_name(state), ""))
    login = None if parts is None else _login_of(parts.string)
    if parts is None or login is None or not state.configuration.revoke_on_logout:
        return
    # The end in the mark is that of the newest token, which may have been shorter than the ones before.
    end = max(float(parts[2]), time.time() + state.configuration.lifetime)
    ended: dict[str, dict[str, revocation.Session]] = request.environ.setdefault(_ENDED, {})
    ended.setdefault(state.name, {})[login.sid] = revocation.Session(login.sid, end)


def end_sessions(app: Flask, response: Response, **_: object) -> None:
    """Have the hub end what this request has ended, once the response is sent.

    For Flask's signal ``request_finished``, which has the last word on the response.

    :param app: that made the response.
    :param response: as it goes out.
    """
    for name, sessions in request.environ.get(_ENDED, {}).items():
        revocation.end_later(app, state_of(app).hub(name), list(sessions.values()), response)


def _is_revoked(state: HubState, grants: Grants) -> bool:
    """Whether this request has revoked the tokens of the current user, whose browser needs another one."""
    return (state.name, _subject(grants.user)) in request.environ.get(revocation.KEY, ())


def keyed(text: str) -> str:
    """A digest that only this app can make.

    :param text: begins with what it is for.
    """
    secret = current_app.secret_key or b""
    key = hashlib.sha256(_DOMAIN + (secret.encode() if isinstance(secret, str) else secret)).digest()
    code = hmac.digest(key, text.encode("utf-8", "surrogatepass"), "sha256")
    return urlsafe_b64encode(code[:18]).decode()


def identity(user: object) -> str | None:
    """A name for the user that tells tabs of two users apart, and nobody who the user is.

    :param user: who was named; ``None``: the current one of the app's login extension.
    :returns: ``None`` when nobody is known, or the app has no ``SECRET_KEY``.
    """
    name = _subject(user)
    return None if name is None or not current_app.secret_key else keyed(json.dumps(["identity", name]))


def marked_identity(state: HubState, response: BaseResponse) -> str:
    """Return the identity that a response marks its cookie with.

    :param state: hub of the cookie.
    :param response: response with the cookie.
    """
    name = f"{_identity_cookie(state)}="
    lines = response.headers.getlist("Set-Cookie")
    return next((re.split("[=;.]", line)[1] for line in lines if line.startswith(name)), "")


def _set_identity(
    state: HubState,
    response: BaseResponse,
    subscribe: Topics,
    claims: Mapping[str, Any],
    user: User | None,
) -> None:
    """Mark whose cookie the browser has from now on, for scripts of the app's pages.

    A page reads it when it begins, since the view may set the cookie after it has rendered the page, and tabs
    see there that somebody else has signed in. Of a user whom nobody names, only what the cookie grants is
    known: another user begins where the cookie does not grant all that it did before, or grants more in
    another session.

    :param subscribe: topics that the cookie grants.
    :param claims: additional claims of its token.
    """
    mark = identity(claims.get("sub", user))
    if mark is None:
        granted = [*_named(subscribe, state.configuration), repr(claims.get("mercure"))]
        before = _UNNAMED.fullmatch(request.cookies.get(_identity_cookie(state), ""))
        nonce = before[1] if before else secrets.token_urlsafe(12)
        try:
            session = json.dumps(_user())
        except Exception:  # its store may be away
            session = ""
        read, whose = _salted(nonce, granted), _salted(nonce, [session])
        if before and read != before[2] and (_is_less(before[2], read) or whose != before[3]):
            nonce = secrets.token_urlsafe(12)
            read, whose = _salted(nonce, granted), _salted(nonce, [session])
        mark = f"{nonce}.{read}.{whose}"
    _mark_identity(state, response, mark)


def _salted(salt: str, texts: Iterable[str]) -> str:
    """Join digests of texts that need no ``SECRET_KEY``."""

    def digest(text: str) -> str:
        code = hashlib.sha256(f"{salt} {text}".encode("utf-8", "replace")).digest()
        return urlsafe_b64encode(code).decode()

    return _joined(texts, digest)


def _mark_identity(state: HubState, response: BaseResponse, mark: str) -> None:
    """Set the mark that scripts can read, or delete it.

    It outlives the cookie, so that a page which has slept for longer finds its user again.
    """
    sessions = current_app.session_interface
    policy = state.configuration.cookie
    line = dump_cookie(
        _identity_cookie(state),
        mark,
        max_age=_REMEMBERED if mark else 0,
        expires=None if mark else 0,
        path=sessions.get_cookie_path(current_app),
        domain=sessions.get_cookie_domain(current_app),
        secure=policy.secure,
        samesite="None" if policy.same_site == "None" else "Lax",
    ) + ("; Partitioned" if policy.partitioned else "")
    replace_cookie(response.headers, line)


def _identity_cookie(state: HubState) -> str:
    return identity_cookie(state.configuration.cookie.url_for(host_of(request.host)))


def _subject(user: object) -> str | None:
    """The ``sub`` of a user's tokens.

    :param user: who was named; ``None``: the current one of the app's login extension.
    :returns: ``None`` when nobody is known.
    :raises InvalidArgument: the id is empty.
    :raises TypeError: the user is named by something that is no id.
    """
    if user is None:
        login = _login() if has_request_context() else None
        return None if login is None else login[1]
    return subject(user)


def _login() -> list[str] | None:
    """The login extension that knows the current user, and the user's id."""
    app: Flask = current_app._get_current_object()  # type: ignore[attr-defined]
    if hasattr(app, "login_manager") and "flask_login" in sys.modules:
        from flask_login import current_user  # type: ignore[import-untyped] # noqa: PLC0415

        if (known := current_user.get_id()) is not None:
            return ["flask-login", str(known)]
    if "flask-jwt-extended" in app.extensions and getattr(g, "_jwt_extended_jwt", None):
        from flask_jwt_extended import get_jwt_identity  # noqa: PLC0415

        return ["flask-jwt-extended", str(get_jwt_identity())]
    return None


def _user() -> list[str]:
    """The user of the app's login extension; without one, the content of its session."""
    if (login := _login()) is not None:
        return login
    held = {key: value for key, value in session.items() if key not in _CHANGING}
    try:
        return ["session", TaggedJSONSerializer().dumps({key: held[key] for key in sorted(held)})]
    except TypeError:  # a session that is kept on the server may hold anything
        return ["session", repr(sorted(held.items(), key=lambda item: item[0]))]


def cookie_of(app: Flask, hub: str) -> UserCookie | None:
    """The cookie of a hub's users; ``None`` where ``subscribe_grants`` is not used.

    :param app: that has the hub.
    :param hub: its name.
    """
    find: Callable[[str], UserCookie | None] = app.extensions[KEY]
    return find(hub)


def warn_of_unread(state: MercureState) -> None:
    """Log a warning, in debug mode and once for each hub, if no client may read its private updates.

    :param state: of the current app.
    """
    for name, hub in state.hubs.items():
        readers = hub.readers
        is_unread = readers.are_private and not readers.are_let_in and not readers.is_told
        if is_unread and current_app.debug and not state.has_grants(name):
            readers.is_told = True
            current_app.logger.warning(
                "A private update was published%s, and this app has let no browser read such updates yet: "
                "register a function with @mercure.subscribe_grants, or call mercure.set_cookie where users "
                "sign in.",
                "" if name == state.default else f" on the hub {name!r}",
            )
