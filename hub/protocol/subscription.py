"""Subscriptions: what a request asks for, and how others see it (spec, Active Subscriptions)."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import quote

from hub.protocol.errors import InvalidRequest
from hub.protocol.form import Pairs
from hub.protocol.grant import Json
from hub.protocol.identity import Identity
from hub.protocol.matchers import SUPPORTED, Matcher, MatcherType, make
from hub.protocol.update import HUB_EVENT_TYPE, Update, new_id

_PARAMETERS = {"match": MatcherType.EXACT, **{f"match_{type_}": type_ for type_ in SUPPORTED}}
_OLD_PARAMETER = "topic"
_OLD_CONTEXT = "https://mercure.rocks/"

MAX_MATCHERS = 100
"""Matchers in one request."""

_MAX_WITH_GROUPS = 10


def matchers_from(parameters: Pairs, identity: Identity, *, current: bool, old: bool) -> tuple[Matcher, ...]:
    """The matchers that a subscription request names.

    :param parameters: names and values of query and body together.
    :param identity: the hub, base of relative patterns.
    :param current: accept ``match`` and its kin.
    :param old: accept ``topic`` of 0.x.
    :returns: the distinct matchers in order.
    :raises InvalidRequest: none, too many, an unknown ``match*`` name, or a value that is not valid.
    """
    found: dict[Matcher, None] = {}
    for name, value in parameters:
        type_ = _PARAMETERS.get(name) if current else None
        if type_ is None and current and name[:5].lower() == "match":
            known = ", ".join(_PARAMETERS)
            raise InvalidRequest(
                f"The parameter {name[:100]!r} is not a matcher type; known are {known}.", name[:100]
            )
        if type_ is None and old and name == _OLD_PARAMETER:
            type_ = MatcherType.TEMPLATE
        if type_ is None:
            continue
        found[make(type_, value, identity.url, name)] = None
        if len(found) > MAX_MATCHERS:
            raise InvalidRequest(f"More than {MAX_MATCHERS} matchers in one request.", name)
    if not found:
        names = [*(_PARAMETERS if current else ()), *((_OLD_PARAMETER,) if old else ())]
        raise InvalidRequest(f"Name at least one topic, with {' or '.join(names)}.", names[0])
    if sum(matcher.has_groups for matcher in found) > _MAX_WITH_GROUPS:
        raise InvalidRequest(
            f"More than {_MAX_WITH_GROUPS} URL Patterns with regular expressions in one request.",
            "match_urlpattern",
        )
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Subscription:
    """One matcher of one connected subscriber.

    :param matcher: what it listens to.
    :param subscriber: the hub's identifier of the connection.
    :param payload: from the subscriber's token.
    """

    matcher: Matcher
    subscriber: str
    payload: Json = None

    @property
    def is_old(self) -> bool:
        """Whether it was made with ``topic`` of 0.x, and shows itself in the shape of 0.x."""
        return self.matcher.type is MatcherType.TEMPLATE

    def collection(self, identity: Identity) -> str:
        """Path of the collection of subscriptions with the same matcher."""
        parts = [self.matcher.value] if self.is_old else [self.matcher.type, self.matcher.value]
        return "/".join([identity.subscriptions_path, *(quote(part, safe="") for part in parts)])

    def path(self, identity: Identity) -> str:
        """Path of this subscription, and topic of its events."""
        return f"{self.collection(identity)}/{quote(self.subscriber, safe='')}"

    def document(self, identity: Identity, *, active: bool = True) -> dict[str, Json]:
        """The JSON document of the subscription API and the subscription events."""
        document: dict[str, Json] = {"id": self.path(identity)}
        if self.is_old:
            document |= {"type": "Subscription", "topic": self.matcher.value}
        else:
            document |= {"type": "subscription", "match_type": self.matcher.type, "match": self.matcher.value}
        document |= {"subscriber": self.subscriber, "active": active}
        if self.payload is not None:
            document["payload"] = self.payload
        return document

    def event(self, identity: Identity, *, active: bool) -> Update:
        """The private update that tells of a new or an ended subscription."""
        document = self.document(identity, active=active)
        if self.is_old:
            document = {"@context": _OLD_CONTEXT, **document}
        return Update(
            topics=(self.path(identity),),
            data=json.dumps(document, ensure_ascii=False, separators=(",", ":")),
            id=new_id(),
            private=True,
            type=None if self.is_old else HUB_EVENT_TYPE,
        )


def collection_document(
    path: str, subscriptions: Iterable[Subscription], identity: Identity
) -> dict[str, Json]:
    """The JSON document of a collection.

    :param path: the requested path, which is the document's ``id``.
    """
    return {
        "id": path,
        "type": "subscriptions",
        "subscriptions": [one.document(identity) for one in subscriptions],
    }
