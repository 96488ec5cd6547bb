"""The subscription API without a hub."""

from __future__ import annotations

from collections.abc import Iterable

from mercure_hub.protocol.hub_url import Identity
from mercure_hub.protocol.subscription import Subscription, select
from mercure_hub.protocol.tokens.grant import Json


def find(
    path: str, active: Iterable[Subscription], identity: Identity, *, old: bool
) -> dict[str, Json] | None:
    """The document at a path, as the endpoint puts it together; ``None`` if there is nothing."""
    selection = select(path, identity, old=old)
    if selection is None:
        return None
    chosen = [one.document(identity) for one in active if selection.holds(one)]
    if selection.is_single:
        return chosen[0] if chosen else None
    return {**selection.collection(), "subscriptions": chosen}
