"""Which of a user's grants selects a topic, and which one nearly does."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote, unquote, urljoin

from flask_mercure.topics import EVERYTHING, URITemplate, URLPattern
from mercure_hub.protocol.errors import InvalidRequest
from mercure_hub.protocol.topics import MatcherType

Granted = str | URLPattern

_LOOKS_LIKE_A_PATTERN = re.compile(r"[*{]|(?:^|[/.]):\w")
_KEPT = ":/?#[]@!$&'()*+,;=~%"


@dataclass(frozen=True, slots=True)
class Selection:
    """What grants say of a topic.

    :param by: the grant that selects it, if one does.
    :param near: the grant that comes nearest, if none selects it.
    :param why: what that one lacks, as the end of a sentence.
    :param skipped: patterns that could not be evaluated, because the extra ``hub`` is not installed.
    """

    by: Granted | None = None
    near: Granted | None = None
    why: str = ""
    skipped: int = 0


def selection(topic: str, granted: Sequence[Granted], base: str) -> Selection:
    """Find the grant that selects a topic.

    :param topic: that was published on.
    :param granted: exact topics and patterns.
    :param base: URL of the hub, which relative patterns are resolved against.
    """
    skipped = 0
    for one in granted:
        selects = _selects(one, topic, base)
        skipped += selects is None
        if selects:
            return Selection(by=one)
    for one in granted:
        why = _miss(one, topic, base)
        if why is not None:
            return Selection(near=one, why=why, skipped=skipped)
    return Selection(skipped=skipped)


def shown(one: Granted) -> str:
    """A grant in words."""
    if isinstance(one, URLPattern):
        return f"{one.value!r} (URL Pattern)"
    if one == EVERYTHING:
        return "everything"
    return f"{str(one)!r} (URI Template)" if isinstance(one, URITemplate) else repr(str(one))


def _selects(one: Granted, topic: str, base: str) -> bool | None:
    """Whether a grant selects a topic; ``None``: that cannot be evaluated here."""
    if isinstance(one, URLPattern):
        return _matches(MatcherType.URLPATTERN, one.value, topic, base)
    if isinstance(one, URITemplate):
        return _matches(MatcherType.TEMPLATE, str(one), topic, base)
    return one in (EVERYTHING, topic)


def _matches(kind: MatcherType, value: str, topic: str, base: str) -> bool | None:
    try:
        from mercure_hub.protocol.matching.matcher import make  # noqa: PLC0415 - loads compiled libraries
    except ModuleNotFoundError:
        return None
    try:
        return make(kind, value, base).matches(topic)
    except InvalidRequest:
        return False


def _miss(one: Granted, topic: str, base: str) -> str | None:
    """How a grant nearly selects a topic; ``None``: not even nearly."""
    if isinstance(one, URLPattern | URITemplate):
        near = ((words, other) for words, other in _variants(topic, base) if _selects(one, other, base))
        return next((f"selects {other!r}, which differs in {words}" for words, other in near), None)
    for words, normal in _NORMAL.items():
        if normal(topic) == normal(one):
            return f"differs in {words}"
    if urljoin(base, topic) == urljoin(base, one):
        return f"differs in {_ADDRESS}"
    if _LOOKS_LIKE_A_PATTERN.search(one):
        for kind in (MatcherType.URLPATTERN, MatcherType.TEMPLATE):
            if _matches(kind, one, topic, base):
                return f"is granted as plain text, which selects only itself: grant a {_CLASSES[kind]}"
    return None


_CLASSES = {MatcherType.URLPATTERN: "URLPattern", MatcherType.TEMPLATE: "URITemplate (0.x), or a URLPattern"}
_CASE, _END, _BEGINNING = "upper and lower case", "a slash at the end", "a slash at the beginning"
_ENCODING = "the percent-encoding: make both with build_topic"
_ADDRESS = "one being a path and the other a whole URL"
_QUERY = "the query or the fragment"


def _without_query(text: str) -> str:
    return re.split("[?#]", text, maxsplit=1)[0]


def _without_end(text: str) -> str:
    return text.rstrip("/")


def _without_beginning(text: str) -> str:
    return text.lstrip("/")


_NORMAL: Mapping[str, Callable[[str], str]] = {
    _CASE: str.lower,
    _END: _without_end,
    _BEGINNING: _without_beginning,
    _ENCODING: unquote,
    _QUERY: _without_query,
    "spaces around it": str.strip,
}
"""What makes two topics alike that differ in one thing."""


def _variants(topic: str, base: str) -> Iterator[tuple[str, str]]:
    """Topics that differ from one in a single thing, each with what that is."""
    found = [
        (_CASE, topic.lower()),
        (_END, topic[:-1] if topic.endswith("/") else f"{topic}/"),
        (_BEGINNING, topic[1:] if topic.startswith("/") else f"/{topic}"),
        (_ENCODING, unquote(topic)),
        (_ENCODING, quote(topic, safe=_KEPT)),
        (_ADDRESS, urljoin(base, topic)),
    ]
    return ((words, other) for words, other in found if other != topic)
