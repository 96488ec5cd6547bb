"""A list of orders whose rows are broadcast, for pages with Turbo and with htmx; jobs change it.

``python -m tests.examples.html_site JOB ARGUMENT...`` does one job, in a process that has no request.
"""

from __future__ import annotations

import secrets
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flask import Flask, Response, g, make_response, render_template, request, send_from_directory
from jinja2 import DictLoader
from sqlalchemy import Engine, create_engine, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

from flask_mercure import Mercure, TurboStream
from flask_mercure.database import Outbox

mercure = Mercure()


class Base(DeclarativeBase):
    pass


@mercure.broadcast("turbo", template="_order.html", target="orders", private=True)
@mercure.broadcast("htmx", template="_order.html", target="orders", format="htmx", private=True)
class Order(Base):
    __tablename__ = "order"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]


TEMPLATES = {
    "_order.html": (
        '<tr id="{{ dom_id(order) }}"><td>'
        "<a href=\"{{ url_for('show', id=order.id) }}\">{{ order.title }}</a></td></tr>"
    ),
    "orders.html": """<!doctype html>
<html lang="en">
<head>
  <meta name="csp-nonce" content="{{ nonce }}">
  <meta name="htmx-config"
    content='{"allowEval": false, "includeIndicatorStyles": false, "includeIndicatorCSS": false}'>
  <link rel="icon" href="data:,">
  <title>Orders</title>
  {{ mercure_script(last_event_id=position, nonce=nonce) }}
  {% if library == "turbo" %}<script type="module" src="/libraries/turbo.js"></script>
  {% else %}<script src="/libraries/{{ library }}.js" defer></script>{% endif %}
  <script type="module" src="/page.js"></script>
</head>
<body>
  {{ mercure_on(topic, topics=topic) }}
  {{ mercure_on("note", "app.toast") }}
  {{ mercure_on("count", text="#count-{kind}", field="count") }}
  <p id="count-open">?</p>
  <table><tbody id="orders">{% for order in orders %}{% include "_order.html" %}{% endfor %}</tbody></table>
  <form method="post" action="/"><input name="title"><button>Add</button></form>
</body>
</html>""",
    "drive.html": """<!doctype html>
<html lang="en">
<head>
  <meta name="csp-nonce" content="{{ nonce }}">
  <link rel="icon" href="data:,">
  <title>{{ topic }}</title>
  {{ mercure_script(topic, position, nonce=nonce) }}
  <script type="module" src="/libraries/turbo.js"></script>
</head>
<body>
  {{ mercure_on("message", text="#last") }}
  <p id="last">{{ topic }}</p>
  <a href="/drive/b?position={{ request.args.next }}">b</a>
</body>
</html>""",
}
_LIBRARIES = {
    "turbo.js": ("turbo", "@hotwired/turbo/dist/turbo.es2017-esm.js"),
    "htmx2.js": ("htmx2", "htmx.org/dist/htmx.min.js"),
    "htmx4.js": ("htmx4", "htmx.org/dist/htmx.min.js"),
}
_SCRIPT = """
window.app = { toasts: [], toast({ data }) { this.toasts.push(data); } };
"""


def topic_of(library: str) -> str:
    """The topic of the rows for a library, which is the event type, too."""
    return library.rstrip("24")


def create_app(config: Mapping[str, Any], database: Path, modules: Mapping[str, str] | None = None) -> Flask:
    """Make the app.

    :param config: settings.
    :param database: a file; what is committed there gets to the hub by the outbox.
    :param modules: where npm has installed, by the names of the libraries.
    """
    app = Flask("orders")
    app.jinja_env.loader = DictLoader(TEMPLATES)
    engine: Engine = create_engine(f"sqlite:///{database}", connect_args={"timeout": 20})
    sessions: sessionmaker[Session] = sessionmaker(engine)
    app.config.from_mapping(config, MERCURE_OUTBOX=Outbox(sessions, Base.metadata))
    app.extensions["orders"] = sessions
    mercure.init_app(app)
    Base.metadata.create_all(engine)

    @app.get("/<any(turbo, htmx2, htmx4):library>")
    def index(library: str) -> Response:
        topic = topic_of(library)
        g.nonce = secrets.token_urlsafe(16)
        position = request.args.get("position") or mercure.last_event_id()
        with sessions() as session:
            orders = session.scalars(select(Order).order_by(Order.id)).all()
            page = render_template(
                "orders.html", orders=orders, library=library, topic=topic, position=position, nonce=g.nonce
            )
        return mercure.set_cookie(app.make_response(page), subscribe=[topic])

    @app.get("/drive/<topic>")
    def drive(topic: str) -> Response:
        """One of the pages that Turbo Drive shows in one document."""
        g.nonce = request.headers.get("X-Turbo-Nonce") or secrets.token_urlsafe(16)
        position = request.args.get("position") or mercure.last_event_id()
        page = render_template("drive.html", topic=topic, position=position, nonce=g.nonce)
        return mercure.set_cookie(app.make_response(page), subscribe=["a", "b"])

    @app.post("/")
    def add() -> Any:
        """Turbo's form: the answer changes this page, the hub all others."""
        if not request.form["title"]:
            return make_response(TurboStream.update("orders", "<b>No title</b>"), 422)
        with sessions() as session:
            session.add(Order(title=request.form["title"]))
            session.commit()
        return TurboStream.update(targets="form", content="Thanks & bye")

    @app.get("/orders/<int:id>")
    def show(id: int) -> str:
        return str(id)

    @app.get("/libraries/<name>")
    def library(name: str) -> Response:
        folder, file = _LIBRARIES[name]
        return send_from_directory((modules or {})[folder], file)

    @app.get("/page.js")
    def script() -> Response:
        return Response(_SCRIPT, mimetype="text/javascript")

    @app.after_request
    def add_policy(response: Response) -> Response:
        nonce = f"'nonce-{g.nonce}'" if "nonce" in g else ""
        hub = app.config["MERCURE_PUBLIC_URL"].partition("/.well-known")[0]
        response.headers["Content-Security-Policy"] = (
            f"default-src 'none'; script-src 'self' {nonce}; style-src {nonce}; connect-src 'self' {hub}; "
            "img-src data:; base-uri 'none'; form-action 'self'"
        )
        return response

    return app


def do(app: Flask, job: str, *arguments: str) -> None:
    """Create, change or delete an order, in an app context and nothing more."""
    with app.app_context(), app.extensions["orders"]() as session:
        match job, arguments:
            case "create", (title,):
                session.add(Order(title=title))
            case "change", (number, title):
                session.get_one(Order, int(number)).title = title
            case "delete", (number,):
                session.delete(session.get_one(Order, int(number)))
        session.commit()


if __name__ == "__main__":
    where, url, secret, *what = sys.argv[1:]
    settings = {"MERCURE_URL": url, "MERCURE_PUBLIC_URL": url, "MERCURE_JWT_SECRET": secret}
    do(create_app(settings, Path(where)), *what)
