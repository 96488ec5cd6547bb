"""A shopping list that all who look at it see change: htmx, and updates that are HTML."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flask import Flask, Response, abort, redirect, render_template, request, send_from_directory, url_for
from flask.typing import ResponseReturnValue
from markupsafe import Markup

from flask_mercure import Mercure

LIMIT = 80  # characters
MOST = 100  # things

mercure = Mercure()


def create_app(config: Mapping[str, Any] | None = None) -> Flask:
    """Make the application.

    :param config: settings; they win over those from the environment.
    """
    app = Flask(__name__)
    app.config["NODE_MODULES"] = str(Path(app.root_path) / "node_modules")
    app.config.from_prefixed_env()
    app.config.from_mapping(config or {})
    mercure.init_app(app)
    things: list[str] = []  # of one process; a real app has a database

    @app.get("/")
    def index() -> ResponseReturnValue:
        position = mercure.last_event_id()  # before the data: what comes from now on reaches the page
        return render_template("index.html", things=things, position=position, limit=LIMIT)

    @app.post("/things")
    def add() -> ResponseReturnValue:
        text = request.form["text"].strip()
        if not 0 < len(text) <= LIMIT:
            abort(422, f"Write 1 to {LIMIT} characters.")
        things.append(text)
        del things[:-MOST]
        # The whole list: it does no harm when it arrives twice, or was in the page already.
        html = Markup(
            render_template("_things.html", things=things)
        )  # the template escapes what people write
        mercure.publish("things", html, private=True, type="htmx")
        return redirect(url_for("index"), 303)

    @app.get("/htmx.js")
    def htmx() -> Response:
        return send_from_directory(app.config["NODE_MODULES"], "htmx.org/dist/htmx.min.js")

    @app.after_request
    def add_policy(response: Response) -> Response:
        """Only scripts of this site, nothing inline; htmx needs neither eval nor its own styles."""
        response.headers["Content-Security-Policy"] = (
            f"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self' {mercure.url()}; "
            "img-src data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
        )
        return response

    return app


@mercure.subscribe_grants
def grants() -> list[str]:
    """What a browser may read: here, everybody the list."""
    return ["things"]
