"""Who is asking: from a request to a grant."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass

from mercure_hub.endpoints.request import Request
from mercure_hub.protocol import origins
from mercure_hub.protocol.errors import (
    KeyUnknown,
    Section,
    TokenInvalid,
    TokenMissing,
    TokenRevoked,
    reference,
    shown,
)
from mercure_hub.protocol.tokens import credentials
from mercure_hub.protocol.tokens.access_token import TokenVerifier
from mercure_hub.protocol.tokens.claims import Protocol, Role
from mercure_hub.protocol.tokens.credentials import Credential
from mercure_hub.protocol.tokens.grant import ANONYMOUS, Grant
from mercure_hub.protocol.update import Update

_log = logging.getLogger("mercure_hub.authorization")
_MAX_TOPICS = 1000


@dataclass(frozen=True, slots=True)
class Gatekeeper:
    """Decides what the sender of a request may do.

    :param verifier: checks tokens.
    :param clock: seconds since the epoch.
    :param protocol: generations of the protocol that are spoken.
    :param cookie_name: cookie with a token of protocol 1.0.
    :param anonymous: admit subscribers without a token.
    :param publish_origins: other origins whose pages may publish with a cookie.
    :param authorization_servers: issuers that the metadata document names.
    :param renew: fetches the keys of an issuer and waits for them; true when they have changed.
    :param is_revoked: whether the token of a grant was revoked.
    """

    verifier: TokenVerifier
    clock: Callable[[], float]
    protocol: Protocol
    cookie_name: str
    anonymous: bool
    publish_origins: Collection[str]
    authorization_servers: tuple[str, ...] = ()
    renew: Callable[[str], bool] = lambda _: False
    is_revoked: Callable[[Grant], bool] = lambda _: False

    def subscriber(self, request: Request) -> Grant:
        """The grant of a subscriber.

        :raises AuthorizationError: the token is refused, or there is none and one is needed.
        """
        credential = self.credential(request)
        if credential is None:
            if self.anonymous:
                return ANONYMOUS
            raise self.missing(request, "MERCURE_ANONYMOUS is off")
        return self.grant(credential, "subscribe", request)

    def publisher(self, request: Request) -> Grant:
        """The grant of a publisher.

        :raises AuthorizationError: the token is missing or refused, or a cookie came from elsewhere.
        """
        credential = self.credential(request)
        if credential is None:
            raise self.missing(request)
        if credential.source == "cookie":
            origins.check_publication(
                request.header("origin"),
                request.header("referer"),
                request.identity.origin,
                self.publish_origins,
            )
        return self.grant(credential, "publish", request)

    def check_again(self, grant: Grant) -> None:
        """Check that a subscriber's token is still good, after the request has waited.

        A reload of the keys and a revocation end the streams that exist then; this one has not begun.

        :raises TokenInvalid: its key is not trusted any more, or it was revoked.
        :raises StorageAway: the revocations are unknown.
        """
        if grant.key is not None and not self.verifier.trusts(grant.key, "subscribe"):
            raise TokenInvalid("its key was removed while the request waited", Section.SIGNATURE)
        self._refuse_revoked(grant)

    def _refuse_revoked(self, grant: Grant) -> None:
        if self.is_revoked(grant):
            raise TokenRevoked("the token was revoked")

    def credential(self, request: Request) -> Credential | None:
        """The token that a request presents.

        :raises TokenMalformed: it cannot be read.
        """
        authorization = request.header("authorization")
        cookie = request.header("cookie")
        old = self.protocol != "1.0"
        return credentials.find(
            () if authorization is None else authorization.split(", "),  # as the fields were joined
            {} if cookie is None else credentials.parse_cookies(cookie),
            request.query if old else [],
            cookie_names=self._cookie_names,
            from_query=old,
        )

    @property
    def _cookie_names(self) -> tuple[str, ...]:
        return (self.cookie_name,) if self.protocol == "1.0" else (self.cookie_name, credentials.OLD_COOKIE)

    def missing(self, request: Request, why: str = "") -> TokenMissing:
        """The error for a request without a token. Its cause, for the log, names a token that is elsewhere.

        :param why: why a token is needed.
        """
        cause = f"no token, and {why}" if why else "no token"
        cookies = credentials.parse_cookies(request.header("cookie") or "")
        if cookies:
            names = " or ".join(dict.fromkeys(map(repr, self._cookie_names)))
            cause += f"; cookies came, but none that has a value and the name {names} (MERCURE_COOKIE_NAME)"
            other = next((name for name, value in cookies.items() if self.verifier.read(value)), None)
            if other is not None:
                cause += f": {shown(other)} holds what looks like a token"
        if self.protocol == "1.0" and any(name == credentials.OLD_PARAMETER for name, _ in request.query):
            cause += "; a token in the URL is of protocol 0.x (MERCURE_PROTOCOL)"
        return TokenMissing(cause)

    def grant(self, credential: Credential, role: Role, request: Request) -> Grant:
        """What a token allows.

        :param role: what it is presented for.
        :raises TokenInvalid: it is refused.
        :raises StorageAway: it may have been revoked, and this process cannot know.
        """
        token, resource = credential.token, request.identity.url
        try:
            grant = self.verifier.verify(token, role, resource, self.clock())
        except KeyUnknown as error:
            if not self.renew(error.issuer):
                raise
            grant = self.verifier.verify(token, role, resource, self.clock())
        if credential.source == "query" and not grant.is_old:
            raise TokenInvalid(
                "a token of protocol 1.0 came in the URL; send it in a header or a cookie",
                Section.TOKEN_IN_URL,
            )
        self._refuse_revoked(grant)
        return grant


class Unread:
    """Logs private updates that no listener of their topic may read, once for each topic: for developers."""

    def __init__(self) -> None:
        self._logged: set[str] = set()

    def tell(self, update: Update, listening: int) -> None:
        """Log an update.

        :param listening: number of streams on its topics.
        """
        topic = update.topics[0]
        if topic in self._logged or len(self._logged) >= _MAX_TOPICS:
            return
        self._logged.add(topic)
        _log.warning(
            "nobody got the private update on %s: %d %s to it, and no token allows it. Give the token of "
            "its readers this topic, or publish it without private. See %s",
            shown(topic),
            listening,
            "stream listens" if listening == 1 else "streams listen",
            reference(Section.SCOPE),
        )
