"""Models that are broadcast, without an outbox: what is published, when, and to whom."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import PurePosixPath
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import event, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from flask_mercure import InvalidArgument, Mercure, PublishError
from flask_mercure.database.rules import topic_url
from tests.flask_mercure.fake_hub import SECRET, Answer, FakeHub, running
from tests.flask_mercure.library import Library, commit_breaker, library

pytestmark = pytest.mark.minutes

Open = Callable[..., AbstractContextManager[Library]]


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with running() as hub:
        yield hub


@pytest.fixture
def open_library(tmp_path: Any, hub: FakeHub) -> Open:
    def make(**options: Any) -> AbstractContextManager[Library]:
        return library(f"sqlite:///{tmp_path}/app.db", hub.url, **options)

    return make


@pytest.fixture
def books(open_library: Open) -> Iterator[Library]:
    with open_library() as opened:
        yield opened


def published(hub: FakeHub) -> list[tuple[str, Any]]:
    """Topic and data of what arrived."""
    found = []
    for request in hub.received:
        fields = dict(request.pairs)
        found.append((fields["topic"], json.loads(fields["data"])))
    return found


def add(books: Library, **values: Any) -> int:
    with books.sessions() as session:
        book = books.Book(**{"title": "Ulysses", **values})
        session.add(book)
        session.commit()
        return int(book.id)


def test_a_new_object_is_published_after_the_commit(hub: FakeHub, books: Library) -> None:
    with books.sessions() as session:
        session.add(books.Book(title="Ulysses"))
        session.flush()
        assert hub.received == []
        session.commit()
    assert published(hub) == [("books/1", {"id": 1, "title": "Ulysses", "price": 0, "author_id": None})]
    (request,) = hub.received
    assert "private" not in dict(request.pairs)
    assert dict(request.pairs)["id"].startswith("urn:uuid:")


def test_an_update_and_a_deletion(hub: FakeHub, books: Library) -> None:
    number = add(books)
    with books.sessions() as session:
        session.get_one(books.Book, number).title = "Dubliners"
        session.commit()
    with books.sessions() as session:
        session.delete(session.get_one(books.Book, number))
        session.commit()
    assert published(hub)[1:] == [
        ("books/1", {"id": 1, "title": "Dubliners", "price": 0, "author_id": None}),
        ("books/1", {"id": 1, "deleted": True}),
    ]


def test_nothing_is_published_for_what_did_not_change(hub: FakeHub, books: Library) -> None:
    number = add(books)
    with books.sessions() as session:
        book = session.get_one(books.Book, number)
        book.title = "Ulysses"  # the same
        book.author = None
        session.commit()
    assert len(hub.received) == 1


def test_an_object_gets_one_update_with_its_last_state(hub: FakeHub, books: Library) -> None:
    with books.sessions() as session:
        book = books.Book(title="a")
        session.add(book)
        session.flush()
        book.title = "b"
        session.flush()
        book.title = "c"
        session.commit()
    assert [data["title"] for _, data in published(hub)] == ["c"]


def test_what_was_made_and_deleted_in_one_transaction_was_never_there(hub: FakeHub, books: Library) -> None:
    with books.sessions() as session:
        book = books.Book(title="a")
        session.add(book)
        session.flush()
        session.delete(book)
        session.commit()
    assert hub.received == []


def test_a_replaced_object_is_an_update(hub: FakeHub, books: Library) -> None:
    number = add(books)
    with books.sessions() as session:
        session.delete(session.get_one(books.Book, number))
        session.flush()
        session.add(books.Book(id=number, title="again"))
        session.commit()
    assert [data["title"] for _, data in published(hub)[1:]] == ["again"]


@pytest.mark.parametrize("how", ["rollback", "close", "error"])
def test_a_rollback_publishes_nothing(hub: FakeHub, books: Library, how: str) -> None:
    session = books.sessions()
    session.add(books.Book(title="never"))
    session.flush()
    if how == "rollback":
        session.rollback()
    elif how == "error":
        session.add(books.Book(title=None))
        with pytest.raises(IntegrityError):
            session.commit()
    session.close()
    assert hub.received == []
    add(books, title="later")
    assert [data["title"] for _, data in published(hub)] == ["later"]


@pytest.mark.parametrize("then", ["rollback", "close"])
def test_a_commit_that_fails_publishes_nothing(hub: FakeHub, books: Library, then: str) -> None:
    break_commit = commit_breaker(books)
    session = books.sessions()
    session.add(books.Book(title="never"))
    break_commit(session)
    with pytest.raises(IntegrityError):
        session.commit()
    assert hub.received == []
    if then == "rollback":
        session.rollback()
    else:
        session.close()
    assert hub.received == []
    session.add(books.Book(title="later"))
    session.commit()
    session.close()
    assert [data["title"] for _, data in published(hub)] == ["later"]


def test_a_savepoint_takes_its_changes_back(hub: FakeHub, books: Library) -> None:
    with books.sessions() as session:
        kept = books.Book(title="kept")
        session.add(kept)
        session.flush()
        with session.begin_nested():
            session.add(books.Book(title="inner"))
            kept.title = "kept, changed"
        outer = session.begin_nested()
        with session.begin_nested():
            session.add(books.Book(title="released into what is taken back"))
        kept.title = "taken back"
        outer.rollback()
        session.commit()
    assert sorted(data["title"] for _, data in published(hub)) == ["inner", "kept, changed"]


def test_closing_a_session_takes_open_savepoints_along(hub: FakeHub, books: Library) -> None:
    session = books.sessions()
    session.begin_nested()
    session.add(books.Book(title="never"))
    session.flush()
    session.close()
    add(books)
    assert len(hub.received) == 1


def test_a_commit_releases_open_savepoints(hub: FakeHub, books: Library) -> None:
    with books.sessions() as session:
        session.begin_nested()
        session.add(books.Book(title="a"))
        session.commit()
    assert len(hub.received) == 1


def test_orphans_and_cascades_are_deletions(hub: FakeHub, books: Library) -> None:
    with books.sessions() as session:
        session.add(books.Author(name="Joyce", books=[books.Book(title="a"), books.Book(title="b")]))
        session.commit()
        del hub.received[:]
        author = session.get_one(books.Author, 1)
        author.books.remove(author.books[0])
        session.commit()
        session.delete(author)
        session.commit()
    assert published(hub) == [
        ("books/1", {"id": 1, "deleted": True}),
        ("books/2", {"id": 2, "deleted": True}),
    ]


def test_topics_of_a_deleted_object_follow_its_relations(hub: FakeHub, open_library: Open) -> None:
    topics = ["books/{id}", "authors/{author.id}/books"]
    with open_library(book={"topics": topics, "on": "delete"}) as books:
        with books.sessions() as session:
            session.add(books.Author(name="Joyce", books=[books.Book(title="a")]))
            session.commit()
            session.expire_all()
            session.delete(session.get_one(books.Book, 1))
            session.commit()
        (request,) = hub.received
    assert [value for name, value in request.pairs if name == "topic"] == ["books/1", "authors/1/books"]


@pytest.mark.parametrize(
    ("title", "topic"),
    [("Ulysses", "books/Ulysses/1"), ("*", "books/%2A/1"), ("a/../b", "books/a%2F..%2Fb/1"), ("..", None)],
)
def test_what_an_attribute_holds_stays_one_segment_of_the_topic(
    hub: FakeHub, open_library: Open, title: str, topic: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    with open_library(book={"topics": "books/{title}/{id}"}) as books:
        add(books, title=title)
    assert [found for found, _ in published(hub)] == ([] if topic is None else [topic])
    assert ("leads to the topics of others" in caplog.text) is (topic is None)


def test_bulk_statements_bypass_the_session(hub: FakeHub, books: Library) -> None:
    add(books)
    with books.sessions() as session:
        session.execute(update(books.Book).values(title="all"))
        session.commit()
    assert len(hub.received) == 1


class Schema:
    """What marshmallow's schemas look like from outside."""

    def dump(self, book: Any) -> dict[str, Any]:
        return {"called": book.title}


@pytest.mark.parametrize(
    ("serializer", "data"),
    [
        (Schema(), {"called": "Ulysses"}),
        (lambda book: [book.title], ["Ulysses"]),
    ],
)
def test_serializers_of_broadcast_models(
    hub: FakeHub, open_library: Open, serializer: Any, data: Any
) -> None:
    with open_library(book={"serializer": serializer}) as books:
        add(books)
    assert published(hub) == [("books/1", data)]


def test_updates_of_models_are_private_by_default(hub: FakeHub, open_library: Open) -> None:
    with open_library(book={}) as books:
        books.mercure.broadcast("shelf", columns=("id",))(books.Book)
        add(books)
    assert {pairs["topic"]: pairs.get("private") for pairs in map(dict, (r.pairs for r in hub.received))}[
        "shelf"
    ] == "on"


@pytest.mark.parametrize(("price", "private"), [(5, True), (0, False)])
def test_a_rule_makes_updates_private(hub: FakeHub, open_library: Open, price: int, private: bool) -> None:
    with open_library(book={"private": lambda book: book.price > 0}) as books:
        add(books, price=price)
    assert (dict(hub.received[0].pairs).get("private") == "on") is private


@pytest.mark.parametrize("answer", [None, "yes", 1])
def test_a_rule_that_is_not_sure_who_may_read_publishes_nothing(
    hub: FakeHub, open_library: Open, answer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with open_library(book={"private": lambda _book: answer}) as books:
        assert add(books) == 1
    assert hub.received == []
    assert "return True or False" in caplog.text


def test_broadcast_actions_and_event_types(hub: FakeHub, open_library: Open) -> None:
    with open_library(book={"on": ("update", "delete"), "type": lambda action: f"book.{action}"}) as books:
        number = add(books)
        with books.sessions() as session:
            book = session.get_one(books.Book, number)
            book.price = 7
            session.commit()
            session.delete(book)
            session.commit()
    assert [dict(request.pairs)["type"] for request in hub.received] == ["book.update", "book.delete"]


def test_a_callable_may_tell_nobody(hub: FakeHub, open_library: Open) -> None:
    with open_library(book={"topics": lambda book: None if book.price == 0 else f"b/{book.id}"}) as books:
        add(books)
        add(books, price=1)
    assert [topic for topic, _ in published(hub)] == ["b/2"]


def test_a_topic_is_the_url_of_a_view(hub: FakeHub, open_library: Open) -> None:
    with open_library(book={"topics": topic_url("book", number="id")}) as books:
        books.app.add_url_rule("/books/<int:number>", "book", str)
        books.app.config["SERVER_NAME"] = "example.com"
        with books.app.app_context():
            add(books)
    assert [topic for topic, _ in published(hub)] == ["http://example.com/books/1"]


@pytest.mark.parametrize(
    ("title", "topic"),
    [
        ("Ada & Co?", "http://example.com/titles/Ada%20&%20Co%3F"),
        ("a/../../titles/globex", None),
        ("globex/x", None),
        ("..", None),
        ("%2e%2E", None),
        ("", None),
    ],
)
def test_a_value_stays_one_segment_of_the_url_of_a_view(
    hub: FakeHub, open_library: Open, title: str, topic: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    with open_library(book={"topics": topic_url("title", name="title")}) as books:
        books.app.add_url_rule("/titles/<name>", "title", str)
        books.app.config["SERVER_NAME"] = "example.com"
        with books.app.app_context():
            add(books, title=title)
    assert [found for found, _ in published(hub)] == ([] if topic is None else [topic])
    assert ("lead to the topics of others" in caplog.text) is (topic is None)


@pytest.mark.parametrize("value", [None, PurePosixPath("a/b"), PurePosixPath("..")])
def test_a_value_that_is_no_text_stays_one_segment_too(value: object) -> None:
    app = Flask(__name__)
    app.config["SERVER_NAME"] = "example.com"
    app.add_url_rule("/titles/<name>", "title", str)
    app.add_url_rule("/titles/", "title", str)
    with app.app_context(), pytest.raises(InvalidArgument, match="topics of others"):
        topic_url("title", name=lambda _instance: value)(object())


def test_a_move_that_failed_is_not_told_with_a_later_change(hub: FakeHub, open_library: Open) -> None:
    with open_library(book={"topics": "prices/{price}"}) as books:
        add(books, price=1)
        with books.sessions() as session:
            mine = session.get_one(books.Book, 1)
            mine.price, mine.title = 2, None
            with pytest.raises(IntegrityError):
                session.flush()
            session.rollback()
            with books.sessions() as other:
                other.get_one(books.Book, 1).price = 3
                other.commit()
            before = len(hub.received)
            session.refresh(mine)
            mine.title = "later"
            session.commit()
    assert [topic for topic, _ in published(hub)[before:]] == ["prices/3"]


def test_a_topic_without_a_value_is_no_topic(
    hub: FakeHub, open_library: Open, caplog: pytest.LogCaptureFixture
) -> None:
    with open_library(book={"topics": "authors/{author.id}"}) as books:
        assert add(books) == 1
    assert hub.received == []
    assert "'author.id' of Book is None" in caplog.text


def test_a_hub_that_is_down_does_not_fail_what_is_saved(
    hub: FakeHub, books: Library, caplog: pytest.LogCaptureFixture
) -> None:
    hub.answers = [Answer(b"no", 503)]
    with books.sessions() as session:
        session.add_all([books.Book(title="a secret title"), books.Book(title="b")])
        session.commit()
    lines = [record.getMessage() for record in caplog.records if "was not published" in record.getMessage()]
    assert len(lines) == 2
    assert "['books/1']" in lines[0]
    assert "503" in lines[0]
    assert "urn:uuid:" in lines[0]
    assert "secret" not in caplog.text


def test_without_a_hub_only_one_update_is_tried(
    open_library: Open, hub: FakeHub, caplog: pytest.LogCaptureFixture
) -> None:
    with open_library(URL="http://127.0.0.1:9/nobody") as books, books.sessions() as session:
        session.add_all([books.Book(title=str(number)) for number in range(3)])
        session.commit()
    lines = [record.getMessage() for record in caplog.records if "was not published" in record.getMessage()]
    assert ["not tried" in line for line in lines] == [False, True, True]


def test_a_model_may_ask_for_errors(hub: FakeHub, open_library: Open) -> None:
    hub.answers = [Answer(b"no", 503)]
    with open_library(book={"on_failure": "raise"}) as books, books.sessions() as session:
        session.add(books.Book(title="a"))
        with pytest.raises(PublishError, match="503"):
            session.commit()
        assert session.get_one(books.Book, 1).title == "a"  # saved, and the session goes on


def test_a_serializer_that_fails_is_logged(
    hub: FakeHub, open_library: Open, caplog: pytest.LogCaptureFixture
) -> None:
    with open_library(book={"serializer": lambda book: {"x": book.title / 2}}) as books:
        assert add(books) == 1
    assert hub.received == []
    assert "no update is published for the create of a Book" in caplog.text


def test_subclasses_are_broadcast_too(hub: FakeHub, books: Library) -> None:
    class Novel(books.Book):  # type: ignore[misc, name-defined]
        __mapper_args__ = {"polymorphic_identity": "novel"}  # noqa: RUF012

    with books.sessions() as session:
        session.add(Novel(title="n"))
        session.commit()
    assert [topic for topic, _ in published(hub)] == ["books/1"]


def test_without_an_app_context_it_is_logged(
    hub: FakeHub, tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    import threading

    with library(f"sqlite:///{tmp_path}/app.db", hub.url) as books:
        thread = threading.Thread(target=add, args=(books,))
        thread.start()
        thread.join()
    assert hub.received == []
    assert "without an app context" in caplog.text


def test_without_an_app_context_a_model_that_wants_errors_gets_one(hub: FakeHub, tmp_path: Any) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with library(f"sqlite:///{tmp_path}/app.db", hub.url, book={"on_failure": "raise"}) as books:
        with ThreadPoolExecutor(1) as pool, pytest.raises(RuntimeError, match=r"with app\.app_context\(\)"):
            pool.submit(add, books).result()
        with books.sessions() as session:
            assert session.query(books.Book).count() == 0
    assert hub.received == []


def ended(number: int = 1) -> dict[str, Any]:
    return {"id": number, "deleted": True}


def test_a_column_that_is_not_named_is_not_published(hub: FakeHub, open_library: Open) -> None:
    with open_library(book={"columns": ["title"]}) as books:
        add(books, price=7)
    assert published(hub) == [("books/1", {"title": "Ulysses"})]


def test_columns_that_the_model_lacks(open_library: Open) -> None:
    with pytest.raises(ValueError, match="columns holds 'titel'; Book has 'id', 'title'"):
        open_library(book={"columns": ("id", "titel")}).__enter__()


MOVING = {"topics": "prices/{price}", "columns": ("id", "price")}


@pytest.mark.parametrize("is_read", [True, False])
def test_the_topic_that_a_moved_object_had_is_told(hub: FakeHub, open_library: Open, is_read: bool) -> None:
    with open_library(book=MOVING) as books, books.sessions() as session:
        book = books.Book(title="a", price=1)
        session.add(book)
        session.commit()  # which expires it
        if is_read:
            assert book.price == 1
        book.price = 2
        session.commit()
        book.title = "b"
        session.commit()
    assert published(hub) == [
        ("prices/1", {"id": 1, "price": 1}),
        ("prices/1", ended()),
        ("prices/2", {"id": 1, "price": 2}),
        ("prices/2", {"id": 1, "price": 2}),
    ]


def test_a_transaction_moves_an_object_once(hub: FakeHub, open_library: Open) -> None:
    with open_library(book=MOVING) as books, books.sessions() as session:
        book = books.Book(title="a", price=1)
        session.add(book)
        session.flush()
        book.price = 2  # nobody has seen it at 1
        session.commit()
        book.price = 3
        session.flush()
        with session.begin_nested() as savepoint:
            book.price = 4
            session.flush()
            savepoint.rollback()
        book.price = 5
        session.commit()
        book.price = 6
        session.flush()
        session.rollback()
        book.price = 7
        session.flush()
        book.price = 5
        session.commit()
    assert published(hub) == [
        ("prices/2", {"id": 1, "price": 2}),
        ("prices/2", ended()),
        ("prices/5", {"id": 1, "price": 5}),
        ("prices/5", {"id": 1, "price": 5}),
    ]


@pytest.mark.parametrize("is_flushed", [True, False])
def test_an_object_that_is_moved_and_deleted_ends_where_it_was(
    hub: FakeHub, open_library: Open, is_flushed: bool
) -> None:
    with open_library(book=MOVING | {"deleted": lambda book: f"{book.title} of {book.price}"}) as books:
        number = add(books, title="a", price=1)
        with books.sessions() as session:
            book = session.get_one(books.Book, number)
            book.price, book.title = 2, "b"
            if is_flushed:
                session.flush()
            session.delete(book)
            session.commit()
    assert [dict(one.pairs)["topic"] for one in hub.received] == ["prices/1", "prices/1"]
    assert dict(hub.received[1].pairs)["data"] == "a of 1"


def test_a_deleted_object_that_comes_back_elsewhere(hub: FakeHub, open_library: Open) -> None:
    with open_library(book=MOVING) as books:
        number = add(books, price=1)
        with books.sessions() as session:
            session.delete(session.get_one(books.Book, number))
            session.flush()
            session.add(books.Book(id=number, title="x", price=2))
            session.commit()
        with books.sessions() as session:  # in one flush it is an UPDATE
            session.delete(session.get_one(books.Book, number))
            session.add(books.Book(id=number, title="x", price=3))
            session.commit()
    assert published(hub)[1:] == [
        ("prices/1", ended()),
        ("prices/2", {"id": 1, "price": 2}),
        ("prices/2", ended()),
        ("prices/3", {"id": 1, "price": 3}),
    ]


@pytest.mark.parametrize("way", ["relation", "key", "unread key"])
@pytest.mark.parametrize(
    "topics", ["authors/{author.id}", lambda book: f"authors/{book.author.id}"], ids=["format", "callable"]
)
def test_a_topic_that_follows_a_relation_moves_with_it(
    hub: FakeHub, open_library: Open, topics: Any, way: str
) -> None:
    with open_library(book={"topics": topics, "columns": ("id",)}) as books, books.sessions() as session:
        joyce, woolf = books.Author(name="Joyce"), books.Author(name="Woolf")
        session.add_all([joyce, woolf])
        session.flush()
        book = books.Book(title="a", author=joyce)
        session.add(book)
        session.commit()
        if way == "relation":
            book.author = woolf
        elif way == "key":
            assert book.author is joyce
            book.author_id = woolf.id
        else:
            book.author_id = 2
        session.commit()
    assert published(hub) == [("authors/1", {"id": 1}), ("authors/1", ended()), ("authors/2", {"id": 1})]


def test_an_object_that_nobody_is_told_of_any_more(hub: FakeHub, open_library: Open) -> None:
    rule: dict[str, Any] = {"topics": lambda book: ["all", f"b/{book.id}"] if book.price else ["all"]}
    with open_library(book=rule | {"private": lambda book: book.price > 5, "columns": ("id",)}) as books:
        number = add(books, price=9)
        with books.sessions() as session:
            session.get_one(books.Book, number).price = 0
            session.commit()
    assert published(hub)[1:] == [("b/1", ended()), ("all", {"id": 1})]
    # the end is for those who could read the object
    assert [dict(one.pairs).get("private") for one in hub.received] == ["on", "on", None]


@pytest.mark.parametrize(
    ("on", "topics"),
    [(("create", "update"), ["prices/1", "prices/2"]), ("delete", ["prices/1"]), ("create", ["prices/1"])],
)
def test_a_move_and_the_actions_that_are_published(
    hub: FakeHub, open_library: Open, on: Any, topics: list[str]
) -> None:
    with open_library(book=MOVING | {"on": on}) as books:
        number = add(books, price=1)
        with books.sessions() as session:
            session.get_one(books.Book, number).price = 2
            session.commit()
    assert [topic for topic, _ in published(hub)] == topics


def test_a_topic_that_cannot_be_told_keeps_no_update_back(
    hub: FakeHub, open_library: Open, caplog: pytest.LogCaptureFixture
) -> None:
    def topic(book: Any) -> str:
        if book.price == 1:
            raise KeyError(book.price)
        return f"prices/{book.price}"

    with open_library(book=MOVING | {"topics": topic}) as books:
        number = add(books, price=1)
        with books.sessions() as session:
            session.get_one(books.Book, number).price = 2
            session.commit()
    assert published(hub) == [("prices/2", {"id": 1, "price": 2})]
    assert "no end is published on the topics that a Book had before its update" in caplog.text


def test_an_update_that_moves_nothing_asks_the_database_nothing(open_library: Open) -> None:
    with open_library() as books:
        number = add(books)
        statements: list[str] = []
        event.listen(
            books.engine, "before_cursor_execute", lambda *arguments: statements.append(arguments[2])
        )
        with books.sessions() as session:
            session.get_one(books.Book, number).title = "b"
            session.commit()
    assert [one.split()[0] for one in statements] == ["SELECT", "UPDATE"]


def test_two_rules_for_one_model(hub: FakeHub, books: Library) -> None:
    books.mercure.broadcast("shelf", columns=("id",), private=True)(books.Book)
    add(books)
    assert published(hub) == [
        ("books/1", {"id": 1, "title": "Ulysses", "price": 0, "author_id": None}),
        ("shelf", {"id": 1}),
    ]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"topics": []}, "topics is empty"),
        ({"topics": [7]}, "topics holds 7"),
        ({"topics": "a", "on": "insert"}, "on holds 'insert'"),
        ({"topics": "a", "on": ()}, "on is empty"),
        (
            {"topics": "a", "columns": ("id",), "private": None},
            "private is None; give True .*, False .*callable",
        ),
        (
            {"topics": "a", "columns": None},
            r"neither columns, serializer nor template: write columns=\('id', 'title'\)",
        ),
        ({"topics": "a", "serializer": str}, "has columns and serializer: write"),
        ({"topics": "a", "columns": None, "serializer": "title"}, "serializer is 'title'"),
        ({"topics": "a", "columns": None, "serializer": ("id",)}, r"columns=\('id', 'title'\)"),
        ({"topics": "a", "columns": "title", "private": True}, "columns is 'title'"),
        ({"topics": "a", "columns": [], "private": True}, r"columns is \[\]"),
        ({"topics": "a", "columns": [7], "private": True}, r"columns is \[7\]"),
        ({"topics": "{id}"}, "begins with a field"),
        ({"topics": "a/{}"}, "name attributes"),
        ({"topics": "a/{id"}, "cannot be read"),
        ({"topics": "a", "on_failure": "ignore", "columns": ["b"]}, "on_failure is 'ignore'"),
    ],
)
def test_arguments_that_make_no_rule(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises((TypeError, ValueError), match=words):
        Mercure().broadcast(**{"columns": ("id",), "private": True, **arguments})


def test_only_models_are_marked() -> None:
    with pytest.raises(TypeError, match="broadcast marks SQLAlchemy models"):
        Mercure().broadcast("a", columns=("b",), private=False)(dict)


def test_models_of_flask_sqlalchemy_are_published(hub: FakeHub) -> None:
    flask_sqlalchemy = pytest.importorskip("flask_sqlalchemy")
    db, mercure = flask_sqlalchemy.SQLAlchemy(), Mercure()

    @mercure.broadcast("notes/{id}", columns=("id", "text"), private=True)
    class Note(db.Model):  # type: ignore[misc, name-defined]
        id = db.Column(db.Integer, primary_key=True)
        text = db.Column(db.String(20))

    app = Flask("notes")
    app.config.update(MERCURE_URL=hub.url, MERCURE_JWT_SECRET=SECRET, SQLALCHEMY_DATABASE_URI="sqlite://")
    db.init_app(app)
    mercure.init_app(app)

    @app.post("/notes")
    def add_note() -> str:
        db.session.add(Note(text="hello"))
        db.session.commit()
        return "saved"

    with app.app_context():
        db.create_all()
        assert app.test_client().post("/notes").text == "saved"
        db.engine.dispose()
    assert published(hub) == [("notes/1", {"id": 1, "text": "hello"})]


def test_sessions_without_marked_models_are_left_alone(hub: FakeHub, books: Library) -> None:
    with Session(books.engine) as session:
        session.add(books.Author(name="x"))
        session.commit()
    assert hub.received == []
    assert logging.getLogger("flask_mercure").level == logging.NOTSET
