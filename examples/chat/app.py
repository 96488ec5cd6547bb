"""A chat that shows flask-mercure: rooms, private messages, presence, history.

The application stores nothing. It signs people in, gives each browser a cookie that says what it may
read from the hub, and publishes what they write. The hub's history is the store of the messages, and
the hub's list of subscriptions says who is here.

======================================  ======================================================
topic                                   what it carries
======================================  ======================================================
``https://chat.example/rooms/{room}``   messages of a room, for everybody who is signed in
``https://chat.example/users/{id}``     private messages that this person sent or received
``https://chat.example/pages/{id}``     nothing; see ``static/stream.js``
======================================  ======================================================

``make demo`` runs it together with its hub. On its own: ``flask --app examples/chat/app run``, with
``FLASK_SECRET_KEY``, ``FLASK_MERCURE_URL``, ``FLASK_MERCURE_JWT_SECRET`` … in the environment.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from flask import (
    Blueprint,
    Flask,
    Response,
    abort,
    current_app,
    flash,
    jsonify,
    redirect,
    render_template,
    request,
    session,
    url_for,
)
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import HTTPException

from flask_mercure import Grants, Mercure, PublishError, URLPattern, build_topic

TOPICS = "https://chat.example"  # a name and not an address: nothing is ever fetched from there
ROOMS = {
    "lobby": "Come in, say hello",
    "workshop": "What are you building?",
    "music": "What is playing?",
}
TEXT_LIMIT = 2000
_NAME = re.compile(r"\w(?:[\w .'-]{0,22}\w)?")
_ROOM = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,30}[a-z0-9])?")

mercure = Mercure()
pages = Blueprint("chat", __name__)


def create_app(config: Mapping[str, Any] | None = None) -> Flask:
    """Make the application.

    :param config: settings; they win over those from the environment.
    """
    app = Flask(__name__)
    app.config.from_mapping(
        MAX_CONTENT_LENGTH=64 * 1024,
        MERCURE_TOKEN_LIFETIME=3600,  # seconds; the page renews the cookie before they are over
        SESSION_COOKIE_SAMESITE="Lax",
    )
    app.config.from_prefixed_env()
    app.config.from_mapping(config or {})
    mercure.init_app(app)
    app.register_blueprint(pages)
    app.register_error_handler(HTTPException, show_error)
    app.register_error_handler(PublishError, show_publish_error)
    app.before_request(refuse_other_sites)
    app.after_request(add_security_headers)
    return app


# -- people -------------------------------------------------------------------------------------


def user_topic(person: str) -> str:
    """Topic of what one person may read."""
    return build_topic(TOPICS + "/users/{}", person)


def person_id(name: str) -> str:
    """``Ada`` and ``ADA`` are one person."""
    return name.casefold()


def clean_name(text: str) -> str | None:
    """A name as it is shown, or ``None`` when it cannot be one."""
    name = " ".join(unicodedata.normalize("NFKC", text).split())
    return name if _NAME.fullmatch(name) else None


def me() -> dict[str, str] | None:
    """Who is signed in."""
    name = session.get("name")
    return {"id": person_id(name), "name": name} if isinstance(name, str) else None


@pages.route("/sign-in", methods=["GET", "POST"])
def sign_in() -> ResponseReturnValue:
    """Take a name. There is no password: this is where your login goes."""
    if request.method == "GET":
        return redirect(url_for(".index")) if me() else render_template("sign_in.html")
    name = clean_name(request.form.get("name", "")[:200])
    if name is None:
        flash("Use 1 to 24 letters or digits; spaces, dots, hyphens and apostrophes may be between them.")
        return render_template("sign_in.html", name=request.form.get("name", "")[:24]), 422
    session["name"] = name  # the cookie for the hub comes with it, see may_read
    return redirect(url_for(".index"))


@pages.post("/sign-out")
def sign_out() -> ResponseReturnValue:
    """Forget the name; with it goes the cookie for the hub."""
    session.clear()
    return redirect(url_for(".sign_in"))


@pages.post("/session")
def renew() -> ResponseReturnValue:
    """A fresh cookie: a page asks for it before the hub ends its stream at the token's ``exp``.

    Also when the browser has lost the one for the hub, which no other response would notice.
    """
    grants = may_read()
    if grants is None:
        abort(401, "You are signed out.")
    response = jsonify(lifetime=current_app.config["MERCURE_TOKEN_LIFETIME"])
    return mercure.set_cookie(response, grants.topics, payload=grants.payload)


@mercure.subscribe_grants
def may_read() -> Grants | None:
    """What a browser may read: the rooms, its own private messages, and who is here.

    The payload is shown to everybody who may see the subscriptions: it is how a page knows who is
    behind one.
    """
    person = me()
    if person is None:
        return None
    namespace = urlsplit(mercure.url()).path + "/subscriptions"
    return Grants(
        [
            URLPattern(TOPICS + "/rooms/:room"),
            user_topic(person["id"]),
            namespace,  # the list of subscriptions, and below it their events
            URLPattern(namespace + "/exact/:match/:subscriber"),
        ],
        payload=person,
        user=person["id"],
    )


# -- pages and messages -------------------------------------------------------------------------


@pages.get("/")
def index() -> ResponseReturnValue:
    """The first room."""
    return redirect(url_for(".chat", room=next(iter(ROOMS))))


@pages.get("/rooms/<room>")
@pages.get("/people/<person>")
def chat(room: str | None = None, person: str | None = None) -> ResponseReturnValue:
    """The page, the same for each conversation: it reads from its address which one to show."""
    reader = me()
    if reader is None:
        return redirect(url_for(".sign_in"))
    if not (_ROOM.fullmatch(room) if room is not None else clean_name(person or "")):
        abort(404, "There is no such conversation.")
    # Every page has one EventSource for everything. What differs from page to page (the room that
    # is open, the cursor) is added by stream.js.
    stream = mercure.url(
        [
            URLPattern(TOPICS + "/rooms/:room"),
            user_topic(reader["id"]),
            URLPattern(urlsplit(mercure.url()).path + "/subscriptions/exact/:match/:subscriber"),
        ]
    )
    page = {
        "me": reader,
        "stream": stream,
        "topics": TOPICS,
        "rooms": [{"id": room, "about": about} for room, about in ROOMS.items()],
        "lifetime": current_app.config["MERCURE_TOKEN_LIFETIME"],
        "now": now(),
    }
    return render_template("chat.html", page=page, me=reader, text_limit=TEXT_LIMIT)


@pages.post("/messages")
def send() -> ResponseReturnValue:
    """Publish a message to a room or to a person."""
    author = me()
    if author is None:
        abort(401, "You are signed out.")
    body = request.get_json()
    if not isinstance(body, dict):
        abort(422, "Send a JSON object.")
    message = {"from": author, "text": clean_text(body.get("text")), "sent": now()}
    room, person = body.get("room"), body.get("to")
    if isinstance(room, str) and person is None:
        if not _ROOM.fullmatch(room):
            abort(422, "A room's name has 1 to 32 small letters, digits or hyphens.")
        message["room"] = room
        topics = [build_topic(TOPICS + "/rooms/{}", room)]
    elif isinstance(person, str) and room is None:
        name = clean_name(person[:200])
        if name is None or person_id(name) == author["id"]:
            abort(422, "There is no such person to write to.")
        message["to"] = recipient = person_id(name)
        # The sender reads it too: in another window, and after a reload.
        topics = [user_topic(recipient), user_topic(author["id"])]
    else:
        abort(422, "Name a room or a person.")
    return jsonify(id=mercure.publish(topics, message, private=True)), 201


def clean_text(text: object) -> str:
    """The text of a message, or an answer that says what is wrong with it."""
    if not isinstance(text, str) or not text.strip():
        abort(422, "Write something first.")
    text = text.replace("\r\n", "\n").strip()
    if len(text) > TEXT_LIMIT:
        abort(422, f"That is {len(text)} characters; a message has {TEXT_LIMIT} at most.")
    return text


def now() -> str:
    """The time in a form that sorts as text and that JavaScript reads."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


# -- for all requests ---------------------------------------------------------------------------


def refuse_other_sites() -> None:
    """Let only this site's own pages change something.

    ``SameSite=Lax`` keeps the session cookie from other sites' forms, but not from other ports and
    subdomains of this one. Browsers leave out ``Sec-Fetch-Site`` without TLS, except on localhost.
    """
    if request.method in {"GET", "HEAD", "OPTIONS"}:
        return
    site = request.headers.get("Sec-Fetch-Site")
    if site is None:
        own = request.host_url.rstrip("/")  # behind a proxy that ends TLS, use werkzeug's ProxyFix
        is_own = request.headers.get("Origin") == own
    else:
        is_own = site == "same-origin"
    if not is_own:
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
        response.headers["Cache-Control"] = "no-store"
    return response


def show_error(error: HTTPException) -> ResponseReturnValue:
    """Errors as JSON for the page's script, as text for people."""
    code = error.code or 500
    message = error.description or error.name
    if request.path in {"/messages", "/session"}:
        return jsonify(error=message), code
    return render_template("error.html", title=error.name, message=message), code


def show_publish_error(error: PublishError) -> ResponseReturnValue:
    """The hub did not take the message: the log gets the cause, the page a sentence."""
    current_app.logger.error("A message was not published: %s", error)
    if error.possibly_published:
        return jsonify(
            error="The message may not have arrived. See whether it appears before you send it again."
        ), 504
    return jsonify(error="The message could not be delivered. Try again in a moment."), 502
