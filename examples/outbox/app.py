"""A list of stock: each change is published with the commit that makes it, whether the hub runs or not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flask import Flask, redirect, render_template_string, request, url_for
from sqlalchemy import Engine, create_engine, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker
from werkzeug.wrappers import Response

from flask_mercure import Mercure, build_topic
from flask_mercure.database import Outbox, outbox_stats

mercure = Mercure()


class Base(DeclarativeBase):
    """The application's tables."""


@mercure.broadcast("stock/{id}", columns=("id", "name", "count"), private=False)
class Item(Base):
    """Something on the shelf."""

    __tablename__ = "item"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    count: Mapped[int] = mapped_column(default=0)


PAGE = """
<!doctype html>
<title>Stock</title>
<ul>{% for item in items %}
  <li><form method="post" action="{{ url_for('change', number=item.id) }}">
    {{ item.name }}: <b id="item-{{ item.id }}">{{ item.count }}</b>
    <button name="by" value="1">+</button> <button name="by" value="-1">-</button></form>{% endfor %}
</ul>
<p>{{ waiting }} updates wait for the hub.</p>
{{ mercure_script(topics, position) }}
{{ mercure_on("message", text="#item-{id}", field="count") }}
"""


def create_app(database: str | None = None, config: dict[str, Any] | None = None) -> Flask:
    """The application.

    :param database: URL; default: SQLite in the instance folder.
    :param config: joined to the configuration; ``FLASK_MERCURE_…`` variables are read too.
    """
    app = Flask(__name__)
    app.config.from_prefixed_env()
    app.config.update(config or {})
    if database is None:
        Path(app.instance_path).mkdir(parents=True, exist_ok=True)
        database = f"sqlite:///{app.instance_path}/stock.db"
    engine: Engine = create_engine(database)
    sessions: sessionmaker[Session] = sessionmaker(engine)
    app.config["MERCURE_OUTBOX"] = Outbox(sessions, Base.metadata)
    mercure.init_app(app)
    Base.metadata.create_all(engine)
    with sessions() as session:
        if session.scalar(select(Item).limit(1)) is None:
            session.add_all([Item(name=name, count=0) for name in ("Nuts", "Bolts", "Washers")])
            with app.app_context():
                session.commit()

    @app.get("/")
    def index() -> str:
        position = mercure.last_event_id()  # before the data: what comes from now on reaches the page
        with sessions() as session:
            items = session.scalars(select(Item).order_by(Item.id)).all()
            topics = [build_topic("stock/{}", item.id) for item in items]
            waiting = outbox_stats(app).waiting
            return render_template_string(
                PAGE, items=items, topics=topics, position=position, waiting=waiting
            )

    @app.post("/items/<int:number>")
    def change(number: int) -> Response:
        with sessions() as session:
            item = session.get_one(Item, number)
            item.count += int(request.form["by"])
            session.commit()
        return redirect(url_for("index"))

    app.extensions["example.engine"] = engine
    return app
