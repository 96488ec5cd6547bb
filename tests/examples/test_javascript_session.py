"""A page without a template in headless Chromium: its stream is as ``mercure.session()`` tells."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, Response, render_template_string, request, session

from flask_mercure import Grants, Mercure
from tests.examples.page_site import Served, Tab
from tests.flask_mercure.fake_hub import add_login

pytestmark = pytest.mark.servers

_PAGE = """<!doctype html>
<link rel="icon" href="data:,">
<script type="module">
  const api = new URLSearchParams(location.search).get("api") ?? "";
  window.load = async (options = "", user = null) => {
    const headers = user === null ? {} : { Authorization: user };
    const response = await fetch(`${api}/session?${options}`, { headers });
    if (!response.ok) throw new Error(`${response.status} ${await response.text()}`);
    return response.json();
  };
  window.begin = async (session, options = {}) => {
    const { connect } = await import(session.module);
    window.seen = { updates: [], states: [], gaps: [] };
    window.mercure = connect(session, options);
    mercure.on("message", ({ data }) => seen.updates.push(data));
    mercure.addEventListener("state", ({ detail }) => seen.states.push(detail.state));
    mercure.addEventListener("gap", ({ detail }) => seen.gaps.push(detail));
  };
  window.isReady = true;
</script>
<p>page</p>
"""

BEGIN = "return load('topic=orders/ada&token').then((session) => begin({ ...session, refresh: null }))"
RENEW = "return load('topic=orders/ada&token').then(({ token }) => mercure.renewed(token))"

_TEMPLATE = """<!doctype html>
<link rel="icon" href="data:,">
{{ mercure_script("orders/ada") }}
<script type="module">
  import { connect } from "mercure";

  window.mercure = connect();
  window.updates = [];
  mercure.on("message", ({ data }) => updates.push(data));
</script>
"""


class Orders(Served):
    """An app that signs in with a session, or with a header as apps of other sites do."""

    def __init__(self, directory: Path, **settings: str) -> None:
        self.lifetime = 3600.0
        self.renewals: list[int] = []
        given = {"MERCURE_CORS_ORIGINS": "http://localhost:* http://127.0.0.1:*", **settings}
        super().__init__(directory, self._make, Mercure(), given)

    def _make(self, config: Mapping[str, Any]) -> Flask:
        app = Flask("orders")
        app.config.from_mapping(config)
        mercure = self.mercure
        mercure.init_app(app)
        add_login(app)

        @mercure.subscribe_grants(automatic=False)
        def grants() -> Grants | None:
            user = request.headers.get("Authorization") or session.get("user")
            return None if user is None else Grants([f"orders/{user}"], user=user, lifetime=self.lifetime)

        @app.get("/")
        def page() -> str:
            return _PAGE

        @app.get("/template")
        @mercure.subscriber
        def template() -> str:
            return render_template_string(_TEMPLATE)

        @app.get("/session")
        def document() -> Response:
            return mercure.session(request.args.getlist("topic"), token="token" in request.args)

        @app.after_request
        def watch(response: Response) -> Response:
            if request.endpoint == "mercure_refresh" and request.method == "POST":
                self.renewals.append(response.status_code)
            if request.headers.get("Origin", "").startswith("http://127.0.0.1:"):  # as Flask-CORS does
                response.headers["Access-Control-Allow-Origin"] = request.headers["Origin"]
                response.headers["Access-Control-Allow-Headers"] = "Authorization, X-Requested-With"
            return response

        return app


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orders]:
    site = Orders(tmp_path_factory.mktemp("orders"))
    yield site
    site.close()


@pytest.fixture
def orders(served: Orders) -> Orders:
    served.lifetime = 3600.0
    served.renewals.clear()
    return served


def sign_in(orders: Orders, tab: Tab, user: str = "ada") -> None:
    tab.driver.get(f"{orders.url}/login/{user}")
    tab.visit(orders.url)


def begin(tab: Tab, query: str = "topic=orders/ada") -> None:
    tab.run("return load(arguments[0]).then(begin)", query)
    tab.wait_open()


def test_connect_takes_the_document_as_it_is(orders: Orders, tab: Tab) -> None:
    """An update that is published before the stream is open arrives too."""
    sign_in(orders, tab)
    tab.run("return load('topic=orders/ada').then((one) => { window.loaded = one; })")
    orders.publish("orders/ada", "1", private=True)
    tab.run("return begin(loaded)")
    tab.wait_open()
    orders.publish("orders/grace", "no", private=True)
    orders.publish("orders/ada", "2", private=True)
    tab.wait_updates("1", "2")
    assert tab.seen("gaps") == []


def test_tabs_of_one_user_share_a_connection(orders: Orders, tab: Tab) -> None:
    sign_in(orders, tab)
    begin(tab)
    other = tab.new()
    other.visit(orders.url)
    begin(other)
    orders.publish("orders/ada", "1", private=True)
    for one in (tab, other):
        one.wait_updates("1")
    assert orders.topics() == [["orders/ada"]]


def test_a_topic_that_is_not_granted_is_refused(orders: Orders, tab: Tab) -> None:
    sign_in(orders, tab)
    said = tab.run("return load('topic=orders/grace').then(() => '', (error) => error.message)")
    assert said.startswith("403")
    assert "orders/grace" in said


@pytest.mark.parametrize("query", ["topic=orders/ada", "topic=orders/ada&token"], ids=["cookie", "token"])
def test_access_is_renewed_before_it_ends(orders: Orders, tab: Tab, query: str) -> None:
    orders.lifetime = 4
    sign_in(orders, tab)
    begin(tab, query)
    orders.lifetime = 6  # the next renewal follows the new time
    deadline = time.monotonic() + 20
    sent: list[str] = []
    while orders.renewals[1:] == [] and time.monotonic() < deadline:
        sent.append(str(len(sent)))
        orders.publish("orders/ada", sent[-1], private=True)
        time.sleep(0.05)
    tab.wait_for("the last", lambda: tab.seen()[-1], sent[-1])
    assert tab.seen() == sent
    assert orders.renewals[:2] == [200, 200]
    assert tab.seen("states") == ["connecting", "open"]
    assert tab.seen("gaps") == []


def test_a_page_of_a_template_renews_without_a_view_of_the_app(orders: Orders, tab: Tab) -> None:
    """Its cookie ends long before the configured time, and the hub refuses it."""
    orders.lifetime = 3
    sign_in(orders, tab)
    tab.driver.get(f"{orders.url}/template")
    tab.wait_for("state", lambda: tab.run("return window.mercure?.state"), "open")
    tab.wait("a renewal", lambda: orders.renewals)
    orders.publish("orders/ada", "1", private=True)
    tab.wait_for("updates", lambda: tab.run("return updates"), ["1"])
    assert orders.renewals[0] == 200


def test_who_signs_out_is_refused(orders: Orders, tab: Tab) -> None:
    orders.lifetime = 3
    sign_in(orders, tab)
    begin(tab)
    tab.run("return fetch('/logout', { method: 'POST' }).then(() => {})")
    tab.wait_state("refused")
    assert 401 in orders.renewals


def test_a_page_of_another_site_has_a_token(orders: Orders, tab: Tab) -> None:
    """Its browser sends cookies neither to the app nor to the hub; its function loads the session again."""
    orders.lifetime = 3
    tab.visit(orders.url.replace("localhost", "127.0.0.1") + f"?api={orders.url}")
    tab.run("window.user = 'ada'; window.loads = 0")
    tab.run(
        "window.again = () => { loads++; return load('topic=orders/ada&token', user); };"
        "return again().then((session) => begin(session, { refresh: again }))"
    )
    tab.wait_open()
    tab.wait("a renewal", lambda: tab.run("return loads") > 1)
    orders.publish("orders/ada", "1", private=True)
    tab.wait_updates("1")
    other = tab.new()  # shares the connection, since both are Ada's
    other.visit(orders.url.replace("localhost", "127.0.0.1") + f"?api={orders.url}")
    other.run("return load('topic=orders/ada&token', 'ada').then(begin)")
    other.wait_open()
    tab.wait_for("connections", orders.topics, [["orders/ada"]])
    assert orders.renewals == []


# The browser takes its time to tell a tab whether another one leads.
LATE_LOCKS = """
  const request = navigator.locks.request.bind(navigator.locks);
  window.decide = null;
  const decided = new Promise((resolve) => (window.decide = resolve));
  navigator.locks.request = (name, options, action) =>
    request(name, options, options.ifAvailable ? (lock) => decided.then(() => action(lock)) : action);
"""


def test_a_tab_has_everything_before_it_hears_the_others(orders: Orders, tab: Tab) -> None:
    sign_in(orders, tab)
    begin(tab)
    other = tab.new()
    other.visit(orders.url)
    other.run("return load('topic=orders/ada').then((session) => { window.session = session; })")
    orders.publish("orders/ada", "1", private=True)
    tab.wait_updates("1")
    other.run(LATE_LOCKS)
    other.run("return begin(session)")
    orders.publish("orders/ada", "2", private=True)
    tab.wait_updates("1", "2")
    other.run("decide()")
    other.wait_updates("1", "2")
    other.wait_open()
    assert other.seen("states") == ["connecting", "open"]


def test_a_tab_that_shares_a_connection_can_give_it_the_new_token(orders: Orders, tab: Tab) -> None:
    orders.lifetime = 4
    sign_in(orders, tab)
    tab.run(BEGIN)
    tab.wait_open()
    other = tab.new()
    other.visit(orders.url)
    other.run(BEGIN)
    other.wait_open()
    end = time.time() + orders.lifetime
    orders.lifetime = 3600
    other.run(RENEW)
    tab.wait("the end of the first tokens", lambda: time.time() > end + 1)
    orders.publish("orders/ada", "1", private=True)
    for one in (tab, other):
        one.wait_updates("1")
        assert one.seen("states") == ["connecting", "open"]


def test_the_token_can_be_given_anew_by_hand(orders: Orders, tab: Tab) -> None:
    orders.lifetime = 4
    sign_in(orders, tab)
    tab.run(BEGIN)
    tab.wait_open()
    end = time.time() + orders.lifetime
    orders.lifetime = 3600
    tab.run(RENEW)
    tab.wait("the end of the first token", lambda: time.time() > end + 1)
    orders.publish("orders/ada", "1", private=True)
    tab.wait_updates("1")
    assert tab.seen("states") == ["connecting", "open"]
