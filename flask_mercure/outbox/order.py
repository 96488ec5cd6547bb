"""Which updates may be sent now: those that no earlier one holds back.

Two updates that share a topic of a hub keep their order. So an update waits for every earlier one with which
it shares a topic, and for nothing else. Values and functions only.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Entry:
    """What the order depends on.

    :param sequence: place in the outbox.
    :param lanes: hub and topic, for each topic.
    :param is_due: whether its time has come; an update that failed waits before it is tried again.
    """

    sequence: int
    lanes: tuple[tuple[str, str], ...]
    is_due: bool


class Order:
    """Looks at the updates that wait, from the oldest on, page after page.

    What was seen stays known, so that a page need not hold the whole outbox.
    """

    def __init__(self) -> None:
        self._seen: set[tuple[str, str]] = set()
        self._entries: list[Entry] = []

    def add(self, entries: Iterable[Entry]) -> list[int]:
        """Take the next page.

        :param entries: in the order of the outbox, after those of the pages before.
        :returns: the sequences of its heads: due, with nothing before them on any of their topics.
        """
        heads = []
        for entry in entries:
            if entry.is_due and self._seen.isdisjoint(entry.lanes):
                heads.append(entry.sequence)
            self._seen.update(entry.lanes)
            self._entries.append(entry)
        return heads

    def sendable(self, held: Container[int]) -> list[int]:
        """The updates that the holder of some heads may send, in order.

        These are the heads, and what only they hold back: as long as they are not gone, nobody else can take
        it.

        :param held: sequences of heads that nobody else can send now.
        """
        ours: set[tuple[str, str]] = set()
        others: set[tuple[str, str]] = set()
        found = []
        for entry in self._entries:
            follows = entry.is_due and not ours.isdisjoint(entry.lanes) and others.isdisjoint(entry.lanes)
            if entry.sequence in held or follows:
                found.append(entry.sequence)
                ours.update(entry.lanes)
            else:
                others.update(entry.lanes)
        return found
