"""Browsers for the tests of the examples."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest
from selenium import webdriver

from tests.examples.browser import missing_programs, start_chromium


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[int], list[webdriver.Chrome]]]:
    """Starts browsers, each with its own profile, and keeps them for the next test."""
    missing = missing_programs()
    if missing:
        reason = f"{' and '.join(missing)} not found: apt-get install chromium chromium-driver"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
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
