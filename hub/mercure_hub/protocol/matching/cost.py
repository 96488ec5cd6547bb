"""What a pattern costs to compile, estimated before it is compiled.

Matching is linear in the topic, whatever the pattern. Construction is not free: a Unicode class such as
``\\w`` takes near a millisecond and a hundred kilobytes each time that it is repeated, and any anonymous
subscriber may send patterns. The numbers are microseconds, measured with urlpattern 0.3 and RE2;
those of wildcards, names and sets are raised, since many of them make a pattern slow to match.
"""

from __future__ import annotations

import re

_BASE = 200
_CHARACTER = 1
_WILDCARD = 60  # a * or a :name
_ANY = 40  # a set of characters, or the dot
_CLASS_ITEM = 3
_VARIABLE = 20
_EXPLODED = 50
_PREFIX = 8  # each character of {name:9}
_CLASSES = {"w": 900, "W": 900, "p": 900, "P": 900, "d": 60, "D": 200, "s": 30, "S": 40}

_QUANTIFIERS = "*+?"

TOO_MUCH = 1_000_000

_OUTSIDE = re.compile(r"[^\\(:{*]+|\\.|.", re.DOTALL)
_INSIDE = re.compile(
    r"""\\[pP](?:\{[^}]*\}|.)|\\[xuU]\{[^}]*\}|\\.   # escapes, some with braces of their own
    |\[\^?\]?(?:\\.|[^\]\\])*\]                      # a class of characters
    |\{[^}]*\}                                       # a count
    |\(\?:|[()]|.""",
    re.DOTALL | re.VERBOSE,
)
_ITEM = re.compile(r"\\.|[^\\]", re.DOTALL)
_NUMBER = re.compile(r"[0-9]{1,9}")
_EXPRESSION = re.compile(r"\{([^{}]*)\}")
_LENGTH = re.compile(r":([0-9]{1,4})$")


def url_pattern_cost(pattern: str) -> int:
    """Estimate the microseconds that it takes to compile a URL Pattern.

    :returns: ``TOO_MUCH`` for constructs whose cost cannot be told: flags such as ``(?i)``, sets
        within sets, parentheses in a set that are not escaped.
    """
    cost = _BASE
    position = 0
    while match := _OUTSIDE.match(pattern, position):
        piece, position = match[0], match.end()
        if piece == "(":
            group, position = _group(pattern, position)
            cost += group
        else:
            cost += _WILDCARD if piece in ":*{" else _CHARACTER * len(piece)
    return min(cost, TOO_MUCH)


def uri_template_cost(template: str) -> int:
    """Estimate the microseconds that it takes to compile a URI Template."""
    cost = _BASE + sum(_PREFIX for char in template if not char.isascii())
    for variables in _EXPRESSION.findall(template):
        for index, variable in enumerate(variables.split(",")):
            length = _LENGTH.search(variable)
            weight = _EXPLODED if variable.endswith("*") else _VARIABLE
            weight += _PREFIX * int(length[1]) if length else 0
            cost += weight * (index + 1)  # each variable is spelt out behind all that may precede it
    return cost


def _group(pattern: str, position: int) -> tuple[int, int]:
    """The cost of a regular expression that starts at ``position``, and the position after it."""
    totals, last = [0], 0
    while totals and (match := _INSIDE.match(pattern, position)):
        piece, position = match[0], match.end()
        if piece == "(?:":
            totals.append(0)
            continue
        if piece == ")":
            last = totals.pop()
            if totals:
                totals[-1] += last
            continue
        if piece in _QUANTIFIERS:  # repeats without copying, and may be counted itself: a?{100}
            continue
        if piece[0] == "{":
            more = last * max(0, max(map(int, _NUMBER.findall(piece)), default=1) - 1)
            last += more
        else:
            more = last = _atom(piece)
        if more >= TOO_MUCH:
            return TOO_MUCH, len(pattern)
        totals[-1] += more
    return (sum(totals) if totals else last), position


def _atom(piece: str) -> int:
    if piece in "([":  # a flag or an assertion, a set without its end
        return TOO_MUCH
    if piece[0] != "[":
        return _ANY if piece == "." else _escape(piece)
    inner = piece[1:-1]
    if re.search(r"(?<!\\)(?:\\\\)*[\[()]", inner):
        return TOO_MUCH
    return _ANY + sum(max(_escape(item), _CLASS_ITEM) for item in _ITEM.findall(inner))


def _escape(piece: str) -> int:
    return _CLASSES.get(piece[1:2], _CHARACTER) if piece[0] == "\\" else _CHARACTER
