"""Browsers for the tests of the examples."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator

import pytest
from selenium import webdriver

from tests.examples.browser import ROOT, leave, start_chromium, windows_of
from tests.examples.chat_window import Window
from tests.examples.loading import install_packages
from tests.examples.page_site import Tab
from tests.needs import need


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


@pytest.fixture
def tab(chromium: Callable[[int], list[webdriver.Chrome]]) -> Iterator[Tab]:
    """A tab whose pages have no problems."""
    first = Tab(chromium(1)[0])
    yield first
    first.driver.switch_to.window(first.handle)
    assert leave([first]) == []


@pytest.fixture(scope="session")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """Installs what an example needs, outside of the repository."""

    def install(example: str) -> str:
        folder = tmp_path_factory.mktemp(example)
        shutil.copy(ROOT / "examples" / example / "package.json", folder)
        return str(install_packages(folder))

    return install
