"""What a URL Pattern costs to compile, estimated before it is compiled.

Matching is linear in the topic, whatever the pattern. Construction is not free: a Unicode class such as
``\\w`` takes near a millisecond each time that it is repeated, and as many kilobytes, and any
anonymous subscriber may send patterns. The numbers are microseconds, measured with urlpattern 0.3.
"""

from __future__ import annotations

import re

_BASE = 200
_CHARACTER = 1
_WILDCARD = 10
_NAME = 25
_ANY = 10
_CLASS_ITEM = 3
_CLASSES = {"w": 900, "W": 900, "p": 900, "P": 900, "d": 60, "D": 200, "s": 30, "S": 40}

_QUANTIFIERS = "*+?"

TOO_MUCH = 1_000_000

_OUTSIDE = re.compile(r"\\.|[(:{*]|.", re.DOTALL)
_INSIDE = re.compile(
    r"""\\[pP](?:\{[^}]*\}|.)|\\[xuU]\{[^}]*\}|\\.   # escapes, some with braces of their own
    |\[\^?\]?(?:\\.|[^\]\\])*\]                      # a class of characters
    |\{[^}]*\}                                       # a count
    |\(\?:|[()]|.""",
    re.DOTALL | re.VERBOSE,
)
_ITEM = re.compile(r"\\.|[^\\]", re.DOTALL)
_NUMBER = re.compile(r"[0-9]{1,9}")


def estimate(pattern: str) -> int:
    """Estimate the microseconds that it takes to compile a URL Pattern.

    :returns: ``TOO_MUCH`` for constructs whose cost cannot be told: flags such as ``(?i)``, sets
        within sets, parentheses in a set that are not escaped.
    """
    cost = _BASE
    position = 0
    while found := _OUTSIDE.match(pattern, position):
        token, position = found[0], found.end()
        if token == "(":  # noqa: S105 - a character
            group, position = _group(pattern, position)
            cost += group
        else:
            cost += {":": _NAME, "{": _NAME, "*": _WILDCARD}.get(token, _CHARACTER)
    return min(cost, TOO_MUCH)


def _group(pattern: str, position: int) -> tuple[int, int]:
    """The cost of a regular expression that starts at ``position``, and the place after it."""
    totals, last = [0], 0
    while totals and (found := _INSIDE.match(pattern, position)):
        token, position = found[0], found.end()
        if token == "(?:":  # noqa: S105 - a character
            totals.append(0)
            continue
        if token == ")":  # noqa: S105 - a character
            last = totals.pop()
            if totals:
                totals[-1] += last
            continue
        if token in _QUANTIFIERS:  # repeats without copying, and may be counted itself: a?{100}
            continue
        if token[0] == "{":
            more = last * max(0, max(map(int, _NUMBER.findall(token)), default=1) - 1)
            last += more
        else:
            more = last = _atom(token)
        totals[-1] = min(totals[-1] + more, TOO_MUCH)
    return (sum(totals) if totals else last), position


def _atom(token: str) -> int:
    if token == "(":  # noqa: S105 - a character
        return TOO_MUCH
    if token[0] != "[":
        return _ANY if token == "." else _escape(token)
    inner = token[1:-1]
    if re.search(r"(?<!\\)(?:\\\\)*[\[()]", inner):
        return TOO_MUCH
    return _ANY + sum(max(_escape(item), _CLASS_ITEM) for item in _ITEM.findall(inner))


def _escape(token: str) -> int:
    return _CLASSES.get(token[1:2], _CHARACTER) if token[0] == "\\" else _CHARACTER
