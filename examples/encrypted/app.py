"""Notes that the hub carries and cannot read.

The application encrypts each note, keeps the keys, and gives them to browsers that are signed in. It stores
no note: the hub's history does, in a form that is of no use without the keys.

* ``/`` writes notes, and decrypts them in the browser;
* ``/hub`` shows the same updates as the hub has them;
* ``/keys`` is the key set, for those who may read.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from flask import (
    Blueprint,
    Flask,
    Response,
    abort,
    current_app,
    jsonify,
    redirect,
    render_template,
    request,
    session,
    url_for,
)
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import HTTPException

from flask_mercure import KeySet, Mercure, PublishError

TOPIC = "https://notes.example/notes"  # a name and not an address: nothing is ever fetched from there
TEXT_LIMIT = 2000
OLD_KEYS = 4  # that are kept, for the notes in the hub's history; older notes cannot be read any more

mercure = Mercure()
pages = Blueprint("notes", __name__)


def create_app(config: Mapping[str, Any] | None = None) -> Flask:
    """Make the application.

    :param config: settings; they win over those from the environment.
    """
    app = Flask(__name__, instance_path=str(Path(__file__).resolve().parent / "instance"))
    app.config.from_mapping(
        KEYS=str(Path(app.instance_path) / "keys.json"),
        MAX_CONTENT_LENGTH=64 * 1024,
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
    if not Path(app.config["KEYS"]).exists():
        store(app.config["KEYS"], KeySet.generate())
    return app


# -- keys ---------------------------------------------------------------------------------------


def stored_keys() -> KeySet:
    """The keys, read anew each time: another process may have changed them."""
    return KeySet.load("@" + current_app.config["KEYS"])


def store(path: str, keys: KeySet) -> None:
    """Replace the file in one step; only this user can read it."""
    Path(path).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    new = Path(f"{path}.{secrets.token_hex(8)}")
    new.touch(mode=0o600, exist_ok=False)
    new.write_text(keys.to_json(), encoding="utf-8")
    new.replace(path)


@pages.get("/keys")
def keys() -> ResponseReturnValue:
    """The keys, for those who may read the notes: here, whoever is signed in."""
    if "name" not in session:
        abort(401, "Sign in first.")
    return mercure.key_set(stored_keys())


@pages.post("/keys")
def change_key() -> ResponseReturnValue:
    """A new key for the notes to come: what somebody copied today does not open them."""
    if "name" not in session:
        abort(401, "Sign in first.")
    changed = stored_keys().rotate(keep=OLD_KEYS)
    store(current_app.config["KEYS"], changed)
    return jsonify(kid=changed.ids[0])


# -- people -------------------------------------------------------------------------------------


@pages.route("/sign-in", methods=["GET", "POST"])
def sign_in() -> ResponseReturnValue:
    """Take a name. There is no password: this is where your login goes."""
    if request.method == "GET":
        return render_template("sign_in.html")
    name = " ".join(request.form.get("name", "")[:40].split())
    if not name:
        abort(422, "Give a name.")
    session["name"] = name
    # The token lets this browser have the updates. To read them it needs the keys, too.
    return mercure.set_cookie(redirect(url_for(".index")), subscribe=[TOPIC])


@pages.post("/sign-out")
def sign_out() -> ResponseReturnValue:
    """Forget the name and take back the cookie. The page forgets the keys when it is left."""
    session.clear()
    return mercure.clear_cookie(redirect(url_for(".sign_in")))


# -- pages and notes ----------------------------------------------------------------------------


@pages.get("/")
def index() -> ResponseReturnValue:
    """The notes, decrypted."""
    return show("notes.html")


@pages.get("/hub")
def hub() -> ResponseReturnValue:
    """The same updates, as the hub has them."""
    return show("hub.html")


def show(template: str) -> ResponseReturnValue:
    """A page with a stream of all updates from the first one on."""
    if "name" not in session:
        return redirect(url_for(".sign_in"))
    page = {"topic": TOPIC, "stream": mercure.url(TOPIC, "earliest"), "keys": url_for(".keys")}
    response = current_app.make_response(
        render_template(template, page=page, name=session["name"], limit=TEXT_LIMIT)
    )
    # A client that is no page of ours finds hub, topic and keys with these.
    return mercure.discover(response, topic=TOPIC, content_type="application/jose", key_set=url_for(".keys"))


@pages.post("/notes")
def write() -> ResponseReturnValue:
    """Encrypt a note and publish it."""
    if "name" not in session:
        abort(401, "Sign in first.")
    body = request.get_json()
    text = body.get("text") if isinstance(body, dict) else None
    if not isinstance(text, str) or not 0 < len(text.strip()) <= TEXT_LIMIT:
        abort(422, f"A note has 1 to {TEXT_LIMIT} characters.")
    note = {
        # The hub could deliver a note twice, or with another topic. It cannot change what is in here, and the
        # page looks at it.
        "id": secrets.token_urlsafe(12),
        "topic": TOPIC,
        "from": session["name"],
        "sent": datetime.now(UTC).isoformat(timespec="seconds"),
        "text": text.strip(),
    }
    return jsonify(id=mercure.publish(TOPIC, note, private=True, encrypt_for=stored_keys())), 201


# -- for all requests ---------------------------------------------------------------------------


def refuse_other_sites() -> None:
    """Let only this site's own pages change something. The chat's example says more about it."""
    if request.method in {"GET", "HEAD", "OPTIONS"}:
        return
    own = request.host_url.rstrip("/")
    site = request.headers.get("Sec-Fetch-Site")
    if site != "same-origin" and (site is not None or request.headers.get("Origin") != own):
        abort(403, "This request came from another site.")


def add_security_headers(response: Response) -> Response:
    """Nothing is loaded from elsewhere, and only the hub is talked to: no other script gets at the keys."""
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
    """Errors as JSON for the page's script, as text for people."""
    code = error.code or 500
    if request.path in {"/notes", "/keys"}:
        return jsonify(error=error.description), code
    return render_template("error.html", title=error.name, message=error.description), code


def show_publish_error(error: PublishError) -> ResponseReturnValue:
    """The hub did not take the note: the log gets the cause, the page a sentence."""
    current_app.logger.error("A note was not published: %s", error)
    return jsonify(error="The note could not be delivered. Try again in a moment."), 502
