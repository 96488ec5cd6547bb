"""The tables of the database, and how an update is written into a row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import BigInteger, Boolean, Column, Float, Index, Integer, LargeBinary, MetaData, Table, Text

from mercure_hub.protocol.update import Update
from mercure_hub.storage.encoding import decoded_topics
from mercure_hub.storage.interface import Entry

metadata = MetaData()

# One row. Its update opens each append, so that appends wait for one another and the order of the
# sequence is the order of the commits. It counts the hub's own events among what was ever appended, and knows
# up to which sequence retention has discarded updates of publishers, and events.
position = Table(
    "mercure_position",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("last_sequence", Integer, nullable=False),
    Column("events", Integer, nullable=False, server_default="0"),
    Column("updates_gone", Integer, nullable=False, server_default="0"),
    Column("events_gone", Integer, nullable=False, server_default="0"),
)

# The data is bytes, because it may hold U+0000.
#
# Subscription events have a retention of their own. They are the rows with event_bytes: the size of all
# events up to this one. events_before, their number before a row, tells how many updates of publishers come
# before it.
update = Table(
    "mercure_update",
    metadata,
    Column("sequence", Integer, primary_key=True, autoincrement=False),
    Column("id", Text, nullable=False),
    Column("topics", Text, nullable=False),
    Column("data", LargeBinary, nullable=False),
    Column("private", Boolean, nullable=False),
    Column("type", Text),
    Column("retry", BigInteger),
    Column("published_at", Float, nullable=False),
    Column("events_before", Integer, nullable=False, server_default="0"),
    Column("event_bytes", Integer),
    Index("mercure_update_id", "id"),
)
is_event = update.c.event_bytes.is_not(None)
KNOWS_EVENTS = 2
"""The version from which on events are told from updates."""
events = Index("mercure_update_event", update.c.sequence, update.c.event_bytes, sqlite_where=is_event)

# Finds the updates of a topic without reading the others. A hash instead of the topic keeps the
# index small; two topics with the same hash do no harm, for who reads compares the topics.
topic = Table(
    "mercure_topic",
    metadata,
    Column("topic_hash", Integer, primary_key=True, autoincrement=False),
    Column("sequence", Integer, primary_key=True, autoincrement=False),
    sqlite_with_rowid=False,
)

# Who is connected, where active subscriptions are on: a row comes with the update that tells of the
# subscription and goes with the one that tells of its end. The seat is that of the process which has the
# connection: what it leaves behind when it is killed can be told from what goes on. The value is that of the
# matcher; hubs of version 2 write none.
presence = Table(
    "mercure_presence",
    metadata,
    Column("key", Text, primary_key=True),
    Column("seat", Integer, nullable=False),
    Column("record", Text, nullable=False),
    Column("value", Text),
    Index("mercure_presence_value", "value", "key"),
)

# One row: which of the steps in ``database.STEPS`` these tables have behind them.
version = Table(
    "mercure_schema",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("version", Integer, nullable=False),
)


ENTRY = ("sequence", "id", "topics", "data", "private", "type", "retry", "event_bytes")
"""The columns that ``entry`` takes."""


def entry(row: Sequence[Any]) -> Entry:
    """What a row of the table of updates holds.

    :param row: the columns in ``ENTRY``.
    """
    sequence, id_, topics, data, private, type_, retry, event_bytes = row
    found = Update(decoded_topics(topics), data.decode(), id_, bool(private), type_, retry)
    return Entry(sequence, found, event_bytes is not None)
