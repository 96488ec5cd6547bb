"""The extension object: what an application calls."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar, overload

from flask import Flask, Response, after_this_request, current_app, request
from werkzeug.wrappers import Response as BaseResponse

from flask_mercure import configuration, encryption
from flask_mercure.configuration import Configuration
from flask_mercure.cookie import host_of
from flask_mercure.discovery import add_links, hub_link, self_link, subscription_url
from flask_mercure.encryption import KeySet
from flask_mercure.errors import ConfigurationError, CookieError, InvalidArgument, TokenError
from flask_mercure.matchers import Topics, check_characters, exact_topics
from flask_mercure.publication import Publication
from flask_mercure.publisher import Publisher
from flask_mercure.token_source import expiry

if TYPE_CHECKING:
    from flask_mercure.encryption import Recipients

_KEY = "mercure"


class _Unset(Enum):
    UNSET = 0

    def __repr__(self) -> str:
        return "unset"


# Not None: the key of a user who has none must not lead to an update that everybody can read.
_UNSET: Final = _Unset.UNSET

# flask.redirect() gives this one, flask.make_response() a subclass
_Response = TypeVar("_Response", bound=BaseResponse)


@dataclass(frozen=True, slots=True)
class MercureState:
    """What the extension keeps for one app, in ``app.extensions["mercure"]``.

    :param configuration: of the app.
    :param publisher: sends its updates.
    """

    configuration: Configuration
    publisher: Publisher


def state_of(app: Flask) -> MercureState:
    """The state of an app.

    :raises ConfigurationError: ``init_app`` was not called for it.
    """
    state = app.extensions.get(_KEY)
    if not isinstance(state, MercureState):
        raise ConfigurationError(
            f"the app {app.name!r} has no Mercure: call Mercure(app) or mercure.init_app(app)"
        )
    return state


class Mercure:
    """Publishes updates and lets browsers subscribe to them.

    The object belongs to no app; what it does concerns the app whose context is active, and it serves any
    number of apps.

    :param app: calls :meth:`init_app` with it.
    """

    def __init__(self, app: Flask | None = None) -> None:
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Read and check the configuration of an app, and give its templates ``mercure_url``.

        It reads these keys of ``app.config``, and no other:

        * ``MERCURE_URL``: of the hub, where the app publishes; ``http://127.0.0.1:3000/.well-known/mercure``.
        * ``MERCURE_PUBLIC_URL``: of the hub, for browsers and in ``aud``; default: ``MERCURE_URL``.
        * ``MERCURE_JWT_SECRET``: secret or private key of both roles: the text itself (a secret or a PEM),
          or ``@`` and the path of a file.
        * ``MERCURE_PUBLISHER_JWT_KEY``, ``MERCURE_SUBSCRIBER_JWT_KEY``: the same for one role. An app that
          only publishes, or only sets cookies, needs only that one.
        * ``MERCURE_JWT_ALGORITHM``, ``MERCURE_PUBLISHER_JWT_ALG``, ``MERCURE_SUBSCRIBER_JWT_ALG``: JWA names;
          default: HS256 for a secret, else what fits the key.
        * ``MERCURE_JWT_PASSPHRASE``: of an encrypted PEM.
        * ``MERCURE_ISSUER``: ``iss`` of the tokens, trusted by the hub; ``urn:flask-mercure``.
        * ``MERCURE_TOKEN_FACTORY``: makes the tokens in place of :class:`~flask_mercure.TokenFactory`: an
          object with ``create(subscribe, publish, additional_claims)``, a callable of that shape, or an
          import path ``package.module:name``. Keys are then used only by ``flask mercure hub``.
        * ``MERCURE_TOKEN_LIFETIME``: seconds or a timedelta; 3600.
        * ``MERCURE_PROTOCOL``: ``1.0``, or ``0.x`` for older hubs.
        * ``MERCURE_COOKIE_NAME``: ``__Secure-mercure_access_token``; in 0.x ``mercureAuthorization``.
        * ``MERCURE_COOKIE_DOMAIN``: default: none when app and hub have one host, else their common parent.
        * ``MERCURE_COOKIE_PATH``: default: the path of the public URL.
        * ``MERCURE_COOKIE_SECURE``: True.
        * ``MERCURE_COOKIE_SAMESITE``: ``Strict`` (default), ``Lax``, ``None``; Python's None leaves it out.
        * ``MERCURE_VERIFY_TLS``: of an https hub: True, False, or the path of a CA file; True.
        * ``MERCURE_CONNECT_TIMEOUT``: seconds for the connection; 2.
        * ``MERCURE_TIMEOUT``: seconds that the hub may be silent before it answers; 5.

        :param app: the application.
        :raises ConfigurationError: a key is missing or wrong, or the app has the extension already.
        """
        if _KEY in app.extensions:
            raise ConfigurationError(
                f"the app {app.name!r} has Mercure already; call init_app once and share the object"
            )
        read = configuration.read(app.config)
        app.add_template_global(_template_url(read), "mercure_url")
        app.extensions[_KEY] = MercureState(read, Publisher(read))

    def publish(
        self,
        topics: str | Iterable[str],
        data: Any = "",
        *,
        private: bool = False,
        id: str | None = None,
        type: str | None = None,
        retry: int | None = None,
        encrypt_for: Recipients | Literal[_Unset.UNSET] = _UNSET,
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
        :param encrypt_for: who shall read the update, as in :meth:`encrypt`; left out, it is not encrypted.
        :returns: the id of the update.
        :raises EncryptionError: a key cannot be used.
        :raises InvalidArgument: the hub would refuse the update.
        :raises PublishError: the hub refused it, or could not be reached.
        :raises TypeError: an argument has the wrong type, or ``data`` cannot be written as JSON.
        """
        state = state_of(current_app)
        if encrypt_for is not _UNSET:
            data = self.encrypt(data, encrypt_for)
        if isinstance(data, bytes | bytearray | memoryview):
            raise TypeError("data is bytes, and an update is text: decode it, or encode it as base64")
        text = data if isinstance(data, str) else current_app.json.dumps(data)
        return state.publisher.publish(
            Publication(exact_topics(topics), text, private, id=id, type=type, retry=retry)
        )

    def encrypt(self, data: Any, keys: Recipients, *, content_type: str | None = None) -> str:
        """Encrypt data that the hub shall not read, to publish it (spec, Encryption; RFC 7516).

        A JSON Web Encryption keeps the content secret and whole. It does not hide topics, times and sizes,
        does not keep the hub from delivering an old update again, and does not prove who wrote it, since
        whoever has a public key can encrypt for it. Where that matters, put a time or a number and the topic
        into the data, and use a secret key.

        :param data: a ``str`` or ``bytes`` as they are, anything else as JSON, by Flask's provider.
        :param keys: who shall read it: a public JWK, as a dict or of joserfc; a secret one; a
            :class:`~flask_mercure.KeySet`, of which the newest key is used; or a list of these.
        :param content_type: media type of the data, told in the header ``cty``, which is not secret;
            default: ``application/json``, or ``text/plain`` and ``application/octet-stream`` for ``str``
            and ``bytes``.
        :returns: the JWE, in compact serialization, or in general JSON serialization for several keys.
        :raises ConfigurationError: the extra ``encryption`` is not installed.
        :raises EncryptionError: a key cannot be used.
        :raises InvalidArgument: ``content_type`` is no media type, or text cannot be encoded.
        :raises TypeError: something is no key, or ``data`` cannot be written as JSON.
        """
        if isinstance(data, bytes | bytearray | memoryview):
            content: str | bytes = bytes(data)
            usual = "application/octet-stream"
        elif isinstance(data, str):
            content, usual = data, "text/plain;charset=utf-8"
        else:
            content, usual = current_app.json.dumps(data), "application/json"
        return encryption.encrypt(content, keys, usual if content_type is None else content_type)

    def key_set(self, *key_sets: KeySet) -> Response:
        """An answer with keys, **secrets among them**, for a subscriber that may read what they open.

        The view decides who that is: it needs the login that the updates need, or more. Serve it over TLS.

        :param key_sets: the keys; several sets are joined.
        :returns: a JWK set (RFC 7517) that nothing on the way keeps.
        :raises EncryptionError: there is no key, or two different ones have the same ``kid``.
        :raises TypeError: something is not a :class:`~flask_mercure.KeySet`.
        """
        response = current_app.response_class(
            encryption.merged_json(key_sets), content_type="application/jwk-set+json"
        )
        response.headers["Cache-Control"] = "no-store, private"
        response.headers["X-Content-Type-Options"] = "nosniff"
        return response

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
        tokens = state_of(current_app).configuration.tokens
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
        factory = state_of(current_app).configuration.own_factory
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
        cookie = state_of(current_app).configuration.cookie
        host = host_of(request.host)
        if not request.is_secure and not cookie.is_delivered_over_http(host):
            _check_http(cookie.public_url, host)
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
        state_of(current_app).configuration.cookie.clear(response.headers, host_of(request.host))
        return response

    def url(self, topics: Topics = (), last_event_id: str | None = None) -> str:
        """The URL to open an ``EventSource`` with; templates have it as ``mercure_url``.

        :param topics: to subscribe to; none gives the hub's URL.
        :param last_event_id: of the last update that the page includes.
        :raises InvalidArgument: a topic or the id holds forbidden characters.
        """
        read = state_of(current_app).configuration
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
        read = state_of(current_app).configuration
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


def _template_url(read: Configuration) -> Callable[..., str]:
    def mercure_url(topics: Topics = (), last_event_id: str | None = None) -> str:
        return subscription_url(read.public_url, read.protocol, topics, last_event_id)

    return mercure_url


def _seconds(lifetime: object) -> float:
    if isinstance(lifetime, timedelta):
        lifetime = lifetime.total_seconds()
    if isinstance(lifetime, bool) or not isinstance(lifetime, int | float):
        raise TypeError(f"lifetime is {lifetime!r}; give seconds or a timedelta")
    if not math.isfinite(lifetime) or lifetime <= 0:
        raise InvalidArgument(f"lifetime is {lifetime!r}; give a number of seconds above 0")
    return lifetime


def _check_http(public_url: str, host: str) -> None:
    """A ``Secure`` cookie on a page that seems to come without TLS.

    It only seems so when a proxy ends TLS and the app has no ``ProxyFix``; then the cookie works. It
    cannot work when the hub has no TLS either.

    :raises CookieError: the hub has no TLS.
    """
    if public_url.startswith("https:"):
        current_app.logger.warning(
            "The Mercure cookie is Secure and this request to %s came over http. If a proxy ends TLS, use "
            "werkzeug's ProxyFix; if none does, browsers refuse the cookie.",
            host,
        )
        return
    raise CookieError(
        f"the page at {host!r} and the hub at {public_url} (MERCURE_PUBLIC_URL) are not on https, and "
        "browsers refuse a Secure cookie there. For development without TLS open the page as "
        "http://localhost, or set MERCURE_COOKIE_SECURE=False and MERCURE_COOKIE_NAME, in the hub too, to a "
        "name without the prefix __Secure-, such as mercure_access_token"
    )
