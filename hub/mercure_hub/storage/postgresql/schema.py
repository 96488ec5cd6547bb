"""The tables, their versions, and how an update is read from a row.

Hubs of different versions are at work on the same tables while a cluster is upgraded, for hours maybe. So the
tables have two numbers: their version, and the oldest version that a hub has to know to use them. A step that
old hubs can live with, such as a new column, leaves the second one as it is.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from mercure_hub.protocol.errors import StorageUnusable
from mercure_hub.protocol.update import Update
from mercure_hub.storage.encoding import decoded_topics
from mercure_hub.storage.interface import Entry
from mercure_hub.storage.postgresql.connection import Connection

CHANNEL = "mercure"
"""The channel of NOTIFY for all appends."""

MIGRATION_LOCK = 0x6D657263_00000001
"""The advisory lock under which the tables change."""
DISCARD_LOCK = 0x6D657263_00000002
"""The advisory lock under which updates are discarded."""

_MIGRATION_PATIENCE = 600.0  # seconds
_log = logging.getLogger("mercure_hub.storage")

# mercure_position has one row. Its update opens each append, so that appends wait for one another and the
# order of the sequence is the order of the commits. It counts the hub's own events, and their bytes.
#
# mercure_discarded has one row: up to which sequence retention has discarded updates of publishers, and
# events. It is a table of its own, so that no append waits for it.
#
# mercure_node has a row for each process: the number of its last batch, and the sequence of its first update.
# A number without a sequence was claimed so that it is not stored.
#
# The data of an update is bytea, because it may hold U+0000. The index is on hashes, because an id may be
# longer than an index takes. event_bytes is the size of all events up to this one; updates of publishers have
# none. events_before, the number of events before a row, tells how many updates of publishers come before it.
#
# mercure_topic finds the updates of a topic without reading the others. Two topics with the same hash do no
# harm: readers compare the topics.
_FIRST = """
CREATE TABLE mercure_schema (
    id integer PRIMARY KEY CHECK (id = 1), version integer NOT NULL, oldest integer NOT NULL
);
CREATE TABLE mercure_position (
    id integer PRIMARY KEY CHECK (id = 1), epoch text NOT NULL,
    last_sequence bigint NOT NULL, events bigint NOT NULL, event_bytes bigint NOT NULL
) WITH (fillfactor = 10);
INSERT INTO mercure_position VALUES (1, gen_random_uuid()::text, 0, 0, 0);
CREATE TABLE mercure_discarded (
    id integer PRIMARY KEY CHECK (id = 1), updates_gone bigint NOT NULL, events_gone bigint NOT NULL
) WITH (fillfactor = 10);
INSERT INTO mercure_discarded VALUES (1, 0, 0);
CREATE TABLE mercure_node (
    id uuid PRIMARY KEY, number bigint NOT NULL, first bigint, expires timestamptz NOT NULL,
    dead boolean NOT NULL
) WITH (fillfactor = 10);
CREATE TABLE mercure_update (
    sequence bigint PRIMARY KEY, id_hash bigint NOT NULL, id text COLLATE "C" NOT NULL, topics text NOT NULL,
    data bytea NOT NULL, private boolean NOT NULL, type text, retry bigint,
    published_at double precision NOT NULL, events_before bigint NOT NULL, event_bytes bigint
);
CREATE INDEX mercure_update_id ON mercure_update (id_hash, sequence);
CREATE INDEX mercure_update_event ON mercure_update (sequence) WHERE event_bytes IS NOT NULL;
CREATE TABLE mercure_topic (
    topic_hash bigint, sequence bigint, PRIMARY KEY (topic_hash, sequence)
);
CREATE TABLE mercure_presence (
    key_hash bytea PRIMARY KEY, key text COLLATE "C" NOT NULL, node uuid NOT NULL, record text NOT NULL,
    value_hash bigint NOT NULL, value text COLLATE "C" NOT NULL
);
CREATE INDEX mercure_presence_node ON mercure_presence (node);
CREATE INDEX mercure_presence_key ON mercure_presence (left(key, 256));
CREATE INDEX mercure_presence_value ON mercure_presence (value_hash, left(key, 256));
"""

# Tokens that are refused before they end. The key is that of a revocation, the name a digest of the claim
# that the tokens have. The version grows with each row that is written, over all rows; the row with the
# newest one is never discarded.
_REVOCATIONS = """
CREATE TABLE mercure_revocation (
    key bytea PRIMARY KEY, name bytea NOT NULL, topic text NOT NULL, issued_before double precision NOT NULL,
    kept_until double precision NOT NULL, version bigint NOT NULL
);
CREATE UNIQUE INDEX mercure_revocation_version ON mercure_revocation (version);
CREATE INDEX mercure_revocation_end ON mercure_revocation (kept_until);
"""

# Tells whether updates with some ids came after one sequence and not after another. It is volatile, and so
# sees what was committed after the statement that calls it began: an append has to see the one that it waited
# for.
_IDS = """
CREATE FUNCTION mercure_has_ids(hashes bigint[], ids text[], after bigint, upto bigint) RETURNS boolean
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    RETURN EXISTS (
        SELECT FROM unnest(hashes, ids) w(hash, id)
        JOIN mercure_update u ON u.id_hash = w.hash AND u.id = w.id
        AND u.sequence > after AND u.sequence <= upto
    );
END
$$;
"""

# Retention by topic, as sqlite/schema.py describes it. An id has a hash, as in mercure_update.
_RULES = """
CREATE TABLE mercure_retention (
    id integer PRIMARY KEY CHECK (id = 1), rules text NOT NULL, generation bigint NOT NULL,
    assigned bigint NOT NULL, discards bigint NOT NULL, forgotten bigint NOT NULL, before bigint NOT NULL,
    rest_before bigint NOT NULL
) WITH (fillfactor = 10);
INSERT INTO mercure_retention VALUES (1, '', 0, 0, 0, 0, 0, 0);
CREATE TABLE mercure_rule (
    number bigint PRIMARY KEY, updates bigint NOT NULL, gone bigint NOT NULL, strays bigint NOT NULL
) WITH (fillfactor = 10);
CREATE TABLE mercure_assigned (rule bigint, sequence bigint, PRIMARY KEY (rule, sequence));
CREATE TABLE mercure_past (
    number bigint PRIMARY KEY, sequence bigint NOT NULL, id_hash bigint NOT NULL, id text COLLATE "C" NOT NULL
);
CREATE INDEX mercure_past_id ON mercure_past (id_hash, sequence);
CREATE INDEX mercure_past_sequence ON mercure_past (sequence);
CREATE TABLE mercure_gone (
    topic_hash bigint PRIMARY KEY, sequence bigint NOT NULL, number bigint NOT NULL
);
CREATE INDEX mercure_gone_number ON mercure_gone (number);
"""

KNOWS_REVOCATIONS = 2
"""The version from which on there is their table."""

STEPS: Mapping[int, str] = {1: _FIRST, 2: _REVOCATIONS + _IDS + _RULES}
"""The statements that lead to a version from the one before."""

KNOWS_RULES = 2
"""The version from which on there is retention by topic."""

OLDEST = KNOWS_REVOCATIONS
"""The version that a hub has to know to use the tables of the newest one.

One that knows no revocations would admit those whose access has ended, and one that knows no rules would
discard what they keep.
"""

INCARNATION = "date_part('epoch', pg_postmaster_start_time())"
"""When the server was started: another one may have another history."""

ENTRY = "u.sequence, u.id, u.topics, u.data, u.private, u.type, u.retry, u.event_bytes IS NOT NULL"
"""The columns that ``entry`` takes."""


_HAS_TABLES = "SELECT oid FROM pg_class WHERE relname = 'mercure_schema' AND pg_table_is_visible(oid)"


def entry(row: Sequence[Any]) -> Entry:
    """What a row of the table of updates holds.

    :param row: the columns in ``ENTRY``, and maybe others after them.
    """
    sequence, id_, topics, data, private, type_, retry, is_event = row[:8]
    return Entry(
        sequence, Update(decoded_topics(topics), data.decode(), id_, private, type_, retry), is_event
    )


def migrate(connection: Connection, steps: Mapping[int, str] = STEPS, oldest: int = OLDEST) -> None:
    """Bring the tables to the newest version, in one transaction; of several hubs one does it.

    :param steps: what leads to each version.
    :param oldest: see ``OLDEST``.
    :raises StorageUnusable: they are of a newer one that this program cannot use.
    """
    newest = max(steps)
    version = usable_version(connection, newest)
    if version >= newest:
        return
    usual = connection.deadline
    connection.deadline = _MIGRATION_PATIENCE
    try:
        with connection.transaction():
            connection.ask("SELECT set_config('statement_timeout', '0', true)")
            connection.ask(f"SELECT pg_advisory_xact_lock({MIGRATION_LOCK})")
            version = usable_version(connection, newest)
            if version >= newest:
                return
            for number in range(version + 1, newest + 1):
                connection.execute(steps[number].encode(), prepare=False)
            connection.ask("DELETE FROM mercure_schema")
            connection.ask(
                "INSERT INTO mercure_schema VALUES (1, %(version)s, %(oldest)s)",
                {"version": newest, "oldest": oldest},
            )
    finally:
        connection.deadline = usual
    if version:
        _log.info("the tables of the database were brought from version %d to %d", version, newest)


def usable_version(connection: Connection, newest: int) -> int:
    """The version of the tables; 0: there are none yet."""
    # Not to_regclass(): within a transaction it does not see what others have created since the last look.
    if not connection.ask(_HAS_TABLES):
        return 0
    rows = connection.ask("SELECT version, oldest FROM mercure_schema")
    if not rows:
        return 0
    version, oldest = rows[0]
    if newest < oldest:
        raise StorageUnusable(
            f"the database has tables of version {version}, made by a newer mercure-hub, for hubs that know "
            f"version {oldest} at least; this one knows version {newest}: upgrade it"
        )
    return int(version)
