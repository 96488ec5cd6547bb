"""Pages in Chromium whose elements begin at positions of their own, over HTTP/1.1."""

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

EACH = 20  # elements of a kind

# Counts the streams that the page holds, each from its request to its end.
_PAGE = """<!doctype html>
<link rel="icon" href="data:,">
<title>jobs</title>
<script nonce="abc">
window.most = 0;
window.begun = [];
window.answered = [];
const open = new Set();
const request = window.fetch;
window.fetch = (url, options = {}) => {
  if (!String(url).includes("last_event_id=")) return request(url, options);
  open.add(options.signal);
  begun.push(new URL(url).searchParams.get("last_event_id"));
  window.most = Math.max(most, open.size);
  options.signal.addEventListener("abort", () => open.delete(options.signal));
  return request(url, options);
};
window.held = () => open.size;
window.ask = async () => {
  const before = performance.now();
  await request(document.querySelector("main").dataset.asked, { mode: "no-cors", credentials: "include" });
  answered.push(performance.now() - before);
};
</script>
{{ mercure_script("page", last_event_id=here, nonce="abc") }}
<main data-asked="{{ asked }}">
  {% for number in range(count) %}
    {% set topic = "items/" ~ number %}
    {{ mercure_on("message", text="#item-" ~ number, topics=topic, last_event_id=positions[number]) }}
    <p id="item-{{ number }}" class="item"></p>
    {{ mercure_progress("jobs/" ~ number) }}
  {% endfor %}
</main>
"""


class Jobs(Served):
    """A page with many elements; ``positions`` are where those of ``mercure_on`` begin."""

    positions: list[str | None]

    def __init__(self, directory: Path) -> None:
        mercure = Mercure()
        super().__init__(directory, self._make, mercure)

    def _make(self, config: Mapping[str, Any]) -> Flask:
        app = Flask("jobs")
        app.config.from_mapping(config)
        mercure = Mercure(app)

        @app.get("/")
        def page() -> Response:
            text = render_template_string(
                _PAGE,
                count=EACH,
                here=request.args["here"],
                positions=self.positions,
                asked=f"{self.hub.origin}/healthz",
            )
            return mercure.set_cookie(app.make_response(text), subscribe=EVERYTHING)

        self.mercure = mercure
        return app


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Jobs]:
    site = Jobs(tmp_path)
    yield site
    site.close()


@pytest.fixture
def tab(chromium: Callable[[int], list[webdriver.Chrome]], site: Jobs) -> Iterator[Tab]:
    first = Tab(chromium(1)[0])
    yield first
    assert leave([first]) == []


def shown(tab: Tab) -> Any:
    return tab.run(
        "return [[...document.querySelectorAll('.item')].map((one) => one.textContent),"
        " [...document.querySelectorAll('mercure-progress [data-label]')].map((one) => one.textContent)]"
    )


def tell(site: Jobs, number: int, text: str) -> None:
    site.publish(f"items/{number}", text, private=True)
    state = {"state": "running", "value": 1, "total": 2, "label": text}
    site.publish(f"jobs/{number}", state, private=True)


@pytest.mark.parametrize("places", [1, 3])
def test_forty_elements_with_positions_leave_the_browser_its_connections(
    site: Jobs, tab: Tab, places: int
) -> None:
    """The page's own requests go to the host of the streams, where Chromium has six connections."""
    site.publish("page", "before", private=True)
    at = [site.publish("other", str(number), private=True) for number in range(places)]
    site.positions = [at[number % places] for number in range(EACH)]
    for number in range(EACH):
        tell(site, number, f"first {number}")
    here = site.publish("page", "here", private=True)

    tab.driver.get(f"{site.url}/?here={here}")
    tab.run("window.asking = setInterval(ask, 100)")
    firsts = [f"first {number}" for number in range(EACH)]
    tab.wait_for("all states", lambda: shown(tab), [firsts, firsts])
    tab.wait("their way back", lambda: tab.run("return held()") == 1)
    for number in range(EACH):
        tell(site, number, f"second {number}")
    seconds = [f"second {number}" for number in range(EACH)]
    tab.wait_for("all states", lambda: shown(tab), [seconds, seconds])

    tab.run("clearInterval(asking)")
    assert max(tab.run("return answered")) < 1000
    assert tab.run("return most") == 2
    assert sorted(tab.run("return begun")[1:]) == sorted([*at, "earliest"])
    tab.wait_for("connections", lambda: len(site.topics()), 1)
