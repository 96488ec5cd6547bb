"""The version of the tables, and the steps from one to the next.

A hub that starts brings the database to the version that it knows, in one transaction and while it has
the turn to write, so that of several processes one does it and the others find it done. During an upgrade
the hub before is still at work for some seconds: a step must leave tables that it can go on with. What
cannot, such as a column that is taken away, is for the version after.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

import sqlalchemy as sa

from mercure_hub.protocol.errors import StorageUnusable
from mercure_hub.storage import schema

_log = logging.getLogger("mercure_hub.storage")


def _complete(connection: sa.Connection) -> None:
    """To version 1: before it there was no table of presence, and none with a version."""
    schema.metadata.create_all(connection)


def _tell_events(connection: sa.Connection) -> None:
    """To version 2: events of the hub are told from updates of publishers; those of before count as such."""
    for table, names in (
        (schema.position, ("events", "updates_gone", "events_gone")),
        (schema.update, ("events_before", "event_bytes")),
    ):
        for name in names:
            column = sa.schema.CreateColumn(table.c[name]).compile(connection)
            connection.exec_driver_sql(f"ALTER TABLE {table.name} ADD COLUMN {column}")
    schema.events.create(connection)


STEPS: Mapping[int, Callable[[sa.Connection], None]] = {1: _complete, schema.KNOWS_EVENTS: _tell_events}
"""What leads to a version from the one before."""


def version_of(connection: sa.Connection) -> int | None:
    """The version of the tables: 0 before there were versions, ``None`` when there are no tables yet."""
    tables = sa.inspect(connection)
    if tables.has_table(schema.version.name):
        found: int | None = connection.scalar(sa.select(schema.version.c.version))
        if found is not None:
            return found
    return 0 if tables.has_table(schema.update.name) else None


def check(version: int, known: int | None = None) -> None:
    """Refuse tables of a hub that is newer than this one.

    :param known: the newest version that is known.
    :raises StorageUnusable: they are.
    """
    newest = max(STEPS) if known is None else known
    if version > newest:
        raise StorageUnusable(
            f"the database has tables of version {version}, made by a newer mercure-hub; this one knows "
            f"version {newest}: upgrade it again, or put back the backup from before the upgrade"
        )


def migrate(connection: sa.Connection, steps: Mapping[int, Callable[[sa.Connection], None]] = STEPS) -> int:
    """Bring the tables to the newest version, in a transaction that writes.

    :param steps: what leads to each version.
    :returns: the version.
    :raises StorageUnusable: they are of a newer one.
    """
    newest = max(steps)
    found = version_of(connection)
    if found is None:
        schema.metadata.create_all(connection)
    else:
        check(found, newest)
        for version in range(found + 1, newest + 1):
            steps[version](connection)
    if found != newest:
        connection.execute(sa.delete(schema.version))
        connection.execute(sa.insert(schema.version).values(id=1, version=newest))
        if found is not None:
            _log.info("the tables of the database were brought from version %d to %d", found, newest)
    if connection.scalar(sa.select(schema.position.c.id)) is None:
        connection.execute(sa.insert(schema.position).values(id=1, last_sequence=0))
    return newest
