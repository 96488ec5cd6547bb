"""Browsers for the tests of the examples."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator

import pytest
from selenium import webdriver

from tests.examples.browser import ROOT, start_chromium, windows_of
from tests.examples.chat_window import Window
from tests.needs import need

INSTALL = ("install", "--ignore-scripts", "--no-audit", "--no-fund", "--no-package-lock", "--loglevel=error")


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[int], list[webdriver.Chrome]]]:
    """Starts browsers, each with its own profile, and keeps them for the next test."""
    need("chromium", "chromium-driver")
    running: list[webdriver.Chrome] = []

    def browsers(count: int) -> list[webdriver.Chrome]:
        while len(running) < count:
            # The certificate of the HTTPS tests is self-signed; the flag changes nothing for the others.
            profile = tmp_path_factory.mktemp("profile")
            running.append(start_chromium(profile, "--ignore-certificate-errors"))
        return running[:count]

    yield browsers
    for driver in running:
        driver.quit()


@pytest.fixture
def windows(
    chromium: Callable[[int], list[webdriver.Chrome]],
) -> Iterator[Callable[[int], list[Window]]]:
    with windows_of(Window, chromium) as several:
        yield several


@pytest.fixture(scope="session")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """Installs what an example needs, outside of the repository."""
    need("npm")

    def install(example: str) -> str:
        folder = tmp_path_factory.mktemp(example)
        shutil.copy(ROOT / "examples" / example / "package.json", folder)
        run = subprocess.run(
            ["npm", *INSTALL], cwd=folder, capture_output=True, text=True, timeout=120, check=False
        )
        assert run.returncode == 0, run.stderr
        return str(folder / "node_modules")

    return install
