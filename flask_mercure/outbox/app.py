"""The outbox of an app: how updates come into it, and what happens when they are committed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from flask import Flask
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session, scoped_session

from flask_mercure.errors import ConfigurationError, InvalidArgument
from flask_mercure.outbox.binding import Outbox
from flask_mercure.outbox.commit import write_at_commit
from flask_mercure.outbox.rows import check, write
from flask_mercure.outbox.thread import RelayThread
from flask_mercure.outbox.transaction import Outgoing, Ready, collect
from flask_mercure.publishing import recorder
from flask_mercure.publishing.pipeline import pipeline_of
from flask_mercure.updates import Publication

Target = Session | AsyncSession | scoped_session[Any] | Connection
"""Whose transaction an update belongs to."""


class AppOutbox:
    """The outbox of one app.

    :param binding: where its rows are.
    :param relay_thread: sends them from this process; ``None`` where another process does.
    """

    def __init__(self, binding: Outbox, relay_thread: RelayThread | None = None) -> None:
        self.binding = binding
        self.relay_thread = relay_thread

    def add(self, hub: str, publications: Sequence[Publication], target: Target | None = None) -> list[str]:
        """Publish updates when a transaction commits.

        :param hub: name of the hub.
        :param publications: in order.
        :param target: whose transaction; ``None`` stands for the app's current session, and without such a
            thing they are a transaction of their own.
        :returns: their ids.
        :raises InvalidArgument: a database cannot store one, or the connection has no transaction.
        :raises TypeError: the target is of another kind.
        """
        table = self.binding.table
        named = [one.with_id() for one in publications]
        for one in named:
            check(one)
        found = self._session_or_connection(target)
        if isinstance(found, Session):
            for one in named:
                collect(found, object(), Ready(Outgoing(hub, one, table, self)))
        elif found is not None:
            # Nobody is told when that is done. The relay looks by itself.
            write_at_commit(found, table, [(hub, one) for one in named])
        else:
            with self.binding.engine.begin() as connection:
                write(connection, table, [(hub, one) for one in named], time.time())
            self.written()
        return [one.id or "" for one in named]

    def settled(self, updates: Sequence[Outgoing]) -> None:
        """Updates were written, in a transaction that is committed."""
        for update in updates:
            if recorder.is_recording():
                recorder.take(update.hub, [update.publication], from_outbox=True)
        self.written()

    def written(self) -> None:
        """Rows were committed: have them sent, if this process does that."""
        if self.relay_thread is not None:
            self.relay_thread.wake()

    def _session_or_connection(self, target: Target | None) -> Session | Connection | None:
        found = self.binding.current_session() if target is None else target
        if isinstance(found, scoped_session):
            found = found()
        if isinstance(found, AsyncSession):
            return found.sync_session
        if found is None or isinstance(found, Session):
            return found
        if not isinstance(found, Connection):
            raise TypeError(
                f"an update is written with a Session or a Connection, not with a {type(found).__name__}"
            )
        if not found.in_transaction():
            raise InvalidArgument("the connection has no transaction to write in; use engine.begin()")
        return found


def outbox_of(app: Flask) -> AppOutbox:
    """The outbox of an app.

    :raises ConfigurationError: it has none.
    """
    outbox = pipeline_of(app).outbox
    if not isinstance(outbox, AppOutbox):
        raise ConfigurationError(
            f"the app {app.name!r} has no outbox: set MERCURE_OUTBOX to its database, such as your db object"
        )
    return outbox
