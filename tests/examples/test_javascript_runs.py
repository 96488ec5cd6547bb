"""``static/runs.js`` in headless Chromium: runs are read from their beginning, by the rules of Python."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from selenium import webdriver

from tests.examples.browser import leave
from tests.examples.page_site import Site, Tab
from tests.flask_mercure.publishing.run_rules import RULES, done, some, start

pytestmark = pytest.mark.servers

LOST = "A part of this answer is lost."

_READ = """
const { Run } = await import("mercure/runs");
return arguments[0].map((updates) => {
  const seen = { ended: null, events: [], message: null };
  const run = new Run({
    events: (events) => seen.events.push(...events),
    restart: () => (seen.events = []),
    end: ({ kind, message = null }) => ([seen.ended, seen.message] = [kind, message]),
  });
  for (const update of updates) run.take(update);
  return [seen.ended, seen.events, seen.message];
});
"""

_FOLLOW = """
const { followRuns, followRun } = await import("mercure/runs");
window.runs = {};
window.begin = (topic) => {
  const seen = (runs[topic] = { text: "", ends: [] });
  return {
    events: (events) => (seen.text += events.join("")),
    restart: () => (seen.text = ""),
    end: ({ kind }) => seen.ends.push(kind),
  };
};
window.stop = typeof arguments[0] === "string"
  ? followRun(arguments[0], begin(arguments[0]))
  : followRuns(arguments[0], begin);
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = Site(tmp_path_factory.mktemp("site"))
    yield site
    site.close()


@pytest.fixture
def tab(site: Site, chromium: Callable[[int], list[webdriver.Chrome]]) -> Iterator[Tab]:
    first = Tab(chromium(1)[0])
    first.visit(f"{site.url}/")
    yield first
    assert leave([first]) == []


def test_the_rules(tab: Tab) -> None:
    found = tab.run(_READ, [updates for updates, _, _ in RULES])
    assert [(ended, events) for ended, events, _ in found] == [(ended, events) for _, ended, events in RULES]


@pytest.mark.parametrize(
    "updates",
    [
        [start("a"), some("a", 1, 1), some("a", 3, 3)],
        [some("a", 2, 2)],  # its beginning was discarded
        [start("a"), some("a", 1, 1), done("a", 3)],
    ],
)
def test_a_run_with_a_hole_is_no_answer(tab: Tab, updates: list[Any]) -> None:
    ((ended, _, message),) = tab.run(_READ, [updates])
    assert (ended, message) == ("error", LOST)


@pytest.mark.parametrize(("status", "body"), [(204, None), (200, "{}"), (200, "null"), (200, '{"topic": 7}')])
def test_a_chat_that_is_answered_without_a_topic_says_so(tab: Tab, status: int, body: str | None) -> None:
    said = tab.run(
        """
        const [status, body] = arguments;
        const { MercureChatTransport } = await import("mercure/ai");
        const headers = { "Content-Type": "application/json" };
        const answer = async () => new Response(body, { status, headers });
        const transport = new MercureChatTransport({ fetch: answer });
        const sent = transport.sendMessages({ chatId: "a", messages: [] });
        return sent.then(() => null, ({ message }) => message);
        """,
        status,
        body,
    )
    assert said == (
        f'/api/chat answered {status} without a topic: answer {{"topic": ...}}, '
        "with that of mercure.stream_events()"
    )


def seen(tab: Tab) -> dict[str, tuple[str, list[str]]]:
    runs: dict[str, Any] = tab.run("return runs")
    return {topic: (run["text"], run["ends"]) for topic, run in runs.items()}


def test_runs_of_a_pattern_come_on_one_connection(site: Site, tab: Tab) -> None:
    """From the beginning of those that are there, and all that begin later."""
    with site.app.app_context():
        site.mercure.stream_events("/runs/1", ["one"], private=False)
        site.mercure.publish("/runs/1", "no update of a run", private=False)
        tab.run(_FOLLOW, {"match": "/runs/*", "match_type": "urlpattern"})
        tab.wait_for("runs", lambda: seen(tab), {"/runs/1": ("one", ["done"])})

        def tokens() -> Iterator[str]:
            yield "tw"
            tab.wait_for("text", lambda: seen(tab).get("/runs/2"), ("tw", []))
            yield "o"

        site.mercure.stream_events("/runs/2", tokens(), private=False, interval=0)
        site.mercure.stop("/runs/3", private=False)
    whole = {"/runs/1": ("one", ["done"]), "/runs/2": ("two", ["done"]), "/runs/3": ("", ["stopped"])}
    tab.wait_for("runs", lambda: seen(tab), whole)
    late = tab.new()
    late.visit(f"{site.url}/")
    late.run(_FOLLOW, {"match": "/runs/*", "match_type": "urlpattern"})
    late.wait_for("runs", lambda: seen(late), whole)
    for one in (late, tab):
        one.run("stop()")
    tab.wait_for("connections", site.topics, [])


def test_a_run_ends_its_subscription(site: Site, tab: Tab) -> None:
    topic = "/runs/alone"
    tab.run(_FOLLOW, topic)
    with site.app.app_context():
        site.mercure.stream_events(topic, ["all"], private=False)
    tab.wait_for("run", lambda: seen(tab), {topic: ("all", ["done"])})
    tab.wait_for("connections", site.topics, [])
