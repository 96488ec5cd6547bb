"""A shopping list that all who look at it see change: htmx, its sse extension, and updates that are HTML."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from flask import (
    Blueprint,
    Flask,
    Response,
    abort,
    current_app,
    render_template,
    request,
    send_from_directory,
)
from flask.typing import ResponseReturnValue

from flask_mercure import Mercure

TOPIC = "https://list.example/things"  # a name and not an address: nothing is ever fetched from there
LIMIT = 80
MOST = 100
LIBRARIES = {
    "htmx.js": "htmx.org/dist/htmx.min.js",
    "sse.js": "htmx-ext-sse/dist/sse.min.js",
}

mercure = Mercure()
pages = Blueprint("list", __name__)


def create_app(config: Mapping[str, Any] | None = None) -> Flask:
    """Make the application.

    :param config: settings; they win over those from the environment.
    """
    app = Flask(__name__)
    app.config.from_mapping(NODE_MODULES=str(Path(app.root_path) / "node_modules"))
    app.config.from_prefixed_env()
    app.config.from_mapping(config or {})
    app.extensions["things"] = []  # of one process; a real app has a database
    mercure.init_app(app)
    app.register_blueprint(pages)
    app.after_request(add_policy)
    return app


@pages.get("/")
def index() -> ResponseReturnValue:
    """The list, and the cookie with which the page may read its changes."""
    position = mercure.last_event_id()  # before the data: what comes from now on reaches the page
    things = current_app.extensions["things"]
    page = current_app.make_response(render_template("list.html", things=things, position=position))
    return mercure.set_cookie(page, subscribe=[TOPIC])


@pages.post("/things")
def add() -> ResponseReturnValue:
    """Add something: all pages get its HTML from the hub, the one that asked as well."""
    text = request.form.get("text", "").strip()
    if not 0 < len(text) <= LIMIT:
        abort(422, f"Write 1 to {LIMIT} characters.")
    things = current_app.extensions["things"]
    things.append(text)
    del things[:-MOST]
    # The type chooses the elements of the page: <ul sse-swap="things">. The whole list, for an update may
    # come twice: when it was in the page already, and after a lost connection.
    mercure.publish(TOPIC, render_template("_things.html", things=things), type="things", private=True)
    mercure.publish(TOPIC, str(len(things)), type="count", private=True)
    return "", 204


@pages.get("/libraries/<name>")
def library(name: str) -> Response:
    """What ``npm install`` has fetched: these files and no others."""
    if name not in LIBRARIES:
        abort(404)
    return send_from_directory(current_app.config["NODE_MODULES"], LIBRARIES[name])


def add_policy(response: Response) -> Response:
    """Only scripts of this site, nothing inline; htmx needs neither eval nor its own styles."""
    hub = urlsplit(mercure.url())
    response.headers["Content-Security-Policy"] = (
        f"default-src 'none'; script-src 'self'; connect-src 'self' {hub.scheme}://{hub.netloc}; "
        "img-src data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )
    return response
