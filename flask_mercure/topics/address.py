"""The URL of a subscription (spec, Subscription)."""

from __future__ import annotations

from urllib.parse import urlencode

from flask_mercure.topics.characters import check_characters
from flask_mercure.topics.matchers import Protocol, Topics, URLPattern, matchers


def subscription_url(
    public_url: str, protocol: Protocol, topics: Topics = (), last_event_id: str | None = None
) -> str:
    """The URL to open an ``EventSource`` with.

    :param public_url: of the hub.
    :param protocol: its generation, which names the parameters.
    :param topics: to subscribe to; none gives the hub's URL, to add parameters to in the browser.
    :param last_event_id: of the last update that is known already.
    :raises InvalidArgument: a topic or the id holds forbidden characters.
    """
    exact, cursor = ("topic", "lastEventID") if protocol == "0.x" else ("match", "last_event_id")
    query = [
        ("match_urlpattern", one.value) if isinstance(one, URLPattern) else (exact, one)
        for one in matchers(topics, protocol, "topics")
    ]
    if last_event_id is not None:
        query.append((cursor, check_characters(last_event_id, "last_event_id")))
    return f"{public_url}?{urlencode(query)}" if query else public_url
