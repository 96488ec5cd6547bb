"""Real processes and headless Chromium, for the tests of the examples."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.request import urlopen

from selenium import webdriver
from selenium.common.exceptions import TimeoutException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.ui import WebDriverWait

ROOT = Path(__file__).resolve().parents[2]
WITHIN = 60.0  # seconds for something to happen in a page: people are listed for 15 after they left
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1280,800",
)

T = TypeVar("T")
P = TypeVar("P", bound="Page")


def spawn(
    directory: Path, name: str, arguments: list[str], settings: dict[str, str]
) -> subprocess.Popen[bytes]:
    """Start a Python process with these settings and no others; it writes to ``{name}.log``."""
    kept = {
        variable: value
        for variable, value in os.environ.items()
        if not variable.startswith(("MERCURE_", "FLASK_"))
    }
    with (directory / f"{name}.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, *arguments], cwd=ROOT, env=kept | settings, stdout=log, stderr=log
        )


def end(process: subprocess.Popen[bytes] | None) -> None:
    """End a process that may have ended."""
    if process is not None and process.poll() is None:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def free_ports(count: int) -> list[int]:
    """Ports that nobody listened on a moment ago."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def wait_for_answer(url: str, process: subprocess.Popen[bytes]) -> None:
    """Wait until a server is there."""
    insecure = ssl._create_unverified_context()  # only its presence is asked for
    deadline = time.monotonic() + WITHIN
    while time.monotonic() < deadline:
        assert process.poll() is None, f"{process.args!r} ended with status {process.returncode}"
        try:
            with urlopen(url, timeout=5, context=insecure) as answer:
                assert answer.status == 200
                return
        except OSError:
            time.sleep(0.05)
    raise AssertionError(f"no answer from {url}")


class Page:
    """A browser with a profile of its own."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver

    def run(self, script: str, *arguments: object) -> Any:
        """Run JavaScript in the page; a promise is waited for."""
        return self.driver.execute_script(script, *arguments)

    def wait(self, what: str, condition: Callable[[], T]) -> T:
        """Wait until a condition holds."""
        try:
            found: T = WebDriverWait(self.driver, WITHIN, poll_frequency=0.05).until(lambda _: condition())
        except TimeoutException:
            state = self.run("return document.body.innerText")
            loaded = self.run("return performance.getEntriesByType('resource').map(({ name }) => name)")
            raise AssertionError(
                f"{what}: not within {WITHIN:.0f} s. The page:\n{state}\nIt has loaded: {' '.join(loaded)}"
            ) from None
        return found

    def wait_for(self, what: str, value: Callable[[], object], expected: object) -> None:
        """Wait until a value is as expected; the message shows the last one otherwise."""
        try:
            WebDriverWait(self.driver, WITHIN, poll_frequency=0.05).until(lambda _: value() == expected)
        except TimeoutException:
            raise AssertionError(f"{what}: {value()!r}, not {expected!r}") from None

    def problems(self) -> list[str]:
        """What the browser's console has, without the failed requests that a restart causes."""
        log: list[dict[str, Any]] = self.driver.get_log("browser")  # type: ignore[no-untyped-call]
        return [entry["message"] for entry in log if "Failed to load resource" not in entry["message"]]


@contextmanager
def windows_of(
    kind: Callable[[webdriver.Chrome], P], chromium: Callable[[int], list[webdriver.Chrome]]
) -> Iterator[Callable[[int], list[P]]]:
    """Windows of people who do not know each other's cookies; checks that no page had a problem.

    :param kind: makes a page of a driver.
    :param chromium: see ``conftest``.
    """
    opened: list[P] = []

    def several(count: int) -> list[P]:
        opened.extend(map(kind, chromium(count)))
        return opened

    yield several
    assert leave(opened) == []


def leave(pages: Sequence[Page]) -> list[str]:
    """Leave the browsers as they were found, for the next test.

    :returns: the problems that the pages had.
    """
    problems = [problem for page in pages for problem in page.problems()]
    for page in pages:
        for handle in page.driver.window_handles[1:]:
            page.driver.switch_to.window(handle)
            page.driver.close()
        page.driver.switch_to.window(page.driver.window_handles[0])
        page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        page.driver.get("about:blank")
        page.driver.execute_cdp_cmd("Network.clearBrowserCookies", {})
    return problems


def start_chromium(profile: Path, *flags: str) -> webdriver.Chrome:
    """A browser.

    :param profile: empty directory.
    :param flags: beside the usual ones.
    """
    options = webdriver.ChromeOptions()
    for flag in (*_FLAGS, *flags, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.binary_location = shutil.which("chromium") or ""
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver") or ""))
