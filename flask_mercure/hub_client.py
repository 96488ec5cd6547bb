"""A client of a hub that needs no Flask app: for scripts, workers and other frameworks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from types import TracebackType
from typing import Any, Literal, TypedDict, Unpack

from werkzeug.datastructures import Headers

from flask_mercure import grants
from flask_mercure.client.publisher import Publisher
from flask_mercure.config.settings import (
    DEFAULT_NAME,
    OF_A_HUB,
    AppSettings,
    ArgumentNaming,
    Configuration,
    closest,
    read_hub,
)
from flask_mercure.config.values import OnFailure, check_policy
from flask_mercure.cookies import host_of
from flask_mercure.errors import ConfigurationError
from flask_mercure.hub import HubOperations
from flask_mercure.pages import RENEW_AT, page_options
from flask_mercure.publishing import background, recorder
from flask_mercure.publishing.pipeline import Pipeline
from flask_mercure.publishing.recorder import Recording
from flask_mercure.reading.position import Position
from flask_mercure.state import HubState
from flask_mercure.tokens import User
from flask_mercure.topics import Protocol, Topics
from mercure_hub.config.settings import PREFIX


class HubClientSettings(TypedDict, total=False):
    """The settings of a :class:`HubClient`: the keys of a hub in ``app.config``, in lower case."""

    public_url: str
    publisher_jwt_key: str | Mapping[str, Any]
    subscriber_jwt_key: str | Mapping[str, Any]
    jwt_algorithm: str
    publisher_jwt_alg: str
    subscriber_jwt_alg: str
    jwt_passphrase: str
    jwt_key_id: str
    jwt: str
    token_provider: Callable[[], object] | str
    token_factory: object
    token_lifetime: float | timedelta
    publish_topics: Topics
    issuer: str
    protocol: Protocol
    cookie_name: str
    cookie_domain: str
    cookie_path: str
    cookie_secure: bool
    cookie_samesite: Literal["Strict", "Lax", "None"] | None
    cookie_partitioned: bool
    verify_tls: bool | str
    connect_timeout: float | timedelta
    timeout: float | timedelta


class HubClient(HubOperations):
    """A hub, for a program that is no Flask app: a script, a worker, another framework. ::

        hub = HubClient("http://127.0.0.1:3000/.well-known/mercure", os.environ["MERCURE_JWT_SECRET"])
        hub.publish("orders/42", {"state": "paid"}, private=True)

    Make one for the whole program. It can be used in all threads and after a fork; connections to the hub are
    kept open, those of each process by itself. In a ``with`` block, or by :meth:`close`, it ends them.

    :param url: of the hub, for this program.
    :param key: secret, PEM private key, JWK or JWK set (these two also as a dict), or ``@/path`` of a file;
        the hub has the same secret, or the public key. May be left out with another credential in
        ``settings``: ``jwt``, ``token_provider``, ``token_factory``, or a key for one of the roles.
    :param on_failure: as of :meth:`publish`, where that is not told.
    :param settings: those of a hub in ``app.config``, in lower case without the prefix, such as
        ``public_url``, the hub's URL for browsers, ``token_lifetime`` or ``verify_tls``.
    :raises ConfigurationError: something is missing or wrong.
    :raises TypeError: there is no setting of a name.
    """

    def __init__(
        self,
        url: str,
        key: str | Mapping[str, Any] | None = None,
        *,
        on_failure: OnFailure = "raise",
        **settings: Unpack[HubClientSettings],
    ) -> None:
        configuration = _configuration(url, key, settings)
        self._hub = HubState(DEFAULT_NAME, configuration, Publisher(configuration))
        self._path = Pipeline(_no_context, AppSettings(on_failure=check_policy(on_failure)))
        self._place = Position(self._hub)

    def __repr__(self) -> str:
        return f"HubClient({self._hub.configuration.url!r})"

    @property
    def _state(self) -> HubState:
        return self._hub

    @property
    def _pipeline(self) -> Pipeline:
        return self._path

    def _position(self) -> str | None:
        return None if recorder.is_recording() else self._place.get()

    def __enter__(self) -> HubClient:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self, timeout: float = background.DRAIN) -> bool:
        """Send what waits because of ``on_failure="background"``, and end the connections of this process.

        The client can be used afterwards, and opens others.

        :param timeout: seconds for what waits.
        :returns: whether all is sent.
        """
        is_sent = not self._path.background or self._path.queue(self._hub).flush(timeout)
        self._hub.publisher.close()
        return is_sent

    def record(self) -> AbstractContextManager[Recording]:
        """Record what is published in this process instead of sending it; see :meth:`Mercure.record`."""
        return recorder.record()

    def session(
        self,
        topics: Topics = (),
        last_event_id: str | None = None,
        *,
        token: str | None = None,
        refresh: str | None = None,
        last_value: bool = False,
    ) -> dict[str, Any]:
        """What ``connect`` of the JavaScript module needs, to be written into a page or answered as JSON.

        :param topics: that ``connect()`` subscribes to.
        :param last_event_id: of the last update that the page has; default: :meth:`last_event_id` of now.
        :param token: for a page whose browser sends no cookie to the hub, made by :meth:`create_token`.
        :param refresh: URL of a view that answers a POST with a new cookie, or with a JSON object that has a
            new ``token``; called before ``token_lifetime`` is over. Check in it that the request comes from
            a script: the module sends ``X-Requested-With``.
        :param last_value: begin with the newest update of each topic, in place of a position.
        :returns: an object for JSON.
        :raises InvalidArgument: a topic or the id cannot be expressed.
        """
        configuration = self._hub.configuration
        position = self._beginning(last_event_id, last_value=last_value)
        document = page_options(configuration, topics, position, last_value=last_value)
        if token is not None:
            document["token"] = token
        if refresh is not None:
            document |= {"refresh": refresh, "refreshAfter": round(configuration.lifetime * RENEW_AT, 3)}
        return document

    def cookie(
        self,
        subscribe: Topics = (),
        host: str | None = None,
        *,
        publish: Topics | None = None,
        additional_claims: Mapping[str, Any] | None = None,
        lifetime: float | timedelta | None = None,
        payload: Any = None,
        user: User | None = None,
    ) -> str:
        """The value of a ``Set-Cookie`` header that lets a browser read private updates (spec, Cookie).

        Keep the response out of shared caches: ``Cache-Control: private``.

        :param subscribe: topics whose private updates the browser may read: a topic, a
            :class:`~flask_mercure.URLPattern`, :data:`~flask_mercure.EVERYTHING`, or several.
        :param host: of the request, as its ``Host`` header has it; default: that of the hub's public URL.
        :param publish: topics on which the browser itself may publish; seldom needed.
        :param additional_claims: replace or join those of the token.
        :param lifetime: seconds or a timedelta; default: ``token_lifetime``.
        :param payload: shown with the active subscriptions, to everybody who may see those.
        :param user: whose token it is, its ``sub``; without it, ``sub`` is random.
        :raises CookieError: a browser would refuse the cookie, or not send it to the hub.
        :raises InvalidArgument: a topic, a claim or the payload cannot be expressed.
        :raises TokenError: the factory cannot make such a token.
        """
        policy, page = self._hub.configuration.cookie, self._page_host(host)
        if policy.public_url.startswith("http:") and not policy.is_delivered_over_http(page):
            raise grants.no_tls(policy, page)
        headers = Headers()
        grants.add_cookie(
            self._hub,
            headers,
            page,
            self.create_token(
                subscribe, publish, additional_claims, lifetime=lifetime, payload=payload, user=user
            ),
        )
        return headers["Set-Cookie"]

    def expired_cookie(self, host: str | None = None) -> str:
        """The value of a ``Set-Cookie`` header by which the browser deletes the cookie, for the logout.

        :param host: of the request, as its ``Host`` header has it; default: that of the hub's public URL.
        :raises CookieError: no browser can have the cookie from this host.
        """
        headers = Headers()
        self._hub.configuration.cookie.clear(headers, self._page_host(host))
        return headers["Set-Cookie"]

    def _page_host(self, authority: str | None) -> str:
        return self._hub.configuration.cookie.host if authority is None else host_of(authority)


def _configuration(
    url: str, key: str | Mapping[str, Any] | None, settings: HubClientSettings
) -> Configuration:
    given = {name.upper(): value for name, value in settings.items()}
    for name in given:
        if name not in OF_A_HUB or name in ("URL", "JWT_SECRET"):
            near = closest(name)
            hint = f"; do you mean {near.lower()}?" if near else ""
            raise TypeError(f"HubClient has no setting {name.lower()!r}{hint}")
    if not key and not any(OF_A_HUB[name].is_credential for name in given):
        raise ConfigurationError(
            "HubClient has no key: give the secret that the hub has as MERCURE_PUBLISHER_JWT_KEY, or the "
            "private key of a pair; or jwt, token_provider or token_factory"
        )
    given |= {"URL": url, "JWT_SECRET": key}
    return read_hub({PREFIX + name: value for name, value in given.items()}, setting=ArgumentNaming())


def _no_context() -> AbstractContextManager[object]:
    return nullcontext()
