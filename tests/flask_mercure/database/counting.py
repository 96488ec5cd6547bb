"""An application whose every change is a number one higher, so that a subscriber sees what is missing.

It is the test's, and that of the relay processes: ``flask --app ... mercure relay``.
"""

from __future__ import annotations

import os
from typing import Any

from flask import Flask
from sqlalchemy import Engine, create_engine, event
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, sessionmaker
from sqlalchemy.pool import NullPool

from flask_mercure import Mercure
from flask_mercure.database import Outbox
from tests.hub.running import SECRET

mercure = Mercure()


class Base(DeclarativeBase):
    pass


@mercure.broadcast("counters/{name}", columns=("name", "value"), private=True)
class Counter(Base):
    __tablename__ = "counter"
    name: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[int]


def engine_for(database: str) -> Engine:
    engine = create_engine(database, poolclass=NullPool)
    if engine.dialect.name == "sqlite":

        @event.listens_for(engine, "connect")
        def pragmas(connection: Any, _record: Any) -> None:
            connection.execute("PRAGMA busy_timeout=30000")
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=OFF")  # processes are killed, not the machine

    return engine


def create_app(database: str | None = None, hub_url: str | None = None) -> Flask:
    app = Flask("counting")
    sessions = sessionmaker(engine_for(database or os.environ["COUNTING_DATABASE"]))
    app.config.update(
        MERCURE_URL=hub_url or os.environ["COUNTING_HUB"],
        MERCURE_JWT_SECRET=SECRET,
        MERCURE_OUTBOX=Outbox(sessions, Base.metadata),
        MERCURE_CONNECT_TIMEOUT=1,
    )
    app.config["SESSIONS"] = sessions
    mercure.init_app(app)
    return app
