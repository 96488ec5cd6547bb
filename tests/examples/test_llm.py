"""``examples/llm`` in headless Chromium: an answer grows, survives a reload, is stopped, or breaks off."""

from __future__ import annotations

import queue
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.common.keys import Keys

from flask_mercure import Mercure
from tests.examples.browser import ROOT, leave
from tests.examples.page_site import SECRET, Served, Tab


def load_example() -> tuple[Any, Any]:
    """The modules of the example, as ``flask --app examples/llm/app`` finds them."""
    folder = ROOT / "examples" / "llm"
    spec = spec_from_file_location("llm", folder / "__init__.py", submodule_search_locations=[str(folder)])
    assert spec is not None
    sys.modules["llm"] = module_from_spec(spec)
    return import_module("llm.app"), import_module("llm.model")


app, model = load_example()

_CONFIG = {"SECRET_KEY": "x", "MERCURE_URL": "http://localhost:9/", "MERCURE_JWT_SECRET": SECRET}
_RUN = "0b7e0c0e-8e3c-4e4c-9d9e-0d9a6a3c1b11"


def test_the_model_gives_its_text_bit_by_bit() -> None:
    pauses: list[float] = []
    tokens = list(model.generate("What is a hub?", pauses.append))
    assert len(tokens) == len(pauses) > 20
    assert "".join(tokens).startswith("The hub holds the connections")
    with pytest.raises(model.ModelError):
        list(model.generate("crash", pauses.append))


def test_what_is_refused() -> None:
    client = app.create_app(_CONFIG).test_client()
    with Mercure().record() as updates:
        assert client.post("/runs", data={"question": "a"}).status_code == 401
        assert client.post(f"/runs/{_RUN}/stop").status_code == 401
        client.get("/")
        for question in ("", " ", "x" * 501):
            assert client.post("/runs", data={"question": question}).status_code == 422
        assert client.post("/runs").status_code == 400
        assert client.post("/runs/of-somebody/stop").status_code == 404
    assert updates == []


def test_a_user_stops_nothing_but_own_runs() -> None:
    client = app.create_app(_CONFIG).test_client()
    client.get("/")
    with client.session_transaction() as session:
        user = session["user"]
    with Mercure().record() as updates:
        assert client.post(f"/runs/{_RUN}/stop").status_code == 204
    assert updates.one().topic == f"/users/{user}/runs/{_RUN}"


@pytest.fixture
def tokens(monkeypatch: pytest.MonkeyPatch) -> queue.Queue[str | None]:
    """What the model says; ``None`` is its end. It fails if it is asked about a crash."""
    said: queue.Queue[str | None] = queue.Queue()

    def generate(question: str) -> Iterator[str]:
        while (token := said.get(timeout=30)) is not None:
            yield token
        if "crash" in question:
            raise model.ModelError("out of memory on device 0")

    monkeypatch.setattr(app, "generate", generate)
    return said


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Served]:
    site = Served(tmp_path, lambda config: app.create_app({"SECRET_KEY": "x", **config}), app.mercure)
    yield site
    site.close()


@pytest.fixture
def tab(site: Served, chromium: Callable[[int], list[webdriver.Chrome]]) -> Iterator[Tab]:
    first = Tab(chromium(1)[0])
    first.driver.get(site.url)
    yield first
    first.driver.switch_to.window(first.handle)
    assert leave([first]) == []


def runs(tab: Tab) -> list[list[str]]:
    """Question, answer, end and note of each run on the page."""
    found: list[list[str]] = tab.run(
        """return [...document.querySelectorAll("article")].map((run) =>
             [run.children[0].textContent, run.children[1].textContent, run.dataset.end ?? "",
              run.children[2].textContent.trim()])"""
    )
    return found


def ask(tab: Tab, question: str) -> None:
    tab.run("0")  # to the front
    tab.driver.find_element("name", "question").send_keys(question, Keys.ENTER)


@pytest.mark.servers
@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnhandledThreadExceptionWarning"
)  # the model's, as it should
def test_answers_in_two_tabs(site: Served, tab: Tab, tokens: queue.Queue[str | None]) -> None:
    ask(tab, "hub?")
    tokens.put("The hub ")
    begun = [["hub?", "The hub ", "", "Stop"]]
    tab.wait_for("runs", lambda: runs(tab), begun)
    tab.driver.refresh()
    tab.wait_for("runs", lambda: runs(tab), begun)
    other = tab.new()
    other.driver.get(site.url)
    other.wait_for("runs", lambda: runs(other), begun)
    for token in ("holds.", None):
        tokens.put(token)
    done = ["hub?", "The hub holds.", "done", ""]
    for one in (tab, other):
        one.wait_for("runs", lambda one=one: runs(one), [done])  # type: ignore[misc]

    ask(tab, "reload?")
    tokens.put("For ")
    for one in (tab, other):
        one.wait_for("runs", lambda one=one: runs(one), [done, ["reload?", "For ", "", "Stop"]])  # type: ignore[misc]
    other.run("document.querySelector('button.stop').click()")
    stopped = ["reload?", "For ", "stopped", "Stopped."]
    for one in (tab, other):
        one.wait_for("runs", lambda one=one: runs(one), [done, stopped])  # type: ignore[misc]
    tokens.put(None)

    ask(other, "crash, please")
    for token in ("Half", None):
        tokens.put(token)
    broken = ["crash, please", "Half", "error", "The answer broke off."]
    for one in (tab, other):
        one.wait_for("runs", lambda one=one: runs(one), [done, stopped, broken])  # type: ignore[misc]
