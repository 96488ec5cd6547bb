"""The history in a database of PostgreSQL."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import psycopg

from mercure_hub.protocol.revocation import MAX_REVOCATIONS, Revocation
from mercure_hub.protocol.update import Update
from mercure_hub.storage.address import Address
from mercure_hub.storage.encoding import decoded_topics, encoded_topics, topic_hash
from mercure_hub.storage.interface import SHARED_GRACE
from mercure_hub.storage.postgresql import by_rules
from mercure_hub.storage.postgresql.connection import (
    Connection,
    Connector,
    bigints,
    blobs,
    bools,
    texts,
)
from mercure_hub.storage.postgresql.retention import DISCARD_TOPICS
from mercure_hub.storage.postgresql.schema import (
    KNOWS_REVOCATIONS,
    KNOWS_RULES,
    STEPS,
    migrate,
    usable_version,
)
from mercure_hub.storage.postgresql.statements import REVOCATIONS
from mercure_hub.tools.history.history import (
    EXAMPLES,
    PAGE,
    STOP_ALL,
    HistoryError,
    Marks,
    Row,
    Selection,
    at_work,
    changed,
    topic_named,
)

_PATIENCE = 3600.0  # seconds for a statement: a command may count millions of rows
_PAGE_BYTES = 8 << 20  # of data in memory

_HUBS = "SELECT count(*) FROM mercure_node WHERE NOT dead AND expires > clock_timestamp()"
_NOW = "SELECT extract(epoch FROM clock_timestamp())::double precision"
_MARKS = """
    SELECT p.last_sequence, p.events, d.updates_gone, d.events_gone, p.event_bytes
    FROM mercure_position p, mercure_discarded d
"""
_COLUMNS = "id, topics, private, type, retry, published_at, events_before, event_bytes"
# Data is not read only to leave it out.
_ROWS = f"""
    SELECT sequence, {_COLUMNS}, data FROM (
        SELECT u.*, sum(octet_length(data)) OVER (ORDER BY sequence {{order}}) - octet_length(data) AS before
        FROM (
            SELECT * FROM mercure_update
            WHERE sequence > %(after)s AND sequence <= %(upto)s {{conditions}}
            ORDER BY sequence {{order}} LIMIT %(limit)s
        ) u
    ) u WHERE before < %(bytes)s ORDER BY sequence {{order}}
"""  # noqa: S608 - constants
_ROWS_WITHOUT_DATA = f"""
    SELECT sequence, {_COLUMNS}, ''::bytea FROM mercure_update
    WHERE sequence > %(after)s AND sequence <= %(upto)s {{conditions}}
    ORDER BY sequence {{order}} LIMIT %(limit)s
"""  # noqa: S608 - constants
_OF_TOPICS = "sequence IN (SELECT sequence FROM mercure_topic WHERE topic_hash = ANY(%(hashes)s))"

_DELETE = """
    WITH gone AS (DELETE FROM mercure_update WHERE sequence = ANY(%(sequences)s) RETURNING 1)
    SELECT count(*) FROM gone
"""
_NOTE_BEGINNING = """
    UPDATE mercure_discarded SET updates_gone = greatest(updates_gone, coalesce(
        (SELECT min(sequence) FROM mercure_update WHERE event_bytes IS NULL),
        (SELECT last_sequence + 1 FROM mercure_position)
    ) - 1)
"""

_LOCK = "LOCK TABLE mercure_node IN SHARE ROW EXCLUSIVE MODE"
_KNOWN = """
    SELECT id FROM mercure_update
    WHERE id_hash = ANY(%(hashes)s) AND id = ANY(%(ids)s) AND sequence <= %(upto)s
"""
_INSERT = """
    INSERT INTO mercure_update (
        sequence, id_hash, id, topics, data, private, type, retry, published_at, events_before, event_bytes
    )
    SELECT s, h, i, t, d, p, y, r, a::double precision, b, e
    FROM unnest(
        %(sequences)s, %(hashes)s, %(ids)s, %(topics)s, %(data)s, %(private)s, %(types)s, %(retries)s,
        %(times)s, %(before)s, %(bytes)s
    ) x(s, h, i, t, d, p, y, r, a, b, e)
"""
_INSERT_TOPICS = "INSERT INTO mercure_topic SELECT * FROM unnest(%(hashes)s, %(sequences)s)"
_SET_POSITION = """
    UPDATE mercure_position SET last_sequence = %(last)s, events = %(events)s, event_bytes = %(bytes)s
"""
_SET_DISCARDED = """
    UPDATE mercure_discarded SET updates_gone = %(updates_gone)s, events_gone = %(events_gone)s
"""

_COUNT = """
    SELECT count(*) FILTER (WHERE event_bytes IS NULL),
        coalesce(sum(octet_length(data)) FILTER (WHERE event_bytes IS NULL), 0)::bigint,
        count(*) FILTER (WHERE event_bytes IS NULL AND private),
        min(sequence) FILTER (WHERE event_bytes IS NULL), max(sequence) FILTER (WHERE event_bytes IS NULL),
        count(event_bytes),
        coalesce(sum(octet_length(data)) FILTER (WHERE event_bytes IS NOT NULL), 0)::bigint
    FROM mercure_update
"""
_END = "SELECT id, published_at FROM mercure_update WHERE sequence = %(sequence)s"
_SIZES = """
    SELECT name, pg_total_relation_size(name::regclass)
    FROM unnest(ARRAY['mercure_update', 'mercure_topic', 'mercure_presence']) name
"""
_MOST = """
    SELECT topic_hash, count(*) FROM mercure_topic GROUP BY topic_hash ORDER BY 2 DESC, 1 LIMIT %(top)s
"""
_TOPIC_BYTES = """
    SELECT coalesce(sum(octet_length(data)), 0)::bigint FROM mercure_update
    WHERE sequence IN (SELECT sequence FROM mercure_topic WHERE topic_hash = %(hash)s)
"""
_TOPIC_EXAMPLES = """
    SELECT topics FROM mercure_update
    WHERE sequence IN (SELECT sequence FROM mercure_topic WHERE topic_hash = %(hash)s) LIMIT %(limit)s
"""


class PostgresqlHistory:
    """Implements ``History``.

    :param connection: to the database.
    :param name: of the database in words.
    :param version: of its tables.
    """

    def __init__(self, connection: Connection, name: str, version: int) -> None:
        self._connection = connection
        self._name = name
        self._version = version

    @property
    def name(self) -> str:
        """The database in words, without credentials."""
        return self._name

    def hubs(self) -> int:
        """Those whose leases have not expired."""
        ((count,),) = self._connection.ask(_HUBS)
        return int(count)

    def grace(self) -> float:
        """Some minutes while a hub is at work: it may be on another machine."""
        return SHARED_GRACE if self.hubs() else 0.0

    def now(self) -> float:
        """The time of the server."""
        ((seconds,),) = self._connection.ask(_NOW)
        return float(seconds)

    def marks(self) -> Marks:
        """The rows of the position and of what was discarded; for rules as if it was the beginning."""
        ((*columns, _),) = self._connection.ask(_MARKS)
        marks = Marks(*columns)
        if self._version < KNOWS_RULES:
            return marks
        ((gone,),) = self._connection.ask(by_rules.NEWEST_GONE)
        return replace(marks, updates_gone=max(marks.updates_gone, gone))

    def page(
        self, after: int, upto: int, selection: Selection, *, is_backward: bool = False, has_data: bool = True
    ) -> Iterator[Row]:
        """Several statements if the data is large; the caller may do something else between two rows."""
        conditions, values = _conditions(selection)
        statement = (_ROWS if has_data else _ROWS_WITHOUT_DATA).format(
            conditions=conditions, order="DESC" if is_backward else ""
        )
        count = 0
        while count < PAGE:
            bounds = {"after": after, "upto": upto, "limit": PAGE - count}
            if has_data:
                bounds["bytes"] = _PAGE_BYTES
            rows = self._connection.ask(statement, {**values, **bounds})
            if not rows:
                return
            count += len(rows)
            yield from map(_row, rows)
            if is_backward:
                upto = rows[-1][0] - 1
            else:
                after = rows[-1][0]

    def revocations(self) -> list[Revocation]:
        """One statement; tables of before know none."""
        if self._version < KNOWS_REVOCATIONS:
            return []
        rows = self._connection.ask(REVOCATIONS, {"after": 0, "limit": MAX_REVOCATIONS})
        return [Revocation(*columns) for *columns, _ in rows]

    def delete(self, rows: Sequence[Row]) -> int:
        """Discard updates in one transaction."""
        sequences = bigints([row.sequence for row in rows])
        with self._connection.transaction():
            self._connection.ask(DISCARD_TOPICS, _topics(rows))
            ((gone,),) = self._connection.ask(_DELETE, {"sequences": sequences})
            self._connection.ask(_NOTE_BEGINNING)
            if self._version >= KNOWS_RULES:
                self._connection.ask(by_rules.UNASSIGN, {"sequences": sequences})
        return int(gone)

    def return_space(self) -> None:
        """Do nothing: autovacuum does it."""

    @contextmanager
    def writing(self) -> Iterator[PostgresqlWriter]:
        """Lock the table in which hubs register while something is written: one that starts has to wait."""
        writer = PostgresqlWriter(self._connection, self._name)
        try:
            writer.begin()
            yield writer
            writer.commit()
        finally:
            with suppress(psycopg.Error):
                writer.end()

    def statistics(self, top: int) -> dict[str, Any]:
        """Count in one consistent reading."""
        ask = self._connection.ask
        with self._connection.transaction():
            ask("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            ((count, size, private, first, last, events, event_bytes),) = ask(_COUNT)
            marks = self.marks()
            return {
                "database": self._name,
                "version": self._version,
                "hubs": self.hubs(),
                "updates": count,
                "bytes": size,
                "private": private,
                "ever_published": marks.last - marks.events,
                "subscription_events": events,
                "subscription_event_bytes": event_bytes,
                "oldest": self._end(first),
                "newest": self._end(last),
                "sizes": {f"{name.removeprefix('mercure_')} table": taken for name, taken in ask(_SIZES)},
                "topics": [self._topic(hashed, number) for hashed, number in ask(_MOST, {"top": top})],
            }

    def _end(self, sequence: int | None) -> dict[str, Any] | None:
        if sequence is None:
            return None
        ((event_id, published_at),) = self._connection.ask(_END, {"sequence": sequence})
        return {"id": event_id, "published_at": published_at}

    def _topic(self, hashed: int, count: int) -> dict[str, Any]:
        ((size,),) = self._connection.ask(_TOPIC_BYTES, {"hash": hashed})
        examples = self._connection.ask(_TOPIC_EXAMPLES, {"hash": hashed, "limit": EXAMPLES})
        return {
            "topic": topic_named(hashed, (topics for (topics,) in examples)),
            "updates": count,
            "bytes": size,
        }


class PostgresqlWriter:
    """Implements ``Writer``.

    :param connection: that the transactions are of.
    :param name: of the database in words.
    """

    is_atomic = True

    def __init__(self, connection: Connection, name: str) -> None:
        self._connection = connection
        self._name = name
        self._marks = Marks()
        self._event_bytes = 0
        self._first: int | None = None
        self._is_begun = False

    def begin(self) -> None:
        """Begin a transaction in which no hub is at work.

        :raises HistoryError: one is.
        """
        self._connection.ask("BEGIN")
        self._is_begun = True
        self._connection.ask(_LOCK)
        ((hubs,),) = self._connection.ask(_HUBS)
        if hubs:
            raise at_work(self._name, STOP_ALL)
        ((*marks, self._event_bytes),) = self._connection.ask(_MARKS)
        found = Marks(*marks)
        if self._first is None:
            self._first, self._marks = found.last, found
        elif found != self._marks:
            raise changed(self._name)

    @property
    def marks(self) -> Marks:
        """Where the history ends and begins."""
        return self._marks

    def known(self, ids: Collection[str]) -> set[str]:
        """Look ids up."""
        asked = list(ids)
        rows = self._connection.ask(
            _KNOWN,
            {"hashes": bigints([topic_hash(one) for one in asked]), "ids": texts(asked), "upto": self._first},
        )
        return {event_id for (event_id,) in rows}

    def store(self, rows: Sequence[Row], marks: Marks) -> None:
        """Insert rows."""
        if not self._is_begun:
            self.begin()
        for row in rows:
            self._event_bytes = row.event_bytes if row.event_bytes is not None else self._event_bytes
        if rows:
            self._connection.ask(_INSERT, _values(rows))
            self._connection.ask(_INSERT_TOPICS, _topics(rows))
        self._connection.ask(
            _SET_POSITION, {"last": marks.last, "events": marks.events, "bytes": self._event_bytes}
        )
        self._connection.ask(
            _SET_DISCARDED, {"updates_gone": marks.updates_gone, "events_gone": marks.events_gone}
        )
        self._marks = marks

    def commit(self) -> None:
        """Commit the transaction; the next rows begin another."""
        if self._is_begun:
            self._connection.ask("COMMIT")
            self._is_begun = False

    def end(self) -> None:
        """Roll back what was not committed."""
        if self._is_begun:
            self._connection.ask("ROLLBACK")


def _conditions(selection: Selection) -> tuple[str, Mapping[str, Any]]:
    """What the database can decide itself."""
    conditions: list[str] = []
    values: dict[str, Any] = {}
    if selection.since is not None:
        conditions.append("published_at >= %(since)s")
        values["since"] = selection.since
    if selection.until is not None:
        conditions.append("published_at < %(until)s")
        values["until"] = selection.until
    if not selection.names_topics and not selection.has_events:
        conditions.append("event_bytes IS NULL")
    if selection.topics and not selection.patterns:
        conditions.append(_OF_TOPICS)
        values["hashes"] = bigints([topic_hash(topic) for topic in selection.topics])
    return "".join(f" AND {one}" for one in conditions), values


def _row(columns: Sequence[Any]) -> Row:
    sequence, id_, topics, private, type_, retry, published_at, events_before, event_bytes, data = columns
    update = Update(decoded_topics(topics), data.decode(), id_, private, type_, retry)
    return Row(sequence, update, published_at, events_before, event_bytes)


def _topics(rows: Sequence[Row]) -> Mapping[str, Any]:
    found = [
        (hashed, row.sequence)
        for row in rows
        for hashed in {topic_hash(topic) for topic in row.update.topics}
    ]
    return {
        "hashes": bigints([hashed for hashed, _ in found]),
        "sequences": bigints([sequence for _, sequence in found]),
    }


def _values(rows: Sequence[Row]) -> Mapping[str, Any]:
    updates = [row.update for row in rows]
    return {
        "sequences": bigints([row.sequence for row in rows]),
        "hashes": bigints([topic_hash(one.id) for one in updates]),
        "ids": texts([one.id for one in updates]),
        "topics": texts([encoded_topics(one.topics) for one in updates]),
        "data": blobs([one.data.encode() for one in updates]),
        "private": bools([one.private for one in updates]),
        "types": texts([one.type for one in updates]),
        "retries": bigints([one.retry for one in updates]),
        "times": texts([repr(row.published_at) for row in rows]),
        "before": bigints([row.events_before for row in rows]),
        "bytes": bigints([row.event_bytes for row in rows]),
    }


@contextmanager
def opened(address: Address, *, is_made: bool = False) -> Iterator[PostgresqlHistory]:
    """Open a history for one command.

    :param is_made: make the tables if they are missing, and bring them up to date.
    :raises HistoryError: there is none.
    :raises StorageError: it cannot be read or written.
    """
    connector = Connector(address.url, address.shown)  # without the hub's limits of time
    connection = connector.connect()
    connection.deadline = _PATIENCE
    try:
        if is_made:
            migrate(connection)
        version = usable_version(connection, max(STEPS))
        if not version:
            raise HistoryError(
                f"there is no history in the {address.shown}; name another one with --transport-url"
            )
        yield PostgresqlHistory(connection, f"the {address.shown}", version)
    except psycopg.Error as error:
        raise connector.failure("used", error) from None
    finally:
        connection.close()
