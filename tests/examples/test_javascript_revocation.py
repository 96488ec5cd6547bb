"""Access that the application ends, as a page in headless Chromium sees it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, render_template_string, session
from selenium import webdriver

from flask_mercure import Grants, Mercure
from tests.examples.browser import leave
from tests.examples.page_site import Served, Tab

pytestmark = pytest.mark.servers

_PAGE = """<!doctype html>
<link rel="icon" href="data:,">
{{ mercure_script(["orders/1", "rooms/1"]) }}
<script type="module">
  import { connect } from "mercure";

  window.begin = (transport) => {
    window.seen = { updates: [], states: [], gaps: [] };
    window.mercure = connect({ transport });
    mercure.on("message", ({ data }) => seen.updates.push(data));
    mercure.addEventListener("state", ({ detail }) => seen.states.push(detail));
    mercure.addEventListener("gap", ({ detail }) => seen.gaps.push(detail));
  };
  window.isReady = true;
</script>
<p>page</p>
"""


class Shop(Served):
    """An app whose users sign in and out, and lose a room.

    :param settings: of its hub, which admits nobody else without them.
    """

    def __init__(self, directory: Path, **settings: str) -> None:
        self.locked: set[str] = set()
        self.readable = ["orders/1", "rooms/1"]
        self.lifetime = 3600.0
        super().__init__(directory, self._make, Mercure(), {"MERCURE_REVOCATIONS": "1", **settings})

    def _make(self, config: Mapping[str, Any]) -> Flask:
        app = Flask("shop")
        app.config.from_mapping(config, MERCURE_REVOKE_ON_LOGOUT=True)
        app.secret_key = "of the session"
        self.mercure.init_app(app)

        @self.mercure.subscribe_grants
        def grants() -> Grants | None:
            user = session.get("user")
            if user is None or user in self.locked:
                return None
            return Grants(self.readable, user=user, lifetime=self.lifetime)

        @app.get("/")
        def page() -> str:
            return render_template_string(_PAGE)

        @app.post("/login")
        def login() -> str:
            session["user"] = "ann"
            return ""

        @app.post("/logout")
        def logout() -> str:
            session.clear()
            return ""

        return app

    def revoke(self, *arguments: Any, **named: Any) -> None:
        with self.app.app_context():
            self.mercure.revoke(*arguments, **named)


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    shop = Shop(tmp_path)
    yield shop
    shop.close()


@pytest.fixture
def open_shop(tmp_path: Path) -> Iterator[Shop]:
    """Its hub lets everybody read public updates."""
    shop = Shop(tmp_path, MERCURE_ANONYMOUS="1")
    yield shop
    shop.close()


@pytest.fixture
def visitor(chromium: Callable[[int], list[webdriver.Chrome]], open_shop: Shop) -> Iterator[Tab]:
    tab = Tab(chromium(1)[0])
    tab.visit(open_shop.url)
    yield tab
    assert leave([tab]) == []


@pytest.fixture
def page(chromium: Callable[[int], list[webdriver.Chrome]], shop: Shop) -> Iterator[Tab]:
    tab = Tab(chromium(1)[0])
    tab.visit(shop.url)
    yield tab
    assert leave([tab]) == []


def post(page: Tab, path: str) -> None:
    page.driver.execute_async_script(
        "const done = arguments[1]; fetch(arguments[0], { method: 'POST' }).then(() => done())", path
    )


def begin(page: Tab, transport: str = "fetch") -> None:
    post(page, "/login")
    page.run("begin(arguments[0])", transport)
    page.wait_open()


def last(page: Tab) -> dict[str, Any]:
    """The last state, with its details."""
    found: dict[str, Any] = page.run("return seen.states.at(-1)")
    return found


def sign_in_again(page: Tab, shop: Shop) -> None:
    """From then on, private updates arrive again."""
    post(page, "/login")
    page.run("mercure.renewed()")
    page.wait_open()
    shop.publish("orders/1", "again", private=True)
    page.wait("the next update", lambda: "again" in page.seen())


def test_a_logout_ends_the_stream_at_once(page: Tab, shop: Shop) -> None:
    begin(page)
    shop.publish("orders/1", "before", private=True)
    page.wait_updates("before")
    post(page, "/logout")
    page.wait_state("refused")
    assert last(page)["reason"] == "token-missing"  # the cookie is gone, too
    shop.publish("orders/1", "not for her", private=True)
    sign_in_again(page, shop)


@pytest.mark.parametrize("transport", ["fetch", "websocket"])
def test_who_is_locked_out_is_told_so_and_does_not_try_again(page: Tab, shop: Shop, transport: str) -> None:
    begin(page, transport)
    shop.locked.add("ann")
    shop.revoke("ann")
    page.wait_state("refused")
    state = last(page)
    assert (state["status"], state["reason"]) == (401, "token-revoked")
    shop.locked.clear()
    post(page, "/login")
    page.run("mercure.renewed()")
    page.wait_open()


def test_a_token_that_was_revoked_is_not_tried_again(page: Tab, shop: Shop) -> None:
    """The page has nothing that renews it."""
    token = shop.token(subscribe="orders/1", user="bob")
    page.run(
        "return import('mercure').then(({ connect }) => { window.seen = { states: [] };"
        "window.mercure = connect(arguments[0], { token: arguments[1], share: false });"
        "mercure.addEventListener('state', ({ detail }) => seen.states.push(detail)); })",
        f"{shop.hub.url}?match=orders/1",
        token,
    )
    page.wait_open()
    shop.revoke("bob")
    page.wait_state("refused")
    state = last(page)
    assert (state["status"], state["reason"]) == (401, "token-revoked")
    assert state.get("until") is None


def test_a_page_goes_on_with_what_its_user_may_still_read(page: Tab, shop: Shop) -> None:
    begin(page)
    shop.publish("rooms/1", "for members", private=True)
    page.wait_updates("for members")
    shop.readable = ["orders/1"]
    shop.revoke("ann", topics="rooms/1")
    page.wait(
        "the stream with the old token ended",
        lambda: any(
            one["state"] in ("offline", "connecting") for one in page.run("return seen.states.slice(2)")
        ),
    )
    page.wait_open()
    shop.publish("rooms/1", "not for her", private=True)
    shop.publish("orders/1", "for her", private=True)
    page.wait_updates("for members", "for her")
    assert page.seen("gaps") == []


@pytest.mark.parametrize("transport", ["fetch", "websocket"])
def test_a_page_that_signed_out_is_refused_where_everybody_may_read(
    visitor: Tab, open_shop: Shop, transport: str
) -> None:
    begin(visitor, transport)
    post(visitor, "/logout")
    visitor.wait_state("refused")
    assert last(visitor)["status"] == 401
    assert last(visitor).get("until") is None  # no attempt follows by itself
    sign_in_again(visitor, open_shop)


@pytest.mark.parametrize("transport", ["fetch", "websocket"])
def test_a_page_is_refused_when_its_access_ends_where_everybody_may_read(
    visitor: Tab, open_shop: Shop, transport: str
) -> None:
    """The browser still sends the cookie: only the application knows that the user may not read any more."""
    open_shop.lifetime = 3
    begin(visitor, transport)
    open_shop.locked.add("ann")
    visitor.wait_state("refused")
    assert last(visitor).get("until") is None


def test_all_tabs_that_had_access_are_refused_and_no_others(visitor: Tab, open_shop: Shop) -> None:
    begin(visitor)
    other = visitor.new()
    other.visit(open_shop.url)
    other.run("begin('fetch')")
    other.wait_open()
    post(other, "/logout")
    visitor.wait_state("refused")
    other.wait_state("refused")
    visitor.visit(open_shop.url)  # the page of somebody who has not signed in, beside one of somebody who was
    visitor.run("begin('fetch')")
    visitor.wait_open()
    open_shop.publish("orders/1", "for everybody")
    visitor.wait_updates("for everybody")
    other.wait_state("refused")
    assert other.seen() == []
    post(visitor, "/login")
    for tab in (visitor, other):
        tab.run("mercure.renewed()")
        tab.wait_open()
    open_shop.publish("orders/1", "again", private=True)
    visitor.wait("the next update", lambda: "again" in visitor.seen())
    other.wait("the next update", lambda: "again" in other.seen())


def test_a_page_that_never_had_access_goes_on(visitor: Tab, open_shop: Shop) -> None:
    visitor.run("begin('fetch')")
    visitor.wait_open()
    open_shop.hub.kill()
    visitor.wait("the end", lambda: visitor.run("return mercure.state") != "open")
    open_shop.hub.start()
    visitor.wait_open()
    open_shop.publish("orders/1", "for everybody")
    visitor.wait_updates("for everybody")
    states = {state["state"] for state in visitor.run("return seen.states")}
    assert states == {"connecting", "open", "offline"}
