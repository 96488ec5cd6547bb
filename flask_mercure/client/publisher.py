"""The request that publishes, from any thread and any process.

An update is sent once. A request that went out and got no answer is not repeated, since the hub may have
published it and subscribers would see it twice; ``PublishError.possibly_published`` tells that case from the
others. A pooled connection that the hub has closed meanwhile is no such case: urllib3 looks at the
socket before it reuses it, and opens another one.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence

import requests

from flask_mercure.client import answer
from flask_mercure.client.session import Reply, ask, open_session, warn_of_unverified_tls
from flask_mercure.configuration.settings import Configuration
from flask_mercure.errors import HubUnreachable, InvalidArgument, PublishError
from flask_mercure.tokens import PublisherToken
from flask_mercure.updates import Publication
from mercure_hub.protocol.update import BATCH_MEDIA_TYPE, to_batch

_MAX_ANSWER = 4 << 20  # the ids of a batch: 1000, of 2048 characters at most


class Publisher:
    """Sends updates to one hub, from any thread and from each process that is forked.

    :param configuration: of the app.
    :param clock: gives the seconds since the epoch.
    """

    def __init__(self, configuration: Configuration, clock: Callable[[], float] = time.time) -> None:
        self._configuration = configuration
        self._clock = clock
        self._batches = BatchSupport(configuration, clock)
        # One entry for each process. That of a parent stays, unused: sharing its sockets would mix answers
        # up, and closing them could wait for a lock that a thread of the parent held at the fork.
        self._lines: dict[int, tuple[requests.Session, PublisherToken]] = {}

    def publish(self, publication: Publication) -> str:
        """Send an update.

        :returns: the id that the hub gave to it.
        :raises PublishError: the hub did not take it, or did not answer.
        :raises MercureError: there is no token to publish with.
        """
        reply = self._post(publication.encode(), "application/x-www-form-urlencoded")
        return answer.published_id(reply, self._configuration)

    def publish_all(self, publications: Sequence[Publication]) -> list[str]:
        """Send updates: to a hub that takes batches in one request, to others one after the other.

        :returns: the ids that the hub gave to them, in order.
        :raises PublishError: the hub did not take all of them, or did not answer; ``published`` has the
            ids of those that it took.
        :raises MercureError: there is no token to publish with.
        """
        if len(publications) > 1 and self.takes_batches():
            try:
                content = to_batch([publication.pairs() for publication in publications])
            except UnicodeEncodeError:
                raise InvalidArgument("data holds a lone surrogate, which UTF-8 cannot carry") from None
            reply = self._post(content, BATCH_MEDIA_TYPE)
            if reply.status_code != requests.codes.unsupported_media_type:
                return answer.published_ids(reply, self._configuration, len(publications))
            self._batches.are_refused()  # another hub answers there now, and has published nothing
        ids: list[str] = []
        for publication in publications:
            try:
                ids.append(self.publish(publication))
            except PublishError as error:
                error.published = tuple(ids)
                raise
        return ids

    def takes_batches(self) -> bool:
        """Whether the hub takes several updates in one request; it is asked once, and remembered.

        :raises HubUnreachable: the hub gave no answer.
        """
        return self._batches.are_taken(self._line()[0])

    @property
    def session(self) -> requests.Session:
        """The connections of this process to the hub."""
        return self._line()[0]

    def token(self) -> str:
        """The token that the app publishes with.

        :raises MercureError: there is none.
        """
        return self._line()[1].get()

    def _post(self, content: bytes, content_type: str) -> Reply:
        session, tokens = self._line()
        reply = self._send(session, tokens, content, content_type)
        if isinstance(reply, Exception):
            raise answer.unreachable(reply, self._configuration)
        return reply

    def _send(
        self, session: requests.Session, tokens: PublisherToken, content: bytes, content_type: str
    ) -> Reply | Exception:
        """Raises nothing once it has the token, so that no traceback shows it."""
        token = tokens.get()
        reply = ask(
            session,
            "POST",
            self._configuration.url,
            self._configuration,
            headers={"Authorization": f"Bearer {token}", "Content-Type": content_type},
            content=content,
            most=_MAX_ANSWER,
        )
        if isinstance(reply, Reply) and reply.status_code == requests.codes.unauthorized:
            tokens.forget(token)
        return reply

    def close(self) -> None:
        """Close the connections of this process; the next publication opens others."""
        line = self._lines.pop(os.getpid(), None)
        if line is not None:
            line[0].close()

    def _line(self) -> tuple[requests.Session, PublisherToken]:
        process = os.getpid()
        line = self._lines.get(process)
        if line is None:
            configuration = self._configuration
            tokens = PublisherToken(configuration.publisher_tokens, configuration.lifetime, self._clock)
            made = (open_session(), tokens)
            # setdefault is atomic: of two threads that come first, both take the same one
            line = self._lines.setdefault(process, made)
            if line is made:
                warn_of_unverified_tls(configuration)
        return line


_REMEMBERED = 600.0
"""Seconds after which a hub that takes no batches is asked again: it may have been replaced."""


class BatchSupport:
    """Whether a hub takes batches: asked before the first one, and remembered.

    A hub that takes them says so in the header ``Accept-Post`` of its answer to OPTIONS (docs/protocol.md,
    Batches). Other hubs are not sent a batch: what they would do with it is unknown.

    :param configuration: of the hub.
    :param clock: gives the seconds since the epoch.
    """

    def __init__(self, configuration: Configuration, clock: Callable[[], float]) -> None:
        self._configuration = configuration
        self._clock = clock
        self._takes = False
        self._asked_at: float | None = None

    def are_taken(self, session: requests.Session) -> bool:
        """Whether to send a batch.

        :raises HubUnreachable: the hub gave no answer; nothing was published.
        """
        if self._takes:
            return True
        if self._asked_at is None or not 0 <= self._clock() - self._asked_at < _REMEMBERED:
            self._takes = self._ask(session)
            self._asked_at = self._clock()
        return self._takes

    def are_refused(self) -> None:
        """The hub did not know a batch, whatever it said before."""
        self._takes = False
        self._asked_at = self._clock()

    def _ask(self, session: requests.Session) -> bool:
        configuration = self._configuration
        # The content is read so that the connection can be used again.
        reply = ask(session, "OPTIONS", configuration.url, configuration, most=1 << 16)
        if isinstance(reply, Exception):
            unreachable = answer.unreachable(reply, configuration)
            if unreachable.possibly_published:
                raise HubUnreachable(
                    f"{configuration.url} ({configuration.setting('URL')}) was asked whether it takes "
                    "batches and did not answer; nothing was published"
                )
            raise unreachable
        accepted = reply.headers.get("Accept-Post", "").lower().split(",")
        is_success = 200 <= reply.status_code < 300  # to requests, a redirect is "ok" too
        return is_success and BATCH_MEDIA_TYPE in [one.partition(";")[0].strip() for one in accepted]
