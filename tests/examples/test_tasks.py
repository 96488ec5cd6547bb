"""``docs/comparison/tasks.md``: what it says of flask-mercure works, in Chromium and on a real hub."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from flask import Flask, Response, render_template_string, request
from flask_sqlalchemy import SQLAlchemy
from jinja2 import DictLoader
from selenium import webdriver

import flask_mercure
from flask_mercure import Mercure
from tests.docs.test_tasks import PAGE, code_of
from tests.examples.browser import leave
from tests.examples.page_site import Served, Tab

pytestmark = pytest.mark.servers

_PAGE = """<!doctype html>
<link rel="icon" href="data:,">
<script>window.said = []; window.toast = window.show = (update) => said.push(update.json());</script>
<script type="module" src="/turbo.js"></script>
<p id="who"></p> <p id="out"></p>
<form id="form"><input name="question" value="Why?"></form>
"""


_NUMBERS = '<b id="orders">-</b> <b id="users">-</b>'


class Task:
    """A task of the page: its Python in an app, its HTML in a page of that app.

    A cookie names the user, who is 7 otherwise.

    :param title: heading of the task.
    """

    def __init__(self, title: str, directory: Path, turbo: str) -> None:
        python, self._html = code_of(title, "flask-mercure")
        self._nodes = ast.parse(python).body
        self._turbo = turbo
        self.mercure = Mercure()
        self.db = SQLAlchemy()
        self.site = Served(directory, self._make, self.mercure, {"MERCURE_ANONYMOUS": "1"})

    def _make(self, config: Mapping[str, Any]) -> Flask:
        app = Flask("task")
        app.config.from_mapping(config, SECRET_KEY="of the tests", SQLALCHEMY_DATABASE_URI="sqlite://")
        app.jinja_loader = DictLoader({"_order.html": '<li id="{{ dom_id(order) }}">{{ order.title }}</li>'})
        self.db.init_app(app)
        self.mercure.init_app(app)
        self.names: dict[str, Any] = {
            **{name: getattr(flask_mercure, name) for name in flask_mercure.__all__},
            "app": app,
            "mercure": self.mercure,
            "request": request,
            "current_user": _CurrentUser(),
            "user": SimpleNamespace(id="7"),
            "job": SimpleNamespace(id=7),
            "rows": [1, 2, 3],
            "save": lambda row: None,
            "uuid4": uuid4,
            "generate": lambda question: iter(["Because ", "it ", "does."]),
            "celery": SimpleNamespace(task=self._queued),
            "Order": type("Order", (self.db.Model,), _columns(self.db)),
        }
        self.run(ast.FunctionDef)
        with app.app_context():
            self.db.create_all()
            self.run(ast.Expr, only="broadcast(")

        @app.get("/")
        def index() -> str:
            self.run(ast.Assign)
            orders = self.db.session.scalars(self.db.select(self.names["Order"])).all()
            return render_template_string(
                (_PAGE if "<ul" in self._html else _PAGE + _NUMBERS) + self._html, orders=orders, **self.names
            )

        @app.get("/turbo.js")
        def turbo() -> Response:
            return Response(Path(self._turbo).read_bytes(), mimetype="text/javascript")

        return app

    def run(self, kind: type[ast.stmt], only: str = "") -> None:
        """Run the statements of one kind."""
        nodes = [one for one in self._nodes if isinstance(one, kind) and only in ast.unparse(one)]
        exec(compile(ast.Module(nodes, []), str(PAGE), "exec"), self.names)

    def happen(self, kind: type[ast.stmt] = ast.Expr) -> None:
        """What the task is about."""
        with self.site.app.app_context():
            self.run(kind)

    def _queued(self, function: Callable[..., None]) -> SimpleNamespace:
        def delay(*arguments: object) -> None:
            def work() -> None:
                with self.site.app.app_context():
                    function(*arguments)

            Thread(target=work).start()

        return SimpleNamespace(delay=delay)


class _CurrentUser:
    """As that of Flask-Login."""

    is_authenticated = True

    @property
    def id(self) -> str:
        return request.cookies.get("user", "7")

    @property
    def name(self) -> str:
        return {"7": "Ada", "8": "Grace"}[self.id]


def _columns(db: SQLAlchemy) -> dict[str, Any]:
    return {
        "id": db.Column(db.Integer, primary_key=True),
        "title": db.Column(db.String(80)),
        "__module__": __name__,
    }


@pytest.fixture(scope="module")
def turbo(libraries: Callable[[str], str]) -> str:
    return libraries("turbo") + "/@hotwired/turbo/dist/turbo.es2017-esm.js"


@pytest.fixture
def task(tmp_path: Path, turbo: str) -> Iterator[Callable[[str], Task]]:
    running: list[Task] = []

    def begin(title: str) -> Task:
        running.append(Task(title, tmp_path, turbo))
        return running[-1]

    yield begin
    for one in running:
        one.site.close()
        with one.site.app.app_context():
            one.db.engine.dispose()


@pytest.fixture
def tabs(chromium: Callable[[int], list[webdriver.Chrome]]) -> Iterator[Callable[[int], list[Tab]]]:
    opened: list[Tab] = []

    def several(count: int) -> list[Tab]:
        opened.extend(Tab(driver) for driver in chromium(count))
        return opened

    yield several
    assert leave(opened) == []


def visit(task: Task, tab: Tab, user: int = 7) -> None:
    """Open the page, and wait until its stream is open."""
    tab.driver.get(f"{task.site.url}/turbo.js")  # cookies are for a page
    tab.driver.add_cookie({"name": "user", "value": str(user)})
    tab.driver.get(task.site.url)
    tab.wait(
        "the stream", lambda: tab.run("return import('mercure').then((m) => m.connect().state === 'open')")
    )


def said(tab: Tab) -> list[Any]:
    found: list[Any] = tab.run("return said")
    return found


def text(tab: Tab, name: str) -> str:
    return str(tab.run("return document.getElementById(arguments[0]).textContent", name))


def test_notify_a_user(task: Callable[[str], Task], tabs: Callable[[int], list[Tab]]) -> None:
    one = task("Notify a user")
    ada, grace = tabs(2)
    visit(one, ada)
    visit(one, grace, user=8)
    one.happen()
    ada.wait_for("the notice", lambda: said(ada), [{"text": "Shipped"}])
    assert said(grace) == []


def test_a_live_list(task: Callable[[str], Task], tabs: Callable[[int], list[Tab]]) -> None:
    one = task("A live list of a model")
    (tab,) = tabs(1)
    visit(one, tab)
    rows = "return [...document.querySelectorAll('#orders li')].map((row) => row.textContent)"
    with one.site.app.app_context():
        order = one.names["Order"](title="Tea")
        one.db.session.add(order)
        one.db.session.commit()
        tab.wait_for("rows", lambda: tab.run(rows), ["Tea"])
        order.title = "Coffee"
        one.db.session.commit()
        tab.wait_for("rows", lambda: tab.run(rows), ["Coffee"])
        one.db.session.delete(order)
        one.db.session.commit()
        tab.wait_for("rows", lambda: tab.run(rows), [])


def test_a_chat(task: Callable[[str], Task], tabs: Callable[[int], list[Tab]]) -> None:
    one = task("A chat that shows who is here")
    ada, grace = tabs(2)
    visit(one, ada)
    ada.wait_for("who", lambda: text(ada, "who"), "Ada")
    visit(one, grace, user=8)
    for tab in (ada, grace):
        tab.wait_for("who", lambda tab=tab: sorted(text(tab, "who").split(", ")), ["Ada", "Grace"])  # type: ignore[misc]
    ada.run("fetch('/rooms/1', { method: 'POST', body: new URLSearchParams({ text: 'Hello' }) })")
    for tab in (ada, grace):
        tab.wait_for("messages", lambda tab=tab: said(tab), [{"from": "Ada", "text": "Hello"}])  # type: ignore[misc]


def test_progress(task: Callable[[str], Task], tabs: Callable[[int], list[Tab]]) -> None:
    one = task("The progress of a job")
    (tab,) = tabs(1)
    tab.driver.get(one.site.url)
    one.happen(ast.With)
    state = "return document.querySelector('mercure-progress').getAttribute('state')"
    tab.wait_for("the bar", lambda: tab.run(state), "done")
    tab.driver.get(one.site.url)  # loaded after the end
    tab.wait_for("the bar", lambda: tab.run(state), "done")


def test_a_dashboard(task: Callable[[str], Task], tabs: Callable[[int], list[Tab]]) -> None:
    one = task("A dashboard")
    one.happen()  # before the page is opened
    (tab,) = tabs(1)
    visit(one, tab)
    tab.wait_for("numbers", lambda: (text(tab, "orders"), text(tab, "users")), ("12", "3"))


def test_an_answer(task: Callable[[str], Task], tabs: Callable[[int], list[Tab]]) -> None:
    one = task("The answer of a language model")
    (tab,) = tabs(1)
    visit(one, tab)
    tab.run("form.requestSubmit()")
    tab.wait_for("the answer", lambda: text(tab, "out"), "Because it does.")
    visit(one, tab)
    tab.wait_for("the answer", lambda: text(tab, "out"), "Because it does.")
