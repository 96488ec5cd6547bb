"""A list of stock: each change is published with the commit that makes it, whether the hub runs or not."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flask import Flask, Response, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from sqlalchemy import create_engine, select
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, sessionmaker

from flask_mercure import Mercure
from flask_mercure.database import Outbox, outbox_stats

mercure = Mercure()


class Base(DeclarativeBase):
    """The application's tables."""


@mercure.broadcast("stock", columns=("id", "count"), private=False)
class Item(Base):
    """Something on the shelf."""

    __tablename__ = "item"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    count: Mapped[int] = mapped_column(default=0)


def create_app(config: Mapping[str, Any] | None = None) -> Flask:
    """Make the application.

    :param config: settings; they win over those from the environment.
    """
    app = Flask(__name__)
    app.config.from_mapping(
        DATABASE=f"sqlite:///{app.instance_path}/stock.db",
        MERCURE_RELAY_THREAD=True,  # sends what waits; or run `flask mercure relay`
    )
    app.config.from_prefixed_env()
    app.config.from_mapping(config or {})
    Path(app.instance_path).mkdir(parents=True, exist_ok=True)
    sessions = sessionmaker(create_engine(app.config["DATABASE"]))
    app.config["MERCURE_OUTBOX"] = Outbox(sessions, Base.metadata)
    mercure.init_app(app)
    with app.app_context(), sessions() as session:
        Base.metadata.create_all(session.get_bind())
        if session.get(Item, 1) is None:
            session.add_all([Item(name=name) for name in ("Nuts", "Bolts", "Washers")])
            session.commit()

    @app.get("/")
    def index() -> ResponseReturnValue:
        position = mercure.last_event_id()  # before the data: what comes from now on reaches the page
        with sessions() as session:
            items = session.scalars(select(Item).order_by(Item.id)).all()
        waiting = outbox_stats(app).waiting
        return render_template("index.html", items=items, position=position, waiting=waiting)

    @app.post("/items/<int:number>")
    def change(number: int) -> ResponseReturnValue:
        with sessions() as session:
            session.get_one(Item, number).count += int(request.form["by"])
            session.commit()
        return redirect(url_for("index"))

    @app.after_request
    def add_policy(response: Response) -> Response:
        response.headers["Content-Security-Policy"] = (
            f"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self' {mercure.url()}; "
            "img-src data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
        )
        return response

    return app
