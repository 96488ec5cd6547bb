"""Whether a Mercure hub answers at a URL, with which certificate, and what it says about itself."""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import urljoin, urlsplit

from flask_mercure.client.connection import tls_context
from flask_mercure.cookies import is_loopback
from flask_mercure.doctor import certificates, connection
from flask_mercure.doctor.certificates import Certificate
from flask_mercure.doctor.connection import DatedAnswer, Endpoint, HubClient, Stage, Unreachable, origin_of
from flask_mercure.doctor.findings import (
    Finding,
    Remedy,
    Symptom,
    apache,
    app,
    hub,
    nginx,
    ok,
    problem,
    warning,
)
from mercure_hub.protocol.errors import Section
from mercure_hub.protocol.hub_url import METADATA, WELL_KNOWN
from mercure_hub.protocol.revocation import REVOCATION_METADATA

_FORM = {"Content-Type": "application/x-www-form-urlencoded"}
_GATEWAY = (HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT)
_MAX_SHOWN = 200
_ROUNDING = 2.0  # seconds: a Date has whole seconds, and the answer takes its time
_TOLERATED_SKEW = 5.0
_SERIOUS_SKEW = 60.0


@dataclass(frozen=True, slots=True)
class Profile:
    """A hub's metadata document; other hubs, and proxies that do not pass it on, have none.

    :param resource: its resource identifier, which tokens name in ``aud``.
    :param cookie: name of the cookie that it reads.
    :param issuers: authorization servers.
    :param revokes: whether it ends access at once.
    """

    resource: str | None = None
    cookie: str | None = None
    issuers: tuple[str, ...] = ()
    revokes: bool = False


@dataclass(frozen=True, slots=True)
class ReachedHub(HubClient):
    """A URL at which a hub answers.

    :param answer: to a request without token.
    :param profile: the hub's metadata.
    """

    answer: DatedAnswer
    profile: Profile | None

    @property
    def name(self) -> str:
        """The setting that the URL comes from, for messages."""
        return self.endpoint.setting

    def post(self, headers: Mapping[str, str], body: bytes = b"private=on") -> DatedAnswer:
        """Publish. Without a topic in the body the hub publishes nothing, but checks the token all the same.

        :raises Unreachable: there is no answer.
        """
        return self.ask("POST", {**headers, **_FORM}, body=body)


class Prober:
    """Looks for a hub at URLs, with the trust of the app or of browsers.

    :param verify: ``MERCURE_VERIFY_TLS``.
    :param public: the public URL, after whose path the metadata may be at each URL.
    :param seconds: for each answer.
    :param now: returns the seconds since the epoch.
    """

    def __init__(
        self, verify: bool | str, public: Endpoint, seconds: float, now: Callable[[], float]
    ) -> None:
        self._verify = verify
        self._public = public
        self._seconds = seconds
        self._now = now

    def reach(self, endpoint: Endpoint, *, by_browsers: bool) -> Generator[Finding, None, ReachedHub | None]:
        """Look for a hub at a URL.

        :param by_browsers: with the trust that browsers have, else with that of the app.
        """
        trust: ssl.SSLContext | None = None
        if endpoint.scheme == "https":
            trust = yield from self._trust(endpoint, by_browsers=by_browsers)
            if trust is None:
                return None
        client = HubClient(endpoint, trust, self._seconds)
        try:
            answer = client.ask("GET", clock=self._now)
        except Unreachable as error:
            yield unreachable(endpoint, error)
            return None
        known = self._metadata(client)
        finding = identify(endpoint, answer, known)
        yield finding
        is_hub = finding.section is None
        return ReachedHub(endpoint, trust, self._seconds, answer, known) if is_hub else None

    def browsers_trust(self, endpoint: Endpoint) -> Iterator[Finding]:
        """The app's URL is that of browsers too, and MERCURE_VERIFY_TLS does not reach them."""
        if not self._accepts(endpoint, _trust_of_this_machine()):
            yield certificates.only_for_the_app(endpoint, self._verify)

    def _metadata(self, client: HubClient) -> Profile | None:
        """The metadata: after the path of either URL, since a proxy may have changed the path."""
        suffixes = ["" if one.path == "/" else one.path for one in (client.endpoint, self._public)]
        for suffix in dict.fromkeys(suffixes):
            try:
                answer = client.ask("GET", path=METADATA + suffix)
            except Unreachable:
                continue
            known = profile(answer.body) if answer.status == 200 else None
            if known is not None:
                return known
        return None

    def _trust(
        self, endpoint: Endpoint, *, by_browsers: bool
    ) -> Generator[Finding, None, ssl.SSLContext | None]:
        """The context with which the server proves its identity; tokens are sent with no other."""
        verify = self._verify
        try:
            ours = tls_context(verify)
        except OSError as error:
            yield certificates.unreadable(verify, error)
            return None
        first = _trust_of_this_machine() if by_browsers else ours
        try:
            self._handshake(endpoint, first)
        except Unreachable as error:
            if error.stage is not Stage.TLS:
                yield unreachable(endpoint, error)
                return None
            if by_browsers and error.code and verify is not True and self._accepts(endpoint, ours):
                yield certificates.only_for_the_app(endpoint, verify)
                return ours
            served = self._served(endpoint)
            yield certificates.refused(
                endpoint, error, served, self._now(), verify=verify, by_browsers=by_browsers
            )
            return None
        if verify is False and not by_browsers:
            yield certificates.unverified(endpoint)
        else:
            yield certificates.accepted(endpoint, self._served(endpoint), self._now())
        return first

    def _handshake(self, endpoint: Endpoint, trust: ssl.SSLContext) -> None:
        connection.dial(endpoint, trust, self._deadline()).close()

    def _accepts(self, endpoint: Endpoint, trust: ssl.SSLContext) -> bool:
        try:
            self._handshake(endpoint, trust)
        except Unreachable:
            return False
        return True

    def _served(self, endpoint: Endpoint) -> Certificate | None:
        der = connection.certificate(endpoint, self._deadline())
        return None if der is None else certificates.parse(der)

    def _deadline(self) -> float:
        return time.monotonic() + self._seconds


def _trust_of_this_machine() -> ssl.SSLContext:
    """What this machine trusts, as the nearest to what browsers trust."""
    return ssl.create_default_context()


def profile(content: bytes) -> Profile | None:
    """Read a metadata document (RFC 9728 section 2); ``None`` when it is not a hub's."""
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        return None
    resource = document.get("resource") if isinstance(document, dict) else None
    if not isinstance(resource, str) or not any(
        name.startswith("mercure_") or name == "authorization_details_types_supported" for name in document
    ):
        return None
    cookie = document.get("mercure_cookie")
    issuers = document.get("authorization_servers")
    return Profile(
        resource,
        cookie if isinstance(cookie, str) else None,
        tuple(one for one in issuers if isinstance(one, str)) if isinstance(issuers, list) else (),
        REVOCATION_METADATA in document,
    )


def ends_access(known: Profile | None, setting: str) -> Finding:
    """Whether the hub does what the app relies on when a user signs out.

    :param known: what the hub says about itself.
    :param setting: of the app, which is on.
    """
    if known is not None and known.revokes:
        return ok("revocation", f"the hub ends access at once, as {setting} needs")
    return problem(
        "revocation",
        f"{setting} is on, and the hub ends no access: who signs out keeps reading until the token expires",
        Section.TOKEN_REVOKED,
        hub("MERCURE_REVOCATIONS=1"),
        app(f"{setting} = False  # other hubs do not have it"),
    )


def unreachable(endpoint: Endpoint, error: Unreachable) -> Finding:
    """There is no connection, or no answer on it."""
    where = f"{endpoint.host} (port {endpoint.port}, from {endpoint.setting})"
    remedies: Sequence[Remedy]
    match error.stage:
        case Stage.NAME:
            summary = f"the name {endpoint.host!r} of {endpoint.setting} is not known: {error.reason}"
            remedies = (app(f'{endpoint.setting} = "<the URL with the right host>"'),)
        case Stage.CONNECT:
            summary = f"nothing answers at {where}: {error.reason}. Does the hub run, and listen there?"
            remedies = (
                hub(f"MERCURE_LISTEN={endpoint.host}:{endpoint.port}"),
                app(f'{endpoint.setting} = "<where the hub listens>"'),
                Remedy("shell", "systemctl status mercure-hub"),
            )
        case _:
            summary = f"{where} accepts connections and gives no answer: {error.reason}"
            remedies = (app(f'{endpoint.setting} = "<the URL of the hub>"'),)
            if endpoint.scheme == "http" and error.stage is Stage.NOT_HTTP:
                summary += ". Perhaps it speaks TLS"
                remedies = (app(f'{endpoint.setting} = "{endpoint.url.replace("http:", "https:", 1)}"'),)
    return problem("url", summary, Symptom.UNREACHABLE, *remedies)


def identify(endpoint: Endpoint, answer: DatedAnswer, known: Profile | None) -> Finding:
    """Tell whether a hub answers.

    :param answer: to a GET without token and topics.
    :param known: its metadata.
    """
    status, html = answer.status, answer.media_type == "text/html"
    if 300 <= status < 400:
        return _redirect(endpoint, answer.headers.get("Location", ""))
    if status == HTTPStatus.MISDIRECTED_REQUEST:
        return problem(
            "url",
            f"the hub does not serve {endpoint.named} (421)",
            Section.MISDIRECTED,
            hub(f"MERCURE_ALLOWED_URLS={endpoint.url}  # besides those that are there"),
        )
    if status not in _GATEWAY:
        if known is not None:
            return ok("url", f"{endpoint.named}: a Mercure hub, by its metadata")
        schemes = " ".join(answer.headers.getlist("WWW-Authenticate")).lower()
        if status == HTTPStatus.UNAUTHORIZED and not html and "basic" not in schemes:
            return ok("url", f"{endpoint.named}: it asks for a token, as a Mercure hub does")
        if status == HTTPStatus.BAD_REQUEST and not html:
            return ok("url", f"{endpoint.named}: it asks for topics, as a Mercure hub does")
    return _not_a_hub(endpoint, answer, html=html)


def _not_a_hub(endpoint: Endpoint, answer: DatedAnswer, *, html: bool) -> Finding:
    status = answer.status
    if status in _GATEWAY:
        return problem(
            "url",
            f"a proxy answers {status} at {endpoint.named}: it does not reach the hub",
            Symptom.PROXY_ERROR,
            apache('ProxyPass "http://127.0.0.1:3000/.well-known/mercure" …  # where the hub listens'),
            nginx("proxy_pass http://127.0.0.1:3000;  # where the hub listens"),
            Remedy("shell", "systemctl status mercure-hub"),
        )
    kind = " with an HTML page" if html else ""
    path = "" if endpoint.path == WELL_KNOWN else f". The path is usually {WELL_KNOWN}"
    return problem(
        "url",
        f"{endpoint.named} answers {status}{kind}: this is not a Mercure hub, or not its path{path}",
        Symptom.NOT_A_HUB,
        app(f'{endpoint.setting} = "{endpoint.origin}/.well-known/mercure"'),
        apache('ProxyPass "http://127.0.0.1:3000/.well-known/mercure" …  # before WSGIScriptAlias /'),
        nginx("location /.well-known/mercure { proxy_pass http://127.0.0.1:3000; … }"),
    )


def _redirect(endpoint: Endpoint, location: str) -> Finding:
    try:
        target = urlsplit(urljoin(endpoint.url, location))
        shown = f"{origin_of(target.geturl())}{target.path}"[:_MAX_SHOWN]
    except ValueError:
        shown = "nowhere"
    shown = "".join(character if character.isprintable() else "?" for character in shown)
    return problem(
        "url",
        f"{endpoint.named} redirects to {shown}: publishers do not follow, since they would lose the token "
        "or send it to another server, and a page of another origin may not follow",
        Symptom.REDIRECT,
        app(f'{endpoint.setting} = "{shown}"'),
    )


def suits_browsers(public: Endpoint, pages: str) -> Iterator[Finding]:
    """Whether browsers on other machines can use the public URL, judged by its text.

    :param public: the public URL.
    :param pages: origin of the pages.
    """
    page = urlsplit(pages)
    if is_loopback(public.host) and not is_loopback(page.hostname or ""):
        yield warning(
            "url",
            f"{public.named} is this machine only: the browser of a visitor of {pages} looks for the hub on "
            "the visitor's own machine",
            Symptom.LOOPBACK,
            app(f'MERCURE_PUBLIC_URL = "{pages}/.well-known/mercure"'),
        )
    if page.scheme == "https" and public.scheme == "http" and not is_loopback(public.host):
        yield problem(
            "url",
            f"pages of {pages} are on https and {public.named} is not: browsers block it as mixed content",
            Symptom.MIXED_CONTENT,
            app(f'MERCURE_PUBLIC_URL = "{public.url.replace("http:", "https:", 1)}"'),
        )


def clock_skew(theirs: float | None, ours: float, lifetime: float) -> Finding:
    """Compare the clocks of hub and app: tokens have a beginning and an end.

    :param theirs: the ``Date`` of an answer, in seconds since the epoch.
    :param ours: when the answer came.
    :param lifetime: of the app's tokens, in seconds.
    """
    if theirs is None:
        return ok("clock", "the hub's answers have no Date to compare")
    ahead = theirs - ours
    if abs(ahead) <= _TOLERATED_SKEW + _ROUNDING:
        return ok("clock", "the clocks of hub and app agree")
    seconds = f"{abs(ahead):.0f} s"
    if ahead > 0:
        effect = f"tokens expire {seconds} early"
        if ahead >= lifetime:
            effect = "each token has expired when it arrives"
        summary = f"the hub's clock is {seconds} ahead of this machine's: {effect}"
    else:
        summary = (
            f"the hub's clock is {seconds} behind this machine's: hubs that check iat or nbf refuse new "
            "tokens, and streams outlive their tokens"
        )
    summary += ". Synchronize both machines by NTP (timedatectl)"
    is_serious = abs(ahead) > min(_SERIOUS_SKEW, lifetime)
    return (problem if is_serious else warning)("clock", summary, Symptom.CLOCK)
