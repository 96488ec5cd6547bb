"""What a seed draws: a hub, its publishers and subscribers, and the faults. Values; nothing is started here.

The first fault and the second one walk through the table ``DECK`` with the number of the seed, at different
strides: so any run of consecutive seeds meets all kinds, and each pair differs. All else is random. Several
nodes on one engine have a table of their own, ``SHARED_DECK``.
"""

from __future__ import annotations

import enum
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from chaos.topics import ALL, ROOMS, TOPICS, Form, Matcher

SQLITE = "sqlite"
POSTGRESQL = "postgresql"
VALKEY = "valkey"
ENGINES = (SQLITE, POSTGRESQL, VALKEY)

NODES = 3
"""Nodes on an engine that they share, unless another number is named."""

LEASE = 15.0
"""Seconds after which a node that is not heard of counts as dead."""

LEAST = 17.0
"""Seconds of faults: long enough to see that a key which was taken away stays away."""


class Kind(enum.Enum):
    """The faults."""

    KILL_HUB = "kill -9 of all processes"
    KILL_PARENT = "kill -9 of the parent"
    KILL_WORKER = "kill -9 of a worker"
    TERMINATE = "SIGTERM, then a new start"
    RELOAD = "SIGHUP"
    RELOAD_ALL = "SIGHUP to all processes at once"
    ROTATE = "another key, SIGHUP"
    HAND_OVER = "SIGUSR2"
    HAND_OVER_TWICE = "SIGUSR2 twice at once"
    HAND_OVER_AND_KILL = "SIGUSR2, and kill -9 of a worker at once"
    KILL_AND_RELOAD = "kill -9 of a worker, and SIGHUP at once"
    STOP_MAIN = "SIGSTOP of the main process, then SIGCONT"
    STOP_WORKER = "SIGSTOP of a worker, then SIGCONT"
    STOP_LONG = "SIGSTOP of all processes for long, then SIGCONT"
    SYNC_FAILS = "fsync and fdatasync fail with EIO"
    SYNC_SLOW = "fsync and fdatasync take 2 s"
    WRITE_FAILS = "writes fail with EIO"
    WRITE_SHORT = "writes are short, now and then"
    READ_FAILS = "reads fail with EIO"
    OPEN_FAILS = "files cannot be opened"
    LOCK_SLOW = "each lock takes 100 ms"
    LOCK_FAILS = "the lock file cannot be locked"
    DISK_FULL = "the disk is full"
    REMOVE_DATABASE = "the database is removed"
    REPLACE_DATABASE = "the database is replaced by a copy"
    REMOVE_WAL = "the write-ahead log is removed"
    TRUNCATE_WAL = "the write-ahead log is truncated"
    REMOVE_LOCK = "the lock file is removed"
    DESCRIPTORS = "no more descriptors"
    MEMORY = "little more memory"
    THREADS = "no more threads"
    CLOCK = "the clock jumps"
    STORM = "the proxy cuts all connections at once"
    PROXY_STALLS = "the proxy forwards nothing for a while, then cuts"
    HALF_OPEN = "the network is gone, and nobody is told"
    READ_SLOW = "reads take 50 ms"
    TRUNCATE_FAILS = "files cannot be made shorter"
    MAP_FAILS = "files cannot be mapped"
    REPLACE_WAL = "the write-ahead log is replaced by a copy"
    REPLACE_LOCK = "the lock file is replaced"
    CUT_NODE = "a node loses the network to the engine, and nobody is told"
    CUT_ALL = "all nodes lose the network to the engine, and nobody is told"
    MUTE = "nothing that a node sends reaches the engine"
    DEAF = "nothing that the engine sends reaches a node"
    DELAY_1 = "all that a node and the engine send is 1 ms late"
    DELAY_50 = "all that a node and the engine send is 50 ms late"
    DELAY_500 = "all that a node and the engine send is 500 ms late"
    WIRE_RESET = "all connections of a node to the engine are reset"
    DISCONNECT = "the engine ends all connections"
    ENGINE_STOP = "SIGSTOP of the engine, then SIGCONT"
    ENGINE_KILL = "kill -9 of the engine, then a new start"
    ENGINE_RESTART = "the engine is stopped and started"
    TRIM_PAST = "SIGSTOP of a node until the engine has discarded what it has not read, then SIGCONT"
    FAIL_OVER = "a replica that has everything takes over"
    FAIL_BEHIND = "a replica without the newest updates takes over"
    ROLL = "all nodes are stopped and started, one after the other"
    ROLL_OVER = "SIGUSR2 to all nodes, one after the other"
    KILL_BOTH = "kill -9 of a node and of the engine at once, then new starts"


NEEDS_WORKERS = frozenset(
    {
        Kind.KILL_PARENT,
        Kind.KILL_WORKER,
        Kind.HAND_OVER_AND_KILL,
        Kind.KILL_AND_RELOAD,
        Kind.STOP_WORKER,
    }
)
ENGINE_FAULTS = frozenset(list(Kind)[list(Kind).index(Kind.CUT_NODE) :])
"""Faults that need an engine which nodes share."""
FAILOVERS = frozenset({Kind.FAIL_OVER, Kind.FAIL_BEHIND})
REPLACES = frozenset(
    {
        Kind.REMOVE_DATABASE,
        Kind.REPLACE_DATABASE,
        Kind.REMOVE_WAL,
        Kind.TRUNCATE_WAL,
        Kind.REPLACE_WAL,
        Kind.REMOVE_LOCK,
        Kind.REPLACE_LOCK,
    }
)
_LENGTHS = {
    Kind.SYNC_FAILS: (12.5, 13.5),  # long enough to see whether health notices
    Kind.WRITE_FAILS: (12.5, 13.5),
    Kind.DISK_FULL: (12.5, 13.5),
    Kind.STOP_LONG: (8.0, 40.0),
    Kind.STOP_MAIN: (1.0, 8.0),
    Kind.STOP_WORKER: (1.0, 8.0),
    Kind.SYNC_SLOW: (5.0, 8.0),
    Kind.READ_FAILS: (2.0, 6.0),
    Kind.OPEN_FAILS: (2.0, 6.0),
    Kind.LOCK_SLOW: (3.0, 6.0),
    Kind.LOCK_FAILS: (3.0, 6.0),
    Kind.WRITE_SHORT: (3.0, 6.0),
    Kind.DESCRIPTORS: (3.0, 6.0),
    Kind.MEMORY: (4.0, 7.0),
    Kind.THREADS: (3.0, 6.0),
    Kind.CLOCK: (3.0, 6.0),
    Kind.PROXY_STALLS: (2.0, 5.0),
    Kind.HALF_OPEN: (13.0, 15.0),  # and to see whether the hub notices
    Kind.REMOVE_DATABASE: (2.0, 4.0),
    Kind.REPLACE_DATABASE: (2.0, 4.0),
    Kind.REMOVE_WAL: (2.0, 4.0),
    Kind.TRUNCATE_WAL: (2.0, 4.0),
    Kind.REMOVE_LOCK: (2.0, 4.0),
    Kind.READ_SLOW: (3.0, 6.0),
    Kind.TRUNCATE_FAILS: (3.0, 6.0),
    Kind.MAP_FAILS: (3.0, 6.0),
    Kind.REPLACE_WAL: (2.0, 4.0),
    Kind.REPLACE_LOCK: (2.0, 4.0),
    Kind.CUT_NODE: (4.0, 24.0),
    Kind.CUT_ALL: (4.0, 20.0),
    Kind.MUTE: (3.0, 18.0),
    Kind.DEAF: (3.0, 18.0),
    Kind.DELAY_1: (5.0, 10.0),
    Kind.DELAY_50: (5.0, 10.0),
    Kind.DELAY_500: (5.0, 10.0),
    Kind.ENGINE_STOP: (1.0, 20.0),
    Kind.ENGINE_KILL: (0.0, 6.0),
    Kind.ENGINE_RESTART: (0.0, 6.0),
    Kind.TRIM_PAST: (6.0, 12.0),
    Kind.FAIL_BEHIND: (1.0, 4.0),
    Kind.KILL_BOTH: (0.0, 3.0),
}
NAMED = (Kind.READ_SLOW, Kind.TRUNCATE_FAILS, Kind.MAP_FAILS, Kind.REPLACE_WAL, Kind.REPLACE_LOCK)
"""Faults that only a name brings about: a kind that is added to the others gives every seed another plan."""
DECK = tuple(kind for kind in Kind if kind not in NAMED and kind not in ENGINE_FAULTS)
SHARED_DECK = (
    *(Kind.CUT_NODE, Kind.ENGINE_KILL, Kind.KILL_HUB, Kind.DISCONNECT, Kind.DEAF, Kind.FAIL_BEHIND),
    *(Kind.STOP_LONG, Kind.CUT_ALL, Kind.ROLL, Kind.DELAY_50, Kind.MUTE, Kind.TRIM_PAST, Kind.ENGINE_STOP),
    *(Kind.HAND_OVER, Kind.WIRE_RESET, Kind.FAIL_OVER, Kind.STORM, Kind.DELAY_500, Kind.KILL_BOTH),
    *(Kind.ENGINE_RESTART, Kind.CLOCK, Kind.TERMINATE, Kind.ROLL_OVER, Kind.PROXY_STALLS, Kind.DELAY_1),
)
"""Faults of several nodes on one engine."""
_LEASES = frozenset(
    {
        *(Kind.KILL_HUB, Kind.KILL_BOTH, Kind.STOP_LONG, Kind.CUT_NODE, Kind.CUT_ALL, Kind.MUTE, Kind.DEAF),
        *(Kind.ENGINE_STOP, Kind.TRIM_PAST, Kind.ENGINE_KILL, Kind.ENGINE_RESTART, Kind.FAIL_BEHIND),
    }
)
"""Faults after which leases may expire: a run goes on until that has been dealt with."""
_ADOPTED = LEASE + 6.0


class Route(enum.Enum):
    """How a client reaches the hub."""

    DIRECT = "direct"
    PROXY = "proxy"
    HOST = "another host"


_ROUTES = (Route.DIRECT, Route.DIRECT, Route.PROXY)


class Manner(enum.Enum):
    """How a subscriber behaves."""

    STEADY = "steady"
    RETURNS = "leaves and returns at once"
    AWAY = "leaves and returns after seconds"
    SLOW = "reads slowly"
    STALLS = "stops reading now and then"
    RESETS = "resets its connection"
    EXPIRES = "has a token for some seconds"


@dataclass(frozen=True, slots=True)
class HubPlan:
    """How the hub is configured."""

    workers: int
    presence: bool
    history_size: int
    history_age: int
    heartbeat: int
    write_timeout: int
    drain: int


@dataclass(frozen=True, slots=True)
class PublisherPlan:
    """One publisher.

    :param pause: seconds between two requests.
    :param batch: most updates in one request; 1: no batches.
    :param private: share of private updates.
    :param padding: bytes in each update beyond the necessary.
    :param keeps: requests on one connection; 1: each has its own.
    :param repeats: whether what may have been stored is published again, with ``once``.
    :param node: that it publishes to, unless a proxy chooses.
    """

    name: str
    topics: tuple[str, ...]
    pause: float
    batch: int
    private: float
    padding: int
    keeps: int
    route: Route
    old: bool
    repeats: bool = False
    node: int = 0


@dataclass(frozen=True, slots=True)
class SubscriberPlan:
    """One subscriber."""

    name: str
    matchers: tuple[Matcher, ...]
    grants: tuple[Matcher, ...]
    manner: Manner
    route: Route
    websocket: bool
    old: bool
    node: int = 0


@dataclass(frozen=True, slots=True)
class FaultPlan:
    """One fault.

    :param at: seconds after the start.
    :param draw: a number in [0, 1) for whatever else it has to choose.
    :param node: that it befalls, where it does not befall all.
    """

    kind: Kind
    at: float
    length: float
    draw: float
    node: int = 0


@dataclass(frozen=True, slots=True)
class Plan:
    """All of a run."""

    seed: int
    engine: str
    hub: HubPlan
    publishers: tuple[PublisherPlan, ...]
    subscribers: tuple[SubscriberPlan, ...]
    faults: tuple[FaultPlan, ...]
    seconds: float
    nodes: int = 1
    grace: float | None = None
    """Seconds for which the engine keeps what other nodes may not have read; ``None``: as the hub has it."""

    @property
    def is_shared(self) -> bool:
        """Whether nodes share an engine over a network."""
        return self.engine != SQLITE

    def without(self, fault: FaultPlan) -> Plan:
        """The same plan with one fault less."""
        return replace(self, faults=tuple(one for one in self.faults if one != fault))

    def words(self) -> list[str]:
        """The plan for people."""
        hub = self.hub
        history = [
            f"the newest {hub.history_size} updates" if hub.history_size else "",
            f"updates of the last {hub.history_age} s" if hub.history_age else "",
        ]
        kept = " and ".join(filter(None, history)) or "all updates"
        nodes = f"{self.nodes} nodes of " if self.is_shared else ""
        lines = [
            f"seed {self.seed}: {nodes}{hub.workers} worker{'s' * (hub.workers > 1)} on {self.engine}, "
            f"keeps {kept}, presence {'on' if hub.presence else 'off'}, {len(self.publishers)} publishers, "
            f"{len(self.subscribers)} subscribers",
        ]
        for fault in self.faults:
            length = f" for {fault.length:.1f} s" if fault.length else ""
            node = f" (node {fault.node})" if self.is_shared else ""
            lines.append(f"  at {fault.at:4.1f} s{length}: {fault.kind.value}{node}")
        return lines


def draw(
    seed: int,
    *,
    workers: int = 0,
    engine: str = SQLITE,
    nodes: int = NODES,
    kinds: Sequence[Kind] | None = None,
    least: float = LEAST,
) -> Plan:
    """Draw a plan; the same arguments give the same one.

    :param seed: a number from 0.
    :param workers: of each hub; 0: drawn.
    :param nodes: on an engine that they share; there is one on SQLite.
    :param kinds: the faults, named; ``None``: drawn.
    :param least: seconds that it takes at least.
    """
    chance = random.Random(seed)  # noqa: S311 - it has to be the same again
    is_shared = engine != SQLITE
    if kinds is None:
        deck = SHARED_DECK if is_shared else DECK
        kinds = [deck[seed % len(deck)], deck[(seed * 11 + 5) % len(deck)]]
        kinds += [Kind.ROTATE] * (chance.random() < 0.6)
    if is_shared:
        kinds = _once_over(kinds)
    faults = _faults(chance, kinds)
    hub = _hub(chance, kinds, workers)
    publishers = tuple(_publisher(chance, number) for number in range(chance.randint(4, 6)))
    subscribers = tuple(_subscriber(chance, number) for number in range(chance.randint(10, 14)))
    if Kind.HALF_OPEN in kinds:
        subscribers = tuple(
            replace(one, route=Route.HOST) if number % 3 == 0 else one
            for number, one in enumerate(subscribers)
        )
    seconds = max([least, *(fault.at + fault.length + 1.0 for fault in faults)])
    plan = Plan(seed, engine, hub, publishers, subscribers, faults, seconds)
    return _shared(plan, nodes, workers) if is_shared else plan


def _once_over(kinds: Sequence[Kind]) -> list[Kind]:
    """Only one replica can take over, and nothing is discarded then: in place of that, something else."""
    found: list[Kind] = []
    for kind in kinds:
        if kind in FAILOVERS and FAILOVERS & set(found):
            found.append(Kind.KILL_HUB)
        elif kind is Kind.TRIM_PAST and FAILOVERS & set(kinds):
            found.append(Kind.STOP_LONG)
        else:
            found.append(kind)
    return found


def _shared(plan: Plan, nodes: int, workers: int) -> Plan:
    """The same for several nodes."""
    chance = random.Random(f"{plan.seed} nodes")  # noqa: S311 - it has to be the same again
    kinds = {fault.kind for fault in plan.faults}
    hub = replace(
        plan.hub,
        workers=workers or chance.choice((1, 1, 2)),
        presence=Kind.FAIL_BEHIND not in kinds and chance.random() < 0.75,
        history_age=0,
    )
    if Kind.TRIM_PAST in kinds:
        hub = replace(hub, history_size=60)
    elif FAILOVERS & kinds:  # what a replica lacks is read from the log, and that must be there
        hub = replace(hub, history_size=0)
    faults = tuple(replace(fault, node=chance.randrange(nodes)) for fault in plan.faults)
    ends = [
        fault.at + fault.length + (_ADOPTED if hub.presence and fault.kind in _LEASES else 1.0)
        for fault in faults
    ]
    return replace(
        plan,
        hub=hub,
        publishers=tuple(
            replace(one, node=chance.randrange(nodes), pause=max(one.pause, 0.02)) for one in plan.publishers
        ),
        subscribers=tuple(replace(one, node=chance.randrange(nodes)) for one in plan.subscribers),
        faults=faults,
        seconds=max([plan.seconds, *ends]),
        nodes=nodes,
        grace=(2.0 if Kind.TRIM_PAST in kinds else 15.0) if hub.history_size else None,
    )


def _faults(chance: random.Random, kinds: Sequence[Kind]) -> tuple[FaultPlan, ...]:
    faults = []
    for kind in kinds:
        first, last = (0.5, 2.5) if kind is Kind.ROTATE else (2.5, 6.5)
        at = round(chance.uniform(first, last), 2)
        length = round(chance.uniform(*_LENGTHS[kind]), 2) if kind in _LENGTHS else 0.0
        faults.append(FaultPlan(kind, at, length, chance.random()))
    return tuple(sorted(faults, key=lambda fault: fault.at))


def _hub(chance: random.Random, kinds: Sequence[Kind], workers: int) -> HubPlan:
    drawn = chance.choice((1, 1, 2, 3))
    if not workers:
        workers = max(drawn, 2) if NEEDS_WORKERS & set(kinds) else drawn
    size = chance.choice((0, 0, 60, 300))
    age = chance.choice((0, 0, 0, 3600))
    if REPLACES & set(kinds):  # what the log held is read from the log itself, and that is damaged
        size = age = 0
    presence, heartbeat = chance.random() < 0.5, chance.choice((1, 2, 40))
    if Kind.HALF_OPEN in kinds:  # what has vanished is noticed by heartbeats
        presence, heartbeat = True, 1
    return HubPlan(
        workers=workers,
        presence=presence,
        history_size=size,
        history_age=age,
        heartbeat=heartbeat,
        write_timeout=chance.choice((600, 600, 5)),
        drain=chance.choice((0, 1, 3)),
    )


def _publisher(chance: random.Random, number: int) -> PublisherPlan:
    is_large = number == 0  # large updates fill the buffers of slow readers
    return PublisherPlan(
        name=f"p{number}",
        topics=tuple(topic for topic in TOPICS if f"/{ROOMS[0]}/" in topic)
        if is_large
        else tuple(chance.sample(TOPICS, chance.randint(2, len(TOPICS)))),
        pause=0.05 if is_large else chance.choice((0.005, 0.02, 0.05)),
        batch=1 if is_large else chance.choice((1, 1, 1, 8)),
        private=chance.choice((0.0, 0.3, 0.8)),
        padding=60_000 if is_large else chance.choice((0, 0, 200)),
        keeps=chance.choice((1, 20, 100_000)),
        route=chance.choice(_ROUTES),
        old=chance.random() < 0.3,
        repeats=number % 2 == 1,
    )


def _subscriber(chance: random.Random, number: int) -> SubscriberPlan:
    fixed = (Manner.STEADY, Manner.SLOW, Manner.AWAY)
    manner = fixed[number] if number < len(fixed) else chance.choice(tuple(Manner))
    matchers = _matchers(chance)
    if manner is Manner.SLOW:
        matchers = (Matcher(Form.ROOM, ROOMS[0]),)
    if number == 0:
        matchers = (ALL,)
    wide = chance.choice((matchers, (), _matchers(chance), (ALL,)))
    return SubscriberPlan(
        name=f"s{number}",
        matchers=matchers,
        grants=(ALL,) if number == 0 else wide,
        manner=manner,
        route=Route.DIRECT if manner is Manner.SLOW else chance.choice(_ROUTES),
        websocket=manner is not Manner.SLOW and chance.random() < 0.25,
        old=chance.random() < 0.3,
    )


def _matchers(chance: random.Random) -> tuple[Matcher, ...]:
    choices: tuple[Callable[[], Matcher], ...] = (
        lambda: Matcher(Form.EXACT, chance.choice(TOPICS)),
        lambda: Matcher(Form.EXACT, chance.choice(TOPICS)),
        lambda: Matcher(Form.ROOM, chance.choice(ROOMS)),
        lambda: ALL,
    )
    count = chance.choice((1, 1, 2, 3))
    return tuple(dict.fromkeys(chance.choice(choices)() for _ in range(count)))
