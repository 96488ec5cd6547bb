"""What a seed draws: a hub, its publishers and subscribers, and the faults. Values; nothing is started here.

The first fault and the second one walk through the table ``DECK`` with the number of the seed, at different
strides: so any run of consecutive seeds meets all kinds, and each pair differs. All else is random.
"""

from __future__ import annotations

import enum
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from chaos.topics import ALL, ROOMS, TOPICS, Form, Matcher

SQLITE = "sqlite"
ENGINES = (SQLITE,)

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


NEEDS_WORKERS = frozenset(
    {
        Kind.KILL_PARENT,
        Kind.KILL_WORKER,
        Kind.HAND_OVER_AND_KILL,
        Kind.KILL_AND_RELOAD,
        Kind.STOP_WORKER,
    }
)
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
}
NAMED = (Kind.READ_SLOW, Kind.TRUNCATE_FAILS, Kind.MAP_FAILS, Kind.REPLACE_WAL, Kind.REPLACE_LOCK)
"""Faults that only a name brings about: a kind that is added to the others gives every seed another plan."""
DECK = tuple(kind for kind in Kind if kind not in NAMED)


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


@dataclass(frozen=True, slots=True)
class FaultPlan:
    """One fault.

    :param at: seconds after the start.
    :param draw: a number in [0, 1) for whatever else it has to choose.
    """

    kind: Kind
    at: float
    length: float
    draw: float


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
        lines = [
            f"seed {self.seed}: {hub.workers} worker{'s' * (hub.workers > 1)} on {self.engine}, "
            f"keeps {kept}, presence {'on' if hub.presence else 'off'}, {len(self.publishers)} publishers, "
            f"{len(self.subscribers)} subscribers",
        ]
        for fault in self.faults:
            length = f" for {fault.length:.1f} s" if fault.length else ""
            lines.append(f"  at {fault.at:4.1f} s{length}: {fault.kind.value}")
        return lines


def draw(
    seed: int,
    *,
    workers: int = 0,
    engine: str = SQLITE,
    kinds: Sequence[Kind] | None = None,
    least: float = LEAST,
) -> Plan:
    """Draw a plan; the same arguments give the same one.

    :param seed: a number from 0.
    :param workers: of the hub; 0: drawn.
    :param kinds: the faults, named; ``None``: drawn.
    :param least: seconds that it takes at least.
    """
    chance = random.Random(seed)  # noqa: S311 - it has to be the same again
    if kinds is None:
        kinds = [DECK[seed % len(DECK)], DECK[(seed * 11 + 5) % len(DECK)]]
        kinds += [Kind.ROTATE] * (chance.random() < 0.6)
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
    return Plan(seed, engine, hub, publishers, subscribers, faults, seconds)


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
