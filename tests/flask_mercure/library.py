"""An application with a database: books and authors, with and without an outbox."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from flask import Flask
from sqlalchemy import Connection, Engine, ForeignKey, create_engine, event, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship, sessionmaker
from sqlalchemy.pool import NullPool

from flask_mercure import Mercure
from flask_mercure.database import Outbox
from flask_mercure.state import state_of
from tests.flask_mercure.fake_hub import SECRET


@dataclass
class Library:
    """The app under test."""

    app: Flask
    mercure: Mercure
    engine: Engine
    sessions: sessionmaker[Session]
    base: Any
    Book: Any
    Author: Any
    outbox: Outbox | None


def models(mercure: Mercure, **book: Any) -> tuple[Any, Any, Any]:
    """Fresh classes: each test marks its own; ``book`` are the arguments of ``broadcast``."""

    class Base(DeclarativeBase):
        pass

    class Author(Base):
        __tablename__ = "author"
        id: Mapped[int] = mapped_column(primary_key=True)
        name: Mapped[str]
        books: Mapped[list[Any]] = relationship("Book", cascade="all, delete-orphan", back_populates="author")

    class Book(Base):
        __tablename__ = "book"
        id: Mapped[int] = mapped_column(primary_key=True)
        title: Mapped[str]
        price: Mapped[int] = mapped_column(default=0)
        author_id: Mapped[int | None] = mapped_column(ForeignKey("author.id"))
        author: Mapped[Any] = relationship("Author", back_populates="books")

    # Annotations of a local class are looked up in the module; the relations name the classes in text.
    book.setdefault("topics", "books/{id}")
    book.setdefault("private", False)
    if "serializer" not in book:
        book.setdefault("columns", ("id", "title", "price", "author_id"))
    mercure.broadcast(**book)(Book)
    return Base, Book, Author


@contextmanager
def library(
    database: str, hub_url: str, *, outbox: bool = False, book: Any = None, **config: Any
) -> Iterator[Library]:
    """The app on a database.

    :param database: URL of an empty one.
    :param hub_url: where to publish.
    :param outbox: whether ``MERCURE_OUTBOX`` is set.
    :param book: arguments of ``broadcast`` for the model ``Book``.
    :param config: keys of the configuration, without ``MERCURE_``.
    """
    mercure = Mercure()
    base, book_model, author_model = models(mercure, **(book or {}))
    engine = create_engine(database, poolclass=NullPool)
    if database.startswith("sqlite"):

        @event.listens_for(engine, "connect")
        def pragmas(connection: Any, _record: Any) -> None:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA busy_timeout=20000")

    sessions = sessionmaker(engine)
    made = Outbox(sessions, base.metadata) if outbox else None
    base.metadata.create_all(engine)
    app = Flask("library")
    app.config.update(MERCURE_URL=hub_url, MERCURE_JWT_SECRET=SECRET, MERCURE_OUTBOX=made)
    app.config.update({f"MERCURE_{key}": value for key, value in config.items()})
    mercure.init_app(app)
    try:
        with app.app_context():
            yield Library(app, mercure, engine, sessions, base, book_model, author_model, made)
    finally:
        state_of(app).publisher.close()
        engine.dispose()


def commit_breaker(books: Library) -> Callable[[Session | Connection], None]:
    """Prepare the database for transactions whose COMMIT fails.

    :returns: has that of a session or a connection break a rule that is looked at only then.
    """
    if books.engine.dialect.name == "sqlite":

        @event.listens_for(books.engine, "connect")
        def pragmas(connection: Any, _record: Any) -> None:
            connection.execute("PRAGMA foreign_keys=ON")

    with books.engine.begin() as connection:
        connection.execute(text("CREATE TABLE parent (id INTEGER PRIMARY KEY)"))
        connection.execute(
            text("CREATE TABLE child (parent INTEGER REFERENCES parent (id) DEFERRABLE INITIALLY DEFERRED)")
        )

    def break_commit(target: Session | Connection) -> None:
        target.execute(text("INSERT INTO child VALUES (1)"))

    return break_commit
