"""Tokens and the authorization cookie, as views give them."""

from __future__ import annotations

import math
import time
from abc import abstractmethod
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, TypeVar

from flask import current_app, request
from werkzeug.wrappers import Response as BaseResponse

from flask_mercure.cookies import CookiePolicy, host_of
from flask_mercure.errors import CookieError, InvalidArgument, MercureError, TokenError
from flask_mercure.state import HubState, state_of
from flask_mercure.tokens import expiry
from flask_mercure.topics import Topics, as_list, matchers

# flask.redirect() gives this one, flask.make_response() a subclass
_Response = TypeVar("_Response", bound=BaseResponse)


class GivesAccess:
    """The part of :class:`flask_mercure.Hub` that lets clients in."""

    @property
    @abstractmethod
    def _state(self) -> HubState: ...

    def create_token(
        self,
        subscribe: Topics | None = None,
        publish: Topics | None = None,
        additional_claims: Mapping[str, Any] | None = None,
        *,
        lifetime: float | timedelta | None = None,
        payload: Any = None,
    ) -> str:
        """Make a token with the app's factory, for a client that is no browser or sends a header.

        :param subscribe: topics whose private updates may be read: a topic, a
            :class:`~flask_mercure.URLPattern`, :data:`~flask_mercure.EVERYTHING`, or several.
        :param publish: topics on which updates may be published, in the same forms.
        :param additional_claims: such as ``{"sub": "https://example.com/users/1"}``.
        :param lifetime: seconds or a timedelta; default: ``MERCURE_TOKEN_LIFETIME``.
        :param payload: shown with the active subscriptions, to everybody who may see those.
        :raises InvalidArgument: a topic, a claim or the payload cannot be expressed.
        :raises TokenError: the factory cannot make such a token.
        """
        claims = dict(additional_claims or {})
        if lifetime is not None:
            if "exp" in claims:
                raise InvalidArgument("give lifetime, or exp in additional_claims, not both")
            claims["exp"] = math.ceil(time.time() + _seconds(lifetime))
        state = self._state
        configuration = state.configuration
        subscribe, publish = (
            as_list(subscribe, "subscribe"),
            as_list(publish, "publish"),
        )  # iterators are read once
        for topics, argument in ((subscribe, "subscribe"), (publish, "publish")):
            # Here, since a factory of the app's own cannot tell a user's "*" from all topics.
            matchers(topics, configuration.protocol, argument)
        token = configuration.tokens.create(subscribe, publish, claims, payload)
        state_of(current_app).readers.let_in.add(state.name)
        return token

    def claims(
        self,
        subscribe: Topics | None = None,
        publish: Topics | None = None,
        additional_claims: Mapping[str, Any] | None = None,
        payload: Any = None,
    ) -> dict[str, Any]:
        """All claims of a token for the app's hub, to be signed by a JWT library of the app's own.

        Meant for the object of ``MERCURE_TOKEN_FACTORY``, which passes its arguments on. In protocol 1.0 the
        header of the token must have ``"typ": "at+jwt"`` (RFC 9068).

        :param subscribe: as in :meth:`create_token`.
        :param publish: as in :meth:`create_token`.
        :param additional_claims: replace or join the standard claims.
        :param payload: shown with the active subscriptions, to everybody who may see those.
        :raises InvalidArgument: a topic, a claim or the payload cannot be expressed.
        """
        factory = self._state.configuration.own_factory
        return factory.claims(subscribe, publish, additional_claims, payload)

    def set_cookie(
        self,
        response: _Response,
        subscribe: Topics = (),
        *,
        publish: Topics | None = None,
        additional_claims: Mapping[str, Any] | None = None,
        lifetime: float | timedelta | None = None,
        payload: Any = None,
    ) -> _Response:
        """Give the browser a token, in the cookie that it sends to the hub (spec, Cookie).

        The cookie ends with the token. Set it where the user signs in, and again before it ends.

        :param response: to add the cookie to.
        :param subscribe: topics whose private updates the browser may read: a topic, a
            :class:`~flask_mercure.URLPattern`, :data:`~flask_mercure.EVERYTHING`, or several.
        :param publish: topics on which the browser itself may publish; seldom needed.
        :param additional_claims: such as ``{"sub": "https://example.com/users/1"}``.
        :param lifetime: seconds or a timedelta; default: ``MERCURE_TOKEN_LIFETIME``.
        :param payload: shown with the active subscriptions, to everybody who may see those.
        :returns: the response.
        :raises CookieError: a browser would refuse the cookie, or not send it to the hub.
        :raises InvalidArgument: a topic, a claim or the payload cannot be expressed.
        :raises TokenError: the factory cannot make such a token.
        """
        cookie = self._state.configuration.cookie
        host = host_of(request.host)
        if not request.is_secure and not cookie.is_delivered_over_http(host):
            _check_http(cookie, host)
        token = self.create_token(subscribe, publish, additional_claims, lifetime=lifetime, payload=payload)
        problem: MercureError | None = None
        try:
            end = expiry(token)
            max_age = None if end is None else math.floor(end - time.time())
            if max_age is None or max_age > 0:
                cookie.set(response.headers, host, token, max_age)
            else:
                problem = TokenError(
                    f"the token has expired {-max_age} s ago; look at its exp claim and at lifetime"
                )
        except (CookieError, TokenError) as error:
            problem = type(error)(str(error))  # without the functions that have the token in a variable
        del token  # error trackers send the variables of each function that an error comes through
        if problem is not None:
            raise problem
        return response

    def clear_cookie(self, response: _Response) -> _Response:
        """Make the browser delete the cookie, where the user signs out.

        The token in it stays valid until its end, and so does a stream that is open: the page closes it by
        leaving.

        :param response: to add the empty cookie to.
        :returns: the response.
        :raises CookieError: no browser can have the cookie from this host.
        """
        self._state.configuration.cookie.clear(response.headers, host_of(request.host))
        return response


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
    of = cookie.setting
    raise CookieError(
        f"the page at {host!r} and the hub at {cookie.public_url} ({of('PUBLIC_URL')}) are not on https, and "
        "browsers refuse a Secure cookie there. For development without TLS open the page as "
        f"http://localhost, or set {of('COOKIE_SECURE')}=False and {of('COOKIE_NAME')}, in the hub too, to a "
        "name without the prefix __Secure-, such as mercure_access_token"
    )
