"""Discards what is too old, in bounded steps, and gives its space back to the file system.

Age goes by the wall clock, and a clock that is set ahead by a day makes the whole history a day old. The time
since the machine started does not jump, and includes sleep: where the two part, the wall clock was set.
"""

from __future__ import annotations

import json
import logging
import sqlite3
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple, Protocol

from mercure_hub.storage import trimming
from mercure_hub.storage.encoding import topic_hash
from mercure_hub.storage.interface import EVENTS_BYTES, EVENTS_MAX_AGE, GRACE, Retention
from mercure_hub.storage.rules import Rules
from mercure_hub.storage.sqlite import by_rules
from mercure_hub.storage.sqlite.by_rules import SqliteTables, in_force
from mercure_hub.storage.trimming import FEW, NEVER, RuleTrimmer, times_of

TOLERANCE = 60.0
"""Seconds by which the clock may be set without being doubted."""

DOUBT = 3600.0
"""Seconds after which a clock that was set is believed."""
_PAGES_TO_RETURN = 200
_log = logging.getLogger("mercure_hub.storage")


class Trimmer:
    """Discards what is too old: updates, and events of the hub.

    Of each kind only the beginning goes, and the database records how far that is: a reader could not tell
    that something is missing in the middle. Where there are rules, they discard the updates.

    :param retention: how much to keep.
    """

    def __init__(self, retention: Retention) -> None:
        self._retention = retention
        self._by_rules = RuleTrimmer(retention)
        self._first = 0  # the sequence before which there are no updates of publishers

    @property
    def rules(self) -> Rules:
        """The rules."""
        return self._by_rules.rules

    def step(self, connection: sqlite3.Connection, now: float, grace: float, *, by_age: bool = True) -> int:
        """Discard one step, in a transaction that writes.

        :param now: seconds since the epoch.
        :param grace: seconds for which everything stays: other processes read it here.
        :param by_age: also discard for its age.
        :returns: how many are gone, of that kind of which more are.
        """
        most = self._retention.max_age or float("inf")
        oldest, oldest_event = (now - most, now - min(most, EVENTS_MAX_AGE)) if by_age else (NEVER, NEVER)
        if self._retention.rules:
            updates = self._by_rules.step(SqliteTables(connection), now, grace, by_age=by_age)
        elif self._retention.is_bounded and self._by_rules.is_in_force(in_force(connection)):
            updates = self._discard_updates(connection, now, grace, oldest)
        else:
            updates = 0
        return max(updates, self._discard_events(connection, now, grace, oldest_event))

    def _discard_updates(
        self, connection: sqlite3.Connection, now: float, grace: float, oldest: float
    ) -> int:
        size = self._retention.size
        last, events = connection.execute("SELECT last_sequence, events FROM mercure_position").fetchone()
        before = last - events - size if size else 0
        for limit in (FEW, trimming.STEP):  # mostly few go, and there may be thousands of events between them
            rows = _rows(connection.execute(_OLDEST_UPDATES, (self._first, limit)))
            old = _beginning(
                rows,
                now,
                grace,
                lambda row, time: row.sequence - row.events <= before or time < oldest,
            )
            if len(old) < limit and not (rows and rows[-1].published_at > now):
                break  # else the clock was ahead, and what came after it tells how old these are
        if old:
            _discard(connection, "updates_gone", old)
        if len(old) < len(rows):
            self._first = rows[len(old)].sequence
        elif len(rows) < limit:
            self._first = last + 1
        return len(old)

    def _discard_events(self, connection: sqlite3.Connection, now: float, grace: float, oldest: float) -> int:
        newest = connection.execute(_NEWEST_EVENT).fetchone()
        if newest is None:
            return 0
        old = _beginning(
            _rows(connection.execute(_OLDEST_EVENTS, (trimming.STEP,))),
            now,
            grace,
            lambda row, time: newest[0] - row.events >= EVENTS_BYTES or time < oldest,
        )
        if old:
            _discard(connection, "events_gone", old)
        return len(old)


class _Row(NamedTuple):
    """What retention reads of an update.

    ``events`` is how many events there are before it, or the size of all events up to it if it is one.
    """

    sequence: int
    topics: str
    published_at: float
    events: int


def _rows(cursor: sqlite3.Cursor) -> list[_Row]:
    return [_Row(*columns) for columns in cursor.fetchall()]


def _beginning(
    rows: Sequence[_Row], now: float, grace: float, is_too_old: Callable[[_Row, float], bool]
) -> Sequence[_Row]:
    """The rows before the first one that stays.

    :param is_too_old: takes a row, and the time of its publication.
    """
    times = times_of([row.published_at for row in rows], now)
    stays = (
        place
        for place, (row, time) in enumerate(zip(rows, times, strict=True))
        if time > now - grace or not is_too_old(row, time)
    )
    return rows[: next(stays, len(rows))]


def _discard(connection: sqlite3.Connection, gone: str, rows: Sequence[_Row]) -> None:
    """Discard the beginning of a kind.

    :param gone: the column that says how far it is discarded.
    """
    connection.execute(
        f"UPDATE mercure_position SET {gone} = max({gone}, ?)",  # noqa: S608 - constants
        (rows[-1].sequence,),
    )
    delete(connection, rows)


def count(connection: sqlite3.Connection) -> int:
    """How many updates of publishers there are, with those in the middle that were discarded on demand."""
    last, events, gone = connection.execute(
        "SELECT last_sequence, events, updates_gone FROM mercure_position"
    ).fetchone()
    assigned, upto = by_rules.count(connection)
    if assigned:
        return assigned + _count_after(connection, upto, last, events)
    return _count_after(connection, gone, last, events)


def _count_after(connection: sqlite3.Connection, gone: int, last: int, events: int) -> int:
    first = connection.execute(
        "SELECT sequence, events_before FROM mercure_update WHERE sequence > ? ORDER BY sequence LIMIT 1",
        (gone,),
    ).fetchone()
    # An update or an event: the number of updates before it is the same.
    return 0 if first is None else int(last - events - (first[0] - first[1]) + 1)


class Discardable(Protocol):
    """What ``delete`` has to know of an update."""

    @property
    def sequence(self) -> int:
        """Its sequence."""

    @property
    def topics(self) -> str:
        """Its topics, encoded."""


def delete(connection: sqlite3.Connection, rows: Sequence[Discardable]) -> int:
    """Discard updates, in a transaction that writes.

    :param rows: at least one.
    :returns: how many were still there.
    """
    connection.executemany(
        "DELETE FROM mercure_topic WHERE topic_hash = ? AND sequence = ?",
        [(topic_hash(value), row.sequence) for row in rows for value in json.loads(row.topics)],
    )
    sequences = [(row.sequence,) for row in rows]
    return connection.executemany("DELETE FROM mercure_update WHERE sequence = ?", sequences).rowcount


def note_beginning(connection: sqlite3.Connection) -> None:
    """Take note of updates that were discarded on demand from the beginning, in a transaction that writes."""
    (begins,) = connection.execute(
        "SELECT min(sequence) FROM mercure_update WHERE event_bytes IS NULL"
    ).fetchone()
    if begins is None:
        begins = connection.execute("SELECT last_sequence FROM mercure_position").fetchone()[0] + 1
    connection.execute("UPDATE mercure_position SET updates_gone = ?1 WHERE updates_gone < ?1", (begins - 1,))


def return_space(connection: sqlite3.Connection) -> None:
    """Give some free pages of an SQLite file back to the file system."""
    # Each step of this statement frees one page and returns a row without columns, so that execute()
    # takes one step only (fetchall() takes the others from Python 3.12 on). A script runs to its end.
    connection.executescript(f"PRAGMA incremental_vacuum({_PAGES_TO_RETURN})").close()


_OLDEST_UPDATES = """
    SELECT sequence, topics, published_at, events_before FROM mercure_update
    WHERE event_bytes IS NULL AND sequence >= ? ORDER BY sequence LIMIT ?
"""
_OLDEST_EVENTS = """
    SELECT sequence, topics, published_at, event_bytes FROM mercure_update
    WHERE event_bytes IS NOT NULL ORDER BY sequence LIMIT ?
"""
_NEWEST_EVENT = """
    SELECT event_bytes FROM mercure_update WHERE event_bytes IS NOT NULL ORDER BY sequence DESC LIMIT 1
"""


class Trim(Enum):
    """What may be discarded."""

    ALL = "by number and by age"
    BY_NUMBER = "by number only"
    NOTHING = "nothing: it cannot be told what others have read"


@dataclass(frozen=True, slots=True)
class Belief:
    """What is thought of the wall clock. An offset is its time less that since the machine started.

    :param believed: the offset that is believed.
    :param seen: the offset at the last look.
    :param doubted_since: time since the start of the machine, in seconds, at which the clock was set;
        ``None`` while it is believed.
    :param set_at: the same for the last time that it was set, also when it was set back to what it was.
    """

    believed: float
    seen: float
    doubted_since: float | None = None
    set_at: float = float("-inf")

    def allows(self, boot: float, grace: float) -> Trim:
        """What may be discarded now.

        :param boot: seconds since the start of the machine.
        :param grace: seconds for which updates stay for other processes.
        """
        if boot - self.set_at < grace:  # what was stamped before looks older than it is, or younger
            return Trim.NOTHING
        return Trim.ALL if self.doubted_since is None else Trim.BY_NUMBER


def believed(offset: float) -> Belief:
    """Believe the wall clock as it is.

    :param offset: its time less that since the start of the machine.
    """
    return Belief(offset, offset)


def look(belief: Belief, wall: float, boot: float) -> Belief:
    """Compare the clocks.

    :param wall: seconds since the epoch.
    :param boot: seconds since the start of the machine, with those in which it slept.
    """
    offset = wall - boot
    is_set = abs(offset - belief.seen) > TOLERANCE
    set_at = boot if is_set else belief.set_at
    if abs(offset - belief.believed) <= TOLERANCE:
        return Belief(offset, offset, None, set_at)
    since = boot if is_set or belief.doubted_since is None else belief.doubted_since
    if boot - since >= DOUBT:
        return Belief(offset, offset, None, set_at)
    return Belief(belief.believed, offset, since, set_at)


class ClockWatch:
    """Watches the wall clock, and says what may be discarded by it.

    :param clock: returns seconds since the epoch.
    :param boot: returns seconds since the start of the machine, including sleep.
    :param offset: by how much ``clock`` is ahead of ``boot`` when it is right; by default by as much as now.
    """

    def __init__(self, clock: Callable[[], float], boot: Callable[[], float], offset: float | None) -> None:
        self._clock = clock
        self._boot = boot
        self._belief = believed(clock() - boot() if offset is None else offset)
        self._is_trusted = False

    def trust(self) -> None:
        """Believe the clock as it is at the next look."""
        self._is_trusted = True

    def allowed(self) -> Trim:
        """Look at the clock, and log whether it was set."""
        boot, now = self._boot(), self._clock()
        before = self._belief
        if self._is_trusted:
            self._is_trusted = False
            before = believed(now - boot)
        self._belief = look(before, now, boot)
        if self._belief.doubted_since is None:
            if before.doubted_since is not None:
                _log.info("updates are discarded by their age again")
        elif self._belief.doubted_since != before.doubted_since:
            _log.error(
                "the clock was set by %+.0f s; for an hour no updates are discarded by their age: "
                "correct the clock, or reload the hub (SIGHUP) if it is right now",
                self._belief.seen - self._belief.believed,
            )
        return self._belief.allows(boot, GRACE)


def since_boot() -> float:
    """Seconds since the machine started, with those in which it slept."""
    # The monotonic clock of other systems goes on in sleep.
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
