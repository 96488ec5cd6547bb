"""``new WebSocket`` in Chromium, as docs/websocket.md shows it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from selenium import webdriver

from tests.examples.browser import Page, leave
from tests.hub.running import HUB_PATH, RunningHub, running_hub

pytestmark = pytest.mark.servers

Browsers = Callable[[int], list[webdriver.Chrome]]

OPEN = """
window.got = [];
window.ended = null;
const socket = new WebSocket(arguments[0]);
socket.onmessage = (message) => got.push(JSON.parse(message.data));
socket.onclose = (event) => { ended = {code: event.code, reason: event.reason, clean: event.wasClean}; };
window.socket = socket;
return new Promise((done) => {
    socket.addEventListener("open", () => done("open"));
    socket.addEventListener("close", () => done("closed"));
});
"""


@pytest.fixture
def page(chromium: Browsers) -> Iterator[Page]:
    page = Page(chromium(1)[0])
    yield page
    leave([page])


def url(hub: RunningHub, query: str) -> str:
    return f"ws://127.0.0.1:{hub.port}{HUB_PATH}?{query}"


def visit(page: Page, hub: RunningHub, host: str = "127.0.0.1") -> None:
    """A page of the hub's own origin, which is any that the hub serves; with the cookie for it."""
    page.driver.get(f"http://{host}:{hub.port}/livez")
    page.driver.add_cookie({"name": "mercure", "value": hub.token(lifetime=60), "path": HUB_PATH})


def got(page: Page) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = page.run("return got")
    return found


def test_receives_with_its_cookie_and_resumes(page: Page, folder: Path) -> None:
    with running_hub(folder, cookie_name="mercure", heartbeat=1) as hub:
        visit(page, hub)
        assert page.run(OPEN, url(hub, "match=a")) == "open"
        first = hub.send("a", "secret \U0001f600", private="on", type="order")
        expected = [{"id": first, "type": "order", "data": "secret \U0001f600"}]
        page.wait_for("the message", lambda: got(page), expected)
        page.run("socket.close(1000, 'enough')")
        page.wait_for("the end", lambda: page.run("return ended && [ended.code, ended.clean]"), [1000, True])
        hub.send("a", "missed", private="on")
        assert page.run(OPEN, url(hub, f"match=a&last_event_id={quote(first)}")) == "open"
        page.wait_for("what was missed", lambda: [one["data"] for one in got(page)], ["missed"])
        page.run("socket.send('hello')")
        page.wait_for(
            "the refusal", lambda: page.run("return ended && [ended.code, ended.clean]"), [1003, True]
        )


def test_the_end_of_the_hub_is_a_clean_one(page: Page, folder: Path) -> None:
    with running_hub(folder, anonymous=1) as hub:
        visit(page, hub)
        assert page.run(OPEN, url(hub, "match=a")) == "open"
    expected = {"code": 1001, "reason": "the hub stops", "clean": True}
    page.wait_for("the end", lambda: page.run("return ended"), expected)


def test_a_page_of_another_origin(page: Page, folder: Path) -> None:
    with running_hub(folder, anonymous=1, cookie_name="mercure") as hub:
        visit(page, hub, "localhost")
        assert page.run(OPEN, url(hub, "match=a")) == "closed"
        assert page.run("return ended.code") == 1006
        page.problems()  # the refusal is one
