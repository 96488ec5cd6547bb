"""Topic matchers as an application writes them, and their form on the wire (spec, Matcher Types).

``mercure_hub.protocol.matchers`` evaluates matchers and needs a compiled library for that; the extension
only hands them over.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from flask_mercure.errors import InvalidArgument
from flask_mercure.topics.building import Value, built
from flask_mercure.topics.characters import check_characters
from mercure_hub.protocol.topics import WILDCARD

Protocol = Literal["1.0", "0.x"]

_Text = TypeVar("_Text", bound=str)


@dataclass(frozen=True, slots=True)
class URLPattern:
    """A URL Pattern: matches each topic that fits, in protocol 1.0 (spec, URL Pattern).

    Text of a user's in it reads what others may read: put that in with :meth:`build`.

    :param value: the pattern, such as ``https://example.com/rooms/:id``.
    """

    value: str

    def __str__(self) -> str:
        return self.value

    @classmethod
    def build(cls, template: str, /, *values: Value, **fields: Value) -> URLPattern:
        """A pattern with values in it that may be a user's text. ::

            URLPattern.build("/tenants/{}/orders/:id", tenant)  # the tenant "*" matches topics of "*" alone

        Topics to match it are made with :func:`~flask_mercure.build_topic`, which encodes the same way.

        :param template: the pattern, with ``{}``, ``{0}`` or ``{name}`` as in :meth:`str.format`. Double the
            braces of the pattern's own groups. A ``/`` stands between a field and what is variable.
        :param values: of the fields without a name.
        :param fields: of those with one.
        :raises InvalidArgument: as :func:`~flask_mercure.build_topic` does.
        :raises TypeError: a value is neither a str nor an int nor a UUID.
        """
        return cls(built("URL Pattern", template, values, fields))


class URITemplate(str):
    """A URI Template: matches each topic that it expands to, in protocol 0.x (RFC 6570).

    A string that is marked, as ``markupsafe.Markup`` is: an unmarked one never is a template. Text of a
    user's in it reads what others may read: put that in with :meth:`build`. ::

        URITemplate("https://example.com/rooms/{id}")
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return f"URITemplate({str.__repr__(self)})"

    @classmethod
    def build(cls, template: str, /, *values: Value, **fields: Value) -> URITemplate:
        """A template with values in it that may be a user's text. ::

            URITemplate.build("/tenants/{}/orders/{{id}}", tenant)

        :param template: with ``{}``, ``{0}`` or ``{name}`` as in :meth:`str.format`. Double the braces of the
            URI Template's own variables. A ``/`` stands between a field and what is variable.
        :param values: of the fields without a name.
        :param fields: of those with one.
        :raises InvalidArgument: as :func:`~flask_mercure.build_topic` does.
        :raises TypeError: a value is neither a str nor an int nor a UUID.
        """
        return cls(built("URI Template", template, values, fields))


class Everything(str):
    """The type of :data:`EVERYTHING`: the wildcard, marked."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "EVERYTHING"


EVERYTHING = Everything(WILDCARD)
"""All topics, in a grant or a subscription. The text ``*`` is refused there: it may be a user's."""

Topic = str | URLPattern | Mapping[str, Any]
"""An exact topic, a :class:`URLPattern` (1.0), a :class:`URITemplate` (0.x), :data:`EVERYTHING`, or an object
such as ``{"match": "https://example.com/rooms/:id", "match_type": "urlpattern"}``."""

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
    :returns: exact topics, and marked what is none, without repetition, in order.
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


def typed(text: str, protocol: Protocol) -> str:
    """A matcher as an operator writes it at the shell or in a setting: ``*`` and URI Templates need no mark.

    Never for what a user of the app wrote.
    """
    if text == WILDCARD:
        return EVERYTHING
    return URITemplate(text) if protocol == "0.x" and "{" in text else text


def _matcher(entry: object, protocol: Protocol, argument: str) -> str | URLPattern:
    match entry:
        case Everything():
            return EVERYTHING
        case URITemplate():
            if protocol == "1.0":
                raise InvalidArgument(
                    f"{argument} holds the URI Template {str(entry)!r}, which protocol 1.0 does not know "
                    "(MERCURE_PROTOCOL): use URLPattern"
                )
            check_characters(entry, argument)
            return _not_wildcard(entry, argument)
        case str():
            return _exact(entry, protocol, argument)
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
    if match_type == "exact":
        return _exact(value, protocol, argument)
    if match_type != "urlpattern":
        raise InvalidArgument(
            f"{argument} has the match_type {match_type!r}; known are 'exact', 'urlpattern'"
        )
    if protocol == "0.x":
        raise InvalidArgument(
            f"{argument} holds the URL Pattern {value!r}, which protocol 0.x does not know "
            "(MERCURE_PROTOCOL): use URITemplate"
        )
    return URLPattern(_not_wildcard(value, argument))


def _exact(value: str, protocol: Protocol, argument: str) -> str:
    check_characters(value, argument)
    if protocol == "0.x" and "{" in value:
        raise InvalidArgument(
            f"{argument} holds {value[:80]!r}, which a hub of protocol 0.x reads as a URI Template: if it is "
            "one, mark it with URITemplate(...); if the brace is a user's, encode it with build_topic"
        )
    return _not_wildcard(str(value), argument)


def _not_wildcard(value: _Text, argument: str) -> _Text:
    if value == WILDCARD:  # of whatever type, to a hub (spec, Matcher Types)
        raise InvalidArgument(
            f"{argument} holds the text '*', which is all topics to a hub and may be a user's: write "
            "EVERYTHING if all is meant"
        )
    return value
