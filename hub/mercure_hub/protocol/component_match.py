"""Tells whether a component of a URL is what the elements of a pattern stand for.

Each test is linear in the text. Those of the usual kinds take some hundred octets; the others are
expressions for RE2, which take some ten thousand.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import lru_cache
from operator import itemgetter
from typing import Protocol

import re2

from mercure_hub.protocol.url_pattern_syntax import Anything, Elements, Optional, Repeated, Segment, joined

_MAX_ALTERNATIVES = 4
_MAX_SEGMENTS = 64
_MAX_MEMORY = 1 << 16


class ComponentMatch(Protocol):
    """Tells whether a text is matched."""

    is_expression: bool

    def matches(self, text: str) -> bool:
        """Try the whole text."""


def make_match(elements: Elements, delimiter: str) -> ComponentMatch | None:
    """Make the cheapest test for the elements of a component.

    :param delimiter: what a named group cannot hold: ``/`` in a path, ``.`` in a host, empty for nothing.
    :returns: ``None`` if they are too many.
    """
    choices = _alternatives(elements)
    if choices is not None:
        simple = [_simple(choice, delimiter) for choice in choices]
        found = tuple(one for one in simple if one is not None)
        if len(found) == len(simple):
            return found[0] if len(found) == 1 else _Either(found)
    try:
        return _Expression(elements, delimiter)
    except re2.error:
        return None


def begins_with(elements: Elements) -> str:
    """The complete segments that each path begins with."""
    if not elements or not isinstance(elements[0], str):
        return ""
    return elements[0] if _ends_segment(elements[1:]) else elements[0].rpartition("/")[0]


def _ends_segment(elements: Elements) -> bool:
    """Whether these stand for nothing or for what begins with a slash, even if optional ones are absent."""
    for one in elements:
        if isinstance(one, str):
            return one.startswith("/")
        if isinstance(one, Segment | Anything) or not _ends_segment(one.elements):
            return False
        if isinstance(one, Repeated):
            return True
    return True


def _alternatives(elements: Elements) -> list[Elements] | None:
    """What the elements mean with and without the optional ones; ``None`` if that is too much."""
    if not any(isinstance(one, Optional) for one in elements):
        return [elements]
    options = [((), one.elements) if isinstance(one, Optional) else ((one,),) for one in elements]
    if 2 ** sum(len(one) - 1 for one in options) > _MAX_ALTERNATIVES:
        return None
    return [joined(itertools.chain.from_iterable(one)) for one in itertools.product(*options)]


def _simple(elements: Elements, delimiter: str) -> ComponentMatch | None:
    before = elements[0] if elements and isinstance(elements[0], str) else ""
    inner = elements[1:] if before else elements
    after = inner[-1] if inner and isinstance(inner[-1], str) else ""
    inner = inner[:-1] if after else inner
    if not inner:
        return _Same(before)
    if len(inner) == 1:
        (one,) = inner
        if isinstance(one, Segment | Anything):
            return _Between(before, after, isinstance(one, Segment), delimiter)
        if isinstance(one, Repeated) and one.elements == ("/", Segment()) and not after and delimiter == "/":
            return _Segments(before)
    if delimiter == "/" and before[:1] == "/":
        return _by_segment(elements)
    return None


class _Same:
    """One text."""

    __slots__ = ("_text",)
    is_expression = False

    def __init__(self, text: str) -> None:
        self._text = text

    def matches(self, text: str) -> bool:
        return text == self._text


class _Between:
    """Literals around one variable."""

    __slots__ = ("_after", "_before", "_delimiter", "_least")
    is_expression = False

    def __init__(self, before: str, after: str, is_segment: bool, delimiter: str) -> None:
        self._before = before
        self._after = after
        self._delimiter = delimiter if is_segment else ""
        self._least = len(before) + len(after) + is_segment

    def matches(self, text: str) -> bool:
        return (
            text.startswith(self._before)
            and len(text) >= self._least
            and text.endswith(self._after)
            and (
                not self._delimiter
                or text.find(self._delimiter, len(self._before), len(text) - len(self._after)) < 0
            )
        )


class _Segments:
    """A literal and one or more segments behind it."""

    __slots__ = ("_before",)
    is_expression = False

    def __init__(self, before: str) -> None:
        self._before = before

    def matches(self, text: str) -> bool:
        start = len(self._before)
        return (
            text.startswith("/", start)
            and text.startswith(self._before)
            and text[-1] != "/"
            and text.find("//", start) < 0
        )


class _Path:
    """Segments, each a literal or a variable, and perhaps anything behind the last slash."""

    __slots__ = ("_count", "_literal", "_literals", "_variables", "_with_tail")
    is_expression = False

    def __init__(self, segments: list[str | None], with_tail: bool) -> None:
        literals = tuple(place for place, one in enumerate(segments) if one is not None)
        self._count = len(segments)
        self._literals = _picker(literals)
        self._literal = self._literals(segments)
        self._variables = _picker(tuple(place for place, one in enumerate(segments) if one is None))
        self._with_tail = with_tail

    def matches(self, text: str) -> bool:
        segments = text.split("/", self._count)
        return (
            len(segments) == self._count + self._with_tail
            and self._literals(segments) == self._literal
            and "" not in self._variables(segments)
        )


class _Either:
    """Any of several tests."""

    __slots__ = ("_choices",)
    is_expression = False

    def __init__(self, choices: tuple[ComponentMatch, ...]) -> None:
        self._choices = choices

    def matches(self, text: str) -> bool:
        return any(one.matches(text) for one in self._choices)


class _Expression:
    """Everything else."""

    __slots__ = ("_before", "_pattern")
    is_expression = True

    def __init__(self, elements: Elements, delimiter: str) -> None:
        self._before = elements[0] if isinstance(elements[0], str) else ""
        options = re2.Options()
        options.log_errors = False
        options.never_capture = True
        options.dot_nl = True
        options.max_mem = _MAX_MEMORY
        segment = f"[^{re2.escape(delimiter)}]+" if delimiter else ".+"
        self._pattern = re2.compile(_expression(elements, segment).encode(), options)

    def matches(self, text: str) -> bool:
        return text.startswith(self._before) and self._pattern.fullmatch(text.encode()) is not None


def _expression(elements: Elements, segment: str) -> str:
    found = ""
    for one in elements:
        if isinstance(one, str):
            found += re2.escape(one)
        elif isinstance(one, Segment):
            found += segment
        elif isinstance(one, Anything):
            found += ".*"
        else:
            found += f"(?:{_expression(one.elements, segment)}){'?' if isinstance(one, Optional) else '+'}"
    return found


def _by_segment(elements: Elements) -> _Path | None:
    """For elements each of which is a whole segment; the first one is a literal that begins with a slash."""
    segments: list[str | None] = []
    with_tail = False
    for place, one in enumerate(elements):
        if isinstance(one, str):
            first, *others = one.split("/")
            if place and first:  # goes on behind a variable
                return None
            segments += others if place else one.split("/")
        elif segments[-1] != "":  # goes on behind a literal
            return None
        elif isinstance(one, Segment):
            segments[-1] = None
        elif isinstance(one, Anything) and place == len(elements) - 1:
            segments.pop()
            with_tail = True
        else:
            return None
    return _Path(segments, with_tail) if len(segments) <= _MAX_SEGMENTS else None


@lru_cache(maxsize=256)
def _picker(places: tuple[int, ...]) -> Callable[[Sequence[str | None]], tuple[str | None, ...]]:
    """Takes the items at some places, always as a tuple."""
    if not places:
        return _nothing
    pick: Callable[[Sequence[str | None]], tuple[str | None, ...]]
    pick = itemgetter(*(places if len(places) > 1 else places * 2))
    return pick


def _nothing(_: Sequence[str | None]) -> tuple[str | None, ...]:
    return ()
