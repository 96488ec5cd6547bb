"""An engine in memory: the second implementation of ``Link``, with failures on demand."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice

from mercure_hub.protocol.errors import StorageAway, StorageError, StorageInDoubt
from mercure_hub.protocol.revocation import Revocation
from mercure_hub.protocol.update import Update
from mercure_hub.storage.encoding import bounded
from mercure_hub.storage.interface import (
    MANY_TOPICS,
    MOST_COMPARED,
    AlreadyStored,
    Batch,
    Beginning,
    Entry,
    LeaseLost,
    Outline,
    Page,
    Position,
    Presence,
    Records,
    Resume,
    Resumed,
    Retention,
    Revoked,
    Size,
    TopicPage,
    Unstorable,
)

_STEP = 1000


@dataclass
class MemoryEngine:
    """What several links have in common, as a database server would."""

    epoch: str = "first"
    last: int = 0
    stored: list[tuple[Entry, float]] = field(default_factory=list)
    batches: dict[int, tuple[int, int | None]] = field(default_factory=dict)  # node: number, first sequence
    presence: dict[str, tuple[int, Presence]] = field(default_factory=dict)  # with the node
    gone: dict[bool, int] = field(default_factory=lambda: {False: 0, True: 0})  # by whether it is an event
    living: set[int] = field(default_factory=set)
    nodes: int = 0
    revoked: dict[bytes, tuple[int, Revocation]] = field(default_factory=dict)  # with the version
    revocations: int = 0  # ever
    changed: threading.Condition = field(default_factory=threading.Condition)
    turn: threading.Lock = field(default_factory=threading.Lock)

    @property
    def records(self) -> dict[str, tuple[int, str | None]]:
        """Who is connected: node and record by key."""
        return {key: (node, one.record) for key, (node, one) in self.presence.items()}

    def bury(self, node: int) -> None:
        """Take a process for dead."""
        with self.changed:
            self.living.discard(node)

    def rewind(self, last: int) -> None:
        """Lose the newest updates, as at a failover to a replica that lacks them."""
        with self.changed:
            self.last = last
            self.stored = [one for one in self.stored if one[0].sequence <= last]


class MemoryLink:
    """Implements ``Link`` on a ``MemoryEngine``.

    :param clock: of the engine.
    """

    def __init__(
        self,
        engine: MemoryEngine,
        kept: Retention | None = None,
        clock: Callable[[], float] = lambda: 1000.0,
    ) -> None:
        self.engine = engine
        self.appends: list[Callable[[Callable[[], int]], int]] = []
        """What the next appends do; each gets the real one."""
        self.is_away = False
        """Whether everything but appends fails."""
        self.renewals: list[Callable[[], None]] = []
        """What the next renewals do before anything else."""
        self._kept = kept or Retention()
        self._clock = clock
        self._node = -1
        self._is_interrupted = False

    @property
    def name(self) -> str:
        return "the memory"

    @property
    def node(self) -> str:
        return str(self._node)

    @property
    def is_relaxed(self) -> bool:
        return True

    def open(self) -> None:
        self._join()

    def _join(self) -> None:
        with self.engine.changed:
            self._node = self.engine.nodes
            self.engine.nodes += 1
            self.engine.living.add(self._node)

    @contextmanager
    def turn(self) -> Iterator[None]:
        with self.engine.turn:
            yield

    def why_waiting(self, seconds: float) -> StorageError:
        return StorageError(f"the memory was in use for {seconds:.0f} s")

    def append(self, batch: Batch) -> int:
        def append() -> int:
            return self._append(batch)

        return self.appends.pop(0)(append) if self.appends else append()

    def _append(self, batch: Batch) -> int:
        engine = self.engine
        for update in batch.updates:
            try:
                update.data.encode()
            except ValueError as error:
                raise Unstorable(str(error)) from None
        with engine.changed:
            if self._node not in engine.living:
                raise LeaseLost("the memory took this process for dead")
            number, stored = engine.batches.get(self._node, (0, 0))
            if number >= batch.number:
                return stored or 0
            known = [position for position in batch.once if self._has(batch.updates[position])]
            if known:
                raise AlreadyStored(known)
            first = engine.last + 1
            for update, is_event in zip(batch.updates, batch.are_events, strict=True):
                engine.last += 1
                engine.stored.append((Entry(engine.last, update, is_event), self._clock()))
            for change in batch.presence:
                engine.presence.pop(change.key, None)
                if change.record is not None:
                    engine.presence[change.key] = self._node, change
            engine.batches[self._node] = batch.number, first
            engine.changed.notify_all()
            return first

    def _has(self, update: Update) -> bool:
        with_id = [entry for entry, _ in self.engine.stored if entry.update.id == update.id]
        return any(one.update == update and not one.is_event for one in with_id[-MOST_COMPARED:])

    def outcome(self, number: int) -> int | None:
        self._look()
        with self.engine.changed:
            newest, first = self.engine.batches.get(self._node, (0, None))
            if newest < number:
                first = None
                self.engine.batches[self._node] = number, None
            return first

    def renew(self) -> bool:
        if self.renewals:
            self.renewals.pop(0)()
        self._look()
        if self._node in self.engine.living:
            return True
        self._join()
        return False

    def end_lease(self, node: str) -> None:
        self._look()
        self.engine.bury(int(node))

    def leave(self) -> None:
        self._look()
        self.engine.bury(self._node)

    def is_discard_due(self) -> bool:
        return self._kept.is_bounded or any(entry.is_event for entry, _ in self.engine.stored)

    def discard(self) -> None:
        engine, kept = self.engine, self._kept
        with engine.changed:
            for is_event in (False, True):
                ours = [one for one in engine.stored if one[0].is_event is is_event]
                before = len(ours) - kept.size if kept.size and not is_event else 0
                old = self._clock() - (kept.max_age or (86400.0 if is_event else float("inf")))
                for index, one in enumerate(ours[:_STEP]):
                    if index >= before and one[1] >= old:
                        break
                    engine.stored.remove(one)
                    engine.gone[is_event] = one[0].sequence

    def trust_clock(self) -> None:
        pass

    def wait(self, after: int, timeout: float) -> None:
        with self.engine.changed:
            self.engine.changed.wait_for(lambda: self._is_interrupted or self.engine.last > after, timeout)
            self._is_interrupted = False

    def interrupt(self) -> None:
        with self.engine.changed:
            self._is_interrupted = True
            self.engine.changed.notify_all()

    def after(self, sequence: int, limit: int, size: int) -> list[Entry]:
        entries: list[Entry] = []
        for entry in self._entries(sequence, 1 << 62):
            if len(entries) == limit or size <= 0:
                break
            entries.append(entry)
            size -= len(entry.update.data)
        return entries

    def position(self) -> Position:
        self._look()
        return Position(self.engine.epoch, self.engine.last)

    def id_at(self, sequence: int) -> str | None:
        return next((one.update.id for one in self._entries(sequence - 1, sequence)), None)

    def newest_update(self) -> str | None:
        ids = [entry.update.id for entry in self._entries(0, 1 << 62) if not entry.is_event]
        return ids[-1] if ids else None

    def resume(self, wanted: Sequence[Resume]) -> list[Resumed]:
        return [self._resume(one) for one in wanted]

    def _resume(self, one: Resume) -> Resumed:
        same = (entry for entry in self._entries(0, 1 << 62) if entry.update.id == one.event_id)
        after = next((entry.sequence for entry in same), None)
        page = None
        if after is not None and one.has_page(after):
            page = self.read(after, one.upto, one.topics, one.limit)
        return Resumed(after, page, self.beginning(one.upto))

    def beginning(self, upto: int, topics: Collection[str] | None = None) -> Beginning:
        gone = self.engine.gone
        return Beginning(gone[False] + 1, gone[True] + 1)

    def read(self, after: int, upto: int, topics: Collection[str] | None, limit: int) -> Page:
        entries = [
            entry
            for entry in self._entries(after, upto)
            if topics is None or len(topics) > MANY_TOPICS or not set(topics).isdisjoint(entry.update.topics)
        ]
        reached = upto
        if len(entries) >= limit:
            entries = entries[:limit]
            reached = entries[-1].sequence
        return Page(entries, reached, self.beginning(upto))

    def topics(self, after: int, upto: int, beyond: int | None, limit: int) -> TopicPage:
        known = sorted({topic for entry in self._entries(0, 1 << 62) for topic in entry.update.topics})
        here = {topic for entry in self._entries(after, upto) for topic in entry.update.topics}
        first = 0 if beyond is None else beyond
        some = known[first : first + limit]
        more = first + limit if len(some) == limit else None
        return TopicPage([topic for topic in some if topic in here], more)

    def newest_of(self, wanted: Sequence[tuple[str, int]], limit: int) -> list[Sequence[Outline]]:
        return [
            [
                Outline(one.sequence, one.update.topics, one.update.private, len(one.update.data.encode()))
                for one in reversed(self._entries(0, upto))
                if topic in one.update.topics and not one.is_event
            ][:limit]
            for topic, upto in wanted
        ]

    def at(self, sequences: Sequence[int]) -> list[Entry]:
        some = [one for one in self._entries(0, 1 << 62) if one.sequence in sequences]
        return bounded(some, 0, len(sequences))[0]

    def others(self, value: str | None, beyond: str | None, limit: int) -> Records:
        self._look()
        with self.engine.changed:
            found = sorted(self.engine.presence.items())
        some = [
            (key, one.record)
            for key, (node, one) in found
            if node != self._node and value in (None, one.value) and (beyond is None or key > beyond)
        ][:limit]
        return Records(
            [record for _, record in some if record is not None], some[-1][0] if len(some) == limit else None
        )

    def adopt(self, limit: int) -> list[str]:
        engine = self.engine
        with engine.changed:
            left = (
                (key, one)
                for key, (node, one) in sorted(engine.presence.items())
                if node not in engine.living
            )
            dead = dict(islice(left, limit))
            engine.presence.update({key: (self._node, one) for key, one in dead.items()})
            return [one.record for one in dead.values() if one.record is not None]

    def revoke(self, revocations: Sequence[Revocation], now: float) -> None:
        self._look()
        engine = self.engine
        with engine.changed:
            for key, (_, one) in list(engine.revoked.items()):
                if one.until < now:
                    del engine.revoked[key]
            for one in revocations:
                engine.revocations += 1
                _, known = engine.revoked.get(one.key, (0, one))
                engine.revoked[one.key] = engine.revocations, one.joined(known)

    def revocations(self, after: int, limit: int) -> Revoked:
        self._look()
        with self.engine.changed:
            newer = sorted((version, one.key) for version, one in self.engine.revoked.values())
            newer = [(version, key) for version, key in newer if version > after][:limit]
            found = [self.engine.revoked[key][1] for _, key in newer]
            return Revoked(found, newer[-1][0] if newer else after, self.engine.revocations)

    def size(self) -> Size:
        return Size(sum(not entry.is_event for entry, _ in self.engine.stored))

    def check(self, *, by_writing: bool) -> None:
        self._look()

    def close(self, *, is_writer_left: bool) -> None:
        self.engine.living.discard(self._node)

    def _entries(self, after: int, upto: int) -> list[Entry]:
        self._look()
        with self.engine.changed:
            return [entry for entry, _ in self.engine.stored if after < entry.sequence <= upto]

    def _look(self) -> None:
        if self.is_away:
            raise StorageAway("the memory is away")


def fails(append: Callable[[], int]) -> int:
    """An append that fails before the commit."""
    raise StorageError("the memory is full")


def goes_away(append: Callable[[], int]) -> int:
    """An append for which the engine cannot be reached."""
    raise StorageAway("the memory is away")


def is_lost(append: Callable[[], int]) -> int:
    """An append whose connection breaks before the engine has it."""
    raise StorageInDoubt("the connection broke")


def is_not_answered(append: Callable[[], int]) -> int:
    """An append whose connection breaks after the commit."""
    append()
    raise StorageInDoubt("the connection broke")
