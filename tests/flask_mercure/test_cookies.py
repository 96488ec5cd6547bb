"""The authorization cookie: what browsers accept, and where they send it."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from http.cookies import SimpleCookie
from typing import Any

import jwt
import pytest
from flask import Flask, Response, redirect, request, session
from werkzeug.test import create_environ, run_wsgi_app

from flask_mercure import ConfigurationError, CookieError, Mercure, TokenError, URLPattern
from tests.flask_mercure.fake_hub import SECRET, make_app

Attributes = dict[str, str]


def cookie_line(config: Mapping[str, Any], page: str, *, clear: bool = False, **arguments: Any) -> str:
    """The Set-Cookie line for a page."""
    mercure = Mercure()
    response = Response()
    with make_app(mercure, **config).test_request_context(base_url=page):
        if clear:
            assert mercure.clear_cookie(response) is response
        else:
            assert mercure.set_cookie(response, **arguments) is response
    line, mark = response.headers.getlist("Set-Cookie")
    assert mark.startswith("mercure_identity_")
    return line


def parsed(line: str) -> tuple[str, str, Attributes]:
    """Name, value and attributes, as a browser reads them (RFC 6265 section 5.2)."""
    pair, *rest = line.split(";")
    name, _, value = pair.partition("=")
    attributes = {}
    for part in rest:
        key, _, content = part.partition("=")
        attributes[key.strip().lower()] = content.strip()
    return name, value, attributes


SITE = {"PUBLIC_URL": "https://site.example/.well-known/mercure"}


def test_the_cookie_of_one_host() -> None:
    name, value, attributes = parsed(cookie_line(SITE, "https://site.example", subscribe=["a"]))
    assert name == "__Secure-mercure_access_token"
    claims = jwt.decode(value, SECRET, algorithms=["HS256"], audience=SITE["PUBLIC_URL"])
    assert claims["authorization_details"][0]["topics"] == [{"match": "a"}]
    max_age = int(attributes.pop("max-age"))
    assert claims["exp"] - time.time() == pytest.approx(max_age, abs=3)
    assert attributes.pop("expires").endswith("GMT")
    assert attributes == {"secure": "", "httponly": "", "path": "/.well-known/mercure", "samesite": "Strict"}


@pytest.mark.parametrize(
    ("config", "page"),
    [
        (SITE, "https://site.example"),
        (SITE, "https://www.site.example"),
        ({"PROTOCOL": "0.x", "COOKIE_SAMESITE": "Lax", "COOKIE_PATH": "/"}, "http://127.0.0.1:5000"),
        ({"COOKIE_NAME": "__Host-m", "COOKIE_PATH": "/"}, "http://127.0.0.1:5000"),
        ({**SITE, "COOKIE_PARTITIONED": True}, "https://site.example"),
        (
            {**SITE, "COOKIE_NAME": "m", "COOKIE_SECURE": False, "COOKIE_SAMESITE": None},
            "http://site.example",
        ),
    ],
)
def test_clearing_differs_only_in_the_token_and_the_end(config: Mapping[str, Any], page: str) -> None:
    name, value, attributes = parsed(cookie_line(config, page, subscribe=["a"]))
    cleared_name, cleared_value, cleared = parsed(cookie_line(config, page, clear=True))
    assert value.count(".") == 2
    assert (cleared_name, cleared_value) == (name, "")
    assert cleared.pop("max-age") == "0"
    assert cleared.pop("expires") == "Thu, 01 Jan 1970 00:00:00 GMT"
    del attributes["max-age"], attributes["expires"]
    assert cleared == attributes


@pytest.mark.parametrize("clear", [False, True])
@pytest.mark.parametrize(
    "config",
    [
        SITE,
        {**SITE, "COOKIE_PARTITIONED": True},
        {**SITE, "COOKIE_SAMESITE": "None"},
        {**SITE, "COOKIE_SAMESITE": None},
        {**SITE, "COOKIE_DOMAIN": "site.example"},
        {**SITE, "COOKIE_NAME": "m", "COOKIE_SECURE": False},
        {**SITE, "COOKIE_NAME": "__Host-m", "COOKIE_PATH": "/"},
        {**SITE, "PROTOCOL": "0.x"},
    ],
)
def test_no_script_may_read_the_cookie(config: Mapping[str, Any], clear: bool) -> None:
    page = "http://site.example" if config.get("COOKIE_SECURE") is False else "https://site.example"
    assert "httponly" in parsed(cookie_line(config, page, clear=clear))[2]


@pytest.mark.parametrize(
    ("page", "hub", "domain"),
    [
        ("https://site.example", "https://site.example/m", None),
        ("https://SITE.example", "https://Site.Example:8443/m", None),
        ("https://site.example.", "https://site.example/m", None),
        ("https://site.example:444", "https://site.example/m", None),
        ("https://www.site.example", "https://hub.site.example/m", "site.example"),
        ("https://site.example", "https://hub.site.example/m", "site.example"),
        ("https://hub.site.example", "https://site.example/m", "site.example"),
        ("https://a.b.site.example", "https://hub.b.site.example/m", "b.site.example"),
        ("https://a.b.site.example", "https://c.d.site.example/m", "site.example"),
        ("https://www.shop.co.uk", "https://hub.shop.co.uk/m", "shop.co.uk"),
        ("https://www.co.example", "https://hub.co.example/m", "co.example"),
        ("http://127.0.0.1:5000", "http://127.0.0.1:3000/m", None),
        ("http://[::1]:5000", "http://[::1]:3000/m", None),
        ("http://localhost:5000", "http://localhost:3000/m", None),
        ("https://intranet", "https://intranet:3000/m", None),
    ],
)
def test_the_domain_is_as_narrow_as_can_be(page: str, hub: str, domain: str | None) -> None:
    for clear in (False, True):
        _, _, attributes = parsed(cookie_line({"PUBLIC_URL": hub}, page, clear=clear))
        assert attributes.get("domain") == domain


@pytest.mark.parametrize(
    ("page", "hub", "words"),
    [
        ("https://192.0.2.1", "https://hub.site.example/m", "IP address"),
        ("https://www.site.example", "https://192.0.2.1/m", "IP address"),
        ("https://192.0.2.1", "https://192.0.2.2/m", "IP address"),
        ("https://[2001:db8::1]", "https://[2001:db8::2]/m", "IP address"),
        ("https://localhost:5000", "https://127.0.0.1:3000/m", "IP address"),
        ("http://[::1]:5000", "http://127.0.0.1:3000/m", "IP address"),
        ("https://site.example", "https://site.test/m", "share no domain"),
        ("https://one.example", "https://two.example/m", "'example', which is public"),
        ("https://one.co.uk", "https://two.co.uk/m", "'co.uk', which is public"),
        ("https://one.com.au", "https://two.com.au/m", "'com.au', which is public"),
        ("https://me.github.io", "https://you.github.io/m", "'github.io', which is public"),
        ("https://app.localhost", "https://hub.localhost/m", "'localhost', which is public"),
        ("https://notsite.example", "https://site.example/m", "'example', which is public"),
    ],
)
@pytest.mark.parametrize("clear", [False, True])
def test_hosts_that_no_cookie_reaches_both(page: str, hub: str, words: str, clear: bool) -> None:
    with pytest.raises(CookieError, match="MERCURE_PUBLIC_URL") as caught:
        cookie_line({"PUBLIC_URL": hub}, page, clear=clear)
    assert words in str(caught.value)


@pytest.mark.parametrize("domain", ["site.example", ".site.example", "SITE.example"])
def test_a_domain_that_is_configured(domain: str) -> None:
    config = {"PUBLIC_URL": "https://hub.b.site.example/m", "COOKIE_DOMAIN": domain}
    for page in ("https://a.b.site.example", "https://site.example", "https://hub.b.site.example"):
        assert parsed(cookie_line(config, page))[2]["domain"] == "site.example"
    for page in ("https://other.example", "https://192.0.2.1", "https://notsite.example"):
        with pytest.raises(CookieError, match="outside of MERCURE_COOKIE_DOMAIN"):
            cookie_line(config, page)


def test_a_configured_domain_overrules_the_list_of_public_ones() -> None:
    config = {"PUBLIC_URL": "https://two.co.uk/m", "COOKIE_DOMAIN": "co.uk"}
    assert parsed(cookie_line(config, "https://one.co.uk"))[2]["domain"] == "co.uk"


def test_a_host_cookie_stays_on_its_host() -> None:
    config = {"COOKIE_NAME": "__Host-m", "COOKIE_PATH": "/", "PUBLIC_URL": "https://hub.site.example/m"}
    assert "domain" not in parsed(cookie_line(config, "https://hub.site.example"))[2]
    with pytest.raises(CookieError, match="__Host-"):
        cookie_line(config, "https://www.site.example")


@pytest.mark.parametrize(
    "page",
    [
        "http://localhost:5000",
        "http://127.0.0.1:5000",
        "http://127.9.9.9",
        "http://[::1]",
        "http://a.localhost",
    ],
)
def test_browsers_trust_the_loopback(page: str) -> None:
    hub = page.replace(":5000", "") + ":3000/m"
    assert "secure" in parsed(cookie_line({"PUBLIC_URL": hub}, page))[2]


@pytest.mark.parametrize("host", ["192.168.1.5", "dev.example", "localhost.example"])
def test_a_secure_cookie_without_tls(host: str) -> None:
    hub = {"PUBLIC_URL": f"http://{host}:3000/m"}
    with pytest.raises(CookieError, match="MERCURE_COOKIE_SECURE=False and MERCURE_COOKIE_NAME"):
        cookie_line(hub, f"http://{host}:5000")
    plain = {**hub, "COOKIE_SECURE": "0", "COOKIE_NAME": "mercure_access_token"}
    assert "secure" not in parsed(cookie_line(plain, f"http://{host}:5000"))[2]
    cookie_line(hub, f"http://{host}:5000", clear=True)


def test_a_proxy_that_ends_tls_unseen_is_only_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        cookie_line(SITE, "http://site.example")
    assert "ProxyFix" in caplog.text
    caplog.clear()
    cookie_line(SITE, "https://site.example")
    assert caplog.text == ""


def test_a_cookie_that_is_too_large() -> None:
    topics = [f"https://site.example/rooms/{number}" for number in range(100)]
    with pytest.raises(CookieError, match="browsers refuse more than 4096") as caught:
        cookie_line(SITE, "https://site.example", subscribe=topics)
    assert "eyJ" not in str(caught.value)
    cookie_line(SITE, "https://site.example", subscribe=topics[:20])
    cookie_line(SITE, "https://site.example", subscribe=URLPattern("https://site.example/rooms/*"))


def factory_of(claims: Mapping[str, Any]) -> Any:
    def create(subscribe: Any = None, publish: Any = None, additional_claims: Any = None) -> str:
        return jwt.encode({**claims, **(additional_claims or {})}, SECRET)

    return create


def test_a_token_without_end_makes_a_cookie_of_the_session() -> None:
    line = cookie_line({**SITE, "TOKEN_FACTORY": factory_of({"x": 1})}, "https://site.example")
    assert not {"max-age", "expires"} & parsed(line)[2].keys()


def test_the_cookie_ends_with_the_factorys_token() -> None:
    config = {**SITE, "TOKEN_FACTORY": factory_of({"exp": time.time() + 100.5})}
    assert parsed(cookie_line(config, "https://site.example"))[2]["max-age"] in ("99", "100")
    line = cookie_line(config, "https://site.example", lifetime=50)
    assert int(parsed(line)[2]["max-age"]) == pytest.approx(50, abs=2)


@pytest.mark.parametrize("end", [0, -5, 1000.5])
def test_a_token_that_has_ended(end: float) -> None:
    with pytest.raises(TokenError, match="has expired"):
        cookie_line({**SITE, "TOKEN_FACTORY": factory_of({"exp": end})}, "https://site.example")


def test_the_old_protocol_has_its_own_name() -> None:
    name, value, _ = parsed(
        cookie_line({**SITE, "PROTOCOL": "0.x"}, "https://site.example", subscribe="a", payload="x")
    )
    assert name == "mercureAuthorization"
    assert jwt.decode(value, SECRET, algorithms=["HS256"])["mercure"] == {"subscribe": ["a"], "payload": "x"}


def test_claims_publishing_and_payload_reach_the_token() -> None:
    _, value, _ = parsed(
        cookie_line(
            SITE,
            "https://site.example",
            subscribe="a",
            publish="b",
            additional_claims={"sub": "ada"},
            payload={"name": "Ada"},
        )
    )
    claims = jwt.decode(value, options={"verify_signature": False})
    assert claims["sub"] == "ada"
    read, write = claims["authorization_details"]
    assert (read["payload"], write["actions"]) == ({"sub": "ada", "name": "Ada"}, ["publish"])


def test_the_last_cookie_of_a_hub_wins_and_others_stay() -> None:
    mercure = Mercure()
    response = Response()
    with make_app(mercure, **SITE).test_request_context(base_url="https://site.example"):
        response.set_cookie("session", "x")
        mercure.set_cookie(response, ["a"])
        mercure.set_cookie(response, ["b"])
        mercure.clear_cookie(response)
    first, second, mark = response.headers.getlist("Set-Cookie")
    assert first.startswith("session=x")
    assert second.startswith("__Secure-mercure_access_token=;")
    assert mark.startswith("mercure_identity_site_example_well_known_mercure=;")


@pytest.mark.parametrize(
    "host", ["", "bad host", "[::1", "a;b", "x" * 300, "site.example:abc", "évil.example"]
)
def test_a_host_header_that_is_wrong(host: str) -> None:
    mercure = Mercure()
    app = make_app(mercure, **SITE)

    @app.get("/")
    def page() -> Response:
        return mercure.set_cookie(Response(), ["a"])

    environ = create_environ("/")
    environ["HTTP_HOST"] = host  # the test client would read it too, and fail
    _, status, headers = run_wsgi_app(app, environ)
    assert status[:3] in ("200", "400", "500")
    for line in headers.getlist("Set-Cookie"):
        assert "domain" not in parsed(line)[2]


def test_a_redirect_takes_the_cookie() -> None:
    mercure = Mercure()
    with make_app(mercure, **SITE).test_request_context(base_url="https://site.example"):
        response = mercure.set_cookie(redirect("/rooms"), ["a"])
    assert response.status_code == 302
    assert response.headers["Set-Cookie"].startswith("__Secure-mercure_access_token=")


def test_a_client_keeps_and_drops_the_cookie() -> None:
    mercure = Mercure()
    app: Flask = make_app(mercure)

    @app.get("/in")
    def sign_in() -> Response:
        return mercure.set_cookie(Response(), ["a"])

    @app.get("/out")
    def sign_out() -> Response:
        return mercure.clear_cookie(Response())

    client = app.test_client()
    base = "http://127.0.0.1:5000"
    line = client.get("/in", base_url=base).headers["Set-Cookie"]
    morsel = SimpleCookie(line)["__Secure-mercure_access_token"]
    assert morsel["path"] == "/.well-known/mercure"
    place = {"domain": "127.0.0.1", "path": "/.well-known/mercure"}
    assert client.get_cookie("__Secure-mercure_access_token", **place) is not None
    client.get("/out", base_url=base)
    assert client.get_cookie("__Secure-mercure_access_token", **place) is None


def test_set_cookie_needs_a_request() -> None:
    mercure = Mercure()
    with make_app(mercure).app_context(), pytest.raises(RuntimeError, match="request context"):
        mercure.set_cookie(Response(), ["a"])


def test_a_partitioned_cookie_is_for_frames_of_other_sites() -> None:
    config = {**SITE, "COOKIE_PARTITIONED": True}
    line = cookie_line(config, "https://site.example", subscribe=["a"])
    _, _, attributes = parsed(line)
    assert int(attributes.pop("max-age")) > 0
    assert attributes.pop("expires").endswith("GMT")
    assert attributes == {
        "secure": "",
        "httponly": "",
        "path": "/.well-known/mercure",
        "samesite": "None",
        "partitioned": "",
    }
    assert line.endswith("; Partitioned")
    cleared = cookie_line(config, "https://site.example", clear=True)
    assert cleared.endswith("; Partitioned")  # or the browser looks for it in the other jar


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"COOKIE_SECURE": False, "COOKIE_NAME": "m"}, "refuse a Partitioned cookie without Secure"),
        ({"COOKIE_SAMESITE": "Strict"}, "MERCURE_COOKIE_SAMESITE is 'Strict'"),
        ({"COOKIE_SAMESITE": "Lax"}, "there browsers send only SameSite=None"),
        ({"COOKIE_SAMESITE": None}, "MERCURE_COOKIE_SAMESITE is None"),
    ],
)
def test_a_partitioned_cookie_that_browsers_refuse_or_keep_back(
    config: Mapping[str, Any], words: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        make_app(None, **SITE, COOKIE_PARTITIONED=True, **config)
    assert words in "\n".join(caught.value.problems)


@pytest.mark.parametrize("clear", [False, True])
@pytest.mark.parametrize(
    ("given", "control", "vary"),
    [
        ({}, {"private"}, {"Cookie"}),
        ({"Cache-Control": "public, s-maxage=5, max-age=9"}, {"private", "max-age=9"}, {"Cookie"}),
        ({"Cache-Control": "no-store", "Vary": "Accept"}, {"no-store", "private"}, {"Accept", "Cookie"}),
        ({"Vary": "*"}, {"private"}, {"*"}),
        ({"Vary": "cookie", "CDN-Cache-Control": "max-age=60"}, {"private"}, {"cookie"}),
    ],
)
def test_a_response_with_the_cookie_is_for_one_browser(
    given: Mapping[str, str], control: set[str], vary: set[str], clear: bool
) -> None:
    mercure = Mercure()
    response = Response(headers=dict(given))
    with make_app(mercure, **SITE).test_request_context(base_url="https://site.example"):
        if clear:
            mercure.clear_cookie(response)
        else:
            mercure.set_cookie(response, ["a"])
    assert {one.strip() for one in response.headers["Cache-Control"].split(",")} == control
    assert {one.strip() for one in response.headers["Vary"].split(",")} == vary
    assert "CDN-Cache-Control" not in response.headers


def test_a_cookie_of_the_same_name_for_other_paths_stays() -> None:
    mercure = Mercure()
    response = Response()
    response.set_cookie("__Secure-mercure_access_token", "x", path="/other")
    with make_app(mercure, **SITE).test_request_context(base_url="https://site.example"):
        mercure.set_cookie(response, ["a"])
        mercure.set_cookie(response, ["b"])
    assert len(response.headers.getlist("Set-Cookie")) == 3


# -- whose it is --------------------------------------------------------------------------------------


PAGE = "https://site.example"


class Marks:
    """A browser whose users get their cookies by hand; ``secret`` is the app's."""

    def __init__(self, secret: str | None = "of the session") -> None:
        mercure = Mercure()
        app = make_app(mercure, **SITE)
        app.secret_key = secret

        @app.post("/")
        def sign_in() -> Response:
            arguments = request.get_json()
            if secret is not None:
                session["name"] = arguments.pop("session", None)
            return mercure.set_cookie(Response(), **arguments)

        @app.post("/out")
        def sign_out() -> Response:
            return mercure.clear_cookie(Response())

        self.client = app.test_client()
        self.line = ""

    def give(self, topics: list[str], path: str = "/", **arguments: Any) -> str:
        """What a page reads of whose cookie the browser has then."""
        response = self.client.post(path, base_url=PAGE, json={"subscribe": topics, **arguments})
        (self.line,) = [
            line for line in response.headers.getlist("Set-Cookie") if line.startswith("mercure_identity_")
        ]
        return parsed(self.line)[1].partition(".")[0]


def test_scripts_can_read_whose_cookie_it_is_and_not_who_that_is() -> None:
    marks = Marks()
    ada = marks.give(["a"], user="ada")
    name, value, attributes = parsed(marks.line)
    assert name == "mercure_identity_site_example_well_known_mercure"
    assert "ada" not in value
    assert {"httponly", "domain"} & set(attributes) == set()
    assert (attributes["path"], attributes["samesite"], attributes["secure"]) == ("/", "Lax", "")
    assert ada == marks.give(["b"], user="ada") == Marks().give([], user="ada")
    assert len({ada, marks.give(["a"], user="grace"), Marks("another").give(["a"], user="ada")}) == 3
    marks.give([], "/out")
    assert parsed(marks.line)[1] == ""
    assert parsed(marks.line)[2]["max-age"] == "0"


@pytest.mark.parametrize("secret", ["of the session", None])
def test_a_user_whom_nobody_names_is_another_one_with_other_topics(secret: str | None) -> None:
    marks = Marks(secret)
    first = marks.give(["a"])
    assert first == marks.give(["a"]) == marks.give(["a", "b"])
    second = marks.give(["a"])
    third = marks.give(["c"])
    assert len({first, second, third}) == 3
    many = [f"topic/{number}" for number in range(40)]
    fourth = marks.give(many)
    assert fourth == marks.give(many) != marks.give([*many, "more"])
    assert marks.give(["a"], user="ada") not in {first, second, third}


def test_more_topics_in_another_session_are_those_of_another_user() -> None:
    marks = Marks()
    visitor = marks.give(["news"])
    assert visitor == marks.give(["news"], session="cart")
    assert visitor != marks.give(["news", "orders/ada"], session="ada")
