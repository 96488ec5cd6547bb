"""What is in the log: how much, from when, of which topics."""

from __future__ import annotations

import json
from typing import Any

import sqlalchemy as sa

from mercure_hub.storage.sqlite import schema
from mercure_hub.tools.history.copying import sizes
from mercure_hub.tools.history.log import Log

_UPDATE, _TOPIC, _POSITION = schema.update, schema.topic, schema.position
_EXAMPLES = 20  # updates looked at to find the name of a topic of which only the hash is known


def statistics(log: Log, top: int) -> dict[str, Any]:
    """The figures of a log, in one consistent reading.

    :param top: topics with the most updates, as many as this.
    :returns: a JSON document; times in seconds since the epoch.
    """
    with log.engine.connect() as connection, connection.begin():
        count, octets, private, first, last = connection.execute(
            sa.select(
                sa.func.count(),
                sa.func.coalesce(sa.func.sum(sa.func.length(_UPDATE.c.data)), 0),
                sa.func.count().filter(_UPDATE.c.private),
                sa.func.min(_UPDATE.c.sequence),
                sa.func.max(_UPDATE.c.sequence),
            ).where(*log.of_publishers)
        ).one()
        events, event_bytes, events_ever = _events(connection) if log.of_publishers else (0, 0, 0)
        return {
            "database": str(log.path),
            "version": log.version,
            "hubs": log.seats.others(),
            "updates": count,
            "octets": octets,
            "private": private,
            "ever_published": (connection.scalar(sa.select(_POSITION.c.last_sequence)) or 0) - events_ever,
            "subscription_events": events,
            "subscription_event_octets": event_bytes,
            "oldest": _ends(connection, first),
            "newest": _ends(connection, last),
            "sizes": sizes(connection, log.path),
            "topics": [_topic(connection, hashed, found) for hashed, found in _most(connection, top)],
        }


def _events(connection: sa.Connection) -> tuple[int, int, int]:
    """How many events of the hub there are, the size of their data, and how many there ever were."""
    count, octets = connection.execute(
        sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(sa.func.length(_UPDATE.c.data)), 0)).where(
            schema.is_event
        )
    ).one()
    return count, octets, connection.scalar(sa.select(_POSITION.c.events)) or 0


def _ends(connection: sa.Connection, sequence: int | None) -> dict[str, Any] | None:
    if sequence is None:
        return None
    row = connection.execute(
        sa.select(_UPDATE.c.id, _UPDATE.c.published_at).where(_UPDATE.c.sequence == sequence)
    ).one()
    return {"id": row.id, "published_at": row.published_at}


def _most(connection: sa.Connection, top: int) -> list[tuple[int, int]]:
    """Hashes of topics and their numbers of updates; the index is in the order of the hashes."""
    number = sa.func.count().label("number")
    statement = (
        sa.select(_TOPIC.c.topic_hash, number)
        .group_by(_TOPIC.c.topic_hash)
        .order_by(number.desc(), _TOPIC.c.topic_hash)
        .limit(top)
    )
    return [(hashed, count) for hashed, count in connection.execute(statement)]


def _topic(connection: sa.Connection, hashed: int, count: int) -> dict[str, Any]:
    of_topic = sa.select(_TOPIC.c.sequence).where(_TOPIC.c.topic_hash == hashed)
    octets = connection.scalar(
        sa.select(sa.func.sum(sa.func.length(_UPDATE.c.data))).where(_UPDATE.c.sequence.in_(of_topic))
    )
    examples = connection.scalars(
        sa.select(_UPDATE.c.topics).where(_UPDATE.c.sequence.in_(of_topic)).limit(_EXAMPLES)
    )
    names = (name for topics in examples for name in json.loads(topics))
    name = next((name for name in names if schema.topic_hash(name) == hashed), "?")
    return {"topic": name, "updates": count, "octets": octets or 0}
