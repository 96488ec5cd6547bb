"""Partials, Turbo Streams and the swaps of htmx, as text."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, cast

import flask_login  # type: ignore[import-untyped]
import pytest
from flask import Flask, Response, g, make_response, render_template_string, session
from jinja2 import DictLoader
from markupsafe import Markup
from sqlalchemy import create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from flask_mercure import HubClient, InvalidArgument, KeySet, Mercure, TurboStream, Update, dom_id
from flask_mercure.cli import mercure as commands
from flask_mercure.html import htmx_insertion, htmx_removal, htmx_replacement, render_shared, variable_name


class Base(DeclarativeBase):
    pass


class OrderLine(Base):
    __tablename__ = "order_line"
    number: Mapped[str] = mapped_column(primary_key=True)
    place: Mapped[int] = mapped_column(primary_key=True)


class Person(Base):
    __tablename__ = "person"
    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str]
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "person"}  # noqa: RUF012


class Manager(Person):
    __mapper_args__ = {"polymorphic_identity": "manager"}  # noqa: RUF012


TEMPLATES = {
    "row.html": "<li>{{ text }}</li>",
    "path.html": "{{ url_for('order', id=7, _anchor='x') }} {{ url_for('order', id=8) }}",
    "away.html": "{{ url_for('order', id=7, _external=True) }}",
    "user.html": "{{ current_user.id }}|{{ g.secret }}",
    "session.html": "{{ session['user'] }}",
    "row.txt": "{{ text }}",
    "tenant.html": "{{ tenant() }}",
}


def make_app(**config: Any) -> Flask:
    app = Flask("html")
    app.config.update(MERCURE_JWT_SECRET="x" * 40, SECRET_KEY="y" * 40, **config)
    app.jinja_env.loader = DictLoader(TEMPLATES)
    app.add_url_rule("/orders/<int:id>", "order", str)
    Mercure(app)
    return app


@pytest.fixture
def app() -> Iterator[Flask]:
    app = make_app()
    with app.app_context():
        yield app


@pytest.mark.parametrize(
    ("name", "expected"),
    [("Order", "order"), ("OrderLine", "order_line"), ("HTTPLog2Entry", "http_log2_entry")],
)
def test_the_name_of_an_object_in_a_partial(name: str, expected: str) -> None:
    assert variable_name(type(name, (), {})) == expected


@pytest.mark.parametrize(
    ("instance", "expected"),
    [
        (Person(id=7), "person-7"),
        (Manager(id=7), "person-7"),
        (Person(id=-1), "person--1"),
        (OrderLine(number="a-1", place=2), "order_line-a-1__2"),
        (OrderLine(number="a b/ä\"'<_", place=2), "order_line-a_20b_2f_c3_a4_22_27_3c_5f__2"),
    ],
)
def test_the_id_of_an_object(instance: Any, expected: str) -> None:
    assert dom_id(instance) == expected


@pytest.mark.parametrize(
    ("instance", "words"),
    [(Person(), "no primary key yet"), ("text", "a str has no id"), (Person, "give an object of a model")],
)
def test_what_has_no_id(instance: Any, words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        dom_id(instance)


def test_an_object_has_its_id_after_the_flush_and_in_templates(app: Flask) -> None:
    engine = create_engine("sqlite://")
    Base.metadata.create_all(engine)
    with Session(engine) as opened:
        manager = Manager()
        opened.add(manager)
        opened.flush()
        assert render_template_string("{{ dom_id(manager) }}", manager=manager) == "person-1"
    engine.dispose()


# -- Turbo Streams

SCRIPT = "<script>alert(1)</script>"
ESCAPED = "&lt;script&gt;alert(1)&lt;/script&gt;"


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (
            TurboStream.append("orders", Markup("<li>1</li>")),
            '<turbo-stream action="append" target="orders"><template><li>1</li></template></turbo-stream>',
        ),
        (
            TurboStream.prepend("orders", SCRIPT),
            f'<turbo-stream action="prepend" target="orders"><template>{ESCAPED}</template></turbo-stream>',
        ),
        (
            TurboStream.before(Person(id=7), "a"),
            '<turbo-stream action="before" target="person-7"><template>a</template></turbo-stream>',
        ),
        (
            TurboStream.after(targets='.row[title="a"]', content="a"),
            '<turbo-stream action="after" targets=".row[title=&#34;a&#34;]">'
            "<template>a</template></turbo-stream>",
        ),
        (
            TurboStream.replace("a", template="row.html", text=SCRIPT),
            '<turbo-stream action="replace" target="a">'
            f"<template><li>{ESCAPED}</li></template></turbo-stream>",
        ),
        (
            TurboStream.replace("a", "b", morph=True),
            '<turbo-stream action="replace" target="a" method="morph"><template>b</template></turbo-stream>',
        ),
        (
            TurboStream.update('"><script>', 7, morph=True),
            '<turbo-stream action="update" target="&#34;&gt;&lt;script&gt;" method="morph">'
            "<template>7</template></turbo-stream>",
        ),
        (TurboStream.remove("a"), '<turbo-stream action="remove" target="a"></turbo-stream>'),
        (TurboStream.refresh(), '<turbo-stream action="refresh"></turbo-stream>'),
        (
            TurboStream.remove("a") + TurboStream.remove("b") + TurboStream.refresh(),
            '<turbo-stream action="remove" target="a"></turbo-stream>'
            '<turbo-stream action="remove" target="b"></turbo-stream>'
            '<turbo-stream action="refresh"></turbo-stream>',
        ),
        (TurboStream(), ""),
    ],
)
def test_streams(app: Flask, stream: TurboStream, expected: str) -> None:
    assert str(stream) == stream.published() == expected
    with app.test_request_context():
        assert render_template_string("{{ stream }}", stream=stream) == expected


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: TurboStream.append(content="a"), TypeError, "either a target"),
        (lambda: TurboStream.remove("a", targets=".b"), TypeError, "either a target"),
        (lambda: TurboStream.remove(""), InvalidArgument, "target is ''"),
        (lambda: TurboStream.remove("a b"), InvalidArgument, "target is 'a b'"),
        (lambda: TurboStream.remove(7), InvalidArgument, "a int has no id"),
        (lambda: TurboStream.update("a", "b", template="row.html"), TypeError, "give one of them"),
        (lambda: TurboStream.update("a", "b", order=7), TypeError, "order would be for a template"),
        (lambda: TurboStream.remove("a") + cast(Any, "b"), TypeError, "unsupported operand"),
    ],
)
def test_what_is_no_stream(make: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        make()


def test_a_view_returns_a_stream(app: Flask) -> None:
    @app.post("/orders")
    def add() -> Any:
        assert TurboStream.is_accepted()
        return TurboStream.append("orders", template="row.html", text="ä")

    @app.post("/wrong")
    def wrong() -> Response:
        return make_response(TurboStream.update("form", "Write something."), 422)

    @app.post("/plain")
    def plain() -> str:
        return str(TurboStream.is_accepted())

    client = app.test_client()
    accept = {"Accept": "text/vnd.turbo-stream.html, text/html, application/xhtml+xml"}
    answer = client.post("/orders", headers=accept)
    assert answer.content_type == "text/vnd.turbo-stream.html; charset=utf-8"
    assert "<li>ä</li>" in answer.text
    refused = client.post("/wrong", headers=accept)
    assert (refused.status_code, refused.mimetype) == (422, TurboStream.MEDIA_TYPE)
    assert client.post("/plain", headers={"Accept": "text/html, */*"}).text == "False"


def test_a_refresh_spares_the_page_that_asked_for_it(app: Flask) -> None:
    with app.test_request_context(headers={"X-Turbo-Request-Id": 'a"b'}):
        assert str(TurboStream.refresh()) == (
            '<turbo-stream action="refresh" request-id="a&#34;b"></turbo-stream>'
        )


# -- rendering for everybody


class User(flask_login.UserMixin):  # type: ignore[misc]
    id = "the user"


def test_nothing_of_the_request_gets_into_what_is_published(app: Flask) -> None:
    logins = flask_login.LoginManager(app)
    logins.user_loader(lambda _: User())
    with app.test_request_context():
        flask_login.login_user(User())
        g.secret = "of the request"
        session["user"] = "of the session"
        stream = TurboStream.update("a", template="user.html")
        assert "the user|of the request" in str(stream)  # a response to that user

        assert stream.published() == (
            '<turbo-stream action="update" target="a"><template>|</template></turbo-stream>'
        )
        with pytest.raises(RuntimeError, match="outside of request context"):
            render_shared("session.html")
        assert flask_login.current_user.id == "the user"
        assert g.secret == "of the request"


def test_a_stream_is_published_without_the_request(app: Flask) -> None:
    mercure = Mercure()
    logins = flask_login.LoginManager(app)
    logins.user_loader(lambda _: User())
    with mercure.record() as updates, app.test_request_context():
        flask_login.login_user(User())
        stream = TurboStream.update("a", template="user.html")
        mercure.publish("orders", stream, private=True)
        with mercure.batch() as batch:
            batch.publish("orders", stream, private=True)
    assert [update.type for update in updates] == ["turbo"] * 2
    assert [update.data for update in updates] == [
        '<turbo-stream action="update" target="a"><template>|</template></turbo-stream>'
    ] * 2


def test_a_stream_can_be_encrypted(app: Flask) -> None:
    keys = KeySet.generate()
    sealed = Mercure().encrypt(TurboStream.remove("a"), keys)
    header = json.loads(base64.urlsafe_b64decode(sealed.partition(".")[0] + "=="))
    assert header["cty"] == TurboStream.MEDIA_TYPE


@pytest.mark.parametrize("is_request", [True, False])
@pytest.mark.parametrize("config", [{}, {"APPLICATION_ROOT": "/shop"}])
def test_urls_are_paths(is_request: bool, config: dict[str, str]) -> None:
    app = make_app(**config)
    context = app.test_request_context(base_url="https://other.example") if is_request else app.app_context()
    root = config.get("APPLICATION_ROOT", "")
    with context:
        assert render_shared("path.html") == f"{root}/orders/7#x {root}/orders/8"
        with pytest.raises(RuntimeError, match="SERVER_NAME"):
            render_shared("away.html")


def test_urls_with_a_server_name() -> None:
    app = make_app(SERVER_NAME="shop.example", PREFERRED_URL_SCHEME="https")
    with app.app_context():
        assert render_shared("path.html") == "/orders/7#x /orders/8"
        assert render_shared("away.html") == "https://shop.example/orders/7"


def test_the_contexts_of_others_stay(app: Flask) -> None:
    tenant: ContextVar[str] = ContextVar("tenant")
    app.add_template_global(tenant.get, "tenant")
    tenant.set("blue")
    assert render_shared("tenant.html") == "blue"


def test_a_template_that_is_not_escaped_is_refused(app: Flask) -> None:
    with pytest.raises(InvalidArgument, match=r"'row.txt' is not escaped"):
        render_shared("row.txt", text="<b>")
    stream = TurboStream.append("rows", template="row.txt", text="<img src=x onerror=alert(1)>")
    with Mercure().record() as updates, pytest.raises(InvalidArgument, match=r"'row.txt' is not escaped"):
        Mercure().publish("rows", stream, private=True)
    assert updates == []
    app.testing = True
    app.add_url_rule("/stream", view_func=lambda: stream)
    with pytest.raises(InvalidArgument, match=r"'row.txt' is not escaped"):
        app.test_client().get("/stream")
    app.jinja_env.autoescape = False
    with pytest.raises(InvalidArgument, match="is not escaped"):
        render_shared("row.html", text="<b>")


# -- The types of HTML


STREAM = TurboStream.remove("a")
TEXT = '<turbo-stream action="remove" target="a"></turbo-stream>'


@pytest.mark.parametrize(
    ("data", "type", "published"),
    [
        (STREAM, None, ("turbo", TEXT)),
        (STREAM, "turbo", ("turbo", TEXT)),
        (Markup(TEXT), "turbo", ("turbo", TEXT)),
        (Markup("<p>"), "htmx", ("htmx", "<p>")),
        (Markup("<p>"), None, (None, "<p>")),
        (TEXT, None, (None, TEXT)),
        (TEXT, "message", ("message", TEXT)),
    ],
)
def test_html_has_a_type_of_its_own(app: Flask, data: Any, type: str | None, published: Any) -> None:
    with Mercure().record() as updates:
        Mercure().publish("a", data, type=type, private=True)
    assert [(update.type, update.data) for update in updates] == [published]


Publish = Callable[[Mercure, Any, str], object]


def _batch(mercure: Mercure, data: Any, type: str) -> None:
    with mercure.batch() as batch:
        batch.publish("a", data, type=type, private=True)


@pytest.mark.parametrize(
    "publish",
    [
        lambda mercure, data, type: mercure.publish("a", data, type=type, private=True),
        lambda mercure, data, type: mercure.publish_many([Update("a", data, type=type, private=True)]),
        lambda mercure, data, type: mercure.publish_to_all("a", data, type=type, private=True),
        lambda mercure, data, type: mercure.outbox().publish("a", data, type=type, private=True),
        lambda mercure, data, type: HubClient("http://localhost/", "k" * 32).publish(
            "a", data, type=type, private=True
        ),
        _batch,
    ],
)
@pytest.mark.parametrize(
    ("data", "type", "words"),
    [
        ("<p>", "turbo", "data is a str: give a TurboStream"),
        ("<p>", "htmx", r"data is a str: give markupsafe\.Markup"),
        ("<p>", " htmx", "kept for HTML"),
        (STREAM, "htmx", "pages take a TurboStream only from the type 'turbo'"),
        (STREAM, "saved", "leave type out"),
        ({"a": "<p>"}, "turbo", "data is a dict"),
        (None, "htmx", "data is a NoneType"),
    ],
)
def test_nothing_else_gets_a_type_of_html(
    app: Flask, publish: Publish, data: Any, type: str, words: str
) -> None:
    mercure = Mercure()
    with mercure.record() as updates, pytest.raises(InvalidArgument, match=words):
        publish(mercure, data, type)
    assert updates == []


@pytest.mark.parametrize(
    "publish",
    [
        lambda mercure, type: mercure.stream("a", ["<p>"], type=type, private=True),
        lambda mercure, type: mercure.progress("a", 1, type=type, private=True),
        lambda mercure, type: mercure.stream_events("a", ["<p>"], type=type, private=True),
        lambda mercure, type: mercure.stop("a", type=type, private=True),
    ],
)
@pytest.mark.parametrize("type", ["turbo", "htmx"])
def test_text_and_jobs_have_no_type_of_html(
    app: Flask, publish: Callable[[Mercure, str], object], type: str
) -> None:
    mercure = Mercure()
    with mercure.record() as updates, pytest.raises(InvalidArgument, match="kept for HTML"):
        publish(mercure, type)
    assert updates == []


def test_the_command_refuses_a_type_of_html(app: Flask) -> None:
    with Mercure().record() as updates:
        answer = app.test_cli_runner().invoke(commands, ["publish", "a", "--data", "<p>", "--type", "turbo"])
    assert (answer.exit_code, updates) == (1, [])
    assert "kept for HTML that the app has rendered" in answer.output


def test_what_is_encrypted_is_no_html(app: Flask) -> None:
    keys = KeySet.generate()
    mercure = Mercure()
    with mercure.record() as updates:
        mercure.publish("a", STREAM, type="sealed", encrypt_for=keys, private=True)
        with pytest.raises(InvalidArgument, match="the update is encrypted"):
            mercure.publish("a", STREAM, type="turbo", encrypt_for=keys, private=True)
    assert [update.type for update in updates] == ["sealed"]


# -- htmx


@pytest.mark.parametrize(
    ("html", "around"),
    [
        ('<li id="a-1">x</li>', "div"),
        ('\n <!-- a <tr> -->\n<TR id="a-1"><td>x</td></TR>', "tbody"),
        ("<td>x", "tr"),
        ("<tbody>", "table"),
        ("text", "div"),
    ],
)
def test_an_element_is_added_in_what_the_parser_wants_around_it(html: str, around: str) -> None:
    assert htmx_insertion("prepend", "list", Markup(html)) == (
        f'<{around} hx-swap-oob="afterbegin:[id=&#34;list&#34;]">{html}</{around}>'
    )


def test_an_element_is_replaced_by_its_id() -> None:
    assert htmx_replacement(Markup('<!-- <p> --><li\nid="a-1">x'), "a-1") == (
        '<!-- <p> --><li hx-swap-oob="outerHTML:[id=&#34;a-1&#34;]"\nid="a-1">x'
    )
    with pytest.raises(InvalidArgument, match="does not begin with an element: 'text'"):
        htmx_replacement(Markup("text"), "a-1")


def test_a_selector_holds_any_id() -> None:
    assert htmx_removal('a,"]b\\') == (
        '<div hx-swap-oob="delete:[id=&#34;a\\2c \\22 \\5d b\\5c &#34;]"></div>'
    )
