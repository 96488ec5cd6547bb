"""``examples/llm`` in headless Chromium: an answer grows, ends, or breaks off."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.common.keys import Keys

from flask_mercure import Mercure
from tests.examples.browser import ROOT, Page, end, free_ports, leave, spawn, wait_for_answer
from tests.examples.page_site import SECRET, HubProcess

_APP = ROOT / "examples" / "llm" / "app.py"


def load_example() -> tuple[Any, Any]:
    """The modules of the example, as ``flask --app examples/llm/app`` finds them."""
    folder = _APP.parent
    spec = spec_from_file_location("llm", folder / "__init__.py", submodule_search_locations=[str(folder)])
    assert spec is not None
    sys.modules["llm"] = module_from_spec(spec)
    return import_module("llm.app"), import_module("llm.model")


app, model = load_example()
create_app, answer = app.create_app, model.answer

_ID = "0b7e0c0e-8e3c-4e4c-9d9e-0d9a6a3c1b11"
_CONFIG = {"SECRET_KEY": "x", "MERCURE_URL": "http://localhost:9/", "MERCURE_JWT_SECRET": SECRET}


def test_the_model_gives_its_text_bit_by_bit() -> None:
    pauses: list[float] = []
    tokens = list(answer("What is a hub?", pauses.append))
    assert len(tokens) == len(pauses) > 20
    assert "".join(tokens).startswith("The hub holds the connections")
    with pytest.raises(model.ModelError):
        list(answer("crash", pauses.append))


def test_a_question_is_answered_on_the_visitors_topic() -> None:
    client = create_app(_CONFIG).test_client()
    with Mercure().record() as updates:
        client.get("/")
        reply = client.post(
            "/ask", json={"question": "hub?", "id": _ID}, headers={"Sec-Fetch-Site": "same-origin"}
        )
    assert reply.status_code == 200
    assert len({update.topic for update in updates}) == 1
    assert all(update.private and update.json["stream"] == _ID for update in updates)
    assert updates[-1].json["kind"] == "done"


def test_an_answer_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    site = create_app(_CONFIG)
    client, stranger = site.test_client(), site.test_client()
    same = {"Sec-Fetch-Site": "same-origin"}

    def endless(_: str) -> Iterator[str]:
        yield "some "
        assert stranger.post("/stop", json={"id": _ID}, headers=same).status_code == 204
        yield "text"
        with client.session_transaction() as session:
            assert list(app.stops) == [(session["visitor"], _ID)]
        other = site.test_client()
        other.set_cookie("session", client.get_cookie("session").value)
        assert other.post("/stop", json={"id": _ID}, headers=same).status_code == 204
        yield "never "
        raise AssertionError("the source goes on")

    monkeypatch.setattr(app, "answer", endless)
    with Mercure().record() as updates:
        client.get("/")
        stranger.get("/")
        reply = client.post("/ask", json={"question": "x", "id": _ID}, headers=same)
    assert reply.status_code == 200
    assert updates[-1].json["kind"] == "done"
    assert updates[-1].json["text"] == "some text"
    assert app.stops == {}


def test_what_is_refused() -> None:
    client = create_app(_CONFIG).test_client()
    same = {"Sec-Fetch-Site": "same-origin"}
    question = {"question": "a", "id": _ID}
    with Mercure().record() as updates:
        assert client.post("/ask", json=question, headers=same).status_code == 401
        client.get("/")
        assert client.post("/ask", json=question, headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403
        assert client.post("/ask", json=question).status_code == 403
        bodies: list[Any] = [
            {"question": "", "id": _ID},
            {"question": "x" * 501, "id": _ID},
            {"question": "a"},
            [],
        ]
        for body in bodies:
            assert client.post("/ask", json=body, headers=same).status_code == 422
    assert updates == []


@pytest.fixture
def page(tmp_path: Path, chromium: Callable[[int], list[webdriver.Chrome]]) -> Iterator[Page]:
    hub_port, port = free_ports(2)
    url = f"http://localhost:{port}"
    hub = HubProcess(tmp_path, hub_port, {"MERCURE_CORS_ORIGINS": url})
    app = spawn(
        tmp_path,
        "app",
        ["-m", "flask", "--app", str(_APP), "run", "--port", str(port)],
        {
            "FLASK_SECRET_KEY": "of the tests",
            "FLASK_MERCURE_URL": hub.url,
            "FLASK_MERCURE_JWT_SECRET": SECRET,
        },
    )
    try:
        wait_for_answer(url, app)
        window = Page(chromium(1)[0])
        window.driver.get(url)
        yield window
        assert leave([window]) == []
    finally:
        end(app)
        hub.close()


def states(page: Page) -> list[str]:
    script = "return [...document.querySelectorAll('#answers li')].map((one) => one.dataset.state)"
    found: list[str] = page.run(script)
    return found


def texts(page: Page) -> list[str]:
    script = "return [...document.querySelectorAll('.answer')].map((one) => one.textContent)"
    found: list[str] = page.run(script)
    return found


@pytest.mark.servers
def test_answers_grow_in_the_page(page: Page) -> None:
    page.wait("the stream", lambda: page.run("return document.readyState") == "complete")
    page.run(
        """
        window.seen = [];
        new MutationObserver(() => {
          const text = document.querySelector(".answer")?.textContent;
          if (text && text !== window.seen.at(-1)) window.seen.push(text);
        }).observe(document.getElementById("answers"), { subtree: true, childList: true });
        """
    )
    box = page.driver.find_element("id", "question")
    box.send_keys("What is a hub?", Keys.ENTER)
    page.wait_for("the answer", lambda: states(page), ["done"])
    whole = "".join(answer("hub", lambda _: None))
    assert texts(page) == [whole]
    seen: list[str] = page.run("return window.seen")
    assert len(seen) > 2
    assert all(later.startswith(earlier) for earlier, later in pairwise(seen))
    assert seen[-1] == whole

    box.send_keys("What is order?", Keys.ENTER)
    page.wait("a first piece", lambda: len(texts(page)) == 2 and texts(page)[1] != "")
    page.driver.find_element("class name", "stop").click()
    page.wait_for("the end", lambda: states(page), ["done", "done"])
    stopped, entire = texts(page)[1], "".join(answer("order", lambda _: None))
    assert entire.startswith(stopped)
    assert stopped != entire
    assert page.run("return document.querySelectorAll('.stop').length") == 0

    box.send_keys("crash, please", Keys.ENTER)
    page.wait_for("the failure", lambda: states(page), ["done", "done", "failed"])
    problem = page.driver.find_element("class name", "problem").text
    assert problem == "The answer broke off."
    assert "out of memory" not in page.driver.page_source
    assert 0 < len(texts(page)[2]) < len(whole)
