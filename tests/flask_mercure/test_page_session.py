"""The session document of single-page applications, and the view that renews cookies and tokens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import unescape
from typing import Any

import flask_login  # type: ignore[import-untyped]
import jwt
import pytest
from flask import Blueprint, Flask, Response, redirect, render_template_string, request, session
from flask.testing import FlaskClient
from flask_wtf.csrf import CSRFProtect  # type: ignore[import-untyped]
from werkzeug.datastructures import Headers
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.test import Client, TestResponse

from flask_mercure import (
    EVERYTHING,
    ConfigurationError,
    CookieError,
    Grants,
    InvalidArgument,
    Mercure,
    NotGranted,
    URITemplate,
    URLPattern,
)
from flask_mercure.config.settings import Configuration
from flask_mercure.extension import state_of
from flask_mercure.grants import ungranted
from flask_mercure.page_session import is_of_a_script
from tests.flask_mercure.fake_hub import SECRET, add_login, make_app
from tests.flask_mercure.test_grants import COOKIE, HUB, MARK, SITE, cookies, topics_in

REFRESH = "/_mercure/refresh/default"
SCRIPT = {"Sec-Fetch-Site": "same-origin"}


class Browser(FlaskClient):
    """Visits the host of the site."""

    def open(self, *args: Any, **kwargs: Any) -> TestResponse:
        if not args[0].startswith("https:"):
            kwargs.setdefault("base_url", SITE)
        return super().open(*args, **kwargs)


def client_of(app: Flask) -> FlaskClient:
    app.test_client_class = Browser
    return app.test_client()


class Site:
    """An app whose user is ``user`` of its session, and may read ``users/NAME`` and ``/rooms/:id``."""

    def __init__(self, mercure: Mercure | None = None, **config: Any) -> None:
        self.mercure = mercure or Mercure()
        self.app = app = make_app(self.mercure, PUBLIC_URL=HUB, **config)
        app.secret_key = "of the session"
        app.testing = True
        self.grants: Any = None

        @self.mercure.subscribe_grants(automatic=False)
        def grants() -> Any:
            if "user" not in session:
                return None
            return self.grants or [f"users/{session['user']}", URLPattern("/rooms/:id")]

        add_login(app)

        @app.get("/session")
        def document() -> Response:
            is_token = "token" in request.args
            return self.mercure.session(request.args.getlist("topic"), "urn:1", token=is_token)

    def client(self, user: str | None = "ada") -> FlaskClient:
        client = client_of(self.app)
        if user is not None:
            client.get(f"/login/{user}")
        return client


@pytest.fixture
def site() -> Site:
    return Site()


def refreshed(client: FlaskClient, url: str = REFRESH, **headers: str) -> TestResponse:
    return client.post(url, headers=headers or SCRIPT)


def claims(token: str) -> dict[str, Any]:
    read: dict[str, Any] = jwt.decode(token, SECRET, algorithms=["HS256"], audience=HUB)
    return read


def test_the_document_has_all_that_connect_needs_and_sets_the_cookie(site: Site) -> None:
    response = site.client().get("/session?topic=users/ada&topic=/rooms/7")
    document = response.get_json()
    assert document.pop("refreshAfter") == pytest.approx(0.8 * 3600, abs=2)
    assert document.pop("module").startswith("/_mercure/")
    assert document == {
        "url": HUB,
        "protocol": "1.0",
        "topics": ["users/ada", "/rooms/7"],
        "lastEventId": "urn:1",
        "refresh": REFRESH,
    }
    assert topics_in(response) == ["users/ada", "/rooms/:id"]
    assert "no-store" in response.headers["Cache-Control"]
    assert "private" in response.headers["Cache-Control"]


def test_the_cookie_is_new_however_old_that_of_the_browser_is(site: Site) -> None:
    client = site.client()
    first, second = (cookies(client.get("/session")) for _ in range(2))
    assert first[COOKIE] != second[COOKIE]
    assert second[MARK]
    assert cookies(client.get("/login/ada")) == {}  # there is nothing to do


def test_a_later_call_of_set_cookie_wins(site: Site) -> None:
    @site.app.get("/other")
    def other() -> Response:
        return site.mercure.set_cookie(site.mercure.session((), "urn:1"), subscribe=["other"])

    client = site.client()
    assert topics_in(client.get("/other")) == ["other"]
    assert topics_in(client.get("/login/ada")) == ["users/ada", "/rooms/:id"]  # compared and replaced


@pytest.mark.parametrize(
    ("lifetime", "after"), [(600, 480), (1.0, 1)], ids=["of the grants", "never less than a second"]
)
def test_the_time_of_the_renewal_is_that_of_the_cookie(site: Site, lifetime: float, after: float) -> None:
    site.grants = Grants("a", lifetime=lifetime)
    assert site.client().get("/session").get_json()["refreshAfter"] == pytest.approx(after, abs=2)


def test_the_position_is_asked_for_unless_it_is_given(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flask_mercure.hub.position", lambda app, hub: "urn:now")
    site.app.add_url_rule("/now", "now", site.mercure.session)
    client = site.client()
    assert client.get("/now").get_json()["lastEventId"] == "urn:now"
    monkeypatch.setattr("flask_mercure.hub.position", lambda app, hub: None)
    assert "lastEventId" not in client.get("/now").get_json()


def test_the_newest_update_of_each_topic_takes_the_place_of_a_position(site: Site) -> None:
    site.app.add_url_rule("/last", "last", lambda: site.mercure.session("users/ada", last_value=True))
    document = site.client().get("/last").get_json()
    assert document["lastValue"] is True
    assert "lastEventId" not in document
    with site.app.test_request_context(), pytest.raises(InvalidArgument, match="not both"):
        site.mercure.session("users/ada", "urn:1", last_value=True)


# -- what the user may read -------------------------------------------------------------------------


@pytest.mark.parametrize("topic", ["users/grace", "*", "users/ada/x", "https://evil.example/rooms/7"])
def test_a_topic_that_is_not_granted_is_refused(site: Site, topic: str) -> None:
    site.app.testing = False
    if topic == "*":
        site.app.add_url_rule("/all", "all", lambda: site.mercure.session(EVERYTHING, "urn:1"))
    response = site.client().get("/all" if topic == "*" else f"/session?topic={topic}")
    assert response.status_code == 403
    assert topic in response.text
    assert "subscribe_grants" in response.text
    assert cookies(response) == {}


def test_a_visitor_without_grants_is_told_to_sign_in(site: Site) -> None:
    response = site.client(None).get("/session")
    assert response.status_code == 401
    assert cookies(response) == {}


def test_an_app_handles_the_refusal_as_it_likes(site: Site) -> None:
    @site.app.errorhandler(NotGranted)
    def handle(error: NotGranted) -> tuple[dict[str, str], int]:
        return {"error": str(error.description)}, 418

    response = site.client().get("/session?topic=users/grace")
    assert (response.status_code, "users/grace" in response.get_json()["error"]) == (418, True)


def test_public_topics_need_no_grants() -> None:
    mercure = Mercure()
    app = make_app(mercure, PUBLIC_URL=HUB)
    app.add_url_rule("/session", "session", lambda: mercure.session(["news"], "urn:1"))
    response = client_of(app).get("/session")
    assert response.get_json().keys() == {"url", "protocol", "topics", "lastEventId", "module"}
    assert response.headers.getlist("Set-Cookie") == []
    assert client_of(app).post(REFRESH, headers=SCRIPT).status_code == 404


def test_a_token_needs_grants() -> None:
    mercure = Mercure()
    app = make_app(mercure, PUBLIC_URL=HUB)
    with app.test_request_context(), pytest.raises(ConfigurationError, match="subscribe_grants"):
        mercure.session(["news"], "urn:1", token=True)


def test_a_host_that_cannot_set_the_cookie_is_told_of_the_token(site: Site) -> None:
    with site.app.test_request_context("https://app.other/"), pytest.raises(CookieError, match="token=True"):
        session["user"] = "ada"
        site.mercure.session((), "urn:1")


def configuration(**config: Any) -> Configuration:
    return state_of(make_app(PUBLIC_URL=HUB, **config)).configuration


@pytest.mark.parametrize(
    ("granted", "wanted", "refused"),
    [
        ([], [], []),
        ([], ["a"], ["a"]),
        (["a"], ["a", "b"], ["b"]),
        (EVERYTHING, ["a", EVERYTHING, URLPattern("/:x")], []),
        (["a"], EVERYTHING, ["*"]),
        (URLPattern("/*"), EVERYTHING, ["*"]),
        (
            URLPattern("/rooms/:id"),
            ["/rooms/7", "/rooms/7/8", f"{SITE}/rooms/7"],
            ["/rooms/7/8"],
        ),
        (URLPattern("/rooms/:id"), [URLPattern("/rooms/:id")], []),
        (URLPattern("/rooms/*"), [URLPattern("/rooms/:id")], []),
        (["/rooms/7"], [URLPattern("/rooms/:id")], ["/rooms/:id"]),
        ({"match": "/rooms/:id", "match_type": "urlpattern"}, ["/rooms/7"], []),
    ],
)
def test_what_is_granted(granted: Any, wanted: Any, refused: list[str]) -> None:
    assert ungranted(wanted, Grants(granted), configuration()) == refused


def test_what_is_granted_in_older_hubs() -> None:
    granted = Grants([URITemplate("/rooms/{id}"), "a"])
    assert ungranted(["/rooms/7", "a", "b"], granted, configuration(PROTOCOL="0.x")) == ["b"]


def test_a_pattern_that_hubs_refuse_is_an_error_of_the_app() -> None:
    with pytest.raises(InvalidArgument, match="subscribe_grants gave a pattern"):
        ungranted("a", Grants(URLPattern("/(")), configuration())


def test_without_the_hubs_packages_patterns_are_left_to_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "mercure_hub.protocol.matching.matcher", None)
    granted = Grants(URLPattern("/rooms/:id"))
    assert ungranted(["/rooms/7", "else", EVERYTHING], granted, configuration()) == ["*"]
    assert ungranted(["a", "b"], Grants("a"), configuration()) == ["b"]


# -- whose stream, and for which page ---------------------------------------------------------------


def test_the_identity_tells_users_apart_and_nobody_who_they_are(site: Site) -> None:
    def identity(user: str, name: str | None) -> str | None:
        site.grants = Grants("a", user=name)
        found: str | None = site.client(user).get("/session?token=1").get_json().get("identity")
        return found

    ada, again, grace = identity("ada", "ada"), identity("ada", "ada"), identity("grace", "grace")
    assert ada == again != grace
    assert ada is not None and "ada" not in ada
    assert identity("ada", None) is None


@pytest.mark.parametrize(
    ("headers", "is_absolute"),
    [
        ({}, False),
        ({"Sec-Fetch-Site": "same-origin", "Origin": "https://dev.example"}, False),
        ({"Origin": "https://site.example"}, False),
        ({"Sec-Fetch-Site": "same-site"}, True),
        ({"Sec-Fetch-Site": "cross-site"}, True),
        ({"Origin": "https://app.site.example"}, True),
        ({"Origin": "null"}, True),
    ],
)
def test_a_page_of_another_origin_gets_addresses_of_the_app(
    site: Site, headers: Mapping[str, str], is_absolute: bool
) -> None:
    document = site.client().get("/session", headers=headers).get_json()
    for name in ("refresh", "module"):
        assert document[name].startswith("https://site.example/_mercure/") is is_absolute
        assert document[name].startswith("/_mercure/") is not is_absolute


def test_a_page_of_another_origin_can_import_the_module(site: Site) -> None:
    client = site.client()
    response = client.get(client.get("/session").get_json()["module"])
    assert response.headers["Access-Control-Allow-Origin"] == "*"
    response.close()


# -- tokens -----------------------------------------------------------------------------------------


def test_a_token_takes_the_place_of_the_cookie(site: Site) -> None:
    site.grants = Grants("a", payload={"name": "Ada"}, user="ada")
    response = site.client().get("/session?token")
    document = response.get_json()
    read = claims(document["token"])
    assert read["sub"] == "ada"
    assert read["authorization_details"][0]["payload"] == {"sub": "ada", "name": "Ada"}
    assert cookies(response) == {}
    assert document["token"] not in document["refresh"]


def test_a_token_takes_the_place_of_an_automatic_cookie_too() -> None:
    mercure = Mercure()
    app = make_app(mercure, PUBLIC_URL=HUB)
    app.testing = True
    mercure.subscribe_grants(lambda: "a")
    app.add_url_rule("/session", "session", lambda: mercure.session((), "urn:1", token=True))
    client, elsewhere = app.test_client(), "https://app.other"  # where no cookie could be set
    document = client.get("/session", base_url=elsewhere).get_json()
    assert claims(document["token"])
    renewed = client.post(document["refresh"], base_url=elsewhere, headers=SCRIPT).get_json()
    assert claims(renewed["token"])


def test_a_token_is_renewed_at_the_address_that_came_with_it(site: Site) -> None:
    client = site.client()
    document = client.get("/session?token").get_json()
    response = refreshed(client, document["refresh"])
    renewed = response.get_json()
    assert claims(renewed["token"])["jti"] != claims(document["token"])["jti"]
    assert renewed["refreshAfter"] == pytest.approx(0.8 * 3600, abs=2)
    assert cookies(response) == {}
    assert "no-store" in response.headers["Cache-Control"]


@pytest.mark.parametrize("seal", ["", "x", "ä", "%ff%fe", "\udcff"])
def test_nobody_gets_a_token_where_no_page_was_given_one(site: Site, seal: str) -> None:
    response = refreshed(site.client(), f"{REFRESH}?token={seal.encode('utf-8', 'replace').decode()}")
    assert response.status_code == 403
    assert "token" not in (response.get_json(silent=True) or {})


def test_the_address_of_one_app_gives_no_token_of_another(site: Site) -> None:
    other = Site()
    other.app.secret_key = "another"
    address = site.client().get("/session?token").get_json()["refresh"]
    assert refreshed(other.client(), address).status_code == 403


# -- the view that renews ---------------------------------------------------------------------------


def test_the_view_sets_a_new_cookie(site: Site) -> None:
    client = site.client()
    first = cookies(client.get("/session"))[COOKIE]
    response = refreshed(client)
    assert response.status_code == 200
    assert response.get_json() == {"refreshAfter": pytest.approx(2880, abs=2)}
    assert cookies(response)[COOKIE] not in ("", first)
    assert topics_in(response) == ["users/ada", "/rooms/:id"]


def test_the_view_gives_what_the_user_may_read_now(site: Site) -> None:
    client = site.client()
    client.get("/session")
    site.grants = ["b"]
    assert topics_in(refreshed(client)) == ["b"]


def test_a_user_who_signed_out_gets_401_and_loses_the_cookie(site: Site) -> None:
    client = site.client()
    client.get("/session")
    with client.session_transaction(base_url=SITE) as held:
        held.clear()
    response = refreshed(client)
    assert response.status_code == 401
    assert cookies(response) == {COOKIE: "", MARK: ""}


@pytest.mark.parametrize(
    ("headers", "is_taken"),
    [
        ({"Sec-Fetch-Site": "same-origin"}, True),
        ({"X-Requested-With": "mercure"}, True),
        ({"Sec-Fetch-Site": "cross-site", "X-Requested-With": "mercure"}, True),  # after a preflight request
        ({}, False),
        ({"Sec-Fetch-Site": "same-site"}, False),
        ({"Sec-Fetch-Site": "cross-site"}, False),
        ({"Sec-Fetch-Site": "none"}, False),
        ({"Origin": "https://evil.example"}, False),
        ({"Content-Type": "text/plain"}, False),
    ],
)
def test_forms_of_other_sites_are_refused(site: Site, headers: dict[str, str], is_taken: bool) -> None:
    assert is_of_a_script(Headers(headers)) is is_taken
    client = site.client()
    response = client.post(REFRESH, headers=headers)
    assert response.status_code == (200 if is_taken else 403)
    assert (COOKIE in cookies(response)) is is_taken


def test_only_posts_are_taken(site: Site) -> None:
    assert site.client().get(REFRESH, headers=SCRIPT).status_code in (404, 405)
    assert site.client().put(REFRESH, headers=SCRIPT).status_code == 405


@pytest.mark.parametrize("hub", ["eu", "default%00", "x" * 3000])
def test_a_hub_that_there_is_not_is_not_found(site: Site, hub: str) -> None:
    site.mercure.hub("eu").subscribe_grants(lambda: "a")  # for another app of this object
    assert refreshed(site.client(), f"/_mercure/refresh/{hub}").status_code == 404


def test_each_hub_has_its_own() -> None:
    mercure = Mercure()
    app = make_app(
        mercure,
        HUBS={
            "one": {"URL": HUB},
            "two": {"URL": "https://two.site.example/mercure", "COOKIE_NAME": "__Secure-two"},
        },
        DEFAULT_HUB="one",
    )
    app.testing = True
    mercure.hub("two").subscribe_grants(lambda: ["b"])
    app.add_url_rule("/session", "session", lambda: mercure.hub("two").session("b", "urn:1"))
    client = client_of(app)
    document = client.get("/session").get_json()
    assert document["url"] == "https://two.site.example/mercure"
    assert document["refresh"] == "/_mercure/refresh/two"
    lines = refreshed(client, document["refresh"]).headers.getlist("Set-Cookie")
    assert [line for line in lines if line.startswith("__Secure-two=ey")]
    assert refreshed(client, "/_mercure/refresh/one").status_code == 404


def test_templates_know_the_view(site: Site) -> None:
    site.app.add_url_rule("/page", "page", lambda: render_template_string("{{ mercure_script('a') }}"))
    page = unescape(site.client().get("/page").text)
    assert f'"refresh": "{REFRESH}"' in page
    assert '"refreshAfter": 2880.0' in page


def test_the_path_and_the_prefix_of_the_app_are_part_of_the_address() -> None:
    site = Site(STATIC_PATH="/assets/live")
    mounted = Client(DispatcherMiddleware(lambda *_: [], {"/shop": site.app.wsgi_app}), Response)
    mounted.get("/shop/login/ada", base_url="https://site.example")
    document = mounted.get("/shop/session", base_url="https://site.example").get_json()
    assert document["refresh"] == "/shop/assets/live/refresh/default"
    response = mounted.post(document["refresh"], base_url="https://site.example", headers=SCRIPT)
    assert response.status_code == 200


class Protected(Mercure):
    """Initialised after CSRFProtect."""

    def init_app(self, app: Flask) -> None:
        CSRFProtect(app)
        super().init_app(app)


@pytest.mark.parametrize("mercure", [Protected(), Mercure()], ids=["before", "after"])
def test_csrf_protection_leaves_the_view_alone_and_no_other(mercure: Mercure) -> None:
    site = Site(mercure)
    if not isinstance(mercure, Protected):
        CSRFProtect(site.app)
    site.app.add_url_rule("/transfer", "transfer", lambda: "done", methods=["POST"])
    client = site.client()
    assert refreshed(client).status_code == 200
    assert client.post(REFRESH).status_code == 403
    assert client.post("/transfer", headers=SCRIPT).status_code == 400


def test_a_blueprint_has_a_session_of_its_own(site: Site) -> None:
    api = Blueprint("api", __name__, url_prefix="/api/v1")
    api.get("/session")(lambda: site.mercure.session("users/ada", "urn:1"))
    site.app.register_blueprint(api)
    assert site.client().get("/api/v1/session").get_json()["refresh"] == REFRESH


def test_a_login_that_is_required_everywhere_redirects_and_the_module_takes_that_for_signed_out(
    site: Site,
) -> None:
    @site.app.before_request
    def require() -> Any:
        if "user" not in session and request.endpoint != "login":
            return redirect("/login/x")
        return None

    assert refreshed(site.client(None)).status_code == 302
    assert refreshed(site.client()).status_code == 200


@pytest.fixture
def logged_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[FlaskClient]:
    """The browser of somebody whom Flask-Login knows."""
    mercure = Mercure()
    app = make_app(mercure, PUBLIC_URL=HUB)
    app.testing = True
    app.secret_key = "of the session"

    class User(flask_login.UserMixin):  # type: ignore[misc]
        id = "7"

    manager = flask_login.LoginManager(app)
    manager.user_loader(lambda _: User())
    mercure.subscribe_grants(lambda: ["a"] if flask_login.current_user.is_authenticated else None)
    app.add_url_rule("/login", "login", lambda: str(flask_login.login_user(User())))
    app.add_url_rule("/session", "session", lambda: mercure.session("a", "urn:1"))
    client = client_of(app)
    client.get("/login")
    yield client


def test_the_user_of_flask_login_is_known(logged_in: FlaskClient) -> None:
    document = logged_in.get("/session", headers={"Sec-Fetch-Site": "same-site"}).get_json()
    assert document["identity"]
    assert refreshed(logged_in).status_code == 200


def test_a_function_that_fails_is_an_error_of_the_server(site: Site) -> None:
    site.app.testing = False
    site.grants = 5
    assert site.client().get("/session").status_code == 500
    assert refreshed(site.client()).status_code == 500
