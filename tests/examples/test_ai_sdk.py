"""``useChat`` of the AI SDK, as npm has it, with the transport of ``static/ai.js``, in headless Chromium."""

from __future__ import annotations

import queue
import shutil
import subprocess
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, Response, render_template_string, request, send_file

import flask_mercure
from flask_mercure import Mercure, URLPattern, build_topic
from tests.examples.browser import ROOT
from tests.examples.loading import install_packages
from tests.examples.page_site import Served, Tab

pytestmark = pytest.mark.servers

_SOURCE = ROOT / "tests" / "examples" / "ai_sdk"
_BUNDLE = (
    *("--bundle", "--format=esm", "--jsx=automatic", "--outfile=page.js"),
    *("--external:mercure", "--external:mercure/*"),
    '--define:process.env.NODE_ENV="production"',
)
_PAGE = """<!doctype html>
<link rel="icon" href="data:,">
{{ mercure_script() }}
<script type="application/json" id="page">{{ page | tojson }}</script>
<script type="module" src="/page.js"></script>
<div id="chat"></div>
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page's script: the packages in one file, without the module that the app serves."""
    folder = tmp_path_factory.mktemp("ai_sdk")
    shutil.copytree(_SOURCE, folder, dirs_exist_ok=True)
    install_packages(folder)
    _run(folder, "node_modules/.bin/esbuild", "page.tsx", *_BUNDLE)
    return folder / "page.js"


def _run(folder: Path, *command: str) -> None:
    run = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


class Chats(Served):
    """An app with one user, whose model says what a test puts into ``tokens``: ``None`` is its end."""

    def __init__(self, directory: Path, script: Path) -> None:
        self.script = script
        self.tokens: queue.Queue[Any] = queue.Queue()
        self.dies_after: list[Any] | None = None  # what it publishes until its worker is killed
        self.jobs: list[threading.Thread] = []
        self.chats: dict[str, dict[str, Any]] = {}
        super().__init__(directory, self._make, Mercure())

    def _model(self) -> Iterator[Any]:
        while (token := self.tokens.get(timeout=30)) is not None:
            if isinstance(token, Exception):
                raise token
            yield token

    def answer(self, chat: dict[str, Any], topic: str) -> None:
        """The job."""
        if self.dies_after is not None:
            head = {"run": topic, "stream": "of a worker that was killed"}
            self.publish(topic, {**head, "seq": 0, "kind": "start"}, private=True)
            content = {**head, "seq": 1, "kind": "events", "events": self.dies_after}
            self.publish(topic, content, private=True)
            self.dies_after = None
            return
        try:
            with self.app.app_context():
                run = self.mercure.stream_events(topic, self._model(), interval=0)
                message = {"id": topic, "role": "assistant", "parts": [{"type": "text", "text": run.text}]}
                chat["messages"].append(message)
        except OSError:
            pass  # the model's; the page was told
        finally:
            chat["topic"] = None

    def says(self, *tokens: Any) -> None:
        for token in tokens:
            self.tokens.put(token)

    def goes_on_until_stopped(self) -> None:
        """The model goes on until the last job hears that it was stopped, or for 30 seconds."""
        for _ in range(300):
            self.tokens.put("and ever ")
            self.jobs[-1].join(0.1)
            if not self.jobs[-1].is_alive():
                self.tokens = queue.Queue()
                return
        raise AssertionError("the job goes on")

    def _make(self, config: Mapping[str, Any]) -> Flask:
        app = Flask("chats")
        app.config.from_mapping(config)
        self.mercure.init_app(app)

        @self.mercure.subscribe_grants
        def grants() -> list[URLPattern]:
            return [URLPattern.build("/users/{}/*", 7)]

        @app.get("/<name>")
        def page(name: str) -> str:
            position = self.mercure.last_event_id()
            chat = self.chats.setdefault(name, {"messages": [], "topic": None})
            page = {"id": name, **chat, "position": position, "asks": "asks" in request.args}
            return render_template_string(_PAGE, page=page)

        @app.get("/page.js")
        def script() -> Response:
            return send_file(self.script, mimetype="text/javascript")

        @app.post("/chat")
        def ask() -> Any:
            assert request.headers["X-CSRF-Token"] == "of the page"
            assert request.json is not None
            if request.json["id"] == "full":
                return Response("Too many chats.", 429, mimetype="text/plain")
            chat = self.chats[request.json["id"]]
            chat["messages"] = request.json["messages"]
            chat["topic"] = build_topic("/users/{}/runs/{}", 7, len(self.jobs))
            told = {"message": chat["messages"][-1], "topic": chat["topic"]}
            self.mercure.publish(build_topic("/users/{}/chats/{}", 7, request.json["id"]), told, private=True)
            self.jobs.append(threading.Thread(target=self.answer, args=(chat, chat["topic"])))
            self.jobs[-1].start()
            return {"topic": chat["topic"]}

        @app.get("/chat/<name>/stream")
        def stream(name: str) -> Any:
            topic = self.chats[name]["topic"]
            return {"topic": topic} if topic else ("", 204)

        @app.post("/chat/<name>/stop")
        def stop(name: str) -> tuple[str, int]:
            if topic := self.chats[name]["topic"]:
                self.mercure.stop(topic)
            return "", 204

        return app

    def close(self) -> None:
        self.tokens.put(None)
        for job in self.jobs:
            job.join(30)
        super().close()


@pytest.fixture
def site(tmp_path: Path, script: Path) -> Iterator[Chats]:
    site = Chats(tmp_path, script)
    yield site
    site.close()


def texts(tab: Tab, role: str = "assistant") -> list[str]:
    found: list[str] = tab.run(
        "return [...document.querySelectorAll('p.' + arguments[0])].map((one) => one.textContent)", role
    )
    return found


def wait_text(tab: Tab, *expected: str) -> None:
    tab.wait_for("answers", lambda: texts(tab), list(expected))


def wait_status(tab: Tab, expected: str) -> None:
    tab.wait_for("status", lambda: tab.run("return document.getElementById('status')?.textContent"), expected)


def visit(tab: Tab, url: str) -> None:
    tab.run("0")  # to the front
    tab.driver.get(url)
    tab.wait("the chat", lambda: tab.run("return document.getElementById('ask') !== null"))


def press(tab: Tab, button: str) -> None:
    tab.run("document.getElementById(arguments[0]).click()", button)


@pytest.mark.parametrize("how", ["", "?asks=1"])
def test_an_answer_survives_a_reload_and_shows_in_two_tabs(site: Chats, tab: Tab, how: str) -> None:
    """The page has the topic of the run, or asks for it."""
    visit(tab, f"{site.url}/a{how}")
    wait_status(tab, "ready")
    press(tab, "ask")
    site.says("Because ")
    wait_text(tab, "Because ")
    wait_status(tab, "streaming")

    visit(tab, f"{site.url}/a{how}")  # a reload in mid-answer
    wait_text(tab, "Because ")
    assert texts(tab, "user") == ["Why?"]
    other = tab.new()
    visit(other, f"{site.url}/a{how}")
    wait_text(other, "Because ")
    site.says("it ")
    for one in (tab, other):
        wait_text(one, "Because it ")
    site.says("is.", None)
    for one in (tab, other):
        wait_text(one, "Because it is.")
        wait_status(one, "ready")
    site.jobs[0].join(30)
    visit(tab, f"{site.url}/a{how}")  # nothing runs: what was saved
    wait_status(tab, "ready")
    wait_text(tab, "Because it is.")

    press(tab, "ask")  # and on, in the other tab too
    site.says("Really.", None)
    for one in (tab, other):
        wait_text(one, "Because it is.", "Really.")
        wait_status(one, "ready")
        assert texts(one, "user") == ["Why?", "Why?"]


def test_stop_ends_it_in_all_tabs(site: Chats, tab: Tab) -> None:
    visit(tab, f"{site.url}/a")
    press(tab, "ask")
    site.says("For ever ")
    wait_text(tab, "For ever ")
    other = tab.new()
    visit(other, f"{site.url}/a")
    wait_text(other, "For ever ")
    press(other, "stop")
    for one in (tab, other):
        wait_status(one, "ready")
    site.goes_on_until_stopped()
    for one in (tab, other):
        wait_text(one, "For ever ")
    assert site.chats["a"]["messages"][-1]["parts"] == [{"type": "text", "text": "For ever "}]

    press(tab, "ask")  # the tab that asked stops, too
    site.says("Again ")
    wait_text(tab, "For ever ", "Again ")
    press(tab, "stop")
    wait_status(tab, "ready")
    site.goes_on_until_stopped()


def test_a_failed_run_shows_an_error(site: Chats, tab: Tab) -> None:
    visit(tab, f"{site.url}/a")
    press(tab, "ask")
    site.says("Half an ans")
    wait_text(tab, "Half an ans")
    site.says(OSError("the-secret"))
    wait_status(tab, "error")
    assert tab.run("return document.getElementById('error').textContent") == "The answer broke off."


STEP: list[dict[str, Any]] = [
    {"type": "start", "messageId": "m1"},
    {"type": "start-step"},
    {"type": "tool-input-available", "toolCallId": "c", "toolName": "weather", "input": {"city": "Rome"}},
    {"type": "tool-output-available", "toolCallId": "c", "output": "sunny"},
]
TEXT: list[dict[str, Any]] = [
    {"type": "text-start", "id": "t"},
    {"type": "text-delta", "id": "t", "delta": "It is "},
    {"type": "text-delta", "id": "t", "delta": "sunny."},
    {"type": "text-end", "id": "t"},
    {"type": "finish-step"},
    {"type": "finish"},
]


def test_chunks_pass_through(site: Chats, tab: Tab) -> None:
    """The events of the AI SDK's own servers: steps, tools and text."""
    visit(tab, f"{site.url}/a")
    press(tab, "ask")
    site.says(*STEP)
    wait_text(tab, "[step-start][tool-weather]")
    wait_status(tab, "streaming")
    site.says(*TEXT, None)
    wait_text(tab, "[step-start][tool-weather]It is sunny.")
    wait_status(tab, "ready")


@pytest.mark.parametrize(
    ("lost", "events", "whole"),
    [
        (["Half an ans"], ["Another ", "answer."], "Another answer."),
        ([*STEP, *TEXT[:2]], [*STEP, *TEXT], "[step-start][tool-weather]It is sunny."),
    ],
)
def test_a_job_that_is_tried_again_begins_the_answer_again(
    site: Chats, tab: Tab, lost: list[Any], events: list[Any], whole: str
) -> None:
    site.dies_after = lost
    visit(tab, f"{site.url}/a")
    press(tab, "ask")
    tab.wait("a part", lambda: texts(tab) != [])
    assert texts(tab) != [whole]
    chat = site.chats["a"]
    site.jobs.append(threading.Thread(target=site.answer, args=(chat, chat["topic"])))
    site.jobs[-1].start()
    site.says(*events, None)
    wait_status(tab, "ready")
    assert texts(tab) == [whole]


def test_a_question_that_is_refused(site: Chats, tab: Tab) -> None:
    visit(tab, f"{site.url}/full")
    press(tab, "ask")
    wait_status(tab, "error")
    assert tab.run("return document.getElementById('error').textContent") == "Too many chats."


def test_types(script: Path) -> None:
    """The declarations fit the SDK's own, as TypeScript says."""
    static = Path(flask_mercure.__file__).parent / "static"
    shutil.copytree(static, script.parent / "mercure", dirs_exist_ok=True)
    _run(script.parent, "node_modules/.bin/tsc")
