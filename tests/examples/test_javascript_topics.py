"""The JavaScript module in Chromium, where the hub names the topics of updates and where it does not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from selenium import webdriver
from selenium.common.exceptions import JavascriptException

from tests.examples.browser import leave
from tests.examples.page_site import Site, Tab

pytestmark = pytest.mark.servers

# Another hub does not know the parameter, so that it names no topics.
_ANOTHER_HUB = """
const request = window.fetch;
window.fetch = (url, options) => {
  const asked = new URL(url);
  asked.searchParams.delete("with");
  return request(asked, options);
};
"""

_LISTEN = """
window.got = [];
window.stop = arguments[0].map((topic) => {
  const name = typeof topic === "string" ? topic : topic.match;
  return module.subscribe(topic, ({ topics, data }) => got.push([name, topics, data]));
});
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    running = Site(tmp_path_factory.mktemp("site"))
    yield running
    running.close()


@pytest.fixture
def tab(chromium: Callable[[int], list[webdriver.Chrome]], site: Site) -> Iterator[Tab]:
    first = Tab(chromium(1)[0])
    yield first
    first.driver.switch_to.window(first.driver.window_handles[0])
    if not first.driver.current_url.startswith("http"):
        first.driver.get(site.url)
    first.run("localStorage.clear()")
    assert leave([first]) == []
    first.wait_for("connections", site.topics, [])


def got(tab: Tab) -> Any:
    return tab.run("return got")


def pattern(value: str) -> dict[str, str]:
    return {"match": value, "match_type": "urlpattern"}


# -- the page's one connection -------------------------------------------------------------------------------


def test_the_page_has_one_connection(site: Site, tab: Tab) -> None:
    tab.visit(f"{site.url}/?topics=a")
    tab.run(
        """
        window.seen = { updates: [], states: [], gaps: [], problems: [] };
        module.on("message", ({ data }) => seen.updates.push(data));
        module.subscribe("b", ({ data }) => seen.updates.push(`b ${data}`));
        window.mercure = connect();
        """
    )
    assert tab.run("return connect() === mercure && connect({}) === mercure") is True
    assert tab.run("return connect('/hub', { share: false }) !== mercure") is True
    tab.wait_open()
    site.publish("a", "1")
    site.publish("b", "2")
    tab.wait_updates("1", "2", "b 2")
    assert site.topics() == [["a", "b"]]


def test_options_belong_to_the_first_call(site: Site, tab: Tab) -> None:
    tab.visit(f"{site.url}/?topics=a")
    tab.run("window.mercure = connect({ heartbeat: 20 })")
    with pytest.raises(JavascriptException, match="its first call"):
        tab.run("connect({ heartbeat: 30 })")
    tab.run("mercure.close()")
    assert tab.run("window.next = connect({ heartbeat: 30 }); return next !== mercure && next === connect()")


def test_a_page_without_a_configuration_is_told_so(site: Site, tab: Tab) -> None:
    tab.visit(f"{site.url}/?topics=a")
    tab.run("document.querySelector('[data-mercure]').remove()")
    with pytest.raises(JavascriptException, match="use mercure_script"):
        tab.run("module.on('message', () => {})")


# -- a hub that names topics ---------------------------------------------------------------------------------


@pytest.mark.parametrize("transport", ["fetch", "websocket"])
def test_tabs_with_different_topics_share_a_connection_and_do_not_mix_updates(
    site: Site, tab: Tab, transport: str
) -> None:
    site.sources = [site.hub.origin.replace("http", "ws", 1)]
    tab.enter(f"{site.url}/?topics=a&transport={transport}")
    other = tab.new()
    other.enter(f"{site.url}/?topics=b&transport={transport}")
    tab.wait_for("connections", site.topics, [["a", "b"]])
    site.publish("a", "1")
    site.publish("b", "2")
    site.publish(["a", "b"], "3")
    site.publish(["secret", "a"], "4")
    tab.wait_updates("1", "3", "4")
    other.wait_updates("2", "3")
    other.close()
    tab.wait_for("connections", site.topics, [["a"]])


def test_the_next_leader_has_the_topics_of_all(site: Site, tab: Tab) -> None:
    tab.visit(f"{site.url}/?topics=a")
    leader = tab.new()
    leader.enter(f"{site.url}/?topics=b")
    tab.follow()
    tab.wait_open()
    with site.steady("a") as sent:
        tab.wait("some updates", lambda: len(tab.seen()) > 20)
        leader.close()
        count = len(sent())
        tab.wait("more updates", lambda: len(tab.seen()) > count)
    tab.wait_for("the last", lambda: tab.seen()[-1], sent()[-1])
    assert tab.seen() == sent()
    assert tab.seen("gaps") == []


def test_listeners_get_the_updates_of_their_topics(site: Site, tab: Tab) -> None:
    tab.visit(f"{site.url}/")
    tab.run(_LISTEN, ["a", pattern("/books/:id"), "*"])
    tab.run("window.mercure = connect()")
    tab.wait_open()
    for topics in ("a", "/books/7", ["/books/8", "a", "other"]):
        site.publish(topics, "x")
    expected = [
        ["a", ["a"], "x"],
        ["*", ["a"], "x"],
        ["/books/:id", ["/books/7"], "x"],
        ["*", ["/books/7"], "x"],
        ["a", ["a"], "x"],
        ["/books/:id", ["/books/8"], "x"],
        ["*", ["/books/8", "a", "other"], "x"],
    ]
    tab.wait_for("what they got", lambda: got(tab), expected)
    assert len(site.topics()) == 1
    tab.run("stop[0](); stop[2](); stop[2]()")
    tab.wait_for("connections", site.topics, [["/books/:id"]])
    site.publish("a", "no")
    site.publish("/books/9", "last")
    tab.wait_for("what they got", lambda: got(tab)[7:], [["/books/:id", ["/books/9"], "last"]])


@pytest.mark.parametrize("tabs", [1, 2])
def test_a_subscription_begins_at_its_own_position(site: Site, tab: Tab, tabs: int) -> None:
    """In a page that is connected already: what it missed comes first, then what is new, and each once."""
    before = site.publish("other", "0")
    tab.visit(f"{site.url}/?topics=a")
    if tabs == 2:
        tab.new().enter(f"{site.url}/?topics=b")
    tab.follow()
    tab.wait_open()
    with site.steady("a") as sent:
        tab.wait("some updates", lambda: len(tab.seen()) > 20)
        tab.run("window.got = [];")
        tab.run("mercure.subscribe('a', ({ data }) => got.push(data), { lastEventId: arguments[0] })", before)
        tab.wait("more updates", lambda: len(got(tab)) > 60)
        tab.wait_for("connections", lambda: len(site.topics()), 1)
        count = len(sent())
        tab.wait("still more", lambda: len(got(tab)) > count)
    tab.wait_for("all", lambda: got(tab), sent())
    tab.wait_for("the others", tab.seen, sent()[-len(tab.seen()) :])
    assert tab.seen("gaps") == []


def test_all_updates_of_a_later_subscription_reach_the_listeners_to_types(site: Site, tab: Tab) -> None:
    tab.enter(f"{site.url}/?topics=a")
    before = site.publish("other", "0")
    site.publish("b", "1")
    site.publish("b", "2")
    tab.run("mercure.subscribe('b', null, { lastEventId: arguments[0] })", before)
    tab.wait_updates("1", "2")
    tab.wait_for("connections", site.topics, [["a", "b"]])
    site.publish("b", "3")
    tab.wait_updates("1", "2", "3")


def test_one_that_begins_early_does_not_take_the_others_along(site: Site, tab: Tab) -> None:
    site.publish("early", "1")
    site.publish("a", "old")
    tab.visit(f"{site.url}/")
    tab.run(
        """
        window.got = [];
        module.subscribe("early", ({ data }) => got.push(data), { lastEventId: "earliest" });
        module.subscribe("a", ({ data }) => got.push(data));
        window.mercure = connect();
        """
    )
    tab.wait_for("the early one", lambda: got(tab), ["1"])
    tab.wait_for("connections", site.topics, [["a", "early"]])
    tab.wait_open()
    site.publish("a", "2")
    tab.wait_for("all", lambda: got(tab), ["1", "2"])


def test_a_lost_position_of_a_subscription_is_a_gap(site: Site, tab: Tab) -> None:
    tab.enter(f"{site.url}/?topics=a")
    tab.run("mercure.subscribe('b', () => {}, { lastEventId: 'urn:gone' })")
    gap = {"reason": "history", "requested": "urn:gone", "resumed": "earliest"}
    tab.wait_for("gaps", lambda: tab.seen("gaps"), [gap])
    tab.wait_for("connections", site.topics, [["a", "b"]])


# The page's clock is faster, and there is no network for streams that begin after an update.
_NO_NETWORK_FOR = """
const [position, times] = arguments;
const [request, timeout] = [window.fetch, setTimeout];
window.setTimeout = (action, wait = 0) => timeout(action, wait / times);
window.isAway = true;
window.fetch = (url, options) => {
  const isHit = isAway && new URL(url).searchParams.get("last_event_id") === position;
  return isHit ? Promise.reject(new TypeError("no network")) : request(url, options);
};
"""


def test_what_a_subscription_missed_comes_however_late(site: Site, tab: Tab) -> None:
    """Its own stream finds the hub much later than the one that it will share."""
    before = site.publish("other", "0")
    site.publish("b", "1")
    tab.enter(f"{site.url}/?topics=a")
    tab.run(_NO_NETWORK_FOR, before, 20)
    tab.run("window.got = []")
    tab.run("mercure.subscribe('b', ({ data }) => got.push(data), { lastEventId: arguments[0] })", before)
    tab.wait_for("connections", site.topics, [["a", "b"]])
    site.publish("b", "2")
    tab.run("return new Promise((resolve) => setTimeout(resolve, 20_000))")
    assert got(tab) == []
    tab.run("isAway = false")
    tab.wait_for("all", lambda: got(tab), ["1", "2"])
    tab.wait_for("connections", site.topics, [["a", "b"]])


def test_what_a_page_missed_comes_however_late(site: Site, tab: Tab) -> None:
    """The same for a page that begins before the stream that another tab has."""
    before = site.publish("other", "0")
    site.publish("b", "1")
    tab.enter(f"{site.url}/?topics=b")
    other = tab.new()
    other.visit(f"{site.url}/")
    other.run(_NO_NETWORK_FOR, before, 20)
    other.follow(None, {"topics": ["b"], "lastEventId": before})
    other.wait("an attempt", lambda: "offline" in other.seen("states"))
    site.publish("b", "2")
    other.run("return new Promise((resolve) => setTimeout(resolve, 20_000))")
    assert other.seen() == []
    other.run("isAway = false")
    other.wait_updates("1", "2")
    tab.wait_updates("2")
    tab.wait_for("connections", site.topics, [["b"]])


def test_access_that_is_renewed_while_topics_change(site: Site, tab: Tab) -> None:
    """The stream with the new topics was opened before, with what the page had then."""
    tab.enter(f"{site.url}/?topics=a")
    tab.run(
        """
        window.streams = 0;
        const request = window.fetch;
        window.fetch = async (...given) => {
          const isFirst = ++streams === 1;
          const response = await request(...given);
          if (isFirst) setTimeout(() => mercure.renewed(), 100);
          return response;
        };
        mercure.subscribe("b");
        """
    )
    with site.steady("b", every=1.5) as sent:
        tab.wait_for("streams", lambda: tab.run("return streams"), 2)
        tab.wait_for("connections", site.topics, [["a", "b"]])
    tab.wait("the last", lambda: sent()[-1:] == tab.seen()[-1:])
    assert tab.seen() == sent()[-len(tab.seen()) :]


@pytest.mark.parametrize("is_begun", [True, False])
def test_the_end_of_the_connection_is_told_to_those_who_have_one_of_their_own(
    site: Site, tab: Tab, is_begun: bool
) -> None:
    at_another_hub(tab, f"{site.url}/?topics=a")
    tab.run("window.source = new module.EventSource(arguments[0])", f"{site.hub.url}?match=b")
    if is_begun:
        tab.wait_for("connections", site.topics, [["a", "b"], ["b"]])
        tab.wait_for("state", lambda: tab.run("return source.readyState"), 1)
    tab.run(
        """
        if (arguments[0]) return module.connect().close();
        source.close();
        window.source = new module.EventSource(source.url);
        module.connect().close();
        """,
        is_begun,
    )
    tab.wait_for("state", lambda: tab.run("return source.readyState"), 2)


def test_tabs_have_a_second_connection_when_one_has_no_room(site: Site, tab: Tab) -> None:
    """A hub takes a hundred matchers in one request."""
    tabs = [tab, tab.new()]
    for number, one in enumerate(tabs):
        one.visit(f"{site.url}/")
        one.follow(options={"topics": [f"{number}-{topic}" for topic in range(60)]})
        one.wait_open()
    tab.wait_for("connections", lambda: [len(topics) for topics in site.topics()], [60, 60])
    for number, one in enumerate(tabs):
        site.publish(f"{number}-7", str(number))
        one.wait_updates(str(number))
        assert one.seen("problems") == []


def test_a_pattern_that_is_none_is_refused_at_once(site: Site, tab: Tab) -> None:
    tab.enter(f"{site.url}/?topics=a")
    with pytest.raises(JavascriptException, match="URLPattern"):
        tab.run("mercure.subscribe({ match: '/a/:', match_type: 'urlpattern' })")
    site.publish("a", "1")
    tab.wait_updates("1")


# -- where only the hub can tell -----------------------------------------------------------------------------


def without_patterns(tab: Tab) -> None:
    tab.run("window.URLPattern = undefined")


def test_a_browser_without_url_patterns(site: Site, tab: Tab) -> None:
    tab.visit(f"{site.url}/?topics=a")
    without_patterns(tab)
    tab.run(_LISTEN, ["a", pattern("/books/:id")])
    tab.follow()
    tab.wait_open()
    tab.wait_for("connections", site.topics, [["/books/:id"], ["/books/:id", "a"]])
    site.publish("a", "1")
    site.publish("/books/7", "2")
    expected = [["a", ["a"], "1"], ["/books/:id", ["/books/7"], "2"]]
    tab.wait_for("what they got", lambda: got(tab), expected)
    tab.wait_updates("1", "2")


# -- other hubs ----------------------------------------------------------------------------------------------


def at_another_hub(tab: Tab, page: str, types: object = None) -> None:
    tab.visit(page)
    tab.run(_ANOTHER_HUB)
    tab.follow(types=types)
    tab.wait_open()


def test_tabs_of_another_hub_share_a_connection_if_their_topics_are_the_same(site: Site, tab: Tab) -> None:
    at_another_hub(tab, f"{site.url}/?topics=a")
    same, other = tab.new(), tab.new()
    at_another_hub(same, f"{site.url}/?topics=a")
    at_another_hub(other, f"{site.url}/?topics=b")
    tab.wait_for("connections", site.topics, [["a"], ["b"]])
    site.publish("a", "1")
    site.publish("b", "2")
    site.publish(["a", "b"], "3")
    tab.wait_updates("1", "3")
    same.wait_updates("1", "3")
    other.wait_updates("2", "3")
    assert [one.seen("problems") for one in (tab, same, other)] == [[], [], []]
    assert [one.seen("states")[-1] for one in (tab, same, other)] == ["open"] * 3


def test_tabs_part_when_they_learn_that_the_hub_names_no_topics(site: Site, tab: Tab) -> None:
    """They begin together, as at this project's hub, and lose nothing."""
    other = tab.new()
    position = site.publish("x", "0")
    for one, topic in ((tab, "a"), (other, "b")):
        one.visit(f"{site.url}/?topics={topic}&last_event_id={position}")
        one.run(_ANOTHER_HUB)
    site.publish("a", "1")
    site.publish("b", "2")
    tab.follow()
    other.follow()
    tab.wait_updates("1")
    other.wait_updates("2")
    tab.wait_for("connections", site.topics, [["a"], ["b"]])
    site.publish("b", "3")
    other.wait_updates("2", "3")
    assert tab.seen() == ["1"]
    remembered = "return Object.keys(localStorage).filter((key) => key.startsWith('mercure without')).length"
    assert tab.run(remembered) == 1
    # The hub was replaced by one that names them.
    tab.enter(f"{site.url}/?topics=a")
    tab.wait_for("what is remembered", lambda: tab.run(remembered), 0)


def test_listeners_at_another_hub_have_connections_of_their_own(site: Site, tab: Tab) -> None:
    tab.visit(f"{site.url}/")
    tab.run(_ANOTHER_HUB)
    tab.run(_LISTEN, ["a"])
    tab.follow()
    tab.wait_open()
    site.publish("a", "1")
    tab.wait_for("what it got", lambda: got(tab), [["a", [], "1"]])
    assert site.topics() == [["a"]]  # alone, it needs none
    tab.run("module.subscribe('b', ({ data }) => got.push(['b', [], data]))")
    tab.wait_for("connections", site.topics, [["a"], ["a", "b"], ["b"]])
    with site.steady("a") as sent:
        tab.wait("some updates", lambda: len(got(tab)) > 20)
    site.publish("b", "last")
    tab.wait_for("the last", lambda: got(tab)[-1], ["b", [], "last"])
    tab.wait_for("all", lambda: got(tab)[1:-1], [["a", [], number] for number in sent()])
    tab.wait_updates("1", *sent(), "last")


def test_an_event_source_shows_no_topics(site: Site, tab: Tab) -> None:
    tab.enter(f"{site.url}/?topics=a&transport=eventsource")
    other = tab.new()
    other.enter(f"{site.url}/?topics=b&transport=eventsource")
    site.publish("a", "1")
    site.publish("b", "2")
    tab.wait_updates("1")
    other.wait_updates("2")
    assert site.topics() == [["a"], ["b"]]
    tab.run(_LISTEN, ["c"])
    tab.wait_for("connections", site.topics, [["a", "c"], ["b"], ["c"]])
    site.publish("c", "3")
    tab.wait_for("what it got", lambda: got(tab), [["c", [], "3"]])


def test_listeners_to_the_same_topics_of_another_hub_share_a_connection(site: Site, tab: Tab) -> None:
    site.publish("alone", "0", private=False)
    tab.visit(f"{site.url}/?topics=a")
    tab.run(_ANOTHER_HUB)
    tab.run(
        """
        follow();
        window.got = [[], [], []];
        const begin = { lastEventId: "earliest" };
        for (const some of got) module.subscribe("alone", ({ data }) => some.push(data), begin);
        """
    )
    tab.wait_for("what they got", lambda: got(tab), [["0"]] * 3)
    tab.run("module.subscribe('alone', ({ data }) => got[0].push('late ' + data))")
    site.publish("alone", "1", private=False)
    tab.wait_for("what they got", lambda: got(tab), [["0", "1", "late 1"], ["0", "1"], ["0", "1"]])
    tab.wait_for("connections", site.topics, [["a", "alone"], ["alone"]])
