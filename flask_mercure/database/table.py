"""The table of the outbox: its columns, an update as a row, and the statements that read and change rows.

The application's own metadata carries the table. It has plain column types only: migrations that Alembic
writes need no import of this package. Functions take a connection within a transaction, and none commits.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from zlib import crc32

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Connection,
    DateTime,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    TwoPhaseTransaction,
    and_,
    case,
    cast,
    delete,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.dialects.mysql import LONGTEXT
from sqlalchemy.dialects.postgresql import ARRAY, array

from flask_mercure.errors import InvalidArgument
from flask_mercure.updates import Publication

NAME = "mercure_outbox"

WAITING = "waiting"
PARKED = "parked"
STATES = (WAITING, PARKED)

_MOST_VARIABLES = 500  # in one statement: old SQLite takes 999
_LONGEST_ERROR = 1000
# PostgreSQL locks that writers of the same topic take until their commit: "merc" as a number, and one of
# these buckets. A lock for each topic could exhaust the server's lock table.
_LOCK_SPACE = 0x6D657263
_LOCK_BUCKETS = 256


def outbox_table(metadata: MetaData) -> Table:
    """The table ``mercure_outbox``, added to a metadata that does not have it yet.

    :param metadata: of the application, so that ``create_all`` and Alembic see the table.
    :returns: the table; the same one for the same metadata.
    """
    known = metadata.tables.get(NAME if metadata.schema is None else f"{metadata.schema}.{NAME}")
    if known is not None:
        return known
    # TEXT of MySQL ends after 64 KiB.
    long_text = Text().with_variant(LONGTEXT(), "mysql", "mariadb")
    return Table(
        NAME,
        metadata,
        # BIGINT would not be the rowid of SQLite. AUTOINCREMENT: the number of a row that was deleted does
        # not come again, or an old update could be taken for a new one.
        Column(
            "sequence", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True
        ),
        Column("state", String(16), nullable=False),
        Column("hub", String(255), nullable=False),
        Column("id", Text, nullable=False),
        Column("topics", long_text, nullable=False),
        Column("data", long_text, nullable=False),
        Column("private", Boolean, nullable=False),
        Column("type", Text),
        Column("retry", Integer),
        Column("created_at", DateTime, nullable=False),
        Column("attempts", Integer, nullable=False),
        Column("not_before", DateTime),
        Column("error", Text),
        Column("leased_by", String(128)),
        Column("leased_until", DateTime),
        Index("ix_mercure_outbox_state_sequence", "state", "sequence"),
        sqlite_autoincrement=True,
    )


def moment(seconds: float) -> datetime:
    """A time as the table has it: UTC without a zone, which every engine stores alike.

    :param seconds: since the epoch.
    """
    return datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None)


def seconds(stored: datetime) -> float:
    """The seconds since the epoch of a time from the table."""
    return stored.replace(tzinfo=UTC).timestamp()


def portions(sequences: Sequence[int]) -> Iterator[Sequence[int]]:
    """Split sequences of rows into as many as one statement can name."""
    for start in range(0, len(sequences), _MOST_VARIABLES):
        yield sequences[start : start + _MOST_VARIABLES]


# Updates as rows


def check_storable(publication: Publication) -> None:
    """Refuse an update that a hub or a database cannot take.

    :raises InvalidArgument: the text cannot be encoded, or holds NUL, which PostgreSQL does not store.
    """
    publication.encode()
    for name, text in (("data", publication.data), ("type", publication.type), ("id", publication.id)):
        if text is not None and "\0" in text:
            raise InvalidArgument(f"{name} holds the character NUL, which a database column cannot carry")


def write(
    connection: Connection, table: Table, updates: Sequence[tuple[str, Publication]], now: float
) -> None:
    """Insert updates.

    In PostgreSQL, transactions that write the same topic wait for each other from here to their commit: the
    order of the rows is the order of the commits. Called at the end of a transaction, this takes no
    time, and no lock that is taken later can close a circle. SQLite has one writer at a time anyway.

    :param connection: in a transaction.
    :param table: made by :func:`outbox_table`.
    :param updates: pairs of a hub's name and an update, which has an id.
    :param now: seconds since the epoch.
    """
    if not updates:
        return
    is_postgresql = connection.dialect.name == "postgresql"
    if is_postgresql:
        topics = {f"{hub}\n{topic}" for hub, update in updates for topic in update.topics}
        buckets = sorted({crc32(topic.encode("utf-8", "replace")) % _LOCK_BUCKETS for topic in topics})
        # One request for all, in ascending order: two writers cannot hold what the other one wants.
        bucket = func.unnest(cast(array(buckets), ARRAY(Integer))).column_valued("bucket")
        connection.execute(select(func.pg_advisory_xact_lock(cast(_LOCK_SPACE, Integer), bucket)))
    connection.execute(insert(table), [_values(hub, update, now) for hub, update in updates])
    # It reaches the relay at the commit. With it, PostgreSQL would not prepare a transaction of two phases.
    if is_postgresql and not isinstance(connection.get_transaction(), TwoPhaseTransaction):
        connection.execute(select(func.pg_notify(channel(table), "")))


def channel(table: Table) -> str:
    """The channel of ``NOTIFY`` on which relays of this outbox listen."""
    return table.fullname.replace(".", "_")


def _values(hub: str, update: Publication, now: float) -> dict[str, Any]:
    return {
        "state": WAITING,
        "hub": hub,
        "id": update.id,
        "topics": json.dumps(update.topics, ensure_ascii=False),
        "data": update.data,
        "private": update.private,
        "type": update.type,
        "retry": update.retry,
        "created_at": moment(now),
        "attempts": 0,
    }


def topics_of(stored: str) -> list[str]:
    """The topics of a row.

    :param stored: the column ``topics``.
    :raises ValueError: it is not JSON; somebody else wrote the row.
    """
    topics: list[str] = json.loads(stored)
    return topics


def publication_of(row: Mapping[str, Any]) -> Publication:
    """The update of a row.

    :raises InvalidArgument: somebody wrote a row that is no update.
    """
    try:
        return Publication(
            topics_of(row["topics"]),
            row["data"],
            bool(row["private"]),
            id=row["id"],
            type=row["type"],
            retry=row["retry"],
        )
    except (ValueError, TypeError) as error:
        raise InvalidArgument(f"the row {row['sequence']} of the outbox holds no update: {error}") from error


# What became of updates that were sent


def delete_sent(connection: Connection, table: Table, sequences: Sequence[int]) -> None:
    """Delete updates that the hub has taken.

    :param sequences: of the updates.
    """
    for some in portions(sequences):
        connection.execute(delete(table).where(table.c.sequence.in_(some)))


def record_failed(
    connection: Connection, table: Table, sequence: int, error: str, not_before: float, *, is_counted: bool
) -> None:
    """Note a failure after which the update is tried again.

    :param sequence: of the update.
    :param error: in words.
    :param not_before: seconds since the epoch of the next attempt.
    :param is_counted: count an attempt of the update; not if its hub takes nothing at all.
    """
    values: dict[str, Any] = {"error": error[:_LONGEST_ERROR], "not_before": moment(not_before)}
    if is_counted:
        values["attempts"] = table.c.attempts + 1
    connection.execute(update(table).where(table.c.sequence == sequence).values(values))


def record_parked(connection: Connection, table: Table, sequence: int, error: str) -> None:
    """Set an update aside that the hub will never take, so that those behind it go on.

    :param sequence: of the update.
    :param error: in words.
    """
    connection.execute(
        update(table)
        .where(table.c.sequence == sequence)
        .values(
            state=PARKED,
            attempts=table.c.attempts + 1,
            error=error[:_LONGEST_ERROR],
            leased_by=None,
            leased_until=None,
        )
    )


# For people and monitoring


@dataclass(frozen=True, slots=True)
class Stats:
    """Numbers to watch.

    :param waiting: updates to be sent.
    :param oldest_age: seconds since the oldest of these was written; 0 if there are no such updates.
    :param failing: those of ``waiting`` that have failed while the hub took others.
    :param parked: updates that the hub refused for good, and those that were given up.
    """

    waiting: int
    oldest_age: float
    failing: int
    parked: int


@dataclass(frozen=True, slots=True)
class StoredUpdate:
    """A row of the outbox, without its data.

    :param sequence: position in the outbox, by which the commands name it.
    :param created_at: seconds since the epoch.
    """

    sequence: int
    state: str
    hub: str
    id: str
    topics: Sequence[str]
    private: bool
    attempts: int
    created_at: float
    error: str | None


def read_stats(connection: Connection, table: Table, now: float) -> Stats:
    """Count the rows.

    :param now: seconds since the epoch.
    """
    columns = table.c
    counted = {
        state: (count, failing)
        for state, count, failing in connection.execute(
            select(
                columns.state, func.count(), func.count(case((columns.attempts > 0, columns.sequence)))
            ).group_by(columns.state)
        )
    }
    waiting, failing = counted.get(WAITING, (0, 0))
    oldest = connection.scalar(
        select(columns.created_at).where(columns.state == WAITING).order_by(columns.sequence).limit(1)
    )
    age = 0.0 if oldest is None else max(0.0, now - seconds(oldest))
    return Stats(waiting, age, failing, counted.get(PARKED, (0, 0))[0])


def list_updates(
    connection: Connection, table: Table, state: str | None = None, most: int = 50
) -> list[StoredUpdate]:
    """The oldest rows.

    :param state: ``waiting`` or ``parked``; ``None`` for both.
    :param most: rows.
    """
    columns = table.c
    query = select(*(columns[name] for name in StoredUpdate.__dataclass_fields__)).order_by(columns.sequence)
    if state is not None:
        query = query.where(columns.state == state)
    return [
        StoredUpdate(
            row.sequence,
            row.state,
            row.hub,
            row.id,
            _shown_topics(row.topics),
            bool(row.private),
            row.attempts,
            seconds(row.created_at),
            row.error,
        )
        for row in connection.execute(query.limit(most))
    ]


def _shown_topics(stored: str) -> list[str]:
    try:
        return topics_of(stored)
    except ValueError:
        return [stored]


def retry(connection: Connection, table: Table, sequences: Sequence[int] = ()) -> int:
    """Have parked updates, and those that wait after a failure, tried again at once.

    Subscribers may see a parked one after younger updates of its topics, which have passed it.

    :param sequences: of the updates; all by default.
    :returns: how many there were.
    """
    columns = table.c
    which: ColumnElement[bool] = columns.state.in_((PARKED, WAITING)) & (
        (columns.state == PARKED) | columns.not_before.is_not(None)
    )
    if sequences:
        which = and_(which, columns.sequence.in_(sequences))
    again: dict[Any, Any] = {
        columns.state: WAITING,
        columns.attempts: 0,
        columns.not_before: None,
    }
    return connection.execute(update(table).where(which).values(again)).rowcount


def purge(
    connection: Connection,
    table: Table,
    sequences: Sequence[int] = (),
    *,
    states: Sequence[str] = (PARKED,),
    before: float | None = None,
) -> int:
    """Delete updates. Subscribers never get those that still wait.

    :param sequences: of the updates; by default all of the states.
    :param states: that may be deleted.
    :param before: only what was written before this time, in seconds since the epoch.
    :returns: how many there were.
    """
    columns = table.c
    which: ColumnElement[bool] = columns.state.in_(states)
    if sequences:
        which = and_(which, columns.sequence.in_(sequences))
    if before is not None:
        which = and_(which, columns.created_at < moment(before))
    return connection.execute(delete(table).where(which)).rowcount
