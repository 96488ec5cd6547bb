"""Which database the outbox is in: what ``MERCURE_OUTBOX`` names, as engine, table and session."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Engine, MetaData, Table
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from flask_mercure.errors import ConfigurationError
from flask_mercure.outbox.table import outbox_table

_USE = (
    "a Flask-SQLAlchemy object, a sessionmaker or scoped_session with bind=, an Engine, an Outbox, or the "
    "import path of one of these, such as 'package.module:db'"
)


class Outbox:
    """An outbox: where its rows are, and whose transactions write them.

    :param source: a Flask-SQLAlchemy object, a ``sessionmaker`` or ``scoped_session`` with ``bind=``, or an
        ``Engine``.
    :param metadata: that carries the table; default: that of the Flask-SQLAlchemy object, else one of its
        own, which Alembic does not see.
    :raises TypeError: the source is none of these.
    """

    def __init__(self, source: Any, metadata: MetaData | None = None) -> None:
        is_flask_sqlalchemy = hasattr(type(source), "engines") and hasattr(source, "metadata")
        if not (is_flask_sqlalchemy or isinstance(source, Engine | sessionmaker | scoped_session)):
            raise TypeError(f"an outbox needs {_USE}; this is a {type(source).__name__}")
        if metadata is None:
            metadata = source.metadata if is_flask_sqlalchemy else MetaData()
        self._source = source
        self._is_flask_sqlalchemy = is_flask_sqlalchemy
        self.table: Table = outbox_table(metadata)

    @property
    def engine(self) -> Engine:
        """Of the database; with Flask-SQLAlchemy it needs the context of the app.

        :raises ConfigurationError: the sessions are bound to no engine.
        """
        source = self._source
        if isinstance(source, Engine):
            return source
        if self._is_flask_sqlalchemy:
            key = self.table.metadata.info.get("bind_key")
            engine = source.engines[key]
        else:
            factory = source.session_factory if isinstance(source, scoped_session) else source
            engine = getattr(factory, "kw", {}).get("bind")
        if not isinstance(engine, Engine):
            raise ConfigurationError(
                "MERCURE_OUTBOX names sessions without bind=: give an Engine, which the relay reads from"
            )
        return engine

    def current_session(self) -> Session | None:
        """The session of this thread or app context, where the source has such a thing."""
        source = self._source
        if self._is_flask_sqlalchemy:
            source = source.session
        if isinstance(source, scoped_session):
            session: Session = source()
            return session
        return None


def bind(value: Any, extensions: dict[str, Any]) -> Outbox:
    """The outbox that the configuration names.

    :param value: of ``MERCURE_OUTBOX``, imported already; ``True`` stands for the app's Flask-SQLAlchemy.
    :param extensions: of the app.
    :raises ValueError: with the end of a sentence that begins with the key.
    """
    if value is True:
        value = extensions.get("sqlalchemy")
        if value is None:
            raise ValueError(
                "is True, and the app has no Flask-SQLAlchemy yet: call db.init_app(app) before "
                f"mercure.init_app(app), or name {_USE}"
            )
    if isinstance(value, Outbox):
        return value
    try:
        return Outbox(value)
    except TypeError:
        raise ValueError(f"is a {type(value).__name__}; name {_USE}") from None
