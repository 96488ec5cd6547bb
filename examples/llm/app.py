"""A chat with a language model, whose answers go on when the page is reloaded.

Each answer is a run on a topic of its own. The conversation is nowhere but in the hub's history.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from threading import Thread
from typing import Any
from uuid import UUID, uuid4

from flask import Flask, abort, render_template, request, session
from flask.typing import ResponseReturnValue

from flask_mercure import Mercure, URLPattern, build_topic

from .model import generate

LIMIT = 500

mercure = Mercure()


def create_app(config: Mapping[str, Any] | None = None) -> Flask:
    """Make the application.

    :param config: settings; they win over those from the environment.
    """
    app = Flask(__name__)
    app.config["SESSION_COOKIE_SAMESITE"] = "Lax"  # no other site can ask or stop
    app.config.from_prefixed_env()
    app.config.from_mapping(config or {})
    mercure.init_app(app)

    @app.get("/")
    def index() -> ResponseReturnValue:
        user = session.setdefault("user", secrets.token_hex(8))  # signs in whoever comes
        return render_template("index.html", user=user, limit=LIMIT)

    @app.post("/runs")
    def ask() -> ResponseReturnValue:
        question = request.form["question"].strip()
        if not 0 < len(question) <= LIMIT:
            abort(422)
        # A thread stands for your task queue: no request waits for the model.
        Thread(target=answer, args=(app, topic_of(uuid4()), question)).start()
        return "", 202

    @app.post("/runs/<uuid:run>/stop")
    def stop(run: UUID) -> ResponseReturnValue:
        mercure.stop(topic_of(run))
        return "", 204

    return app


def answer(app: Flask, topic: str, question: str) -> None:
    """The job: publish the answer while the model generates it."""

    def events() -> Iterator[Any]:
        yield {"question": question}
        yield from generate(question)

    with app.app_context():
        mercure.stream_events(topic, events())


def topic_of(run: UUID) -> str:
    """Of a run of the current user: nobody can name one of somebody else's."""
    if "user" not in session:
        abort(401)
    return build_topic("/users/{}/runs/{}", session["user"], run)


@mercure.subscribe_grants
def grants() -> list[URLPattern] | None:
    """All runs of the user, also those that are asked for later."""
    return [URLPattern.build("/users/{}/runs/*", session["user"])] if "user" in session else None
