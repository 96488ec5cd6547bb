"""The way of publications to a hub: each one of the app takes it."""

from __future__ import annotations

from collections.abc import Sequence

from flask import current_app

from flask_mercure.publishing import recorder
from flask_mercure.publishing.observation import observed
from flask_mercure.publishing.reliability import reliability_of
from flask_mercure.publishing.settings import OnFailure
from flask_mercure.state import HubState, state_of
from flask_mercure.updates import Publication


def deliver(
    hub: HubState,
    publications: Sequence[Publication],
    on_failure: OnFailure | None = None,
    *,
    now: bool = False,
    together: bool = True,
    of_outbox: bool = False,
) -> list[str]:
    """Take updates from the app: write them to the outbox, send them, or record them in a test.

    :param hub: to publish on.
    :param publications: in the order in which subscribers shall see them.
    :param on_failure: instead of what the app has configured; with one the updates pass the outbox by.
    :param now: not to wait for a commit, whatever the app has configured.
    :param together: with ``log``: whether one that is refused keeps the others from the hub too.
    :param of_outbox: whether it is the relay that sends them.
    :returns: the ids of the updates, in the same order.
    :raises PublishError: the hub did not take one; those before it are published, those after it not sent.
    :raises MercureError: there is no token to publish with.
    """
    if any(one.private for one in publications):
        state_of(current_app).readers.private.add(hub.name)
    reliability = reliability_of(current_app)
    outbox = reliability.outbox
    if outbox is not None and reliability.settings.publish_to_outbox and on_failure is None and not now:
        return outbox.add(hub.name, publications)
    sink = recorder.sink(hub.name, of_outbox=of_outbox)
    if sink is not None:
        return observed(hub.name, hub.configuration.url, publications, sink)
    return reliability.publish(hub, publications, on_failure, together=together)


def send(hub: HubState, publications: Sequence[Publication]) -> list[str]:
    """Send updates now, in one request where the hub takes batches, and tell how it went.

    :param hub: to publish on.
    :param publications: in the order in which subscribers shall see them.
    :returns: the ids of the updates, in the same order.
    :raises MercureError: as :func:`deliver`.
    """
    return observed(hub.name, hub.configuration.url, publications, hub.publisher.publish_all)
