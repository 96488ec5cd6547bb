"""What a command needs of a stored history, whatever the engine; ``sqlite`` and its neighbours have it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from mercure_hub.protocol.errors import MercureError
from mercure_hub.protocol.matching.matcher import Matcher
from mercure_hub.protocol.revocation import Revocation
from mercure_hub.protocol.update import Update
from mercure_hub.storage.encoding import decoded_topics, topic_hash
from mercure_hub.storage.interface import LEASE

Progress = Callable[[int], None]
"""Called with the number of updates that are done."""

PAGE = 1000
"""Updates that are read, or discarded, in one step."""


class HistoryError(MercureError):
    """A command cannot do what it was asked for; the message says why and what to do."""


EXAMPLES = 20
"""Updates that are looked at to find the name of a topic of which only the hash is known."""


STOP_ALL = f"stop all hubs before, or publish them (one that was killed counts for {LEASE:.0f} s)"
"""What to do about hubs at work on an engine where they have leases."""


def at_work(history: str, advice: str) -> HistoryError:
    """Why nothing can be written while a hub is at work.

    :param history: in words.
    :param advice: what to do about it.
    """
    return HistoryError(
        f"a hub is at work on {history} and would send the updates to its subscribers as new ones; {advice}"
    )


def changed(history: str) -> HistoryError:
    """Why the rest cannot be written after somebody else has written.

    :param history: in words.
    """
    return HistoryError(
        f"somebody else has written to {history}, so the rest was not stored; run one command at a time"
    )


def topic_named(hashed: int, examples: Iterable[str]) -> str:
    """The topic with a hash; a question mark if none of the examples has it.

    :param examples: topics of updates that have it, as they are stored.
    """
    names = (name for encoded in examples for name in decoded_topics(encoded))
    return next((name for name in names if topic_hash(name) == hashed), "?")


@dataclass(frozen=True, slots=True)
class Row:
    """An update as it is stored.

    :param published_at: seconds since the epoch.
    :param events_before: how many events of the hub there ever were before it.
    :param event_bytes: of an event of the hub, the size of all of them up to this one; else ``None``.
    """

    sequence: int
    update: Update
    published_at: float
    events_before: int = 0
    event_bytes: int | None = None

    @property
    def is_event(self) -> bool:
        """Whether it is an event of the hub, about a subscription."""
        return self.event_bytes is not None


@dataclass(frozen=True, slots=True)
class Marks:
    """Where a history ends and begins.

    :param last: sequence of the newest update ever stored.
    :param events: how many events of the hub there ever were.
    :param updates_gone: sequence up to which updates of publishers were discarded.
    :param events_gone: the same for events of the hub.
    """

    last: int = 0
    events: int = 0
    updates_gone: int = 0
    events_gone: int = 0


@dataclass(frozen=True, slots=True)
class Selection:
    """Updates by topic and time.

    :param topics: one of these, exactly.
    :param patterns: or matched by one of these; without topics and patterns all of publishers are meant.
    :param since: published at this time or later, in seconds since the epoch.
    :param until: published before this time.
    :param has_events: without topics and patterns, events of the hub are meant too.
    """

    topics: frozenset[str] = frozenset()
    patterns: Sequence[Matcher] = ()
    since: float | None = None
    until: float | None = None
    has_events: bool = False

    @property
    def names_topics(self) -> bool:
        """Whether it asks for topics."""
        return bool(self.topics or self.patterns)

    def matches(self, row: Row) -> bool:
        """Whether an update is meant."""
        if self.since is not None and row.published_at < self.since:
            return False
        if self.until is not None and row.published_at >= self.until:
            return False
        if not self.names_topics:
            return self.has_events or not row.is_event
        topics = row.update.topics
        if not self.topics.isdisjoint(topics):
            return True
        return any(pattern.matches(topic) for pattern in self.patterns for topic in topics)


EVERYTHING = Selection(has_events=True)


class Writer(Protocol):
    """Writes into a history at which no hub is at work."""

    @property
    def marks(self) -> Marks:
        """Where the history ends and begins, with what was stored here."""

    @property
    def is_atomic(self) -> bool:
        """Whether nothing is stored when the ``with`` block fails before ``commit``."""

    def known(self, ids: Collection[str]) -> set[str]:
        """The ids, of those given, that the history had before anything was stored here."""

    def store(self, rows: Sequence[Row], marks: Marks) -> None:
        """Append updates as they are.

        :param rows: in order, with sequences after the last one.
        :param marks: what counts when they are stored.
        :raises HistoryError: a hub has started meanwhile.
        """

    def commit(self) -> None:
        """Keep what was stored up to here."""


class History(Protocol):
    """The history of a hub, opened for one command."""

    @property
    def name(self) -> str:
        """The engine in words, without credentials."""

    def hubs(self) -> int:
        """How many processes of hubs are at work."""

    def grace(self) -> float:
        """Seconds for which updates stay because hubs at work read them here."""

    def now(self) -> float:
        """The time in seconds since the epoch, of the clock that updates are stamped with."""

    def marks(self) -> Marks:
        """Where the history ends and begins."""

    def page(
        self, after: int, upto: int, selection: Selection, *, is_backward: bool = False, has_data: bool = True
    ) -> Iterator[Row]:
        """Up to ``PAGE`` updates; fewer only if there are no more.

        :param after: sequence before the first wanted.
        :param upto: last sequence wanted.
        :param selection: what is not meant may be left out, which the caller sees to.
        :param is_backward: the newest ones, from the newest.
        :param has_data: without it the updates may come without data.
        """

    def statistics(self, top: int) -> dict[str, Any]:
        """The statistics of a history.

        :param top: topics with the most updates, as many as this.
        :returns: a JSON document; times in seconds since the epoch. In it, ``sizes`` are bytes by what takes
            them.
        """

    def revocations(self) -> list[Revocation]:
        """All revocations, which hubs keep beside the updates."""

    def delete(self, rows: Sequence[Row]) -> int:
        """Discard updates, and note where the history begins then.

        :returns: how many were still there.
        """

    def return_space(self) -> None:
        """Free the space of discarded updates, if that does not happen by itself."""

    def writing(self) -> AbstractContextManager[Writer]:
        """Write while no hub is at work; one that starts has to wait, or is noticed.

        Without an error what was stored is committed at the end.

        :raises HistoryError: a hub is at work.
        """


def select(
    history: History,
    selection: Selection,
    *,
    after: int = 0,
    upto: int | None = None,
    is_backward: bool = False,
    has_data: bool = True,
) -> Iterator[Row]:
    """The updates that are meant.

    :param after: sequence before the first wanted.
    :param upto: last sequence wanted, by default the newest of now.
    :param is_backward: from the newest.
    :param has_data: see ``History.page``.
    """
    if upto is None:
        upto = history.marks().last
    while True:
        count = 0
        for row in history.page(after, upto, selection, is_backward=is_backward, has_data=has_data):
            count += 1
            if is_backward:
                upto = row.sequence - 1
            else:
                after = row.sequence
            if selection.matches(row):
                yield row
        if count < PAGE:
            return


def prune(
    history: History, selection: Selection, keep: int, progress: Progress, *, only_count: bool = False
) -> int:
    """Discard updates.

    The newest ones stay while a hub is at work: its processes read them here.

    :param keep: the newest of the selected ones stay, as many as this.
    :param only_count: discard nothing.
    :returns: how many are gone.
    """
    boundary = _boundary(history, selection, keep)
    gone = 0
    step: list[Row] = []
    for row in select(history, selection, has_data=False):
        if row.sequence > boundary:
            break
        step.append(row)
        if len(step) == PAGE:
            gone += _discard(history, step, only_count=only_count)
            step = []
            progress(gone)
    gone += _discard(history, step, only_count=only_count)
    if gone and not only_count:
        history.return_space()
    return gone


def _boundary(history: History, selection: Selection, keep: int) -> int:
    """The sequence of the newest update that goes, 0 if none does."""
    for number, row in enumerate(select(history, selection, is_backward=True, has_data=False)):
        if number == keep:
            return row.sequence
    return 0


def _discard(history: History, rows: list[Row], *, only_count: bool) -> int:
    now, grace = history.now(), history.grace()
    old = [row for row in rows if not now - grace < row.published_at <= now]
    if not old or only_count:
        return len(old)
    return history.delete(old)
