"""How many are connected to a topic, without who: an extension of this hub (docs/protocol.md).

A token that grants the *count* of a topic, a path of the hub, has its connections to this topic counted. They
are not announced as subscriptions: a room of thousands costs one number a second, not two events a visitor.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

from mercure_hub.protocol.hub_url import Identity
from mercure_hub.protocol.topics import MatcherType
from mercure_hub.protocol.update import HUB_EVENT_TYPE, Update, new_id

if TYPE_CHECKING:
    from mercure_hub.protocol.matching.matcher import Matcher
    from mercure_hub.protocol.matching.table import Scope

COUNTS_METADATA = "flask_mercure_counts"
"""Member of the metadata that tells of counts."""

STORED_AS = "counts"
"""The value by which the storage is asked for parts of counts."""

_TYPE = "count"
_RECORD = f'["{_TYPE}", '  # those of subscriptions begin with a URL


def path_of(topic: str, identity: Identity) -> str:
    """The path of a topic's count, which is also the topic of its events."""
    return f"{identity.counts_path}/{quote(topic, safe='')}"


def document(path: str, number: int) -> dict[str, str | int]:
    """A count as the API and the events show it."""
    return {"id": path, "type": _TYPE, "match": unquote(path.rpartition("/")[2]), "count": number}


def told(path: str, number: int) -> Update:
    """The event with a count. It is in no history and has no id, so it changes no position."""
    return Update((path,), json.dumps(document(path, number)), "", private=True, type=HUB_EVENT_TYPE)


@dataclass(frozen=True, slots=True)
class Shown:
    """What others learn of a subscriber.

    :param matchers: those whose subscriptions are announced.
    :param counted: the paths of the counts that it is part of.
    :param watched: the paths of the counts that it may read and has subscribed to.
    """

    matchers: tuple[Matcher, ...]
    counted: tuple[str, ...] = ()
    watched: tuple[str, ...] = ()


def shown(matchers: tuple[Matcher, ...], scope: Scope, identity: Identity) -> Shown:
    """Decide what others learn of a subscriber.

    One that is counted, or watches a count, is announced only at topics whose subscriptions its token grants.
    A token that grants the list of all subscriptions, as ``*`` does, has nothing to do with counts.

    :param matchers: of the subscriber.
    :param scope: what its token grants.
    :param identity: the hub as it knows it.
    """
    counts = f"{identity.counts_path}/"
    named = [one.exact for one in matchers if one.exact is not None]
    watched = tuple(path for path in named if path.startswith(counts) and scope.covers(path))
    if not scope.reaches(counts) or scope.covers(identity.subscriptions_path):
        return Shown(matchers, (), watched)
    exact = [one for one in matchers if one.type is MatcherType.EXACT and not one.is_wildcard]
    paths = [path_of(one.value, identity) for one in exact]
    counted = tuple(path for path in paths if scope.covers(path))
    if not counted and not watched:
        return Shown(matchers)
    listed = f"{identity.subscriptions_path}/{MatcherType.EXACT.value}/"
    announced = tuple(one for one in exact if scope.covers(listed + quote(one.value, safe="")))
    return Shown(announced, counted, watched)


@dataclass(frozen=True, slots=True)
class Part:
    """What one process adds to a count.

    :param path: of the count.
    :param process: a random name of the process.
    :param number: of its connections.
    """

    path: str
    process: str
    number: int

    @property
    def key(self) -> str:
        """Names it among those of all processes, and is the topic of its events."""
        return f"{self.path}/{quote(self.process, safe='')}"

    def event(self) -> Update:
        """Tells the other processes."""
        told = document(self.path, self.number) | {"id": self.key, "process": self.process}
        return Update((self.key,), json.dumps(told), new_id(), private=True, type=HUB_EVENT_TYPE)

    def record(self) -> str | None:
        """As JSON, for processes that begin later; ``None`` when nobody is left."""
        return json.dumps([_TYPE, self.path, self.process, self.number]) if self.number else None


def part_of_event(event: Update) -> Part | None:
    """The part of a count that an event of the hub tells; ``None`` for the others."""
    if "/counts/" not in event.topics[0]:
        return None
    told = json.loads(event.data)
    if told.get("type") != _TYPE:
        return None
    return Part(event.topics[0].rpartition("/")[0], told["process"], told["count"])


def is_part(record: str) -> bool:
    """Whether a record is of a part of a count, and not of a subscription."""
    return record.startswith(_RECORD)


def part_of_record(record: str) -> Part:
    """A part of a count.

    :param record: from ``Part.record``.
    """
    _, path, process, number = json.loads(record)
    return Part(path, process, number)


class Counts:
    """The counts as one process knows them: its own parts, and those of the others.

    It does nothing by itself: ``news`` are the parts to tell the other processes, ``changes`` the counts to
    tell readers, both since they were last asked for.

    :param process: a random name of this process.
    """

    def __init__(self, process: str) -> None:
        self.process = process
        self._own: dict[str, int] = {}
        self._others: dict[str, dict[str, int]] = {}
        self._told: dict[str, int] = {}  # own parts, as the others know them
        self._untold: dict[str, None] = {}
        self._changed: dict[str, int] = {}  # path -> what it was when readers were last told

    def enter(self, paths: Sequence[str]) -> None:
        """A subscriber is counted from now on."""
        for path in paths:
            self._add(path, 1)

    def leave(self, paths: Sequence[str]) -> None:
        """It is not any more."""
        for path in paths:
            self._add(path, -1)

    def take(self, part: Part) -> None:
        """Another process tells its part; what this process told itself is known."""
        if part.process == self.process:
            return
        before = self.total(part.path)
        parts = self._others.setdefault(part.path, {})
        if part.number:
            parts[part.process] = part.number
        else:
            parts.pop(part.process, None)
            if not parts:
                del self._others[part.path]
        self._changed.setdefault(part.path, before)

    def replace(self, parts: Sequence[Part], newer: Collection[tuple[str, str]] = ()) -> None:
        """These are the parts of all other processes, and there are no more.

        :param newer: path and process of those that were told while these were read.
        """
        gone = {(path, process) for path, known in self._others.items() for process in known}
        for part in parts:
            gone.discard((part.path, part.process))
            if (part.path, part.process) not in newer:
                self.take(part)
        for path, process in gone.difference(newer):
            self.take(Part(path, process, 0))

    def begin(self, process: str) -> None:
        """Others end the parts of this process, which has another name from now on."""
        self.process = process
        self._told.clear()
        self._untold = dict.fromkeys(self._own)

    def total(self, path: str) -> int:
        """The count."""
        return self._own.get(path, 0) + sum(self._others.get(path, {}).values())

    def news(self) -> list[Part]:
        """Own parts that the others do not know yet."""
        news = []
        for path in self._untold:
            number = self._own.get(path, 0)
            if number != self._told.get(path, 0):
                news.append(Part(path, self.process, number))
                if number:
                    self._told[path] = number
                else:
                    del self._told[path]
        self._untold.clear()
        return news

    def changes(self) -> list[tuple[str, int]]:
        """Paths and counts that readers do not know yet."""
        changed, self._changed = self._changed, {}
        return [(path, now) for path, before in changed.items() if (now := self.total(path)) != before]

    def _add(self, path: str, step: int) -> None:
        number = self._own.get(path, 0)
        self._changed.setdefault(path, self.total(path))
        self._untold[path] = None
        if number + step:
            self._own[path] = number + step
        else:
            del self._own[path]
