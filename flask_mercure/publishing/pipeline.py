"""The single path of every publication, from a checked update to the request.

:meth:`Pipeline.publish` chooses the route of an update, as the app is configured:

* ``raise`` sends it, and leaves a failure to the caller;
* ``log`` sends it, and writes a failure to the log;
* ``background`` hands it to a thread of this process;
* the outbox stores it in the app's own database, from where a relay sends it;
* a recording keeps it for a test, and no hub is asked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from flask import Flask

from flask_mercure.config.settings import AppSettings
from flask_mercure.config.values import OnFailure, check_policy
from flask_mercure.errors import MercureError, PublishError, SomeHubsFailed
from flask_mercure.publishing import recorder
from flask_mercure.publishing.background import BackgroundCounters, BackgroundQueue
from flask_mercure.publishing.events import log_failure, observed
from flask_mercure.publishing.retry import Verdict, verdict
from flask_mercure.state import HubState, kept
from flask_mercure.updates import Publication

KEY = "mercure.publishing"
"""Of the pipeline in ``app.extensions``."""


class UpdateStore(Protocol):
    """The outbox of an app, as far as the pipeline uses it."""

    def add(self, hub: str, publications: Sequence[Publication], /) -> list[str]:
        """Publish updates on a hub when the transaction of the current session commits.

        :returns: their ids.
        """


class Pipeline:
    """The path of one app's updates to its hubs.

    :param context: the app's, which another thread needs, for a token factory of the app's own.
    :param settings: of the app.
    :param outbox: of the app, or ``None``.
    """

    def __init__(
        self,
        context: Callable[[], AbstractContextManager[object]],
        settings: AppSettings,
        outbox: UpdateStore | None = None,
    ) -> None:
        self.context = context
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
        from_outbox: bool = False,
    ) -> list[str]:
        """Publish updates.

        :param hub: to publish on.
        :param publications: in the order in which subscribers get them.
        :param on_failure: overrides the app's policy, and bypasses its outbox.
        :param together: with ``log``: whether the hub must take all or none; if not, one that it refuses does
            not keep it from the others.
        :param from_outbox: whether the relay sends them.
        :returns: the ids of the updates, in the same order; those of updates that failed too, unless that
            raises.
        :raises PublishError: with ``raise``, when the hub did not take one; a hub without batches has
            published those before it.
        :raises MercureError: with ``raise``, when there is no token to publish with.
        """
        policy = self.settings.on_failure if on_failure is None else check_policy(on_failure)
        if any(one.private for one in publications):
            hub.readers.are_private = True
        outbox = self.outbox if self.settings.outbox_publish and on_failure is None else None
        match policy:
            case _ if outbox is not None:
                return outbox.add(hub.name, publications)
            case _ if recorder.is_recording():
                with observed(hub, publications) as outcome:
                    outcome.ids = recorder.take(hub.name, publications, from_outbox=from_outbox)
                return list(outcome.ids)
            case "raise":
                return self._send(hub, publications)
            case "log":
                publications = [one.with_id() for one in publications]
                if together:
                    self._send_or_log(hub, publications)
                else:
                    self._send_each_or_log(hub, publications)
            case "background":
                publications = [one.with_id() for one in publications]
                queue = self.queue(hub)
                for one in publications:
                    queue.put(one)
                queue.save()
        return [one.id or "" for one in publications]

    def publish_everywhere(
        self, hubs: Sequence[HubState], publication: Publication, on_failure: OnFailure | None = None
    ) -> dict[str, str]:
        """Publish an update on each hub, one after the other; if one fails, the others still get it.

        :param hubs: in the order in which they get it.
        :param publication: gets an id if it has none, the same on each hub: a page that moves to another hub
            resumes after it, and a page that reads two hubs recognises repeats.
        :param on_failure: as in :meth:`publish`.
        :returns: the ids of the update by the names of the hubs.
        :raises SomeHubsFailed: at least one hub failed, after all were tried.
        """
        publication = publication.with_id()
        ids: dict[str, str] = {}
        errors: dict[str, Exception] = {}
        for hub in hubs:
            try:
                (ids[hub.name],) = self.publish(hub, [publication], on_failure)
            except Exception as error:  # of a token factory of the app's own, too
                errors[hub.name] = error
        if errors:
            raise SomeHubsFailed(published_ids=ids, errors=errors) from next(iter(errors.values()))
        return ids

    def _send(self, hub: HubState, publications: Sequence[Publication]) -> list[str]:
        """Send updates now, in one request if the hub takes batches."""
        with observed(hub, publications) as outcome:
            outcome.ids = hub.publisher.publish_all(publications)
        return list(outcome.ids)

    def _send_or_log(self, hub: HubState, publications: Sequence[Publication]) -> None:
        try:
            self._send(hub, publications)
        except MercureError as error:
            # a hub without batches has those before the one that failed
            published = len(error.published) if isinstance(error, PublishError) else 0
            for publication in publications[published:]:
                log_failure(publication, str(error))

    def _send_each_or_log(self, hub: HubState, publications: Sequence[Publication]) -> None:
        """Send one by one; stop when no hub is there, since each attempt may take seconds."""
        unclear = 0
        for index, publication in enumerate(publications):
            try:
                self._send(hub, [publication])
            except MercureError as error:
                log_failure(publication, str(error))
                judgement = verdict(error)
                unclear = unclear + 1 if judgement is Verdict.UNCLEAR else 0
                # One failure does not tell whether the hub or the update is to blame; a second one does.
                if unclear > 1 or judgement in (Verdict.UNREACHABLE, Verdict.MISCONFIGURED):
                    for untried in publications[index + 1 :]:
                        log_failure(untried, "not tried after the one before")
                    return

    def queue(self, hub: HubState) -> BackgroundQueue:
        """The background queue of a hub."""
        queue = self._queues.get(hub.name)
        if queue is None:

            def send(publication: Publication) -> None:
                with self.context():
                    self._send(hub, [publication])

            # setdefault is atomic: two threads that come here at once get the same queue
            queue = self._queues.setdefault(hub.name, BackgroundQueue(send, self.settings.background_queue))
        return queue

    @property
    def background(self) -> Mapping[str, BackgroundCounters]:
        """The counts of this process's background queues, by the names of the hubs."""
        return {name: queue.counters for name, queue in self._queues.items()}


def pipeline_of(app: Flask) -> Pipeline:
    """The pipeline of an app.

    :raises ConfigurationError: ``init_app`` was not called for it.
    """
    return kept(app, KEY, Pipeline)
