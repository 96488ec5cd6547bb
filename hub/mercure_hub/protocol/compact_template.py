"""URI Templates with plain variables, in some hundred octets instead of RE2's twenty thousand.

Nearly all selectors of 0.x are such: literals, and between them ``{name}``. They match what ``uri_template``
says; ``tests/protocol/test_compact_template.py`` compares the two. All other templates are compiled there.
"""

from __future__ import annotations

import re

_VARIABLE = re.compile(r"\{[A-Za-z0-9_]+(?:\.[A-Za-z0-9_]+)*\}")
_LITERAL = re.compile(r"(?:[!#$&()*+,\-./:;=?@\[\]_~A-Za-z0-9]|%[0-9A-Fa-f]{2})*")
# A value is unreserved characters, commas, what is beyond ASCII, and octets as %41 (RFC 6570 section 3.2.2).
_NO_VALUE = re.compile(r"[^A-Za-z0-9\-._~,%\x80-\U0010ffff]")
_NO_OCTET = re.compile(r"%(?![0-9A-Fa-f]{2})")


class CompactTemplate:
    """A URI Template that was read."""

    __slots__ = ("_literals", "_tail")

    def __init__(self, literals: tuple[str, ...], tail: str) -> None:
        self._literals = literals  # before each of the variables
        self._tail = tail

    def matches(self, text: str) -> bool:
        """Tell whether the template can expand to a text; takes linear time."""
        place = 0
        last = len(self._literals) - 1
        for number, literal in enumerate(self._literals):
            if not text.startswith(literal, place):
                return False
            place += len(literal)
            if number == last:
                break
            end = _NO_VALUE.search(text, place)  # the literal after it begins with what no value holds
            if end is None or _NO_OCTET.search(text, place, end.start()):
                return False
            place = end.start()
        end_of_value = len(text) - len(self._tail)
        return (
            place <= end_of_value
            and text.endswith(self._tail)
            and _NO_VALUE.search(text, place, end_of_value) is None
            and _NO_OCTET.search(text, place, end_of_value) is None
        )


def read_template(template: str) -> CompactTemplate | None:
    """Read a URI Template.

    :param template: a topic selector of 0.x.
    :returns: ``None`` for one that has anything but plain variables, is not well-formed, or not ASCII.
    """
    literals: list[str] = []
    place = 0
    for found in _VARIABLE.finditer(template):
        literal = template[place : found.start()]
        if place and not _NO_VALUE.match(literal):  # where does the value end?
            return None
        literals.append(literal)
        place = found.end()
    tail = template[place:]
    if not literals or not all(_LITERAL.fullmatch(one) for one in (*literals, tail)):
        return None
    return CompactTemplate(tuple(literals), tail)
