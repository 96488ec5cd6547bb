"""Topics and patterns that hold a user's text: a template of the developer's, with fields for values.

A value is percent-encoded (RFC 6570 section 3.2.2), so that nothing in it is syntax of a URL, a URL Pattern
or a URI Template. What encoding does not make harmless is refused: dot segments, values in a host name, and
values beside a variable part, which would match more than the one value.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from string import Formatter
from typing import Literal
from urllib.parse import quote
from uuid import UUID

from flask_mercure.errors import InvalidArgument
from flask_mercure.topics.characters import check_text

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
    given: dict[str, Value] = {str(place): value for place, value in enumerate(values)} | dict(fields)
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
    """Read a template, and refuse what a value could change the meaning of.

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
    """Refuse fields in places where a value could mean more than itself.

    :raises InvalidArgument: there is such a field.
    """
    count = len(pieces) - 1
    if count and not pieces[0][0]:
        raise InvalidArgument(
            f"the template {template!r} begins with a field, and the value would choose among all topics: "
            "begin with fixed text, such as '/users/{}'"
        )
    for place, (literal, field) in enumerate(pieces):
        if 0 < place < count and not _SEPARATES.search(literal):
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
        is_clear = place == 0 and re.fullmatch(_VALUE, literal)
        if (field is not None and not is_clear and not before.search(literal)) or (
            place and not behind.match(literal)
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
    found = _DOT_SEGMENT.search(text)
    if found:
        raise InvalidArgument(f"the {kind} {text[:80]!r} has the segment {found[0]!r}: {_ELSEWHERE}")
    return text


def is_dot_segment(value: str) -> bool:
    """Whether a value is ``.`` or ``..``, be it encoded: as a segment it leads to another place."""
    return _DOTS.fullmatch(value) is not None


def _braces(kind: Kind) -> str:
    return "" if kind == "topic" else f". Double the braces of a {kind}'s own: {{{{…}}}}"
