"""Publishing within a transaction: ``mercure.outbox(session).publish(...)``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Unpack

from flask import Flask, current_app

from flask_mercure.outbox.app import Target, outbox_of
from flask_mercure.state import state_of
from flask_mercure.updates import Update, UpdateOptions


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
        **options: Unpack[UpdateOptions],
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
        publication = Update(topics, data, **options).publication()
        app: Flask = current_app._get_current_object()  # type: ignore[attr-defined]
        return outbox_of(app).add(state_of(app).hub(self._hub).name, [publication], self._target)[0]
