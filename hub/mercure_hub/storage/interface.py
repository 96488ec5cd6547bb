"""What storage is made of: the values that cross it, and ``Link``, which each engine implements."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from enum import Enum
from time import monotonic
from typing import Generic, Protocol, TypeVar

from mercure_hub.protocol.errors import StorageError
from mercure_hub.protocol.revocation import Revocation
from mercure_hub.protocol.update import Update

MANY_TOPICS = 1000
"""With more topics than this ``read`` may leave out nothing: the caller has to look at the updates."""

GRACE = 30.0
"""Seconds for which an update is kept for the other processes of a machine, however small the history."""

SHARED_GRACE = 300.0
"""The same where other machines read it."""

MOST_COMPARED = 16
"""So many updates with the id of one that is to be stored once are compared with it, the newest ones. Ids are
meant to be unique; a publisher that uses one for all its updates must not slow down an append."""

LEASE = 15.0
"""Seconds without ``Link.renew`` after which a process on another machine counts as dead."""

RESUMPTION = 7.0
"""Seconds for which a node that finds its own lease ended gives the others time to renew theirs: after the
engine was away the leases of all nodes have ended, and most of the nodes live."""

MAX_LAG = 10.0
"""Seconds without the newest updates after which a process is not ready for clients."""

EVENTS_MAX_AGE = 86400.0
"""Seconds for which events of the hub are kept at most."""

EVENTS_BYTES = 32 << 20
"""How much of them is kept. Every subscriber causes events, and these must not push out updates."""

OVERHEAD = 400
"""Bytes of an entry in memory beside its data."""

Ticket = TypeVar("Ticket")


class Unstorable(StorageError):
    """An engine does not take these values. Trying again would fail again."""


class AlreadyStored(Exception):
    """Some updates of a batch are to be stored once, and the history has them. Nothing was stored.

    :param positions: of these updates in the batch, counted from 0; at least one.
    """

    def __init__(self, positions: Collection[int]) -> None:
        super().__init__(positions)
        self.positions = positions


class LeaseLost(StorageError):
    """This process counted as dead; others end its subscriptions. Nothing was stored.

    ``Link.renew`` gives it a new identity.
    """


@dataclass(frozen=True, slots=True)
class Rule:
    """How much to keep of the updates whose topics a matcher selects; without limits all of them.

    :param type: of the matcher.
    :param value: of the matcher.
    :param size: updates, 0 for all.
    :param size_per_topic: updates of each topic, 0 for all.
    :param max_age: seconds, 0 for ever.
    """

    type: str
    value: str
    size: int = 0
    size_per_topic: int = 0
    max_age: float = 0.0


@dataclass(frozen=True, slots=True)
class Retention:
    """How much history to keep.

    :param size: updates of publishers, 0 for all.
    :param max_age: seconds, 0 for ever.
    :param rules: the first one that matches a topic of an update counts for it, in place of these.
    :param base: URL against which their patterns are resolved.
    """

    size: int = 0
    max_age: float = 0.0
    rules: tuple[Rule, ...] = ()
    base: str = "http://localhost/.well-known/mercure"

    @property
    def is_bounded(self) -> bool:
        """Whether updates of publishers are ever discarded."""
        return self.size > 0 or self.max_age > 0 or bool(self.rules)


@dataclass(frozen=True, slots=True)
class Entry:
    """A stored update.

    :param sequence: grows by one with each update, in the order of the commits.
    :param is_event: it is an event of the hub, about a subscription.
    """

    sequence: int
    update: Update
    is_event: bool = False

    @property
    def weight(self) -> int:
        """About how many bytes it takes in memory."""
        return OVERHEAD + len(self.update.data)


@dataclass(frozen=True, slots=True)
class Discarded:
    """What rules have discarded, as sequences of the newest such update; 0: none.

    :param rules: the ``text`` of those in force.
    :param by_rule: of each, what it discarded; and of that, what has a topic that the rule does not match.
    :param rest_before: of what belonged to no rule before these were in force.
    :param before: of what rules discarded that are not in force any more.
    :param of_topics: of the topics that were asked for.
    :param forgotten: up to where it is not known any more of which topics something was discarded.
    """

    rules: str
    by_rule: tuple[tuple[int, int], ...]
    rest_before: int = 0
    before: int = 0
    of_topics: int = 0
    forgotten: int = 0


@dataclass(frozen=True, slots=True)
class Beginning:
    """Where the history begins, as retention left it.

    :param updates: sequence from which on all updates of publishers are there, but for those that belong to
        rules.
    :param events: the same for the hub's own events, which have a retention of their own.
    :param discarded: what rules discarded, wherever it was; ``None``: nothing.
    """

    updates: int
    events: int
    discarded: Discarded | None = None

    @classmethod
    def noted(cls, updates_gone: int, events_gone: int, oldest: int | None, upto: int) -> Beginning:
        """From the notes of retention, and from what is there.

        What went from the beginning without a note, as after ``history prune`` and beside an older hub during
        an upgrade, may have been of both kinds.

        :param updates_gone: sequence up to which retention has discarded updates of publishers.
        :param events_gone: the same for events.
        :param oldest: sequence of the first that is there; ``None``: nothing is.
        :param upto: sequence after which the history begins then.
        """
        all_gone = upto if oldest is None else oldest - 1
        if max(updates_gone, events_gone) < all_gone:
            updates_gone = events_gone = all_gone
        return cls(updates_gone + 1, events_gone + 1)

    def lacks(self, after: int, then: Beginning | None = None, *, events: bool, updates: bool = True) -> bool:
        """Tell whether something after a sequence was discarded, but not by rules.

        :param then: where the history began when the reader was told that something is missing, if it was.
        :param events: the hub's events count too.
        :param updates: updates of publishers count.
        """
        updates_then, events_then = (0, 0) if then is None else (then.updates, then.events)
        if updates and self.updates > max(after + 1, updates_then):
            return True
        return events and self.events > max(after + 1, events_then)


@dataclass(frozen=True, slots=True)
class Position:
    """Where the history ends.

    :param epoch: names this history; one that replaces it, as from a backup, has another.
    :param last: sequence of the newest update ever stored, 0 for none.
    """

    epoch: str
    last: int


@dataclass(frozen=True, slots=True)
class Seen:
    """Up to where a history was read.

    :param epoch: of the history.
    :param last: sequence of the last update that was read.
    :param event_id: its id; ``None``: it was not there any more.
    """

    epoch: str
    last: int
    event_id: str | None


@dataclass(frozen=True, slots=True)
class Lag:
    """How far a process is behind the history.

    :param seconds: since it last had everything, beyond the time between two looks; or since the engine went
        away.
    :param updates: updates and events that were left to read at the last look.
    :param is_away: that look has failed.
    """

    seconds: float
    updates: int
    is_away: bool

    @property
    def is_long(self) -> bool:
        """Whether other processes should serve its clients."""
        return self.seconds >= MAX_LAG


@dataclass(frozen=True, slots=True)
class Page:
    """A part of the history, bounded in updates and in bytes.

    :param entries: oldest first.
    :param reached: sequence up to which there is nothing more to read.
    :param beginning: of the history, looked up after the entries: what went before that may be missing.
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
    """Some of the topics in a part of the history.

    :param topics: distinct, in no particular order.
    :param beyond: what to ask with for more; ``None`` when these were the last ones.
    """

    topics: Sequence[str]
    beyond: int | None


@dataclass(frozen=True, slots=True)
class Outline:
    """What is known of a stored update of a publisher without its data.

    :param size: bytes of its data.
    """

    sequence: int
    topics: tuple[str, ...]
    private: bool
    size: int


@dataclass(frozen=True, slots=True)
class Resume:
    """A subscriber that comes back, with what it needs to resume.

    :param event_id: of the last event that it has.
    :param upto: last sequence wanted.
    :param topics: as for ``Link.read``. With ``None``, a page is read only if it holds all that is wanted.
    :param limit: entries to return at most.
    """

    event_id: str
    upto: int
    topics: Collection[str] | None
    limit: int

    def has_page(self, after: int) -> bool:
        """Whether a page is to be read.

        :param after: sequence of the update with the id.
        """
        missed = self.upto - after
        return missed > 0 and (self.topics is not None or missed <= self.limit)


@dataclass(frozen=True, slots=True)
class Resumed:
    """The answer to ``Resume``.

    :param after: sequence of the earliest update with the id (spec, Reconciliation); ``None``: none has it.
    :param page: the first page after it, if one was to be read.
    :param beginning: of the history, looked up last.
    """

    after: int | None
    page: Page | None
    beginning: Beginning


@dataclass(frozen=True, slots=True)
class Size:
    """How much history there is, as far as that is cheap to tell.

    :param updates: of publishers, from the oldest to the newest, with those between them that were discarded
        on demand.
    :param bytes: that it takes in storage; ``None`` if unknown.
    """

    updates: int
    bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Presence:
    """A subscription that begins or ends, stored together with the event that tells of it.

    :param key: names the subscription among those of all processes.
    :param record: what the others have to know of it; ``None`` when it ends.
    :param value: of its matcher, by which ``Link.others`` can be asked.
    :param lease: how many leases this process had lost when it began or ended. Those of a lost one are ended
        by others.
    :param replaces: it may change what is stored already, which a subscription never does.
    """

    key: str
    record: str | None
    value: str = ""
    lease: int = 0
    replaces: bool = False


@dataclass(frozen=True, slots=True)
class Records:
    """Some of the records of subscriptions.

    :param records: in the order of their keys.
    :param beyond: what to ask with for more; ``None`` when these were the last ones.
    """

    records: Sequence[str]
    beyond: str | None


@dataclass(frozen=True, slots=True)
class Revoked:
    """Some of the revocations, in the order in which they were stored or changed last.

    :param revocations: those after the version that was asked for.
    :param reached: the version of the last of them; else the one that was asked for.
    :param newest: the newest version that the engine has; 0: none.
    """

    revocations: Sequence[Revocation]
    reached: int
    newest: int


@dataclass(frozen=True, slots=True)
class Batch:
    """What becomes durable in one round trip, or not at all.

    :param number: names the batch among those of this process; grows.
    :param updates: in order. No two of those with ``once`` are equal.
    :param are_events: for each of them, whether it is an event of the hub.
    :param presence: changes, in order.
    """

    number: int
    updates: Sequence[Update]
    are_events: Sequence[bool]
    presence: Sequence[Presence]

    @property
    def once(self) -> Sequence[int]:
        """Positions of the updates that are to be stored once."""
        return [position for position, update in enumerate(self.updates) if update.once]


class Break(Enum):
    """Why the entries of a commit do not follow the last ones.

    ``text`` is for people, ``label`` is its value in the metrics.
    """

    TRIMMED = "updates were discarded before this process read them", "trimmed"
    REWOUND = "the engine lost its newest updates, as when a replica without them took over", "rewound"
    REPLACED = "the engine has another history, as from a backup", "replaced"

    def __init__(self, text: str, label: str) -> None:
        self.text = text
        self.label = label


@dataclass(frozen=True, slots=True)
class Commit(Generic[Ticket]):
    """What one transaction brought.

    :param entries: what is durable now; empty when the transaction failed, and when its updates come with a
        later commit, in their order among those of other processes.
    :param tickets: what the callers of ``Store.append`` gave, one for each call, in order.
    :param error: why the tickets' updates were not stored, or may not have been.
    :param broken: why something is missing between the last entries and these, if it is.
    :param newest: sequence and id of the newest update, if what came before is not the history any more.
    :param lease: how many leases this process has lost by now, if it is one more: its subscriptions have to
        be announced anew.
    :param at: monotonic time of it in seconds; for one of another process, when it was read.
    """

    entries: Sequence[Entry]
    tickets: Sequence[Ticket]
    error: StorageError | None = None
    broken: Break | None = None
    newest: tuple[int, str | None] | None = None
    lease: int | None = None
    at: float = field(default_factory=monotonic, compare=False)


class Link(Protocol):
    """One process's connection to an engine that stores updates. Its methods block.

    The writer thread calls ``turn``, ``append``, ``outcome``, ``renew``, ``leave``, ``is_discard_due`` and
    ``discard``; the follower thread ``wait``; either of them ``after``, never both at once. All other methods
    may be called from any thread at any time between ``open`` and ``close``. The threads are native ones:
    nothing is monkey-patched.

    What an engine reports is raised as ``StorageError``, with a message that names the engine and no
    credentials. A connection that broke is made again by the next call that needs it. No call takes longer
    than a few seconds when the engine does not answer: it raises ``StorageAway`` then.
    """

    @property
    def name(self) -> str:
        """The engine in words, without credentials."""

    @property
    def is_relaxed(self) -> bool:
        """Whether the engine may lose what it has acknowledged, as the URL allows; known after ``open``."""

    def open(self) -> None:
        """Connect, bring the schema up to date, and become visible to the other processes.

        :raises StorageError: it fails; a ``StorageUnusable`` fails again until somebody intervenes.
        """

    def turn(self) -> AbstractContextManager[None]:
        """Wait until this process may write, and keep the others waiting meanwhile.

        Nothing was written until it is entered. An engine that orders appends itself returns at once.

        :raises StorageError: the turn cannot be taken.
        """

    def why_waiting(self, seconds: float) -> StorageError:
        """Why the turn has not come yet; called from any thread.

        :param seconds: how long it has been waited for.
        """

    def append(self, batch: Batch) -> int:
        """Store a batch, within ``turn``, in one atomic step that wakes the other processes.

        A batch that this process has stored before, by its number, is not stored again. Nor is a batch with
        an update that is to be stored once and that the history has: one that is equal in all values, among
        the newest ``MOST_COMPARED`` with its id.

        :returns: the sequence of its first update; the others follow without gaps.
        :raises AlreadyStored: some of its updates are in the history, as durable as what is appended;
            nothing was stored, and the number is used up.
        :raises Unstorable: its values cannot be stored.
        :raises StorageInDoubt: it may have been stored; ``outcome`` tells.
        :raises LeaseLost: this process has to renew its lease first; it was not stored.
        :raises StorageAway: the engine cannot be reached; it was not stored.
        :raises StorageError: it was not stored.
        """

    def outcome(self, number: int) -> int | None:
        """Look whether this process's last batch was stored, and if not, keep it from being stored.

        An append that broke off may still be on its way to the engine.

        :param number: of the batch.
        :returns: the sequence of its first update; ``None``: it was not stored, and will not be.
        :raises StorageError: the engine cannot tell now.
        """

    def renew(self) -> bool:
        """Tell the others that this process lives; at least three times in ``LEASE``.

        :returns: false when it counted as dead: it has a new identity from now on, and nobody knows of its
            subscriptions.
        :raises StorageError: the engine cannot be told now.
        """

    def leave(self) -> None:
        """Have other processes end the subscriptions of this one; the next ``renew`` gives it a new identity.

        Not called while the outcome of an append is unknown. An engine that loses nothing that it has stored
        has nothing to do.

        :raises StorageError: the engine cannot be told now.
        """

    def is_discard_due(self) -> bool:
        """Whether ``discard`` may have something to do; asked after each batch, and must be quick."""

    def discard(self) -> None:
        """Discard one bounded step of what is too old by the engine's clock, within ``turn``.

        Updates go from the beginning only, and events of the hub likewise. What rules discard may be
        anywhere. It leaves its position for a while, at which a subscriber can resume.
        """

    def trust_clock(self) -> None:
        """Go by the clock again, however it was set."""

    def wait(self, after: int, timeout: float) -> None:
        """Return when another process has stored something, or when ``interrupt`` was called since.

        May return early. What was stored before the call counts if ``after`` is below its sequence.

        :param after: sequence up to which the caller has read.
        :param timeout: seconds to wait at most.
        """

    def interrupt(self) -> None:
        """Have ``wait`` return now, from any thread."""

    def after(self, sequence: int, limit: int, size: int) -> list[Entry]:
        """The entries after a sequence, in order.

        :param limit: entries to return at most.
        :param size: characters of data after which no more are added.
        """

    def position(self) -> Position:
        """Where the history ends."""

    def id_at(self, sequence: int) -> str | None:
        """The id of one update; ``None`` if it is neither there nor known as discarded by rules."""

    def newest_update(self) -> str | None:
        """The id of the newest update of a publisher that is there, or known as discarded by rules."""

    def resume(self, wanted: Sequence[Resume]) -> list[Resumed]:
        """Look up where subscribers resume, all of them in few round trips; the answers are in order."""

    def beginning(self, upto: int, topics: Collection[str] | None = None) -> Beginning:
        """Where the history begins.

        :param upto: sequence after which it begins if nothing is there.
        :param topics: of which to tell what rules discarded, if they are not more than ``MANY_TOPICS``.
        """

    def read(self, after: int, upto: int, topics: Collection[str] | None, limit: int) -> Page:
        """Read a part of the history; the caller bounds its entries, the link its bytes.

        :param after: sequence before the first wanted.
        :param upto: last sequence wanted.
        :param topics: leave out updates that have none of these topics, unless they are more than
            ``MANY_TOPICS``; ``None``: leave out nothing.
        :param limit: entries to return at most.
        """

    def topics(self, after: int, upto: int, beyond: int | None, limit: int) -> TopicPage:
        """Topics of the updates in a part of the history, each once over all pages.

        Of two that share a hash one may be missing; that takes billions of tries to bring about.

        :param after: sequence before the first update that counts.
        :param upto: sequence of the last one.
        :param beyond: of the page before; ``None`` for the first one.
        :param limit: topics to look at; those outside of this part of the history are not returned.
        """

    def newest_of(self, wanted: Sequence[tuple[str, int]], limit: int) -> list[Sequence[Outline]]:
        """The newest updates of topics, which publishers have sent.

        :param wanted: topics, each with the last sequence wanted.
        :param limit: updates of each topic at most.
        :returns: for each topic, the newest first. Of two topics that share a hash, those of both.
        """

    def at(self, sequences: Sequence[int]) -> list[Entry]:
        """The entries with some sequences, in order, without those that are not there.

        :param sequences: in order. Not all are looked at if the entries would take too much memory: after the
            last one that is returned the caller asks again.
        """

    def others(self, value: str | None, beyond: str | None, limit: int) -> Records:
        """The subscriptions that other processes have.

        :param value: only those with this matcher, and maybe some of which that is not known; ``None``: all.
        :param beyond: of the page before; ``None`` for the first one.
        :param limit: records to return at most.
        """

    def adopt(self, limit: int) -> list[str]:
        """Take over subscriptions of dead processes; of several callers one gets each.

        What a process adopted and did not end before it died itself, others adopt from it.

        :param limit: records to return at most.
        :returns: their records; fewer than the limit: there are no more.
        """

    def revoke(self, revocations: Sequence[Revocation], now: float) -> None:
        """Store revocations durably, each joined with the one of its key, and discard what is over.

        An engine that did not answer may have stored them; to store them again does no harm.

        :param revocations: each key once.
        :param now: seconds since the epoch: those whose time is over by then are discarded.
        :raises StorageError: they may not be stored.
        """

    def revocations(self, after: int, limit: int) -> Revoked:
        """The revocations that were stored, or changed, after a version.

        :param after: the version up to which the caller has read; 0 for all.
        :param limit: how many to return at most.
        """

    def size(self) -> Size:
        """How much history there is."""

    def check(self, *, by_writing: bool) -> None:
        """Raise ``StorageError`` if the engine cannot be used now.

        :param by_writing: find out by a write that changes nothing.
        """

    def close(self, *, is_writer_left: bool) -> None:
        """Disconnect.

        :param is_writer_left: a thread still waits for ``turn``, and ends with the process.
        """


class SharedLink(Link, Protocol):
    """A ``Link`` to an engine that several machines share."""

    @property
    def node(self) -> str:
        """The name under which the others know this process; another one after a lost lease."""

    def end_lease(self, node: str) -> None:
        """Have ``adopt`` count a process as dead at once, because it is known to have died.

        :param node: its name.
        :raises StorageError: the engine cannot be told now.
        """


class Copy(Protocol):
    """What a ``Link`` has besides if it reads from a copy of the history, which another process keeps.

    Such a link gives ``position`` and ``after`` of the copy. Its own appends arrive there a little later.
    """

    def began_anew(self) -> bool:
        """Whether the copy was begun anew since the last call, maybe from another history.

        Until this was asked, ``after`` returns nothing.
        """

    def lag(self, now: float) -> Lag:
        """How far the copy is behind the history; never blocks.

        :param now: monotonic time in seconds.
        """
