"""The cookie that follows the user: given, renewed, changed, taken away, and otherwise left alone."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flask_jwt_extended
import flask_login  # type: ignore[import-untyped]
import jwt
import pytest
from flask import Flask, Response, make_response, redirect, session
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from flask_mercure import ConfigurationError, CookieError, Grants, InvalidArgument, Mercure, URLPattern
from flask_mercure.extension import state_of
from flask_mercure.pages import module_url
from mercure_hub.protocol.tokens import asymmetric, keys
from tests.flask_mercure.fake_hub import SECRET, add_login, make_app
from tests.hub.running import running_hub

COOKIE = "__Secure-mercure_access_token"
MARK = "mercure_grants_default"
HUB = "https://site.example/.well-known/mercure"
SITE = "https://site.example"


def client_of(app: Flask) -> FlaskClient:
    client = app.test_client()
    client.environ_base["wsgi.url_scheme"] = "https"
    client.environ_base["HTTP_HOST"] = "site.example"
    return client


def cookies(response: TestResponse) -> dict[str, str]:
    """What the response sets, by name; an empty value deletes."""
    lines = (line.partition(";")[0].partition("=") for line in response.headers.getlist("Set-Cookie"))
    return {name: value for name, _, value in lines if name in (COOKIE, MARK)}


def claims_in(response: TestResponse) -> dict[str, Any]:
    return jwt.decode(cookies(response)[COOKIE], SECRET, algorithms=["HS256"], audience=HUB)


def topics_in(response: TestResponse) -> list[str]:
    claims = claims_in(response)
    return [topic["match"] for detail in claims["authorization_details"] for topic in detail["topics"]]


class Site:
    """An app with a session of its own, a view for each thing a user does, and a clock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, automatic: bool = True, **config: Any) -> None:
        self.mercure = Mercure()
        self.app = app = make_app(self.mercure, PUBLIC_URL=HUB, **config)
        app.secret_key = "of the session"
        app.testing = True
        self.calls = 0
        self.answer: Callable[[], Any] = lambda: [f"users/{session['user']}"] if "user" in session else None
        self.now = time.time()
        monkeypatch.setattr("flask_mercure.grants.time.time", lambda: self.now)

        @self.mercure.subscribe_grants(automatic=automatic)
        def grants() -> Any:
            self.calls += 1
            return self.answer()

        @app.get("/")
        def index() -> str:
            return "page"

        add_login(app)

        @app.get("/stream")
        @self.mercure.subscriber
        def stream() -> str:
            return "page with a stream"

        self.client = client_of(app)

    def get(self, path: str = "/") -> TestResponse:
        return self.client.get(path, base_url=SITE)


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Site:
    return Site(monkeypatch)


def test_the_cookie_comes_with_the_login_and_then_no_more(site: Site) -> None:
    assert cookies(site.get()) == {}
    response = site.get("/login/ann")
    assert set(cookies(response)) == {COOKIE, MARK}
    assert topics_in(response) == ["users/ann"]
    for _ in range(3):
        assert cookies(site.get()) == {}
    assert "Cache-Control" not in site.get().headers


def test_the_cookie_goes_with_the_logout(site: Site) -> None:
    site.get("/login/ann")
    response = site.get("/logout")
    assert cookies(response) == {COOKIE: "", MARK: ""}
    assert cookies(site.get()) == {}


def test_another_user_never_keeps_the_cookie_of_the_one_before(site: Site) -> None:
    """Not even where both may read the same, so that the tokens would be alike."""
    site.answer = lambda: ["news"] if "user" in session else None
    first = cookies(site.get("/login/ann"))
    second = cookies(site.get("/login/bob"))
    assert second[COOKIE]
    assert second[COOKIE] != first[COOKIE]
    assert second[MARK] != first[MARK]


def test_a_session_that_ends_unseen_takes_the_cookie_with_it(site: Site) -> None:
    """The session's cookie expired, or the user deleted it: there is no logout."""
    site.get("/login/ann")
    site.client.delete_cookie("session", domain="site.example")
    assert cookies(site.get()) == {COOKIE: "", MARK: ""}


def test_other_topics_or_another_payload_change_the_cookie(site: Site) -> None:
    site.get("/login/ann")
    answers: list[Any] = [
        ["a"],
        ["a", "b"],
        ["b", URLPattern("https://e.example/:id")],
        Grants(["a"], payload={"name": "Ann"}),
        Grants(["a"], payload={"name": "Anna"}),
        Grants(["a"], additional_claims={"sub": "ann"}),
        Grants(["a"], user=5),
        [],
    ]
    for answer in answers:
        site.answer = lambda answer=answer: answer  # type: ignore[misc]
        assert set(cookies(site.get())) == {COOKIE, MARK}, answer
        assert cookies(site.get()) == {}, answer


def take_cookies(site: Site, other: Site) -> None:
    """Have the browser of one site go on with another: the same app in a new process."""
    for name in (MARK, "session"):
        cookie = other.client.get_cookie(name, domain="site.example")
        assert cookie is not None
        site.client.set_cookie(name, cookie.value, domain="site.example", secure=True)


@pytest.mark.parametrize("is_pair", [False, True])
def test_another_key_changes_the_cookie_once(monkeypatch: pytest.MonkeyPatch, is_pair: bool) -> None:
    """The hub may know the key before for a while only."""
    old, new = (asymmetric.generate_pair("ec")[0] if is_pair else keys.generate_secret() for _ in range(2))
    before, after, again = (Site(monkeypatch, JWT_SECRET=key) for key in (old, new, new))
    before.get("/login/ann")
    assert cookies(before.get()) == {}
    take_cookies(after, before)
    assert set(cookies(after.get())) == {COOKIE, MARK}
    assert cookies(after.get()) == {}
    take_cookies(again, after)
    assert cookies(again.get()) == {}, "another process with the same key"


def test_the_order_of_topics_changes_no_cookie(site: Site) -> None:
    site.answer = lambda: ["a", "b"]
    site.get()
    site.answer = lambda: ["b", "a", "b"]
    assert cookies(site.get()) == {}


def test_the_cookie_is_renewed_in_the_last_third_of_its_life(monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site(monkeypatch, TOKEN_LIFETIME=3000)
    first = cookies(site.get("/login/ann"))
    site.now += 1900
    assert cookies(site.get()) == {}
    site.now += 200
    second = cookies(site.get())
    assert set(second) == {COOKIE, MARK}
    assert second[COOKIE] != first[COOKIE]


def test_a_factory_whose_tokens_end_sooner_than_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    def create(subscribe: Any = None, publish: Any = None, additional_claims: Any = None) -> str:
        return jwt.encode({"exp": time.time() + 300}, SECRET, "HS256")

    site = Site(monkeypatch, TOKEN_FACTORY=create)
    site.get("/login/ann")
    assert cookies(site.get()) == {}
    site.now += 250
    assert set(cookies(site.get())) == {COOKIE, MARK}


def test_the_mark_is_for_the_app_and_holds_neither_topic_nor_user(site: Site) -> None:
    response = site.get("/login/ann")
    (line,) = [one for one in response.headers.getlist("Set-Cookie") if one.startswith(MARK)]
    attributes = {part.strip().lower() for part in line.split(";")[1:]}
    assert {"path=/", "secure", "httponly", "samesite=lax"} <= attributes
    assert "ann" not in line
    (other,) = [one for one in response.headers.getlist("Set-Cookie") if one.startswith(COOKIE)]
    ends = [[part for part in one.split("; ") if part.startswith("Max-Age")] for one in (line, other)]
    assert ends[0] == ends[1]


@pytest.mark.parametrize("mark", ["", "x", "1-99999999999.AAAA", "9-9", "٣-٣.x", "1-2.\udcff", "9" * 3000])
def test_a_mark_that_was_made_up_counts_for_nothing(site: Site, mark: str) -> None:
    site.get("/login/ann")
    site.client.set_cookie(MARK, mark.encode("utf-8", "replace").decode("latin-1"), domain="site.example")
    assert set(cookies(site.get())) == {COOKIE, MARK}


def test_the_mark_of_another_secret_key_counts_for_nothing(site: Site) -> None:
    site.answer = lambda: Grants("a", user=1)
    site.get()
    site.app.secret_key = "another"
    assert set(cookies(site.get())) == {COOKIE, MARK}


def test_a_response_with_the_cookie_is_kept_by_no_shared_cache(site: Site) -> None:
    @site.app.get("/public")
    def public() -> Response:
        return Response("x", headers={"Cache-Control": "public, max-age=60, s-maxage=600", "Vary": "Accept"})

    site.answer = lambda: Grants("a", user=1)
    response = site.client.get("/public", base_url=SITE)
    control = {part.strip() for part in response.headers["Cache-Control"].split(",")}
    assert control == {"private", "max-age=60"}
    assert {part.strip() for part in response.headers["Vary"].split(",")} == {"Accept", "Cookie"}
    again = site.client.get("/public", base_url=SITE)
    assert again.headers["Cache-Control"] == "public, max-age=60, s-maxage=600"


@pytest.mark.parametrize("is_before", [True, False])
@pytest.mark.parametrize("is_by_hand", [True, False])
def test_no_hook_of_the_app_makes_a_response_with_the_cookie_public(
    is_before: bool, is_by_hand: bool
) -> None:
    def publicly(response: Response) -> Response:
        response.headers["Cache-Control"] = "public, max-age=600"
        response.headers["CDN-Cache-Control"] = "max-age=600"
        return response

    mercure = Mercure()

    app = Flask("sample")
    app.config.update(MERCURE_JWT_SECRET=SECRET, MERCURE_PUBLIC_URL=HUB)
    if is_before:
        app.after_request(publicly)
    mercure.init_app(app)
    if not is_before:
        app.after_request(publicly)
    if not is_by_hand:
        mercure.subscribe_grants(lambda: Grants("a", user=1))

    @app.get("/")
    def index() -> Response:
        response = make_response("page")
        return mercure.set_cookie(response, "a") if is_by_hand else response

    client = client_of(app)
    response = client.get("/", base_url=SITE)
    assert cookies(response)[COOKIE]
    assert set(response.headers["Cache-Control"].split(", ")) == {"private", "max-age=600"}
    assert "CDN-Cache-Control" not in response.headers
    assert response.headers["Vary"] == "Cookie"
    if not is_by_hand:
        assert client.get("/", base_url=SITE).headers["Cache-Control"] == "public, max-age=600"


def test_only_subscriber_views_give_the_cookie(monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site(monkeypatch, automatic=False)
    assert cookies(site.get("/login/ann")) == {}
    assert site.calls == 0
    assert set(cookies(site.get("/stream"))) == {COOKIE, MARK}
    assert cookies(site.get("/stream")) == {}
    assert topics_in(site.get("/login/bob")) == ["users/bob"]  # every response replaces another user's
    assert cookies(site.get("/logout")) == {COOKIE: "", MARK: ""}
    before = site.calls
    assert cookies(site.get()) == {}
    assert site.calls == before


def test_static_files_do_not_ask_for_grants(site: Site) -> None:
    assert site.client.get("/static/x.js", base_url=SITE).status_code == 404
    assert site.calls == 0


def test_a_cookie_that_a_view_sets_wins_and_is_compared_afterwards(site: Site) -> None:
    @site.app.get("/own")
    def own() -> Response:
        return site.mercure.set_cookie(make_response("x"), ["own"])

    site.get("/login/ann")
    response = site.get("/own")
    assert topics_in(response) == ["own"]
    assert cookies(response)[MARK]
    assert topics_in(site.get()) == ["users/ann"]
    site.get("/own")
    assert cookies(site.get("/logout")) == {COOKIE: "", MARK: ""}


def test_a_cookie_that_a_view_clears_stays_cleared(site: Site) -> None:
    @site.app.get("/leave")
    def leave() -> Response:
        session.clear()
        site.mercure.clear_cookie(response := make_response(redirect("/")))
        return response

    site.get("/login/ann")
    assert cookies(site.get("/leave")) == {COOKIE: "", MARK: ""}
    assert cookies(site.get("/leave")) == {COOKIE: ""}


def test_an_error_is_raised_where_it_is_seen_and_logged_where_a_visitor_would_see_it(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    site.get("/login/ann")
    site.answer = lambda: ["x" * 5000]
    with pytest.raises(CookieError, match="browsers refuse more"):
        site.get()
    site.answer = lambda: ["a\x00"]
    with pytest.raises(InvalidArgument):
        site.get()
    site.app.testing = False
    with caplog.at_level(logging.ERROR):
        response = site.get()
    assert response.status_code == 200
    assert cookies(response) == {COOKIE: "", MARK: ""}  # what it had may be another user's
    assert "The Mercure cookie was not set for /" in caplog.text


def test_a_factory_that_fails_leaves_nobody_the_cookie_of_another(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fails: list[bool] = []

    def create(subscribe: Any = None, publish: Any = None, additional_claims: Any = None) -> str:
        if fails:
            raise LookupError("the vault is sealed")
        return jwt.encode({"exp": time.time() + 300}, SECRET, "HS256")

    site = Site(monkeypatch, TOKEN_FACTORY=create)
    site.get("/login/ann")
    fails.append(True)
    site.app.testing = False
    with caplog.at_level(logging.ERROR):
        response = site.get("/login/bob")
    assert (response.status_code, response.text) == (200, "bob")
    assert cookies(response) == {COOKIE: "", MARK: ""}
    assert "LookupError" in caplog.text


def failing() -> Any:
    raise LookupError("the database is away")


@pytest.mark.parametrize("testing", [True, False])
def test_a_function_that_fails_is_logged_and_the_response_stays(
    site: Site, caplog: pytest.LogCaptureFixture, testing: bool
) -> None:
    site.get("/login/ann")
    site.answer = failing
    if testing:  # a developer sees it
        with pytest.raises(LookupError):
            site.get()
        return
    site.app.testing = False
    response = site.get()
    assert (response.status_code, response.text, cookies(response)) == (200, "page", {})
    (record,) = caplog.records
    assert record.exc_info is not None
    assert record.exc_info[0] is LookupError
    assert "subscribe_grants failed for /" in record.message


@pytest.mark.parametrize("is_named", [True, False])
@pytest.mark.parametrize("path", ["/login/bob", "/logout"])
def test_a_function_that_fails_leaves_nobody_the_cookie_of_another(
    site: Site, caplog: pytest.LogCaptureFixture, path: str, is_named: bool
) -> None:
    if is_named:
        site.answer = lambda: Grants("a", user=session["user"])
    site.get("/login/ann")
    site.answer = failing
    site.app.testing = False
    assert cookies(site.get()) == {}
    response = site.get(path)
    assert (response.status_code, cookies(response)) == (200, {COOKIE: "", MARK: ""})
    assert response.headers["Cache-Control"] == "private"
    assert "the user is another one" in caplog.text
    assert cookies(site.get()) == {}


@pytest.mark.parametrize("testing", [True, False])
def test_a_function_that_fails_changes_no_answer_that_tells_of_an_error(
    site: Site, caplog: pytest.LogCaptureFixture, testing: bool
) -> None:
    @site.app.get("/handled")
    def handled() -> str:
        raise LookupError("the database is away")

    @site.app.get("/conflict")
    def conflict() -> tuple[str, int]:
        return "taken", 409

    site.app.register_error_handler(LookupError, lambda error: (f"sorry: {error.args[0]}", 503))
    site.get("/login/ann")
    site.app.testing = testing
    site.answer, site.calls = failing, 0
    response = site.get("/handled")
    assert (response.status_code, response.text) == (503, "sorry: the database is away")
    assert site.calls == 0  # what the view could not do, the function could not either
    response = site.get("/conflict")
    assert (response.status_code, response.text) == (409, "taken")
    assert "LookupError: the database is away" in caplog.text


@pytest.mark.parametrize(("method", "path"), [("GET", "/nowhere"), ("DELETE", "/"), ("OPTIONS", "/")])
def test_a_response_without_a_view_does_not_ask_for_grants(site: Site, method: str, path: str) -> None:
    site.get("/login/ann")
    site.answer, site.calls = failing, 0
    assert site.client.open(path, method=method, base_url=SITE).status_code in (200, 404, 405)
    assert site.calls == 0


def test_the_javascript_module_does_not_ask_for_grants_and_stays_public(site: Site) -> None:
    site.get("/login/ann")
    site.answer, site.calls = failing, 0
    with site.app.test_request_context(base_url=SITE):
        response = site.get(module_url())
    response.close()
    assert site.calls == 0
    assert response.headers["Cache-Control"].startswith("public")
    assert "Vary" not in response.headers


def test_a_session_that_only_the_grants_read_makes_no_response_depend_on_cookies(site: Site) -> None:
    @site.app.get("/me")
    def me() -> str:
        return str(session["user"])

    assert "Cookie" in site.get("/login/ann").vary
    response = site.get()
    assert (site.calls, list(response.vary)) == (2, [])
    assert list(site.get("/me").vary) == ["Cookie"]  # what a view reads counts
    site.answer = lambda: ["other"]
    assert list(site.get().vary) == ["Cookie"]  # and so does a cookie that is set

    def counting() -> Any:
        session["seen"] = True
        return Grants(["a"], user="ann")

    site.answer = counting
    site.get()
    session_cookies = [
        line for line in site.get().headers.getlist("Set-Cookie") if line.startswith("session=")
    ]
    assert session_cookies
    assert list(site.get().vary) == ["Cookie"]


def test_an_app_that_lacks_a_hub_with_grants_is_left_alone() -> None:
    mercure = Mercure()
    several = make_app(mercure, HUBS={"default": {"URL": HUB}, "eu": {"URL": "https://site.example/eu"}})
    one = make_app(mercure, PUBLIC_URL=HUB)

    @mercure.hub("eu").subscribe_grants
    def eu() -> Grants:
        return Grants("eu", user=1)

    for app, count in ((several, 3), (one, 0)):
        app.testing = True
        app.add_url_rule("/", view_func=lambda: "page")
        response = client_of(app).get("/", base_url=SITE)
        assert response.status_code == 200
        assert len(response.headers.getlist("Set-Cookie")) == count


@pytest.mark.parametrize("name", ["*", "", "a\nb"])
def test_a_grant_that_is_a_users_text_gives_no_more_than_that(
    site: Site, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    site.app.testing = False
    site.answer = lambda: [name]
    response = site.get()
    assert (response.status_code, cookies(response)) == (200, {})
    assert "The Mercure cookie was not set" in caplog.text


def hints(caplog: pytest.LogCaptureFixture) -> int:
    return len([one for one in caplog.messages if "let no browser read" in one])


@pytest.mark.parametrize(
    ("config", "private", "with_grants", "signs_in", "expected"),
    [
        ({}, True, False, False, 1),
        ({"debug": False}, True, False, False, 0),
        ({}, False, False, False, 0),
        ({}, True, True, False, 0),
        ({}, True, False, True, 0),
    ],
)
def test_a_developer_is_told_once_that_nobody_reads_private_updates(
    caplog: pytest.LogCaptureFixture,
    config: dict[str, bool],
    private: bool,
    with_grants: bool,
    signs_in: bool,
    expected: int,
) -> None:
    mercure = Mercure()
    app = make_app(mercure, PUBLIC_URL=HUB)
    app.debug = config.get("debug", True)
    if with_grants:
        mercure.subscribe_grants(lambda: None)

    @app.post("/pay")
    def pay() -> str:
        return mercure.publish("orders/1", "paid", private=private)

    @app.get("/login")
    def login() -> Response:
        return mercure.set_cookie(make_response("hello"), ["orders/1"])

    client = client_of(app)
    with mercure.record():
        if signs_in:
            client.get("/login", base_url=SITE)
        for _ in range(3):
            assert client.post("/pay", base_url=SITE).status_code == 200
    assert hints(caplog) == expected


def test_the_hint_names_a_hub_that_is_not_the_default_one(caplog: pytest.LogCaptureFixture) -> None:
    mercure = Mercure()
    app = make_app(mercure, HUBS={"default": {"URL": HUB}, "eu": {"URL": "https://site.example/eu"}})
    app.debug = True
    mercure.subscribe_grants(lambda: None)

    @app.post("/pay")
    def pay() -> str:
        return mercure.publish("a", private=True) + mercure.hub("eu").publish("a", private=True)

    with mercure.record():
        client_of(app).post("/pay", base_url=SITE)
    assert hints(caplog) == 1
    assert "on the hub 'eu'" in caplog.text


@pytest.mark.minutes
def test_a_real_hub_takes_the_cookie(tmp_path: Path) -> None:
    with running_hub(tmp_path, publisher_jwt_key=SECRET, subscriber_jwt_key=SECRET) as hub:
        mercure = Mercure()
        app = make_app(mercure, URL=hub.url)

        @mercure.subscribe_grants
        def grants() -> Grants:
            return Grants(["users/1"], payload={"name": "Ann"}, user=1)

        @app.get("/")
        def index() -> str:
            return ""

        given = cookies(app.test_client().get("/", base_url="http://127.0.0.1"))
        stream = hub.subscribe({"match": ["users/1", "users/2"]}, Cookie=f"{COOKIE}={given[COOKIE]}")
        with app.app_context():
            mercure.publish("users/2", "not for her", private=True)
            mercure.publish("users/1", "for her", private=True)
        state_of(app).publisher.close()
        assert stream.next().data == "for her"


@pytest.mark.parametrize("answer", [False, True, 5, b"a", object()])
def test_an_answer_that_says_nothing_clear_is_refused(site: Site, answer: object) -> None:
    site.answer = lambda: answer
    with pytest.raises(TypeError, match="it gives topics, Grants, or None"):
        site.get()


def test_a_session_that_changes_changes_the_cookie_unless_the_user_is_named(site: Site) -> None:
    @site.app.get("/cart")
    def cart() -> str:
        session["cart"] = session.get("cart", 0) + 1
        return "x"

    site.get("/login/ann")
    assert set(cookies(site.get("/cart"))) == {COOKIE, MARK}
    site.answer = lambda: Grants(["a"], user=session["user"])
    site.get("/cart")
    assert cookies(site.get("/cart")) == {}


@pytest.mark.parametrize(
    ("grants", "subject"),
    [
        (Grants(["a"], user=7), "7"),
        (Grants(["a"], user="ann@example.com"), "ann@example.com"),
        (Grants(["a"], user=7, additional_claims={"sub": "of the app's own"}), "of the app's own"),
    ],
)
def test_the_subject_of_the_token_is_the_user(site: Site, grants: Grants, subject: str) -> None:
    site.answer = lambda: grants
    assert claims_in(site.get())["sub"] == subject


def test_the_subject_of_a_user_without_a_name_is_random(site: Site) -> None:
    first, second = claims_in(site.get("/login/ann")), claims_in(site.get("/login/bob"))
    assert first["sub"].startswith("urn:uuid:")
    assert second["sub"] not in (first["sub"], "bob")


@pytest.mark.parametrize(("user", "error"), [("", InvalidArgument), (True, TypeError), (object(), TypeError)])
def test_a_user_without_a_name_is_refused(site: Site, user: Any, error: type[Exception]) -> None:
    site.answer = lambda: Grants(["a"], user=user)
    with pytest.raises(error, match="user is"):
        site.get()


def test_a_subscriber_view_needs_subscribe_grants() -> None:
    mercure = Mercure()
    app = make_app(mercure)
    app.testing = True

    @app.get("/")
    @mercure.subscriber
    def index() -> str:
        return ""

    with pytest.raises(ConfigurationError, match=r"'index' has @mercure\.subscriber"):
        app.test_client().get("/")


def test_each_hub_has_its_own_grants() -> None:
    mercure = Mercure()
    app = make_app(mercure, HUBS={"default": {"URL": HUB}, "eu": {"URL": "https://site.example/eu"}})

    @mercure.subscribe_grants
    def here() -> Grants:
        return Grants("here", user=1)

    @mercure.hub("eu").subscribe_grants
    def eu() -> Grants:
        return Grants("eu", user=1)

    @app.get("/")
    def index() -> str:
        return ""

    client = client_of(app)
    lines = client.get("/", base_url=SITE).headers.getlist("Set-Cookie")
    names = [line.partition("=")[0] for line in lines]
    marks = ("mercure_identity_site_example_well_known_mercure", "mercure_identity_site_example_eu")
    assert names == [COOKIE, marks[0], MARK, COOKIE, marks[1], "mercure_grants_eu"]
    assert client.get("/", base_url=SITE).headers.getlist("Set-Cookie") == []
    mercure.hub("default").subscribe_grants(eu)
    app.testing = True
    with pytest.raises(ConfigurationError, match="'default' has subscribe_grants twice"):
        client.get("/", base_url=SITE)


def test_grants_know_the_user_of_flask_login(monkeypatch: pytest.MonkeyPatch) -> None:
    class User(flask_login.UserMixin):  # type: ignore[misc]
        def __init__(self, id: str) -> None:
            self.id = id

    mercure = Mercure()
    app = make_app(mercure, PUBLIC_URL=HUB)
    app.secret_key = "of the session"
    manager = flask_login.LoginManager(app)
    manager.user_loader(User)

    @mercure.subscribe_grants
    def grants() -> list[str] | None:
        return ["news"] if flask_login.current_user.is_authenticated else None

    @app.get("/login/<user>")
    def login(user: str) -> str:
        flask_login.login_user(User(user))
        return user

    @app.get("/logout")
    def logout() -> str:
        flask_login.logout_user()
        return "bye"

    @app.get("/")
    def index() -> str:
        session["visits"] = session.get("visits", 0) + 1
        return ""

    client = client_of(app)

    def get(path: str) -> dict[str, str]:
        return cookies(client.get(path, base_url=SITE))

    assert get("/") == {}
    response = client.get("/login/ann", base_url=SITE)
    ann = cookies(response)
    assert claims_in(response)["sub"] == "ann"
    assert get("/") == {}
    bob = get("/login/bob")
    assert bob[COOKIE] not in ("", ann[COOKIE])
    assert get("/") == {}
    assert get("/logout") == {COOKIE: "", MARK: ""}
    assert get("/") == {}


def test_tokens_that_a_view_makes_are_the_users_unless_another_is_named() -> None:
    mercure = Mercure()
    app = make_app(mercure, PUBLIC_URL=HUB)
    app.secret_key = "of the session"
    flask_login.LoginManager(app).user_loader(lambda id: None)
    user = flask_login.UserMixin()
    user.id = 7

    def subject(**arguments: Any) -> str:
        return str(
            jwt.decode(mercure.create_token("a", **arguments), options={"verify_signature": False})["sub"]
        )

    with app.app_context():
        assert subject().startswith("urn:uuid:")
        assert subject(user="8") == "8"
    with app.test_request_context(base_url=SITE):
        assert subject().startswith("urn:uuid:")
        flask_login.login_user(user)
        assert subject() == "7"
        assert subject(user=8) == "8"
        response = mercure.set_cookie(make_response(), "a", user="9")
        token = state_of(app).configuration.cookie.is_set(response.headers)
        assert jwt.decode(token or "", options={"verify_signature": False})["sub"] == "9"


def test_a_login_that_cannot_tell_the_user_changes_no_response_and_takes_no_cookie() -> None:
    mercure = Mercure()
    app = make_app(mercure, PUBLIC_URL=HUB)
    app.secret_key = "of the session"
    answer: list[Callable[[], Any]] = [lambda: Grants("a", user=session["_user_id"])]

    @flask_login.LoginManager(app).user_loader  # type: ignore[untyped-decorator]
    def load(_id: str) -> Any:
        raise LookupError("the database is away")

    @mercure.subscribe_grants
    def grants() -> Any:
        return answer[0]()

    @app.get("/")
    def index() -> str:
        session["_user_id"] = "1"
        return "page"

    client = client_of(app)
    response = client.get("/", base_url=SITE)
    assert (response.status_code, set(cookies(response))) == (200, {COOKIE, MARK})
    answer[0] = failing
    response = client.get("/", base_url=SITE)
    assert (response.status_code, cookies(response)) == (200, {})


def test_grants_know_the_user_of_flask_jwt_extended() -> None:
    mercure = Mercure()
    app = make_app(mercure, PUBLIC_URL=HUB)
    app.config.update(
        JWT_SECRET_KEY="a key for sessions of more than 32 bytes",
        JWT_TOKEN_LOCATION=["cookies"],
        JWT_COOKIE_CSRF_PROTECT=False,
        JWT_COOKIE_SECURE=True,
    )
    flask_jwt_extended.JWTManager(app)

    @mercure.subscribe_grants
    def grants() -> list[str] | None:
        flask_jwt_extended.verify_jwt_in_request(optional=True)
        return ["news"] if flask_jwt_extended.get_jwt_identity() else None

    @app.get("/login/<user>")
    def login(user: str) -> Response:
        response = make_response(user)
        flask_jwt_extended.set_access_cookies(response, flask_jwt_extended.create_access_token(user))
        return response

    @app.get("/logout")
    def logout() -> Response:
        response = make_response("bye")
        flask_jwt_extended.unset_jwt_cookies(response)
        return response

    @app.get("/")
    def index() -> str:
        return ""

    client = client_of(app)

    def get(path: str) -> dict[str, str]:
        return cookies(client.get(path, base_url=SITE))

    get("/login/ann")
    response = client.get("/", base_url=SITE)  # its login is seen with the next request, which brings the JWT
    ann = cookies(response)
    assert claims_in(response)["sub"] == "ann"
    assert get("/") == {}
    get("/login/bob")
    assert get("/")[COOKIE] not in ("", ann[COOKIE])
    get("/logout")
    assert get("/") == {COOKIE: "", MARK: ""}
