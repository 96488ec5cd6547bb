"""A bar in Chromium that follows jobs in workers of Celery and RQ."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, Response, render_template_string, request

from flask_mercure import Mercure
from tests.engines import RedisServer
from tests.examples.page_site import SECRET, Served, Tab
from tests.flask_mercure.jobs import Worker

pytestmark = pytest.mark.servers

TOPIC = "jobs/7"
PAGE = """<!doctype html>
<html lang="en">
<link rel="icon" href="data:,">
<title>Job</title>
{{ mercure_script(nonce="abc") }}
<script type="module" src="/page.js"></script>
<body>{{ mercure_progress("jobs/7", "Import", then=request.args.get("then")) }}</body>
</html>
"""
SCRIPT = """
import { progress } from "mercure";

window.ends = [];
for (const type of ["done", "failed"]) {
  addEventListener(type, ({ detail }) => ends.push([type, detail.result ?? null]));
}
window.values = [];
progress("jobs/7", { running: ({ value }) => values.push(value) });
"""
POLICY = (
    "default-src 'none'; script-src 'self' 'nonce-abc'; connect-src 'self' {hub}; img-src data:; "
    "base-uri 'none'; require-trusted-types-for 'script'"
)


def make_app(mercure: Mercure, config: Mapping[str, Any]) -> Flask:
    app = Flask("jobs")
    app.config.from_mapping(config)
    mercure.init_app(app)

    @app.get("/")
    def page() -> Response:
        response = app.make_response(render_template_string(PAGE))
        hub = app.config["MERCURE_PUBLIC_URL"].partition("/.well-known")[0]
        response.headers["Content-Security-Policy"] = POLICY.format(hub=hub)
        return mercure.set_cookie(response, subscribe=[TOPIC])

    @app.get("/page.js")
    def script() -> Response:
        return Response(SCRIPT, mimetype="text/javascript")

    @app.get("/report")
    def report() -> str:
        return f"<link rel=icon href=data:,>the report {request.args.get('of', '')}"

    return app


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Served]:
    mercure = Mercure()
    site = Served(tmp_path, lambda config: make_app(mercure, config), mercure)
    yield site
    site.close()


@pytest.fixture
def work(site: Served, valkey_engine: RedisServer, tmp_path: Path) -> Iterator[Callable[[str], Worker]]:
    """Starts a worker of a kind, in a database that nobody has used."""
    valkey_engine.run("FLUSHALL")
    opened: list[Worker] = []

    def start(kind: str) -> Worker:
        broker = f"redis://{valkey_engine.host}:{valkey_engine.port}/3"
        opened.append(Worker(kind, broker, site.hub.url, SECRET, tmp_path))
        return opened[-1]

    yield start
    for worker in opened:
        worker.close()


def _shown(tab: Tab) -> Any:
    return tab.run("""
      const job = document.querySelector("mercure-progress");
      const bar = job.querySelector("progress");
      return {
        state: job.getAttribute("state"),
        bar: bar.position,
        label: job.querySelector("[data-label]").textContent,
        end: job.querySelector("output").textContent,
      };
    """)


def _wait(tab: Tab, state: str | None, bar: float, label: str = "", end: str = "") -> None:
    expected = {"state": state, "bar": bar, "label": label, "end": end}
    tab.wait_for("the bar", lambda: _shown(tab), expected)


@pytest.mark.parametrize("kind", ["celery", "rq"])
def test_a_page_follows_a_job(site: Served, work: Callable[[str], Worker], tab: Tab, kind: str) -> None:
    worker = work(kind)
    tab.driver.get(site.url)
    _wait(tab, None, -1)
    worker.start(TOPIC, 4)
    _wait(tab, "running", 0)
    worker.lead(TOPIC, "step first")
    _wait(tab, "running", 0.25, "first")

    late = tab.new()
    late.driver.get(site.url)
    _wait(late, "running", 0.25, "first")
    worker.lead(TOPIC, "step second")
    for one in (tab, late):
        _wait(one, "running", 0.5, "second")
    tab.wait_for("connections", lambda: len(site.subscriptions()), 1)

    worker.lead(TOPIC, "end")
    for one in (tab, late):
        _wait(one, "done", 1, "second", "Done.")
        assert one.run("return ends") == [["done", "/report"]]
        assert one.run("return values.at(-1)") == 2


def test_a_job_that_fails_and_is_tried_again(site: Served, work: Callable[[str], Worker], tab: Tab) -> None:
    worker = work("rq")
    tab.driver.get(site.url)
    worker.start(TOPIC)
    _wait(tab, "running", -1)
    worker.lead(TOPIC, "fail")
    _wait(tab, "failed", -1, "", "The job has failed.")
    worker.start(TOPIC, 2)
    _wait(tab, "running", 0)
    worker.lead(TOPIC, "end")
    _wait(tab, "done", 1, "", "Done.")
    assert tab.run("return ends") == [["failed", None], ["done", "/report"]]


def test_the_hub_is_restarted_during_the_job(site: Served, work: Callable[[str], Worker], tab: Tab) -> None:
    worker = work("celery")
    tab.driver.get(site.url)
    worker.start(TOPIC, 4)
    worker.lead(TOPIC, "step first")
    _wait(tab, "running", 0.25, "first")
    site.hub.kill()
    worker.lead(TOPIC, "step second")
    tab.wait("the failure", lambda: "was not published" in worker.log())
    worker.lead(TOPIC, "step third", "end")  # the hub is away at the end, too
    site.hub.start()
    _wait(tab, "done", 1, "third", "Done.")


def test_a_page_goes_on_when_the_job_is_done(site: Served, work: Callable[[str], Worker], tab: Tab) -> None:
    """Also one that is loaded after the end."""
    worker = work("rq")
    worker.lead(TOPIC, "end")
    tab.driver.get(f"{site.url}/?then=/report%3Fof=7")
    worker.start(TOPIC)
    tab.wait_for("the page", lambda: tab.run("return document.body.textContent"), "the report 7")
    tab.driver.get(f"{site.url}/?then=/report%3Fof=8")
    tab.wait_for("the page", lambda: tab.run("return document.body.textContent"), "the report 8")
