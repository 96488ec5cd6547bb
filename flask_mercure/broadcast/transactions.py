"""Publishing with the application's database: models, and the outbox."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar, overload

from flask_mercure.errors import ConfigurationError
from flask_mercure.publishing.pipeline import OnFailure
from mercure_hub import INSTALL

if TYPE_CHECKING:
    from flask_mercure.broadcast.rule import Topics
    from flask_mercure.outbox.app import Target
    from flask_mercure.outbox.writer import OutboxWriter

_Model = TypeVar("_Model", bound=type[Any])


class PublishesTransactions:
    """The part of :class:`flask_mercure.Hub` that follows the transactions of a database."""

    _name: str | None

    def outbox(self, target: Target | None = None) -> OutboxWriter:
        """Publish within a transaction: the update is stored by its commit, and a relay sends it.

        :param target: a SQLAlchemy session, or a connection that has a transaction; default: the app's
            current session, and without such a thing a transaction for each update.
        :returns: an object with ``publish``, which takes the arguments of :meth:`publish`.
        :raises ConfigurationError: SQLAlchemy is not installed; from ``publish``: the app has no outbox.
        """
        writer: type[OutboxWriter] = _load("flask_mercure.outbox.writer").OutboxWriter
        return writer(self._name, target)

    @overload
    def broadcast(
        self,
        topics: Topics,
        *,
        columns: Collection[str],
        private: bool | Callable[[Any], bool],
        on: str | Iterable[str] = ...,
        type: str | Callable[[Any], str | None] | None = ...,
        deleted: Any = ...,
        on_failure: OnFailure | None = ...,
    ) -> Callable[[_Model], _Model]: ...

    @overload
    def broadcast(
        self,
        topics: Topics,
        *,
        serializer: Any,
        private: bool | Callable[[Any], bool],
        on: str | Iterable[str] = ...,
        type: str | Callable[[Any], str | None] | None = ...,
        deleted: Any = ...,
        on_failure: OnFailure | None = ...,
    ) -> Callable[[_Model], _Model]: ...

    def broadcast(
        self,
        topics: Topics,
        *,
        columns: Collection[str] | None = None,
        serializer: Any = None,
        private: bool | Callable[[Any], bool] | None = None,
        on: str | Iterable[str] = ("create", "update", "delete"),
        type: str | Callable[[Any], str | None] | None = None,
        deleted: Any = None,
        on_failure: OnFailure | None = None,
    ) -> Callable[[_Model], _Model]:
        """Mark a SQLAlchemy model: what happens to its objects is published when it is committed. ::

            @mercure.broadcast("books/{id}", columns=("id", "title"), private=False)
            class Book(db.Model): ...

        What is published, and to whom, has no default: say ``columns`` or ``serializer``, and ``private``.

        Each object gets one update for a transaction, with its last state. With ``MERCURE_OUTBOX`` the update
        is written in the transaction; without, it is sent after the commit. Statements that bypass the
        session, such as ``update(Book).where(...)``, publish nothing. A topic that an object loses by an
        update gets a deletion, if ``on`` has ``delete``.

        :param topics: ``"books/{id}"``, a format string over the object's attributes, which are encoded as by
            :func:`~flask_mercure.build_topic`; a callable that is given the object and returns a topic,
            several, or none to publish nothing; or several of these.
        :param columns: names of attributes: all that subscribers can read.
        :param serializer: in their place a callable that is given the object, or an object with ``dump``,
            such as a marshmallow schema.
        :param private: True: only subscribers whose token allows a topic read it; False: everybody who can
            connect; or a callable that is given the object and returns one of these.
        :param on: ``create``, ``update``, ``delete``, or several.
        :param type: event type, or a callable that is given one of these three words.
        :param deleted: serializer for deletions; default: the primary key and ``"deleted": true``.
        :param on_failure: as for :meth:`publish`; default: ``MERCURE_ON_FAILURE``, or ``log`` where that is
            ``raise``. An object that cannot be serialised is logged too, unless this is ``raise``.
        :returns: a decorator for classes.
        :raises ConfigurationError: SQLAlchemy is not installed.
        :raises InvalidArgument: a value is not one of those that there are.
        :raises TypeError: a value is of the wrong type, or the class is no model.
        """
        made = _load("flask_mercure.broadcast.rule").rule(
            self._name,
            topics,
            columns=columns,
            serializer=serializer,
            private=private,
            on=on,
            type=type,
            deleted=deleted,
            on_failure=on_failure,
        )
        models = _load("flask_mercure.broadcast.models")

        def mark(model: _Model) -> _Model:
            models.broadcast_model(model, made)
            return model

        return mark


def _load(module: str) -> Any:
    """A module that needs SQLAlchemy.

    :raises ConfigurationError: it is not installed.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"this needs a package that is not installed ({error.name}); {INSTALL.format('outbox')}"
        ) from None
