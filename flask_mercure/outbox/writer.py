"""Publishing within a transaction: ``mercure.outbox(session).publish(...)``."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from flask import Flask, current_app
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session, scoped_session

from flask_mercure.broadcast.transaction import Outgoing, Ready, collect
from flask_mercure.content import UNSET, Unset
from flask_mercure.errors import ConfigurationError, InvalidArgument
from flask_mercure.outbox.binding import Outbox
from flask_mercure.outbox.rows import check, write
from flask_mercure.publication import Publication
from flask_mercure.reliability import reliability_of, with_id
from flask_mercure.state import state_of
from flask_mercure.update import Update

if TYPE_CHECKING:
    from flask_mercure.encryption import Recipients

Target = Session | AsyncSession | scoped_session[Any] | Connection
"""Whose transaction an update belongs to."""


class OutboxWriter:
    """Publishes on one hub when a transaction commits.

    :param hub: name of the hub; ``None`` for the default one.
    :param target: a session, an asynchronous one, a ``scoped_session``, or a connection in a transaction.
        ``None`` stands for the app's current session; without such a thing each update is a transaction of
        its own.
    """

    def __init__(self, hub: str | None, target: Target | None = None) -> None:
        self._hub = hub
        self._target = target

    def publish(
        self,
        topics: str | Iterable[str],
        data: Any = "",
        *,
        private: bool = False,
        id: str | None = None,
        type: str | None = None,
        retry: int | None = None,
        encrypt_for: Recipients | Literal[Unset.UNSET] = UNSET,
    ) -> str:
        """Publish an update when the transaction commits; a rollback, of a savepoint too, takes it back.

        ``data`` is written as JSON now: what changes in it later is not published. The other arguments are
        those of :meth:`flask_mercure.Mercure.publish`.

        :returns: the id of the update.
        :raises ConfigurationError: the app has no outbox.
        :raises EncryptionError: a key cannot be used.
        :raises InvalidArgument: the hub would refuse the update, or a database cannot store it.
        :raises TypeError: an argument has the wrong type, or ``data`` cannot be written as JSON.
        """
        publication = Update(topics, data, private, id, type, retry, encrypt_for).publication()
        return self.add([publication])[0]

    def add(self, publications: Sequence[Publication]) -> list[str]:
        """Publish updates that are made already.

        :param publications: in order.
        :returns: their ids.
        """
        app: Flask = current_app._get_current_object()  # type: ignore[attr-defined]
        outbox = outbox_of(app)
        reliability = reliability_of(app)
        hub = state_of(app).hub(self._hub).name
        named = [with_id(one) for one in publications]
        for one in named:
            check(one)
        target = self._session_or_connection(outbox)
        if isinstance(target, Session):
            for one in named:
                update = Outgoing(hub, one, outbox.table, reliability)
                collect(target, object(), Ready(update))
        elif target is not None:
            # A connection tells nobody of its commit. The relay looks by itself.
            write(target, outbox.table, [(hub, one) for one in named], time.time())
        else:
            with outbox.engine.begin() as connection:
                write(connection, outbox.table, [(hub, one) for one in named], time.time())
            reliability.written()
        return [one.id or "" for one in named]

    def _session_or_connection(self, outbox: Outbox) -> Session | Connection | None:
        target = outbox.current_session() if self._target is None else self._target
        if isinstance(target, scoped_session):
            target = target()
        if isinstance(target, AsyncSession):
            return target.sync_session
        if target is None or isinstance(target, Session):
            return target
        if not isinstance(target, Connection):
            raise TypeError(
                f"an update is written with a Session or a Connection, not with a {type(target).__name__}"
            )
        if not target.in_transaction():
            raise InvalidArgument("the connection has no transaction to write in; use engine.begin()")
        return target


def outbox_of(app: Flask) -> Outbox:
    """The outbox of an app.

    :raises ConfigurationError: it has none.
    """
    outbox = reliability_of(app).outbox
    if outbox is None:
        raise ConfigurationError(
            f"the app {app.name!r} has no outbox: set MERCURE_OUTBOX to its database, such as your db object"
        )
    return outbox
