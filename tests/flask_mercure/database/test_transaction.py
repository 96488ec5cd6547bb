"""Writing updates with the change that they tell of, in each kind of transaction."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import MetaData, create_engine, inspect, select, text
from sqlalchemy.dialects import mysql
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.orm import Session, scoped_session, sessionmaker
from sqlalchemy.pool import NullPool
from sqlalchemy.schema import CreateTable

from flask_mercure import ConfigurationError, InvalidArgument, Mercure, Update
from flask_mercure.database import Outbox, outbox_table
from flask_mercure.database.outbox import outbox_of, relay_for
from flask_mercure.database.table import write
from flask_mercure.publishing.recorder import record
from flask_mercure.updates import Publication
from tests.flask_mercure.databases import failing_commit
from tests.flask_mercure.fake_hub import SECRET
from tests.flask_mercure.library import Library, commit_breaker, library

pytestmark = pytest.mark.minutes

NOWHERE = "http://127.0.0.1:9/.well-known/mercure"
Open = Callable[..., AbstractContextManager[Library]]


@pytest.fixture
def open_library(database: str) -> Open:
    def make(**options: Any) -> AbstractContextManager[Library]:
        return library(database, NOWHERE, **{"outbox": True, **options})

    return make


@pytest.fixture
def books(open_library: Open) -> Iterator[Library]:
    with open_library() as opened:
        yield opened


def stored(books: Library) -> list[tuple[str, Any]]:
    """Topic and data of what is in the outbox."""
    assert books.outbox is not None
    table = books.outbox.table
    with books.engine.connect() as connection:
        found = connection.execute(select(table).order_by(table.c.sequence)).all()
    return [(json.loads(row.topics)[0], row.data) for row in found]


def test_an_update_is_there_with_the_commit(books: Library) -> None:
    with books.sessions() as session:
        id_ = books.mercure.outbox(session).publish("a", {"x": 1}, private=True)
        assert stored(books) == []
        session.commit()
    assert stored(books) == [("a", '{"x": 1}')]
    assert id_.startswith("urn:uuid:")


def test_rollbacks_discard_updates(books: Library) -> None:
    with books.sessions() as session:
        books.mercure.outbox(session).publish("a", "never", private=False)
        session.rollback()
        books.mercure.outbox(session).publish("a", "1", private=False)
        with pytest.raises(ZeroDivisionError), session.begin_nested():
            books.mercure.outbox(session).publish("a", "of a savepoint", private=False)
            raise ZeroDivisionError
        with session.begin_nested():
            books.mercure.outbox(session).publish("a", "2", private=False)
        session.commit()
    assert stored(books) == [("a", "1"), ("a", "2")]


def test_models_are_written_in_the_same_transaction(books: Library) -> None:
    with books.sessions() as session:
        session.add(books.Book(title="kept"))
        session.commit()
        session.add(books.Book(title="never"))
        session.flush()
        session.rollback()
    ((topic, data),) = stored(books)
    assert topic == "books/1"
    assert json.loads(data)["title"] == "kept"


def test_a_commit_that_fails_leaves_nothing(books: Library) -> None:
    assert books.outbox is not None
    books.outbox.table.drop(books.engine)
    with books.sessions() as session:
        session.add(books.Book(title="x"))
        with pytest.raises(Exception, match="mercure_outbox"):
            session.commit()
    books.outbox.table.create(books.engine)
    with books.sessions() as session:
        assert session.scalars(select(books.Book)).all() == []


class Woken:
    """Stands for the relay's thread."""

    def __init__(self) -> None:
        self.count = 0

    def wake(self) -> None:
        self.count += 1


@pytest.fixture
def relay_thread(books: Library, monkeypatch: pytest.MonkeyPatch) -> Woken:
    woken = Woken()
    monkeypatch.setattr(outbox_of(books.app), "relay_thread", woken)
    return woken


@pytest.mark.parametrize("then", ["rollback", "close"])
def test_a_session_whose_commit_fails_publishes_nothing(
    books: Library, relay_thread: Woken, then: str
) -> None:
    break_commit = commit_breaker(books)
    with record() as updates:
        with books.sessions() as session:
            session.add(books.Book(title="never"))
            books.mercure.outbox(session).publish("a", "never", private=False)
            break_commit(session)
            with pytest.raises(IntegrityError):
                session.commit()
            assert (updates, relay_thread.count) == ([], 0)
            if then == "rollback":
                session.rollback()
            else:
                session.close()
            assert (updates, relay_thread.count) == ([], 0)
            assert stored(books) == []
            books.mercure.outbox(session).publish("a", "later", private=False)
            session.commit()
        assert [update.data for update in updates] == ["later"]
    assert relay_thread.count == 1
    assert stored(books) == [("a", "later")]


def test_a_connection_whose_commit_fails_publishes_nothing(books: Library, relay_thread: Woken) -> None:
    break_commit = commit_breaker(books)
    with pytest.raises(IntegrityError), books.engine.begin() as connection:
        books.mercure.outbox(connection).publish("a", "never", private=False)
        break_commit(connection)
    assert (stored(books), relay_thread.count) == ([], 0)


def test_an_update_whose_own_transaction_fails_at_its_commit_is_not_published(
    books: Library, relay_thread: Woken
) -> None:
    with failing_commit(books.engine), pytest.raises(OperationalError, match="the disk is full"):
        books.mercure.outbox().publish("a", "never", private=False)
    assert (stored(books), relay_thread.count) == ([], 0)
    books.mercure.outbox().publish("a", "later", private=False)
    assert (stored(books), relay_thread.count) == ([("a", "later")], 1)


def test_what_later_hooks_change_is_written_too(books: Library) -> None:
    from sqlalchemy import event

    with books.sessions() as session:
        book = books.Book(title="a")
        session.add(book)

        @event.listens_for(session, "before_commit")
        def late(_session: Session) -> None:
            book.title = "b"

        session.commit()
    assert [json.loads(data)["title"] for _, data in stored(books)][-1] == "b"


def test_a_connection_writes_updates(books: Library) -> None:
    with books.engine.begin() as connection:
        books.mercure.outbox(connection).publish("a", "1", private=False)
    with pytest.raises(ZeroDivisionError), books.engine.begin() as connection:
        books.mercure.outbox(connection).publish("a", "never", private=False)
        raise ZeroDivisionError
    with books.engine.connect() as connection, pytest.raises(InvalidArgument, match="no transaction"):
        books.mercure.outbox(connection).publish("a", "never", private=False)
    assert stored(books) == [("a", "1")]


def test_a_scoped_session_writes_updates(books: Library) -> None:
    scope = scoped_session(books.sessions)
    books.mercure.outbox(scope).publish("a", "1", private=False)
    scope.commit()
    scope.remove()
    assert stored(books) == [("a", "1")]


def test_without_a_current_session_it_is_a_transaction_of_its_own(books: Library) -> None:
    books.mercure.outbox().publish("a", "1", private=False)
    assert stored(books) == [("a", "1")]


def test_publish_uses_it_when_asked(open_library: Open) -> None:
    with open_library(OUTBOX_PUBLISH=True) as books:
        books.mercure.publish("a", "1", private=False)
        books.mercure.publish_many([Update("a", "2", private=False), Update("b", "3", private=False)])
        assert stored(books) == [("a", "1"), ("a", "2"), ("b", "3")]


def test_a_session_that_is_closed_without_commit_is_told(
    books: Library, caplog: pytest.LogCaptureFixture
) -> None:
    with books.sessions() as session:
        books.mercure.outbox(session).publish("forgotten", "secret", private=False)
    assert "closed without commit" in caplog.text
    assert "forgotten" in caplog.text
    assert "secret" not in caplog.text


@pytest.mark.parametrize(
    ("topic", "data", "words"), [("a", "x\0", "NUL"), ("a", "\ud800", "surrogate"), ("*", "x", "wildcard")]
)
def test_what_could_not_be_sent_is_not_written(books: Library, topic: str, data: str, words: str) -> None:
    with books.sessions() as session:
        with pytest.raises(InvalidArgument, match=words):
            books.mercure.outbox(session).publish(topic, data, private=False)
        session.commit()
    assert stored(books) == []


def test_the_order_of_a_topic_is_the_order_of_commits(books: Library) -> None:
    """A transaction that began earlier and commits later comes later, whatever the numbers were."""
    first, second = books.sessions(), books.sessions()
    books.mercure.outbox(first).publish("a", "began first", private=False)
    books.mercure.outbox(second).publish("a", "began second", private=False)
    second.commit()
    first.commit()
    first.close()
    second.close()
    assert [data for _, data in stored(books)] == ["began second", "began first"]


def test_writers_of_one_topic_wait_for_each_other(books: Library) -> None:
    """No number is given for a topic while an earlier number of it may still appear."""
    if books.engine.dialect.name != "postgresql":
        pytest.skip("SQLite has one writer at a time")
    assert books.outbox is not None
    with books.engine.begin() as connection:
        write(
            connection,
            books.outbox.table,
            [("default", Publication(["a"], "1", id="urn:x:1", private=False))],
            0,
        )
        app, done = books.app, threading.Event()

        def other() -> None:
            with app.app_context(), books.engine.begin() as late:
                books.mercure.outbox(late).publish(["b", "a"], "2", private=False)
            done.set()

        thread = threading.Thread(target=other)
        thread.start()
        with books.engine.begin() as free:
            books.mercure.outbox(free).publish("another topic", "3", private=False)  # waits for nobody
        assert not done.wait(0.2)
    thread.join(10)
    assert done.is_set()
    assert sorted(data for _, data in stored(books)) == ["1", "2", "3"]


def test_no_deadlock_between_a_topic_and_a_row_of_the_app(books: Library) -> None:
    """One transaction has the topic and wants the row, another the row and then the topic."""
    if books.engine.dialect.name != "postgresql":
        pytest.skip("SQLite has one writer at a time")
    with books.sessions() as session:
        session.add(books.Book(id=1, title="x"))
        session.commit()
    change = text("UPDATE book SET price = price + 1 WHERE id = 1")
    has_row, has_published = threading.Event(), threading.Event()
    errors: list[BaseException] = []

    def other() -> None:
        try:
            with books.app.app_context(), books.engine.begin() as connection:
                connection.execute(change)
                has_row.set()
                has_published.wait(10)
                books.mercure.outbox(connection).publish("a", "2", private=False)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=other)
    thread.start()
    assert has_row.wait(10)
    with books.engine.begin() as connection:
        books.mercure.outbox(connection).publish("a", "1", private=False)
        has_published.set()
        connection.execute(change)
    thread.join(30)
    assert errors == []
    assert sorted(data for topic, data in stored(books) if topic == "a") == ["1", "2"]


def test_savepoints_of_a_connection(books: Library) -> None:
    with books.engine.begin() as connection:
        outbox = books.mercure.outbox(connection)
        before = connection.begin_nested()
        outbox.publish("a", "never", private=False)  # the first, in a savepoint that was set before
        before.rollback()
        outbox.publish("a", "1", private=False)
        with connection.begin_nested():
            outbox.publish("a", "2", private=False)
            with pytest.raises(ZeroDivisionError), connection.begin_nested():
                outbox.publish("a", "never", private=False)
                _ = 1 / 0
            outbox.publish("a", "3", private=False)
        last = connection.begin_nested()
        outbox.publish("a", "never", private=False)
        last.rollback()
        outbox.publish("a", "4", private=False)
    with books.engine.connect() as connection:
        with connection.begin():
            books.mercure.outbox(connection).publish("a", "5", private=False)
        connection.begin()
        books.mercure.outbox(connection).publish("a", "never", private=False)
        connection.rollback()
        with connection.begin():
            books.mercure.outbox(connection).publish("a", "6", private=False)
    assert [data for _, data in stored(books)] == list("123456")


def test_the_connection_of_a_session(books: Library) -> None:
    with books.sessions() as session:
        books.mercure.outbox(session.connection()).publish("a", "1", private=False)
        assert stored(books) == []
        session.commit()
        books.mercure.outbox(session.connection()).publish("a", "never", private=False)
        session.rollback()
        books.mercure.outbox(session.connection()).publish("a", "never", private=False)
    assert stored(books) == [("a", "1")]


def test_a_connection_that_commits_by_itself(books: Library) -> None:
    with books.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("SELECT 1"))
        books.mercure.outbox(connection).publish("a", "1", private=False)
        assert stored(books) == [("a", "1")]


@pytest.mark.parametrize("is_prepared", [False, True])
def test_a_commit_in_two_phases_writes_updates(books: Library, is_prepared: bool) -> None:
    if books.engine.dialect.name != "postgresql":
        pytest.skip("SQLite has no second phase")
    with books.engine.connect() as connection, connection.begin_twophase() as transaction:
        books.mercure.outbox(connection).publish("a", "1", private=False)
        if is_prepared:
            transaction.prepare()
        transaction.commit()
    with books.engine.connect() as connection, connection.begin_twophase() as transaction:
        books.mercure.outbox(connection).publish("a", "never", private=False)
        transaction.rollback()
    with Session(books.engine, twophase=True) as session:
        books.mercure.outbox(session).publish("a", "2", private=False)
        if is_prepared:
            session.prepare()
        session.commit()
    assert [data for _, data in stored(books)] == ["1", "2"]


def test_no_deadlock_between_writers_of_many_topics(books: Library) -> None:
    topics = [f"t{number}" for number in range(400)]
    errors: list[BaseException] = []

    def work(mine: list[str]) -> None:
        try:
            with books.app.app_context():
                for _ in range(5):
                    with books.sessions() as session:
                        for topic in mine:
                            books.mercure.outbox(session).publish(topic, "x", private=False)
                        session.commit()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(given,)) for given in (topics, topics[::-1])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
    assert len(stored(books)) == 4000


def test_mysql_has_room_for_long_updates() -> None:
    made = str(CreateTable(outbox_table(MetaData())).compile(dialect=mysql.dialect()))
    assert "data LONGTEXT NOT NULL" in made
    assert "topics LONGTEXT NOT NULL" in made


def test_a_recording_has_an_update_once_though_the_relay_brings_it_again(books: Library) -> None:
    with books.app.app_context(), record() as updates:
        with books.sessions() as session:
            books.mercure.outbox(session).publish("a", "session", private=False)
            session.commit()
        with books.engine.begin() as connection:
            books.mercure.outbox(connection).publish("a", "connection", private=False)
        with closing(relay_for(books.app)) as relay:
            assert relay.run_once().sent == 2
        assert stored(books) == []
    assert [update.data for update in updates] == ["session", "connection"]


def test_a_recording_has_what_was_committed(books: Library) -> None:
    with record() as updates, books.sessions() as session:
        books.mercure.outbox(session).publish("a", "never", private=False)
        session.rollback()
        books.mercure.outbox(session).publish("a", "1", private=False)
        session.add(books.Book(title="x"))
        session.commit()
    assert [update.topic for update in updates] == ["a", "books/1"]


def test_an_asynchronous_session_writes_updates(postgresql: str) -> None:
    from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

    with library(postgresql, NOWHERE, outbox=True) as books:

        async def work() -> None:
            engine = create_async_engine(postgresql, poolclass=NullPool)
            async with AsyncSession(engine) as session:
                books.mercure.outbox(session).publish("a", "1", private=False)
                await session.commit()
            await engine.dispose()

        asyncio.run(work())
        assert stored(books) == [("a", "1")]


def test_flask_sqlalchemy_and_migrations(postgresql: str) -> None:
    """The table comes with the metadata of ``db``, so that Alembic writes it into the next migration."""
    flask_sqlalchemy = pytest.importorskip("flask_sqlalchemy")
    from alembic.autogenerate import produce_migrations, render_python_code
    from alembic.migration import MigrationContext

    db, mercure = flask_sqlalchemy.SQLAlchemy(engine_options={"poolclass": NullPool}), Mercure()
    app = Flask("notes")
    app.config.update(
        MERCURE_URL=NOWHERE,
        MERCURE_JWT_SECRET=SECRET,
        MERCURE_OUTBOX=True,
        MERCURE_OUTBOX_PUBLISH="true",
        SQLALCHEMY_DATABASE_URI=postgresql,
    )
    db.init_app(app)
    mercure.init_app(app)
    table = db.metadata.tables["mercure_outbox"]
    with app.app_context():
        with db.engine.connect() as connection:
            context = MigrationContext.configure(connection)
            assert context.opts is not None
            migration = produce_migrations(context, db.metadata)
            assert migration.upgrade_ops is not None
            code = render_python_code(migration.upgrade_ops)
        assert "op.create_table('mercure_outbox'" in code
        assert "flask_mercure" not in code
        db.create_all()
        mercure.publish("a", "never", private=False)
        db.session.rollback()
        mercure.publish("a", "1", private=False)
        db.session.commit()
        assert db.session.execute(select(table.c.data)).scalars().all() == ["1"]
        db.session.commit()
        with db.engine.connect() as connection:
            context = MigrationContext.configure(connection)
            again = produce_migrations(context, db.metadata)
            assert again.upgrade_ops is not None
            assert again.upgrade_ops.is_empty()
        assert {index["name"] for index in inspect(db.engine).get_indexes("mercure_outbox")} == {
            "ix_mercure_outbox_state_sequence"
        }


def configured(**config: Any) -> Flask:
    app = Flask("configured")
    app.config.update(MERCURE_JWT_SECRET=SECRET)
    app.config.update({f"MERCURE_{key}": value for key, value in config.items()})
    Mercure(app)
    return app


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"OUTBOX": True}, "the app has no Flask-SQLAlchemy yet"),
        ({"OUTBOX": 7}, "is a int; name a Flask-SQLAlchemy object"),
        ({"OUTBOX": "no.such:thing"}, "cannot be imported"),
        ({"OUTBOX_PUBLISH": True}, "MERCURE_OUTBOX is not set"),
        ({"RELAY_THREAD": "yes"}, "MERCURE_OUTBOX is not set"),
        ({"ON_FAILURE": "ignore"}, "use 'raise', 'log' or 'background'"),
        ({"BACKGROUND_QUEUE": 0}, "1 or more"),
    ],
)
def test_configurations_that_do_not_work(config: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        configured(**config)


def test_an_outbox_by_import_path_and_off() -> None:
    configured(OUTBOX=f"{__name__}:IMPORTED")
    configured(OUTBOX="false")
    with configured().app_context(), pytest.raises(ConfigurationError, match="set MERCURE_OUTBOX"):
        Mercure().outbox().publish("a", private=False)


IMPORTED = create_engine("sqlite://", poolclass=NullPool)


def test_sources_of_an_outbox() -> None:
    metadata = MetaData(schema="app")
    table = outbox_table(metadata)
    assert outbox_table(metadata) is table
    assert Outbox(IMPORTED, metadata).table is table
    assert Outbox(sessionmaker(IMPORTED)).engine is IMPORTED
    assert Outbox(scoped_session(sessionmaker(IMPORTED))).engine is IMPORTED
    with pytest.raises(ConfigurationError, match="without bind="):
        _ = Outbox(sessionmaker()).engine
    assert logging.getLogger("flask_mercure").handlers == []
