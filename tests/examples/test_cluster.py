"""``make demo-cluster``: the chat on two hubs, of which one and then the other is killed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from selenium.webdriver.common.keys import Keys

from tests.deployment.site import readable_folder
from tests.examples.browser import ROOT
from tests.examples.chat_window import Window
from tests.needs import need

pytestmark = pytest.mark.servers

_PACKAGES = {"postgresql": "postgresql", "valkey": "valkey-server"}


@dataclass
class Demo:
    """The running demo.

    :param url: origin of its pages.
    """

    process: subprocess.Popen[str]
    url: str


def _begin(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MERCURE_", "FLASK_"))}
    return subprocess.Popen(
        [sys.executable, "-m", "examples.cluster.demo", *arguments],
        env=kept | {"TMPDIR": str(folder)},
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


@pytest.fixture(params=_PACKAGES)
def demo(request: pytest.FixtureRequest) -> Iterator[Demo]:
    """The demo on each engine; afterwards nothing of it is left."""
    need("nginx", _PACKAGES[request.param])
    # PostgreSQL runs as another user, who may not enter pytest's folders.
    with (
        readable_folder() as folder,
        _begin(folder, "--port", "0", "--engine", request.param) as process,
    ):
        try:
            assert process.stdout is not None and process.stderr is not None
            lines = (re.search(r"(http://\S+)/hubs/", line) for line in process.stdout)
            found = next(filter(None, lines), None)
            assert found, process.stderr.read()
            yield Demo(process, found[1])
            children = _children_of(process.pid)
        finally:
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=60)
        assert "Traceback" not in errors
        assert process.returncode == 0
        assert list(folder.iterdir()) == []
        assert len(children) == 4
        assert [pid for pid in children if Path(f"/proc/{pid}").exists()] == []


def _children_of(pid: int) -> list[int]:
    paths = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for path in paths for child in path.read_text().split()]


class Hubs(Window):
    """The page that shows the hubs."""

    def look(self, demo: Demo) -> None:
        """Open it."""
        self.driver.get(f"{demo.url}/hubs/")
        self.wait_hubs("ready")

    def wait_hubs(self, condition: str) -> None:
        """Wait until both hubs are in a state."""
        self.wait_for(
            "hubs", lambda: [self.text(hub, ".condition") for hub in ("1", "2")], [condition, condition]
        )

    def text(self, part: str, selector: str) -> str:
        """What the tile of a part says."""
        return str(
            self.run(
                "return document.querySelector(`[data-part='${arguments[0]}'] ${arguments[1]}`).textContent",
                part,
                selector,
            )
        )

    def press(self, part: str, act: str, then: str) -> None:
        """Press a button, and wait for the state that it brings."""
        self.run(
            "document.querySelector(`[data-part='${arguments[0]}'] [data-act='${arguments[1]}']`).click()",
            part,
            act,
        )
        self.wait_for(f"part {part}", lambda: self.text(part, ".condition"), then)

    def chosen(self) -> str:
        """The hub that has this browser's stream; empty while none has it."""
        return str(self.run("return document.querySelector('.chosen')?.dataset.hub ?? ''"))

    def number(self, name: str) -> int:
        """A count of the page, ``received`` or ``lost``."""
        return int(self.run("return document.getElementById(arguments[0]).textContent", name))


def test_hubs_are_killed_under_the_chat(demo: Demo, windows: Callable[[int], list[Window]]) -> None:
    ada, grace, third = windows(3)
    watcher = Hubs(third.driver)
    watcher.look(demo)
    ada.sign_in(demo, "Ada")
    grace.sign_in(demo, "Grace")
    for hub in ("1", "2"):
        watcher.wait_for("names", lambda hub=hub: watcher.text(hub, ".names"), "Ada, Grace")  # type: ignore[misc]

    expected: list[str] = []
    for killed, other in (("1", "2"), ("2", "1")):
        watcher.press(killed, "kill", "down")
        expected.append(f"without hub {killed}")
        ada.send(expected[-1])
        for window in (ada, grace):
            window.wait_live()
            window.wait_texts(*expected)
        watcher.wait_for("hub of the stream", watcher.chosen, other)
        watcher.press(killed, "start", "ready")

    received = watcher.number("received")
    watcher.wait("more numbers", lambda: watcher.number("received") > received)
    assert watcher.number("lost") == 0


def test_the_engine_is_killed_under_the_chat(demo: Demo, windows: Callable[[int], list[Window]]) -> None:
    ada, second = windows(2)
    watcher = Hubs(second.driver)
    watcher.look(demo)
    ada.sign_in(demo, "Ada")
    ada.send("before")
    ada.wait_texts("before")
    watcher.press("engine", "kill", "down")
    watcher.wait_hubs("without the engine")
    watcher.press("engine", "start", "ready")
    watcher.wait_hubs("ready")
    received = watcher.number("received")
    watcher.wait("more numbers", lambda: watcher.number("received") > received)
    assert watcher.number("lost") == 0
    box = ada.driver.find_element("id", "text")
    box.send_keys("after")

    def is_taken() -> bool:
        """The first publication after a restart of the engine may be refused."""
        box.send_keys(Keys.ENTER)
        return str(box.get_property("value")) == ""

    ada.wait("the message is taken", is_taken)
    ada.wait_texts("before", "after")


def test_a_port_is_taken(tmp_path: Path) -> None:
    need("nginx")
    demo = _begin(tmp_path, "--port", "1", "--host", "203.0.113.1")
    _, errors = demo.communicate(timeout=60)
    assert demo.returncode == 1
    assert errors.startswith("demo: cannot listen on 203.0.113.1 port 1: ")
    assert errors.endswith("(--port)\n")
    assert list(tmp_path.iterdir()) == []
