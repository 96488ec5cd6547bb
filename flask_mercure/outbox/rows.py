"""From an update to a row of the outbox and back, and writing it inside a transaction."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any
from zlib import crc32

from sqlalchemy import Connection, Integer, Table, TwoPhaseTransaction, cast, func, insert, select
from sqlalchemy.dialects.postgresql import ARRAY, array

from flask_mercure.errors import InvalidArgument
from flask_mercure.outbox.table import WAITING, moment
from flask_mercure.updates import Publication

# Locks of PostgreSQL that writers of the same topic take until their commit: "merc" as a number, and one of
# these buckets. A lock for each topic could exhaust the server's table of locks.
_LOCK_SPACE = 0x6D657263
_LOCK_BUCKETS = 256


def check(publication: Publication) -> None:
    """Refuse what could be stored and never be sent, or not be stored.

    :raises InvalidArgument: the text cannot be encoded, or holds NUL, which PostgreSQL does not store.
    """
    publication.encode()
    for name, text in (("data", publication.data), ("type", publication.type), ("id", publication.id)):
        if text is not None and "\0" in text:
            raise InvalidArgument(f"{name} holds the character NUL, which a database column cannot carry")


def write(
    connection: Connection, table: Table, updates: Sequence[tuple[str, Publication]], now: float
) -> None:
    """Insert updates within the transaction of a connection.

    In PostgreSQL, transactions that write the same topic wait for each other from here to their commit: the
    order of the rows is the order of the commits. Called at the end of a transaction, this takes no
    time, and no lock that is taken later can close a circle. SQLite has one writer at a time anyway.

    :param connection: in a transaction.
    :param table: made by :func:`~flask_mercure.outbox.table.outbox_table`.
    :param updates: name of the hub, and the update, which has an id.
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
    """The topics of a row."""
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
