"""Matching a string against a URI Template, for topic selectors of 0.x (RFC 6570).

Packages for URI Templates expand and do not match. Nearly all selectors have only literals and plain
variables (``{name}``): these are matched here, in some hundred bytes. All others become a regular expression
for RE2, which takes twenty thousand. Either way the time is linear in the topic, whatever the template.
``tests/protocol/matching/test_uri_template.py`` compares the two.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import quote

import re2

_EXPRESSION = re.compile(r"\{([^{}]*)\}")
_VARNAME = r"(?:[A-Za-z0-9_]|%[0-9A-Fa-f]{2})(?:\.?(?:[A-Za-z0-9_]|%[0-9A-Fa-f]{2}))*"
_VARSPEC = re.compile(rf"({_VARNAME})(\*|:[1-9][0-9]{{0,3}})?")
_BAD_LITERAL = re.compile(r"""[\s"'<>\\^`{|}\x00-\x20\x7f]|%(?![0-9A-Fa-f]{2})""")

_ESCAPED = r"%[0-9A-Fa-f]{2}"
_ESCAPED_CHARACTER = r"%[C-Fc-f][0-9A-Fa-f](?:%[89ABab][0-9A-Fa-f]){1,3}|" + _ESCAPED
_UNRESERVED = r"[A-Za-z0-9\-._~]"
_RESERVED = r"[A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=]"
_NON_ASCII = r"[^\x00-\x7f]"  # published topics are often IRIs, not yet encoded

_MAX_REPEAT = 1000  # of RE2


@dataclass(frozen=True, slots=True)
class _Operator:
    """A row of the table in RFC 6570, appendix A."""

    first: str
    separator: str
    named: bool
    empty_equals: bool
    reserved: bool


_OPERATORS = {
    "": _Operator("", ",", False, False, False),
    "+": _Operator("", ",", False, False, True),
    "#": _Operator("#", ",", False, False, True),
    ".": _Operator(".", ".", False, False, False),
    "/": _Operator("/", "/", False, False, False),
    ";": _Operator(";", ";", True, False, False),
    "?": _Operator("?", "&", True, True, False),
    "&": _Operator("&", "&", True, True, False),
}


class Pattern(Protocol):
    """What this module needs of a compiled expression."""

    def fullmatch(self, text: str) -> object:
        """Match the whole text."""


def compile_template(template: str) -> Pattern | None:
    """Compile a template to an expression that matches what it can expand to.

    :param template: a topic selector of 0.x.
    :returns: the expression, or ``None`` when the text is not a URI Template or has no variable;
        such a selector matches nothing but itself.
    """
    parts: list[str] = []
    position = 0
    for match in _EXPRESSION.finditer(template):
        literal = template[position : match.start()]
        if _BAD_LITERAL.search(literal):
            return None
        expression = _expression(match[1])
        if expression is None:
            return None
        parts += [_literal(literal), expression]
        position = match.end()
    tail = template[position:]
    if not parts or _BAD_LITERAL.search(tail):
        return None
    options = re2.Options()
    options.log_errors = False
    options.max_mem = 1 << 20
    try:
        pattern: Pattern = re2.compile("(?s)" + "".join(parts) + _literal(tail), options)
    except re2.error:
        return None
    return pattern


def _literal(text: str) -> str:
    if text.isascii():
        return re2.escape(text) if text else ""
    return "".join(
        re2.escape(char) if char.isascii() else f"(?:{re2.escape(char)}|(?i:{quote(char)}))" for char in text
    )


def _expression(text: str) -> str | None:
    operator = _OPERATORS.get(text[:1])
    if operator is None:
        operator, specs = _OPERATORS[""], text
    else:
        specs = text[1:]
    items: list[str] = []
    for spec in specs.split(","):
        match = _VARSPEC.fullmatch(spec)
        if match is None:
            return None
        modifier = match[2] or ""
        item = _variable(operator, match[1], modifier)
        is_list = modifier == "*" or (not modifier and operator.separator == ",")
        if not (is_list and items and items[-1] == item):  # a list of lists is a list
            items.append(item)
    return _sequence(re2.escape(operator.first), re2.escape(operator.separator), items)


def _variable(operator: _Operator, name: str, modifier: str) -> str:
    """The expression for one variable that is defined."""
    char = f"(?:{_RESERVED if operator.reserved else _UNRESERVED}|{_ESCAPED}|{_NON_ASCII})"
    separator = re2.escape(operator.separator)
    label = re2.escape(name)
    if modifier == "*":
        if operator.named:
            key = f"(?:{_UNRESERVED}|{_ESCAPED})+"
            pair = f"{key}={char}*" if operator.empty_equals else f"{key}(?:={char}+)?"
            return f"{pair}(?:{separator}{pair})*"
        item = f"(?:{char}+=)?{char}*"
        return f"{item}(?:{separator}{item})*"
    if modifier:
        most = int(modifier[1:])
        char = char.replace(_ESCAPED, _ESCAPED_CHARACTER)  # what is counted is characters, not bytes
        value = f"{char}{{0,{most}}}" if most <= _MAX_REPEAT else f"{char}*"
    else:
        value = f"(?:{char}|,)*"  # a list is joined by commas
    if not operator.named:
        return value
    if operator.empty_equals:
        return f"{label}={value}"
    return f"{label}(?:={value})?"


def _sequence(first: str, separator: str, items: list[str]) -> str:
    """Items in order, each of them optional: the first one present takes ``first`` as its prefix."""
    choices: list[str] = []
    for index, item in enumerate(items):
        rest = "".join(f"(?:{separator}{later})?" for later in items[index + 1 :])
        choices.append(f"{first}{item}{rest}")
    return "(?:" + "|".join(choices) + ")?"


_VARIABLE = re.compile(r"\{[A-Za-z0-9_]+(?:\.[A-Za-z0-9_]+)*\}")
_LITERAL = re.compile(r"(?:[!#$&()*+,\-./:;=?@\[\]_~A-Za-z0-9]|%[0-9A-Fa-f]{2})*")
# A value is unreserved characters, commas, what is beyond ASCII, and bytes as %41 (RFC 6570 section 3.2.2).
_NO_VALUE = re.compile(r"[^A-Za-z0-9\-._~,%\x80-\U0010ffff]")
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")


class CompactTemplate:
    """A URI Template that was read."""

    __slots__ = ("_literals", "_tail")

    def __init__(self, literals: tuple[str, ...], tail: str) -> None:
        self._literals = literals  # before each of the variables
        self._tail = tail

    def matches(self, text: str) -> bool:
        """Tell whether the template can expand to a text; takes linear time."""
        position = 0
        last = len(self._literals) - 1
        for number, literal in enumerate(self._literals):
            if not text.startswith(literal, position):
                return False
            position += len(literal)
            if number == last:
                break
            end = _NO_VALUE.search(text, position)  # the literal after it begins with what no value holds
            if end is None or _BAD_ESCAPE.search(text, position, end.start()):
                return False
            position = end.start()
        end_of_value = len(text) - len(self._tail)
        return (
            position <= end_of_value
            and text.endswith(self._tail)
            and _NO_VALUE.search(text, position, end_of_value) is None
            and _BAD_ESCAPE.search(text, position, end_of_value) is None
        )


def read_template(template: str) -> CompactTemplate | None:
    """Read a URI Template.

    :param template: a topic selector of 0.x.
    :returns: ``None`` for one that has anything but plain variables, is not well-formed, or not ASCII.
    """
    literals: list[str] = []
    position = 0
    for match in _VARIABLE.finditer(template):
        literal = template[position : match.start()]
        if position and not _NO_VALUE.match(literal):  # where does the value end?
            return None
        literals.append(literal)
        position = match.end()
    tail = template[position:]
    if not literals or not all(_LITERAL.fullmatch(one) for one in (*literals, tail)):
        return None
    return CompactTemplate(tuple(literals), tail)
