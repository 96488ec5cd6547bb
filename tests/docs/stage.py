"""What the examples of a page may take for granted: an app on a real hub, its user, its database."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import celery  # type: ignore[import-untyped]
import flask
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from jinja2 import DictLoader
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

import flask_mercure
from flask_mercure import HubClient, KeySet, Mercure, Subscription
from flask_mercure.state import state_of
from mercure_hub.protocol.tokens.asymmetric import generate_pair
from tests.hub.running import SECRET, RunningHub

FLASK = ("Flask", "Response", "make_response", "redirect", "render_template", "request", "url_for")
ORIGIN = "http://127.0.0.1:5000"
TEMPLATES = {
    "_things.html": "{% for one in things %}<li>{{ one }}</li>{% endfor %}",
    "_order.html": '<li id="{{ dom_id(order) }}">{{ order.title }}</li>',
    "_vote.html": '<output id="plum">{{ vote }}</output>',
}


class Base(DeclarativeBase):
    """Of what examples have already."""


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]


class MercureOnStage(Mercure):
    """Its app has the tables of its database; its subscriptions get an update and end."""

    def __init__(self, db: SQLAlchemy) -> None:
        super().__init__()
        self.db = db

    def init_app(self, app: Flask) -> None:
        super().init_app(app)
        if "sqlalchemy" in app.extensions:
            with app.app_context():
                self.db.create_all()

    def subscribe(self, topics: Any, *args: Any, **kwargs: Any) -> Subscription:
        events = super().subscribe(topics, *args, **{"timeout": 0.2, **kwargs})
        if isinstance(topics, str):
            self.publish(topics, {"for": "the reader"}, private=True)
        return events


def models() -> type[DeclarativeBase]:
    """A base of its own for each example, with columns: ``class Book(db.Model): ...`` is a model."""

    class Row(DeclarativeBase):
        id: Mapped[int] = mapped_column(primary_key=True)
        title: Mapped[str | None]

    return Row


def app_on(hub: RunningHub) -> Flask:
    """A configured app, which has the extension not yet."""
    app = Flask("shop")
    app.secret_key = SECRET
    app.jinja_loader = DictLoader(TEMPLATES)
    app.config.update(MERCURE_URL=hub.url, MERCURE_JWT_SECRET=SECRET, SQLALCHEMY_DATABASE_URI="sqlite://")
    return app


@contextmanager
def stage(hub: RunningHub, folder: Path, code: str) -> Iterator[dict[str, Any]]:
    """The names that an example may use.

    :param code: of the example; one that makes or initialises the extension gets an app without it.
    """
    app, db = app_on(hub), SQLAlchemy(model_class=models())
    mercure = MercureOnStage(db)
    with_outbox = ".outbox(" in code or "MERCURE_OUTBOX" in code
    if ".init_app(app)" not in code and "Mercure(app)" not in code:
        app.config["MERCURE_OUTBOX"] = with_outbox
        db.init_app(app)
        mercure.init_app(app)

        if "def renew" not in code:
            app.add_url_rule("/renew", "renew", methods=["POST"])

    private, _ = generate_pair("rsa")
    (folder / "private.pem").write_text(private)
    (folder / "keys.json").write_text(KeySet.generate().to_json())
    try:
        with app.test_request_context(base_url=ORIGIN):
            names = _names(app, mercure, db)
            if "(Order)" in code and "class Order" not in code:
                names["Order"] = type("Order", (db.Model,), {})
            if "active." in code and "active =" not in code:
                names["active"] = mercure.subscriptions()
            if "found." in code and "found =" not in code:
                names["found"] = mercure.presence("items/7")
            yield names
    finally:
        if "mercure" in app.extensions:
            for one in state_of(app).hubs.values():
                one.publisher.close()
        if "sqlalchemy" in app.extensions:
            with app.app_context():
                db.session.remove()
                db.engine.dispose()


def _names(app: Flask, mercure: Mercure, db: SQLAlchemy) -> dict[str, Any]:
    device = SimpleNamespace(jwk=KeySet.generate().public_key)
    user = SimpleNamespace(id=7, name="Ada", tenant="Ada & Co", is_authenticated=True, devices=[device])
    sdk = SimpleNamespace(responses=SimpleNamespace(create=lambda *args, stream: iter(())))
    book = SimpleNamespace(id=1, to_dict=lambda: {"title": "Ulysses"})
    return {
        **{name: getattr(flask_mercure, name) for name in flask_mercure.__all__},
        **{name: getattr(flask, name) for name in FLASK},
        "__name__": __name__,
        "os": os,
        "SQLAlchemy": lambda: db,
        "app": app,
        "mercure": mercure,
        "db": db,
        "user": user,
        "current_user": user,
        "login_required": lambda view: view,
        "response": flask.make_response("page"),
        "hub": HubClient(app.config["MERCURE_URL"], SECRET, public_url="https://example.com/hub"),
        "books": [book],
        "data": {"title": "Ulysses"},
        "keys": KeySet.generate(),
        "model": SimpleNamespace(generate=lambda question: iter(["an ", "answer"])),
        "question": "?",
        "topic": "/users/7/runs/1",
        "client": sdk,
        "celery": SimpleNamespace(task=lambda *function, **_: function[0] if function else lambda one: one),
        "Celery": celery.Celery,
        "Task": celery.Task,
        "Worker": lambda queues, connection, work_horse_killed_handler: SimpleNamespace(work=lambda: None),
        "Redis": lambda: None,
        "job": SimpleNamespace(id=7),
        "room": SimpleNamespace(id=3),
        "claims": {"jti": "urn:uuid:1"},
        "rows": [1, 2],
        "generate": lambda question: iter(["an ", "answer"]),
        "jobs_of": lambda _: [],
        "ModelOverloaded": OSError,
        "answer": lambda topic, messages: None,
        "task_failure": SimpleNamespace(connect=lambda sender: lambda function: function),
        "own_chat": lambda id: SimpleNamespace(id=id, topic=None),
        "uuid4": uuid4,
        "metrics": SimpleNamespace(timing=lambda name, seconds: None),
        "position": None,
        "things": ["tea"],
        "vote": SimpleNamespace(),
        "order": Order(id=7, title="Tea"),
        "topics_of": lambda one: [f"users/{one.id}"],
        "your_library": SimpleNamespace(encode=lambda claims, headers: "token"),
        "load": lambda: None,
        "reload": lambda gap: None,
        "handle": lambda event: None,
        "save": lambda id_: None,
    }
