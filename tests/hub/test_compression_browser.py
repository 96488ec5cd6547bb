"""Compressed streams in headless Chromium."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver

from tests.examples.browser import Page, leave
from tests.examples.conftest import chromium  # noqa: F401
from tests.hub.running import RunningHub, running_hub

pytestmark = pytest.mark.servers

_FOLLOW = """
window.events = []; window.opened = 0;
const source = new EventSource("/.well-known/mercure?match=t");
source.onopen = () => { opened += 1 };
source.onmessage = (event) => events.push([event.data, event.lastEventId]);
"""
_CODING = """
return (async () => {
  const aborter = new AbortController();
  const answer = await fetch("/.well-known/mercure?match=t", { signal: aborter.signal });
  aborter.abort();
  return answer.headers.get("content-encoding");
})()
"""
_ORDER = "shipped, " * 300


def _received(page: Page) -> list[Any]:
    found: list[Any] = page.run("return events")
    return found


def _send(hub: RunningHub, page: Page, expected: list[list[str]], data: str, **fields: str) -> None:
    """Publish, and wait until the page has it: nothing comes after it that could push it through."""
    expected.append([data, hub.send("t", data, **fields)])
    page.wait_for("events", lambda: _received(page), expected)


def test_each_event_comes_as_it_is_sent_and_once(
    folder: Path,
    chromium: Callable[[int], list[webdriver.Chrome]],  # noqa: F811
) -> None:
    page = Page(chromium(1)[0])
    expected: list[list[str]] = []
    settings: dict[str, Any] = {"anonymous": 1, "compression": "zstd"}
    with running_hub(folder, **settings) as hub:
        page.driver.get(f"http://127.0.0.1:{hub.port}/healthz")
        assert page.run(_CODING) == "zstd"
        page.run(_FOLLOW)
        page.wait_for("open", lambda: page.run("return opened"), 1)
        _send(hub, page, expected, "1", retry="100")
        for data in ("2", _ORDER, "x" * 600_000, f"3 {_ORDER}", "4"):
            _send(hub, page, expected, data)
        port = hub.port
    with running_hub(folder, port=port, **settings) as hub:
        # The page is still away: what it misses comes as history.
        expected += [[data, hub.send("t", data)] for data in ("5", _ORDER, "6")]
        page.wait_for("connections", lambda: page.run("return opened"), 2)
        page.wait_for("events", lambda: _received(page), expected)
        _send(hub, page, expected, f"7 {_ORDER}")
        assert page.run("return opened") == 2
    assert leave([page]) == []
