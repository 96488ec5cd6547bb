"""A chat: rooms, private messages, who is here, history.

The application stores nothing. It signs people in, says what each of them may read, and publishes what they
write. The hub's history is the store of the messages.

==================  ====================================================================
topic               what it carries
==================  ====================================================================
``/rooms/{room}``   messages of a room; a subscription to exactly this topic is presence
``/users/{id}``     private messages that this person sent or received
``/here``           nothing: who subscribes to it has the chat open
==================  ====================================================================
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
    g,
    jsonify,
    redirect,
    render_template,
    request,
    session,
    url_for,
)
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import HTTPException
from werkzeug.security import gen_salt

from flask_mercure import Grants, Mercure, PublishError, URLPattern, build_topic

ROOMS = {
    "lobby": "Come in, say hello",
    "workshop": "What are you building?",
    "music": "What is playing?",
}
HERE = "/here"
EVERY_ROOM = URLPattern("/rooms/:room")
TEXT_LIMIT = 2000
_NAME = re.compile(r"\w(?:[\w .'-]{0,22}\w)?")

mercure = Mercure()
pages = Blueprint("chat", __name__)


def create_app(config: Mapping[str, Any] | None = None) -> Flask:
    """Make the application.

    :param config: settings; they win over those from the environment.
    """
    app = Flask(__name__)
    app.config.from_mapping(MAX_CONTENT_LENGTH=64 * 1024, SESSION_COOKIE_SAMESITE="Lax")
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


def room_topic(room: str) -> str:
    return build_topic("/rooms/{}", room)


def user_topic(person: str) -> str:
    return build_topic("/users/{}", person)


def person_id(name: str) -> str:
    """``Ada`` and ``ADA`` are one person."""
    return name.casefold()


def clean_name(text: str) -> str | None:
    """A name as it is shown, or ``None`` when it cannot be one."""
    name = " ".join(unicodedata.normalize("NFKC", text[:200]).split())
    return name if _NAME.fullmatch(name) else None


def me() -> dict[str, str]:
    """Who is signed in."""
    name = session.get("name")
    if not isinstance(name, str):
        abort(401, "You are signed out.")
    return {"id": person_id(name), "name": name}


@mercure.subscribe_grants
def may_read() -> Grants | None:
    """What a browser may read: all rooms, its own private messages, and who is where."""
    if "name" not in session:
        return None
    person = me()
    people = [mercure.presence(topic) for topic in (HERE, *map(room_topic, ROOMS))]
    seen = [topic for presence in people for topic in presence.grants]
    topics = [EVERY_ROOM, HERE, user_topic(person["id"]), *seen]
    return Grants(topics, payload={"name": person["name"]}, user=person["id"])


@pages.route("/sign-in", methods=["GET", "POST"])
def sign_in() -> ResponseReturnValue:
    """Take a name. There is no password: this is where your login goes."""
    name = request.form.get("name", "")
    if request.method == "POST" and clean_name(name) is not None:
        session["name"] = clean_name(name)  # the cookie for the hub follows, see may_read
    if "name" in session:
        return redirect(url_for(".chat", room=next(iter(ROOMS))))
    return render_template("sign_in.html", name=name[:24]), 422 if request.method == "POST" else 200


@pages.post("/sign-out")
def sign_out() -> ResponseReturnValue:
    """Forget the name; with it goes the cookie for the hub."""
    session.clear()
    return redirect(url_for(".sign_in"))


# -- pages and messages -------------------------------------------------------------------------


@pages.get("/")
@pages.get("/rooms/<any({rooms}):room>".format(rooms=", ".join(ROOMS)))
@pages.get("/people/<person>")
def chat(room: str | None = None, person: str | None = None) -> ResponseReturnValue:
    """The page, the same for each conversation: it reads from its address which one to show."""
    if "name" not in session or (room is None and person is None):
        return redirect(url_for(".sign_in"))
    if person is not None and clean_name(person) is None:
        abort(404, "There is no such conversation.")
    g.nonce = gen_salt(24)
    return render_template(
        "chat.html",
        me=me(),
        rooms=list(ROOMS.items()),
        topics=[EVERY_ROOM, user_topic(me()["id"])],
        now=now(),
        text_limit=TEXT_LIMIT,
    )


@pages.post("/messages")
def send() -> ResponseReturnValue:
    """Publish a message to a room or to a person."""
    author = me()
    match request.get_json():
        case {"room": str(room), "text": str(text)} if room in ROOMS:
            topics, where = [room_topic(room)], {"room": room}
        case {"to": str(to), "text": str(text)} if (name := clean_name(to)) is not None:
            # The sender reads it too: in another window, and after a reload.
            topics, where = [user_topic(person_id(name)), user_topic(author["id"])], {"to": person_id(name)}
        case _:
            abort(422, "Name a room or a person, and write something.")
    text = text.replace("\r\n", "\n").strip()
    if not 0 < len(text) <= TEXT_LIMIT:
        abort(422, f"Write 1 to {TEXT_LIMIT} characters.")
    message = {"from": author, "text": text, "sent": now(), **where}
    return jsonify(id=mercure.publish(topics, message, private=True)), 201


def now() -> str:
    """The time in a form that sorts as text and that JavaScript reads."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


# -- for all requests ---------------------------------------------------------------------------


def refuse_other_sites() -> None:
    """Let only this site's own pages change something; ``Lax`` cookies come from its subdomains, too."""
    if request.method == "POST" and request.headers.get("Sec-Fetch-Site", "same-origin") != "same-origin":
        abort(403, "This request came from another site.")


def add_security_headers(response: Response) -> Response:
    """Nothing is loaded from elsewhere, and only the hub is talked to."""
    hub = urlsplit(mercure.url())
    nonce = f" 'nonce-{g.nonce}'" if "nonce" in g else ""
    response.headers["Content-Security-Policy"] = (
        f"default-src 'none'; script-src 'self'{nonce}; style-src 'self'; img-src 'self'; "
        f"connect-src 'self' {hub.scheme}://{hub.netloc}; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Referrer-Policy"] = "same-origin"
    return response


def show_error(error: HTTPException) -> ResponseReturnValue:
    """Errors as JSON for the page's script, as a page for people."""
    if request.is_json:
        return jsonify(error=error.description), error.code or 500
    return render_template("error.html", title=error.name, message=error.description), error.code or 500


def show_publish_error(error: PublishError) -> ResponseReturnValue:
    """The hub did not take the message: the log gets the cause, the page a sentence."""
    current_app.logger.error("A message was not published: %s", error)
    if error.possibly_published:
        return jsonify(error="The message may have arrived. Look before you send it again."), 504
    return jsonify(error="The message could not be delivered. Try again in a moment."), 502
