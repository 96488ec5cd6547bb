"""Pages that Chromium freezes, ends and puts away, windows that share nothing, and a service worker."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from flask import Response
from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from websockets.sync.client import connect

from tests.examples.browser import leave, start_chromium
from tests.examples.page_site import Site, Tab, lead
from tests.needs import need

pytestmark = pytest.mark.servers

_WORKER = """
self.addEventListener("install", () => self.skipWaiting());
self.addEventListener("activate", (event) => event.waitUntil(clients.claim()));
let passed = 0;
self.addEventListener("message", (event) => event.source.postMessage(passed));
self.addEventListener("fetch", (event) => {
  passed++;
  event.respondWith(fetch(event.request));
});
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    running = Site(tmp_path_factory.mktemp("site"))
    running.app.add_url_rule("/worker.js", view_func=lambda: Response(_WORKER, mimetype="text/javascript"))
    yield running
    running.close()


@pytest.fixture
def tab(chromium: Callable[[int], list[webdriver.Chrome]], site: Site) -> Iterator[Tab]:
    first = Tab(chromium(1)[0])
    yield first
    first.driver.switch_to.window(first.driver.window_handles[0])
    assert leave([first]) == []
    first.wait_for("connections", site.topics, [])


def open_private(driver: webdriver.Chrome) -> None:
    """Open a window with a profile that is only in memory: the driver has no command for it."""
    address = driver.capabilities["goog:chromeOptions"]["debuggerAddress"]
    about = requests.get(f"http://{address}/json/version", timeout=10).json()
    with connect(about["webSocketDebuggerUrl"]) as browser:

        def call(method: str, **parameters: Any) -> Any:
            browser.send(json.dumps({"id": 1, "method": method, "params": parameters}))
            return json.loads(browser.recv(10))["result"]

        call("Target.createTarget", url="about:blank", **call("Target.createBrowserContext"))


def set_life(tab: Tab, state: str) -> None:
    tab.driver.switch_to.window(tab.handle)
    tab.driver.execute_cdp_cmd("Page.setWebLifecycleState", {"state": state})


def test_a_leader_that_is_frozen_hands_over_and_catches_up(site: Site, tab: Tab) -> None:
    leader = lead(site, tab)
    site.publish("a", "1", private=False)
    tab.wait_updates("1")
    leader.wait_updates("1")
    set_life(leader, "frozen")
    site.publish("a", "2", private=False)
    tab.wait_updates("1", "2")
    set_life(leader, "active")
    leader.wait_updates("1", "2")
    site.publish("a", "3", private=False)
    for one in (tab, leader):
        one.wait_updates("1", "2", "3")
        assert one.seen("gaps") == []
    tab.wait_for("connections", site.topics, [["a"]])


def test_a_leader_that_crashes_is_followed(site: Site, tab: Tab) -> None:
    """A tab that the browser discards ends in this way, too."""
    leader = lead(site, tab)
    site.publish("a", "1", private=False)
    tab.wait_updates("1")
    leader.run("return 0")
    with pytest.raises(WebDriverException, match="crash"):
        leader.driver.execute_cdp_cmd("Page.crash", {})
    site.publish("a", "2", private=False)
    tab.wait_updates("1", "2")
    assert tab.seen("gaps") == []
    tab.wait_for("connections", site.topics, [["a"]])


def test_a_page_of_the_back_forward_cache_gets_what_it_missed_once(site: Site, tmp_path: Path) -> None:
    need("chromium", "chromium-driver")
    driver = start_chromium(tmp_path, "--enable-features=BackForwardCache:enable_same_site/true")
    try:
        tab = Tab(driver)
        tab.enter(f"{site.url}/?topics=a")
        site.publish("a", "1", private=False)
        tab.wait_updates("1")
        tab.run("window.isKept = true")
        driver.get(f"{site.url}/page.js")
        tab.wait_for("connections", site.topics, [])
        site.publish("a", "2", private=False)
        driver.back()
        assert tab.run("return window.isKept")
        tab.wait_updates("1", "2")
        site.publish("a", "3", private=False)
        tab.wait_updates("1", "2", "3")
        assert tab.seen("gaps") == []
    finally:
        driver.quit()


def test_two_profiles_share_nothing(
    site: Site, tab: Tab, chromium: Callable[[int], list[webdriver.Chrome]]
) -> None:
    other = Tab(chromium(2)[1])
    for one in (tab, other):
        one.enter(f"{site.url}/?topics=a")
    assert site.topics() == [["a"], ["a"]]
    site.publish("a", "1", private=False)
    for one in (tab, other):
        one.wait_updates("1")
    assert leave([other]) == []


def test_a_private_window_shares_nothing(site: Site, tab: Tab) -> None:
    tab.enter(f"{site.url}/?topics=a")
    before = set(tab.driver.window_handles)
    open_private(tab.driver)
    tab.wait("the window", lambda: set(tab.driver.window_handles) - before)
    (handle,) = set(tab.driver.window_handles) - before
    private = Tab(tab.driver, handle)
    private.enter(f"{site.url}/?topics=a")
    assert site.topics() == [["a"], ["a"]]
    site.publish("a", "1", private=False)
    for one in (tab, private):
        one.wait_updates("1")
    private.close()
    tab.wait_for("connections", site.topics, [["a"]])


def test_a_service_worker_that_passes_requests_on_breaks_nothing(site: Site, tab: Tab) -> None:
    """The stream, the renewal of the cookie, and another leader."""
    site.lifetime = 3
    tab.visit(f"{site.url}/?topics=a")
    tab.run(
        "const policy = trustedTypes.createPolicy('worker', { createScriptURL: (url) => url });"
        "return navigator.serviceWorker.register(policy.createScriptURL('/worker.js')).then(() => {})"
    )
    try:
        tab.wait("the worker", lambda: tab.run("return Boolean(navigator.serviceWorker.controller)"))
        tab.driver.get(f"{site.url}/sign-in")
        site.renewals = 0
        tab.visit(f"{site.url}/?topics=a")
        leader = tab.new()
        leader.enter(f"{site.url}/?topics=a&refresh=/renew")
        tab.follow()
        tab.wait_open()
        site.publish("a", "1", private=True)
        for one in (tab, leader):
            one.wait_updates("1")
        tab.wait("a renewal", lambda: site.renewals)
        site.publish("a", "2", private=True)
        for one in (tab, leader):
            one.wait_updates("1", "2")
        leader.close()
        site.publish("a", "3", private=True)
        tab.wait_updates("1", "2", "3")
        assert tab.seen("gaps") == []
        tab.wait_for("connections", site.topics, [["a"]])
    finally:
        tab.run(
            "return navigator.serviceWorker.getRegistrations()"
            ".then((all) => Promise.all(all.map((one) => one.unregister())))"
        )
