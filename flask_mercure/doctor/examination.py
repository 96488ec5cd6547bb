"""The checks in their order: each one asks the hub something, and other modules judge the answers."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass

from flask_mercure.client.connection import Head
from flask_mercure.config.settings import Configuration
from flask_mercure.doctor import addresses, browser, delivery, storage, tokens
from flask_mercure.doctor.addresses import Prober, ReachedHub
from flask_mercure.doctor.connection import DatedAnswer, Endpoint, Stream, Unreachable, listen
from flask_mercure.doctor.delivery import Arrival
from flask_mercure.doctor.findings import Finding, problem, skipped
from flask_mercure.doctor.tokens import Admission, bearer
from flask_mercure.errors import MercureError
from flask_mercure.tokens import PublisherToken, expiry
from flask_mercure.updates import Publication
from mercure_hub.protocol.errors import Section
from mercure_hub.protocol.tokens.claims import HOLDERS, Role

EVENT_TYPE = "flask-mercure-doctor"
"""Type of the updates that are published: the ``onmessage`` of a page is not called for it."""


@dataclass(frozen=True, slots=True)
class Options:
    """The options of the command.

    :param app_url: origin of the app, for the cookie; ``None`` when it is not known.
    :param origins: of pages that open streams; empty: that of the app.
    :param pages_publish: pages publish with their cookie.
    :param within: seconds that an update may take.
    :param patience: seconds for which a stream is watched.
    """

    app_url: str | None = None
    origins: tuple[str, ...] = ()
    pages_publish: bool = False
    within: float = 3.0
    patience: float = 45.0


@dataclass(slots=True)
class OpenStreams:
    """The streams that are open.

    :param internal: at ``MERCURE_URL``.
    :param public: at ``MERCURE_PUBLIC_URL``; the same as ``internal`` when there is one URL.
    :param by_cookie: there, with the token in the cookie.
    :param is_silent: at the public URL no head of a stream comes, though other requests are answered.
    """

    internal: Stream | None = None
    public: Stream | None = None
    by_cookie: Stream | None = None
    is_silent: bool = False


class Examination:
    """Examines one hub.

    :param configuration: of the app, for this hub.
    :param options: of the command.
    :param now: returns the seconds since the epoch.
    """

    def __init__(
        self, configuration: Configuration, options: Options, now: Callable[[], float] = time.time
    ) -> None:
        self._configuration = configuration
        self._options = options
        self._now = now
        self._topic = f"urn:uuid:{uuid.uuid4()}"
        self._admission = Admission(configuration, self._topic)
        self._opened: list[Stream] = []

    def run(self) -> Generator[Finding, None, None]:
        """Do the checks; each finding comes when it is known.

        Closing the iterator, and an exception in it, closes all connections.
        """
        try:
            yield from self._checks()
        finally:
            for stream in self._opened:
                stream.close()

    def _checks(self) -> Iterator[Finding]:
        configuration, options = self._configuration, self._options
        internal_url = Endpoint(configuration.url, configuration.setting("URL"))
        public_url = Endpoint(configuration.public_url, configuration.setting("PUBLIC_URL"))
        pages = options.origins or (options.app_url or public_url.origin,)
        if options.app_url is None:
            yield skipped(
                "pages",
                "the app's own URL is not known (--app-url, or SERVER_NAME in its configuration): taken for "
                f"{public_url.origin}, as the hub's",
            )
        for page in pages:
            yield from addresses.suits_browsers(public_url, page)
        seconds = configuration.connect_timeout + configuration.read_timeout
        prober = Prober(configuration.verify_tls, public_url, seconds, self._now)
        internal = yield from prober.reach(internal_url, by_browsers=False)
        public = internal
        if configuration.url != configuration.public_url:
            public = yield from prober.reach(public_url, by_browsers=True)
        elif internal is not None and public_url.scheme == "https":
            yield from prober.browsers_trust(public_url)
        nearest = internal or public
        if nearest is not None:
            answer = nearest.answer
            yield addresses.clock_skew(answer.date, answer.at, configuration.lifetime)
            readiness = None if internal is None else storage.readiness(internal)
            if readiness is not None:
                yield readiness
            if configuration.revoke_on_logout:
                yield addresses.ends_access(nearest.profile, configuration.setting("REVOKE_ON_LOGOUT"))
            yield from self._with_tokens(internal, public, pages)

    # Tokens

    def _with_tokens(
        self, internal: ReachedHub | None, public: ReachedHub | None, pages: tuple[str, ...]
    ) -> Iterator[Finding]:
        publisher_token = yield from self._made("publish")
        subscriber_token = yield from self._made("subscribe")
        can_publish = False
        if internal is not None and publisher_token is not None:
            can_publish = yield from self._may_publish(internal, publisher_token)
        streams = OpenStreams()
        if subscriber_token is not None:
            yield from self._open(streams, internal, public, subscriber_token)
        if can_publish and internal and publisher_token and streams.internal:
            yield from self._delivered(internal, public, publisher_token, streams, streams.internal)
        else:
            yield skipped(
                "delivery", "nothing was published: that takes both tokens and the hub at MERCURE_URL"
            )
        if public is None:
            return
        if subscriber_token is not None:
            yield from self._cookie(public, subscriber_token, pages)
            yield from self._cors(public, subscriber_token, publisher_token, pages)
        server = public.answer.headers.get("Server", "")
        yield browser.negotiated(public, server)
        yield from self._patience(streams)

    def _made(self, role: Role) -> Generator[Finding, None, str | None]:
        """A token as the app has it: to publish, or to put into the cookie."""
        configuration = self._configuration
        if role == "subscribe" and not configuration.gives_tokens:
            yield skipped("token", "the app has no key to make a subscriber's token with: it only publishes")
            return None
        try:
            if role == "publish":
                source = configuration.publisher_tokens
                token = PublisherToken(source, configuration.lifetime, self._now).get()
            else:
                token = configuration.tokens.create(subscribe=[self._topic])
            tokens.claims_of(token)
            expiry(token)
        except (MercureError, ValueError) as error:
            yield problem("token", f"there is no {HOLDERS[role]}'s token: {error}", Section.SIGNATURE)
            return None
        return token

    def _may_publish(self, internal: ReachedHub, token: str) -> Generator[Finding, None, bool]:
        try:
            status = self._admission.status(internal, "publish", token)
        except Unreachable as error:
            yield addresses.unreachable(internal.endpoint, error)
            return False
        if status == 401:
            yield self._admission.why(internal, "publish", token)
            return False
        if status not in (200, 400):
            yield tokens.forbidden("publish", internal.name, status)
            return False
        yield tokens.accepted("publish", internal.name)
        return True

    # Streams

    def _open(
        self, streams: OpenStreams, internal: ReachedHub | None, public: ReachedHub | None, token: str
    ) -> Iterator[Finding]:
        configuration = self._configuration
        if internal is not None:
            own = token
            if public is not internal:  # which browsers do not use: the app reads there with its own token
                own = configuration.tokens.create([self._topic], None, configuration.own_claims)
            try:
                streams.internal = yield from self._admitted(internal, own, is_proxied=False)
            except Unreachable as error:
                yield addresses.unreachable(internal.endpoint, error)
        if public is internal:
            streams.public = streams.internal
        elif public is not None and internal is not None and streams.internal is None:
            yield skipped(
                "token",
                f"the subscriber's token at {public.name}, until it is accepted at {internal.name}",
            )
        elif public is not None:
            is_proxied = streams.internal is not None
            try:
                streams.public = yield from self._admitted(public, token, is_proxied=is_proxied)
            except Unreachable as error:
                streams.is_silent = is_proxied
                if not is_proxied:
                    yield addresses.unreachable(public.endpoint, error)
        if public is not None and streams.public is not None:
            streams.by_cookie = yield from self._admitted_by_cookie(public, token)

    def _admitted(
        self, reached: ReachedHub, token: str, *, is_proxied: bool
    ) -> Generator[Finding, None, Stream | None]:
        """A stream with the token in a header, or in the cookie if the proxy lets only that through.

        :param is_proxied: the hub itself admits the token.
        """
        answer = self._subscribe(reached, bearer(token))
        if isinstance(answer, Stream):
            yield tokens.accepted("subscribe", reached.name)
            return answer
        status = answer.status
        if status == 400:
            yield tokens.other_parameters(reached.name, self._configuration.protocol)
        elif status == 401 and is_proxied and self._admission.fits(reached, token):
            second = self._subscribe(reached, self._as_cookie(token))
            by_cookie = second if isinstance(second, Stream) else None
            yield tokens.refused_at_the_proxy(reached.name, status, by_cookie=by_cookie is not None)
            return by_cookie
        elif status == 401:
            yield self._admission.why(reached, "subscribe", token)
        else:
            yield tokens.forbidden("subscribe", reached.name, status)
        return None

    def _admitted_by_cookie(self, public: ReachedHub, token: str) -> Generator[Finding, None, Stream | None]:
        try:
            answer = self._subscribe(public, self._as_cookie(token))
        except Unreachable as error:
            yield addresses.unreachable(public.endpoint, error)
            return None
        if isinstance(answer, Stream):
            return answer
        yield browser.cookie_unread(self._configuration.cookie, public.profile, answer.status)
        return None

    def _subscribe(self, reached: ReachedHub, headers: dict[str, str]) -> Stream | Head:
        answer = reached.subscribe(self._admission.parameters(self._configuration.protocol), headers)
        if isinstance(answer, Stream):
            self._opened.append(answer)
        return answer

    def _as_cookie(self, token: str, origin: str | None = None) -> dict[str, str]:
        headers = {"Cookie": f"{self._configuration.cookie.name}={token}"}
        return headers if origin is None else {**headers, "Origin": origin}

    # Updates

    def _delivered(
        self,
        internal: ReachedHub,
        public: ReachedHub | None,
        token: str,
        streams: OpenStreams,
        direct: Stream,
    ) -> Iterator[Finding]:
        configuration, within = self._configuration, self._options.within
        proxied, by_cookie = streams.public, streams.by_cookie
        watched = [one for one in (direct, proxied, by_cookie) if one is not None]
        data, published_at = uuid.uuid4().hex, time.monotonic()
        answer = self._publish(internal, token, data)
        if _status(answer) == 403:  # MERCURE_PUBLISH_TOPICS: make a token for this topic
            try:
                token = configuration.tokens.create(None, [self._topic], configuration.own_claims)
                answer = self._publish(internal, token, data)
            except MercureError:
                pass
        if _status(answer) == 403:
            yield skipped(
                "delivery", "nothing was published: the app's token does not cover a topic to try with"
            )
            return
        if answer is None or answer.status != 200:
            why = None if answer is None else storage.not_stored(internal.name, answer)
            yield why or tokens.forbidden("publish", internal.name, _status(answer))
            return
        listen(watched, within, lambda: all(data in stream.events for stream in watched))
        is_held = streams.is_silent or (proxied is not None and data not in proxied.events)
        came_back: bool | None = None
        if is_held and public is not None and data in direct.events:
            second = uuid.uuid4().hex
            if _status(self._publish(public, token, second)) == 200:
                listen([direct], within, lambda: second in direct.events)
                came_back = second in direct.events
        at_public: Arrival | None = None
        if streams.is_silent and public is not None:
            at_public = Arrival(public.name, None, None)
        elif proxied is not None and proxied is not direct:
            at_public = delivery.arrival(proxied, data, published_at)
        at_internal = delivery.arrival(direct, data, published_at)
        yield from delivery.delivered(at_internal, at_public, within=within, came_back=came_back)
        if by_cookie is not None and data not in by_cookie.events and data in (proxied or direct).events:
            yield browser.cookie_unread(configuration.cookie, public.profile if public else None, 200)

    def _publish(self, reached: ReachedHub, token: str, data: str) -> DatedAnswer | None:
        """Publish a private update on the topic of this examination; ``None`` without an answer."""
        body = Publication([self._topic], data, True, type=EVENT_TYPE).encode()
        try:
            return reached.post(bearer(token), body)
        except Unreachable:
            return None

    # Browsers

    def _cookie(self, public: ReachedHub, token: str, pages: tuple[str, ...]) -> Iterator[Finding]:
        end = expiry(token)
        max_age = None if end is None else int(end - self._now())
        app_url = self._options.app_url or public.endpoint.origin
        for page in pages:
            yield browser.cookie(self._configuration.cookie, token, max_age, app_url, page)

    def _cors(
        self, public: ReachedHub, token: str, publisher_token: str | None, pages: tuple[str, ...]
    ) -> Iterator[Finding]:
        for page in pages:
            try:
                if page != public.endpoint.origin:
                    answer = self._subscribe(public, self._as_cookie(token, page))
                    preflight = {
                        "Origin": page,
                        "Access-Control-Request-Method": "GET",
                        "Access-Control-Request-Headers": "authorization",
                    }
                    head = answer.head if isinstance(answer, Stream) else answer
                    yield browser.cors(page, head, public.ask("OPTIONS", preflight))
                if self._options.pages_publish and publisher_token is not None:
                    reply = public.post(self._as_cookie(publisher_token, page))
                    yield browser.publishing(page, reply.status)
            except Unreachable as error:
                yield skipped("cors", f"no answer to a request of a page of {page}: {error.reason}")

    def _patience(self, streams: OpenStreams) -> Iterator[Finding]:
        patience, public = self._options.patience, streams.public
        if public is None or patience <= 0:
            why = "no stream is open" if public is None else "--patience is 0"
            yield skipped("patience", f"whether quiet streams live: {why}")
            return
        left = patience - (time.monotonic() - public.opened_at)
        if left > 0:
            listen([public], left, lambda: bool(delivery.heartbeats_of(public)))
        direct = None if streams.internal is public else streams.internal
        if direct is not None:
            direct.read()
        yield delivery.kept(
            delivery.lifetime(public), None if direct is None else delivery.lifetime(direct), patience
        )


def _status(answer: DatedAnswer | None) -> int:
    """The status of an answer; 0 without one."""
    return 0 if answer is None else answer.status
