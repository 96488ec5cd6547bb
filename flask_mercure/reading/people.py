"""Who is at a topic, one entry a person, however many tabs and devices each of them has."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

from flask_mercure.config.settings import Configuration
from flask_mercure.errors import InvalidArgument
from flask_mercure.reading.presence import (
    ActiveSubscription,
    ActiveSubscriptions,
    count_of,
    public_path,
    resource,
)
from flask_mercure.tokens import SHOWN_USER
from flask_mercure.topics import Everything, Topic, URITemplate, URLPattern, exact_topics

_Matcher = TypeVar("_Matcher", bound=str | URLPattern)

_LONGEST = 512
"""Characters of a matcher, in a hub with active subscriptions."""


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody who is at a topic.

    :param user: of the token: the user of the login extension, or of ``Grants.user``; ``None`` when the token
        names nobody, and equal payloads are one person.
    :param payload: of the token; of one of them, where the connections have different ones.
    :param connections: how many there are; tabs of one browser can share one.
    """

    user: str | None
    payload: Any
    connections: int


def people_of(subscriptions: Iterable[ActiveSubscription]) -> tuple[Person, ...]:
    """Fold the subscriptions of one topic into people.

    :param subscriptions: in any order; those without a payload are of nobody who can be named.
    """
    found: dict[str, dict[str, ActiveSubscription]] = {}
    for one in subscriptions:
        if one.payload is not None:
            user = _user(one.payload)
            key = json.dumps(one.payload if user is None else [user], sort_keys=True)
            found.setdefault(key if user is None else f"user {key}", {})[one.subscriber] = one
    return tuple(
        Person(_user(last.payload), last.payload, len(connections))
        for connections in found.values()
        for last in [list(connections.values())[-1]]
    )


def _user(payload: Any) -> str | None:
    user = payload.get(SHOWN_USER) if isinstance(payload, dict) else None
    is_named = isinstance(user, str | int) and not isinstance(user, bool)
    return str(user) if is_named else None


class Presence:
    """Who is at a topic, as :meth:`~flask_mercure.Mercure.presence` gives it: iterate over the people.

    The hub is asked once, when the people, their number or the position is first read; ``grants`` needs no
    request. Where it is asked:

    :raises HubUnreachable: the hub gave no answer.
    :raises Refused: the hub does not show it, or does not have the feature.
    :raises TokenError: the factory cannot make a token.
    """

    def __init__(
        self, topic: str, grants: tuple[Topic, ...], read: Callable[[], ActiveSubscriptions]
    ) -> None:
        self._topic = topic
        self._grants = grants
        self._read = read

    def __repr__(self) -> str:
        return f"<presence at {self._topic!r}>"

    @property
    def grants(self) -> tuple[Topic, ...]:
        """The topics to grant to whoever may see these people, and those of no other topic."""
        return self._grants

    @cached_property
    def _active(self) -> ActiveSubscriptions:
        return self._read()

    @cached_property
    def people(self) -> tuple[Person, ...]:
        """Who is there."""
        return people_of(self._active)

    @property
    def count(self) -> int:
        """How many people are there."""
        return len(self.people)

    @property
    def last_event_id(self) -> str | None:
        """The hub's position then; ``None`` if the hub did not tell it."""
        return self._active.last_event_id

    @property
    def events(self) -> tuple[Topic, ...]:
        """Topics of the events about who comes and goes, to be read from ``last_event_id`` on."""
        return self._active.events

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Person]:
        return iter(self.people)


class PresenceCount:
    """How many are connected to a topic, as :meth:`~flask_mercure.Mercure.presence_count` gives it.

    :param topic: an exact one.
    :param grants: those of the count.
    :param read: asks the hub.
    """

    def __init__(self, topic: str, grants: tuple[Topic, ...], read: Callable[[], int]) -> None:
        self._topic = topic
        self._grants = grants
        self._read = read

    def __repr__(self) -> str:
        return f"<count of the connections to {self._topic!r}>"

    @property
    def grants(self) -> tuple[Topic, ...]:
        """The topics to grant to whoever is to be counted, and may see the number; it needs no request."""
        return self._grants

    @cached_property
    def count(self) -> int:
        """How many connections there are; the hub is asked once.

        :raises HubUnreachable: the hub gave no answer.
        :raises Refused: the hub does not tell it, or has no counts.
        :raises TokenError: the factory cannot make a token.
        """
        return self._read()


def grants_for(topic: object, configuration: Configuration) -> tuple[Topic, ...]:
    """The topics that let a browser read who is at a topic: the list, and the events about it.

    :param topic: an exact one.
    :param configuration: of the hub.
    :raises InvalidArgument: the topic cannot be expressed, or is too long.
    :raises TypeError: it is no exact topic.
    """
    path = public_path(resource(_checked(topic), configuration), configuration)
    events = URITemplate(f"{path}/{{subscriber}}") if configuration.protocol == "0.x" else None
    return path, _short_enough(events or URLPattern(f"{path}/:subscriber"))


def count_grants_for(topic: object, configuration: Configuration) -> tuple[Topic, ...]:
    """The topics that let a browser be counted at a topic, and read the number.

    :param topic: an exact one.
    :param configuration: of the hub.
    :raises InvalidArgument: the topic cannot be expressed, or is too long.
    :raises TypeError: it is no exact topic.
    """
    checked = _checked(topic)
    resource(checked, configuration)  # for what no path can name
    return (_short_enough(public_path(count_of(checked), configuration)),)


def _checked(topic: object) -> str:
    if not isinstance(topic, str) or isinstance(topic, Everything | URITemplate):
        raise TypeError(f"topic is {topic!r}; people are at one exact topic, a str")
    exact_topics(topic, "topic")
    return topic


def _short_enough(matcher: _Matcher) -> _Matcher:
    """A matcher that the hub lets a page subscribe to; one refusal ends the page's whole connection."""
    if len(str(matcher)) > _LONGEST:
        raise InvalidArgument(
            f"the topic is too long to tell who is there: the hub would need the {len(str(matcher))} "
            f"characters {str(matcher)[:80]!r}…, and the limit is {_LONGEST}"
        )
    return matcher
