"""Ending access: the request to the hub, what a logout ends, and what real streams see of it."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import flask_login  # type: ignore[import-untyped]
import jwt
import pytest
from flask import Flask, make_response, session
from flask.testing import FlaskClient

from flask_mercure import (
    EVERYTHING,
    Grants,
    HubUnreachable,
    InvalidArgument,
    Mercure,
    RecordedRevocation,
    Refused,
    URLPattern,
)
from flask_mercure.extension import state_of
from flask_mercure.publishing.recorder import Recording
from mercure_hub.protocol.tokens.claims import DETAILS, REVOCATION_TYPE
from tests.flask_mercure.fake_hub import SECRET, Answer, FakeHub, add_login, make_app, running
from tests.flask_mercure.real_hub import app_on
from tests.hub.running import RunningHub, running_hub
from tests.storage.log import until

HUB = "https://hub.site.example/.well-known/mercure"
SITE = "https://site.example"
COOKIE = "__Secure-mercure_access_token"
MARK = "mercure_grants_default"
DONE = Answer(b"", 204, None)


class Account(flask_login.UserMixin):  # type: ignore[misc]
    def __init__(self, id: str) -> None:
        self.id = id


@pytest.mark.minutes
class TestRequest:
    """What ``mercure.revoke`` sends, and what it makes of the answer."""

    @pytest.fixture
    def hub(self) -> Iterator[FakeHub]:
        with running() as hub:
            hub.answers = [DONE]
            yield hub

    def revoke(
        self, hub: FakeHub, *arguments: Any, config: dict[str, Any] | None = None, **named: Any
    ) -> None:
        mercure = Mercure()
        app = make_app(mercure, URL=hub.url, **(config or {}))
        try:
            with app.app_context():
                mercure.revoke(*arguments, **named)
        finally:
            state_of(app).publisher.close()

    @pytest.mark.parametrize(
        ("arguments", "expected"),
        [
            ({"user": 7}, [("sub", "7")]),
            ({"user": "ann"}, [("sub", "ann")]),
            ({"user": 7, "topics": "rooms/1"}, [("sub", "7"), ("topic", "rooms/1")]),
            (
                {"user": 7, "topics": ["a", URLPattern("/t/:id/*")]},
                [("sub", "7"), ("topic", "a"), ("topic", "/t/:id/*")],
            ),
            ({"jti": "urn:uuid:1"}, [("jti", "urn:uuid:1")]),
            ({"sid": "s"}, [("sid", "s")]),
            ({"jti": "j", "lifetime": 60}, [("jti", "j"), ("lifetime", "60.0")]),
            ({"jti": "j", "lifetime": timedelta(hours=1)}, [("jti", "j"), ("lifetime", "3600.0")]),
        ],
    )
    def test_what_is_asked_for(
        self, hub: FakeHub, arguments: dict[str, Any], expected: list[tuple[str, str]]
    ) -> None:
        before = time.time()
        self.revoke(hub, **arguments)
        (received,) = hub.received
        assert (received.method, received.target) == ("POST", "/.well-known/mercure/revocations")
        assert [pair for pair in received.pairs if pair[0] != "before"] == expected
        instants = [float(value) for name, value in received.pairs if name == "before"]
        assert len(instants) == ("user" in arguments)
        assert all(before <= one <= time.time() for one in instants)

    def test_the_token_allows_that_and_nothing_else(self, hub: FakeHub) -> None:
        self.revoke(hub, 7)
        token = hub.received[0].headers["Authorization"].removeprefix("Bearer ")
        claims = jwt.decode(token, SECRET, algorithms=["HS256"], audience=hub.url)
        own, publish = claims[DETAILS]
        assert own == {"type": REVOCATION_TYPE, "actions": ["revoke"]}
        assert publish["topics"] == [{"match": REVOCATION_TYPE}]

    def test_the_token_of_the_old_protocol(self, hub: FakeHub) -> None:
        self.revoke(hub, 7, config={"PROTOCOL": "0.x"})
        token = hub.received[0].headers["Authorization"].removeprefix("Bearer ")
        claims = jwt.decode(token, SECRET, algorithms=["HS256"])
        assert claims["mercure"] == {"publish": [REVOCATION_TYPE], "revoke": True}

    @pytest.mark.parametrize(
        "user", [7, "7", Account("7"), UUID(int=7)], ids=lambda user: type(user).__name__
    )
    def test_a_user_is_named_in_any_form_as_the_cookie_names_it(self, hub: FakeHub, user: Any) -> None:
        self.revoke(hub, user)
        mercure = Mercure()
        with make_app(mercure, URL=hub.url).test_request_context():
            claims = jwt.decode(mercure.create_token("a", user=user), options={"verify_signature": False})
        assert ("sub", claims["sub"]) in hub.received[0].pairs
        assert claims["sub"] == (str(user) if isinstance(user, UUID) else "7")

    def test_a_token_that_is_configured_is_sent(self, hub: FakeHub) -> None:
        token = jwt.encode({"exp": time.time() + 60}, SECRET)
        self.revoke(hub, 7, config={"JWT_SECRET": None, "JWT": token})
        assert hub.received[0].headers["Authorization"] == f"Bearer {token}"

    def test_tokens_that_live_longer_than_a_month_are_refused_for_as_long(self, hub: FakeHub) -> None:
        self.revoke(hub, 7, config={"TOKEN_LIFETIME": timedelta(days=60)})
        assert ("lifetime", repr(60 * 86400.0)) in hub.received[0].pairs

    @pytest.mark.parametrize(
        ("arguments", "error", "words"),
        [
            ({}, InvalidArgument, "needs a user"),
            ({"user": ""}, InvalidArgument, "user is ''"),
            ({"user": True}, TypeError, "user is a bool"),
            ({"user": object()}, TypeError, "user is a object; give an id as a str, an int or a UUID"),
            ({"user": b"7"}, TypeError, "user is a bytes"),
            ({"user": 7.0}, TypeError, "user is a float"),
            ({"user": {"id": 7}}, TypeError, "user is a dict"),
            ({"user": flask_login.AnonymousUserMixin()}, TypeError, "whose get_id() returns None"),
            ({"sid": object()}, TypeError, "sid is a object"),
            ({"jti": ""}, InvalidArgument, "jti is ''"),
            ({"jti": "j", "topics": "a"}, InvalidArgument, "topics belongs to user"),
            ({"user": 7, "jti": "j"}, InvalidArgument, "one at a time"),
            ({"user": 7, "topics": "*"}, InvalidArgument, "EVERYTHING"),
            ({"user": 7, "lifetime": 0}, InvalidArgument, "lifetime is 0"),
            ({"user": 7, "lifetime": float("inf")}, InvalidArgument, "lifetime is inf"),
            ({"user": 7, "lifetime": "1h"}, TypeError, "lifetime is '1h'"),
        ],
    )
    def test_arguments_that_are_refused(
        self, hub: FakeHub, arguments: dict[str, Any], error: type[Exception], words: str
    ) -> None:
        with pytest.raises(error, match=re.escape(words)):
            self.revoke(hub, **arguments)
        assert hub.received == []

    @pytest.mark.parametrize(
        ("status", "words"),
        [
            (404, "set MERCURE_REVOCATIONS=1"),
            (403, "with the action 'revoke'"),
            (503, "its log has the cause"),
        ],
    )
    def test_a_hub_that_does_not(self, hub: FakeHub, status: int, words: str) -> None:
        hub.answers = [Answer(b"no", status)]
        with pytest.raises(Refused, match=words) as raised:
            self.revoke(hub, 7)
        assert raised.value.status == status

    def test_a_hub_that_is_away(self) -> None:
        mercure = Mercure()
        with (
            make_app(mercure, URL="http://127.0.0.1:9/.well-known/mercure").app_context(),
            pytest.raises(HubUnreachable, match="calling again does no harm") as raised,
        ):
            mercure.revoke(7)
        frames = "".join(map(str, raised.traceback))
        assert "Bearer" not in frames

    def test_a_recording_has_it(self) -> None:
        mercure = Mercure()
        with (
            make_app(mercure, URL="http://127.0.0.1:9/.well-known/mercure").app_context(),
            mercure.record() as updates,
        ):
            mercure.revoke(7, topics=["a"])
        assert updates.revoked == [RecordedRevocation("7", ("a",), None, None, "default")]
        assert list(updates) == []


class Site:
    """An app with grants, a view for what a user does, and a recording in place of the hub."""

    def __init__(self, recording: Recording, *, is_on: bool = True, **config: Any) -> None:
        self.recording = recording
        self.mercure = Mercure()
        self.app = app = make_app(
            self.mercure, URL="http://127.0.0.1:9/hub", PUBLIC_URL=HUB, REVOKE_ON_LOGOUT=is_on, **config
        )
        app.secret_key = "of the session"
        app.testing = True
        self.answer: Callable[[], Any] = lambda: (
            Grants([f"users/{session['user']}"], user=session["user"]) if "user" in session else None
        )

        @self.mercure.subscribe_grants
        def grants() -> Any:
            return self.answer()

        @app.get("/")
        def index() -> str:
            return "page"

        add_login(app)

        @app.get("/token")
        def token() -> Any:
            return self.mercure.session(token=True)

        @app.get("/elsewhere")
        def elsewhere() -> str:
            self.mercure.revoke(session["user"])
            return "signed out everywhere else"

        self.browser = self.new_browser()

    def new_browser(self) -> FlaskClient:
        client = self.app.test_client()
        client.environ_base["wsgi.url_scheme"] = "https"
        client.environ_base["HTTP_HOST"] = "site.example"
        return client

    def get(self, path: str = "/", browser: FlaskClient | None = None) -> dict[str, Any] | None:
        """The claims of the cookie that the response sets; ``None`` without it, empty when it deletes it."""
        response = (browser or self.browser).get(path, base_url=SITE)
        lines = [line for line in response.headers.getlist("Set-Cookie") if line.startswith(f"{COOKIE}=")]
        if not lines:
            return None
        token = lines[0].partition(";")[0].partition("=")[2]
        return jwt.decode(token, SECRET, algorithms=["HS256"], audience=HUB) if token else {}

    def page_token(self) -> dict[str, Any]:
        """The claims of the token that a page of the browser gets."""
        document = self.browser.get("/token", base_url=SITE).get_json()
        claims: dict[str, Any] = jwt.decode(document["token"], SECRET, algorithms=["HS256"], audience=HUB)
        return claims

    @property
    def ended(self) -> list[str | None]:
        """The sessions that were ended since the last look."""
        revoked, self.recording.revoked[:] = list(self.recording.revoked), []
        assert all(one.user is None for one in revoked)
        return [one.sid for one in revoked]


@pytest.fixture
def recording() -> Iterator[Recording]:
    with Mercure().record() as updates:
        yield updates


@pytest.fixture
def site(recording: Recording) -> Site:
    return Site(recording)


class TestLogout:
    def test_a_logout_ends_the_tokens_of_that_browser(self, site: Site) -> None:
        phone, desktop = site.new_browser(), site.new_browser()
        first, second = site.get("/login/ann", phone), site.get("/login/ann", desktop)
        assert first
        assert second
        assert first["sub"] == second["sub"] == "ann"
        assert first["sid"] != second["sid"]
        assert site.ended == []
        assert site.get("/logout", phone) == {}
        assert site.ended == [first["sid"]]
        assert site.get("/", desktop) is None
        assert site.get("/logout", phone) is None
        assert site.ended == []

    def test_the_next_login_is_another_session(self, site: Site) -> None:
        first = site.get("/login/ann")
        site.get("/logout")
        second = site.get("/login/ann")
        assert first
        assert second
        assert first["sid"] != second["sid"]
        assert site.ended == [first["sid"]]

    def test_a_renewal_is_of_the_same_session(self, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
        first = site.get("/login/ann")
        later = time.time() + 3000
        monkeypatch.setattr("flask_mercure.grants.time.time", lambda: later)
        second = site.get()
        assert first
        assert second
        assert (second["jti"] == first["jti"], second["sid"]) == (False, first["sid"])
        assert site.ended == []
        site.get("/logout")
        assert site.ended == [first["sid"]]

    def test_another_user_in_the_browser_ends_the_tokens_of_the_one_before(self, site: Site) -> None:
        first = site.get("/login/ann")
        second = site.get("/login/bob")
        assert first
        assert second
        assert second["sub"] == "bob"
        assert site.ended == [first["sid"]]

    @pytest.mark.parametrize(
        ("before", "after", "ends"),
        [
            (["a", "b"], ["a"], True),
            (["a"], ["b"], True),
            (["a"], [], True),
            ([EVERYTHING], ["a"], True),
            ([URLPattern("/a/*")], ["/a/*"], True),
            ([str(one) for one in range(40)], [str(one) for one in range(39)], True),
            ([str(one) for one in range(40)], [str(one) for one in range(30)], True),
            (["a"], ["a", "b"], False),
            ([], ["a"], False),
            (["b", "a"], ["a", "b"], False),
            ([str(one) for one in range(40)], [str(one) for one in reversed(range(40))], False),
        ],
    )
    def test_topics_that_are_taken_away_end_the_tokens_that_grant_them(
        self, site: Site, before: list[Any], after: list[Any], ends: bool
    ) -> None:
        site.answer = lambda: Grants(before, user=7)
        first = site.get()
        assert first
        site.answer = lambda: Grants(after, user=7)
        second = site.get()
        assert site.ended == ([first["sid"]] if ends else [])
        if second is not None:
            assert (second["sid"] != first["sid"]) is ends

    def test_another_payload_ends_nothing(self, site: Site) -> None:
        site.answer = lambda: Grants(["a"], user=7, payload={"name": "Ann"})
        first = site.get()
        site.answer = lambda: Grants(["a"], user=7, payload={"name": "Anna"})
        second = site.get()
        assert first
        assert second
        assert first["sid"] == second["sid"]
        assert site.ended == []

    def test_a_session_that_changes_ends_nothing_where_nobody_is_named(self, site: Site) -> None:
        @site.app.get("/cart")
        def cart() -> str:
            session["cart"] = session.get("cart", 0) + 1
            return "cart"

        site.answer = lambda: ["a"] if session else None
        first = site.get("/cart")
        second = site.get("/cart")
        assert first
        assert second
        assert first["sid"] == second["sid"]
        assert site.ended == []
        site.get("/logout")
        assert site.ended == [first["sid"]]

    def test_views_that_set_and_clear_the_cookie_themselves(self, recording: Recording) -> None:
        site = Site(recording)
        site.answer = lambda: None

        @site.app.get("/own/<user>/<topic>")
        def own(user: str, topic: str) -> Any:
            return site.mercure.set_cookie(make_response("in"), topic.split(), user=user)

        @site.app.get("/leave")
        def leave() -> Any:
            return site.mercure.clear_cookie(make_response("out"))

        first = site.get("/own/ann/a b")
        assert first
        same = site.get("/own/ann/a b c")
        assert same
        assert same["sid"] == first["sid"]
        assert site.ended == []
        site.get("/own/ann/a")
        assert site.ended == [first["sid"]]
        last = site.get("/own/bob/a")
        assert last
        site.ended  # noqa: B018 - forget
        assert site.get("/leave") == {}
        assert site.ended == [last["sid"]]

    def test_nothing_of_it_without_the_setting(self, recording: Recording) -> None:
        site = Site(recording, is_on=False)
        claims = site.get("/login/ann")
        assert claims
        assert "sid" not in claims
        site.get("/logout")
        assert site.ended == []

    def test_cookies_of_before_the_setting_are_replaced(self, recording: Recording) -> None:
        off, on = Site(recording, is_on=False), Site(recording)
        off.get("/login/ann")
        for name in (MARK, "session"):
            cookie = off.browser.get_cookie(name, "site.example")
            assert cookie
            on.browser.set_cookie(name, cookie.value, domain="site.example", secure=True)
        claims = on.get()
        assert claims
        assert claims["sid"]
        assert on.get() is None

    @pytest.mark.parametrize("change", ["nonce", "end", "junk", "short"])
    def test_a_mark_that_was_made_up_ends_nobody_elses_session(self, site: Site, change: str) -> None:
        ann = site.new_browser()
        claims = site.get("/login/ann", ann)
        assert claims
        site.get("/login/eve")
        cookie = site.browser.get_cookie(MARK, "site.example")
        assert cookie
        times, visitor, nonce, *rest = cookie.value.split(".")
        forged = {
            "nonce": [times, visitor, claims["sid"], *rest],
            "end": ["1-999999999999999", visitor, nonce, *rest],
            "junk": ["\N{SNOWMAN}" * 3],
            "short": [times, visitor, nonce],
        }[change]
        site.browser.set_cookie(MARK, ".".join(forged), domain="site.example", secure=True)
        site.get("/logout")
        assert claims["sid"] not in site.ended

    def test_a_logout_ends_the_tokens_of_pages_in_a_browser_with_a_cookie(self, site: Site) -> None:
        cookie = site.get("/login/ann")
        assert cookie
        for _ in range(2):
            assert site.page_token()["sid"] == cookie["sid"]
        site.get("/logout")
        assert site.ended == [cookie["sid"]]
        site.answer = lambda: Grants(["a"], user="bob")  # known by something else than a cookie
        assert "sid" not in site.page_token()

    def test_the_token_of_another_user_is_not_of_the_session_in_the_cookie(self, site: Site) -> None:
        site.get("/login/ann")
        site.answer = lambda: Grants(["a"], user="bob")
        assert "sid" not in site.page_token()

    def test_a_sid_of_the_apps_own_is_refused(self, site: Site) -> None:
        site.answer = lambda: Grants(["a"], additional_claims={"sid": "mine"})
        with pytest.raises(InvalidArgument, match="additional_claims has sid"):
            site.get()

    def test_the_browser_that_signs_out_the_others_gets_a_new_token(self, site: Site) -> None:
        first = site.get("/login/ann")
        second = site.get("/elsewhere")
        assert first
        assert second
        assert second["iat"] > first["iat"]
        assert [one.user for one in site.recording.revoked] == ["ann"]

    def test_flask_login_signs_out(self, recording: Recording) -> None:
        site = Site(recording)
        flask_login.LoginManager(site.app).user_loader(_user)
        site.answer = lambda: ["news"] if flask_login.current_user.is_authenticated else None

        @site.app.get("/in")
        def sign_in() -> str:
            flask_login.login_user(_user("7"))
            return "in"

        @site.app.get("/out")
        def sign_out() -> str:
            flask_login.logout_user()
            return "out"

        claims = site.get("/in")
        assert claims
        assert claims["sub"] == "7"
        assert site.get("/out") == {}
        assert site.ended == [claims["sid"]]

    @pytest.mark.minutes
    def test_a_hub_that_is_away_breaks_no_logout(
        self, recording: Recording, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        site = Site(recording)
        site.get("/login/ann")
        monkeypatch.setattr("flask_mercure.publishing.recorder._running", [])
        response = site.browser.get("/logout", base_url=SITE)
        assert (response.status_code, response.text) == (200, "bye")
        assert "was not ended" not in caplog.text  # it is asked when the response has been sent
        response.close()
        assert (
            "a browser's access was not ended, and its token stays valid for 3600 s: no answer" in caplog.text
        )
        assert "Bearer" not in caplog.text


def _user(id: str) -> flask_login.UserMixin:
    user = flask_login.UserMixin()
    user.id = id
    return user


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningHub]:
    logging.getLogger("mercure_hub").propagate = True
    with running_hub(tmp_path_factory.mktemp("hub"), revocations=1) as running:
        yield running


@pytest.mark.minutes
@pytest.mark.every_engine
class TestRealHub:
    @pytest.mark.parametrize("protocol", ["1.0", "0.x"])
    def test_a_user_is_signed_out_and_signs_in_again(self, hub: RunningHub, protocol: str) -> None:
        mercure = Mercure()
        with app_on(hub, mercure, PROTOCOL=protocol):
            topic = "match" if protocol == "1.0" else "topic"
            before = mercure.create_token("a", user=f"ann {protocol}")
            other = mercure.create_token("a", user=f"bob {protocol}")
            streams = [hub.subscribe({topic: "a"}, token) for token in (before, other)]
            mercure.revoke(f"ann {protocol}")
            after = mercure.create_token("a", user=f"ann {protocol}")  # within the same second, mostly
            assert streams[0].ended()
            assert hub.get({topic: "a"}, before).status == 401
            hub.subscribe({topic: "a"}, after).close()
            mercure.publish("a", "still here", private=True)
            assert streams[1].next().data == "still here"

    def test_a_role_is_taken_away(self, hub: RunningHub) -> None:
        mercure = Mercure()
        with app_on(hub, mercure):
            room = mercure.create_token(["rooms/1", "news"], user="joe")
            news = mercure.create_token("news", user="joe")
            mercure.revoke("joe", topics="rooms/1")
            until(lambda: hub.get({"match": "a"}, room).status == 401)
            hub.subscribe({"match": "news"}, news).close()

    def test_a_token_is_revoked_by_its_id(self, hub: RunningHub) -> None:
        mercure = Mercure()
        with app_on(hub, mercure):
            token = mercure.create_token("a")
            claims = jwt.decode(token, options={"verify_signature": False})
            mercure.revoke(jti=claims["jti"])
            assert hub.get({"match": "a"}, token).status == 401

    def test_with_two_keys_the_publishers_signs(self, tmp_path: Path) -> None:
        other = SECRET[::-1]
        with running_hub(tmp_path, revocations=1, publisher_jwt_key=SECRET, subscriber_jwt_key=other) as hub:
            mercure = Mercure()
            app = Flask("two keys")
            app.config.update(
                MERCURE_URL=hub.url, MERCURE_PUBLISHER_JWT_KEY=SECRET, MERCURE_SUBSCRIBER_JWT_KEY=other
            )
            mercure.init_app(app)
            with app.app_context():
                token = mercure.create_token("a", user="ann")
                mercure.revoke("ann")
                assert hub.get({"match": "a"}, token).status == 401
            state_of(app).publisher.close()

    def test_a_logout_ends_the_stream_of_that_browser(self, hub: RunningHub) -> None:
        mercure = Mercure()
        with app_on(hub, mercure, REVOKE_ON_LOGOUT=True) as app:
            app.secret_key = "of the session"

            @mercure.subscribe_grants
            def grants() -> Grants | None:
                return Grants("a", user=session["user"]) if "user" in session else None

            add_login(app)
            streams = []
            browsers = [app.test_client() for _ in range(2)]
            for browser in browsers:
                browser.get("/login/ann", base_url="http://127.0.0.1").close()
                cookie = browser.get_cookie(COOKIE, "127.0.0.1", "/.well-known/mercure")
                assert cookie
                streams.append(hub.subscribe({"match": "a"}, Cookie=f"{COOKIE}={cookie.value}"))
            browsers[0].get("/logout", base_url="http://127.0.0.1").close()
            assert streams[0].ended()
            mercure.publish("a", "still here", private=True)
            assert streams[1].next().data == "still here"
