# ruff: noqa: S608 - put together of constants
"""The statement that stores a batch, and its values."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

from mercure_hub.storage.encoding import encoded_topics, topic_hash
from mercure_hub.storage.interface import MOST_COMPARED, Batch, Presence
from mercure_hub.storage.postgresql.connection import bigints, blobs, bools, texts
from mercure_hub.storage.postgresql.schema import CHANNEL, INCARNATION

# The locks are taken in one order everywhere: of the own node, of the position, of the rows of presence. Both
# conditions on the node are looked at again when the lock had to be waited for (READ COMMITTED), so whoever
# claimed the number first wins. The others follow from the position, whose lock is the turn to write: it is
# freed when the commit is durable.
_APPEND = f"""
    WITH node AS (
        SELECT id FROM mercure_node WHERE id = %(node)s AND number < %(number)s AND NOT dead
        AND {INCARNATION} = %(incarnation)s FOR UPDATE
    ), place AS (
        UPDATE mercure_position p SET last_sequence = p.last_sequence + %(count)s,
            events = p.events + %(events)s, event_bytes = p.event_bytes + %(bytes)s
        FROM node WHERE p.id = 1 AND p.last_sequence >= %(known)s {{once}}
        RETURNING p.last_sequence - %(count)s AS last, p.events - %(events)s AS events,
            p.event_bytes - %(bytes)s AS event_bytes,
            extract(epoch FROM clock_timestamp())::double precision + %(ahead)s AS now
    ), claimed AS (
        UPDATE mercure_node n SET number = %(number)s, first = place.last + 1 FROM place
        WHERE n.id = %(node)s
    ), stored AS (
        INSERT INTO mercure_update
        SELECT place.last + u.number, u.id_hash, u.id, u.topics, u.data, u.private, u.type, u.retry,
            place.now, place.events + u.events_before, place.event_bytes + u.event_bytes
        FROM place, unnest(
            %(id_hashes)s, %(ids)s, %(topics)s, %(data)s, %(private)s, %(types)s, %(retries)s,
            %(events_before)s, %(bytes_before)s
        ) WITH ORDINALITY
        u(id_hash, id, topics, data, private, type, retry, events_before, event_bytes, number)
    ), indexed AS (
        INSERT INTO mercure_topic SELECT t.hash, place.last + t.number
        FROM place, unnest(%(hashes)s, %(numbers)s) t(hash, number)
    )
"""
# Looked at again, too, with the last sequence of the append that was waited for.
_ONCE = "AND NOT mercure_has_ids(%(once_hashes)s, %(once_ids)s, %(compared)s, p.last_sequence)"
_PRESENCE = """, ended AS (
        DELETE FROM mercure_presence USING place WHERE key_hash = ANY(%(ended)s)
    ), begun AS (
        INSERT INTO mercure_presence
        SELECT b.key_hash, b.key, %(node)s, b.record, b.value_hash, b.value FROM place, unnest(
            %(begun)s, %(keys)s, %(records)s, %(value_hashes)s, %(values)s
        ) b(key_hash, key, record, value_hash, value)
        ON CONFLICT (key_hash) DO UPDATE SET node = excluded.node, record = excluded.record,
            value_hash = excluded.value_hash, value = excluded.value
    )
"""
_RESULT = f"""
    SELECT place.last + 1, pg_notify('{CHANNEL}', '') FROM place
"""
_RESULT_IN_SYNC = f"""
    SELECT place.last + 1, pg_notify('{CHANNEL}', ''), set_config('synchronous_commit', 'on', true) FROM place
"""


_APPENDS = {is_once: _APPEND.format(once=_ONCE if is_once else "") for is_once in (False, True)}

STORED = f"""
    SELECT w.number FROM unnest(
        %(id_hashes)s, %(ids)s, %(topics)s, %(data)s, %(private)s, %(types)s, %(retries)s
    ) WITH ORDINALITY w(id_hash, id, topics, data, private, type, retry, number) WHERE EXISTS (
        SELECT FROM (
            SELECT * FROM mercure_update u WHERE u.id_hash = w.id_hash AND u.id = w.id
            ORDER BY u.id_hash, u.sequence DESC LIMIT {MOST_COMPARED}
        ) u WHERE u.topics = w.topics AND u.data = w.data AND u.private = w.private
        AND u.type IS NOT DISTINCT FROM w.type AND u.retry IS NOT DISTINCT FROM w.retry
        AND u.event_bytes IS NULL
    )
"""
"""The numbers of a batch's updates, counted from 1, that are stored; with the values of ``append_of``."""


def append_of(batch: Batch, *, compared: int = 0, in_sync: bool = False) -> tuple[str, dict[str, Any]]:
    """The statement that stores a batch, and its values.

    :param compared: sequence up to which what is to be stored once is known not to be there. The statement
        stores nothing if an update with such an id came later.
    :param in_sync: the commit has to be synchronous, and the session's may not be.
    :raises ValueError: they cannot be stored.
    """
    updates = batch.updates
    encoded = [encoded_topics(one.topics) for one in updates]
    data = [one.data.encode() for one in updates]
    hashes: list[int] = []
    numbers: list[int] = []
    for number, one in enumerate(updates, 1):
        for hashed in {topic_hash(topic) for topic in one.topics}:
            hashes.append(hashed)
            numbers.append(number)
    events, size = 0, 0
    events_before: list[int] = []
    event_bytes: list[int | None] = []
    for is_event, topics, content in zip(batch.are_events, encoded, data, strict=True):
        events_before.append(events)
        if is_event:
            events += 1
            size += len(content) + len(topics.encode())
        event_bytes.append(size if is_event else None)
    values: dict[str, Any] = {
        "number": batch.number,
        "count": len(updates),
        "events": events,
        "bytes": size,
        "id_hashes": bigints([topic_hash(one.id) for one in updates]),
        "ids": texts([one.id for one in updates]),
        "topics": texts(encoded),
        "data": blobs(data),
        "private": bools([one.private for one in updates]),
        "types": texts([one.type for one in updates]),
        "retries": bigints([one.retry for one in updates]),
        "events_before": bigints(events_before),
        "bytes_before": bigints(event_bytes),
        "hashes": bigints(hashes),
        "numbers": bigints(numbers),
    }
    once = [updates[position] for position in batch.once]
    if once:
        values.update(
            once_hashes=bigints([topic_hash(one.id) for one in once]),
            once_ids=texts([one.id for one in once]),
            compared=compared,
        )
    append, result = _APPENDS[bool(once)], _RESULT_IN_SYNC if in_sync else _RESULT
    if not batch.presence:
        return append + result, values
    values.update(_presence_of(batch.presence))
    return append + _PRESENCE + result, values


def _presence_of(changes: Sequence[Presence]) -> dict[str, Any]:
    """The values of presence in the statement: the last change of each key counts."""
    last = {one.key: one for one in changes}
    ended = [one for one in last.values() if one.record is None]
    begun = [one for one in last.values() if one.record is not None]
    return {
        "ended": blobs([_key_hash(one.key) for one in ended]),
        "begun": blobs([_key_hash(one.key) for one in begun]),
        "keys": texts([one.key for one in begun]),
        "records": texts([one.record for one in begun]),
        "value_hashes": bigints([topic_hash(one.value) for one in begun]),
        "values": texts([one.value for one in begun]),
    }


def _key_hash(key: str) -> bytes:
    return blake2b(key.encode(), digest_size=16).digest()
