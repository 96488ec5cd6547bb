"""One update to several hubs."""

from __future__ import annotations

from collections.abc import Sequence

from flask_mercure.errors import MercureError, SomeHubsFailed
from flask_mercure.publishing.delivery import deliver
from flask_mercure.publishing.settings import OnFailure
from flask_mercure.state import HubState
from flask_mercure.updates import Publication


def publish(
    hubs: Sequence[HubState], publication: Publication, on_failure: OnFailure | None = None
) -> dict[str, str]:
    """Publish on each hub, one after the other; one that fails does not keep the others from it.

    :param hubs: in the order in which they are asked.
    :param publication: without an id it gets one, the same on each hub: a page that moves to another hub
        goes on after it, and one that reads two of them can tell what it has.
    :param on_failure: as in :func:`~flask_mercure.publishing.delivery.deliver`.
    :returns: the ids of the update by the names of the hubs.
    :raises SomeHubsFailed: at least one hub failed, after all were tried.
    """
    publication = publication.with_id()
    ids: dict[str, str] = {}
    errors: dict[str, Exception] = {}
    for hub in hubs:
        try:
            (ids[hub.name],) = deliver(hub, [publication], on_failure)
        except Exception as error:  # of a token factory of the app's own, too
            errors[hub.name] = error
    if errors:
        raise SomeHubsFailed(_words(ids, errors), published_ids=ids, errors=errors) from next(
            iter(errors.values())
        )
    return ids


def _words(ids: dict[str, str], errors: dict[str, Exception]) -> str:
    said = "; ".join(
        # only our own errors are known to hold no secret
        f"{name!r}: {error if isinstance(error, MercureError) else type(error).__name__}"
        for name, error in errors.items()
    )
    others = f"published on {', '.join(map(repr, ids))}" if ids else "published on none"
    return f"the update was {others}, and not on {len(errors)} of {len(ids) + len(errors)} hubs: {said}"
