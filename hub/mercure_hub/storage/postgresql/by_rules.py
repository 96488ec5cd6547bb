"""Retention by rules in PostgreSQL: which updates are assigned to them, and what is known of those gone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mercure_hub.storage import trimming
from mercure_hub.storage.encoding import decoded_topics, topic_hash
from mercure_hub.storage.interface import Discarded
from mercure_hub.storage.postgresql.connection import Connection, bigints, texts
from mercure_hub.storage.postgresql.schema import MIGRATION_LOCK
from mercure_hub.storage.rules import REST, Rules
from mercure_hub.storage.trimming import RuleState, Stored

_GROUPS = 1000  # numbers of rules for one generation of them

_STATE = """
    SELECT rules, generation, assigned, discards,
        ARRAY(SELECT updates FROM mercure_rule ORDER BY number) FROM mercure_retention
"""
_UNASSIGNED = """
    SELECT sequence, id, topics, published_at FROM mercure_update
    WHERE event_bytes IS NULL AND sequence > %(after)s ORDER BY sequence LIMIT %(limit)s
"""
_ASSIGN = """
    INSERT INTO mercure_assigned SELECT * FROM unnest(%(groups)s, %(sequences)s) ON CONFLICT DO NOTHING
"""
_ASSIGNED = "UPDATE mercure_retention SET assigned = %(upto)s"
_COUNT = "UPDATE mercure_rule SET updates = updates + %(more)s WHERE number = %(number)s"
_NTH = """
    SELECT (
        SELECT t.sequence FROM mercure_topic t WHERE t.topic_hash = w.hash AND t.sequence <= w.upto
        ORDER BY t.topic_hash DESC, t.sequence DESC LIMIT 1 OFFSET w.skipped
    ) FROM unnest(%(hashes)s, %(uptos)s, %(skipped)s) WITH ORDINALITY w(hash, upto, skipped, number)
    ORDER BY w.number
"""
_STORED = """
    SELECT sequence, id, topics, published_at FROM mercure_update
    WHERE sequence = ANY(%(sequences)s) ORDER BY sequence
"""
_OLDEST = """
    SELECT a.sequence, u.id, u.topics, u.published_at FROM (
        SELECT sequence FROM mercure_assigned WHERE rule = %(group)s ORDER BY rule, sequence LIMIT %(limit)s
    ) a LEFT JOIN mercure_update u ON u.sequence = a.sequence ORDER BY a.sequence
"""
_EARLIER = """
    WITH gone AS (
        DELETE FROM mercure_assigned a USING (
            SELECT rule, sequence FROM mercure_assigned WHERE rule < %(group)s
            ORDER BY rule, sequence LIMIT %(limit)s
        ) e WHERE a.rule = e.rule AND a.sequence = e.sequence RETURNING 1
    ) SELECT count(*) FROM gone
"""
_UNASSIGN = "DELETE FROM mercure_assigned WHERE rule = %(group)s AND sequence = ANY(%(sequences)s)"
_DISCARD_TOPICS = """
    DELETE FROM mercure_topic t USING unnest(%(hashes)s, %(sequences)s) gone(hash, sequence)
    WHERE t.topic_hash = gone.hash AND t.sequence = gone.sequence
"""
_DISCARD = "DELETE FROM mercure_update WHERE sequence = ANY(%(sequences)s)"
_NOTE_REST = "UPDATE mercure_discarded SET updates_gone = greatest(updates_gone, %(newest)s)"
_NOTE_RULE = """
    UPDATE mercure_rule SET gone = greatest(gone, %(newest)s), strays = greatest(strays, %(strays)s)
    WHERE number = %(number)s
"""
_REMEMBER = """
    INSERT INTO mercure_past SELECT * FROM unnest(%(numbers)s, %(sequences)s, %(hashes)s, %(ids)s)
"""
_REMEMBER_TOPICS = """
    INSERT INTO mercure_gone AS g SELECT * FROM unnest(%(hashes)s, %(sequences)s, %(numbers)s)
    ON CONFLICT (topic_hash) DO UPDATE
    SET sequence = greatest(g.sequence, excluded.sequence), number = excluded.number
"""
_FORGET = """
    UPDATE mercure_retention SET discards = %(discards)s, forgotten = greatest(
        forgotten, (SELECT max(sequence) FROM mercure_gone WHERE number <= %(last)s)
    )
"""
_FORGET_PAST = "DELETE FROM mercure_past WHERE number <= %(last)s"
_FORGET_GONE = "DELETE FROM mercure_gone WHERE number <= %(last)s"

_GONE = "greatest(before, (SELECT max(gone) FROM mercure_rule WHERE number > 0))"
_DECLARE = f"""
    UPDATE mercure_retention SET rules = %(rules)s, generation = generation + 1, assigned = 0,
        before = {_GONE}, rest_before = (SELECT updates_gone FROM mercure_discarded)
"""  # noqa: S608 - constants
_NEW_RULES = "INSERT INTO mercure_rule SELECT number, 0, 0, 0 FROM unnest(%(numbers)s) number"

NEWEST_GONE = f"SELECT {_GONE} FROM mercure_retention"  # noqa: S608 - constants
"""The newest update that rules have discarded."""

UNASSIGN = f"""
    WITH gone AS (
        DELETE FROM mercure_assigned a USING mercure_rule r, mercure_retention t
        WHERE a.rule = t.generation * {_GROUPS} + r.number AND a.sequence = ANY(%(sequences)s)
        RETURNING r.number
    )
    UPDATE mercure_rule r SET updates = r.updates - g.count
    FROM (SELECT number, count(*) FROM gone GROUP BY number) g WHERE r.number = g.number
"""  # noqa: S608 - constants
"""Takes updates that are discarded on demand out of the rules."""

BEGINNING = """
    SELECT d.updates_gone, d.events_gone, (SELECT min(sequence) FROM mercure_update),
        CASE WHEN r.rules <> '' OR r.discards > 0 THEN r.rules END,
        ARRAY(SELECT gone FROM mercure_rule WHERE number > 0 ORDER BY number),
        ARRAY(SELECT strays FROM mercure_rule WHERE number > 0 ORDER BY number),
        r.rest_before, r.before, r.forgotten
    FROM mercure_discarded d, mercure_retention r
"""
"""Where the history begins; ``discarded`` takes the columns from the fourth on."""

OF_TOPICS = "SELECT coalesce(max(sequence), 0) FROM mercure_gone WHERE topic_hash = ANY(%(hashes)s)"
"""The newest that rules have discarded of some topics, given as hashes."""


def discarded(columns: Sequence[Any], of_topics: int) -> Discarded | None:
    """What rules have discarded, if anything.

    :param columns: of ``BEGINNING``.
    :param of_topics: of the topics that were asked for.
    """
    rules, gone, strays, rest_before, before, forgotten = columns
    if rules is None:
        return None
    return Discarded(rules, tuple(zip(gone, strays, strict=True)), rest_before, before, of_topics, forgotten)


def declare(connection: Connection, rules: Rules) -> None:
    """Put rules in force, unless they are; see ``sqlite.by_rules.declare``."""
    ((before,),) = connection.ask("SELECT rules FROM mercure_retention")
    if before == rules.text:
        return
    with connection.transaction():
        connection.ask(f"SELECT pg_advisory_xact_lock({MIGRATION_LOCK})")
        ((before,),) = connection.ask("SELECT rules FROM mercure_retention FOR UPDATE")
        if before == rules.text:
            return
        connection.ask(_DECLARE, {"rules": rules.text})
        connection.ask("DELETE FROM mercure_rule")
        if rules.rules:
            connection.ask(_NEW_RULES, {"numbers": bigints(range(len(rules.rules) + 1))})


class PostgresqlTables:
    """Implements ``Tables``.

    :param connection: in a transaction.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._generation = self._discards = 0

    def state(self) -> RuleState:
        """The row of retention, and those of the rules."""
        ((rules, self._generation, assigned, self._discards, counts),) = self._connection.ask(_STATE)
        return RuleState(rules, assigned, list(counts))

    def _group(self, number: int) -> int:
        return self._generation * _GROUPS + number

    def clear(self, limit: int) -> int:
        """Those of earlier generations."""
        ((count,),) = self._connection.ask(_EARLIER, {"group": self._group(0), "limit": limit})
        return int(count)

    def unassigned(self, after: int, limit: int) -> list[Stored]:
        """The rows after it."""
        return list(map(_stored, self._connection.ask(_UNASSIGNED, {"after": after, "limit": limit})))

    def assign(self, rows: Sequence[tuple[int, int]]) -> None:
        """Insert them, and count them."""
        numbers = [number for number, _ in rows]
        values = {
            "groups": bigints([self._group(number) for number in numbers]),
            "sequences": bigints([sequence for _, sequence in rows]),
        }
        self._connection.ask_all(
            [
                (_ASSIGN, values),
                (_ASSIGNED, {"upto": rows[-1][1]}),
                *((_COUNT, {"more": numbers.count(one), "number": one}) for one in sorted(set(numbers))),
            ]
        )

    def nth(self, wanted: Sequence[tuple[int, int, int]]) -> list[int | None]:
        """One statement."""
        hashes, uptos, skipped = zip(*wanted, strict=True)
        values = {"hashes": bigints(hashes), "uptos": bigints(uptos), "skipped": bigints(skipped)}
        return [sequence for (sequence,) in self._connection.ask(_NTH, values)]

    def stored(self, sequences: Sequence[int]) -> list[Stored]:
        """One statement."""
        return list(map(_stored, self._connection.ask(_STORED, {"sequences": bigints(sequences)})))

    def oldest(self, number: int, limit: int) -> list[tuple[int, Stored | None]]:
        """From the index of rules."""
        rows = self._connection.ask(_OLDEST, {"group": self._group(number), "limit": limit})
        return [(row[0], None if row[1] is None else _stored(row)) for row in rows]

    def forget(self, number: int, sequences: Sequence[int]) -> None:
        """Delete them from the index of rules."""
        self._connection.ask_all(self._forgetting(number, sequences))

    def _forgetting(self, number: int, sequences: Sequence[int]) -> list[tuple[str, Any]]:
        return [
            (_UNASSIGN, {"group": self._group(number), "sequences": bigints(sequences)}),
            (_COUNT, {"more": -len(sequences), "number": number}),
        ]

    def discard(self, number: int, rows: Sequence[Stored], strays: int) -> None:
        """Delete the rows; of those of rules the positions and the topics stay known for a while."""
        sequences = [row.sequence for row in rows]
        topics = [(topic_hash(topic), row.sequence) for row in rows for topic in row.topics]
        newest = {"newest": max(sequences)}
        statements: list[tuple[str, Any]] = [
            (
                _DISCARD_TOPICS,
                {
                    "hashes": bigints([hashed for hashed, _ in topics]),
                    "sequences": bigints([sequence for _, sequence in topics]),
                },
            ),
            (_DISCARD, {"sequences": bigints(sequences)}),
            *self._forgetting(number, sequences),
        ]
        if number == REST:
            statements.append((_NOTE_REST, newest))
        else:
            statements.append((_NOTE_RULE, {**newest, "strays": strays, "number": number}))
            statements += self._remembering(rows)
        self._connection.ask_all(statements)

    def _remembering(self, rows: Sequence[Stored]) -> list[tuple[str, Any]]:
        numbers = range(self._discards + 1, self._discards + len(rows) + 1)
        self._discards += len(rows)
        newest = {
            topic_hash(topic): (row.sequence, number)
            for number, row in zip(numbers, rows, strict=True)
            for topic in row.topics
        }
        last = {"last": self._discards - trimming.REMEMBERED}
        return [
            (
                _REMEMBER,
                {
                    "numbers": bigints(numbers),
                    "sequences": bigints([row.sequence for row in rows]),
                    "hashes": bigints([topic_hash(row.id) for row in rows]),
                    "ids": texts([row.id for row in rows]),
                },
            ),
            (
                _REMEMBER_TOPICS,
                {
                    "hashes": bigints(list(newest)),
                    "sequences": bigints([sequence for sequence, _ in newest.values()]),
                    "numbers": bigints([number for _, number in newest.values()]),
                },
            ),
            (_FORGET_PAST, last),
            (_FORGET, {"discards": self._discards, **last}),
            (_FORGET_GONE, last),
        ]


def _stored(row: Sequence[Any]) -> Stored:
    sequence, id_, topics, published_at = row
    return Stored(sequence, id_, decoded_topics(topics), published_at)
