"""The URLs at which the hub answers: reached, trusted, identified."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass

from flask_mercure.client.connection import tls_context
from flask_mercure.doctor import addresses, certificates, connection
from flask_mercure.doctor.addresses import Profile
from flask_mercure.doctor.certificates import Certificate
from flask_mercure.doctor.connection import (
    Endpoint,
    NoStream,
    Reply,
    Stage,
    Stream,
    Unreachable,
    ask,
    subscribe,
)
from flask_mercure.doctor.finding import Finding, app, problem
from mercure_hub.protocol.errors import Section

_FORM = {"Content-Type": "application/x-www-form-urlencoded"}


@dataclass(frozen=True, slots=True)
class Door:
    """A URL at which the hub answers.

    :param endpoint: the URL.
    :param trust: for https.
    :param answer: to a request without token.
    :param profile: the hub's metadata.
    :param seconds: for an answer.
    """

    endpoint: Endpoint
    trust: ssl.SSLContext | None
    answer: Reply
    profile: Profile | None
    seconds: float

    @property
    def name(self) -> str:
        """For messages."""
        return self.endpoint.setting

    def ask(self, method: str, headers: Mapping[str, str]) -> Reply:
        """A request without content.

        :raises Unreachable: there is no answer.
        """
        return ask(self.endpoint, self.trust, method, self.endpoint.path, headers, seconds=self.seconds)

    def post(self, headers: Mapping[str, str], body: bytes = b"private=on") -> Reply:
        """Publish; without a topic in the body nothing is published, and the token is looked at all the same.

        :raises Unreachable: there is no answer.
        """
        return ask(
            self.endpoint,
            self.trust,
            "POST",
            self.endpoint.path,
            {**headers, **_FORM},
            body=body,
            seconds=self.seconds,
        )

    def subscribe(self, query: str, headers: Mapping[str, str]) -> Stream | NoStream:
        """Open a stream.

        :raises Unreachable: there is no answer.
        """
        return subscribe(self.endpoint, self.trust, query, headers, self.seconds)


class Approach:
    """Goes to URLs with the trust that app or browsers have.

    :param verify: ``MERCURE_VERIFY_TLS``.
    :param public: the public URL, whose path the metadata has at each door.
    :param seconds: for each answer.
    :param now: seconds since the epoch.
    """

    def __init__(
        self, verify: bool | str, public: Endpoint, seconds: float, now: Callable[[], float]
    ) -> None:
        self._verify = verify
        self._public = public
        self._seconds = seconds
        self._now = now

    def reach(self, endpoint: Endpoint, *, by_browsers: bool) -> Generator[Finding, None, Door | None]:
        """Look for a hub at a URL.

        :param by_browsers: with the trust that browsers have, else with that of the app.
        """
        trust: ssl.SSLContext | None = None
        if endpoint.scheme == "https":
            trust = yield from self._trust(endpoint, by_browsers=by_browsers)
            if trust is None:
                return None
        try:
            answer = ask(endpoint, trust, "GET", endpoint.path, seconds=self._seconds, clock=self._now)
        except Unreachable as error:
            yield addresses.unreachable(endpoint, error)
            return None
        known = self._metadata(endpoint, trust)
        finding = addresses.identify(endpoint, answer, known)
        yield finding
        is_hub = finding.section is None
        return Door(endpoint, trust, answer, known, self._seconds) if is_hub else None

    def browsers_trust(self, endpoint: Endpoint) -> Iterator[Finding]:
        """The app's URL is that of browsers too, which know nothing of MERCURE_VERIFY_TLS."""
        if not self._accepts(endpoint, ssl.create_default_context()):
            yield certificates.only_for_the_app(endpoint, self._verify)

    def _metadata(self, endpoint: Endpoint, trust: ssl.SSLContext | None) -> Profile | None:
        for path in addresses.metadata_paths(endpoint, self._public):
            try:
                reply = ask(endpoint, trust, "GET", path, seconds=self._seconds)
            except Unreachable:
                continue
            found = addresses.profile(reply.document) if reply.status == 200 else None
            if found is not None:
                return found
        return None

    def _trust(
        self, endpoint: Endpoint, *, by_browsers: bool
    ) -> Generator[Finding, None, ssl.SSLContext | None]:
        """The context with which the server proves itself; a token goes to no other."""
        verify = self._verify
        try:
            ours = tls_context(verify)
        except OSError as error:
            yield problem(
                "tls",
                f"MERCURE_VERIFY_TLS is {verify!r}, which cannot be read as certificates: "
                f"{error.strerror or error}",
                Section.CERTIFICATE,
                app('MERCURE_VERIFY_TLS = "/path/of/the/ca.pem"'),
            )
            return None
        first = ssl.create_default_context() if by_browsers else ours
        try:
            connection.close(connection.dial(endpoint, first, self._deadline()))
        except Unreachable as error:
            if error.stage is not Stage.TLS:
                yield addresses.unreachable(endpoint, error)
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

    def _accepts(self, endpoint: Endpoint, trust: ssl.SSLContext) -> bool:
        try:
            connection.close(connection.dial(endpoint, trust, self._deadline()))
        except Unreachable:
            return False
        return True

    def _served(self, endpoint: Endpoint) -> Certificate | None:
        der = connection.certificate(endpoint, self._deadline())
        return None if der is None else certificates.parse(der)

    def _deadline(self) -> float:
        return time.monotonic() + self._seconds
