"""Notes that the hub carries and cannot read.

The application encrypts each note, keeps the keys, and gives them to browsers that are signed in. It stores
no note: the hub's history does, in a form that is of no use without the keys.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flask import Flask, Response, abort, g, redirect, render_template, request, session, url_for
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import HTTPException

from flask_mercure import KeySet, Mercure, PublishError

LIMIT = 2000  # characters
OLD_KEYS = 4  # that are kept, for the notes in the hub's history; older notes cannot be read any more

mercure = Mercure()


@mercure.subscribe_grants
def grants() -> list[str] | None:
    """Who is signed in may have the updates; to read them, a browser needs the keys, too."""
    return ["notes"] if "name" in session else None


def create_app(config: Mapping[str, Any] | None = None) -> Flask:
    """Make the application.

    :param config: settings; they win over those from the environment.
    """
    app = Flask(__name__)
    app.config.from_mapping(KEYS=f"{app.instance_path}/keys.json", SESSION_COOKIE_SAMESITE="Lax")
    app.config.from_prefixed_env()
    app.config.from_mapping(config or {})
    mercure.init_app(app)
    path = Path(app.config["KEYS"])
    if not path.exists():
        store(path, KeySet.generate())

    @app.before_request
    def guard() -> None:
        if request.method == "POST" and request.headers.get("Sec-Fetch-Site", "same-origin") != "same-origin":
            abort(403, "This request came from another site.")
        if request.endpoint in ("keys", "change_key", "write") and "name" not in session:
            abort(401, "Sign in first.")

    @app.get("/keys")
    def keys() -> ResponseReturnValue:
        return mercure.key_set(stored(path))

    @app.post("/keys")
    def change_key() -> ResponseReturnValue:
        """A new key for the notes to come: what somebody copied today does not open them."""
        store(path, stored(path).rotate(keep=OLD_KEYS))
        return "", 204

    @app.post("/notes")
    def write() -> ResponseReturnValue:
        text = request.form["text"].strip()
        if not 0 < len(text) <= LIMIT:
            abort(422, f"A note has 1 to {LIMIT} characters.")
        note = {
            # The hub could deliver a note twice, or under another topic. It cannot change what is in here,
            # and the page looks at it.
            "id": secrets.token_urlsafe(12),
            "topic": "notes",
            "from": session["name"],
            "sent": datetime.now(UTC).isoformat(timespec="seconds"),
            "text": text,
        }
        mercure.publish("notes", note, private=True, encrypt_for=stored(path))
        return "", 204

    @app.get("/")
    @app.get("/<any(hub):page>")
    def index(page: str = "notes") -> ResponseReturnValue:
        """The notes, decrypted; or the same updates as the hub has them."""
        if "name" not in session:
            return redirect(url_for("sign_in"))
        g.nonce = secrets.token_urlsafe(16)
        response = app.make_response(render_template(f"{page}.html", limit=LIMIT))
        # A client that is no page of ours finds hub, topic and keys with these.
        about = {"content_type": "application/jose", "key_set": url_for("keys")}
        return mercure.discover(response, topic="notes", **about)

    @app.route("/sign-in", methods=["GET", "POST"])
    def sign_in() -> ResponseReturnValue:
        """Take a name. There is no password: this is where your login goes."""
        if name := " ".join(request.form.get("name", "")[:40].split()):
            session["name"] = name
            return redirect(url_for("index"))
        return render_template("sign_in.html")

    @app.post("/sign-out")
    def sign_out() -> ResponseReturnValue:
        """Forget the name; with it goes the cookie for the hub. The page forgets the keys when it is left."""
        session.clear()
        return redirect(url_for("sign_in"))

    @app.errorhandler(HTTPException)
    def show_error(error: HTTPException) -> ResponseReturnValue:
        return Response(error.description, error.code, mimetype="text/plain")

    @app.errorhandler(PublishError)
    def show_publish_error(error: PublishError) -> ResponseReturnValue:
        app.logger.error("A note was not published: %s", error)
        return Response("The note could not be delivered. Try again in a moment.", 502, mimetype="text/plain")

    @app.after_request
    def add_policy(response: Response) -> Response:
        """Nothing is loaded from elsewhere, only the hub is talked to: no other script gets at the keys."""
        nonce = f" 'nonce-{g.nonce}'" if "nonce" in g else ""
        response.headers["Content-Security-Policy"] = (
            f"default-src 'none'; script-src 'self'{nonce}; style-src 'self'; img-src 'self'; "
            f"connect-src 'self' {mercure.url()}; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
        )
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers.setdefault("Cache-Control", "no-store")
        return response

    return app


def stored(path: Path) -> KeySet:
    """The keys, read anew each time: another process may have changed them."""
    return KeySet.load(f"@{path}")


def store(path: Path, keys: KeySet) -> None:
    """Replace the file in one step; only this user can read it."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    new = path.with_suffix(f".{secrets.token_hex(8)}")
    new.touch(mode=0o600, exist_ok=False)
    new.write_text(keys.to_json(), encoding="utf-8")
    new.replace(path)
