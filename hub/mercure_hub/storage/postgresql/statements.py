# ruff: noqa: S608 - put together of constants
"""The statements of the link, beside those that read the history."""

from __future__ import annotations

from mercure_hub.storage.postgresql.schema import INCARNATION

START = f"SELECT {INCARNATION}, EXISTS (SELECT FROM mercure_update WHERE event_bytes IS NOT NULL)"
SETTINGS = """
    SELECT current_setting('server_encoding'), current_setting('fsync'), current_setting('synchronous_commit')
"""
_NOW = "clock_timestamp() + make_interval(secs => %(ahead)s)"
_EXPIRES = "clock_timestamp() + make_interval(secs => %(expires)s)"
REGISTER = f"INSERT INTO mercure_node VALUES (%(node)s, 0, NULL, {_EXPIRES}, false)"
# Returns whether the lease had ended.
RENEW = f"""
    WITH own AS (
        SELECT id, expires < {_NOW} AS has_ended FROM mercure_node WHERE id = %(node)s AND NOT dead FOR UPDATE
    )
    UPDATE mercure_node n SET expires = {_EXPIRES} FROM own WHERE n.id = own.id RETURNING own.has_ended
"""
LEAVE = "UPDATE mercure_node SET expires = '-infinity' WHERE id = %(node)s"
TOUCH = "UPDATE mercure_node SET number = number WHERE id = %(node)s"
STATE = f"""
    SELECT n.number, n.first, {INCARNATION}, p.last_sequence FROM mercure_position p
    LEFT JOIN mercure_node n ON n.id = %(node)s AND NOT n.dead
"""
# A number that is there already is written again: so this commit waits for the replicas for which that of the
# batch may not have waited, if the server was restarted meanwhile.
CLAIM = """
    UPDATE mercure_node SET number = %(number)s, first = CASE WHEN number = %(number)s THEN first END
    WHERE id = %(node)s AND number <= %(number)s
"""
OUTCOME = "SELECT first FROM mercure_node WHERE id = %(node)s AND number = %(number)s"
POSITION = "SELECT epoch, last_sequence FROM mercure_position"
# A dump that is restored on another server is another history from then on.
POSITION_WITH_SERVER = """
    SELECT epoch || '/' || system_identifier, last_sequence FROM mercure_position, pg_control_system()
"""
MAY_NAME_SERVER = "SELECT has_function_privilege('pg_control_system()', 'execute')"
ID_AT = """
    SELECT id FROM mercure_update WHERE sequence = %(sequence)s
    UNION ALL SELECT id FROM mercure_past WHERE sequence = %(sequence)s LIMIT 1
"""
NEWEST_UPDATE = """
    SELECT id FROM (
        (SELECT sequence, id FROM mercure_update WHERE event_bytes IS NULL ORDER BY sequence DESC LIMIT 1)
        UNION ALL (SELECT sequence, id FROM mercure_past ORDER BY sequence DESC LIMIT 1)
    ) newest ORDER BY sequence DESC LIMIT 1
"""
_OF_OTHERS = """
    SELECT key, record FROM mercure_presence
    WHERE node <> %(node)s AND left(key, 256) >= left(%(beyond)s, 256) AND key > %(beyond)s
"""
_IN_ORDER = "ORDER BY left(key, 256), key LIMIT %(limit)s"
OTHERS = f"{_OF_OTHERS} {_IN_ORDER}"
OTHERS_OF_VALUE = f"{_OF_OTHERS} AND value_hash = %(hash)s AND value = %(value)s {_IN_ORDER}"

# And whether the own lease has.
HAS_EXPIRED = f"""
    SELECT EXISTS (SELECT FROM mercure_node WHERE dead OR expires < {_NOW}),
    EXISTS (SELECT FROM mercure_node WHERE id = %(node)s AND NOT dead AND expires < {_NOW})
"""
# A node that appends at this moment is alive.
BURY = f"""
    UPDATE mercure_node SET dead = true WHERE id IN (
        SELECT id FROM mercure_node
        WHERE NOT dead AND expires < {_NOW} AND (expires = '-infinity' OR NOT %(only_left)s)
        FOR UPDATE SKIP LOCKED
    )
"""
# Their numbers are kept for a day: they may still ask what became of a batch.
FORGET = f"""
    DELETE FROM mercure_node n WHERE dead AND expires < {_NOW} - interval '1 day'
    AND NOT EXISTS (SELECT FROM mercure_presence p WHERE p.node = n.id)
"""
ADOPT = """
    WITH own AS (
        SELECT id FROM mercure_node WHERE id = %(node)s AND NOT dead FOR SHARE
    ), left_over AS (
        SELECT p.key_hash FROM mercure_presence p
        WHERE p.node IN (SELECT id FROM mercure_node WHERE dead) LIMIT %(limit)s FOR UPDATE SKIP LOCKED
    )
    UPDATE mercure_presence p SET node = own.id FROM own, left_over
    WHERE p.key_hash = left_over.key_hash RETURNING p.key_hash, p.record
"""
# Waits for an adoption that is not committed yet.
ADOPTED = "SELECT node, record FROM mercure_presence WHERE key_hash = ANY(%(hashes)s) FOR UPDATE"
# An update or an event: the number of events before it is the same. What is assigned to rules is counted.
SIZE = """
    SELECT r.updates + coalesce(p.last_sequence - p.events - (f.sequence - f.events_before) + 1, 0), (
        SELECT sum(pg_total_relation_size(name))::bigint
        FROM unnest(ARRAY['mercure_update', 'mercure_topic', 'mercure_presence']::regclass[]) name
    ) FROM mercure_position p CROSS JOIN mercure_discarded d CROSS JOIN (
        SELECT assigned, coalesce((SELECT sum(updates) FROM mercure_rule), 0)::bigint AS updates
        FROM mercure_retention
    ) r LEFT JOIN LATERAL (
        SELECT u.sequence, u.events_before FROM mercure_update u
        WHERE u.sequence > CASE WHEN r.updates > 0 THEN r.assigned ELSE d.updates_gone END
        ORDER BY u.sequence LIMIT 1
    ) f ON true
"""

# Of two transactions, the one that comes later has the later versions.
LOCK_REVOCATIONS = "LOCK TABLE mercure_revocation IN EXCLUSIVE MODE"
DISCARD_REVOCATIONS = """
    DELETE FROM mercure_revocation
    WHERE kept_until < %(now)s AND version < (SELECT max(version) FROM mercure_revocation)
"""
REVOKE = """
    WITH newest AS (SELECT coalesce(max(version), 0) AS version FROM mercure_revocation)
    INSERT INTO mercure_revocation AS old (key, name, topic, issued_before, kept_until, version)
    SELECT k, n, t, b::double precision, u::double precision, newest.version + row_number() OVER ()
    FROM newest, unnest(%(keys)s, %(names)s, %(topics)s, %(before)s, %(until)s) x(k, n, t, b, u)
    ON CONFLICT (key) DO UPDATE SET
        issued_before = greatest(old.issued_before, excluded.issued_before),
        kept_until = greatest(old.kept_until, excluded.kept_until),
        version = excluded.version
"""
NEWEST_REVOCATION = "SELECT coalesce(max(version), 0) FROM mercure_revocation"
REVOCATIONS = """
    SELECT name, topic, issued_before, kept_until, version FROM mercure_revocation
    WHERE version > %(after)s ORDER BY version LIMIT %(limit)s
"""
SYNCHRONOUS = "SELECT set_config('synchronous_commit', 'on', true)"
