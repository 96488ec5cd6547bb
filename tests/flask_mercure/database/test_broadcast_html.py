"""Models that are broadcast as HTML: which pages change how, and what a partial may use."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest
from jinja2 import DictLoader
from sqlalchemy.exc import IntegrityError

from flask_mercure import InvalidArgument, Mercure
from tests.flask_mercure.fake_hub import FakeHub, running
from tests.flask_mercure.library import Library, library, models

pytestmark = pytest.mark.minutes

Open = Callable[..., AbstractContextManager[Library]]

TEMPLATES = {
    "_book.html": '<li id="{{ dom_id(book) }}">{{ book.title }}</li>',
    "_row.html": '<tr id="{{ dom_id(book) }}"><td>{{ book.title }}</td></tr>',
    "_full.html": (
        '<li id="{{ dom_id(book) }}"><a href="{{ url_for("book", id=book.id) }}">{{ book.title }}</a>'
        "{{ book.author.name }}, {{ book.author.books | length }}</li>"
    ),
    "_job.html": (
        '<li id="{{ dom_id(book) }}">{{ mercure_progress(mercure_topic("jobs/{}", book.id), book.title) }}'
        '{{ mercure_on("sold", text="#sold") }}</li>'
    ),
    "_anonymous.html": "<li>{{ book.title }}</li>",
    "_broken.html": "{{ book.nothing.there }}",
    "_session.html": '<li id="{{ dom_id(book) }}">{{ session["user"] }}</li>',
}
ADDED = (
    '<turbo-stream action="append" target="books"><template><li id="book-{}">{}</li></template>'
    "</turbo-stream>"
)
REPLACED = (
    '<turbo-stream action="replace" target="book-{0}"><template><li id="book-{0}">{1}</li></template>'
    "</turbo-stream>"
)
REMOVED = '<turbo-stream action="remove" target="book-{}"></turbo-stream>'


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with running() as hub:
        yield hub


@pytest.fixture
def open_library(database: str, hub: FakeHub) -> Open:
    """Opens the app with ``template`` and further arguments of ``broadcast``."""

    def make(template: str = "_book.html", **book: Any) -> AbstractContextManager[Library]:
        arguments = {"topics": "books", "columns": None, "template": template, **book}
        return library(database, hub.url, book=arguments)

    return make


def prepare(books: Library) -> None:
    books.app.jinja_env.loader = DictLoader(TEMPLATES)
    books.app.add_url_rule("/books/<int:id>", "book", str)


def published(hub: FakeHub) -> list[tuple[str, str]]:
    """Topic and data of what has arrived since the last call."""
    requests = list(hub.received)
    del hub.received[: len(requests)]
    return [(fields["topic"], fields["data"]) for fields in (dict(one.pairs) for one in requests)]


def add(books: Library, **values: Any) -> int:
    with books.sessions() as session:
        book = books.Book(**{"title": "Ulysses", **values})
        session.add(book)
        session.commit()
        return int(book.id)


def change(books: Library, number: int, **values: Any) -> None:
    with books.sessions() as session:
        book = session.get_one(books.Book, number)
        for name, value in values.items():
            setattr(book, name, value)
        session.commit()


def delete(books: Library, number: int) -> None:
    with books.sessions() as session:
        session.delete(session.get_one(books.Book, number))
        session.commit()


def test_a_page_follows_what_is_committed(hub: FakeHub, open_library: Open) -> None:
    with open_library() as books:
        prepare(books)
        add(books, title="<b>")
        change(books, 1, title="Dubliners")
        delete(books, 1)
        assert [dict(one.pairs)["type"] for one in hub.received] == ["turbo"] * 3
    assert published(hub) == [
        ("books", ADDED.format(1, "&lt;b&gt;")),
        ("books", REPLACED.format(1, "Dubliners")),
        ("books", REMOVED.format(1)),
    ]


def test_a_page_with_htmx(hub: FakeHub, open_library: Open) -> None:
    with open_library("_row.html", format="htmx", target="list") as books:
        prepare(books)
        add(books)
        change(books, 1, title="Dubliners")
        delete(books, 1)
        assert [dict(one.pairs)["type"] for one in hub.received] == ["htmx"] * 3
    assert [data for _, data in published(hub)] == [
        '<tbody hx-swap-oob="beforeend:[id=&#34;list&#34;]"><tr id="book-1"><td>Ulysses</td></tr></tbody>',
        '<tr hx-swap-oob="outerHTML:[id=&#34;book-1&#34;]" id="book-1"><td>Dubliners</td></tr>',
        '<div hx-swap-oob="delete:[id=&#34;book-1&#34;]"></div>',
    ]


def test_other_actions(hub: FakeHub, open_library: Open) -> None:
    actions = {"create": "prepend", "update": "morph", "delete": "refresh"}
    with open_library(actions=actions, target=lambda book: f"shelf-{book.price}") as books:
        prepare(books)
        add(books, price=3)
        change(books, 1, title="Dubliners")
        delete(books, 1)
    assert [data.partition("><template>")[0] for _, data in published(hub)] == [
        '<turbo-stream action="prepend" target="shelf-3"',
        '<turbo-stream action="replace" target="book-1" method="morph"',
        '<turbo-stream action="refresh"></turbo-stream>',
    ]


def test_an_object_that_comes_to_a_topic_is_added_there(hub: FakeHub, open_library: Open) -> None:
    """Pages of the new topic do not have its element, so they could not replace it."""

    with open_library(topics=lambda book: [f"shelf/{book.price}", "all"], target="books") as books:
        prepare(books)
        add(books, price=1)
        published(hub)
        change(books, 1, price=2)
    assert published(hub) == [
        ("shelf/1", REMOVED.format(1)),
        ("all", REPLACED.format(1, "Ulysses")),
        ("shelf/2", ADDED.format(1, "Ulysses")),
    ]


def test_a_list_of_those_with_a_property(hub: FakeHub, open_library: Open) -> None:
    with open_library(topics=lambda book: "cheap" if book.price < 5 else None, target="books") as books:
        prepare(books)
        add(books, price=9)
        assert published(hub) == []
        change(books, 1, price=4)
        assert published(hub) == [("cheap", ADDED.format(1, "Ulysses"))]
        change(books, 1, price=3)
        assert published(hub) == [("cheap", REPLACED.format(1, "Ulysses"))]
        change(books, 1, price=7)
        assert published(hub) == [("cheap", REMOVED.format(1))]
        delete(books, 1)
    assert published(hub) == []


@pytest.mark.parametrize(("on", "expected"), [("create", ["append"]), ("update", []), ("delete", ["remove"])])
def test_only_what_is_asked_for(hub: FakeHub, open_library: Open, on: str, expected: list[str]) -> None:
    """The book moves to another shelf, which there is a beginning and an end."""
    with open_library(topics="shelf/{price}", target="books", on=on) as books:
        prepare(books)
        add(books, price=1)
        published(hub)
        change(books, 1, price=2)
        assert [data.split('"')[1] for _, data in published(hub)] == expected
        delete(books, 1)
    assert [data.split('"')[1] for _, data in published(hub)] == (["remove"] if on == "delete" else [])


def test_a_partial_follows_relations_and_makes_urls(hub: FakeHub, open_library: Open) -> None:
    """Neither a request nor SERVER_NAME is there, as in a job."""
    with open_library("_full.html") as books:
        prepare(books)
        with books.sessions() as session:
            author = books.Author(name="Joyce")
            session.add_all([author, books.Author(name="Woolf")])
            session.commit()
        add(books, author_id=1)
        change(books, 1, author_id=2)
    assert [data.split("template>")[1] for _, data in published(hub)] == [
        '<li id="book-1"><a href="/books/1">Ulysses</a>Joyce, 1</li></',
        '<li id="book-1"><a href="/books/1">Ulysses</a>Woolf, 1</li></',
    ]


def test_a_partial_has_elements_that_follow_by_themselves(hub: FakeHub, open_library: Open) -> None:
    with open_library("_job.html") as books:
        prepare(books)
        with books.app.app_context():
            id = add(books)

        [(_, data)] = published(hub)
        assert f'<mercure-progress topic="jobs/{id}"' in data
        with books.app.test_client() as client:
            for script in re.findall(r'src="([^"]+[.]js)"', data):
                with client.get(script) as response:
                    assert response.status_code == 200
        assert data.count(".js") == 2


def test_the_same_in_a_request(hub: FakeHub, open_library: Open) -> None:
    with open_library("_full.html") as books:
        prepare(books)

        @books.app.post("/add")
        def view() -> str:
            with books.sessions() as session:
                session.add(books.Book(title="Ulysses", author=books.Author(name="Joyce")))
                session.commit()
            return "done"

        assert books.app.test_client().post("/add", base_url="https://other.example").text == "done"
    ((_, data),) = published(hub)
    assert 'href="/books/1"' in data


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("_anonymous.html", "makes no element with the id 'book-1'"),
        ("_broken.html", "no attribute 'nothing'"),
        ("_missing.html", "_missing.html"),
        ("_session.html", "outside of request context"),
    ],
)
def test_a_partial_that_fails(
    hub: FakeHub, open_library: Open, caplog: pytest.LogCaptureFixture, template: str, words: str
) -> None:
    """The data is saved, and the log has the error; a model can ask for a commit that fails instead."""
    with open_library(template) as books:
        prepare(books)
        with books.app.test_request_context():
            add(books)
        with books.sessions() as session:
            assert session.get_one(books.Book, 1).title == "Ulysses"
    assert published(hub) == []
    (record,) = caplog.records
    assert record.levelname == "ERROR"
    assert record.getMessage() == "no update is published for the create of a Book"
    assert record.exc_info is not None
    assert words in str(record.exc_info[1])


def test_a_partial_that_fails_can_keep_the_data_from_being_saved(hub: FakeHub, open_library: Open) -> None:
    with open_library("_anonymous.html", on_failure="raise") as books:
        prepare(books)
        with pytest.raises(InvalidArgument, match=r"write id=\"{{ dom_id\(book\) }}\" into it"):
            add(books)
        with books.sessions() as session:
            assert session.get(books.Book, 1) is None
    assert published(hub) == []


def test_a_rollback_changes_no_page(hub: FakeHub, open_library: Open) -> None:
    with open_library() as books:
        prepare(books)
        with books.sessions() as session:
            session.add(books.Book(title="Ulysses"))
            session.flush()
            session.add(books.Book(title=None))
            with pytest.raises(IntegrityError):
                session.commit()
    assert published(hub) == []


def test_a_model_can_be_published_both_ways(hub: FakeHub, open_library: Open) -> None:
    with open_library() as books:
        prepare(books)
        books.mercure.broadcast("data/{id}", columns=("id",), private=False)(books.Book)
        add(books)
    assert published(hub) == [("books", ADDED.format(1, "Ulysses")), ("data/1", json.dumps({"id": 1}))]


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"topics": "books/{id}"}, TypeError, "has no target"),
        ({"topics": str}, TypeError, "has no target"),
        ({"topics": "my books"}, InvalidArgument, "target is 'my books'"),
        ({"target": 7}, TypeError, "target is 7"),
        ({"template": 7}, TypeError, "template is 7"),
        ({"format": "json"}, InvalidArgument, "format is 'json'; known are 'turbo', 'htmx'"),
        ({"actions": {"insert": "append"}}, InvalidArgument, "actions holds 'insert'"),
        (
            {"actions": {"create": "replace"}},
            InvalidArgument,
            "'replace' for 'create'; .*'append', 'prepend'",
        ),
        ({"actions": {"update": "morph"}, "format": "htmx"}, InvalidArgument, "'morph' for 'update'"),
        ({"deleted": str}, TypeError, "has template, for which there is no deleted"),
        ({"type": "book"}, TypeError, "has template, for which there is no type"),
        ({"columns": ("id",)}, TypeError, "has columns and template: write"),
        ({"template": None, "columns": ("id",), "target": "a"}, TypeError, "has columns, .*no target"),
    ],
)
def test_arguments_that_make_no_rule(arguments: Any, error: type[Exception], words: str) -> None:
    given = {"topics": "books", "columns": None, "template": "_book.html", **arguments}
    with pytest.raises(error, match=words):
        models(Mercure(), **given)
