"""Who listens to one thing: mostly one subscriber, sometimes thousands.

A dict for one takes 250 octets, and a hub where each user has a topic of his own has one for each of them. So
one alone stands for himself.
"""

from __future__ import annotations

from mercure_hub.fanout.subscriber import Subscriber

Listeners = Subscriber | dict[Subscriber, None]
"""A subscriber, or several; a dict for its order and its cheap removal."""


def joined(listeners: Listeners | None, subscriber: Subscriber) -> Listeners:
    """Those of before, if any, and one more.

    :returns: what is to be kept now; the same dict if it was one.
    """
    if listeners is None or listeners is subscriber:
        return subscriber
    if not isinstance(listeners, dict):
        return {listeners: None, subscriber: None}
    listeners[subscriber] = None
    return listeners


def left(listeners: Listeners, subscriber: Subscriber) -> Listeners | None:
    """Those that stay.

    :returns: what is to be kept now, the same dict if it was one; ``None`` when nobody is left.
    """
    if not isinstance(listeners, dict):
        return None if listeners is subscriber else listeners
    listeners.pop(subscriber, None)
    return listeners or None


def each(listeners: Listeners) -> list[Subscriber]:
    """All of them, in the order in which they came."""
    return list(listeners) if isinstance(listeners, dict) else [listeners]
