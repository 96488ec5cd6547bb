"""The JavaScript module behind proxies that hold event streams back and let WebSockets through."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from selenium import webdriver

from tests.examples.browser import leave
from tests.examples.page_site import Site, Tab
from tests.flask_mercure.proxies import proxy

pytestmark = pytest.mark.servers

SOON = {"heartbeat": 0.5}  # so that silence is noticed soon


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    running = Site(tmp_path)
    yield running
    running.close()


@pytest.fixture
def tab(chromium: Callable[[int], list[webdriver.Chrome]], site: Site) -> Iterator[Tab]:
    first = Tab(chromium(1)[0])
    yield first
    first.driver.switch_to.window(first.driver.window_handles[0])
    first.run("sessionStorage.clear()")
    assert leave([first]) == []


@contextmanager
def front(site: Site, *, passes_head: bool = True, holds: bool | Callable[[], bool] = True) -> Iterator[str]:
    """A proxy before the hub; gives the hub's URL there, with a topic."""
    with proxy(site.hub.port, holds=holds, passes_head=passes_head) as port:
        site.sources = [f"http://localhost:{port}", f"ws://localhost:{port}"]
        yield f"http://localhost:{port}/.well-known/mercure?match=a"


def transport(tab: Tab) -> object:
    return tab.run("return mercure.transport")


def state(tab: Tab) -> object:
    return tab.run("return mercure.state")


def go_over(site: Site, tab: Tab, url: str) -> None:
    """Visit a page, until it is subscribed with a socket."""
    tab.visit(f"{site.url}/")
    tab.follow(url, SOON)
    tab.wait_for("transport", lambda: transport(tab), "websocket")
    tab.wait_open()


def failed_sockets(tab: Tab) -> int:
    """How many the console has; they are no problem of the page then."""
    messages = tab.problems()
    assert all("WebSocket connection to" in one for one in messages), messages
    return len(messages)


@pytest.mark.parametrize(
    ("chosen", "passes_head", "reason"),
    [("fetch", True, "silent"), ("fetch", False, "unanswered"), ("eventsource", False, "unanswered")],
)
def test_a_page_goes_over_with_nothing_lost_and_nothing_twice(
    site: Site, tab: Tab, chosen: str, passes_head: bool, reason: str
) -> None:
    first = site.publish("a", "before the page")
    with front(site, passes_head=passes_head) as url:
        tab.visit(f"{site.url}/")
        with site.steady("a", every=0.05) as sent:
            tab.follow(url, {"transport": chosen, "lastEventId": first, **SOON})
            tab.wait("some updates", lambda: len(tab.seen()) > 50)
            count = len(sent())
            tab.wait("later ones", lambda: len(tab.seen()) > count)
        tab.wait_updates(*sent())
        assert tab.seen("problems") == [{"reason": reason}]
        assert tab.seen("gaps") == []
        assert tab.seen("states") == ["connecting", "open"] * (2 if passes_head else 1)
        assert transport(tab) == "websocket"


def test_a_network_that_begins_to_hold_streams_back(site: Site, tab: Tab) -> None:
    holding = threading.Event()
    with front(site, holds=holding.is_set) as url:
        tab.enter(f"{site.url}/", url, SOON)
        with site.steady("a") as sent:
            tab.wait("some updates", lambda: len(tab.seen()) > 20)
            assert transport(tab) == "fetch"
            holding.set()
            tab.run("mercure.renewed()")  # to another stream, while the first one runs
            tab.wait_for("transport", lambda: transport(tab), "websocket")
            tab.wait_open()
            count = len(sent())
            tab.wait("later ones", lambda: len(tab.seen()) > count)
        tab.wait_for("the last", lambda: tab.seen()[-1], sent()[-1])
        assert tab.seen() == sent()
        assert tab.seen("gaps") == []


def test_the_next_page_and_the_other_tabs_know_it(site: Site, tab: Tab) -> None:
    with front(site) as url:
        tab.visit(f"{site.url}/")
        leader = tab.new()
        go_over(site, leader, url)
        tab.follow(url, SOON)
        tab.wait_open()
        with site.steady("a") as sent:
            tab.wait("some updates", lambda: len(tab.seen()) > 20)
            leader.close()
            count = len(sent())
            tab.wait("later ones", lambda: len(tab.seen()) > count)
        tab.wait_for("the last", lambda: tab.seen()[-1], sent()[-1])
        assert tab.seen() == sent()
        tab.enter(f"{site.url}/", url, SOON)
        assert transport(tab) == "websocket"
        site.publish("a", "on the next page")
        tab.wait_updates("on the next page")
        assert tab.seen("problems") == []


def test_event_streams_are_tried_again_after_an_hour(site: Site, tab: Tab) -> None:
    holding = threading.Event()
    holding.set()
    with front(site, holds=holding.is_set) as url:
        go_over(site, tab, url)
        site.publish("a", "1")
        tab.wait_updates("1")
        holding.clear()
        tab.run("const now = Date.now; Date.now = () => now() + 3_600_000")
        site.publish("a", "2")
        tab.wait_updates("1", "2")  # the socket stays until it ends
        site.hub.kill()
        tab.wait_for("state", lambda: state(tab), "offline")
        site.hub.start()
        tab.wait_open()
        site.publish("a", "3")
        tab.wait_updates("1", "2", "3")
        assert transport(tab) == "fetch"
        assert tab.seen("gaps") == []


def test_the_hub_is_killed_under_a_socket(site: Site, tab: Tab) -> None:
    with front(site) as url:
        go_over(site, tab, url)
        with site.steady("a") as sent:
            tab.wait("some updates", lambda: len(tab.seen()) > 20)
        # The page tries three times before it gives sockets up; the hub has to be back by then.
        site.publish("a", "be patient", retry=5000)
        before = [*sent(), "be patient"]
        tab.wait_updates(*before)
        site.hub.kill()
        tab.wait_for("state", lambda: state(tab), "offline")
        site.hub.start()
        site.publish("a", "after")
        tab.wait_updates(*before, "after")
        assert tab.seen("gaps") == []
        assert transport(tab) == "websocket"
        failed_sockets(tab)


def test_a_socket_that_does_not_come_back_is_given_up(site: Site, tab: Tab) -> None:
    """An event stream can tell what the hub answers; a socket cannot."""
    holding = threading.Event()
    holding.set()
    with front(site, holds=holding.is_set) as url:
        go_over(site, tab, url)
        site.publish("a", "1")
        tab.wait_updates("1")
        site.hub.kill()
        tab.wait_for("transport", lambda: transport(tab), "fetch")
        assert failed_sockets(tab) == 3
        holding.clear()
        site.hub.start()
        site.publish("a", "2")
        tab.wait_updates("1", "2")


def test_a_hub_without_sockets(tmp_path: Path, tab: Tab) -> None:
    holding = threading.Event()
    holding.set()
    (tmp_path / "other").mkdir()
    site = Site(tmp_path / "other", {"MERCURE_WEBSOCKET": "0"})
    try:
        with front(site, holds=holding.is_set) as url:
            tab.visit(f"{site.url}/")
            tab.follow(url, SOON)
            tab.wait("a second stream", lambda: tab.seen("states").count("open") == 2)
            # It is held back too, and no second socket is tried.
            tab.wait("it is silent", lambda: tab.seen("problems") == [{"reason": "silent"}] * 2)
            assert (transport(tab), failed_sockets(tab)) == ("fetch", 1)
            assert tab.seen("states") == ["connecting", "open", "connecting", "offline", "connecting", "open"]
            holding.clear()
            tab.run("mercure.renewed()")
            site.publish("a", "1")
            tab.wait_updates("1")
            tab.run("mercure.close()")
    finally:
        site.close()


def test_the_cookie_is_renewed_when_the_token_ends(site: Site, tab: Tab) -> None:
    site.lifetime = 4
    with front(site) as url:
        tab.visit(f"{site.url}/")
        tab.run("return fetch('/sign-in').then(() => undefined)")
        tab.follow(url, {"refresh": "/renew", **SOON})
        tab.wait_for("transport", lambda: transport(tab), "websocket")
        tab.wait_open()
        site.publish("a", "1", private=True)
        tab.wait_updates("1")
        tab.wait("the renewal", lambda: site.renewals == 1 and state(tab) == "open")
        site.publish("a", "2", private=True)
        tab.wait_updates("1", "2")
        # The socket was ended with 1008: nothing was waited for.
        assert tab.seen("states") == ["connecting", "open"] * 3
        assert tab.seen("gaps") == []


def test_the_token_ends_and_nobody_renews_it(site: Site, tab: Tab) -> None:
    site.lifetime = 3
    with front(site) as url:
        tab.visit(f"{site.url}/")
        tab.run("return fetch('/sign-in').then(() => undefined)")
        tab.follow(url, {"transport": "websocket"})
        tab.wait("it is told", lambda: tab.seen("states")[:3] == ["connecting", "open", "refused"])


def test_the_cookie_is_renewed_before_the_token_ends(site: Site, tab: Tab) -> None:
    with front(site) as url:
        tab.visit(f"{site.url}/")
        tab.run("return fetch('/sign-in').then(() => undefined)")
        with site.steady("a") as sent:
            tab.follow(url, {"transport": "websocket", "refresh": "/renew", "refreshAfter": 1})
            tab.wait("two renewals", lambda: site.renewals >= 2)
            count = len(sent())
            tab.wait("later ones", lambda: tab.seen()[-1:] and int(tab.seen()[-1]) > count)
        tab.wait_for("the last", lambda: tab.seen()[-1], sent()[-1])
        received = tab.seen()
        assert received == sent()[-len(received) :]
        assert tab.seen("states") == ["connecting", "open"]


def test_a_token_cannot_go_over(site: Site, tab: Tab) -> None:
    with front(site) as url:
        tab.visit(f"{site.url}/")
        tab.run("window.token = arguments[0]", site.token(subscribe=["a"]))
        tab.run("follow(arguments[0], { token: () => window.token, heartbeat: 0.5 })", url)
        tab.wait_for("problems", lambda: tab.seen("problems"), [{"reason": "silent"}])
        assert transport(tab) == "fetch"
        (warning,) = tab.problems()
        assert "a WebSocket cannot send the token" in warning
        assert tab.run("return window.token") not in warning


def test_it_can_be_forbidden(site: Site, tab: Tab) -> None:
    with front(site) as url:
        tab.visit(f"{site.url}/")
        tab.follow(url, {"fallback": False, **SOON})
        tab.wait_for("problems", lambda: tab.seen("problems"), [{"reason": "silent"}])
        assert transport(tab) == "fetch"


def test_a_policy_without_sockets(site: Site, tab: Tab) -> None:
    with front(site) as url:
        site.sources = [one for one in site.sources if one.startswith("http")]
        tab.visit(f"{site.url}/")
        tab.follow(url, SOON)
        tab.wait("a second stream", lambda: tab.seen("states").count("open") == 2)
        assert transport(tab) == "fetch"
        assert any("Content Security Policy" in one for one in tab.problems())


def test_chosen_in_the_template_with_types_and_retry(site: Site, tab: Tab) -> None:
    site.sources = [site.hub.origin.replace("http", "ws", 1)]
    tab.enter(f"{site.url}/?topics=a&transport=websocket", types=["message", "x"])
    site.publish("a", "two\nlines", retry=1)
    site.publish("a", "\U0001f600", type="x")
    last = site.publish("a", "no", type="y")
    tab.wait_for("the last id", lambda: tab.run("return mercure.lastEventId"), last)
    assert tab.seen() == ["two\nlines", "\U0001f600"]
