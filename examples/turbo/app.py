"""Votes that all who look at them see change: Hotwire Turbo, and updates that are Turbo Streams."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flask import Flask, Response, abort, g, redirect, render_template, request, send_from_directory, url_for
from flask.typing import ResponseReturnValue

from flask_mercure import Mercure, TurboStream

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
    votes = dict.fromkeys(("Apple", "Pear", "Plum"), 0)  # of one process; a real app has a database

    @app.get("/")
    def index() -> ResponseReturnValue:
        g.nonce = secrets.token_urlsafe(16)
        position = mercure.last_event_id()  # before the data: what comes from now on reaches the page
        return render_template("index.html", votes=votes, position=position)

    @app.post("/votes")
    def vote() -> ResponseReturnValue:
        if request.form["fruit"] not in votes:
            abort(422)
        votes[request.form["fruit"]] += 1
        changed = TurboStream.replace("votes", template="_votes.html", votes=votes, morph=True)
        mercure.publish("votes", changed, private=True)
        return redirect(url_for("index"), 303)

    @app.get("/turbo.js")
    def turbo() -> Response:
        return send_from_directory(app.config["NODE_MODULES"], "@hotwired/turbo/dist/turbo.es2017-esm.js")

    @app.after_request
    def add_policy(response: Response) -> Response:
        """Only scripts of this site. Turbo's progress bar wants a style with the nonce."""
        nonce = f" 'nonce-{g.nonce}'" if "nonce" in g else ""
        response.headers["Content-Security-Policy"] = (
            f"default-src 'none'; script-src 'self'; style-src 'self'{nonce}; "
            f"connect-src 'self' {mercure.url()}; img-src data:; "
            "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
        )
        return response

    return app


@mercure.subscribe_grants
def grants() -> list[str]:
    """What a browser may read: here, everybody the votes."""
    return ["votes"]
