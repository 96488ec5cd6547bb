"""Headless Chromium with a hundred streams on one connection; over HTTP/1.1 it opens six."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from selenium import webdriver

from tests.certificates import self_signed
from tests.examples.browser import Page, leave
from tests.hub.running import HUB_PATH, running_hub

pytestmark = pytest.mark.servers

MANY = 100
_FOLLOW = """
window.events = []; window.opened = 0; window.failed = 0;
for (let number = 0; number < arguments[0]; number++) {
  const query = new URLSearchParams([["match", "all"], ["match", `own-${number}`]]);
  const source = new EventSource(`/.well-known/mercure?${query}`);
  source.onopen = () => { opened += 1 };
  source.onerror = () => { failed += 1 };
  source.onmessage = (event) => events.push(`${number} ${event.data}`);
}
"""
_PUBLISH = """
return (async () => {
  const body = new URLSearchParams({ topic: "all", data: "from the page" });
  const headers = { Authorization: `Bearer ${arguments[0]}` };
  const answer = await fetch("/.well-known/mercure", { method: "POST", headers, body });
  await answer.text();
  const [entry] = performance.getEntriesByType("resource").slice(-1);
  return [answer.status, entry.nextHopProtocol];
})()
"""


_WEBSOCKET = """
window.messages = [];
const socket = new WebSocket(`wss://${location.host}/.well-known/mercure?match=all`);
socket.onopen = () => messages.push("open");
socket.onmessage = (event) => messages.push(event.data);
"""


def connections(port: int) -> int:
    """How many are open to a port of this machine."""
    lines = Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]
    return sum(line.split()[2].endswith(f":{port:04X}") and line.split()[3] == "01" for line in lines)


def test_a_hundred_streams_share_a_connection(
    folder: Path, chromium: Callable[[int], list[webdriver.Chrome]]
) -> None:
    page = Page(chromium(1)[0])
    certificate = self_signed(folder)
    with running_hub(folder, anonymous=1, debugger=1, tls_cert=certificate) as hub:
        page.driver.get(f"https://127.0.0.1:{hub.port}{HUB_PATH}/debugger/")
        page.run(_FOLLOW, MANY)
        page.wait_for("open", lambda: page.run("return opened"), MANY)
        assert page.run(_PUBLISH, hub.token()) == [200, "h2"]
        page.wait_for("events", lambda: page.run("return events.length"), MANY)
        hub.send("own-42", "mine")
        page.wait_for("the last event", lambda: page.run("return events.at(-1)"), "42 mine")
        assert connections(hub.port) == 1
        # A WebSocket has a connection of its own, with HTTP/1.1.
        page.run(_WEBSOCKET)
        page.wait_for("a WebSocket", lambda: page.run("return messages[0]"), "open")
        assert connections(hub.port) == 2
        port = hub.port
    with running_hub(folder, port=port, anonymous=1, debugger=1, tls_cert=certificate) as hub:
        # All come back, with what they missed.
        hub.send("all", "after the restart")
        page.wait_for("open again", lambda: page.run("return opened"), 2 * MANY)
        page.wait_for("events", lambda: page.run("return events.length"), 2 * MANY + 1)
        assert connections(hub.port) == 1
        page.driver.get("about:blank")
    leave([page])
