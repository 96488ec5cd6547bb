"""The JavaScript module in headless Chromium, with a hub and an app that are real."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.common.exceptions import JavascriptException

from tests.examples.browser import leave
from tests.examples.page_site import Site, Tab, lead

pytestmark = pytest.mark.servers


@pytest.fixture(scope="module")
def shared_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    running = Site(tmp_path_factory.mktemp("site"))
    yield running
    running.close()


@pytest.fixture
def own_hub() -> None:
    """For a test that kills the hub, or that depends on all of its history."""


@pytest.fixture
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    """A site without connections: that of the module, but for tests that use ``own_hub``."""
    if "own_hub" in request.fixturenames:
        running = Site(tmp_path)
        yield running
        running.close()
        return
    shared: Site = request.getfixturevalue("shared_site")
    shared.lifetime, shared.renewals = 3600.0, 0
    shared.buffered.clear()
    yield shared
    shared.buffered.set()


@pytest.fixture
def tab(chromium: Callable[[int], list[webdriver.Chrome]], site: Site) -> Iterator[Tab]:
    first = Tab(chromium(1)[0])
    yield first
    first.driver.switch_to.window(first.driver.window_handles[0])
    assert leave([first]) == []
    first.wait_for("connections", site.topics, [])


def put_away_and_back(site: Site, tab: Tab) -> None:
    """The events of a page that is put away and comes back; headless Chromium keeps none."""
    tab.run("dispatchEvent(new PageTransitionEvent('pagehide', { persisted: true }))")
    tab.wait_for("connections", site.topics, [])
    site.publish("a", "2")
    tab.run("dispatchEvent(new PageTransitionEvent('pageshow', { persisted: true }))")


@pytest.mark.parametrize("transport", ["fetch", "websocket"])
def test_open_follows_what_was_missed(site: Site, tab: Tab, transport: str, own_hub: None) -> None:
    for number in range(700):  # more than a page of the history
        site.publish("a", str(number), private=False)
    site.sources.append(site.hub.origin.replace("http", "ws"))
    tab.visit(f"{site.url}/?topics=a")
    tab.run(
        "follow({ lastEventId: 'earliest', transport: arguments[0] });"
        "mercure.addEventListener('state', ({ detail }) => {"
        "  if (detail.state === 'open') window.got = [...seen.updates];"
        "});",
        transport,
    )
    tab.wait_open()
    assert tab.run("return window.got") == [str(number) for number in range(700)]
    site.publish("a", "new")
    tab.wait_for("updates", lambda: tab.seen("updates")[700:], ["new"])


def test_a_page_with_a_strict_policy_gets_updates(site: Site, tab: Tab) -> None:
    tab.enter(f"{site.url}/?topics=a&topics=b")
    site.publish("a", "1")
    site.publish("c", "no")
    site.publish("b", "2")
    tab.wait_updates("1", "2")
    assert site.topics() == [["a", "b"]]
    assert tab.seen("states") == ["connecting", "open"]


def test_the_last_values_come_first_also_of_topics_that_are_added(site: Site, tab: Tab) -> None:
    for name in ("gauge", "other"):
        for data in ("old", "value"):
            site.publish(name, f"{name} {data}")
    tab.visit(f"{site.url}/?topics=a")
    tab.run("follow({ topics: ['gauge'], lastValue: true })")
    tab.wait_updates("gauge value")
    assert tab.seen("gaps") == []
    tab.run("mercure.subscribe('other')")
    tab.wait_updates("gauge value", "other value")
    site.publish("gauge", "gauge live")
    tab.wait_updates("gauge value", "other value", "gauge live")
    tab.run("mercure.close()")


def test_close_ends_everything(site: Site, tab: Tab) -> None:
    tab.enter(f"{site.url}/?topics=a")
    tab.run("mercure.close()")
    tab.wait_for("subscriptions", site.topics, [])
    assert tab.run("return mercure.state") == "closed"
    locks = "return navigator.locks.query().then(({held, pending}) => held.length + pending.length)"
    tab.wait_for("locks", lambda: tab.run(locks), 0)
    with pytest.raises(JavascriptException, match="this connection was closed"):
        tab.run("mercure.subscribe('b')")


def test_two_tabs_share_a_connection(site: Site, tab: Tab) -> None:
    tab.enter(f"{site.url}/?topics=a")
    other = tab.new()
    other.enter(f"{site.url}/?topics=a")
    site.publish("a", "1")
    tab.wait_updates("1")
    other.wait_updates("1")
    assert site.topics() == [["a"]]


@pytest.mark.parametrize("says_so", [True, False], ids=["says that it leaves", "crashes"])
def test_tabs_with_different_topics_share_one_when_updates_tell_their_topic(
    site: Site, tab: Tab, says_so: bool
) -> None:
    tab.enter(f"{site.url}/?topics=a&topic_of=type", types=["a", "b"])
    other = tab.new()
    other.enter(f"{site.url}/?topics=b&topic_of=type", types=["a", "b"])
    site.publish("a", "1", type="a")
    site.publish("b", "2", type="b")
    tab.wait_updates("1")
    other.wait_updates("2")
    tab.wait_for("connections", site.topics, [["a", "b"]])
    if not says_so:
        other.run("BroadcastChannel.prototype.postMessage = () => {}")
    other.close()
    tab.wait_for("connections", site.topics, [["a"]])


def test_the_leader_closes_under_steady_publishing(site: Site, tab: Tab) -> None:
    leader = lead(site, tab)
    with site.steady("a") as sent:
        tab.wait("some updates", lambda: len(tab.seen()) > 50)
        leader.close()
        count = len(sent())
        tab.wait("more updates", lambda: len(tab.seen()) > count + 50)
    tab.wait_for("the last", lambda: tab.seen()[-1], sent()[-1])
    received = tab.seen()
    assert received == sent()[-len(received) :]
    assert tab.seen("gaps") == []


@pytest.mark.usefixtures("own_hub")
def test_the_leader_closes_when_nothing_was_published_yet(site: Site, tab: Tab) -> None:
    """The hub says where a stream begins, so its successor begins there too."""
    site.publish("other", "0")
    leader = lead(site, tab)
    site.hub.kill()  # so that the successor's stream certainly begins later than the update
    leader.close()
    site.hub.start()
    site.publish("a", "1")
    tab.wait_updates("1")


def test_a_leader_that_sleeps_is_replaced(site: Site, tab: Tab) -> None:
    leader = lead(site, tab)
    site.publish("a", "1")
    tab.wait_updates("1")
    # As a suspended page: its lock stays, and it does nothing.
    asleep = 12.0
    leader.run(
        "setTimeout((end) => { while (Date.now() < end); }, 0, Date.now() + 1000 * arguments[0])", asleep
    )
    began = time.monotonic()
    site.publish("a", "2")
    tab.run("dispatchEvent(new Event('online'))")  # otherwise it looks every ten seconds
    tab.wait_updates("1", "2")
    assert time.monotonic() - began < asleep
    leader.wait_updates("1", "2")
    site.publish("a", "3")
    tab.wait_updates("1", "2", "3")
    leader.wait_updates("1", "2", "3")
    tab.wait_for("connections", site.topics, [["a"]])


def test_a_leader_that_was_long_in_the_background_is_replaced(site: Site, tab: Tab) -> None:
    """Browsers stretch the timers of such pages to a minute, so it would be slow to come back."""
    leader = lead(site, tab)
    leads = """
      return navigator.locks.request("probe", async () => {
        const { held } = await navigator.locks.query();
        const me = held.find(({ name }) => name === "probe").clientId;
        return held.some(({ name, clientId }) => name.endsWith("]") && clientId === me);
      });
    """
    assert (leader.run(leads), tab.run(leads)) == (True, False)
    leader.run(
        """
        const now = Date.now;
        Object.defineProperty(document, "visibilityState", { get: () => "hidden" });
        document.dispatchEvent(new Event("visibilitychange"));
        Date.now = () => now() + 300_000;
        """
    )
    with site.steady("a") as sent:
        tab.run("dispatchEvent(new Event('online'))")
        tab.wait("another leader", lambda: tab.run(leads))
        count = len(sent())
        tab.wait("more updates", lambda: len(tab.seen()) > count)
    for one in (tab, leader):
        one.wait_for("updates", one.seen, sent())
    tab.wait_for("connections", site.topics, [["a"]])


def test_topics_are_added_and_taken_away_without_loss(site: Site, tab: Tab) -> None:
    tab.enter(f"{site.url}/?topics=a")
    site.publish("b", "old: b is not subscribed to yet")
    with site.steady("a") as sent:
        tab.wait("some updates", lambda: len(tab.seen()) > 20)
        tab.run("window.off = mercure.subscribe(['b', 'c'])")
        tab.wait_for("connections", site.topics, [["a", "b", "c"]])
        site.publish("b", "b")
        tab.wait("b", lambda: "b" in tab.seen())
        tab.run("off()")
        tab.wait_for("connections", site.topics, [["a"]])
        count = len(sent())
        tab.wait("more updates", lambda: len(tab.seen()) > count)
    tab.wait_for("the last", lambda: tab.seen()[-1], sent()[-1])
    received = [one for one in tab.seen() if one != "b"]
    assert received == sent()[-len(received) :]
    assert tab.seen("gaps") == []


def test_a_listener_for_topics_and_patterns(site: Site, tab: Tab) -> None:
    tab.visit(f"{site.url}/?topic_of=type")
    tab.follow()
    assert tab.run("return mercure.state") == "idle"
    tab.run(
        """
        window.got = [];
        mercure.subscribe("a", ({ data }) => got.push(`a ${data}`));
        const books = { match: "/books/:id", match_type: "urlpattern" };
        mercure.subscribe(books, ({ data }) => got.push(`book ${data}`));
        """
    )
    tab.wait_open()
    site.publish("a", "1", type="a")
    site.publish("/books/7", "2", type="/books/7")
    site.publish("a", "3", type="b")  # of a topic that nobody here has subscribed to, by what it says
    site.publish("a", "4", type="a")
    tab.wait_for("what they got", lambda: tab.run("return got"), ["a 1", "book 2", "a 4"])


def test_an_update_whose_topic_nobody_knows_is_reported(site: Site, tab: Tab) -> None:
    tab.visit(f"{site.url}/?topics=a")
    tab.run("window.own = { topicOf: (update) => update.json().topic }")
    tab.run("follow(undefined, own)")
    tab.wait_open()
    nobody = site.publish("a", {})
    site.publish("a", {"topic": "a"})
    tab.wait_updates('{"topic": "a"}')
    assert tab.seen("problems") == [{"reason": "no-topic", "id": nobody}]


def test_a_token_in_the_header(site: Site, tab: Tab) -> None:
    tab.visit(f"{site.url}/")
    tab.run("window.token = arguments[0]", site.token(subscribe=["a"]))
    tab.run("follow(arguments[0], { topics: ['a'], token: () => window.token })", site.hub.url)
    tab.wait_open()
    site.publish("a", "1", private=True)
    site.publish("a", "2", private=True, type="other")
    site.publish("a", "3")
    tab.wait_updates("1", "3")
    in_a_url = "return performance.getEntriesByType('resource').some((one) => one.name.includes(token))"
    assert tab.run(in_a_url) is False


def test_who_may_not_read_is_told_so(site: Site, tab: Tab) -> None:
    tab.visit(f"{site.url}/?topics=a&refresh=/refuse")
    tab.run("window.token = 'nonsense'")
    tab.run("follow(undefined, { token: () => window.token })")
    tab.wait_state("refused")
    assert site.renewals == 1
    tab.run("window.token = arguments[0]", site.token(subscribe=["a"]))
    tab.wait_open()


@pytest.mark.usefixtures("own_hub")
def test_event_source(site: Site, tab: Tab) -> None:
    tab.enter(f"{site.url}/?topics=a&transport=eventsource", types=["message", "x"])
    other = tab.new()
    other.enter(f"{site.url}/?topics=a&transport=eventsource", types=["y"])
    site.publish("a", "1")
    tab.wait_updates("1")
    # The stream was opened before somebody listened to y, and is opened again for it.
    with site.steady("a") as sent:
        tab.wait("some updates", lambda: len(tab.seen()) > 20)
    site.publish("a", "x", type="x")
    site.publish("a", "y", type="y")
    other.wait_updates("y")
    tab.wait_for("the last", lambda: tab.seen()[-1], "x")
    assert tab.seen() == ["1", *sent(), "x"]
    site.hub.kill()
    tab.wait_state("offline")
    site.hub.start()
    site.publish("a", "2")
    tab.wait_for("the last", lambda: tab.seen()[-1], "2")
    assert tab.seen() == ["1", *sent(), "x", "2"]


def test_the_back_forward_cache(site: Site, tab: Tab) -> None:
    tab.enter(f"{site.url}/?topics=a")
    site.publish("a", "1")
    tab.wait_updates("1")
    put_away_and_back(site, tab)
    tab.wait_updates("1", "2")
    tab.wait_for("connections", site.topics, [["a"]])


def test_without_locks_each_tab_has_its_own(site: Site, tab: Tab) -> None:
    """A page without TLS: browsers give it no Web Locks."""
    tab.visit(f"{site.url}/?topics=a")
    tab.run("Object.defineProperty(navigator, 'locks', { value: undefined })")
    tab.follow()
    tab.wait_open()
    site.publish("a", "1")
    tab.wait_updates("1")
    put_away_and_back(site, tab)
    tab.wait_updates("1", "2")


def test_what_holds_the_stream_back_is_reported(site: Site, tab: Tab) -> None:
    tab.visit(f"{site.url}/")
    tab.follow(f"{site.url}/buffered?match=a", {"heartbeat": 0.5, "fallback": False})
    tab.wait_for("problems", lambda: tab.seen("problems")[:1], [{"reason": "silent"}])
    tab.run("mercure.close()")


def test_a_listener_that_fails_keeps_no_other_from_its_update(site: Site, tab: Tab) -> None:
    tab.visit(f"{site.url}/?topics=a")
    tab.run(
        "addEventListener('error', (event) => { window.failed = event.message; event.preventDefault(); })"
    )
    tab.follow(types=[])
    tab.run("mercure.on('message', () => { throw new Error('of the test'); })")
    tab.run("window.off = mercure.on('message', ({ data }) => seen.updates.push(data))")
    tab.wait_open()
    site.publish("a", "1")
    tab.wait_updates("1")
    assert tab.run("return window.failed")
    tab.run("off()")
    last = site.publish("a", "2")
    tab.wait_for("the last id", lambda: tab.run("return mercure.lastEventId"), last)
    tab.wait_updates("1")


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("{ transport: 'carrier pigeon' }", "the transport is"),
        ("{ transport: 'eventsource', token: () => '' }", "only the transport fetch"),
        ("{ token: '' }", "token is neither a token nor a function"),
        ("{ topics: [''] }", "is no topic"),
        ("{ topics: [{ match: 'a', match_type: 'regexp' }] }", "known are"),
    ],
)
def test_wrong_options_are_refused(site: Site, tab: Tab, option: str, message: str) -> None:
    tab.visit(f"{site.url}/")
    with pytest.raises(JavascriptException, match=message):
        tab.run(f"connect('/hub', {option})")


@pytest.mark.usefixtures("own_hub")
def test_the_hub_is_killed_under_an_open_page(site: Site, tab: Tab) -> None:
    tab.enter(f"{site.url}/?topics=a")
    site.publish("a", "1")
    tab.wait_updates("1")
    site.hub.kill()
    tab.wait_state("offline")
    site.hub.start()
    site.publish("a", "2")
    tab.wait_updates("1", "2")
    assert tab.seen("gaps") == []


def test_a_tab_without_a_connection_says_so(site: Site, tab: Tab) -> None:
    """Tabs that share none, over HTTP/1.1; without WebSockets, which have a limit of their own."""
    options = {"fallback": False, "share": False}
    tab.enter(f"{site.url}/?topics=0", options=options)
    tabs = [tab]
    for number in range(1, 6):
        tabs.append(tab.new())
        tabs[-1].enter(f"{site.url}/?topics={number}", options=options)
    seventh = tab.new()
    seventh.visit(f"{site.url}/?topics=6")
    seventh.follow(options=options)
    seventh.wait_for("problems", lambda: seventh.seen("problems"), [{"reason": "unanswered"}])
    (warning,) = seventh.problems()
    assert "six connections to a host" in warning
    tabs[1].close()
    seventh.wait_open()


def test_the_network_goes_and_comes_back(site: Site, tab: Tab) -> None:
    tab.enter(f"{site.url}/?topics=a")
    network = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    tab.driver.execute_cdp_cmd("Network.enable", {})
    tab.driver.execute_cdp_cmd("Network.emulateNetworkConditions", {"offline": True, **network})
    tab.wait_state("offline")
    site.publish("a", "1")
    tab.driver.execute_cdp_cmd("Network.emulateNetworkConditions", {"offline": False, **network})
    tab.wait_updates("1")
    assert tab.seen("gaps") == []


def test_a_page_that_hears_the_network_is_gone_looks_at_once(site: Site, tab: Tab) -> None:
    """A stream whose network is gone stays open for minutes, as far as the browser tells."""
    tab.enter(f"{site.url}/?topics=a")
    site.publish("a", "1")
    tab.wait_updates("1")
    tab.run("dispatchEvent(new Event('offline'))")
    tab.wait("an attempt", lambda: tab.seen("states")[-3:] == ["offline", "connecting", "open"])
    site.publish("a", "2")
    tab.wait_updates("1", "2")
    assert tab.seen("gaps") == []


@pytest.mark.parametrize("count", [1, 2])
def test_a_page_that_comes_back_without_a_place_learns_that_it_may_miss_something(
    site: Site, tab: Tab, count: int
) -> None:
    """An EventSource does not tell where the hub is, and no update has come yet."""
    tab.enter(f"{site.url}/?topics=a&transport=eventsource")
    if count == 2:
        other = tab.new()
        other.enter(f"{site.url}/?topics=a&transport=eventsource")
        tab.run("dispatchEvent(new PageTransitionEvent('pagehide', { persisted: true }))")
        other.wait_open()
        tab.run("dispatchEvent(new PageTransitionEvent('pageshow', { persisted: true }))")
    else:
        put_away_and_back(site, tab)
    gap = {"reason": "position", "requested": None, "resumed": None}
    tab.wait_for("gaps", lambda: tab.seen("gaps")[:1], [gap])  # and again, when the tabs change places again


def test_a_page_resumes_where_its_content_ends(site: Site, tab: Tab) -> None:
    first = site.publish("a", "1")
    site.publish("a", "2")
    tab.visit(f"{site.url}/?topics=a&last_event_id={first}")
    tab.follow()
    tab.wait_updates("2")
    other = tab.new()
    other.visit(f"{site.url}/?topics=a&last_event_id={first}")
    other.follow()  # the connection that it joins is past that
    other.wait_updates("2")
    tab.wait_for("connections", site.topics, [["a"]])
    site.publish("a", "3")
    tab.wait_updates("2", "3")
    other.wait_updates("2", "3")


@pytest.mark.usefixtures("own_hub")
def test_lost_history_is_reported(site: Site, tab: Tab) -> None:
    site.publish("a", "1")
    tab.visit(f"{site.url}/?topics=a&last_event_id=urn:gone")
    tab.follow()
    gap = {"reason": "start", "requested": "urn:gone", "resumed": "earliest"}
    tab.wait_for("gaps", lambda: tab.seen("gaps"), [gap])
    tab.wait_updates("1")
    (warning,) = tab.problems()
    assert "urn:gone" in warning
    assert "mercure.last_event_id()" in warning


def test_a_page_that_begins_where_the_hub_is_misses_nothing(
    site: Site, tab: Tab, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.publish("quiet", "1")
    site.publish("a", "before")
    monkeypatch.setattr(site, "rendering", lambda: site.publish("quiet", "2"))
    tab.visit(f"{site.url}/?topics=quiet&position=1")
    site.publish("quiet", "3")
    tab.follow()
    tab.wait_updates("2", "3")
    assert tab.seen("gaps") == []


@pytest.mark.usefixtures("own_hub")
def test_a_page_that_is_loaded_without_its_hub_learns_that_it_may_miss_something(
    site: Site, tab: Tab
) -> None:
    site.publish("a", "1")
    site.hub.kill()
    tab.visit(f"{site.url}/?topics=a&position=1")
    tab.follow()
    tab.wait_state("offline")
    site.hub.start()
    site.publish("a", "2")
    tab.wait_for("reasons", lambda: [one["reason"] for one in tab.seen("gaps")], ["position"])


@pytest.mark.usefixtures("own_hub")
def test_history_that_is_lost_while_a_page_is_open(site: Site, tab: Tab) -> None:
    tab.enter(f"{site.url}/?topics=a")
    first = site.publish("a", "1")
    tab.wait_updates("1")
    site.hub.kill()
    site.hub.forget()
    site.hub.start()
    tab.wait_for(
        "gaps",
        lambda: tab.seen("gaps"),
        [{"reason": "history", "requested": first, "resumed": "earliest"}],
    )


def test_a_page_that_begins_at_a_wrong_place_does_not_load_itself_for_ever(site: Site, tab: Tab) -> None:
    tab.visit(f"{site.url}/?topics=a&title=reloading&last_event_id=urn:gone")
    noted = "return sessionStorage.getItem('mercure loaded anew') !== null"
    tab.wait("another loading", lambda: tab.run(noted))
    tab.wait("the gap", lambda: tab.run("return Boolean(window.seen) && seen.gaps.length") == 1)
    tab.run("window.isStill = true")
    site.publish("a", "last")
    tab.wait("the update", lambda: tab.seen()[-1:] == ["last"])
    assert tab.run("return window.isStill")
    tab.run("sessionStorage.clear()")
    assert all("urn:gone" in warning for warning in tab.problems())


def test_the_cookie_is_renewed_when_the_token_ends(site: Site, tab: Tab) -> None:
    site.lifetime = 3
    tab.driver.get(f"{site.url}/sign-in")
    tab.enter(f"{site.url}/?topics=a&refresh=/renew")
    site.publish("a", "1", private=True)
    tab.wait_updates("1")
    states = len(tab.seen("states"))
    # Anonymous subscribers are let in here: only the private update shows that there is a cookie again.
    tab.wait("it is open again", lambda: tab.seen("states")[states:][-1:] == ["open"])
    site.publish("a", "2")
    tab.wait_updates("1", "2")


def test_the_cookie_is_renewed_before_the_token_ends(site: Site, tab: Tab) -> None:
    tab.driver.get(f"{site.url}/sign-in")
    tab.enter(f"{site.url}/?topics=a", options={"refresh": "/renew", "refreshAfter": 1})
    with site.steady("a") as sent:
        tab.wait("two renewals", lambda: site.renewals >= 2)
        tab.wait("updates", lambda: len(tab.seen()) > 50)
    tab.wait_for("the last", lambda: tab.seen()[-1], sent()[-1])
    received = tab.seen()
    assert received == sent()[-len(received) :]
    assert tab.seen("states") == ["connecting", "open"]
