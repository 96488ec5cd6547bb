"""One hub of the app: what a view calls to publish, to let browsers subscribe, to make the hub known."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

from flask import Response, after_this_request, current_app, request
from werkzeug.wrappers import Response as BaseResponse

from flask_mercure import content
from flask_mercure.batching import PublishesMany
from flask_mercure.content import UNSET, Unset
from flask_mercure.cookie import CookiePolicy, host_of
from flask_mercure.delivery import deliver
from flask_mercure.discovery import add_links, hub_link, self_link, subscription_url
from flask_mercure.errors import CookieError, InvalidArgument, TokenError
from flask_mercure.matchers import Topics, check_characters, exact_topics
from flask_mercure.publication import Publication
from flask_mercure.reading import Reads
from flask_mercure.reliability import OnFailure
from flask_mercure.state import HubState, state_of
from flask_mercure.token_source import expiry
from flask_mercure.transactions import PublishesTransactions

if TYPE_CHECKING:
    from flask_mercure.encryption import Recipients


# flask.redirect() gives this one, flask.make_response() a subclass
_Response = TypeVar("_Response", bound=BaseResponse)


class Hub(PublishesMany, PublishesTransactions, Reads):
    """A hub that the configuration names; :meth:`flask_mercure.Mercure.hub` gives it.

    The object belongs to no app; what it does concerns the app whose context is active.

    :param name: in the configuration; ``None`` for the default hub.
    """

    def __init__(self, name: str | None = None) -> None:
        self._name = name

    def __repr__(self) -> str:
        return f"{type(self).__name__}({'' if self._name is None else repr(self._name)})"

    @property
    def _state(self) -> HubState:
        """The hub, in the app whose context is active."""
        return state_of(current_app).hub(self._name)

    def publish(
        self,
        topics: str | Iterable[str],
        data: Any = "",
        *,
        private: bool = False,
        id: str | None = None,
        type: str | None = None,
        retry: int | None = None,
        encrypt_for: Recipients | Literal[Unset.UNSET] = UNSET,
        on_failure: OnFailure | None = None,
    ) -> str:
        """Publish an update (spec, Publication).

        It is sent once; after :class:`~flask_mercure.PublishError` the attribute ``possibly_published`` tells
        whether subscribers may see it twice when it is published again.

        :param topics: the canonical topic, or several: the canonical one and its alternates.
        :param data: a ``str`` is sent as it is, anything else as JSON, by Flask's provider.
        :param private: deliver only to subscribers whose token allows one of the topics.
        :param id: of the update; without one the hub makes it.
        :param type: event type, for ``addEventListener`` in the browser.
        :param retry: milliseconds after which a browser that lost the connection tries again.
        :param encrypt_for: who shall read the update, as in :meth:`Mercure.encrypt`; left out: all who may.
        :param on_failure: what happens when it cannot be published: ``raise``; ``log``; or ``background``:
            a thread sends it and the caller never waits. Default: ``MERCURE_ON_FAILURE``. With ``log``
            and ``background`` the id comes back in any case.
        :returns: the id of the update.
        :raises EncryptionError: a key cannot be used.
        :raises InvalidArgument: the hub would refuse the update.
        :raises PublishError: the hub refused it, or could not be reached.
        :raises TypeError: an argument has the wrong type, or ``data`` cannot be written as JSON.
        """
        text = content.text(data) if encrypt_for is UNSET else content.encrypted(data, encrypt_for)
        publication = Publication(exact_topics(topics), text, private, id=id, type=type, retry=retry)
        return deliver(self._state, [publication], on_failure)[0]

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

        :param subscribe: topics whose private updates may be read: a topic, ``*``, a
            :class:`~flask_mercure.URLPattern`, or several.
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
        tokens = self._state.configuration.tokens
        return tokens.create(subscribe, publish, claims, payload)

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
        :param subscribe: topics whose private updates the browser may read: a topic, ``*``, a
            :class:`~flask_mercure.URLPattern`, or several.
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
        end = expiry(token)
        max_age = None if end is None else math.floor(end - time.time())
        if max_age is not None and max_age <= 0:
            raise TokenError(f"the token has expired {-max_age} s ago; look at its exp claim and at lifetime")
        cookie.set(response.headers, host, token, max_age)
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

    def url(self, topics: Topics = (), last_event_id: str | None = None) -> str:
        """The URL to open an ``EventSource`` with; templates have it as ``mercure_url``.

        :param topics: to subscribe to; none gives the hub's URL.
        :param last_event_id: of the last update that the page includes.
        :raises InvalidArgument: a topic or the id holds forbidden characters.
        """
        read = self._state.configuration
        return subscription_url(read.public_url, read.protocol, topics, last_event_id)

    @overload
    def discover(
        self,
        response: _Response,
        *,
        topic: str | None = None,
        last_event_id: str | None = None,
        content_type: str | None = None,
        type: str | None = None,
        key_set: str | None = None,
    ) -> _Response: ...

    @overload
    def discover(
        self,
        response: None = None,
        *,
        topic: str | None = None,
        last_event_id: str | None = None,
        content_type: str | None = None,
        type: str | None = None,
        key_set: str | None = None,
    ) -> None: ...

    def discover(
        self,
        response: _Response | None = None,
        *,
        topic: str | None = None,
        last_event_id: str | None = None,
        content_type: str | None = None,
        type: str | None = None,
        key_set: str | None = None,
    ) -> _Response | None:
        """Advertise the hub, and the topic of the resource, in ``Link`` headers (spec, Discovery; RFC 8288).

        Calling it again for a response replaces what it added before. Scripts of other origins read the
        headers only when ``Access-Control-Expose-Headers`` names ``Link``.

        :param response: to add the links to; without one, the response of the current request gets them.
        :param topic: canonical topic of the resource, advertised with ``rel="self"``.
        :param last_event_id: of the last update that the resource includes.
        :param content_type: media type of the updates, where it is not that of the resource.
        :param type: event type of the updates, where they have one.
        :param key_set: URL of the view with the keys (:meth:`key_set`), where the updates are encrypted.
        :returns: the response that was given.
        :raises InvalidArgument: a value cannot be written into a header.
        """
        read = self._state.configuration
        links = [
            hub_link(
                read.public_url,
                last_event_id=last_event_id,
                content_type=content_type,
                type=type,
                key_set=key_set,
            )
        ]
        if topic is not None:
            links.insert(0, self_link(check_characters(topic, "topic")))
        if response is not None:
            add_links(response.headers, *links)
            return response

        @after_this_request
        def advertise(late: Response) -> Response:
            add_links(late.headers, *links)
            return late

        return None


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
