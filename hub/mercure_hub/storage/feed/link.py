"""The link of a worker that has a feeder: it writes to the engine, and reads from the copy what is there.

The copy is behind the history, if only by milliseconds, and has its newest part only. So what is not found in
it is not known to be missing: the engine is asked.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TypeVar

from mercure_hub.protocol.errors import StorageError
from mercure_hub.protocol.revocation import Revocation
from mercure_hub.storage.doorbell import Doorbell
from mercure_hub.storage.feed.database import CopyReader, copy_at, failure
from mercure_hub.storage.feed.state import FeedState
from mercure_hub.storage.interface import (
    Batch,
    Beginning,
    Entry,
    Lag,
    Outline,
    Page,
    Position,
    Records,
    Resume,
    Resumed,
    Revoked,
    SharedLink,
    Size,
    TopicPage,
)

_UNIQUE = "urn:uuid:"  # prefix of ids that are generated for one update
_PAUSE = 0.01  # seconds between two looks at a copy that is being begun anew

T = TypeVar("T")


class FedLink:
    """Implements ``Link`` and ``Copy``.

    :param engine: link to the engine, not yet open; its ``wait`` is never called.
    :param number: of the worker.
    :param path: of the copy.
    :param state: of the copy.
    :param doorbell: is rung by the feeder.
    :param reads_copy: history is read from the copy; with retention by topic it has what is to be gone.
    """

    patience = 3.0
    """Seconds to wait for a feeder that is being replaced."""
    interval = 1.0
    """Seconds between two reports of the feeder on how far it is behind."""

    def __init__(
        self,
        engine: SharedLink,
        number: int,
        path: Path,
        state: FeedState,
        doorbell: Doorbell,
        *,
        reads_copy: bool = True,
    ) -> None:
        self._engine = engine
        self._number = number
        self._state = state
        self._doorbell = doorbell
        self._reads_copy = reads_copy
        self._generation = 0  # of the copy that is followed
        self._has_failed = False  # to read what is not in the copy any more
        self._connections = copy_at(path)
        self._reader = CopyReader(self._connections, connections=3)
        self._follower = CopyReader(self._connections, connections=1)

    @property
    def name(self) -> str:
        """The engine in words."""
        return self._engine.name

    @property
    def is_relaxed(self) -> bool:
        """Whether the engine is."""
        return self._engine.is_relaxed

    def open(self) -> None:
        """Open the engine, and end the lease of the worker before this one, which is dead."""
        self._engine.open()
        before = self._state.node_of(self._number)
        self._state.name_node(self._number, self._engine.node)
        if before:
            with contextlib.suppress(StorageError):  # it ends by itself, but later
                self._engine.end_lease(before)
        self.began_anew()

    # -- writing: to the engine ------------------------------------------------------------------

    def turn(self) -> AbstractContextManager[None]:
        """The engine's turn."""
        return self._engine.turn()

    def why_waiting(self, seconds: float) -> StorageError:
        """In the engine's words."""
        return self._engine.why_waiting(seconds)

    def append(self, batch: Batch) -> int:
        """Store a batch in the engine."""
        return self._engine.append(batch)

    def outcome(self, number: int) -> int | None:
        """Ask the engine."""
        return self._engine.outcome(number)

    def renew(self) -> bool:
        """Renew the lease of this process in the engine."""
        is_kept = self._engine.renew()
        if not is_kept:
            self._state.name_node(self._number, self._engine.node)
        return is_kept

    def leave(self) -> None:
        """Leave the engine."""
        self._engine.leave()

    def is_discard_due(self) -> bool:
        """Never: the feeder discards."""
        return False

    def discard(self) -> None:
        """Do nothing: the feeder discards."""

    def trust_clock(self) -> None:
        """Have the engine trust it."""
        self._engine.trust_clock()

    # -- following: the copy ---------------------------------------------------------------------

    def wait(self, after: int, timeout: float) -> None:
        """Wait for the doorbell."""
        state = self._state
        is_another = state.generation != self._generation
        has_more = state.last > after and not self._has_failed
        if not (state.is_steady and (is_another or has_more)):
            self._doorbell.wait(timeout)

    def interrupt(self) -> None:
        """Ring this worker's doorbell."""
        self._doorbell.ring_own()

    def after(self, sequence: int, limit: int, size: int) -> list[Entry]:
        """What the copy has; from the engine what it no longer has, but nothing that it does not have yet.

        Whether the engine has lost its newest updates is found out by the feeder, which has to have seen all
        that this process has.
        """
        state, generation = self._state, self._generation
        entries: list[Entry] | None = None
        if state.generation == generation and state.base <= sequence:
            entries = _used(lambda: self._follower.after(sequence, limit, size))
            if state.base > sequence:
                entries = None
        if entries is None and state.generation == generation:
            last, self._has_failed = state.last, True
            entries = [one for one in self._engine.after(sequence, limit, size) if one.sequence <= last]
            self._has_failed = False
        # Last, because what was begun anew meanwhile may be another history.
        return entries if entries is not None and state.generation == generation else []

    def position(self) -> Position:
        """Where the copy ends."""
        deadline = time.monotonic() + self.patience
        while True:
            generation = self._state.generation
            if self._state.is_steady:
                seen = _used(self._reader.seen)
                if self._state.generation == generation:
                    return Position(seen.epoch, seen.last)
            if time.monotonic() > deadline:
                raise StorageError(f"the reader of {self.name} for all workers did not begin in time")
            time.sleep(_PAUSE)

    def id_at(self, sequence: int) -> str | None:
        """From the copy, or else from the engine."""
        found = self._from_copy(sequence, sequence, lambda: self._reader.id_at(sequence))
        return self._engine.id_at(sequence) if found is None else found

    def began_anew(self) -> bool:
        """Whether the copy has another generation than at the last call."""
        generation = self._state.generation
        began_anew = generation != self._generation and self._state.is_steady
        if began_anew:
            self._generation = generation
        return began_anew

    def lag(self, now: float) -> Lag:
        """How far the feeder is behind."""
        return self._state.lag(now, self.interval)

    # -- reading: the copy, or else the engine ---------------------------------------------------

    def newest_update(self) -> str | None:
        """From the copy, or else from the engine."""
        found = _used(self._reader.newest_update)
        return self._engine.newest_update() if found is None else found

    def resume(self, wanted: Sequence[Resume]) -> list[Resumed]:
        """Look into the copy; what is not there may still be in the engine."""
        answers = [self._resume(one) for one in wanted]
        missing = [one for one, answer in zip(wanted, answers, strict=True) if answer is None]
        others = iter(self._engine.resume(missing) if missing else ())
        return [next(others) if answer is None else answer for answer in answers]

    def _resume(self, wanted: Resume) -> Resumed | None:
        state = self._state
        generation = state.generation
        if not self._reads_copy:
            return None
        # Publishers may use other ids twice, and the earliest update counts.
        is_unique = wanted.event_id.startswith(_UNIQUE)
        if not state.is_steady or wanted.upto > state.last or (state.base > 0 and not is_unique):
            return None
        found = _used(lambda: self._reader.resume(wanted))
        if found.after is None or state.base > (found.after if is_unique else 0):
            return None
        return found if state.generation == generation else None

    def beginning(self, upto: int, topics: Collection[str] | None = None) -> Beginning:
        """Of the engine, unless the copy has the whole history."""
        found = self._from_copy(0, upto, lambda: self._reader.beginning(upto, topics))
        return self._engine.beginning(upto, topics) if found is None else found

    def read(self, after: int, upto: int, topics: Collection[str] | None, limit: int) -> Page:
        """Read from the copy what is there."""
        found = self._from_copy(after, upto, lambda: self._reader.page(after, upto, topics, limit))
        return self._engine.read(after, upto, topics, limit) if found is None else found

    def topics(self, after: int, upto: int, beyond: int | None, limit: int) -> TopicPage:
        """Topics in the copy, if it has that part of the history.

        A copy that has lost it between two pages leaves the whole to the engine, with some topics twice.
        """
        # Which of the two gave a page is in the lowest bit of where it ended.
        inner, is_of_engine = (None, False) if beyond is None else (beyond >> 1, bool(beyond & 1))
        found: TopicPage | None = None
        if not is_of_engine:
            found = self._from_copy(after, upto, lambda: self._reader.topics(after, upto, inner, limit))
        if found is None:
            found = self._engine.topics(after, upto, inner if is_of_engine else None, limit)
            is_of_engine = True
        ends = None if found.beyond is None else found.beyond << 1 | is_of_engine
        return TopicPage(found.topics, ends)

    def newest_of(self, wanted: Sequence[tuple[str, int]], limit: int) -> list[Sequence[Outline]]:
        """From the copy what it has; its updates are the newest ones."""
        base, upto = self._state.base, max((upto for _, upto in wanted), default=0)
        found = self._from_copy(base, upto, lambda: self._reader.newest_of(wanted, limit))
        if found is None:
            return self._engine.newest_of(wanted, limit)
        if base == 0:
            return found
        lacking = [number for number, some in enumerate(found) if len(some) < limit]
        others = self._engine.newest_of([wanted[number] for number in lacking], limit) if lacking else []
        for number, some in zip(lacking, others, strict=True):
            found[number] = some
        return found

    def at(self, sequences: Sequence[int]) -> list[Entry]:
        """From the copy, if it has all of them."""
        if not sequences:
            return []
        found = self._from_copy(sequences[0] - 1, sequences[-1], lambda: self._reader.at(sequences))
        return self._engine.at(sequences) if found is None else found

    def _from_copy(self, after: int, upto: int, read: Callable[[], T]) -> T | None:
        """What the copy says on a part of the history; ``None`` unless it has all of it."""
        state = self._state
        generation = state.generation
        if not self._reads_copy or not state.is_steady or state.base > after or upto > state.last:
            return None
        found = _used(read)
        # Last, because the copy is trimmed at any time.
        return found if state.base <= after and state.generation == generation else None

    # -- the rest: the engine --------------------------------------------------------------------

    def others(self, value: str | None, beyond: str | None, limit: int) -> Records:
        """Ask the engine."""
        return self._engine.others(value, beyond, limit)

    def adopt(self, limit: int) -> list[str]:
        """Ask the engine."""
        return self._engine.adopt(limit)

    def revoke(self, revocations: Sequence[Revocation], now: float) -> None:
        """Store them in the engine."""
        self._engine.revoke(revocations, now)

    def revocations(self, after: int, limit: int) -> Revoked:
        """Ask the engine: a feeder that stands still must not keep them from this process."""
        return self._engine.revocations(after, limit)

    def size(self) -> Size:
        """Ask the engine."""
        return self._engine.size()

    def check(self, *, by_writing: bool) -> None:
        """Check the engine."""
        self._engine.check(by_writing=by_writing)

    def close(self, *, is_writer_left: bool) -> None:
        """Disconnect from both."""
        self._follower.close()
        self._reader.close()
        self._connections.close()
        self._engine.close(is_writer_left=is_writer_left)


def _used(read: Callable[[], T]) -> T:
    try:
        return read()
    except sqlite3.Error as error:
        raise failure(error) from None
