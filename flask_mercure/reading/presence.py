"""Who is connected: the subscription API of the hub (spec, Subscription API)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload
from urllib.parse import quote, unquote, urlsplit

import requests

from flask_mercure.client.answer import reason
from flask_mercure.client.session import Reply, ask, open_session
from flask_mercure.config.settings import Configuration
from flask_mercure.errors import HubUnreachable, InvalidArgument, Refused
from flask_mercure.tokens import without_frames
from flask_mercure.topics import Topic, URITemplate, URLPattern, matchers
from mercure_hub.protocol.topics import MatcherType

_MAX_ANSWER = 64 << 20
_CURSOR = re.compile(r';\s*last-event-id="((?:[^"\\]|\\.)*)"|;\s*last-event-id\*=utf-8\'\'([^\s;,]*)', re.I)


@dataclass(frozen=True, slots=True)
class ActiveSubscription:
    """One matcher of one subscriber that is connected.

    :param topic: the topic, pattern or template that it subscribed with.
    :param match_type: ``exact``, ``urlpattern``; ``None`` from a hub of 0.x.
    :param subscriber: the hub's id of the connection: two tabs of a user are two subscribers.
    :param payload: from the subscriber's token, or ``None``.
    """

    topic: str
    match_type: str | None
    subscriber: str
    payload: Any = None


@dataclass(frozen=True, slots=True)
class ActiveSubscriptions(Sequence[ActiveSubscription]):
    """The subscriptions at one moment, and how to follow the changes from then on.

    :param items: the subscriptions.
    :param last_event_id: the hub's position at that moment; ``None`` if the hub did not tell it.
    :param events: topics of the events about new and ended subscriptions, for
        ``mercure.subscribe(active.events, last_event_id=active.last_event_id)``.
    """

    items: tuple[ActiveSubscription, ...]
    last_event_id: str | None
    events: tuple[Topic, ...]

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[ActiveSubscription]:
        return iter(self.items)

    @overload
    def __getitem__(self, index: int) -> ActiveSubscription: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[ActiveSubscription, ...]: ...

    def __getitem__(self, index: int | slice) -> ActiveSubscription | tuple[ActiveSubscription, ...]:
        return self.items[index]

    @property
    def subscribers(self) -> list[str]:
        """The ids of the connections, each once."""
        return list(dict.fromkeys(one.subscriber for one in self.items))


@dataclass(frozen=True, slots=True)
class _Resource:
    """A collection of the subscription API, or a count.

    :param segments: below ``name``, not encoded.
    :param variables: names of the further segments of one subscription.
    :param name: of what it is, below the hub's URL.
    """

    segments: tuple[str, ...]
    variables: tuple[str, ...] = ()
    name: str = "subscriptions"

    def path(self, url: str) -> str:
        """Path of the collection below a URL of the hub; it is also the topic that a token must allow."""
        base = urlsplit(url).path.rstrip("/")
        return "/".join([base, self.name, *(quote(one, safe="") for one in self.segments)])


def resource(topic: Topic | None, configuration: Configuration) -> _Resource:
    """The collection with the subscriptions of one topic, or with all of them.

    :raises InvalidArgument: the topic cannot be expressed.
    """
    is_old = configuration.protocol == "0.x"
    if topic is None:
        return _Resource((), ("topic", "subscriber") if is_old else ("match_type", "match", "subscriber"))
    (matcher,) = matchers([topic], configuration.protocol, "topic")
    if str(matcher) in (".", ".."):  # as a path segment it would ask for the subscriptions of all topics
        raise InvalidArgument(f"topic is {str(matcher)!r}, whose subscriptions no URL can name")
    if is_old:
        return _Resource((str(matcher),), ("subscriber",))
    match_type = MatcherType.URLPATTERN if isinstance(matcher, URLPattern) else MatcherType.EXACT
    return _Resource((match_type, str(matcher)), ("subscriber",))


def count_of(topic: str) -> _Resource:
    """The count of a topic."""
    return _Resource((topic,), name="counts")


def public_path(wanted: _Resource, configuration: Configuration) -> str:
    """The path of a collection as browsers know it."""
    return wanted.path(configuration.public_url)


def token_topics(wanted: _Resource, configuration: Configuration) -> list[str]:
    """The topics that a token for a collection must allow.

    A hub may derive its URL from the request, and so from the URL that the app uses.
    """
    return list(dict.fromkeys(wanted.path(url) for url in (configuration.public_url, configuration.url)))


def address(wanted: _Resource, configuration: Configuration) -> str:
    """The URL of a collection."""
    parts = urlsplit(configuration.url)
    return f"{parts.scheme}://{parts.netloc}{wanted.path(configuration.url)}"


@without_frames
def fetch(wanted: _Resource, configuration: Configuration, token: str) -> ActiveSubscriptions:
    """Read a collection.

    :param wanted: the collection.
    :param configuration: of the hub.
    :param token: that allows it.
    :raises Refused: the hub does not allow it.
    :raises HubUnreachable: the hub gave no answer.
    """
    reply = _reply(wanted, configuration, token)
    try:
        document = json.loads(reply.body)
        items = tuple(_item(one) for one in document["subscriptions"])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise Refused(
            f"{configuration.url} (MERCURE_URL) answered 200, but not with subscriptions: this is not a "
            "Mercure hub",
            reply.status_code,
        ) from None
    return ActiveSubscriptions(items, cursor(reply, document), _events(wanted, configuration))


@without_frames
def fetch_count(wanted: _Resource, configuration: Configuration, token: str) -> int:
    """Read a count.

    :param wanted: the count.
    :param configuration: of the hub.
    :param token: that allows it.
    :raises Refused: the hub does not allow it, or has no counts.
    :raises HubUnreachable: the hub gave no answer.
    """
    reply = _reply(wanted, configuration, token)
    try:
        return int(json.loads(reply.body)["count"])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise Refused(
            f"{configuration.url} (MERCURE_URL) answered 200, but not with a count: only this project's hub "
            "counts connections",
            reply.status_code,
        ) from None


def _reply(wanted: _Resource, configuration: Configuration, token: str) -> Reply:
    headers = {"Authorization": f"Bearer {token}", "Accept": "application/json, application/ld+json"}
    with open_session() as session:
        reply = ask(
            session, "GET", address(wanted, configuration), configuration, headers=headers, most=_MAX_ANSWER
        )
    if isinstance(reply, Exception):
        raise HubUnreachable(
            f"no answer from {configuration.url} (MERCURE_URL), which was asked who is connected"
        )
    if reply.status_code != requests.codes.ok:
        raise Refused(_refusal(reply), reply.status_code)
    return reply


def _item(document: Any) -> ActiveSubscription:
    topic = document["match"] if "match" in document else document["topic"]
    return ActiveSubscription(
        str(topic), document.get("match_type"), str(document["subscriber"]), document.get("payload")
    )


def _events(wanted: _Resource, configuration: Configuration) -> tuple[Topic, ...]:
    topics: list[Topic] = []
    for path in token_topics(wanted, configuration):
        if configuration.protocol == "0.x":
            topics.append(URITemplate("/".join([path, *(f"{{{name}}}" for name in wanted.variables)])))
        else:
            topics.append(URLPattern("/".join([path, *(f":{name}" for name in wanted.variables)])))
    return tuple(topics)


def cursor(response: Reply, document: Any) -> str | None:
    """The hub's position: from the ``Link`` header (1.0), or from the document (0.x)."""
    match = _CURSOR.search(response.headers.get("Link", ""))
    if match is not None:
        if match[1] is None:
            return unquote(match[2])
        return re.sub(r"\\(.)", r"\1", match[1]).encode("latin-1").decode("utf-8", "replace")
    old = document.get("lastEventID") if isinstance(document, dict) else None
    return old if isinstance(old, str) else None


def _refusal(reply: Reply) -> str:
    said = reason(reply, reply.body)
    answered = f"the hub answered {reply.status_code}" + (f" ({said})" if said else "")
    if reply.status_code == requests.codes.not_found:
        return (
            f"{answered}. Are active subscriptions on? In this project's hub that is MERCURE_SUBSCRIPTIONS=1"
        )
    return f"{answered}; its log has the cause"
