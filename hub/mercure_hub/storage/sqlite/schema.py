"""The tables of the database, and how an update is written into a row."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Sequence
from typing import Any

from mercure_hub.protocol.update import Update
from mercure_hub.storage.encoding import decoded_topics
from mercure_hub.storage.interface import Entry

KNOWS_EVENTS = 2
"""The version from which on events are told from updates."""

KNOWS_RULES = 4
"""The version from which on there is retention by topic."""

EVENT_INDEX = """
    CREATE INDEX mercure_update_event ON mercure_update (sequence, event_bytes) WHERE event_bytes IS NOT NULL
"""
VALUE_INDEX = "CREATE INDEX mercure_presence_value ON mercure_presence (value, key)"

TABLES = {
    # One row. Its update opens each append, so that appends wait for one another and the order of the
    # sequence is the order of the commits. It counts the hub's own events among what was ever appended, and
    # knows up to which sequence retention has discarded updates of publishers, and events.
    "mercure_position": (
        """
        CREATE TABLE mercure_position (
            id INTEGER NOT NULL PRIMARY KEY,
            last_sequence INTEGER NOT NULL,
            events INTEGER DEFAULT '0' NOT NULL,
            updates_gone INTEGER DEFAULT '0' NOT NULL,
            events_gone INTEGER DEFAULT '0' NOT NULL
        )
        """,
    ),
    # The data is bytes, because it may hold U+0000.
    #
    # Subscription events have a retention of their own. They are the rows with event_bytes: the size of all
    # events up to this one. events_before, their number before a row, tells how many updates of publishers
    # come before it.
    "mercure_update": (
        """
        CREATE TABLE mercure_update (
            sequence INTEGER NOT NULL PRIMARY KEY,
            id TEXT NOT NULL,
            topics TEXT NOT NULL,
            data BLOB NOT NULL,
            private BOOLEAN NOT NULL,
            type TEXT,
            retry BIGINT,
            published_at FLOAT NOT NULL,
            events_before INTEGER DEFAULT '0' NOT NULL,
            event_bytes INTEGER
        )
        """,
        "CREATE INDEX mercure_update_id ON mercure_update (id)",
        EVENT_INDEX,
    ),
    # Finds the updates of a topic without reading the others. A hash instead of the topic keeps the index
    # small; two topics with the same hash do no harm, because readers compare the topics.
    "mercure_topic": (
        """
        CREATE TABLE mercure_topic (
            topic_hash INTEGER NOT NULL,
            sequence INTEGER NOT NULL,
            PRIMARY KEY (topic_hash, sequence)
        ) WITHOUT ROWID
        """,
    ),
    # One row: which retention rules are in force, as text; the number of their generation; and up to which
    # sequence updates are assigned to them. How many updates rules have discarded; up to which sequence it is
    # forgotten of which topics; up to which rules discarded something that are not in force any more, and up
    # to which updates were gone that belonged to none before.
    "mercure_retention": (
        """
        CREATE TABLE mercure_retention (
            id INTEGER NOT NULL PRIMARY KEY,
            rules TEXT NOT NULL,
            generation INTEGER NOT NULL,
            assigned INTEGER NOT NULL,
            discards INTEGER NOT NULL,
            forgotten INTEGER NOT NULL,
            before INTEGER NOT NULL,
            rest_before INTEGER NOT NULL
        )
        """,
        "INSERT INTO mercure_retention VALUES (1, '', 0, 0, 0, 0, 0, 0)",
    ),
    # The rules in force, from 1; 0 is the rest. How many updates are assigned to each, and the sequences of
    # the newest that it discarded, and of the newest of these with a topic that the rule does not match.
    "mercure_rule": (
        """
        CREATE TABLE mercure_rule (
            number INTEGER NOT NULL PRIMARY KEY,
            updates INTEGER NOT NULL,
            gone INTEGER NOT NULL,
            strays INTEGER NOT NULL
        )
        """,
    ),
    # The updates of each rule; its number has that of the generation before it.
    "mercure_assigned": (
        """
        CREATE TABLE mercure_assigned (
            rule INTEGER NOT NULL,
            sequence INTEGER NOT NULL,
            PRIMARY KEY (rule, sequence)
        ) WITHOUT ROWID
        """,
    ),
    # What rules have discarded last, numbered: positions at which a subscriber can still resume.
    "mercure_past": (
        """
        CREATE TABLE mercure_past (
            number INTEGER NOT NULL PRIMARY KEY,
            sequence INTEGER NOT NULL,
            id TEXT NOT NULL
        )
        """,
        "CREATE INDEX mercure_past_id ON mercure_past (id)",
        "CREATE INDEX mercure_past_sequence ON mercure_past (sequence)",
    ),
    # The newest update of each topic that rules have discarded, and its number.
    "mercure_gone": (
        """
        CREATE TABLE mercure_gone (
            topic_hash INTEGER NOT NULL PRIMARY KEY,
            sequence INTEGER NOT NULL,
            number INTEGER NOT NULL
        )
        """,
        "CREATE INDEX mercure_gone_number ON mercure_gone (number)",
    ),
    # Who is connected, where active subscriptions are on: a row comes with the update that tells of the
    # subscription and goes with the one that tells of its end. The seat is that of the process which has the
    # connection, so rows of a killed process can be told from others. The value is that of the matcher; hubs
    # of version 2 write none.
    "mercure_presence": (
        """
        CREATE TABLE mercure_presence (
            key TEXT NOT NULL PRIMARY KEY,
            seat INTEGER NOT NULL,
            record TEXT NOT NULL,
            value TEXT
        )
        """,
        VALUE_INDEX,
    ),
    # Tokens that are refused before they end. The key is that of a revocation, the name a digest of the claim
    # that the tokens have. The version grows with each row that is written, over all rows; the row with the
    # newest one is never discarded.
    "mercure_revocation": (
        """
        CREATE TABLE mercure_revocation (
            key BLOB NOT NULL PRIMARY KEY,
            name BLOB NOT NULL,
            topic TEXT NOT NULL,
            issued_before FLOAT NOT NULL,
            kept_until FLOAT NOT NULL,
            version INTEGER NOT NULL
        ) WITHOUT ROWID
        """,
        "CREATE UNIQUE INDEX mercure_revocation_version ON mercure_revocation (version)",
        "CREATE INDEX mercure_revocation_end ON mercure_revocation (kept_until)",
    ),
    # One row: which of the steps in ``database.STEPS`` these tables have behind them.
    "mercure_schema": (
        "CREATE TABLE mercure_schema (id INTEGER NOT NULL PRIMARY KEY, version INTEGER NOT NULL)",
    ),
}
"""The statements that make each table and its indexes."""

COLUMNS = {
    "mercure_update": (
        *("sequence", "id", "topics", "data", "private", "type", "retry", "published_at"),
        *("events_before", "event_bytes"),
    ),
    "mercure_topic": ("topic_hash", "sequence"),
    "mercure_presence": ("key", "seat", "record", "value"),
}
"""The columns of the tables that appends fill, in their order."""

REVOCATIONS = """
    SELECT name, topic, issued_before, kept_until, version FROM mercure_revocation
    WHERE version > ? ORDER BY version LIMIT ?
"""
"""Reads the revocations after a version, in the order of their versions."""

ENTRY = ("sequence", "id", "topics", "data", "private", "type", "retry", "event_bytes")
"""The columns that ``entry`` takes."""


def create(connection: sqlite3.Connection, tables: Collection[str] = TABLES.keys()) -> None:
    """Make the tables that are missing, with their indexes."""
    for name in tables:
        if not has_table(connection, name):
            for statement in TABLES[name]:
                connection.execute(statement)


def has_table(connection: sqlite3.Connection, name: str) -> bool:
    """Whether there is a table."""
    found = connection.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?", (name,))
    return found.fetchone() is not None


def entry(row: Sequence[Any]) -> Entry:
    """What a row of the table of updates holds.

    :param row: the columns in ``ENTRY``.
    """
    sequence, id_, topics, data, private, type_, retry, event_bytes = row
    found = Update(decoded_topics(topics), data.decode(), id_, bool(private), type_, retry)
    return Entry(sequence, found, event_bytes is not None)
