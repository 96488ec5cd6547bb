"""A page that shows the answer of a language model as it is made.

The browser asks with a POST, and reads the answer from its stream: one stream for all questions, open since
the page was loaded. Only the browser that asked can read it.
"""

from __future__ import annotations

import secrets
import threading
import uuid
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from flask import Flask, Response, abort, current_app, jsonify, render_template, request, session
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import HTTPException

from flask_mercure import Mercure, PublishError, build_topic

from .model import ModelError, answer

QUESTION_LIMIT = 500

mercure = Mercure()

# Answers under way, by visitor and id. This process only: where several serve the site, keep the mark in
# the database or in Redis, and look there in until_stopped().
stops: dict[tuple[str, str], threading.Event] = {}


def create_app(config: Mapping[str, Any] | None = None) -> Flask:
    """Make the application.

    :param config: settings; they win over those from the environment.
    """
    app = Flask(__name__)
    app.config.from_mapping(MAX_CONTENT_LENGTH=64 * 1024, SESSION_COOKIE_SAMESITE="Lax")
    app.config.from_prefixed_env()
    app.config.from_mapping(config or {})
    mercure.init_app(app)
    app.add_url_rule("/", view_func=index)
    app.add_url_rule("/ask", view_func=ask, methods=["POST"])
    app.add_url_rule("/stop", view_func=stop, methods=["POST"])
    app.register_error_handler(HTTPException, show_error)
    app.before_request(refuse_other_sites)
    app.after_request(add_security_headers)
    return app


def index() -> ResponseReturnValue:
    """The page, and the cookie with which its browser reads its own answers."""
    visitor = session.setdefault("visitor", secrets.token_urlsafe(16))
    # From here on, for a question may be asked before the stream is open.
    stream = mercure.url(topic_of(visitor), mercure.last_event_id())
    page = {"stream": stream, "ask": "/ask", "stop": "/stop"}
    response = current_app.make_response(render_template("index.html", page=page, limit=QUESTION_LIMIT))
    return mercure.set_cookie(response, subscribe=[topic_of(visitor)])


def ask() -> ResponseReturnValue:
    """Answer a question, on the visitor's topic; this request ends with the answer.

    It holds a thread of the server as long as the model needs, as each call of a model does. Where that is
    too long, hand the same lines to your task queue.
    """
    visitor, stream_id, body = read_request()
    question = body.get("question")
    if not isinstance(question, str) or not 0 < len(question.strip()) <= QUESTION_LIMIT:
        abort(422, f"A question has 1 to {QUESTION_LIMIT} characters.")
    stopped = stops.setdefault((visitor, stream_id), threading.Event())
    try:
        tokens = until_stopped(answer(question), stopped)
        text = mercure.stream(topic_of(visitor), tokens, private=True, stream_id=stream_id)
    except ModelError as error:
        current_app.logger.error("the model failed: %s", error)  # the page was told that the answer broke off
        return jsonify(error="The model failed."), 502
    except PublishError as error:
        current_app.logger.error("an answer was not published: %s", error)
        return jsonify(error="The answer could not be delivered. Try again in a moment."), 502
    finally:
        stops.pop((visitor, stream_id), None)
    return jsonify(length=len(text))


def stop() -> ResponseReturnValue:
    """Stop an answer of this visitor; it ends with what there is of it."""
    visitor, stream_id, _ = read_request()
    stopped = stops.get((visitor, stream_id))
    if stopped is not None:
        stopped.set()
    return "", 204


def until_stopped(tokens: Iterable[str], stopped: threading.Event) -> Iterator[str]:
    """The tokens until the mark is set: a source that ends is the way to stop ``mercure.stream``."""
    for token in tokens:
        if stopped.is_set():
            return
        yield token


def read_request() -> tuple[str, str, dict[str, Any]]:
    """The visitor, the id of the question, and what else the page has sent."""
    visitor = session.get("visitor")
    if visitor is None:
        abort(401, "Open the page first.")
    body = request.get_json()
    if not isinstance(body, dict):
        abort(422, "The body is no JSON object.")
    try:
        return visitor, str(uuid.UUID(str(body.get("id")))), body  # of the page: it knows what to wait for
    except ValueError:
        abort(422, "The id of the question is no UUID.")


def topic_of(visitor: str) -> str:
    """Where the answers for a visitor are published."""
    return build_topic("https://answers.example/{}", visitor)


def refuse_other_sites() -> None:
    """Let only this site's own pages ask. The chat's example says more about it."""
    if request.method in {"GET", "HEAD", "OPTIONS"}:
        return
    own = request.host_url.rstrip("/")
    site = request.headers.get("Sec-Fetch-Site")
    if site != "same-origin" and (site is not None or request.headers.get("Origin") != own):
        abort(403, "This request came from another site.")


def add_security_headers(response: Response) -> Response:
    """Nothing is loaded from elsewhere, and only the hub is talked to."""
    hub = urlsplit(mercure.url())
    response.headers["Content-Security-Policy"] = (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        f"connect-src 'self' {hub.scheme}://{hub.netloc}; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Referrer-Policy"] = "same-origin"
    if request.endpoint != "static":
        response.headers.setdefault("Cache-Control", "no-store")
    return response


def show_error(error: HTTPException) -> ResponseReturnValue:
    """Errors as JSON: only the page's script meets them."""
    return jsonify(error=error.description), error.code or 500
