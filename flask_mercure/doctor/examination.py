"""The checks in their order: each asks the hub something, and what comes back is judged elsewhere."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass

from flask_mercure.configuration.settings import Configuration
from flask_mercure.doctor import addresses, browser, clock, delivery, observation, protocols, trials, verdicts
from flask_mercure.doctor.admission import Admission, bearer
from flask_mercure.doctor.connection import Endpoint, NoStream, Stream, Unreachable, listen
from flask_mercure.doctor.delivery import Way
from flask_mercure.doctor.door import Approach, Door
from flask_mercure.doctor.finding import Finding, problem, skipped
from flask_mercure.doctor.trials import Role
from flask_mercure.errors import MercureError
from flask_mercure.tokens import PublisherToken, expiry
from flask_mercure.updates import Publication
from mercure_hub.protocol.errors import Section

EVENT_TYPE = "flask-mercure-doctor"
"""Type of the updates that are published: the ``onmessage`` of a page is not called for it."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the person at the shell says.

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
class Lines:
    """The streams that are open.

    :param direct: at ``MERCURE_URL``.
    :param public: at ``MERCURE_PUBLIC_URL``; the same as ``direct`` when there is one URL.
    :param by_cookie: there, with the token in the cookie.
    :param is_silent: at the public URL no head of a stream comes, though other requests are answered.
    """

    direct: Stream | None = None
    public: Stream | None = None
    by_cookie: Stream | None = None
    is_silent: bool = False


class Examination:
    """Examines one hub.

    :param configuration: of the app, for this hub.
    :param options: see there.
    :param now: seconds since the epoch.
    """

    def __init__(
        self, configuration: Configuration, options: Options, now: Callable[[], float] = time.time
    ) -> None:
        self._read = configuration
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
        read, options = self._read, self._options
        internal = Endpoint(read.url, read.setting("URL"))
        public = Endpoint(read.public_url, read.setting("PUBLIC_URL"))
        pages = options.origins or (options.app_url or public.origin,)
        if options.app_url is None:
            yield skipped(
                "pages",
                "the app's own URL is not known (--app-url, or SERVER_NAME in its configuration): taken for "
                f"{public.origin}, as the hub's",
            )
        for page in pages:
            yield from addresses.suits_browsers(public, page)
        seconds = read.connect_timeout + read.read_timeout
        approach = Approach(read.verify_tls, public, seconds, self._now)
        door = yield from approach.reach(internal, by_browsers=False)
        front = door
        if read.url != read.public_url:
            front = yield from approach.reach(public, by_browsers=True)
        elif door is not None and public.scheme == "https":
            yield from approach.browsers_trust(public)
        if door is not None or front is not None:
            nearest = (door or front).answer  # type: ignore[union-attr]
            yield clock.skew(nearest.head.date, nearest.at, read.lifetime)
            yield from self._with_tokens(door, front, pages)

    # Tokens

    def _with_tokens(
        self, door: Door | None, front: Door | None, pages: tuple[str, ...]
    ) -> Iterator[Finding]:
        publishes = yield from self._made("publish")
        reads = yield from self._made("subscribe")
        can_publish = False
        if door is not None and publishes is not None:
            can_publish = yield from self._may_publish(door, publishes)
        lines = Lines()
        if reads is not None:
            yield from self._open(lines, door, front, reads)
        if can_publish and door is not None and publishes is not None and lines.direct is not None:
            yield from self._delivered(door, front, publishes, lines)
        else:
            yield skipped(
                "delivery", "nothing was published: that takes both tokens and the hub at MERCURE_URL"
            )
        if front is None:
            return
        if reads is not None:
            yield from self._cookie(front, reads, pages)
            yield from self._cors(front, reads, publishes, pages)
        yield protocols.negotiated(
            front.endpoint, front.trust, front.answer.head.headers.get("Server", ""), front.seconds
        )
        yield from self._patience(lines)

    def _made(self, role: Role) -> Generator[Finding, None, str | None]:
        """A token as the app has it: to publish, or to put into the cookie."""
        read = self._read
        if role == "subscribe" and not read.gives_tokens:
            yield skipped("token", "the app has no key to make a subscriber's token with: it only publishes")
            return None
        try:
            if role == "publish":
                token = PublisherToken(read.publisher_tokens, read.lifetime, self._now).get()
            else:
                token = read.tokens.create(subscribe=[self._topic])
            trials.claims_of(token)
            expiry(token)
        except (MercureError, ValueError) as error:
            yield problem("token", f"there is no {trials.HOLDERS[role]}'s token: {error}", Section.SIGNATURE)
            return None
        return token

    def _may_publish(self, door: Door, token: str) -> Generator[Finding, None, bool]:
        try:
            status = self._admission.status(door, "publish", token)
        except Unreachable as error:
            yield addresses.unreachable(door.endpoint, error)
            return False
        if status == 401:
            yield self._admission.why(door, "publish", token)
            return False
        if status not in (200, 400):
            yield verdicts.forbidden("publish", door.name, status)
            return False
        yield verdicts.accepted("publish", door.name)
        return True

    # Streams

    def _open(self, lines: Lines, door: Door | None, front: Door | None, token: str) -> Iterator[Finding]:
        if door is not None:
            own = token  # of the app, which reads by the internal URL; at the other one a browser's is tried
            if front is not door:
                own = self._read.tokens.create([self._topic], None, self._read.own_claims)
            try:
                lines.direct = yield from self._admitted(door, own, is_proxied=False)
            except Unreachable as error:
                yield addresses.unreachable(door.endpoint, error)
        if front is door:
            lines.public = lines.direct
        elif front is not None and door is not None and lines.direct is None:
            yield skipped(
                "token", f"the subscriber's token at {front.name}, until it is accepted at {door.name}"
            )
        elif front is not None:
            try:
                lines.public = yield from self._admitted(front, token, is_proxied=lines.direct is not None)
            except Unreachable as error:
                lines.is_silent = lines.direct is not None
                if not lines.is_silent:
                    yield addresses.unreachable(front.endpoint, error)
        if front is not None and lines.public is not None:
            lines.by_cookie = yield from self._admitted_by_cookie(front, token)

    def _admitted(
        self, door: Door, token: str, *, is_proxied: bool
    ) -> Generator[Finding, None, Stream | None]:
        """A stream with the token in a header, or in the cookie if the proxy lets only that through.

        :param is_proxied: the hub itself admits the token.
        """
        answer = self._subscribe(door, bearer(token))
        if isinstance(answer, Stream):
            yield verdicts.accepted("subscribe", door.name)
            return answer
        status = answer.head.status
        if status == 400:
            yield verdicts.other_parameters(door.name, self._read.protocol)
        elif status == 401 and is_proxied and self._admission.fits(door, token):
            second = self._subscribe(door, self._as_cookie(token))
            by_cookie = second if isinstance(second, Stream) else None
            yield verdicts.refused_at_the_proxy(door.name, status, by_cookie=by_cookie is not None)
            return by_cookie
        elif status == 401:
            yield self._admission.why(door, "subscribe", token)
        else:
            yield verdicts.forbidden("subscribe", door.name, status)
        return None

    def _admitted_by_cookie(self, front: Door, token: str) -> Generator[Finding, None, Stream | None]:
        try:
            answer = self._subscribe(front, self._as_cookie(token))
        except Unreachable as error:
            yield addresses.unreachable(front.endpoint, error)
            return None
        if isinstance(answer, Stream):
            return answer
        yield browser.cookie_unread(self._read.cookie, front.profile, answer.head.status)
        return None

    def _subscribe(self, door: Door, headers: dict[str, str]) -> Stream | NoStream:
        answer = door.subscribe(self._admission.parameters(self._read.protocol), headers)
        if isinstance(answer, Stream):
            self._opened.append(answer)
        return answer

    def _as_cookie(self, token: str, origin: str | None = None) -> dict[str, str]:
        headers = {"Cookie": f"{self._read.cookie.name}={token}"}
        return headers if origin is None else {**headers, "Origin": origin}

    # Updates

    def _delivered(self, door: Door, front: Door | None, token: str, lines: Lines) -> Iterator[Finding]:
        within, direct, public = self._options.within, lines.direct, lines.public
        assert direct is not None
        watched = [one for one in (direct, public, lines.by_cookie) if one is not None]
        mark, published_at = uuid.uuid4().hex, time.monotonic()
        status = self._publish(door, token, mark)
        if status == 403:  # the app's token names its topics (MERCURE_PUBLISH_TOPICS): one for this topic
            try:
                token = self._read.tokens.create(None, [self._topic], self._read.own_claims)
                status = self._publish(door, token, mark)
            except MercureError:
                pass
        if status == 403:
            yield skipped(
                "delivery", "nothing was published: the app's token does not cover a topic to try with"
            )
            return
        if status != 200:
            yield verdicts.forbidden("publish", door.name, status)
            return
        listen(watched, within, lambda: all(mark in stream.events for stream in watched))
        is_held = lines.is_silent or (public is not None and mark not in public.events)
        came_back: bool | None = None
        if is_held and front is not None and mark in direct.events:
            second = uuid.uuid4().hex
            if self._publish(front, token, second) == 200:
                listen([direct], within, lambda: second in direct.events)
                came_back = second in direct.events
        way = None if public is None or public is direct else observation.way(public, mark, published_at)
        if lines.is_silent and front is not None:
            way = Way(front.name, None, None)
        first = observation.way(direct, mark, published_at)
        yield from delivery.delivered(first, way, within=within, came_back=came_back)
        by_cookie = lines.by_cookie
        if by_cookie is not None and mark not in by_cookie.events and mark in (public or direct).events:
            yield browser.cookie_unread(self._read.cookie, front.profile if front else None, 200)

    def _publish(self, door: Door, token: str, data: str) -> int:
        """Publish a private update on the topic of this examination; 0 without an answer."""
        body = Publication([self._topic], data, True, type=EVENT_TYPE).encode()
        try:
            return door.post(bearer(token), body).status
        except Unreachable:
            return 0

    # Browsers

    def _cookie(self, front: Door, token: str, pages: tuple[str, ...]) -> Iterator[Finding]:
        end = expiry(token)
        max_age = None if end is None else int(end - self._now())
        app_url = self._options.app_url or front.endpoint.origin
        for page in pages:
            yield browser.cookie(self._read.cookie, token, max_age, app_url, page)

    def _cors(
        self, front: Door, token: str, publishes: str | None, pages: tuple[str, ...]
    ) -> Iterator[Finding]:
        for page in pages:
            try:
                if page != front.endpoint.origin:
                    answer = self._subscribe(front, self._as_cookie(token, page))
                    asked = {
                        "Origin": page,
                        "Access-Control-Request-Method": "GET",
                        "Access-Control-Request-Headers": "authorization",
                    }
                    yield browser.cors(page, answer.head, front.ask("OPTIONS", asked).head)
                if self._options.pages_publish and publishes is not None:
                    reply = front.post(self._as_cookie(publishes, page))
                    yield browser.publishing(page, reply.status)
            except Unreachable as error:
                yield skipped("cors", f"no answer to a request of a page of {page}: {error.reason}")

    def _patience(self, lines: Lines) -> Iterator[Finding]:
        patience, public = self._options.patience, lines.public
        if public is None or patience <= 0:
            why = "no stream is open" if public is None else "--patience is 0"
            yield skipped("patience", f"whether quiet streams live: {why}")
            return
        left = patience - (time.monotonic() - public.opened_at)
        if left > 0:
            listen([public], left, lambda: bool(observation.heartbeats_of(public)))
        direct = None if lines.direct is public else lines.direct
        if direct is not None:
            direct.read()
        yield delivery.kept(
            observation.life(public), None if direct is None else observation.life(direct), patience
        )
