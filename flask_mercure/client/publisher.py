"""The request that publishes, from any thread and any process.

A request that went out and got no answer may have been carried out. It is repeated, for as long as one
request may take, if the hub says that it stores an update with the field ``once`` only once
(docs/protocol.md, Once). Another hub would send it to subscribers twice, so it is not repeated there, and
``PublishError.possibly_published`` marks the case. A pooled connection that the hub has closed meanwhile does
not count: urllib3 checks the socket before it reuses it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import requests

from flask_mercure.client import answer
from flask_mercure.client.repeating import Repeating, Timeout
from flask_mercure.client.session import Reply, ask, open_session, warn_of_unverified_tls
from flask_mercure.config.settings import Configuration
from flask_mercure.errors import HubUnreachable, InvalidArgument, PublishError
from flask_mercure.tokens import PublisherToken
from flask_mercure.updates import Publication
from mercure_hub.protocol.update import BATCH_MEDIA_TYPE, to_batch

_MAX_ANSWER = 4 << 20  # the ids of a batch: 1000, of 2048 characters at most


class _Process(NamedTuple):
    """What one process publishes with."""

    session: requests.Session
    tokens: PublisherToken


class Publisher:
    """Sends updates to one hub, from any thread and from every forked process.

    :param configuration: of the hub.
    :param clock: returns the seconds since the epoch.
    """

    def __init__(self, configuration: Configuration, clock: Callable[[], float] = time.time) -> None:
        self._configuration = configuration
        self._clock = clock
        self._batches = BatchSupport(configuration, clock)
        self._repeating = Repeating(configuration)
        # By process id. A forked child leaves its parent's entry alone: with shared sockets the answers would
        # get mixed up, and closing them could wait for a lock that a thread of the parent held at the fork.
        self._processes: dict[int, _Process] = {}

    def publish(self, publication: Publication) -> str:
        """Send an update.

        :param publication: gets an id if it has none.
        :returns: the id that the hub gave it.
        :raises PublishError: the hub did not accept it, or did not answer.
        :raises MercureError: there is no token to publish with.
        """
        content = publication.with_id().encode()

        def attempt(timeout: Timeout) -> str:
            reply = self._post(content, "application/x-www-form-urlencoded", timeout)
            published = answer.published_id(reply, self._configuration)
            self._repeating.note(reply)
            return published

        return self._repeating.publish(attempt, self._options)

    def publish_all(self, publications: Sequence[Publication]) -> list[str]:
        """Send updates: in one request to a hub that takes batches, one after the other to other hubs.

        :returns: the ids that the hub gave them, in order.
        :raises PublishError: the hub did not accept all of them, or did not answer; ``published`` has the
            ids of those that it accepted.
        :raises MercureError: there is no token to publish with.
        """
        if len(publications) > 1 and self.takes_batches():
            publications = [publication.with_id() for publication in publications]
            try:
                content = to_batch([publication.pairs() for publication in publications])
            except UnicodeEncodeError:
                raise InvalidArgument("data holds a lone surrogate, which UTF-8 cannot carry") from None
            attempt = partial(self._post_batch, content, len(publications))
            published = self._repeating.publish(attempt, self._options)
            if published is not None:
                return published
            self._batches.are_refused()  # another hub answers there now, and has published nothing
        ids: list[str] = []
        for publication in publications:
            try:
                ids.append(self.publish(publication))
            except PublishError as error:
                error.published = tuple(ids)
                raise
        return ids

    def _post_batch(self, content: bytes, count: int, timeout: Timeout) -> list[str] | None:
        """Send a batch; ``None``: the hub takes none."""
        reply = self._post(content, BATCH_MEDIA_TYPE, timeout)
        if reply.status_code == requests.codes.unsupported_media_type:
            return None
        ids = answer.published_ids(reply, self._configuration, count)
        self._repeating.note(reply)
        return ids

    def _options(self, timeout: Timeout) -> Reply | Exception:
        return ask_options(self._process().session, self._configuration, timeout)

    def takes_batches(self) -> bool:
        """Whether the hub takes several updates in one request; it is asked once, and remembered.

        :raises HubUnreachable: the hub gave no answer.
        """
        return self._batches.are_taken(self._process().session)

    @property
    def session(self) -> requests.Session:
        """The connections of this process to the hub."""
        return self._process().session

    def token(self) -> str:
        """The token that the app publishes with.

        :raises MercureError: there is none.
        """
        return self._process().tokens.get()

    def _post(self, content: bytes, content_type: str, timeout: Timeout) -> Reply:
        session, tokens = self._process()
        reply = self._send(session, tokens, content, content_type, timeout)
        if isinstance(reply, Exception):
            raise answer.unreachable(reply, self._configuration)
        return reply

    def _send(
        self,
        session: requests.Session,
        tokens: PublisherToken,
        content: bytes,
        content_type: str,
        timeout: Timeout,
    ) -> Reply | Exception:
        """Post; errors are returned, since a traceback would show the token."""
        token = tokens.get()
        reply = ask(
            session,
            "POST",
            self._configuration.url,
            self._configuration,
            headers={"Authorization": f"Bearer {token}", "Content-Type": content_type},
            content=content,
            most=_MAX_ANSWER,
            timeout=timeout,
        )
        if isinstance(reply, Reply) and reply.status_code == requests.codes.unauthorized:
            tokens.forget(token)
        return reply

    def close(self) -> None:
        """Close the connections of this process; the next publication opens others."""
        process = self._processes.pop(os.getpid(), None)
        if process is not None:
            process.session.close()

    def _process(self) -> _Process:
        pid = os.getpid()
        process = self._processes.get(pid)
        if process is None:
            configuration = self._configuration
            tokens = PublisherToken(configuration.publisher_tokens, configuration.lifetime, self._clock)
            made = _Process(open_session(), tokens)
            # setdefault is atomic: of two threads that come first, both take the same one.
            process = self._processes.setdefault(pid, made)
            if process is made:
                warn_of_unverified_tls(configuration)
        return process


def ask_options(
    session: requests.Session, configuration: Configuration, timeout: Timeout = None
) -> Reply | Exception:
    """Ask a hub what it can do beyond the protocol."""
    # The content is read so that the connection can be used again.
    return ask(session, "OPTIONS", configuration.url, configuration, most=1 << 16, timeout=timeout)


_REMEMBERED = 600.0
"""Seconds after which a hub that took no batches is asked again: it may have been replaced."""


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
        """Note that the hub refused a batch, whatever it said before."""
        self._takes = False
        self._asked_at = self._clock()

    def _ask(self, session: requests.Session) -> bool:
        configuration = self._configuration
        reply = ask_options(session, configuration)
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
