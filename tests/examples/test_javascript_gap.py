"""Pages in Chromium that have missed updates: they load themselves anew where nobody loses by it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, Response, render_template_string, request
from selenium import webdriver

from flask_mercure import EVERYTHING, Mercure
from tests.examples.browser import leave
from tests.examples.page_site import Served, Tab

pytestmark = pytest.mark.servers

_PAGE = """<!doctype html>
<link rel="icon" href="data:,">
<title>{{ request.method }}</title>
{{ mercure_script("a", nonce="abc") }}
<script type="module" nonce="abc">
  import { connect, subscribe } from "mercure";
  window.gaps = 0;
  connect().addEventListener("gap", () => gaps++);
  window.miss = () => subscribe("b", () => {}, { lastEventId: "urn:gone" });
  window.isReady = true;
</script>
{{ mercure_on("message", text="#text", gap=gap) }}
<p id="text">text</p>
<form method="post"><input name="title"><input type="range">
<select><option>1<option>2</select><button>Send</button></form>
<div id="note" contenteditable>note</div>
"""


class Forms(Served):
    """A page with a form that a POST answers too; ``loads`` has the method of each request."""

    def __init__(self, directory: Path) -> None:
        self.loads: list[str] = []
        mercure = Mercure()
        super().__init__(directory, lambda config: self._make(config, mercure), mercure)

    def _make(self, config: Mapping[str, Any], mercure: Mercure) -> Flask:
        app = Flask("forms")
        app.config.from_mapping(config)
        mercure.init_app(app)

        @app.route("/", methods=["GET", "POST"])
        def page() -> Response:
            self.loads.append(request.method)
            text = render_template_string(_PAGE, gap=request.args.get("gap"))
            return mercure.set_cookie(app.make_response(text), subscribe=EVERYTHING)

        return app


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Forms]:
    site = Forms(tmp_path)
    yield site
    site.close()


@pytest.fixture
def tab(chromium: Callable[[int], list[webdriver.Chrome]], site: Forms) -> Iterator[Tab]:
    first = Tab(chromium(1)[0])
    yield first
    first.run("sessionStorage.clear()")
    assert [one for one in leave([first]) if "urn:gone" not in one] == []


def miss(tab: Tab) -> None:
    """Have a gap, and the half second that a page has between two looks at its forms."""
    tab.wait("the script", lambda: tab.run("return window.isReady"))
    tab.run("window.before = gaps; miss()")
    tab.wait("the gap", lambda: tab.run("return gaps > before"))
    tab.run("return new Promise((resolve) => setTimeout(resolve, 1200))")


def test_a_page_with_a_place_in_its_address_is_loaded_anew_by_get(site: Forms, tab: Tab) -> None:
    tab.visit(f"{site.url}/#note")
    tab.run("window.isSame = true; miss()")
    tab.wait_for("requests", lambda: site.loads, ["GET", "GET"])
    tab.wait_for(
        "the place", lambda: tab.run("return [window.isSame ?? null, location.hash]"), [None, "#note"]
    )
    miss(tab)
    assert site.loads == ["GET", "GET"]  # not so soon again


def test_the_answer_of_a_post_stays(site: Forms, tab: Tab) -> None:
    tab.visit(site.url)
    tab.driver.find_element("css selector", "button").click()
    tab.wait_for("the answer", lambda: tab.run("return document.title"), "POST")
    miss(tab)
    assert site.loads == ["GET", "POST"]
    assert any("answers a POST" in one for one in tab.problems())


@pytest.mark.parametrize(
    ("enter", "undo"),
    [
        ("[name=title]", "document.querySelector('form').reset()"),
        ("#note", "document.querySelector('#note').innerHTML = 'note'"),
        ("#note", "document.querySelector('#note').remove()"),
    ],
)
def test_what_somebody_types_is_kept(site: Forms, tab: Tab, enter: str, undo: str) -> None:
    tab.visit(site.url)
    tab.driver.find_element("css selector", enter).send_keys("typed")
    miss(tab)
    assert site.loads == ["GET"]
    tab.run(undo)
    tab.wait_for("requests", lambda: site.loads, ["GET", "GET"])


def test_a_form_that_a_script_sends_is_waited_for(site: Forms, tab: Tab) -> None:
    tab.visit(site.url)
    tab.run("document.querySelector('form').addEventListener('submit', (event) => event.preventDefault())")
    tab.driver.find_element("css selector", "[name=title]").send_keys("typed\n")
    miss(tab)
    assert site.loads == ["GET"]
    tab.wait_for("requests", lambda: site.loads, ["GET", "GET"])


def test_a_page_prevents_it(site: Forms, tab: Tab) -> None:
    tab.visit(site.url)
    tab.run("document.addEventListener('mercure:gap', (event) => event.preventDefault(), { once: true })")
    miss(tab)
    assert site.loads == ["GET"]
    tab.run("miss()")
    tab.wait_for("requests", lambda: site.loads, ["GET", "GET"])


def test_a_function_of_the_page_is_called(site: Forms, tab: Tab) -> None:
    tab.visit(f"{site.url}/?gap=app.fetch")
    tab.run("window.app = { fetch: ({ reason }) => (app.reason = reason) }")
    miss(tab)
    assert tab.run("return app.reason") in ("history", "start")
    assert site.loads == ["GET"]
