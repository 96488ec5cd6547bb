"""What was seen in a run, as values. Times are seconds since the run began."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field

from chaos.topics import Matcher

_EVENTS = "/.well-known/mercure/subscriptions/"

EARLIEST = "earliest"

ANY = -1
"""Some node: which one is not known, or does not matter."""


class Outcome(enum.Enum):
    """What became of a publication, as its publisher knows it."""

    STORED = "stored"
    REFUSED = "refused"
    IN_DOUBT = "in doubt"
    """The hub says that it does not know."""
    UNANSWERED = "unanswered"
    """The hub closed the connection after it was sent, without an answer."""
    SILENT = "silent"
    """No answer within the publisher's patience."""
    CUT = "cut"
    """The client or the network ended the connection: no answer could arrive."""
    UNSENT = "not sent"
    """There was no connection."""


@dataclass(frozen=True, slots=True)
class Update:
    """One update as its publisher made it.

    :param number: names it in the whole run; its data holds it.
    """

    number: int
    topics: tuple[str, ...]
    private: bool


@dataclass(slots=True)
class Publication:
    """One POST, with one update or a batch; or several, until one is answered with 200.

    :param sent: when its first byte was sent.
    :param done: when the outcome was known, of the last one.
    :param attempts: how many there were.
    :param ids: what the hub answered.
    :param is_fresh: on a connection of its own; else a kept one carried it.
    :param key: generation of the key that signed the token.
    :param node: that got it; ``ANY`` if none is known.
    """

    publisher: str
    updates: tuple[Update, ...]
    sent: float
    is_fresh: bool
    key: int
    done: float = 0.0
    outcome: Outcome = Outcome.UNSENT
    status: int = 0
    ids: tuple[str, ...] = ()
    detail: str = ""
    node: int = 0
    attempts: int = 1


class End(enum.Enum):
    """Who ended a stream."""

    OPEN = "open"
    HUB = "hub"
    CLIENT = "client"
    NETWORK = "network"


@dataclass(slots=True)
class Session:
    """One connection of a subscriber.

    :param name: of the session, which its token's payload carries.
    :param grants: what private updates its token allows.
    :param cursor: that it asked for.
    :param answered: the value of ``Mercure-Last-Event-ID``.
    :param opened: when the request was sent; ``head``: when it was answered, 0 if never.
    :param expires: when its token ends.
    :param is_prompt: reads all that comes at once, so that a delay is the hub's.
    :param received: pairs of event id and number of the update (-1: an event of the hub).
    :param arrivals: when each came.
    :param node: that served it; ``ANY`` if none is known.
    """

    subscriber: str
    name: str
    matchers: tuple[Matcher, ...]
    grants: tuple[Matcher, ...]
    cursor: str | None
    opened: float
    key: int
    expires: float = float("inf")
    is_prompt: bool = True
    is_websocket: bool = False
    is_silent_when_cut: bool = False
    status: int = 0
    head: float = 0.0
    answered: str | None = None
    received: list[tuple[str, int]] = field(default_factory=list)
    arrivals: list[float] = field(default_factory=list)
    ended: float = float("inf")
    end: End = End.OPEN
    stalls: list[tuple[float, float]] = field(default_factory=list)
    node: int = 0

    def allows(self, entry: Entry) -> bool:
        """Whether the hub should send it an update of the log."""
        wanted = any(one.matches(topic) for one in self.matchers for topic in entry.topics)
        return wanted and (
            not entry.private or any(one.matches(topic) for one in self.grants for topic in entry.topics)
        )

    @property
    def last_id(self) -> str | None:
        """The cursor with which this subscriber would resume."""
        return self.received[-1][0] if self.received else self.answered or self.cursor


@dataclass(frozen=True, slots=True)
class Entry:
    """An update in the log.

    :param number: that its data holds; -1 for an event of the hub, and for one that tries a key.
    :param session: whose subscription the event tells of; ``is_active`` whether that begins.
    """

    sequence: int
    id: str
    topics: tuple[str, ...]
    private: bool
    number: int = -1
    session: str = ""
    is_active: bool = False

    @property
    def is_event(self) -> bool:
        """Whether it is an event of the hub, which nobody else can publish there."""
        return self.topics[0].startswith(_EVENTS)


@dataclass(frozen=True, slots=True)
class Trial:
    """A token of a known key, tried on a connection of its own.

    :param status: of the answer; 0 when there was none.
    :param flaw: why it must be refused whatever its key is; empty: it is sound.
    """

    at: float
    key: int
    role: str
    status: int
    flaw: str = ""
    node: int = 0


@dataclass(frozen=True, slots=True)
class Look:
    """What the hub said of its health.

    :param status: of the answer; 0 when there was none.
    :param works: value of ``mercure_storage_works``, for a look at the metrics.
    :param incomplete: streams that the hub has ended because an update could not be sent, for the same.
    """

    at: float
    path: str
    status: int
    works: bool | None = None
    incomplete: int = 0
    node: int = 0


class Effect(enum.Flag):
    """What a fault excuses while it lasts."""

    NONE = 0
    KILLS = enum.auto()
    """Processes die without a word: requests under way stay unanswered."""
    STOPS = enum.auto()
    """Processes end in order: a kept connection may be closed before a request is read."""
    STALLS = enum.auto()
    """Nobody answers for a while."""
    REFUSES = enum.auto()
    """The store fails: publications are refused."""
    CUTS = enum.auto()
    """The network loses connections."""
    STARVES = enum.auto()
    """A resource is short: anything may be refused, processes may end."""
    CLOCK = enum.auto()
    """The wall clock of the hub is wrong."""
    REPLACES = enum.auto()
    """The log itself is damaged."""
    AWAY = enum.auto()
    """The engine does not answer: publications are refused, streams are late."""
    FAR = enum.auto()
    """The engine answers late."""
    BUSY = enum.auto()
    """The machine is too busy for a judgement over a second."""


@dataclass(slots=True)
class Deed:
    """A fault that was carried out.

    :param words: what was done, for the story.
    :param happened: false when it had nothing to act on.
    :param node: that it befell; ``ANY``: all of them.
    """

    name: str
    begin: float
    end: float
    effect: Effect
    words: str
    happened: bool = True
    node: int = ANY

    def befalls(self, node: int) -> bool:
        """Whether it may have an effect on a node."""
        return self.happened and (ANY in (node, self.node) or node == self.node)


@dataclass(frozen=True, slots=True)
class Rotation:
    """The key changed: ``key`` is trusted from then on and no other."""

    at: float
    key: int


@dataclass(frozen=True, slots=True)
class Death:
    """A process of the hub that ended although nobody told it to.

    :param code: exit status; negative: the signal.
    :param served: before it ended; else it could not start.
    """

    at: float
    what: str
    code: int
    is_restarted: bool
    served: bool = True
    node: int = 0


@dataclass(frozen=True, slots=True)
class Load:
    """What the processes of a hub take together.

    :param memory: bytes that are resident and not shared.
    :param streams: that are open, each of which is a descriptor.
    """

    at: float
    processes: int
    memory: int
    descriptors: int
    threads: int
    files: tuple[str, ...]
    streams: int = 0


@dataclass(frozen=True, slots=True)
class Listing:
    """The sessions that the subscription API lists."""

    at: float
    status: int
    sessions: tuple[str, ...]
    node: int = 0


@dataclass
class Record:
    """All of a run."""

    has_presence: bool = False
    history_size: int = 0
    history_age: float = 0.0
    heartbeat: float = 40.0
    damaged: float = 0.0
    """When a file of the store was last damaged: what was acknowledged before that may be gone."""
    publications: list[Publication] = field(default_factory=list)
    sessions: list[Session] = field(default_factory=list)
    trials: list[Trial] = field(default_factory=list)
    looks: list[Look] = field(default_factory=list)
    deeds: list[Deed] = field(default_factory=list)
    rotations: list[Rotation] = field(default_factory=list)
    deaths: list[Death] = field(default_factory=list)
    listings: list[Listing] = field(default_factory=list)
    log: Sequence[Entry] = ()
    replayed: Sequence[tuple[str, int]] | None = None
    """What a reader who may see all got at the end, from the beginning."""
    elsewhere: Sequence[Sequence[tuple[str, int]] | None] = ()
    """The same from the other nodes."""
    is_shared: bool = False
    """Several nodes are at work on an engine that does not discard by their clocks."""
    ruin: str = ""
    """Why the log cannot be read."""
    oldest: int = 0
    """Sequence of the oldest update that the log still held at the end."""
    before: Load | None = None
    after: Load | None = None
    idle: float = 0.0
    """Share of a core that the hub takes when nobody publishes any more."""
    calm: float = float("inf")
    """When all faults were over."""
    recovered: float = float("inf")
    """When publishing and reading worked again after that."""
    settled: float = float("inf")
    """When every open stream had been given time for its last update."""
    finished: float = 0.0

    def spent(self, effect: Effect, begin: float, end: float, node: int = ANY) -> float:
        """Seconds of a span of time in which faults with one of some effects were at work, each counted.

        :param node: leave out what befell others only.
        """
        return sum(
            max(0.0, min(deed.end, end) - max(deed.begin, begin))
            for deed in self.deeds
            if deed.effect & effect and deed.befalls(node)
        )

    def during(self, effect: Effect, begin: float, end: float, node: int = ANY) -> bool:
        """Whether a fault with one of some effects touches a span of time.

        :param node: leave out what befell others only.
        """
        return any(
            deed.effect & effect and deed.befalls(node) and deed.begin <= end and begin <= deed.end
            for deed in self.deeds
        )
