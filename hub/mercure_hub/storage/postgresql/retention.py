"""Discards what is too old by the server's clock, in bounded steps; one process at a time does it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID

from mercure_hub.storage import trimming
from mercure_hub.storage.encoding import decoded_topics, topic_hash
from mercure_hub.storage.interface import EVENTS_BYTES, EVENTS_MAX_AGE, SHARED_GRACE, Retention
from mercure_hub.storage.postgresql.by_rules import PostgresqlTables
from mercure_hub.storage.postgresql.connection import Connection, Rows, bigints
from mercure_hub.storage.postgresql.schema import DISCARD_LOCK
from mercure_hub.storage.rules import Rules
from mercure_hub.storage.trimming import RuleTrimmer

# A process that has left said so: nothing is kept for it.
_STATE = """
    SELECT p.last_sequence, p.events, p.event_bytes, d.updates_gone,
        extract(epoch FROM clock_timestamp())::double precision + %(ahead)s,
        EXISTS (
            SELECT FROM mercure_node n WHERE n.id <> %(node)s
            AND n.expires > clock_timestamp() + make_interval(secs => %(ahead)s - %(grace)s)
        ), r.rules
    FROM mercure_position p, mercure_discarded d, mercure_retention r
"""
_UPDATES = """
    SELECT sequence, topics, published_at, events_before FROM mercure_update
    WHERE event_bytes IS NULL AND sequence > %(after)s ORDER BY sequence LIMIT %(limit)s
"""
_EVENTS = """
    SELECT sequence, topics, published_at, event_bytes FROM mercure_update
    WHERE event_bytes IS NOT NULL ORDER BY sequence LIMIT %(limit)s
"""
DISCARD_TOPICS = """
    DELETE FROM mercure_topic t USING unnest(%(hashes)s, %(sequences)s) gone(hash, sequence)
    WHERE t.topic_hash = gone.hash AND t.sequence = gone.sequence
"""
"""Takes hashes, and as many sequences, out of the index of topics."""
_DISCARD = """
    DELETE FROM mercure_update WHERE sequence >= %(first)s AND sequence <= %(last)s
    AND (event_bytes IS NOT NULL) = %(are_events)s
"""
_NOTE = "UPDATE mercure_discarded SET {} = greatest({}, %(last)s)"
_NOTE_UPDATES, _NOTE_EVENTS = (_NOTE.format(name, name) for name in ("updates_gone", "events_gone"))


class Trimmer:
    """Discards updates, and events of the hub.

    Of each kind only the beginning goes, and the database records how far that is: a reader could not tell
    that something is missing in the middle. Where there are rules, they discard the updates.

    :param retention: how much to keep.
    :param ahead: seconds by which the server's clock counts as fast.
    """

    def __init__(self, retention: Retention, ahead: Callable[[], float]) -> None:
        self._retention = retention
        self._ahead = ahead
        self._by_rules = RuleTrimmer(retention)
        self._first = 0  # the sequence up to which there are no updates of publishers

    @property
    def rules(self) -> Rules:
        """The rules."""
        return self._by_rules.rules

    def step(self, connection: Connection, node: UUID) -> int:
        """Discard one step, in a transaction; nothing while another process does.

        :param node: this process.
        :returns: how many are gone, of that kind of which more are.
        """
        with connection.transaction():
            ((is_alone,),) = connection.ask(f"SELECT pg_try_advisory_xact_lock({DISCARD_LOCK})")
            if not is_alone:
                return 0
            values = {"node": node, "ahead": self._ahead(), "grace": SHARED_GRACE}
            ((last, events, event_bytes, gone, now, has_others, text),) = connection.ask(_STATE, values)
            kept, grace = self._retention, SHARED_GRACE if has_others else 0.0
            most = kept.max_age or float("inf")
            discarded, first = 0, self._first
            if kept.rules:
                discarded = self._by_rules.step(PostgresqlTables(connection), now, grace, by_age=True)
            elif kept.is_bounded and self._by_rules.is_in_force(text):
                before = last - events - kept.size if kept.size else 0
                rows = connection.ask(_UPDATES, {"after": max(first, gone), "limit": trimming.STEP})
                old = _beginning(
                    rows, now, grace, lambda row, time: row[0] - row[3] <= before or time < now - most
                )
                _discard(connection, _NOTE_UPDATES, old, are_events=False)
                discarded = len(old)
                if not rows:
                    first = last
                elif discarded < len(rows):
                    first = rows[discarded][0] - 1
            oldest_event = now - min(most, EVENTS_MAX_AGE)
            old = _beginning(
                connection.ask(_EVENTS, {"limit": trimming.STEP}),
                now,
                grace,
                lambda row, time: event_bytes - row[3] >= EVENTS_BYTES or time < oldest_event,
            )
            _discard(connection, _NOTE_EVENTS, old, are_events=True)
        self._first = first  # what was discarded may be there again until the commit
        return max(discarded, len(old))


def _beginning(
    rows: Rows, now: float, grace: float, is_too_old: Callable[[Sequence[Any], float], bool]
) -> Rows:
    """The rows before the first one that stays.

    :param is_too_old: takes a row, and the time of its publication.
    """
    times, latest = [], now
    for row in reversed(rows):  # one that was stamped by a fast clock is as old as the one after it
        latest = min(latest, row[2])
        times.append(latest)
    for count, (row, time) in enumerate(zip(rows, reversed(times), strict=True)):
        if time > now - grace or not is_too_old(row, time):
            return rows[:count]
    return rows


def _discard(connection: Connection, note: str, rows: Rows, *, are_events: bool) -> None:
    if not rows:
        return
    topics = [(topic_hash(value), row[0]) for row in rows for value in decoded_topics(row[1])]
    bounds = {"first": rows[0][0], "last": rows[-1][0], "are_events": are_events}
    connection.ask_all(
        [
            (note, {"last": rows[-1][0]}),
            (
                DISCARD_TOPICS,
                {
                    "hashes": bigints([hashed for hashed, _ in topics]),
                    "sequences": bigints([sequence for _, sequence in topics]),
                },
            ),
            (_DISCARD, bounds),
        ]
    )
