"""Topics as an application writes them: exact topics, patterns, and the URL to subscribe with.

:func:`build_topic` and the ``build`` methods put a user's text into a template. Each value is percent-encoded
(RFC 6570 section 3.2.2), so nothing in it is syntax of a URL, a URL Pattern or a URI Template. What encoding
does not make harmless is refused: dot segments, values in a host name, and values beside a variable part,
which would match more than the one value.

``mercure_hub.protocol.matching`` evaluates matchers and needs a compiled library for that. The extension only
writes them (spec, Matcher Types).
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from string import Formatter
from typing import Any, Literal, TypeVar
from urllib.parse import quote, urlencode
from uuid import UUID

from flask_mercure.errors import InvalidArgument
from mercure_hub.protocol.topics import SUPPORTED, WILDCARD, MatcherType, forbidden_character

Protocol = Literal["1.0", "0.x"]
"""A generation of the protocol, as in ``MERCURE_PROTOCOL``."""

_Text = TypeVar("_Text", bound=str)

Value = str | int | UUID
"""What a field can hold."""

Kind = Literal["topic", "URL Pattern", "URI Template"]

Pieces = Sequence[tuple[str, str | None]]
"""A template: literal text, each with the field behind it; ``None`` at the end."""

_VALUE = r"[A-Za-z0-9._~-]*"  # what an encoded value consists of, but for escapes
_HALF_ESCAPE = re.compile(r"%[0-9A-Fa-f]?\Z")
_SEPARATES = re.compile(r"[^A-Za-z0-9._~%-]")
_IN_HOST = re.compile(
    r"(?:(?:[^/\\]*:)?[/\\]{2,}|(?:https?|wss?|ftp):[/\\]?)[^/\\?#]*\Z", re.IGNORECASE
)  # as the URL Standard reads it
_LABEL = re.compile(r"(?!xn--)[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_DOTS = re.compile(r"(?:\.|%2e){1,2}", re.IGNORECASE)
_DOT_SEGMENT = re.compile(rf"(?:^|[/\\]){_DOTS.pattern}(?:[/\\?#]|$)", re.IGNORECASE)
_ELSEWHERE = "it leads to the topics of others; refuse such a value before it gets here"
# Before a field, and behind it: text without variable parts, up to what no value contains.
_BEFORE: Mapping[Kind, re.Pattern[str]] = {
    "URL Pattern": re.compile(rf"(?:[/&=,;@]|(?<!\\)\\:){_VALUE}\Z"),
    "URI Template": re.compile(rf"[/&=;@#?:!$]{_VALUE}\Z"),
}
_BEHIND: Mapping[Kind, re.Pattern[str]] = {
    "URL Pattern": re.compile(rf"{_VALUE}(?:\Z|\{{?/|[&=,;@?#]|\\:)"),
    "URI Template": re.compile(rf"{_VALUE}(?:\Z|[/&=;@#?:!$]|\{{[/?&#;])"),
}

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")  # with lone surrogates, which UTF-8 cannot carry
_MEDIA_TYPE = re.compile(r"[\w!#$&^.+-]+/[\w!#$&^.+-]+(?:\s*;[\x20-\x7e]*)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class URLPattern:
    """A URL Pattern: matches each topic that fits, in protocol 1.0 (spec, URL Pattern).

    Text of a user's in it reads what others may read: put that in with :meth:`build`. As JSON, such as with
    ``tojson`` in a template, it is what ``subscribe`` of the JavaScript module takes.

    :param match: the pattern, such as ``https://example.com/rooms/:id``.
    """

    match: str
    match_type: str = dataclass_field(default=MatcherType.URLPATTERN.value, init=False, repr=False)

    @property
    def value(self) -> str:
        """The pattern, as a string."""
        return self.match

    def __str__(self) -> str:
        return self.match

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
    given = as_list(topics, argument)
    if given is None:
        raise TypeError(f"{argument} is None; give a str, or a list of them")
    for topic in given:
        if not isinstance(topic, str):
            raise TypeError(f"{argument} holds {topic!r}, a {type(topic).__name__}; a topic is a str")
        check_characters(topic, argument)
    return list(dict.fromkeys(given))


def matchers(topics: Topics | None, protocol: Protocol, argument: str) -> list[str | URLPattern]:
    """Read topic matchers: one or several, in any of the forms of :data:`Topic`.

    :param topics: what the caller gave; ``None`` stands for none.
    :param protocol: generation of the protocol, which decides what can be expressed.
    :param argument: name of the caller's argument, for the error.
    :returns: exact topics and marked patterns, without repetition, in order.
    :raises InvalidArgument: a matcher cannot be expressed or has forbidden characters.
    :raises TypeError: something is not a matcher.
    """
    return list(dict.fromkeys(_matcher(one, protocol, argument) for one in as_list(topics, argument) or ()))


def as_list(topics: object, argument: str) -> list[Any] | None:
    """Topics in any of their forms as a list; ``None`` stays ``None``.

    :raises TypeError: they are bytes, or no iterable.
    """
    if topics is None:
        return None
    if isinstance(topics, str | URLPattern | Mapping):
        return [topics]
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
            return _of_type(value, MatcherType.URLPATTERN, protocol, argument)
        case Mapping():
            unknown = [key for key in entry if key not in ("match", "match_type")]
            if unknown or "match" not in entry:
                raise InvalidArgument(
                    f"{argument} holds an object with the members {sorted(map(str, entry))}; it needs "
                    "'match' and may have 'match_type'"
                )
            value = check_characters(entry["match"], f"{argument}[match]")
            return _of_type(value, entry.get("match_type", MatcherType.EXACT), protocol, argument)
        case _:
            raise TypeError(
                f"{argument} holds {entry!r}, a {type(entry).__name__}; a topic is a str, a URLPattern "
                "or a dict with 'match'"
            )


def _of_type(value: str, match_type: object, protocol: Protocol, argument: str) -> str | URLPattern:
    if match_type == MatcherType.EXACT:
        return _exact(value, protocol, argument)
    if match_type != MatcherType.URLPATTERN:
        known = ", ".join(repr(one.value) for one in SUPPORTED)
        raise InvalidArgument(f"{argument} has the match_type {match_type!r}; known are {known}")
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


def subscription_url(
    public_url: str,
    protocol: Protocol,
    topics: Topics = (),
    last_event_id: str | None = None,
    *,
    last_value: bool = False,
) -> str:
    """The URL to open an ``EventSource`` with.

    :param public_url: of the hub.
    :param protocol: its generation, which names the parameters.
    :param topics: to subscribe to; none gives the hub's URL, to add parameters to in the browser.
    :param last_event_id: of the last update that is known already.
    :param last_value: ask for the newest update of each topic first; only the hub of this project does that.
    :raises InvalidArgument: a topic or the id holds forbidden characters.
    """
    exact, cursor = ("topic", "lastEventID") if protocol == "0.x" else ("match", "last_event_id")
    query = [
        ("match_urlpattern", one.value) if isinstance(one, URLPattern) else (exact, one)
        for one in matchers(topics, protocol, "topics")
    ]
    if last_event_id is not None:
        query.append((cursor, check_characters(last_event_id, "last_event_id")))
    if last_value:
        query.append(("last_value", "1"))
    return f"{public_url}?{urlencode(query)}" if query else public_url


def build_topic(template: str, /, *values: Value, **fields: Value) -> str:
    """A topic with values in it that may be a user's text. ::

        mercure.publish(build_topic("/tenants/{}/orders/{id}", tenant, id=order.id), data)

    Each value is percent-encoded, as ``encodeURIComponent`` does it, and stands for itself whatever it holds.

    :param template: the topic, with ``{}``, ``{0}`` or ``{name}`` as in :meth:`str.format`; it begins with
        fixed text, and between two fields there is a ``/`` or another character that no value contains.
    :param values: of the fields without a name.
    :param fields: of those with one.
    :raises InvalidArgument: a value is empty, holds a control character, or makes a segment ``.`` or ``..``;
        the template is not of that form, or does not have just these fields.
    :raises TypeError: a value is neither a str nor an int nor a UUID.
    """
    return built("topic", template, values, fields)


def built(kind: Kind, template: str, values: Sequence[Value], fields: Mapping[str, Value]) -> str:
    """A template with its values; see :func:`build_topic`.

    :param kind: what the template is.
    :raises InvalidArgument: the template or a value cannot be used.
    :raises TypeError: a value is neither a str nor an int nor a UUID.
    """
    given: dict[str, Value] = {str(index): value for index, value in enumerate(values)} | dict(fields)
    pieces = read_template(kind, template)
    numbers = map(str, itertools.count())
    numbered = [(literal, next(numbers) if field == "" else field) for literal, field in pieces]
    wanted = {field for _, field in numbered if field is not None}
    if wanted != set(given):
        missing, unknown = sorted(wanted - set(given)), sorted(set(given) - wanted)
        what = f"has no value for {', '.join(missing)}" if missing else f"has no field {', '.join(unknown)}"
        raise InvalidArgument(f"the template {template!r} {what}")

    def value_of(field: str) -> str:
        value = given[field]
        if isinstance(value, bool) or not isinstance(value, str | int | UUID):
            raise TypeError(
                f"the value of the field {field!r} of {template!r} is a {type(value).__name__}; give a str, "
                "an int or a UUID"
            )
        return str(value)

    return filled(kind, template, numbered, value_of)


def read_template(kind: Kind, template: str) -> Pieces:
    """Read a template, and refuse one whose meaning a value could change.

    :param kind: what it is.
    :raises InvalidArgument: it is not of the form that :func:`build_topic` describes.
    """
    try:
        parsed = list(Formatter().parse(template))
    except ValueError as error:
        raise InvalidArgument(f"the template {template!r} cannot be read ({error}){_braces(kind)}") from None
    pieces: list[tuple[str, str | None]] = []
    before = ""
    for literal, field, specification, conversion in parsed:
        before += literal
        if field is None:  # a doubled brace
            continue
        if specification or conversion or not (field == "" or field.isidentifier() or field.isdecimal()):
            raise InvalidArgument(
                f"the template {template!r} has the field {{{field}…}}; a field is {{}}, {{0}} or "
                f"{{name}}{_braces(kind)}"
            )
        pieces.append((before, field))
        before = ""
    pieces.append((before, None))
    check_template(kind, template, pieces)
    return pieces


def check_template(kind: Kind, template: str, pieces: Pieces) -> None:
    """Refuse a field whose value could match more than itself.

    :raises InvalidArgument: there is such a field.
    """
    count = len(pieces) - 1
    if count and not pieces[0][0]:
        raise InvalidArgument(
            f"the template {template!r} begins with a field, and the value would choose among all topics: "
            "begin with fixed text, such as '/users/{}'"
        )
    for index, (literal, field) in enumerate(pieces):
        if 0 < index < count and not _SEPARATES.search(literal):
            raise InvalidArgument(
                f"the template {template!r} has two fields and nothing between them that a value cannot "
                "contain: put a '/' there"
            )
        if field is not None and _HALF_ESCAPE.search(literal):
            raise InvalidArgument(f"the template {template!r} has a '%' before a field; write it as %25")
        if kind == "topic":
            continue
        if "(" in literal and kind == "URL Pattern":
            raise InvalidArgument(
                f"the template {template!r} has a regular expression, in which a value would be syntax: use "
                "':name' or '*' in its place"
            )
        before, behind = _BEFORE[kind], _BEHIND[kind]
        is_clear = index == 0 and re.fullmatch(_VALUE, literal)
        if (field is not None and not is_clear and not before.search(literal)) or (
            index and not behind.match(literal)
        ):
            raise InvalidArgument(
                f"the template {template!r} has a field beside a variable part, so that a value would match "
                "more than itself: put a '/' between them"
            )


def filled(kind: Kind, template: str, pieces: Pieces, value_of: Callable[[str], str]) -> str:
    """The text of a template that was read.

    :param kind: what it is.
    :param template: as it was written, for errors.
    :param pieces: of the template.
    :param value_of: gives the value of a field.
    :raises InvalidArgument: a value cannot stand there.
    """
    text = ""
    for literal, field in pieces:
        text += literal
        if field is None:
            continue
        value = check_text(value_of(field), f"the field {field!r} of {template!r}")
        if _IN_HOST.match(text) and not _LABEL.fullmatch(value):
            raise InvalidArgument(
                f"the field {field!r} of {template!r} stands in a host name and is {value[:80]!r}: give "
                "lower-case letters, digits and '-', since others are compared in another spelling, or put "
                "the value into the path"
            )
        if is_dot_segment(value):
            raise InvalidArgument(f"the field {field!r} of {template!r} is {value!r}: {_ELSEWHERE}")
        text += quote(value, safe="")
    if segment := _DOT_SEGMENT.search(text):
        raise InvalidArgument(f"the {kind} {text[:80]!r} has the segment {segment[0]!r}: {_ELSEWHERE}")
    return text


def is_dot_segment(value: str) -> bool:
    """Whether a value is ``.`` or ``..``, encoded or not: as a segment it changes the path."""
    return _DOTS.fullmatch(value) is not None


def _braces(kind: Kind) -> str:
    return "" if kind == "topic" else f". Double the braces of a {kind}'s own: {{{{…}}}}"


def check_characters(value: object, argument: str) -> str:
    """Refuse characters that the spec forbids in topics, matchers, ids and types (spec, Terminology).

    :param value: to be checked.
    :param argument: name of the caller's argument, for the error.
    :raises InvalidArgument: the value is empty or has a control or format character.
    :raises TypeError: the value is not a string.
    """
    if not isinstance(value, str):
        raise TypeError(f"{argument} is a {type(value).__name__}, it must be a str")
    if not value:
        raise InvalidArgument(f"{argument} holds an empty string")
    if forbidden := forbidden_character(value):
        raise InvalidArgument(
            f"{argument} holds the control or format character {forbidden}: {value[:80]!r}. A user's text "
            "may hold some, as emoji do: put it into a topic with build_topic()"
        )
    return value


def check_text(value: str, argument: str) -> str:
    """Refuse text that cannot be part of a topic, even percent-encoded.

    Format characters may be in it: emoji of several code points and the names of many languages have them.

    :param value: to be checked.
    :param argument: what it is, for the error.
    :raises InvalidArgument: it is empty, or has a control character or a lone surrogate.
    """
    if not value:
        raise InvalidArgument(f"{argument} holds an empty string")
    if control := _CONTROL.search(value):
        raise InvalidArgument(
            f"{argument} holds the control character U+{ord(control[0]):04X}: {value[:80]!r}"
        )
    return value


def check_media_type(value: str, argument: str) -> str:
    """Require a media type, such as ``application/json``.

    :param value: to be checked.
    :param argument: name of the caller's argument, for the error.
    :raises InvalidArgument: the value has another form.
    """
    if not _MEDIA_TYPE.fullmatch(value):
        raise InvalidArgument(f"{argument} is {value!r}, not a media type such as application/json")
    return value
