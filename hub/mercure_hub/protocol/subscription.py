"""Subscriptions: what a request asks for, and how others see it (spec, Active Subscriptions)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import quote, unquote

from mercure_hub.protocol.errors import InvalidRequest
from mercure_hub.protocol.event_stream import WITH, WITH_TOPICS
from mercure_hub.protocol.http import Pairs, json_answer
from mercure_hub.protocol.hub_url import Identity
from mercure_hub.protocol.matching.matcher import Allowance, Matcher, cost, make
from mercure_hub.protocol.tokens.grant import Grant, Json
from mercure_hub.protocol.topics import SUPPORTED, MatcherType
from mercure_hub.protocol.update import HUB_EVENT_TYPE, Update, new_id

_CURSOR = "last_event_id"
_OLD_CURSORS = ("lastEventID", "Last-Event-ID", "last-event-id")
_POLYFILL_CURSOR = "lastEventId"
"""event-source-polyfill adds this parameter to its URL, while other clients send the header."""


def requested_cursor(header: str | None, query: Pairs, *, old_names: bool) -> str | None:
    """The event id after which a subscriber wants its updates (spec, Reconciliation).

    :param header: value of ``Last-Event-ID``; it wins over the parameters.
    :param query: parameters of the query component.
    :param old_names: accept the parameter names of 0.x too. ``lastEventId`` wins over the others:
        event-source-polyfill adds it to its URL when it reconnects.
    :returns: the id, ``earliest``, or ``None`` when no cursor was sent; empty when all cursors that were sent
        are empty, and nothing is resumed.
    """
    names = (_POLYFILL_CURSOR, _CURSOR, *_OLD_CURSORS) if old_names else (_CURSOR,)
    sent = [] if header is None else [header]
    given = [pair for pair in query if pair[0] in names]
    if given:
        sent += [value for wanted in names for name, value in given if name == wanted]
    return next(filter(None, sent), "") if sent else None


WITH_LIVE = "live"
"""Its value that asks for a mark behind the history."""

WITH_ACCESS = "access"
"""Its value that asks whether the request had a token."""

WITH_KNOWN = (WITH_TOPICS, WITH_LIVE, WITH_ACCESS)

WITH_METADATA = "flask_mercure_with"
"""The member of the metadata that lists the values that the hub knows."""


def wanted_with(parameters: Pairs, grant: Grant) -> list[str]:
    """What a subscriber asks for beside the updates, and gets; values that are unknown are ignored.

    :param parameters: of query and body together.
    :param grant: of the subscriber.
    """
    asked = [known for known in WITH_KNOWN if (WITH, known) in parameters]
    return [one for one in asked if one != WITH_ACCESS or grant.key is not None]


LAST_VALUE = "last_value"
"""Parameter with which a subscriber asks for the newest update of each topic: an extension of this hub."""

LAST_VALUE_METADATA = "flask_mercure_last_value"
"""Member of the metadata document that tells that the hub knows this parameter."""

_ON, _OFF = ("1", "true"), ("", "0", "false")


def wants_last_values(parameters: Pairs) -> bool:
    """Whether a request asks for the last values of its topics.

    :param parameters: names and values of query and body together; the first one counts.
    :raises InvalidRequest: the value is neither yes nor no.
    """
    value = next((value for name, value in parameters if name == LAST_VALUE), "")
    if value in _ON or value in _OFF:
        return value in _ON
    raise InvalidRequest(f"{LAST_VALUE} is {value[:40]!r}; send 1, or leave it out.", LAST_VALUE)


_PARAMETERS = {"match": MatcherType.EXACT, **{f"match_{type_}": type_ for type_ in SUPPORTED}}
_OLD_PARAMETER = "topic"
_OLD_CONTEXT = "https://mercure.rocks/"

MAX_MATCHERS = 100
"""Matchers in one request."""

MAX_SHOWN = 512
"""Characters of a matcher in a hub with active subscriptions, whose events and lists repeat it."""

MAX_EVENTS = 256 << 10
"""Bytes of all events of one subscriber that its subscriptions begin; those of their end are as large."""

_MAX_WITH_GROUPS = 10
_MAX_COST = 50_000  # µs to compile the patterns of one request


def matchers_from(
    parameters: Pairs,
    identity: Identity,
    *,
    current: bool,
    old: bool,
    allowance: Allowance | None = None,
) -> tuple[Matcher, ...]:
    """The matchers that a subscription request names.

    :param parameters: names and values of query and body together.
    :param identity: the hub, base of relative patterns.
    :param current: accept ``match``, ``match_exact`` and ``match_urlpattern``.
    :param old: accept ``topic`` of 0.x.
    :param allowance: of patterns in use that take much memory; ``None``: no limit.
    :returns: the distinct matchers in order.
    :raises TooManyPatterns: the allowance is used up.
    :raises InvalidRequest: there is no matcher, too many, an unknown ``match*`` name, or an invalid value.
    """
    matchers: dict[Matcher, None] = {}
    spent = with_groups = 0
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
        spent += cost(type_, value)
        if spent > _MAX_COST:
            raise InvalidRequest("The patterns of this request are too costly to compile together.", name)
        matcher = make(type_, value, identity.url, name, allowance)
        if matcher not in matchers:
            matchers[matcher] = None
            with_groups += matcher.has_groups
        if len(matchers) > MAX_MATCHERS:
            raise InvalidRequest(f"More than {MAX_MATCHERS} matchers in one request.", name)
        if with_groups > _MAX_WITH_GROUPS:
            raise InvalidRequest(
                f"More than {_MAX_WITH_GROUPS} URL Patterns with regular expressions in one request.", name
            )
    if not matchers:
        _refuse_other_generation(parameters, current=current, old=old)
        names = [*(_PARAMETERS if current else ()), *((_OLD_PARAMETER,) if old else ())]
        raise InvalidRequest(f"Name at least one topic, with {' or '.join(names)}.", names[0])
    return tuple(matchers)


def _refuse_other_generation(parameters: Pairs, *, current: bool, old: bool) -> None:
    """Explain parameters of the generation of the protocol that is off.

    :raises InvalidRequest: the request has such a parameter.
    """
    if not old and any(name == _OLD_PARAMETER for name, _ in parameters):
        raise InvalidRequest(
            "This hub speaks protocol 1.0 only (MERCURE_PROTOCOL), and topic is of 0.x. Send match=TOPIC, or "
            "match_urlpattern=PATTERN instead of a URI Template.",
            _OLD_PARAMETER,
        )
    sent = next((name for name, _ in parameters if name in _PARAMETERS), None)
    if not current and sent is not None:
        raise InvalidRequest(
            f"This hub speaks protocol 0.x only (MERCURE_PROTOCOL), and {sent} is of 1.0. Send topic=TOPIC, "
            "or a URI Template there instead of a URL Pattern.",
            sent,
        )


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
        """Whether it was made with ``topic`` of 0.x; its documents have the form of 0.x then."""
        return self.matcher.type is MatcherType.TEMPLATE

    @property
    def segments(self) -> list[str]:
        """The segments of its path below that of all subscriptions; not encoded."""
        matcher = self.matcher
        return [*(() if self.is_old else (matcher.type.value,)), matcher.value, self.subscriber]

    def path(self, identity: Identity) -> str:
        """Path of this subscription, and topic of its events."""
        return "/".join([identity.subscriptions_path, *(quote(part, safe="") for part in self.segments)])

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
        """The private update about the begin or the end of the subscription."""
        document = self.document(identity, active=active)
        if self.is_old:
            document = {"@context": _OLD_CONTEXT, **document}
        return Update(
            topics=(self.path(identity),),
            data=json_answer(document).body.decode(),
            id=new_id(),
            private=True,
            type=None if self.is_old else HUB_EVENT_TYPE,
        )

    def size(self, identity: Identity) -> int:
        """Approximate number of bytes of an event."""
        return len(self.event(identity, active=False).data.encode()) + len(self.path(identity))

    def record(self, identity: Identity) -> str:
        """The subscription as JSON for other processes; ``restored`` reads it."""
        matcher = self.matcher
        return json.dumps([identity.url, matcher.type, matcher.value, self.subscriber, self.payload])


def of_subscriber(
    matchers: Iterable[Matcher], subscriber: str, payload_for: Callable[[Matcher], Json]
) -> Iterator[Subscription]:
    """One for each matcher of a subscriber.

    :param subscriber: the hub's identifier of the connection.
    :param payload_for: the payload that others see with a matcher.
    """
    for matcher in matchers:
        yield Subscription(matcher, subscriber, payload_for(matcher))


def check_shown(
    matchers: Sequence[Matcher], subscriber: str, payload_for: Callable[[Matcher], Json], identity: Identity
) -> None:
    """Refuse subscriptions whose events would be too large.

    Events of accepted subscriptions are never cut: without the event of its end, a subscription would be
    listed for ever.

    :raises InvalidRequest: a matcher is too long, or the events of all are too large.
    """
    for matcher in matchers:
        if len(matcher.value) > MAX_SHOWN:
            raise InvalidRequest(
                f"A matcher has {len(matcher.value)} characters; the limit of a hub with active "
                f"subscriptions is {MAX_SHOWN}."
            )
    total = sum(one.size(identity) for one in of_subscriber(matchers, subscriber, payload_for))
    if total > MAX_EVENTS:
        raise InvalidRequest(
            f"The events of these {len(matchers)} subscriptions have {total} bytes; the limit is "
            f"{MAX_EVENTS}. Send fewer or shorter matchers, or a token whose payload is smaller."
        )


def restored(record: str) -> tuple[Subscription, Identity]:
    """A subscription of another process, to list or to end it, and the hub as its subscriber knows it.

    :param record: from ``Subscription.record``.
    """
    url, type_, value, subscriber, payload = json.loads(record)
    matcher = Matcher(MatcherType(type_), value, url, None)  # not compiled, because it is never matched here
    return Subscription(matcher, subscriber, payload), Identity(url)


@dataclass(frozen=True, slots=True)
class Selection:
    """The subscriptions that a path of the subscription API selects.

    :param path: as the client requested it.
    :param is_old: those of 0.x; each generation lists the subscriptions of its own matchers.
    :param match_type: of the subscriptions; ``None``: any.
    :param value: of their matcher; ``None``: any.
    :param subscriber: identifier; ``None``: any.
    """

    path: str
    is_old: bool
    match_type: str | None = None
    value: str | None = None
    subscriber: str | None = None

    @property
    def is_single(self) -> bool:
        """Whether the path is that of one subscription."""
        return self.subscriber is not None

    def holds(self, one: Subscription) -> bool:
        """Tell whether a subscription is selected."""
        return (
            self.value in (None, one.matcher.value)
            and one.is_old is self.is_old
            and self.match_type in (None, one.matcher.type.value)
            and self.subscriber in (None, one.subscriber)
        )

    def collection(self) -> dict[str, Json]:
        """The document of a collection, without the subscriptions (spec, Subscription API)."""
        return {"id": self.path, "type": "Subscriptions" if self.is_old else "subscriptions"}


def select(path: str, identity: Identity, *, old: bool) -> Selection | None:
    """Read a path of the subscription API (spec, Subscription API).

    :param path: percent-encoded as subscription event topics are.
    :param old: answer as 0.x does, whose paths have no type.
    :returns: ``None`` if no subscription can have such a path.
    """
    base = identity.subscriptions_path
    if path != base and not path.startswith(f"{base}/"):
        return None
    # Compare decoded segments: encodeURIComponent leaves * and others as they are, quote does not.
    wanted = [unquote(part) for part in path.removeprefix(base).split("/")[1:]]
    if not wanted:
        return Selection(path, old)
    type_ = None
    if not old:
        type_, *wanted = wanted
    if len(wanted) not in (1, 2):
        return None
    return Selection(path, old, type_, wanted[0], wanted[1] if len(wanted) == 2 else None)


def old_document(document: dict[str, Json], cursor: str) -> dict[str, Json]:
    """A document of the subscription API in the form of 0.x, which adds a context and the cursor."""
    return {"@context": _OLD_CONTEXT, **document, "lastEventID": cursor}
