"""What happens to an update that cannot be published now, as the app configures it.

``raise`` leaves it to the caller, ``log`` writes one line, ``background`` hands every update to a thread of
this process, and with the outbox it waits in the app's own database.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from flask import Flask

from flask_mercure.errors import ConfigurationError, MercureError, PublishError
from flask_mercure.publishing.background import BackgroundCounters, BackgroundQueue, log_failure
from flask_mercure.publishing.retry import Verdict, verdict
from flask_mercure.publishing.settings import OnFailure, ReliabilitySettings, check_policy, read
from flask_mercure.state import HubState, kept
from flask_mercure.updates import Publication

KEY = "mercure.reliability"
"""Of the object in ``app.extensions``."""

Send = Callable[[HubState, Sequence[Publication]], list[str]]


class KeepsUpdates(Protocol):
    """An outbox, as far as publishing has to do with it."""

    def add(self, hub: str, publications: Sequence[Publication], /) -> list[str]:
        """Publish updates on a hub when the transaction of the current session commits.

        :returns: their ids.
        """


class Reliability:
    """The ways of one app's updates.

    :param app: whose context they need.
    :param settings: of the app.
    :param outbox: of the app, or ``None``.
    :param send: sends updates now.
    """

    def __init__(
        self, app: Flask, settings: ReliabilitySettings, outbox: KeepsUpdates | None, send: Send
    ) -> None:
        self._app = app
        self._send = send
        self.settings = settings
        self.outbox = outbox
        self._queues: dict[str, BackgroundQueue] = {}

    def publish(
        self,
        hub: HubState,
        publications: Sequence[Publication],
        on_failure: OnFailure | None = None,
        *,
        together: bool = True,
    ) -> list[str]:
        """Publish updates.

        :param hub: to publish on.
        :param publications: in order.
        :param on_failure: instead of what the app has configured.
        :param together: with ``log``: whether the hub shall take all or none; if not, one that it refuses
            does not keep it from the others.
        :returns: their ids; those of updates that failed too, unless that raises.
        :raises PublishError: with ``raise``.
        """
        policy = self.settings.on_failure if on_failure is None else check_policy(on_failure)
        if policy == "raise":
            return self._send(hub, publications)
        named = [one.with_id() for one in publications]
        if policy == "background":
            queue = self.queue(hub)
            for one in named:
                queue.put(one)
            queue.save()
        elif together:
            self._send_or_log(hub, named)
        else:
            self._send_each_or_log(hub, named)
        return [one.id or "" for one in named]

    def _send_or_log(self, hub: HubState, publications: Sequence[Publication]) -> None:
        try:
            self._send(hub, publications)
        except MercureError as error:
            # a hub without batches has those before the one that failed
            published = len(error.published) if isinstance(error, PublishError) else 0
            for publication in publications[published:]:
                log_failure(publication, str(error))

    def _send_each_or_log(self, hub: HubState, publications: Sequence[Publication]) -> None:
        """Send one by one; when there is no hub, the rest is not tried: each try may take seconds."""
        unclear = 0
        for position, publication in enumerate(publications):
            try:
                self._send(hub, [publication])
            except MercureError as error:
                log_failure(publication, str(error))
                judgement = verdict(error)
                unclear = unclear + 1 if judgement is Verdict.UNCLEAR else 0
                # One failure does not tell whether the hub or the update is to blame; a second one does.
                if unclear > 1 or judgement in (Verdict.UNREACHABLE, Verdict.MISCONFIGURED):
                    for untried in publications[position + 1 :]:
                        log_failure(untried, "not tried after the one before")
                    return

    def queue(self, hub: HubState) -> BackgroundQueue:
        """The queue of a hub."""
        queue = self._queues.get(hub.name)
        if queue is None:

            def send(publication: Publication) -> None:
                # The app's own token factory may need its context.
                with self._app.app_context():
                    self._send(hub, [publication])

            # setdefault is atomic: of two threads that come first, both take the same one
            queue = self._queues.setdefault(hub.name, BackgroundQueue(send, self.settings.queue_size))
        return queue

    @property
    def background(self) -> Mapping[str, BackgroundCounters]:
        """Numbers of the queues of this process, by hub."""
        return {name: queue.counters for name, queue in self._queues.items()}


def reliability_of(app: Flask) -> Reliability:
    """The ways of an app's updates.

    :raises ConfigurationError: ``init_app`` was not called for it.
    """
    return kept(app, KEY, Reliability)


def init_app(
    app: Flask, send: Send, open_outbox: Callable[[Flask, ReliabilitySettings], KeepsUpdates]
) -> None:
    """Read the configuration of an app and keep what it says in ``app.extensions``.

    :param send: sends updates now.
    :param open_outbox: gives the outbox that the settings name, or raises a ValueError with the end of a
        sentence that begins with the key.
    :raises ConfigurationError: with all problems at once.
    """
    problems: list[str] = []
    settings = read(app.config, problems)
    outbox = None
    if settings.outbox is not None:
        try:
            outbox = open_outbox(app, settings)
        except ValueError as error:
            problems.append(f"MERCURE_OUTBOX {error}")
    if problems:
        raise ConfigurationError(problems)
    app.extensions[KEY] = Reliability(app, settings, outbox, send)
