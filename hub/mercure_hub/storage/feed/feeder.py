"""Follows the engine, keeps the copy of its newest history, and wakes the workers."""

from __future__ import annotations

import logging
import select
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from mercure_hub.protocol.errors import StorageError
from mercure_hub.storage.doorbell import Bell, Doorbell
from mercure_hub.storage.feed.database import Bounds, CopyWriter
from mercure_hub.storage.feed.state import FeedState
from mercure_hub.storage.interface import Commit, Link, Seen
from mercure_hub.storage.store import Store

_log = logging.getLogger("mercure_hub.storage")


class Feeder:
    """Copies what any machine stores, in order, and discards old updates from the engine.

    It can be killed at any time: the next one goes on with the same copy.

    :param link: to the engine, not yet open.
    :param path: of the copy.
    :param state: of the copy.
    :param workers: what wakes them.
    :param bounds: how much the copy holds.

    ``each_second``, which can be replaced, is called then.
    """

    look_interval = 1.0
    """Seconds between two looks at what the history no longer has."""

    def __init__(
        self,
        link: Link,
        path: Path,
        state: FeedState,
        workers: Sequence[Bell],
        bounds: Bounds | None = None,
    ) -> None:
        self._link = link
        self._path = path
        self._state = state
        self._bounds = bounds or Bounds()
        self._store: Store[None] = Store(link)
        self._store.max_commits = 4  # each may have 8 MiB, and the engine keeps what comes after them
        self._bell = Bell()
        self._doorbell = Doorbell(self._bell, workers)
        self._looked_at = 0.0
        self._is_outdated = False
        self.each_second: Callable[[], None] = lambda: None

    def open(self) -> None:
        """Go on where the copy ends, or begin one where the history ends.

        :raises StorageError: the engine or the copy cannot be opened.
        """
        self._copy = CopyWriter(self._path, self._bounds)
        seen = self._copy.seen() if self._state.is_steady else None
        last, event_id = self._store.open(self._doorbell.ring_own, since=seen)
        if seen is None:
            self._begin_anew(last, event_id)
        else:  # the one before may have died before it said so
            self._state.trim(self._copy.base)
            self._state.advance(self._copy.last)
            self._doorbell.ring()
        self._note_lag()

    def run(self, life: int) -> None:
        """Work until a descriptor becomes readable.

        :raises StorageError: the copy cannot be written.
        """
        poll = select.poll()
        for descriptor in (life, self._bell):
            poll.register(descriptor, select.POLLIN)
        while True:
            ready = poll.poll(self.look_interval * 1000)
            if any(descriptor == life for descriptor, _ in ready):
                return
            self.step()

    def step(self) -> None:
        """Copy what has come.

        :raises StorageError: the copy cannot be written.
        """
        self._doorbell.wait(0)
        for commit in self._store.collect():
            self._take(commit)
        self._note_lag()
        if self._is_outdated:
            self._is_outdated = False
            seen = self._copy.seen()
            assert seen is not None
            self._begin_anew(seen.last, seen.event_id)
        now = time.monotonic()
        if now - self._looked_at >= self.look_interval:
            self._looked_at = now
            self.each_second()
            self._discard()

    def forget(self) -> None:
        """Make a new copy, without what was discarded from the history on demand.

        To be called from any thread.
        """
        self._is_outdated = True
        self._doorbell.ring_own()

    def close(self) -> None:
        """Stop following."""
        self._store.close()
        self._copy.close()
        self._bell.close()

    def _take(self, commit: Commit[None]) -> None:
        if commit.newest is not None:
            self._begin_anew(*commit.newest)
        entries = commit.entries
        if not entries:
            return
        if entries[0].sequence != self._copy.last + 1:  # the history was trimmed; workers see that themselves
            self._begin_anew(entries[0].sequence - 1, None)
        self._copy.append(entries)
        self._state.advance(self._copy.last)
        self._doorbell.ring()
        while surplus := self._copy.surplus():
            self._state.trim(surplus)
            self._copy.trim(surplus)

    def _note_lag(self) -> None:
        now = time.monotonic()
        self._state.note_lag(self._store.lag(now), now)

    def _begin_anew(self, last: int, event_id: str | None) -> None:
        self._state.begin_anew()
        self._copy.begin_anew(Seen(self._store.epoch, last, event_id))
        self._state.have_begun(last)
        self._doorbell.ring()

    def _discard(self) -> None:
        try:
            beginning = self._link.beginning(self._copy.last)
        except StorageError:
            return  # the engine is away, which others have noticed
        self._copy.discard(beginning)
