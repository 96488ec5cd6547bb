"""One hub of the app: what a view calls to publish, to let browsers subscribe, to make the hub known."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar, overload

from flask import Response, after_this_request, current_app
from werkzeug.wrappers import Response as BaseResponse

from flask_mercure import grants
from flask_mercure.broadcast.transactions import PublishesTransactions
from flask_mercure.pages import add_links, hub_link, page_url, self_link
from flask_mercure.publishing.batching import PublishesMany
from flask_mercure.publishing.delivery import deliver
from flask_mercure.publishing.settings import OnFailure
from flask_mercure.reading.subscribing import Reads
from flask_mercure.state import HubState, state_of
from flask_mercure.topics import Topics, check_characters, subscription_url
from flask_mercure.updates import UNSET, Unset, Update

if TYPE_CHECKING:
    from flask_mercure.encryption import Recipients


_P = ParamSpec("_P")
_R = TypeVar("_R")
_Callback = TypeVar("_Callback", bound=Callable[[], Any])
# flask.redirect() gives this one, flask.make_response() a subclass
_Response = TypeVar("_Response", bound=BaseResponse)


class Hub(PublishesMany, PublishesTransactions, Reads):
    """A hub that the configuration names; :meth:`flask_mercure.Mercure.hub` gives it.

    The object belongs to no app; what it does concerns the app whose context is active.

    :param name: in the configuration; ``None`` for the default hub.
    """

    def __init__(self, name: str | None = None) -> None:
        self._name = name
        self._user_cookie = grants.UserCookie(name)

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
        publication = Update(topics, data, private, id, type, retry, encrypt_for).publication()
        return deliver(self._state, [publication], on_failure)[0]

    def url(self, topics: Topics = (), last_event_id: str | None = None) -> str:
        """The URL to open an ``EventSource`` with; templates have it as ``mercure_url``.

        :param topics: to subscribe to; none gives the hub's URL.
        :param last_event_id: of the last update that the page includes.
        :raises InvalidArgument: a topic or the id holds forbidden characters.
        """
        read = self._state.configuration
        return subscription_url(page_url(read), read.protocol, topics, last_event_id)

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
                page_url(read),
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
        return grants.create_token(
            self._state, subscribe, publish, additional_claims, lifetime=lifetime, payload=payload
        )

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
        grants.set_cookie(
            self._state,
            response,
            subscribe,
            publish=publish,
            additional_claims=additional_claims,
            lifetime=lifetime,
            payload=payload,
        )
        return response

    def clear_cookie(self, response: _Response) -> _Response:
        """Make the browser delete the cookie, where the user signs out.

        The token in it stays valid until its end, and so does a stream that is open: the page closes it by
        leaving.

        :param response: to add the empty cookie to.
        :returns: the response.
        :raises CookieError: no browser can have the cookie from this host.
        """
        grants.clear_cookie(self._state, response)
        return response

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
            self._user_cookie.register(function, automatic=automatic)
            return function

        return register if callback is None else register(callback)

    def subscriber(self, view: Callable[_P, _R]) -> Callable[_P, _R]:
        """Have a view give the browser the cookie, with what :meth:`subscribe_grants` tells.

        Needed with ``subscribe_grants(automatic=False)``; put it below ``@app.route``.

        :param view: whose page opens a stream.
        """
        return self._user_cookie.given_by(view)
