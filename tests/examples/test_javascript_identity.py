"""Several people at one browser, in headless Chromium: nobody's page gets what another one may read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, Response, render_template_string, request, session
from selenium import webdriver

from flask_mercure import Grants, Mercure
from tests.examples.browser import leave
from tests.examples.page_site import Served, Tab

pytestmark = pytest.mark.servers

_PAGE = """<!doctype html>
<link rel="icon" href="data:,">
{{ mercure_script(["orders/alice", "orders/bob", "news"], **options) }}
<script type="module">
  import { connect } from "mercure";

  window.seen = { updates: [], states: [], gaps: [] };
  window.mercure = connect();
  mercure.on("message", ({ data }) => seen.updates.push(data));
  mercure.addEventListener("state", ({ detail }) => seen.states.push(detail));
  mercure.addEventListener("gap", ({ detail }) => seen.gaps.push(detail));
  window.isReady = true;
</script>
<p>page</p>
"""


class Office(Served):
    """An app at whose browser several people work. Its view of the login answers with a page, too.

    :param kind: of the app, which calls ``set_cookie`` and names nobody, or has ``subscribe_grants``.
    """

    def __init__(self, directory: Path, kind: str) -> None:
        self.kind = kind
        self.lifetime = 3600.0
        self.more: list[str] = []
        super().__init__(directory, self._make, Mercure(), {"MERCURE_ANONYMOUS": "1"})

    def _make(self, config: Mapping[str, Any]) -> Flask:
        app = Flask("office")
        app.config.from_mapping(config, SECRET_KEY="of the session" if self.kind == "grants" else None)
        mercure = self.mercure
        mercure.init_app(app)
        by_hand = self.kind == "set_cookie"

        if not by_hand:

            @mercure.subscribe_grants
            def grants() -> Grants | None:
                user = session.get("user")
                return user and Grants([f"orders/{user}", *self.more], user=user, lifetime=self.lifetime)

        def answered(text: str, user: str) -> Response:
            response = Response(text)
            if not by_hand:
                session["user"] = user
                return response
            response.set_cookie("user", user)
            return mercure.set_cookie(response, [f"orders/{user}", *self.more], lifetime=self.lifetime)

        def page_text() -> str:
            return render_template_string(_PAGE, options={"refresh": "/renew"} if by_hand else {})

        @app.get("/")
        def page() -> str:
            return page_text()

        @app.get("/login/<user>")
        def login(user: str) -> Response:
            return answered(page_text(), user)

        @app.post("/login/<user>")
        def login_by_script(user: str) -> Response:
            return answered("", user)

        @app.post("/renew")
        def renew() -> Response:
            user = request.cookies.get("user")
            return answered("", user) if user else Response(status=401)

        @app.post("/logout")
        def logout() -> Response:
            response = Response()
            if by_hand:
                response.delete_cookie("user")
                mercure.clear_cookie(response)
            else:
                session.clear()
            return response

        return app


@pytest.fixture(scope="module", params=["set_cookie", "grants"])
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Office]:
    office = Office(tmp_path_factory.mktemp("office"), request.param)
    yield office
    office.close()


@pytest.fixture
def office(served: Office) -> Office:
    served.lifetime = 3600.0
    served.more = []
    return served


@pytest.fixture
def tab(chromium: Callable[[int], list[webdriver.Chrome]], office: Office) -> Iterator[Tab]:
    first = Tab(chromium(1)[0])
    yield first
    first.driver.switch_to.window(first.driver.window_handles[0])
    assert leave([first]) == []
    first.wait_for("connections", office.topics, [])


def sign_in(office: Office, tab: Tab, user: str) -> None:
    tab.visit(f"{office.url}/login/{user}")
    tab.wait_open()


def post(tab: Tab, path: str) -> None:
    tab.driver.switch_to.window(tab.handle)
    tab.driver.execute_async_script(
        "const done = arguments[1]; fetch(arguments[0], { method: 'POST' }).then(() => done())", path
    )


def last(tab: Tab) -> dict[str, Any]:
    found: dict[str, Any] = tab.run("return seen.states.at(-1)")
    return found


def wait_foreign(tab: Tab, reason: str = "identity-changed") -> None:
    tab.wait_state("refused")
    state = last(tab)
    assert (state["reason"], state.get("until")) == (reason, None)


def publish_to_both(office: Office, mark: str) -> None:
    """Private updates, and at last one for everybody, after which all have come."""
    for user in ("alice", "bob"):
        office.publish(f"orders/{user}", f"{user} {mark}", private=True)
    office.publish("news", mark, private=False)


ALL = ["news", "orders/alice", "orders/bob"]


def test_who_signs_in_gets_nothing_of_who_was_there_before(office: Office, tab: Tab) -> None:
    sign_in(office, tab, "alice")
    other = tab.new()
    sign_in(office, other, "bob")
    wait_foreign(tab)
    publish_to_both(office, "1")
    other.wait_updates("bob 1", "1")
    assert tab.seen() == []
    assert office.topics() == [ALL]
    sign_in(office, tab, "alice")
    wait_foreign(other)
    publish_to_both(office, "2")
    tab.wait_updates("alice 2", "2")
    assert other.seen() == ["bob 1", "1"]


def test_tabs_of_one_user_share_whatever_happens_to_the_cookie(office: Office, tab: Tab) -> None:
    sign_in(office, tab, "alice")
    other = tab.new()
    other.visit(office.url)
    other.wait_open()
    assert office.topics() == [ALL]
    for more in ([], ["extra"]):
        office.more = more
        third = other.new()
        sign_in(office, third, "alice")
        for one in (tab, other, third):
            one.run("mercure.renewed()")
        office.publish("orders/alice", f"for alice {more}", private=True)
        for one in (tab, other, third):
            one.wait_for("the update", lambda one=one: one.seen()[-1:], [f"for alice {more}"])  # type: ignore[misc]
        third.close()
        tab.wait_for("connections", office.topics, [ALL])
    for one in (tab, other):
        assert {state["state"] for state in one.seen("states")} <= {"connecting", "open"}


def test_who_has_not_signed_in_shares_nothing_with_who_has(office: Office, tab: Tab) -> None:
    tab.visit(office.url)
    tab.wait_open()
    other = tab.new()
    sign_in(office, other, "alice")
    wait_foreign(tab)
    publish_to_both(office, "1")
    other.wait_updates("alice 1", "1")
    assert tab.seen() == []
    post(tab, "/logout")
    wait_foreign(other, "token-missing")
    tab.wait_open()  # it is the page of nobody again
    publish_to_both(office, "2")
    tab.wait("the update", lambda: "2" in tab.seen())
    assert [one for one in tab.seen() if one.startswith(("alice", "bob"))] == []
    other.run("mercure.renewed()")  # it goes on without her
    other.wait_open()
    publish_to_both(office, "3")
    other.wait_updates("alice 1", "1", "2", "3")


def test_a_login_by_a_script(office: Office, tab: Tab) -> None:
    """The page that has signed in says so, and goes on; that of Alice waits until she is back."""
    sign_in(office, tab, "alice")
    other = tab.new()
    other.visit(office.url)
    other.wait_open()
    post(other, "/login/bob")
    wait_foreign(tab)
    wait_foreign(other)
    other.run("mercure.renewed()")
    other.wait_open()
    publish_to_both(office, "1")
    other.wait_updates("bob 1", "1")
    assert tab.seen() == []
    wait_foreign(tab)


def test_a_page_goes_on_when_its_user_is_back(office: Office, tab: Tab) -> None:
    """If somebody names the user: of another, nobody can tell that it is the same."""
    sign_in(office, tab, "alice")
    publish_to_both(office, "1")
    tab.wait_updates("alice 1", "1")
    other = tab.new()
    sign_in(office, other, "bob")
    wait_foreign(tab)
    publish_to_both(office, "2")
    other.wait_updates("bob 2", "2")
    post(other, "/login/alice")
    wait_foreign(other)
    if office.kind == "grants":
        tab.wait_updates("alice 1", "1", "alice 2", "2")
    else:
        wait_foreign(tab)
        assert tab.seen() == ["alice 1", "1"]
    assert other.seen() == ["bob 2", "2"]


def test_a_tab_that_slept_meanwhile_gets_nothing_of_the_other_user(office: Office, tab: Tab) -> None:
    sign_in(office, tab, "alice")
    other = tab.new()
    other.visit(office.url)
    other.wait_open()
    tab.run("return 0")
    tab.driver.execute_cdp_cmd("Page.enable", {})
    tab.driver.execute_cdp_cmd("Page.setWebLifecycleState", {"state": "frozen"})
    sign_in(office, other, "bob")
    publish_to_both(office, "1")
    other.wait_updates("bob 1", "1")
    tab.driver.switch_to.window(tab.handle)
    tab.driver.execute_cdp_cmd("Page.setWebLifecycleState", {"state": "active"})
    wait_foreign(tab)
    assert tab.seen() == []
    assert office.topics() == [ALL]


def test_access_that_has_ended_and_is_renewed_is_the_same_users(office: Office, tab: Tab) -> None:
    office.lifetime = 2
    sign_in(office, tab, "alice")
    office.lifetime = 3600
    tab.wait("the end of the first stream", lambda: len(tab.seen("states")) > 2 or tab.seen("updates"))
    tab.wait_open()
    office.publish("orders/alice", "1", private=True)
    tab.wait_updates("1")
    assert "identity-changed" not in [state.get("reason") for state in tab.seen("states")]
