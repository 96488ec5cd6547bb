"""Rows of a database in pages with Turbo and htmx: a job changes them, the pages follow."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from markupsafe import Markup
from selenium import webdriver

from flask_mercure import TurboStream
from flask_mercure.html import htmx_insertion
from tests.examples import html_site
from tests.examples.browser import ROOT, leave
from tests.examples.loading import install_packages
from tests.examples.page_site import SECRET, Served, Tab

pytestmark = pytest.mark.servers

LIBRARIES = ["turbo", "htmx2", "htmx4"]
ROWS = "return [...document.querySelectorAll('#orders > tr')].map((one) => [one.id, one.innerText])"


class Orders(Served):
    """The app with its hub, and jobs in processes of their own."""

    def __init__(self, directory: Path, modules: dict[str, str]) -> None:
        self._database = directory / "orders.db"
        make = partial(html_site.create_app, database=self._database, modules=modules)
        super().__init__(
            directory, lambda config: make({**config, "MERCURE_RELAY_THREAD": True}), html_site.mercure
        )

    def do(self, *job: str) -> None:
        command = [
            sys.executable,
            "-m",
            "tests.examples.html_site",
            str(self._database),
            self.hub.url,
            SECRET,
        ]
        subprocess.run([*command, *job], cwd=ROOT, check=True, timeout=60)


@pytest.fixture(scope="module")
def modules(libraries: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("htmx4")
    (folder / "package.json").write_text('{"private": true, "dependencies": {"htmx.org": "4"}}')
    return {
        "turbo": libraries("turbo"),
        "htmx2": libraries("htmx"),
        "htmx4": str(install_packages(folder)),
    }


@pytest.fixture
def site(tmp_path: Path, modules: dict[str, str]) -> Iterator[Orders]:
    site = Orders(tmp_path, modules)
    yield site
    with site.app.app_context():
        html_site.mercure.flush()
    site.close()


@pytest.fixture
def tab(chromium: Callable[[int], list[webdriver.Chrome]]) -> Iterator[Tab]:
    first = Tab(chromium(1)[0])
    yield first
    assert leave([first]) == []


def _visit(site: Orders, tab: Tab, library: str) -> None:
    tab.driver.get(f"{site.url}/{library}")
    tab.wait_for("connections", site.topics, [[html_site.topic_of(library)]])


def _wait_rows(tab: Tab, *rows: tuple[str, str]) -> None:
    tab.wait_for("rows", lambda: tab.run(ROWS), [list(row) for row in rows])


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_page_follows_the_jobs(site: Orders, tab: Tab, library: str) -> None:
    site.do("create", "There before")
    _visit(site, tab, library)
    _wait_rows(tab, ("order-1", "There before"))
    tab.run("window.isSame = true")

    site.do("create", "<b>bold</b>")
    _wait_rows(tab, ("order-1", "There before"), ("order-2", "<b>bold</b>"))
    assert tab.run("return document.querySelector('#order-2 a').getAttribute('href')") == "/orders/2"
    site.do("change", "1", "Changed")
    _wait_rows(tab, ("order-1", "Changed"), ("order-2", "<b>bold</b>"))
    site.do("delete", "2")
    _wait_rows(tab, ("order-1", "Changed"))
    assert tab.run("return window.isSame") is True


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_row_is_not_added_twice(site: Orders, tab: Tab, library: str) -> None:
    """The page is made after the commit, and the relay sends the update after that."""
    site.do("create", "Once")
    topic = html_site.topic_of(library)
    position = site.publish(topic, "", type="other", private=True)
    tab.driver.get(f"{site.url}/{library}?position={position}")
    _wait_rows(tab, ("order-1", "Once"))
    row = Markup('<tr id="order-1"><td>Once</td></tr>')
    if library == "turbo":
        site.publish(topic, TurboStream.append("orders", row), private=True)
    else:
        site.publish(topic, htmx_insertion("append", "orders", row), type="htmx", private=True)
    site.do("change", "1", "Changed")
    _wait_rows(tab, ("order-1", "Changed"))


@pytest.mark.parametrize("library", LIBRARIES)
def test_text_that_looks_like_html_stays_text(site: Orders, tab: Tab, library: str) -> None:
    _visit(site, tab, library)
    topic = html_site.topic_of(library)
    attack = '<img src="x" onerror="window.isHurt = true">'
    stream = f'<turbo-stream action="append" target="orders"><template>{attack}</template></turbo-stream>'
    for data in (attack, stream, f'<tbody id="orders" hx-swap-oob="true">{attack}</tbody>', {"html": attack}):
        site.publish(topic, data, private=True)
        site.publish(topic, data, type="note", private=True)
    site.do("create", "After it")
    _wait_rows(tab, ("order-1", "After it"))
    assert tab.run("return [document.querySelector('img'), window.isHurt ?? null]") == [None, None]


@pytest.mark.parametrize("version", ["3.0.0", "5.1.0"])
def test_another_htmx_changes_nothing(site: Orders, tab: Tab, version: str) -> None:
    _visit(site, tab, "htmx2")
    tab.run("htmx.version = arguments[0]", version)
    site.publish("htmx", Markup('<p id="count-open" hx-swap-oob="true">9</p>'), type="htmx", private=True)
    problems: list[str] = []
    tab.wait("the error", lambda: problems.extend(tab.problems()) or problems)  # type: ignore[func-returns-value]
    assert [f"knows htmx 2 and 4, and this page has {version}" in one for one in problems] == [True]
    assert tab.run("return document.querySelector('#count-open').textContent") == "?"


@pytest.mark.parametrize("library", ["htmx2", "htmx4"])
def test_html_by_hand(site: Orders, tab: Tab, library: str) -> None:
    _visit(site, tab, library)
    html = Markup('<p>not in the page</p><p id="count-open" hx-swap-oob="true">{}</p>').format("<9>")
    site.publish("htmx", html, type="htmx", private=True)
    count = "return document.querySelector('#count-open').textContent"
    tab.wait_for("count", lambda: tab.run(count), "<9>")
    assert tab.run("return document.body.innerText.includes('not in the page')") is False


def test_other_things_that_a_page_does(site: Orders, tab: Tab) -> None:
    _visit(site, tab, "turbo")
    site.publish("turbo", {"kind": "open", "count": 7}, type="count", private=True)
    site.publish("turbo", {"kind": "open"}, type="count", private=True)  # without the field
    site.publish("turbo", {"kind": "a,p", "count": 8}, type="count", private=True)  # no selector of its own
    site.publish("turbo", "saved", type="note", private=True)
    tab.wait_for("toasts", lambda: tab.run("return app.toasts"), ["saved"])
    assert tab.run("return document.querySelector('#count-open').textContent") == "7"

    tab.run("document.querySelector('mercure-on[type=note]').remove()")
    site.publish("turbo", "unheard", type="note", private=True)
    site.publish("turbo", {"kind": "open", "count": 9}, type="count", private=True)
    count = "return document.querySelector('#count-open').textContent"
    tab.wait_for("count", lambda: tab.run(count), "9")
    assert tab.run("return app.toasts") == ["saved"]

    tab.run("document.querySelector('mercure-on[topics]').remove()")
    tab.wait_for("topics", site.topics, [])


def test_an_element_begins_at_its_position(site: Orders, tab: Tab) -> None:
    """Under Turbo Drive the page before has shown the update, and the data of this one does not have it."""
    _visit(site, tab, "turbo")
    position = site.publish("turbo", "", type="other", private=True)
    site.publish("turbo", "first", type="note", private=True)
    tab.wait_for("toasts", lambda: tab.run("return app.toasts"), ["first"])

    tab.run("document.querySelector('mercure-on[type=note]').remove()")
    tab.run(
        """
        const element = document.createElement("mercure-on");
        const given = { type: "note", call: "app.toast", topics: '["turbo"]', "last-event-id": arguments[0] };
        for (const [name, value] of Object.entries(given)) element.setAttribute(name, value);
        document.body.append(element);
        """,
        position,
    )
    tab.wait_for("toasts", lambda: tab.run("return app.toasts"), ["first", "first"])
    site.publish("turbo", "second", type="note", private=True)
    tab.wait_for("toasts", lambda: tab.run("return app.toasts"), ["first", "first", "second"])


def test_the_connection_follows_turbo_drive(site: Orders, tab: Tab) -> None:
    shown = "return document.querySelector('#last').textContent"
    position = site.publish("b", "before", private=True)
    tab.driver.get(f"{site.url}/drive/a?next={position}")
    tab.wait_for("topics", site.topics, [["a"]])
    tab.run("window.isSame = true")
    site.publish("b", "b 1", private=True)
    site.publish("a", "a 1", private=True)
    tab.wait_for("the update", lambda: tab.run(shown), "a 1")

    tab.wait_for("Turbo", lambda: tab.run("return typeof Turbo"), "object")
    tab.run("document.querySelector('a').click()")
    tab.wait_for("what is after the position", lambda: tab.run(shown), "b 1")
    tab.wait_for("topics", site.topics, [["b"]])
    site.publish("b", "b 2", private=True)
    tab.wait_for("the update", lambda: tab.run(shown), "b 2")
    site.publish("a", "a 2", private=True)

    tab.run("history.back()")
    tab.wait_for("what was missed", lambda: tab.run(shown), "a 2")
    tab.wait_for("topics", site.topics, [["a"]])
    assert tab.run("return window.isSame") is True


def test_a_page_with_turbo_that_missed_updates_keeps_its_focus(site: Orders, tab: Tab) -> None:
    site.do("create", "First")
    _visit(site, tab, "turbo")
    _wait_rows(tab, ("order-1", "First"))
    tab.wait_for("Turbo", lambda: tab.run("return typeof Turbo"), "object")
    tab.run("document.querySelector('[name=title]').focus(); window.isSame = true")
    tab.run("document.querySelector('#order-1').innerText = 'stale'")
    tab.run(
        """
        const element = document.createElement("mercure-on");
        const given = { type: "note", call: "app.toast", topics: '["turbo"]', gap: "reload" };
        for (const [name, value] of Object.entries(given)) element.setAttribute(name, value);
        element.setAttribute("last-event-id", "urn:unknown");
        document.body.append(element);
        """
    )
    _wait_rows(tab, ("order-1", "First"))
    assert tab.run("return [window.isSame, document.activeElement.name]") == [True, "title"]
    tab.run("sessionStorage.clear()")
    assert all("urn:unknown" in one for one in tab.problems())


def test_a_page_that_missed_updates_is_loaded_anew(site: Orders, tab: Tab) -> None:
    tab.driver.get(f"{site.url}/htmx2?position=urn:unknown")
    noted = "return sessionStorage.getItem('mercure loaded anew') !== null"
    tab.wait("another loading", lambda: tab.run(noted))
    warnings: list[str] = []
    # The page that was loaded again begins at the same place.
    tab.wait("both warnings", lambda: warnings.extend(tab.problems()) or len(warnings) == 2)  # type: ignore[func-returns-value]
    tab.run("sessionStorage.clear()")
    assert all("does not have the update urn:unknown" in one for one in warnings)


def test_a_form_is_answered_with_a_stream(site: Orders, tab: Tab) -> None:
    _visit(site, tab, "turbo")
    tab.wait_for("Turbo", lambda: tab.run("return typeof Turbo"), "object")
    tab.run("document.querySelector('form button').click()")
    text = "return document.querySelector('#orders').textContent"
    tab.wait_for("the error", lambda: tab.run(text), "<b>No title</b>")
    tab.run("document.querySelector('#orders').textContent = ''")
    tab.driver.find_element("name", "title").send_keys("From the form\n")
    tab.wait_for(
        "the form", lambda: tab.run("return document.querySelector('form').innerText"), "Thanks & bye"
    )
    _wait_rows(tab, ("order-1", "From the form"))
