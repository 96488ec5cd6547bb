"""The usual syntax of URL Patterns, read into elements (URL Pattern Standard, sections 2.1 and 2.2).

Usual means: literals that canonicalization leaves as they are or that are beyond ASCII, named groups,
wildcards, groups in braces, modifiers. Regular expressions, escapes and whatever canonicalization could bend
are for the library. So is all that might not be well-formed: nothing is refused here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import quote


@dataclass(frozen=True, slots=True)
class Segment:
    """A named group: one or more characters up to the next delimiter."""


@dataclass(frozen=True, slots=True)
class Anything:
    """A full wildcard: any characters or none."""


@dataclass(frozen=True, slots=True)
class Optional:
    """Elements that may be absent."""

    elements: Elements


@dataclass(frozen=True, slots=True)
class Repeated:
    """Elements, once or several times."""

    elements: Elements


Element = str | Segment | Anything | Optional | Repeated
"""A literal text, or what stands for others."""

Elements = tuple[Element, ...]

_SEGMENT, _ANYTHING = Segment(), Anything()

_PIECE = re.compile(
    r":[A-Za-z_$][A-Za-z0-9_$]*+(?![^\x00-\x7f]|\()"  # a name; beyond ASCII it could go on
    r"|[*{}]|[?+]"
    r"|(?:[A-Za-z0-9._~!$&,;=@/-]|%(?!2[Ee])|[^\x00-\x7f])+"
)
_DOTS = re.compile(r"/\.\.?(?:/|$)")  # canonicalization takes them away
_MODIFIERS = ("?", "*", "+")


def tokens(text: str) -> list[str] | None:
    """Split the text of a path and a query.

    :returns: runs of literal characters, names with their colon, ``*``, braces and modifiers each alone;
        ``None`` for all that is not usual.
    """
    found: list[str] = []
    position = 0
    while position < len(text):
        piece = _PIECE.match(text, position)
        if piece is None:
            return None
        found.append(piece[0])
        position = piece.end()
    return found


def query_start(found: list[str]) -> int:
    """The place of the ``?`` that begins the query, or the number of tokens."""
    depth = 0
    for place, piece in enumerate(found):
        depth += (piece == "{") - (piece == "}")
        if piece == "?" and depth == 0 and (place == 0 or not _takes_modifier(found[place - 1])):
            return place
    return len(found)


def _takes_modifier(piece: str) -> bool:
    return piece in ("}", "*") or piece[0] == ":"


def elements(found: list[str], prefix: str) -> Elements | None:
    """Read the tokens of one component.

    :param prefix: the character that belongs to the group behind it: ``/`` in a path, empty elsewhere.
    :returns: ``None`` for what is not usual or not well-formed.
    """
    reader = _Reader(found, prefix)
    return joined(reader.done) if reader.read() else None


def joined(parts: Iterable[Element]) -> Elements:
    """Elements, with neighbouring literals as one."""
    found: list[Element] = []
    for one in parts:
        if isinstance(one, str) and found and isinstance(found[-1], str):
            found[-1] += one
        else:
            found.append(one)
    return tuple(found)


class _Reader:
    """The standard's pattern parser."""

    def __init__(self, found: list[str], prefix: str) -> None:
        self.done: list[Element] = []
        self._tokens = found
        self._prefix = prefix
        self._place = 0
        self._pending = ""  # literal text that is not finished
        self._names: set[str] = set()

    def read(self) -> bool:
        while self._place < len(self._tokens):
            piece = self._next()
            if piece == "{":
                if not self._group():
                    return False
            elif piece == "*" or piece[0] == ":":
                before = ""
                if self._prefix and self._pending.endswith(self._prefix) and self._follows_text():
                    before, self._pending = self._prefix, self._pending[: -len(self._prefix)]
                if not self._variable(before, piece, ""):
                    return False
            elif piece in ("}", *_MODIFIERS):
                return False
            else:
                self._pending += piece
        return self._flush()

    def _follows_text(self) -> bool:
        """Whether the piece before the last one is literal text; that in braces binds to no variable."""
        return self._place > 1 and self._tokens[self._place - 2] not in ("}", *_MODIFIERS)

    def _next(self) -> str:
        self._place += 1
        return self._tokens[self._place - 1]

    def _take(self, *kinds: str) -> str:
        """The next piece if it is one of a kind; a colon stands for names, no kind at all for text."""
        if self._place == len(self._tokens):
            return ""
        piece = self._tokens[self._place]
        kind = ":" if piece[0] == ":" else piece
        if kind in kinds or (not kinds and kind not in ("{", "}", ":", *_MODIFIERS)):
            self._place += 1
            return piece
        return ""

    def _group(self) -> bool:
        before, variable, after = self._take(), self._take(":", "*"), self._take()
        if not self._take("}"):
            return False
        if variable:
            return self._variable(before, variable, after)
        modifier = self._take(*_MODIFIERS)
        if not modifier:
            self._pending += before
            return True
        if not self._flush() or _bent(before):
            return False
        if before:
            self.done += _modified((_canonical(before),), modifier)
        return True

    def _variable(self, before: str, piece: str, after: str) -> bool:
        modifier = self._take(*_MODIFIERS)
        if not self._flush() or _bent(before) or _bent(after) or piece in self._names:
            return False
        if piece != "*":
            self._names.add(piece)
        parts = (_canonical(before), _ANYTHING if piece == "*" else _SEGMENT, _canonical(after))
        found = tuple(part for part in parts if part != "")
        self.done += _modified(found, modifier)
        return True

    def _flush(self) -> bool:
        """Finish the literal text, which is canonicalized by itself."""
        text, self._pending = self._pending, ""
        if _bent(text):
            return False
        if text:
            self.done.append(_canonical(text))
        return True


def _modified(found: Elements, modifier: str) -> Elements:
    repeats = (
        modifier in ("*", "+") and _ANYTHING not in found and found != (_SEGMENT,)
    )  # else it adds nothing
    if repeats:
        found = (Repeated(found),)
    return (Optional(found),) if modifier in ("?", "*") else found


def _bent(text: str) -> bool:
    return text.startswith("//") or _DOTS.search(text) is not None


def _canonical(text: str) -> str:
    return text if text.isascii() else "".join(char if char.isascii() else quote(char) for char in text)
