"""Skips tests that need a missing package of the system, and says at the end how to install them all."""

from __future__ import annotations

import os
from collections.abc import Generator

import pytest

from tests.packages import command, missing


class PackagesMissing(pytest.skip.Exception):  # type: ignore[name-defined, misc]
    """Skips a test.

    :ivar packages: those of Debian that it needs and this machine has not.
    """

    def __init__(self, packages: list[str]) -> None:
        super().__init__(f"apt-get install {' '.join(packages)}")
        self.packages = packages


def need(*packages: str) -> None:
    """Skip the test unless the packages are installed; in CI they have to be.

    :param packages: names from the list in ``tests/packages.py``.
    :raises PackagesMissing: one is not there.
    """
    lacking = missing(packages)
    if lacking and os.environ.get("CI"):
        pytest.fail(f"apt-get install {' '.join(lacking)}")
    if lacking:
        raise PackagesMissing(lacking)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    call: pytest.CallInfo[None],
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if call.excinfo is not None and isinstance(call.excinfo.value, PackagesMissing):
        report.missing_packages = call.excinfo.value.packages  # type: ignore[attr-defined]
        # One place for all, so that pytest -ra has a line for each group of packages, not for each test.
        report.longrepr = (__file__, need.__code__.co_firstlineno, f"Skipped: {call.excinfo.value}")
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> Generator[None, None, None]:
    yield
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None:  # a worker of xdist
        return
    lacking = [
        report.missing_packages
        for report in reporter.getreports("skipped")
        if hasattr(report, "missing_packages")
    ]
    if not lacking:
        return
    packages = sorted({package for one in lacking for package in one})
    count = f"{len(lacking)} test was" if len(lacking) == 1 else f"{len(lacking)} tests were"
    # After pytest's own last line, since it is what the reader is to do.
    reporter.write_line(f"{count} skipped for lack of packages of Debian: {command(packages)}", yellow=True)
