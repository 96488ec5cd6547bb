"""Retention by rules in SQLite: which updates are assigned to them, and what is known of those gone."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from mercure_hub.storage import trimming
from mercure_hub.storage.encoding import decoded_topics, topic_hash
from mercure_hub.storage.rules import REST, Rules
from mercure_hub.storage.trimming import RuleState, Stored

_GROUPS = 1000  # numbers of rules for one generation of them

_STATE = "SELECT rules, generation, assigned FROM mercure_retention"
_COUNTS = "SELECT updates FROM mercure_rule ORDER BY number"
_UNASSIGNED = """
    SELECT sequence, id, topics, published_at FROM mercure_update
    WHERE event_bytes IS NULL AND sequence > ? ORDER BY sequence LIMIT ?
"""
_NTH = """
    SELECT sequence FROM mercure_topic WHERE topic_hash = ? AND sequence <= ?
    ORDER BY sequence DESC LIMIT 1 OFFSET ?
"""
_STORED = "SELECT sequence, id, topics, published_at FROM mercure_update WHERE sequence = ?"
_OLDEST = """
    SELECT a.sequence, u.id, u.topics, u.published_at
    FROM mercure_assigned a LEFT JOIN mercure_update u ON u.sequence = a.sequence
    WHERE a.rule = ? ORDER BY a.sequence LIMIT ?
"""
_EARLIER = """
    DELETE FROM mercure_assigned WHERE (rule, sequence) IN (
        SELECT rule, sequence FROM mercure_assigned WHERE rule < ? LIMIT ?
    )
"""
_UNASSIGN = "DELETE FROM mercure_assigned WHERE rule = ? AND sequence = ?"


def declare(connection: sqlite3.Connection, rules: Rules) -> None:
    """Put rules in force, in a transaction that writes, unless they are.

    Which updates earlier rules have discarded stays known by their topics, but not by the rules.
    """
    before, generation = connection.execute("SELECT rules, generation FROM mercure_retention").fetchone()
    if before == rules.text:
        return
    connection.execute(
        "UPDATE mercure_retention SET rules = ?, generation = ?, assigned = 0, before = ?, "
        "rest_before = (SELECT updates_gone FROM mercure_position)",
        (rules.text, generation + 1, newest_gone(connection)),
    )
    connection.execute("DELETE FROM mercure_rule")
    if rules.rules:
        connection.executemany(
            "INSERT INTO mercure_rule (number, updates, gone, strays) VALUES (?, 0, 0, 0)",
            [(number,) for number in range(len(rules.rules) + 1)],
        )


def in_force(connection: sqlite3.Connection) -> str:
    """The text of the rules that are in force."""
    return str(connection.execute("SELECT rules FROM mercure_retention").fetchone()[0])


class SqliteTables:
    """Implements ``Tables``.

    :param connection: in a transaction that writes.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._generation = 0

    def state(self) -> RuleState:
        """The row of retention, and those of the rules."""
        rules, self._generation, assigned = self._connection.execute(_STATE).fetchone()
        counts = [count for (count,) in self._connection.execute(_COUNTS)]
        return RuleState(rules, assigned, counts)

    def _group(self, number: int) -> int:
        return self._generation * _GROUPS + number

    def clear(self, limit: int) -> int:
        """Those of earlier generations."""
        return self._connection.execute(_EARLIER, (self._group(0), limit)).rowcount

    def unassigned(self, after: int, limit: int) -> list[Stored]:
        """The rows after it."""
        return [_stored(row) for row in self._connection.execute(_UNASSIGNED, (after, limit))]

    def assign(self, rows: Sequence[tuple[int, int]]) -> None:
        """Insert them, and count them."""
        self._connection.executemany(
            "INSERT INTO mercure_assigned (rule, sequence) VALUES (?, ?)",
            [(self._group(number), sequence) for number, sequence in rows],
        )
        numbers = [number for number, _ in rows]
        for number in set(numbers):
            self._count(number, numbers.count(number))
        self._connection.execute("UPDATE mercure_retention SET assigned = ?", (rows[-1][1],))

    def nth(self, wanted: Sequence[tuple[int, int, int]]) -> list[int | None]:
        """A look-up in the index of topics for each."""
        found = []
        for one in wanted:
            row = self._connection.execute(_NTH, one).fetchone()
            found.append(None if row is None else row[0])
        return found

    def stored(self, sequences: Sequence[int]) -> list[Stored]:
        """A look-up for each."""
        rows = (self._connection.execute(_STORED, (one,)).fetchone() for one in sequences)
        return [_stored(row) for row in rows if row is not None]

    def oldest(self, number: int, limit: int) -> list[tuple[int, Stored | None]]:
        """From the index of rules."""
        rows = self._connection.execute(_OLDEST, (self._group(number), limit)).fetchall()
        return [(row[0], None if row[1] is None else _stored(row)) for row in rows]

    def forget(self, number: int, sequences: Sequence[int]) -> None:
        """Delete them from the index of rules."""
        group = self._group(number)
        self._connection.executemany(_UNASSIGN, [(group, sequence) for sequence in sequences])
        self._count(number, -len(sequences))

    def discard(self, number: int, rows: Sequence[Stored], strays: int) -> None:
        """Delete the rows; of those of rules the positions and the topics stay known for a while."""
        connection = self._connection
        topics = [(topic_hash(topic), row.sequence) for row in rows for topic in row.topics]
        connection.executemany("DELETE FROM mercure_topic WHERE topic_hash = ? AND sequence = ?", topics)
        connection.executemany(
            "DELETE FROM mercure_update WHERE sequence = ?", [(row.sequence,) for row in rows]
        )
        self.forget(number, [row.sequence for row in rows])
        newest = max(row.sequence for row in rows)
        if number == REST:
            connection.execute("UPDATE mercure_position SET updates_gone = max(updates_gone, ?)", (newest,))
            return
        connection.execute(
            "UPDATE mercure_rule SET gone = max(gone, ?), strays = max(strays, ?) WHERE number = ?",
            (newest, strays, number),
        )
        self._remember(rows)

    def _remember(self, rows: Sequence[Stored]) -> None:
        connection = self._connection
        (discards,) = connection.execute("SELECT discards FROM mercure_retention").fetchone()
        connection.executemany(
            "INSERT INTO mercure_past (number, sequence, id) VALUES (?, ?, ?)",
            [(number, row.sequence, row.id) for number, row in enumerate(rows, discards + 1)],
        )
        newest: dict[int, tuple[int, int]] = {}
        for number, row in enumerate(rows, discards + 1):
            for topic in row.topics:
                newest[topic_hash(topic)] = row.sequence, number
        discards += len(rows)
        connection.executemany(
            "INSERT INTO mercure_gone (topic_hash, sequence, number) VALUES (?, ?, ?) "
            "ON CONFLICT (topic_hash) DO UPDATE SET sequence = max(sequence, excluded.sequence), "
            "number = excluded.number",
            [(hashed, *values) for hashed, values in newest.items()],
        )
        last = (discards - trimming.REMEMBERED,)
        connection.execute("DELETE FROM mercure_past WHERE number <= ?", last)
        connection.execute(
            "UPDATE mercure_retention SET discards = ?, forgotten = max(forgotten, "
            "(SELECT coalesce(max(sequence), 0) FROM mercure_gone WHERE number <= ?))",
            (discards, *last),
        )
        connection.execute("DELETE FROM mercure_gone WHERE number <= ?", last)

    def _count(self, number: int, more: int) -> None:
        self._connection.execute(
            "UPDATE mercure_rule SET updates = updates + ? WHERE number = ?", (more, number)
        )


def count(connection: sqlite3.Connection) -> tuple[int, int]:
    """How many updates are assigned to rules and the rest, and up to which sequence.

    While rules are new, those after it are not all counted.
    """
    return connection.execute(  # type: ignore[no-any-return]
        "SELECT coalesce((SELECT sum(updates) FROM mercure_rule), 0), assigned FROM mercure_retention"
    ).fetchone()


def newest_gone(connection: sqlite3.Connection) -> int:
    """Sequence of the newest update that rules have discarded; 0: there is none."""
    (newest,) = connection.execute(
        "SELECT max(before, (SELECT coalesce(max(gone), 0) FROM mercure_rule WHERE number > 0)) "
        "FROM mercure_retention"
    ).fetchone()
    return int(newest)


def unassign(connection: sqlite3.Connection, sequences: Sequence[int]) -> None:
    """Take updates that are discarded on demand out of the rules, in a transaction that writes."""
    rules, generation = connection.execute("SELECT rules, generation FROM mercure_retention").fetchone()
    if not rules:
        return
    for (number,) in connection.execute("SELECT number FROM mercure_rule").fetchall():
        group = generation * _GROUPS + number
        gone = connection.executemany(_UNASSIGN, [(group, sequence) for sequence in sequences]).rowcount
        connection.execute("UPDATE mercure_rule SET updates = updates - ? WHERE number = ?", (gone, number))


def _stored(row: Sequence[object]) -> Stored:
    sequence, id_, topics, published_at = row
    assert isinstance(sequence, int)
    assert isinstance(published_at, float)
    return Stored(sequence, str(id_), decoded_topics(str(topics)), published_at)
