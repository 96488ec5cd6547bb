"""Topic matchers as an application writes them, and their form on the wire (spec, Matcher Types).

``hub.protocol.matchers`` evaluates matchers and needs a compiled library for that; the extension
only hands them over.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from flask_mercure.errors import InvalidArgument
from flask_mercure.topics.characters import check_characters

Protocol = Literal["1.0", "0.x"]


@dataclass(frozen=True, slots=True)
class URLPattern:
    """A URL Pattern: matches each topic that fits, in protocol 1.0.

    Section 'URL Pattern' of the spec; in 0.x write a URI Template as a plain string.

    :param value: the pattern, such as ``https://example.com/rooms/:id``.
    """

    value: str

    def __str__(self) -> str:
        return self.value


Topic = str | URLPattern | Mapping[str, Any]
"""An exact topic (in 0.x also a URI Template), ``*``, a pattern, or an object such as
``{"match": "https://example.com/rooms/:id", "match_type": "urlpattern"}``."""

Topics = Topic | Iterable[Topic]


def exact_topics(topics: str | Iterable[str], argument: str = "topics") -> list[str]:
    """Read the topics of an update: a string or several.

    :param topics: what the caller gave.
    :param argument: its name, for the error.
    :returns: the topics without repetition, in order.
    :raises InvalidArgument: a topic is empty or holds a control or format character.
    :raises TypeError: something is not a string.
    """
    found = [topics] if isinstance(topics, str) else listed(topics, argument)
    for topic in found:
        if not isinstance(topic, str):
            raise TypeError(f"{argument} holds {topic!r}, a {type(topic).__name__}; a topic is a str")
        check_characters(topic, argument)
    return list(dict.fromkeys(found))


def matchers(topics: Topics | None, protocol: Protocol, argument: str) -> list[str | URLPattern]:
    """Read topic matchers: one or several, in any of the forms of :data:`Topic`.

    :param topics: what the caller gave; ``None`` stands for none.
    :param protocol: generation of the protocol, which decides what can be expressed.
    :param argument: name of the caller's argument, for the error.
    :returns: strings (exact in 1.0, selectors in 0.x) and patterns, without repetition, in order.
    :raises InvalidArgument: a matcher cannot be expressed or has forbidden characters.
    :raises TypeError: something is not a matcher.
    """
    if topics is None:
        return []
    several = [topics] if isinstance(topics, str | URLPattern | Mapping) else listed(topics, argument)
    found = [_matcher(one, protocol, argument) for one in several]
    return list(dict.fromkeys(found))


def listed(topics: object, argument: str) -> list[Any]:
    """Take an iterable of topics as a list.

    :raises TypeError: it is none, or it is bytes.
    """
    if isinstance(topics, bytes | bytearray) or not isinstance(topics, Iterable):
        raise TypeError(f"{argument} is a {type(topics).__name__}; give a str, or a list of them")
    return list(topics)


def _matcher(entry: object, protocol: Protocol, argument: str) -> str | URLPattern:
    match entry:
        case str():
            return check_characters(entry, argument)
        case URLPattern(value):
            check_characters(value, argument)
            return _of_type(value, "urlpattern", protocol, argument)
        case Mapping():
            unknown = [key for key in entry if key not in ("match", "match_type")]
            if unknown or "match" not in entry:
                raise InvalidArgument(
                    f"{argument} holds an object with the members {sorted(map(str, entry))}; it needs "
                    "'match' and may have 'match_type'"
                )
            value = check_characters(entry["match"], f"{argument}[match]")
            return _of_type(value, entry.get("match_type", "exact"), protocol, argument)
        case _:
            raise TypeError(
                f"{argument} holds {entry!r}, a {type(entry).__name__}; a topic is a str, a URLPattern "
                "or a dict with 'match'"
            )


def _of_type(value: str, match_type: object, protocol: Protocol, argument: str) -> str | URLPattern:
    if match_type == "exact" or value == "*":  # the wildcard has no type (spec, Matcher Types)
        return value
    if match_type != "urlpattern":
        raise InvalidArgument(
            f"{argument} has the match_type {match_type!r}; known are 'exact', 'urlpattern'"
        )
    if protocol == "0.x":
        raise InvalidArgument(
            f"{argument} holds the URL Pattern {value!r}, which protocol 0.x does not know "
            "(MERCURE_PROTOCOL): write a URI Template as a plain string"
        )
    return URLPattern(value)
