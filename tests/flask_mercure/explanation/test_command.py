"""``flask mercure explain`` on a real hub, with each way to sign in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import flask_jwt_extended
import flask_login  # type: ignore[import-untyped]
import pytest
from flask import Flask, session

from flask_mercure import Grants, Mercure, URLPattern
from flask_mercure.cli import mercure
from flask_mercure.extension import state_of
from tests.hub.running import SECRET, RunningHub, running_hub

pytestmark = pytest.mark.minutes


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningHub]:
    with running_hub(tmp_path_factory.mktemp("hub"), revocations=1) as running:
        yield running


class App:
    """An app whose users are those of its session, unless a test gives it a login extension."""

    def __init__(self, hub: RunningHub, **config: Any) -> None:
        self.mercure = Mercure()
        self.app = Flask("explained")
        self.app.config.update(MERCURE_URL=hub.url, MERCURE_JWT_SECRET=SECRET, **config)
        self.app.secret_key = "of the session"
        self.mercure.init_app(self.app)
        self.answer: Callable[[], Any] = lambda: (
            Grants([f"users/{session['user']}", "Orders/1"], user=session["user"])
            if "user" in session
            else None
        )

        @self.mercure.subscribe_grants
        def grants() -> Any:
            return self.answer()

    def explain(self, *arguments: str) -> tuple[int, str]:
        outcome = self.app.test_cli_runner().invoke(mercure, ["explain", *arguments])
        if outcome.exception is not None and not isinstance(outcome.exception, SystemExit):
            raise outcome.exception
        return outcome.exit_code, outcome.output

    def publish(self, topic: str, *, private: bool = True) -> str:
        with self.app.app_context():
            return self.mercure.publish(topic, "x", private=private)


@pytest.fixture
def app(hub: RunningHub) -> Iterator[App]:
    app = App(hub)

    @app.mercure.explain_user
    def sign_in(user: str) -> None:
        session["user"] = user

    yield app
    state_of(app.app).publisher.close()


def test_a_user_who_gets_it(app: App) -> None:
    sent = app.publish("users/7")
    status, text = app.explain("--user", "7", "users/7")
    assert status == 0, text
    assert text.splitlines() == [
        "user     7, by the app's function of explain_user",
        "grants   'users/7', 'Orders/1'",
        "topic    'users/7' is selected by 'users/7'",
        "hub      takes a new token of this user",
        f"update   the newest one, {sent}, is private, and the hub gives it to this user",
    ]


def test_a_user_who_does_not(app: App) -> None:
    sent = app.publish("orders/1")
    status, text = app.explain("--user", "7", "orders/1")
    assert status == 1
    assert (
        "topic    'orders/1' is selected by none of them. The nearest is 'Orders/1': it differs in upper and "
        "lower case" in text
    )
    assert f"the newest one, {sent}, is private, and the hub keeps it from this user" in text


def test_an_update_that_is_public(app: App) -> None:
    sent = app.publish("news", private=False)
    status, text = app.explain("--user", "7", "news")
    assert status == 1
    assert f"the newest one, {sent}, is public: everybody who can connect gets it" in text


def test_a_topic_without_updates(app: App) -> None:
    assert "the hub has none on this topic, or does not say" in app.explain("--user", "7", "nothing")[1]


def test_a_visitor(app: App) -> None:
    status, text = app.explain("users/7")
    assert status == 1
    assert "nobody is signed in" in text
    assert "subscribe_grants gives None" in text


def test_a_user_whose_tokens_were_revoked(app: App) -> None:
    assert "revoked" not in app.explain("--user", "9", "users/9")[1]
    with app.app.app_context():
        app.mercure.revoke("9")
    status, text = app.explain("--user", "9", "users/9")
    assert status == 0
    assert "revoked  tokens of this user were revoked: a page with an older one gets nothing" in text


def test_a_hub_that_refuses_the_token(app: App, tmp_path_factory: pytest.TempPathFactory) -> None:
    with running_hub(tmp_path_factory.mktemp("strict"), issuer="urn:other") as strict:
        app = App(strict)
        app.answer = lambda: Grants("a", user="7")
        status, text = app.explain("a")
        state_of(app.app).publisher.close()
    assert status == 1
    assert "hub      refuses a new token of this user: token-refused" in text


def test_a_hub_that_is_away(hub: RunningHub) -> None:
    app = App(hub, MERCURE_CONNECT_TIMEOUT=0.5)
    app.app.config["MERCURE_URL"] = "nowhere"
    away = App(RunningHub(9))
    away.answer = lambda: Grants("a", user="7")
    status, text = away.explain("a")
    assert status == 1
    assert "does not answer. Does the hub run?" in text


def test_flask_login(hub: RunningHub) -> None:
    app = App(hub)
    signals: list[object] = []
    flask_login.user_logged_in.connect(signals.append)

    @flask_login.LoginManager(app.app).user_loader  # type: ignore[untyped-decorator]
    def load(id: str) -> Any:
        user = flask_login.UserMixin()
        user.id = id
        return user if id != "0" else None

    app.answer = lambda: (
        [f"users/{flask_login.current_user.id}"] if flask_login.current_user.is_authenticated else None
    )
    status, text = app.explain("--user", "7", "users/7")
    assert (status, signals) == (0, [])
    assert "user     7, loaded by Flask-Login" in text
    status, text = app.explain("--user", "0", "users/0")
    assert status == 1
    assert "there is no user '0'" in text
    state_of(app.app).publisher.close()


@pytest.mark.parametrize("location", ["headers", "cookies"])
def test_flask_jwt_extended(hub: RunningHub, location: str) -> None:
    app = App(
        hub,
        JWT_SECRET_KEY="a key for sessions of more than 32 bytes",
        JWT_TOKEN_LOCATION=[location],
        JWT_COOKIE_CSRF_PROTECT=False,
    )
    flask_jwt_extended.JWTManager(app.app)

    def grants() -> Any:
        flask_jwt_extended.verify_jwt_in_request(optional=True)
        user = flask_jwt_extended.get_jwt_identity()
        return [URLPattern(f"https://site.example/users/{user}/*")] if user else None

    app.answer = grants
    status, text = app.explain("--user", "7", "https://site.example/users/7/orders")
    assert status == 0, text
    assert "user     7, with a token of Flask-JWT-Extended" in text
    state_of(app.app).publisher.close()


def test_an_app_whose_login_is_its_own_is_told_what_to_register(hub: RunningHub) -> None:
    app = App(hub)
    status, text = app.explain("--user", "7", "users/7")
    assert status == 1
    assert "@mercure.explain_user" in text


def test_an_app_without_grants(hub: RunningHub) -> None:
    app = Flask("bare")
    app.config.update(MERCURE_URL=hub.url, MERCURE_JWT_SECRET=SECRET)
    Mercure(app)
    outcome = app.test_cli_runner().invoke(mercure, ["explain", "a"])
    assert outcome.exit_code == 1
    assert "register a function with @mercure.subscribe_grants" in outcome.output


def test_a_topic_that_cannot_be_one(app: App) -> None:
    status, text = app.explain("--user", "7", "*")
    assert status == 1
    assert "EVERYTHING" in text
