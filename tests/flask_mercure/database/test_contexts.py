"""Models that are broadcast beside what applications do with their sessions at the end of an app context."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, g, has_request_context
from flask_sqlalchemy import SQLAlchemy
from jinja2 import DictLoader
from sqlalchemy import create_engine, func, select
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, scoped_session, sessionmaker

from flask_mercure import Mercure
from flask_mercure.contexts import apart_from_the_request, within

pytestmark = pytest.mark.minutes

KINDS: list[dict[str, Any]] = [
    {"columns": ("id", "title")},
    {"template": "_order.html", "target": "orders"},
    {"serializer": lambda order: f"{order.title} {order.count()}"},
]


class Shop:
    """An app; ``order`` makes one in a request and commits it."""

    def __init__(self, mercure: Mercure, **config: object) -> None:
        self.app = Flask("shop")
        self.app.config.update(MERCURE_JWT_SECRET="x" * 40, **config)
        self.app.jinja_env.loader = DictLoader(
            {"_order.html": '<li id="{{ dom_id(order) }}">{{ order.title }} {{ order.count() }}</li>'}
        )
        mercure.init_app(self.app)

    def add_view(self, order: type[Any], session: Any) -> None:
        @self.app.post("/")
        def add() -> str:
            made = order(title="tea")
            session.add(made)
            session.commit()
            return f"{made.id} {made.title}"  # it is read again: the session is as it was

    def order(self, expected: str) -> None:
        assert self.app.test_client().post("/").text == expected


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: next(iter(kind)))
def test_the_session_of_flasks_documentation(kind: dict[str, Any], tmp_path: Path) -> None:
    """It is closed at the end of each app context, and is the same in all contexts of a thread."""
    mercure = Mercure()
    shop = Shop(mercure)
    engine = create_engine(f"sqlite:///{tmp_path}/shop.db")
    session = scoped_session(sessionmaker(engine))

    @shop.app.teardown_appcontext
    def close(_error: BaseException | None) -> None:
        session.remove()

    class Base(DeclarativeBase):
        pass

    @mercure.broadcast("orders", private=True, **kind)
    class Order(Base):
        __tablename__ = "order"
        id: Mapped[int] = mapped_column(primary_key=True)
        title: Mapped[str]

        def count(self) -> int:
            return session.scalar(select(func.count()).select_from(Order)) or 0

    Base.metadata.create_all(engine)
    shop.add_view(Order, session)
    with mercure.record() as updates:
        shop.order("1 tea")
        shop.order("2 tea")
    assert len(updates) == 2
    with engine.connect() as connection:
        assert connection.scalar(select(func.count()).select_from(Order.__table__)) == 2
    engine.dispose()


@pytest.fixture(params=["sqlite://", "sqlite:///{}/shop.db"], ids=["memory", "file"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    template: str = request.param
    return template.format(tmp_path)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: next(iter(kind)))
def test_the_session_of_flask_sqlalchemy(kind: dict[str, Any], uri: str) -> None:
    """Whoever asks it for rows while an update is made sees what is about to be committed."""
    mercure, db = Mercure(), SQLAlchemy()
    shop = Shop(mercure, SQLALCHEMY_DATABASE_URI=uri)
    db.init_app(shop.app)

    @mercure.broadcast("orders", private=True, **kind)
    class Order(db.Model):  # type: ignore[name-defined, misc]
        id = db.Column(db.Integer, primary_key=True)
        title = db.Column(db.String(20))

        def count(self) -> Any:
            return db.session.scalar(db.select(db.func.count()).select_from(Order))

    with shop.app.app_context():
        db.create_all()
    shop.add_view(Order, db.session)
    with mercure.record() as updates:
        shop.order("1 tea")
        shop.order("2 tea")
    with shop.app.app_context():
        assert db.session.scalar(db.select(db.func.count()).select_from(Order)) == 2
        db.session.remove()
        db.engine.dispose()
    if "columns" not in kind:
        assert ["tea 1" in updates[0].data, "tea 2" in updates[1].data] == [True, True]
    assert len(updates) == 2


@pytest.fixture
def app() -> Iterator[Flask]:
    yield Flask("app")


@pytest.mark.parametrize("call", [within, apart_from_the_request])
def test_no_context_ends(app: Flask, call: Callable[..., Any]) -> None:
    ended: list[object] = []
    app.teardown_appcontext(ended.append)

    def look() -> str:
        assert not has_request_context()
        g.own = "own"
        return app.name

    assert call(app, look) == "app"
    other = Flask("other")
    with other.app_context():
        assert call(app, look) == "app"
        assert "own" not in g
    assert ended == []


def test_the_current_context_is_used_if_it_is_of_the_app(app: Flask) -> None:
    with app.test_request_context():
        g.name = "the caller's"
        assert within(app, lambda: (g.get("name"), has_request_context())) == ("the caller's", True)
        assert apart_from_the_request(app, lambda: (g.get("name"), has_request_context())) == (None, False)
