"""Who is at a topic, in pages: headless Chromium, a hub and an app that are real."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, Response
from selenium import webdriver

from tests.examples.browser import leave
from tests.examples.page_site import Site, Tab

pytestmark = pytest.mark.servers

TOPIC = "items/7 (ü*)"
OTHER = "items/8"

# What the page is told, in order. With a clock that is faster, the grace of 15 seconds is over sooner.
_FOLLOW = """
const [topic, options, times] = arguments;
const isMine = ({ payload }) => payload.name === document.title; // the list may have been quicker
const [now, timeout, begin] = [Date.now, setTimeout, Date.now()];
if (times > 1) {
  Date.now = () => begin + (now() - begin) * times;
  window.setTimeout = (action, wait = 0) => timeout(action, wait / times);
}
const name = ({ user, payload, connections }) => `${user} ${payload.name} ${connections}`;
const names = (people) => people.map(name).sort();
window.told = [];
window.counts = [];
window.stop = mercure.presence(topic, {
  here: (people) => told.push(["here", ...names(people)]),
  joining: (one, people) => isMine(one) || told.push(["joining", one.user, people.length]),
  leaving: ({ user }, people) => told.push(["leaving", user, people.length]),
  count: (number) => counts.push(number),
}, options);
"""


class Rooms(Site):
    """``/as/{user}`` signs somebody in, who may see the people of one topic; ``nobody`` may not."""

    def _add_pages(self, app: Flask) -> None:
        super()._add_pages(app)

        @app.get("/as/<user>")
        def sign_in_as(user: str) -> Response:
            grants = [TOPIC, OTHER, *self.mercure.presence(TOPIC).grants]
            payload = {"name": user.title()}
            return self.mercure.set_cookie(Response("in"), subscribe=grants, payload=payload, user=user)

        @app.get("/counted/<user>")
        def sign_in_to_be_counted(user: str) -> Response:
            grants = [TOPIC, *self.mercure.presence_count(TOPIC).grants]
            return self.mercure.set_cookie(Response("in"), subscribe=grants, user=user)

        @app.get("/as/nobody")
        def sign_in_to_see_nobody() -> Response:
            return self.mercure.set_cookie(Response("in"), subscribe=[TOPIC], user="eve")


class Visitor(Tab):
    """A tab that follows who is there."""

    user = ""

    def sign_in(self, site: Rooms, user: str) -> None:
        self._focus()
        self.driver.get(f"{site.url}/as/{user}")
        self.user = user

    def enter_room(self, site: Rooms, topic: str = TOPIC, times: float = 1, **options: bool) -> None:
        self.visit(f"{site.url}/?title={self.user.title()}")
        self.follow()
        self.run(_FOLLOW, topic, options, times)
        self.wait("the first list", self.told)

    def told(self) -> list[list[Any]]:
        found: list[list[Any]] = self.run("return window.told")
        return found

    def wait_told(self, *expected: list[Any]) -> None:
        self.wait_for("told", self.told, list(expected))

    def wait_update(self, data: str) -> None:
        self.wait(f"the update {data}", lambda: data in self.seen())

    def counts(self) -> list[int]:
        found: list[int] = self.run("return window.counts")
        return found


@pytest.fixture
def site(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Rooms]:
    settings: dict[str, str] = getattr(request, "param", {})
    running = Rooms(tmp_path, settings)
    yield running
    running.close()


@pytest.fixture
def visitors(chromium: Callable[[int], list[webdriver.Chrome]], site: Rooms) -> Iterator[list[Visitor]]:
    """Two people, each with a browser of their own."""
    both = [Visitor(driver) for driver in chromium(2)]
    for visitor, user in zip(both, ("ada", "bo"), strict=True):
        visitor.sign_in(site, user)
    yield both
    for visitor in both:
        visitor.driver.switch_to.window(visitor.driver.window_handles[0])
    assert leave(both) == []


def has_come_back(site: Rooms, before: set[str]) -> bool:
    """Whether both people have other connections than before."""
    return len(set(site.subscriptions()) - before) == 2


def has_ended(site: Rooms, worker: int) -> bool:
    return worker not in site.hub.workers()


def test_people_come_and_go(site: Rooms, visitors: list[Visitor]) -> None:
    ada, bo = visitors
    ada.enter_room(site, times=4)
    ada.wait_told(["here", "ada Ada 1"])
    bo.enter_room(site)
    bo.wait_told(["here", "ada Ada 1", "bo Bo 1"])
    ada.wait_told(["here", "ada Ada 1"], ["joining", "bo", 2])
    bo.run("stop()")
    ada.wait_told(["here", "ada Ada 1"], ["joining", "bo", 2], ["leaving", "bo", 1])
    assert ada.counts() == [1, 2, 1]
    with site.app.app_context():
        (one,) = site.mercure.presence(TOPIC)
    assert (one.user, one.payload["name"], one.connections) == ("ada", "Ada", 1)


def test_two_tabs_of_a_user_are_one_person(site: Rooms, visitors: list[Visitor]) -> None:
    ada, bo = visitors
    bo.enter_room(site, times=4)
    ada.enter_room(site)
    second = Visitor(ada.driver, ada.new().handle)
    second.enter_room(site)
    second.wait_told(["here", "ada Ada 1", "bo Bo 1"])
    second.close()
    with site.app.app_context():
        assert sorted(one.user or "" for one in site.mercure.presence(TOPIC)) == ["ada", "bo"]
    assert bo.told() == [["here", "bo Bo 1"], ["joining", "ada", 2]]
    ada.run("stop()")
    bo.wait_told(["here", "bo Bo 1"], ["joining", "ada", 2], ["leaving", "ada", 1])


def test_a_reload_is_no_leaving(site: Rooms, visitors: list[Visitor]) -> None:
    ada, bo = visitors
    bo.enter_room(site)
    ada.enter_room(site)
    bo.wait_told(["here", "bo Bo 1"], ["joining", "ada", 2])
    before = set(site.subscriptions())
    ada.enter_room(site)
    ada.wait_told(["here", "ada Ada 1", "bo Bo 1"])
    assert len(set(site.subscriptions()) - before) == 1  # she has another connection
    site.publish(TOPIC, "after it")
    bo.wait_updates("after it")
    assert bo.told() == [["here", "bo Bo 1"], ["joining", "ada", 2]]


def test_who_only_looks_is_not_there(site: Rooms, visitors: list[Visitor]) -> None:
    ada, bo = visitors
    bo.enter_room(site)
    ada.enter_room(site, join=False)
    ada.wait_told(["here", "bo Bo 1"])
    with site.app.app_context():
        assert [one.user for one in site.mercure.presence(TOPIC)] == ["bo"]


def test_a_page_sees_nobody_without_the_grant(site: Rooms, visitors: list[Visitor]) -> None:
    ada, bo = visitors
    bo.enter_room(site)
    # The grant for one topic shows nobody at another, and none shows nobody at all.
    for user, topic in (("ada", OTHER), ("nobody", TOPIC)):
        ada.sign_in(site, user)
        ada.visit(f"{site.url}/")
        ada.follow()
        ada.run(_FOLLOW, topic, {}, 1)
        ada.wait("a warning", lambda: any("grants" in one for one in ada.problems()))
        bo.enter_room(site, topic=TOPIC)
        assert ada.told() == []


@pytest.mark.parametrize("answer", ["{}", '{"subscriptions": [null]}', "null", "no JSON"])
def test_what_another_hub_answers_is_no_list(site: Rooms, visitors: list[Visitor], answer: str) -> None:
    ada, _ = visitors
    ada.visit(f"{site.url}/?title=Ada")
    ada.follow()
    ada.run(
        "const real = fetch; window.fetch = (...request) => {"
        "  if (!`${request[0]}`.includes('/subscriptions/exact/')) return real(...request);"
        "  window.fetch = real;"
        "  return Promise.resolve(new Response(arguments[0]));"
        "};",
        answer,
    )
    ada.run(_FOLLOW, TOPIC, {}, 1)
    ada.wait_told(["here", "ada Ada 1"])  # asked again
    problems = ada.problems()
    assert [one for one in problems if "subscriptions" not in one] == []


def test_people_stay_while_the_hub_restarts(site: Rooms, visitors: list[Visitor]) -> None:
    ada, bo = visitors
    ada.enter_room(site)
    bo.enter_room(site)
    ada.wait_told(["here", "ada Ada 1"], ["joining", "bo", 2])
    for stop in (site.hub.kill, site.hub.close):
        before = set(site.subscriptions())
        stop()
        for visitor in visitors:
            visitor.wait_state("offline")
        site.hub.start()
        for visitor in visitors:
            visitor.wait_open()
        ada.wait("new connections", partial(has_come_back, site, before))
        site.publish(TOPIC, "again")
        ada.wait_update("again")
    assert ada.told() == [["here", "ada Ada 1"], ["joining", "bo", 2]]
    assert [one[0] for one in bo.told()] == ["here"]


@pytest.mark.parametrize("site", [{"MERCURE_WORKERS": "2"}], indirect=True)
def test_nobody_leaves_when_a_worker_is_killed(site: Rooms, visitors: list[Visitor]) -> None:
    ada, bo = visitors
    ada.enter_room(site)
    bo.enter_room(site)
    ada.wait_told(["here", "ada Ada 1"], ["joining", "bo", 2])
    before = set(site.subscriptions())
    for number, pid in enumerate(site.hub.workers()):
        os.kill(pid, signal.SIGKILL)
        ada.wait("another worker", partial(has_ended, site, pid))
        site.publish(TOPIC, f"again {number}")
        for visitor in visitors:
            visitor.wait_update(f"again {number}")
    ada.wait("the end of the dead", lambda: not before & set(site.subscriptions()))
    site.publish(TOPIC, "at last")
    for visitor in visitors:
        visitor.wait_update("at last")
    assert ada.told() == [["here", "ada Ada 1"], ["joining", "bo", 2]]
    assert [one[0] for one in bo.told()] == ["here"]


def test_a_page_with_a_token_sees_the_people(site: Rooms, visitors: list[Visitor]) -> None:
    ada, bo = visitors
    bo.enter_room(site)
    with site.app.app_context():
        grants = [TOPIC, *site.mercure.presence(TOPIC).grants]
        token = site.mercure.create_token(grants, user="cleo", payload={"name": "Cleo"})
    ada.visit(f"{site.url}/")
    script = "const [token] = arguments; window.mercure = connect({ token: () => token });"
    ada.run(script, token)
    ada.run(_FOLLOW, TOPIC, {}, 1)
    ada.wait_told(["here", "bo Bo 1", "cleo Cleo 1"])
    bo.wait_told(["here", "bo Bo 1"], ["joining", "cleo", 2])


def test_the_list_comes_when_the_hub_does(site: Rooms, visitors: list[Visitor]) -> None:
    ada, _ = visitors
    site.hub.kill()
    ada.visit(f"{site.url}/")
    ada.follow()
    ada.run(_FOLLOW, TOPIC, {}, 1)
    ada.wait_state("offline")
    site.hub.start()
    ada.wait_told(["here", "ada Ada 1"])


@pytest.mark.parametrize("options", [{}, {"transport": "eventsource"}, {"transport": "websocket"}])
def test_a_page_shows_how_many_there_are(
    site: Rooms, visitors: list[Visitor], options: dict[str, str]
) -> None:
    count = "window.numbers = []; window.end = mercure.presenceCount(arguments[0], (n) => numbers.push(n))"

    def numbers(visitor: Visitor) -> list[int]:
        found: list[int] = visitor.run("return numbers")
        return found

    for visitor in visitors:
        visitor.driver.get(f"{site.url}/counted/somebody")
    site.sources = [site.hub.origin.replace("http:", "ws:")]
    ada, bo = visitors
    ada.visit(f"{site.url}/")
    ada.follow(None, options)
    ada.run(count, TOPIC)
    ada.wait_for("the number", lambda: numbers(ada)[-1:], [1])
    site.publish(TOPIC, "an id that comes before the next number")
    ada.wait_update("an id that comes before the next number")
    bo.visit(f"{site.url}/")
    bo.follow(None, options)
    bo.run(count, TOPIC)
    for visitor in visitors:
        visitor.wait_for("the number", lambda one=visitor: numbers(one)[-1:], [2])  # type: ignore[misc]
    # A tab that shares a stream which began before gets the number too.
    second = Visitor(ada.driver, ada.new().handle)
    second.visit(f"{site.url}/")
    second.follow(None, options)
    second.run(count, TOPIC)
    second.wait_for("the number", lambda: numbers(second)[-1:], [2])
    second.close()
    bo.run("end()")
    ada.wait_for("the number", lambda: numbers(ada)[-1:], [1])
    if options.get("transport") != "websocket":  # whose failed attempts the console shows
        site.hub.kill()
        ada.wait_state("offline")
        site.hub.start()
        ada.wait_open()
        ada.wait_for("the number", lambda: numbers(ada)[-1:], [1])
    assert site.subscriptions() == {}  # nobody is announced


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("'*'", "no topic"),
        ("''", "no topic"),
        ("['items/7']", "no topic"),
        ("'ü'.repeat(100)", "too long"),
    ],
)
def test_people_are_at_one_exact_topic(
    site: Rooms, visitors: list[Visitor], arguments: str, message: str
) -> None:
    ada, _ = visitors
    ada.visit(f"{site.url}/")
    ada.follow()
    script = f"try {{ mercure.presence({arguments}) }} catch (error) {{ return error.message }}"
    assert message in ada.run(script)
