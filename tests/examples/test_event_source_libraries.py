"""Libraries that open event streams, over the page's one connection: htmx 2 and 4, Turbo 8, in Chromium."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, Response, render_template_string, request, send_from_directory
from selenium import webdriver

from flask_mercure import EVERYTHING, Mercure, TurboStream
from tests.examples.browser import leave
from tests.examples.loading import install_packages
from tests.examples.page_site import Served, Tab

pytestmark = pytest.mark.servers

_PACKAGES = {
    "htmx2": "npm:htmx.org@2.0.11",
    "htmx-ext-sse": "2.2.4",
    "htmx4": "npm:htmx.org@4.0.1",
    "@hotwired/turbo": "8.0.23",
}

_HEAD = """<!doctype html>
<link rel="icon" href="data:,">
{{ mercure_script("kept", position, event_source=True, nonce="abc") }}
"""

_PAGES = {
    "htmx2": _HEAD
    + """
<meta name="htmx-config" content='{"allowEval": false, "includeIndicatorStyles": false}'>
<script src="/libraries/htmx2/dist/htmx.js" defer></script>
<script src="/libraries/htmx-ext-sse/dist/sse.js" defer></script>
<body hx-ext="sse">
<div sse-connect="{{ mercure_url('one', position) }}"><p id="one" sse-swap="message">-</p></div>
<div sse-connect="{{ mercure_url(['two', 'three'], position) }}">
  <p id="two" sse-swap="message">-</p><p id="named" sse-swap="named">-</p>
</div>
<div id="more"></div>
""",
    "htmx4": _HEAD
    + """
<meta name="htmx-config" content='{"includeIndicatorCSS": false}'>
<script src="/libraries/htmx4/dist/htmx.js" defer></script>
<script src="/libraries/htmx4/dist/ext/hx-sse.js" defer></script>
<body>
<p id="one" hx-sse:connect="{{ mercure_url('one', position) }}" hx-swap="innerHTML">-</p>
<p id="two" hx-sse:connect="{{ mercure_url(['two', 'three'], position) }}" hx-swap="innerHTML">-</p>
<p id="named">-</p>
""",
    "turbo": _HEAD
    + """
<script type="module" src="/libraries/@hotwired/turbo/dist/turbo.es2017-esm.js"></script>
<body>
{{ mercure_on("turbo", topics="one", last_event_id=position) }}
{{ mercure_on("turbo", topics=["two", "three"], last_event_id=position) }}
<p id="one">-</p><p id="two">-</p><p id="named">-</p>
""",
}


class Pages(Served):
    """A page for each library, at another origin than the hub; private updates reach it by the cookie."""

    def __init__(self, directory: Path, modules: str) -> None:
        self._modules = modules
        super().__init__(directory, self._make, Mercure())

    def _make(self, config: Mapping[str, Any]) -> Flask:
        app = Flask("pages")
        app.config.from_mapping(config)
        self.mercure.init_app(app)

        @app.get("/<name>")
        def page(name: str) -> Response:
            if name == "more":
                url = app.jinja_env.globals["mercure_url"]("one", request.args.get("position"))  # type: ignore[operator]
                return Response(f'<p id="later" sse-connect="{url}" sse-swap="message">-</p>')
            position = request.args.get("position") or self.mercure.last_event_id()
            response = Response(render_template_string(_PAGES[name], position=position))
            response.headers["Content-Security-Policy"] = (
                f"default-src 'none'; script-src 'self' 'nonce-abc'; connect-src 'self' {self.hub.origin}; "
                "img-src data:; style-src 'self' 'unsafe-inline'"
            )
            return self.mercure.set_cookie(response, subscribe=EVERYTHING)

        @app.get("/libraries/<path:name>")
        def library(name: str) -> Response:
            return send_from_directory(self._modules, name)

        return app


@pytest.fixture(scope="module")
def modules(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("libraries")
    (folder / "package.json").write_text(json.dumps({"private": True, "dependencies": _PACKAGES}))
    return str(install_packages(folder))


@pytest.fixture
def site(tmp_path: Path, modules: str) -> Iterator[Pages]:
    running = Pages(tmp_path, modules)
    yield running
    running.close()


@pytest.fixture
def tab(chromium: Callable[[int], list[webdriver.Chrome]]) -> Iterator[Tab]:
    first = Tab(chromium(1)[0])
    yield first
    first.driver.switch_to.window(first.handle)
    # htmx 2 writes errors of sources to the console, when the hub is killed.
    assert [one for one in leave([first]) if "[object Event]" not in one] == []


def text(tab: Tab, name: str) -> object:
    return tab.run("return document.getElementById(arguments[0])?.textContent", name)


def show(site: Pages, library: str, topic: str, name: str, value: str) -> None:
    """Publish what shows a value in an element."""
    site.publish(topic, TurboStream.update(name, value) if library == "turbo" else value, private=True)


ALL = ["kept", "one", "three", "two"]


@pytest.mark.parametrize("library", _PAGES)
def test_the_sources_of_a_page_share_its_connection(site: Pages, tab: Tab, library: str) -> None:
    """With types, private updates, what was published before the page was open, and during an outage."""
    position = site.publish("kept", "0")
    show(site, library, "one", "one", "before")
    tab.driver.get(f"{site.url}/{library}?position={position}")
    tab.wait_for("what was published before", lambda: text(tab, "one"), "before")
    tab.wait_for("connections", site.topics, [ALL])
    show(site, library, "two", "two", "2")
    tab.wait_for("the second", lambda: text(tab, "two"), "2")
    if library == "htmx2":
        site.publish("three", "3", type="named", private=True)
        tab.wait_for("a type", lambda: text(tab, "named"), "3")
    elif library == "htmx4":
        tab.run(
            "document.getElementById('two').addEventListener('named', ({ detail }) => "
            "document.getElementById('named').textContent = detail.data)"
        )
        site.publish("three", "3", type="named", private=True)
        tab.wait_for("a type", lambda: text(tab, "named"), "3")
    else:
        show(site, library, "three", "named", "3")
        tab.wait_for("the third", lambda: text(tab, "named"), "3")
    assert text(tab, "one") == "before"
    other = tab.new()
    other.driver.get(f"{site.url}/{library}")
    other.wait("another tab", lambda: text(other, "one") == "-")
    site.hub.kill()
    site.hub.start()
    show(site, library, "one", "one", "after")
    for one in (tab, other):
        one.wait_for("after", lambda one=one: text(one, "one"), "after")  # type: ignore[misc]
    tab.wait_for("connections", site.topics, [ALL])
    assert text(tab, "two") == "2"
    other.close()


def test_an_element_that_comes_later_begins_at_its_own_position(site: Pages, tab: Tab) -> None:
    """What htmx swaps in may be older than the page's connection."""
    tab.driver.get(f"{site.url}/htmx2")
    tab.wait_for("connections", site.topics, [ALL])
    position = site.publish("kept", "0")
    site.publish("one", "missed", private=True)
    tab.wait_for("the page has it", lambda: text(tab, "one"), "missed")
    tab.run(
        "htmx.ajax('GET', `/more?position=${encodeURIComponent(arguments[0])}`, '#more')",
        position,
    )
    tab.wait_for("what it missed", lambda: text(tab, "later"), "missed")
    tab.wait_for("connections", site.topics, [ALL])
    site.publish("one", "next", private=True)
    tab.wait_for("the next", lambda: (text(tab, "one"), text(tab, "later")), ("next", "next"))
    tab.run("document.getElementById('later').remove()")
    site.publish("one", "last", private=True)
    tab.wait_for("the last", lambda: text(tab, "one"), "last")


def test_turbo_takes_a_source_of_the_page(site: Pages, tab: Tab) -> None:
    tab.driver.get(f"{site.url}/turbo")
    tab.wait_for("connections", site.topics, [ALL])
    with site.app.test_request_context(base_url=site.url):
        url = site.app.jinja_env.globals["mercure_url"]("four")  # type: ignore[operator]
    tab.run(
        "window.source = new EventSource(arguments[0]); Turbo.connectStreamSource(source);"
        "return new Promise((resolve) => source.addEventListener('open', () => resolve()))",
        url,
    )
    stream = '<turbo-stream action="update" target="one"><template>4</template></turbo-stream>'
    site.publish("four", stream, private=True)
    tab.wait_for("the fourth", lambda: text(tab, "one"), "4")
    tab.run("Turbo.disconnectStreamSource(source); source.close()")
    tab.wait_for("connections", site.topics, [ALL])
    tab.run("document.querySelector('mercure-on').remove()")
    tab.wait_for("one source less", site.topics, [["kept", "three", "two"]])


def test_htmx_4_ends_a_stream_with_its_element(site: Pages, tab: Tab) -> None:
    tab.driver.get(f"{site.url}/htmx4")
    tab.wait_for("connections", site.topics, [ALL])
    tab.run("htmx.swap({ text: '', target: document.getElementById('one'), swap: 'delete' })")
    tab.wait_for("one source less", site.topics, [["kept", "three", "two"]])
