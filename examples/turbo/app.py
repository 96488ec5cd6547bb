"""Votes that all who look at them see change: Hotwire Turbo, and updates that are Turbo Streams."""

from __future__ import annotations

import secrets
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
    g,
    redirect,
    render_template,
    request,
    send_from_directory,
    url_for,
)
from flask.typing import ResponseReturnValue

from flask_mercure import Mercure, TurboStream

TOPIC = "https://votes.example/fruit"  # a name and not an address: nothing is ever fetched from there
FRUIT = ("apple", "pear", "plum")
TURBO = "@hotwired/turbo/dist/turbo.es2017-esm.js"

mercure = Mercure()
pages = Blueprint("votes", __name__)


def create_app(config: Mapping[str, Any] | None = None) -> Flask:
    """Make the application.

    :param config: settings; they win over those from the environment.
    """
    app = Flask(__name__)
    app.config.from_mapping(NODE_MODULES=str(Path(app.root_path) / "node_modules"))
    app.config.from_prefixed_env()
    app.config.from_mapping(config or {})
    app.extensions["votes"] = dict.fromkeys(FRUIT, 0)  # of one process; a real app has a database
    mercure.init_app(app)
    app.register_blueprint(pages)
    app.after_request(add_policy)
    return app


@pages.get("/")
def index() -> ResponseReturnValue:
    """The votes, with the module of flask-mercure: one connection for all tabs, any origin of the hub."""
    return _page("votes.html")


@pages.get("/element")
def element() -> ResponseReturnValue:
    """The same with Turbo's own element and no script: for a hub behind the site's own host."""
    return _page("element.html")


@pages.post("/votes/<fruit>")
def vote(fruit: str) -> ResponseReturnValue:
    """Count a vote: all pages get the changed element from the hub."""
    votes = current_app.extensions["votes"]
    if fruit not in votes:
        abort(404)
    votes[fruit] += 1
    changed = TurboStream.replace(fruit, template="_vote.html", fruit=fruit, count=votes[fruit])
    mercure.publish(TOPIC, changed, private=True)
    return redirect(url_for(".element" if request.form.get("back") == "element" else ".index"), 303)


@pages.get("/libraries/turbo.js")
def turbo() -> Response:
    """What ``npm install`` has fetched."""
    return send_from_directory(current_app.config["NODE_MODULES"], TURBO)


def _page(template: str) -> ResponseReturnValue:
    g.nonce = secrets.token_urlsafe(16)
    position = mercure.last_event_id()  # before the votes are read: what comes from now on reaches the page
    votes = dict(current_app.extensions["votes"])
    page = render_template(
        template, page=template, topic=TOPIC, position=position, votes=votes, nonce=g.nonce
    )
    return mercure.set_cookie(current_app.make_response(page), subscribe=[TOPIC])


def add_policy(response: Response) -> Response:
    """Only scripts of this site. Turbo's progress bar wants a style with the nonce."""
    hub = urlsplit(mercure.url())
    nonce = f" 'nonce-{g.nonce}'" if "nonce" in g else ""
    response.headers["Content-Security-Policy"] = (
        f"default-src 'none'; script-src 'self'{nonce}; style-src 'self'{nonce}; "
        f"connect-src 'self' {hub.scheme}://{hub.netloc}; img-src data:; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )
    return response
