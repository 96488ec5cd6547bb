"""What the broker needs of a log of updates."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Generic, Protocol, TypeVar

from mercure_hub.protocol.errors import StorageError
from mercure_hub.protocol.update import Update

MANY_TOPICS = 1000
"""Number of topics from which on ``read`` may leave out nothing: whoever asks has to look at the updates."""

GRACE = 30.0
"""Seconds for which an update is kept for the other processes, however small the history."""

_OBJECTS = 400  # bytes of an entry beside its data


@dataclass(frozen=True, slots=True)
class Retention:
    """How much history to keep.

    :param size: updates of publishers, 0 for all.
    :param max_age: seconds, 0 for ever.
    """

    size: int = 0
    max_age: float = 0.0

    @property
    def is_bounded(self) -> bool:
        """Whether updates of publishers are ever discarded."""
        return self.size > 0 or self.max_age > 0


@dataclass(frozen=True, slots=True)
class Entry:
    """An update with its place in the log.

    :param sequence: grows with each update, without gaps, in commit order.
    :param is_event: it is an event of the hub, about a subscription.
    """

    sequence: int
    update: Update
    is_event: bool = False

    @property
    def weight(self) -> int:
        """About how many bytes it takes in memory."""
        return _OBJECTS + len(self.update.data)


@dataclass(frozen=True, slots=True)
class Beginning:
    """Where the log begins, as retention left it.

    :param updates: sequence from which on all updates of publishers are there.
    :param events: the same for the hub's own events, which are kept for a time of their own.
    """

    updates: int
    events: int

    def lacks(self, after: int, then: Beginning | None = None, *, events: bool) -> bool:
        """Tell whether something was discarded that comes after a place in the log.

        :param after: the place, as a sequence.
        :param then: where the log began when the reader was told that something is missing, if it was.
        :param events: the hub's events count too.
        """
        updates_then, events_then = (0, 0) if then is None else (then.updates, then.events)
        if self.updates > max(after + 1, updates_then):
            return True
        return events and self.events > max(after + 1, events_then)


@dataclass(frozen=True, slots=True)
class Page:
    """A part of the log, bounded in updates and in bytes.

    :param entries: oldest first.
    :param reached: sequence up to which there is nothing more to read.
    :param beginning: of the log when this had been read: what was discarded before may be missing here.
    """

    entries: Sequence[Entry]
    reached: int
    beginning: Beginning

    @property
    def weight(self) -> int:
        """About how many bytes it takes in memory."""
        return sum(entry.weight for entry in self.entries)


@dataclass(frozen=True, slots=True)
class TopicPage:
    """Some of the topics in a part of the log.

    :param topics: distinct, in no order that means anything.
    :param beyond: what to ask with for more; ``None`` when these were the last ones.
    """

    topics: Sequence[str]
    beyond: int | None


@dataclass(frozen=True, slots=True)
class Size:
    """How much history there is, as far as that is cheap to tell.

    :param updates: of publishers, from the oldest to the newest, with those between them that were discarded
        on demand.
    :param octets: that the database takes; ``None`` when it is not told.
    """

    updates: int
    octets: int | None = None


Ticket = TypeVar("Ticket")


@dataclass(frozen=True, slots=True)
class Commit(Generic[Ticket]):
    """The outcome of one transaction.

    :param entries: what is durable now; empty when the transaction failed, and when its updates come with a
        later commit, in their order among those of other processes.
    :param tickets: what the callers of ``append`` gave, one for each call, in order.
    :param error: why the transaction failed.
    :param at: monotonic time of it in seconds; of one of another process, when it was read.
    """

    entries: Sequence[Entry]
    tickets: Sequence[Ticket]
    error: StorageError | None = None
    at: float = field(default_factory=monotonic, compare=False)


@dataclass(frozen=True, slots=True)
class Presence:
    """A subscription that begins or ends, stored together with the update that tells of it.

    :param key: names the subscription among those of all processes.
    :param record: what the others have to know of it; ``None`` when it ends.
    """

    key: str
    record: str | None


class Transport(Protocol[Ticket]):
    """A log of updates. ``append`` and ``collect`` never block; the reading methods may."""

    def open(self, wake: Callable[[], None], is_crowded: Callable[[], bool] = ...) -> tuple[int, str | None]:
        """Make the log ready.

        :param wake: called, from any thread, when ``collect`` has something to return.
        :param is_crowded: whether the caller has collected more than it has dealt with for the moment: then
            the updates of other processes stay in the log. Asked from any thread.
        :returns: as ``newest``; all that comes after it is collected.
        :raises StorageError: the log cannot be opened.
        """

    def append(self, updates: Sequence[Update], ticket: Ticket, presence: Presence | None = None) -> None:
        """Queue updates that become durable together, one after the other, or not at all.

        The commit that answers them comes back through ``collect``.

        :param presence: becomes durable with them; the updates are events of the hub then.
        """

    def collect(self) -> list[Commit[Ticket]]:
        """The commits since the last call, in order, those of other processes on this log among them."""

    def newest(self) -> tuple[int, str | None]:
        """Sequence of the newest update ever appended (0: none), and its id if it is still there."""

    def newest_update(self) -> str | None:
        """Id of the newest update of a publisher, if one is there."""

    def find(self, event_id: str) -> int | None:
        """Sequence of the earliest update with an id (spec, Reconciliation), ``None`` if there is none."""

    def beginning(self, upto: int) -> Beginning:
        """Where the log begins.

        :param upto: sequence after which it begins if nothing is there.
        """

    def read(self, after: int, upto: int, topics: Collection[str] | None, limit: int) -> Page:
        """Read a part of the log.

        :param after: sequence before the first wanted.
        :param upto: last sequence wanted.
        :param topics: leave out updates that have none of these topics, unless they are more than
            ``MANY_TOPICS``; ``None``: leave out nothing.
        :param limit: entries to return at most.
        """

    def topics(self, after: int, upto: int, beyond: int | None, limit: int) -> TopicPage:
        """Topics of the updates in a part of the log, each once over all pages.

        Of two that share a hash one may be missing; that takes billions of tries to bring about.

        :param after: sequence before the first update that counts.
        :param upto: sequence of the last one.
        :param beyond: of the page before; ``None`` for the first one.
        :param limit: topics to look at; those outside of this part of the log are not returned.
        """

    def expire(self, now: float) -> None:
        """Fail the publications that cannot be stored in time. To be called now and then; never blocks.

        :param now: monotonic time in seconds.
        """

    def trust_clock(self) -> None:
        """Go by the wall clock again, however it was set."""

    def catch_up(self) -> None:
        """Have everything collected that other processes have written by now."""

    def others(self) -> list[str]:
        """The records of the subscriptions that other processes have."""

    def adopt(self) -> list[str]:
        """Take over the subscriptions of processes that died.

        :returns: their records; each has to be ended with an update.
        """

    def size(self) -> Size:
        """How much history there is.

        :raises StorageError: the log cannot be read.
        """

    def check(self) -> None:
        """Raise ``StorageError`` when the log cannot be written now."""

    def close(self) -> None:
        """Commit what is queued, and let go of the storage."""
