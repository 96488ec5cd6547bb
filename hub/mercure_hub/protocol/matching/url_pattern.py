"""URL Patterns of the usual syntax (URL Pattern Standard, sections 2.1 and 2.2).

Usual means: literals that canonicalization does not change or that are beyond ASCII, named groups, wildcards,
groups in braces, modifiers. The library urlpattern has all others: regular expressions, escapes, whatever
canonicalization could change, and all that might not be well-formed; nothing is refused here. A pattern takes
some hundred bytes here and 75 KiB there. ``tests/protocol/matching/test_url_pattern.py`` compares the two.

Text becomes tokens, tokens become elements (``Elements``), and the elements of each component become the
cheapest test for it (``make_match``), linear in the text.
"""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import itemgetter
from typing import Protocol
from urllib.parse import quote

import re2

from mercure_hub.protocol.matching.resolution import Resolved, leading_segments, origin_of, resolver


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
    pieces: list[str] = []
    position = 0
    while position < len(text):
        piece = _PIECE.match(text, position)
        if piece is None:
            return None
        pieces.append(piece[0])
        position = piece.end()
    return pieces


def query_start(pieces: list[str]) -> int:
    """Index of the ``?`` that begins the query, or the number of tokens."""
    depth = 0
    for index, piece in enumerate(pieces):
        depth += (piece == "{") - (piece == "}")
        if piece == "?" and depth == 0 and (index == 0 or not _takes_modifier(pieces[index - 1])):
            return index
    return len(pieces)


def _takes_modifier(piece: str) -> bool:
    return piece in ("}", "*") or piece[0] == ":"


def elements(pieces: list[str], prefix: str) -> Elements | None:
    """Read the tokens of one component.

    :param prefix: the character that belongs to the group behind it: ``/`` in a path, empty elsewhere.
    :returns: ``None`` for what is not usual or not well-formed.
    """
    reader = _Reader(pieces, prefix)
    return joined(reader.done) if reader.read() else None


def joined(parts: Iterable[Element]) -> Elements:
    """Elements, with neighbouring literals as one."""
    result: list[Element] = []
    for one in parts:
        if isinstance(one, str) and result and isinstance(result[-1], str):
            result[-1] += one
        else:
            result.append(one)
    return tuple(result)


class _Reader:
    """The standard's pattern parser."""

    def __init__(self, pieces: list[str], prefix: str) -> None:
        self.done: list[Element] = []
        self._tokens = pieces
        self._prefix = prefix
        self._position = 0
        self._pending = ""  # literal text that is not finished
        self._names: set[str] = set()

    def read(self) -> bool:
        while self._position < len(self._tokens):
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
        return self._position > 1 and self._tokens[self._position - 2] not in ("}", *_MODIFIERS)

    def _next(self) -> str:
        self._position += 1
        return self._tokens[self._position - 1]

    def _take(self, *kinds: str) -> str:
        """The next piece if it is one of a kind; a colon stands for names, no kind at all for text."""
        if self._position == len(self._tokens):
            return ""
        piece = self._tokens[self._position]
        kind = ":" if piece[0] == ":" else piece
        if kind in kinds or (not kinds and kind not in ("{", "}", ":", *_MODIFIERS)):
            self._position += 1
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
        present = tuple(part for part in parts if part != "")
        self.done += _modified(present, modifier)
        return True

    def _flush(self) -> bool:
        """Finish the literal text, which is canonicalized by itself."""
        text, self._pending = self._pending, ""
        if _bent(text):
            return False
        if text:
            self.done.append(_canonical(text))
        return True


def _modified(parts: Elements, modifier: str) -> Elements:
    repeats = (
        modifier in ("*", "+") and _ANYTHING not in parts and parts != (_SEGMENT,)
    )  # else it adds nothing
    if repeats:
        parts = (Repeated(parts),)
    return (Optional(parts),) if modifier in ("?", "*") else parts


def _bent(text: str) -> bool:
    return text.startswith("//") or _DOTS.search(text) is not None


def _canonical(text: str) -> str:
    return text if text.isascii() else "".join(char if char.isascii() else quote(char) for char in text)


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
        matches = tuple(one for one in simple if one is not None)
        if len(matches) == len(simple):
            return matches[0] if len(matches) == 1 else _Either(matches)
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
        literals = tuple(index for index, one in enumerate(segments) if one is not None)
        self._count = len(segments)
        self._literals = _picker(literals)
        self._literal = self._literals(segments)
        self._variables = _picker(tuple(index for index, one in enumerate(segments) if one is None))
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
    expression = ""
    for one in elements:
        if isinstance(one, str):
            expression += re2.escape(one)
        elif isinstance(one, Segment):
            expression += segment
        elif isinstance(one, Anything):
            expression += ".*"
        else:
            expression += (
                f"(?:{_expression(one.elements, segment)}){'?' if isinstance(one, Optional) else '+'}"
            )
    return expression


def _by_segment(elements: Elements) -> _Path | None:
    """For elements each of which is a whole segment; the first one is a literal that begins with a slash."""
    segments: list[str | None] = []
    with_tail = False
    for index, one in enumerate(elements):
        if isinstance(one, str):
            first, *others = one.split("/")
            if index and first:  # continues after a variable
                return None
            segments += others if index else one.split("/")
        elif segments[-1] != "":  # continues after a literal
            return None
        elif isinstance(one, Segment):
            segments[-1] = None
        elif isinstance(one, Anything) and index == len(elements) - 1:
            segments.pop()
            with_tail = True
        else:
            return None
    return _Path(segments, with_tail) if len(segments) <= _MAX_SEGMENTS else None


@lru_cache(maxsize=256)
def _picker(indexes: tuple[int, ...]) -> Callable[[Sequence[str | None]], tuple[str | None, ...]]:
    """A function that returns the items at some indexes, always as a tuple."""
    if not indexes:
        return _nothing
    pick: Callable[[Sequence[str | None]], tuple[str | None, ...]]
    pick = itemgetter(*(indexes if len(indexes) > 1 else indexes * 2))
    return pick


def _nothing(_: Sequence[str | None]) -> tuple[str | None, ...]:
    return ()


_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST = rf"(?![^/:]*--)(?:{_LABEL}\.)*(?![0-9]){_LABEL}"  # one that ends in a number is an address
_OCTET = r"(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_IPV4 = rf"{_OCTET}(?:\.{_OCTET}){{3}}"
_LITERAL_HOST = re.compile(rf"{_HOST}|{_IPV4}")
_ABSOLUTE = re.compile(
    r"(https?|wss?|http\{s\}\?|\*)://"
    rf"({_IPV4}|(?:(?:\*|:[a-z]+)\.)?{_HOST}|\*)"
    r"(?::([1-9][0-9]{0,4}))?"
    r"(/.*)",
    re.DOTALL | re.ASCII | re.IGNORECASE,
)
_DEFAULT_PORTS = {"http": "80", "https": "443", "ws": "80", "wss": "443"}
_ANY_SCHEME = "*"
_HTTP = "http{s}?"


class CompactPattern:
    """A URL Pattern that was read.

    ``origin`` is the only one that matches, or empty; ``prefix`` what all paths begin with.
    """

    __slots__ = ("_pathname", "_search", "_site", "origin", "prefix")

    def __init__(
        self,
        origin: str,
        site: _Site | None,
        pathname: ComponentMatch,
        search: ComponentMatch | None,
        prefix: str,
    ) -> None:
        self.origin = sys.intern(origin)
        self.prefix = prefix
        self._site = site
        self._pathname = pathname
        self._search = search

    def matches(self, url: Resolved) -> bool:
        """Tell whether a URL is matched."""
        if self._site is None:
            if url.origin != self.origin:
                return False
        elif not self._site.matches(url):
            return False
        return self._pathname.matches(url.pathname) and (
            self._search is None or self._search.matches(url.search)
        )

    @property
    def is_expression(self) -> bool:
        """Whether it holds a regular expression after all."""
        return self._pathname.is_expression or (self._search is not None and self._search.is_expression)


class _Site:
    """Several origins.

    :param protocols: empty for any.
    :param hostname: ``None`` for any.
    """

    __slots__ = ("_hostname", "_port", "_protocols")

    def __init__(self, protocols: tuple[str, ...], hostname: ComponentMatch | None, port: str) -> None:
        self._protocols = protocols
        self._hostname = hostname
        self._port = port

    def matches(self, url: Resolved) -> bool:
        return (
            url.port == self._port
            and (not self._protocols or url.protocol in self._protocols)
            and (self._hostname is None or self._hostname.matches(url.hostname))
        )


def read_pattern(value: str, base: str) -> CompactPattern | None:
    """Read a URL Pattern.

    :param base: the hub's public URL, against which a relative pattern is resolved.
    :returns: ``None`` for one that is not of the usual syntax or not well-formed.
    """
    absolute = _ABSOLUTE.fullmatch(value)
    if absolute is None:
        return _relative(value, base)
    protocol, host, port, path = absolute.groups()
    port = port or ""
    host = host.lower()  # the name of a group does not count
    if protocol not in _DEFAULT_PORTS and (port or protocol not in (_ANY_SCHEME, _HTTP)):
        return None
    if port and int(port) > 65535:
        return None
    if _DEFAULT_PORTS.get(protocol) == port:
        port = ""
    if protocol in _DEFAULT_PORTS and _LITERAL_HOST.fullmatch(host):
        return _pattern(origin_of(protocol, host, port), None, path)
    protocols = {_ANY_SCHEME: (), _HTTP: ("http", "https")}.get(protocol, (protocol,))
    return _pattern("", _Site(protocols, _host_match(host), port), path)


def _relative(value: str, base: str) -> CompactPattern | None:
    if value[:1] in ("", "?"):  # takes the path of the base, too
        return None
    url = resolver(base).resolve(base)
    if url is None or not _LITERAL_HOST.fullmatch(url.hostname) or url.protocol not in _DEFAULT_PORTS:
        return None
    path = value if value.startswith(("/", "{/")) else url.pathname[: url.pathname.rfind("/") + 1] + value
    return _pattern(url.origin, None, path)


def _pattern(origin: str, site: _Site | None, path: str) -> CompactPattern | None:
    pieces = tokens(path)
    if pieces is None:
        return None
    end = query_start(pieces)
    pathname = elements(pieces[:end], "/")
    if pathname is None:
        return None
    path_match = make_match(pathname, "/")
    if path_match is None:
        return None
    search_match = None
    if end < len(pieces):
        search = elements(pieces[end + 1 :], "")
        search_match = None if search is None else make_match(search, "")
        if search_match is None:
            return None
    return CompactPattern(origin, site, path_match, search_match, leading_segments(begins_with(pathname)))


def _host_match(host: str) -> ComponentMatch | None:
    if host == "*":
        return None
    label, dot, rest = host.partition(".")
    if label == "*":
        return make_match((Anything(), dot + rest), ".")
    if label[0] == ":":
        return make_match((Segment(), dot + rest), ".")
    return make_match((host,), ".")
