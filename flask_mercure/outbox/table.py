"""The table of the outbox, which the application's own metadata carries.

Plain column types only: migrations that Alembic writes need no import of this package.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from sqlalchemy import BigInteger, Boolean, Column, DateTime, Index, Integer, MetaData, String, Table, Text
from sqlalchemy.dialects.mysql import LONGTEXT

NAME = "mercure_outbox"

WAITING = "waiting"
PARKED = "parked"
DELIVERED = "delivered"

_MOST_VARIABLES = 500  # in one statement: old SQLite takes 999


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
        Column("finished_at", DateTime),
        Column("leased_by", String(128)),
        Column("leased_until", DateTime),
        Index("ix_mercure_outbox_state_sequence", "state", "sequence"),
        sqlite_autoincrement=True,
    )


def moment(seconds: float) -> datetime:
    """The form of times in the table: UTC, without a zone, which every engine stores alike.

    :param seconds: since the epoch.
    """
    return datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None)


def seconds(stored: datetime) -> float:
    """The seconds since the epoch of a time from the table."""
    return stored.replace(tzinfo=UTC).timestamp()


def portions(sequences: Sequence[int]) -> Iterator[Sequence[int]]:
    """Numbers of rows, as many at a time as one statement can name.

    :param sequences: of the rows.
    """
    for start in range(0, len(sequences), _MOST_VARIABLES):
        yield sequences[start : start + _MOST_VARIABLES]
