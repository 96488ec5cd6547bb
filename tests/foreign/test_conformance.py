"""The conformance suite of the Go hub, from a checkout of dunglas/mercure that ``MERCURE_CHECKOUT`` names."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from tests.foreign.kinds import MODULES, missing_from_npm, missing_program
from tests.foreign.processes import bound, hub_process

pytestmark = pytest.mark.foreign

CONFIGURATION = Path(__file__).resolve().parent / "conformance.config.ts"
AT_MOST = 300  # seconds; the suite has a limit of its own
# What the token in the suite was made for.
HUB = {
    "MERCURE_PUBLISHER_JWT_KEY": "!ChangeThisMercureHubJWTSecretKey!",
    "MERCURE_ISSUER": "https://localhost",
    "MERCURE_PUBLIC_URL": "https://localhost/.well-known/mercure",
}


def _suite() -> Path:
    """The folder of the suite; the test is skipped without it, or without what runs it."""
    given = os.environ.get("MERCURE_CHECKOUT", "")
    folder = Path(given) / "conformance-tests"
    missing = ""
    if not given:
        missing = "no checkout is given: make foreign MERCURE_CHECKOUT=/path/to/dunglas/mercure"
    elif not (folder / "playwright.config.ts").is_file():
        missing = f"MERCURE_CHECKOUT={given} has no conformance-tests"
    missing = missing or missing_program("node", "nodejs npm") or missing_program("chromium")
    for package in ("@playwright/test", "dotenv"):
        missing = missing or missing_from_npm(package)
    if missing:
        pytest.skip(f"conformance suite of dunglas/mercure: {missing}")
    return folder


def test_the_conformance_suite_passes(tmp_path: Path) -> None:
    suite = tmp_path / "suite"
    shutil.copytree(_suite(), suite, ignore=shutil.ignore_patterns("node_modules", "test-results"))
    shutil.copy(CONFIGURATION, suite)
    (suite / "node_modules").symlink_to(MODULES)
    # Chromium makes a socket in its folder, whose path must be short.
    with TemporaryDirectory() as short, hub_process(tmp_path, **HUB) as process:
        address = f"http://localhost:{process.start().port}"
        report = _run(suite, {"BASE_URL": address, "CUSTOM_ID": "1", "HOME": short, "TMPDIR": short})
    outcomes = dict(_outcomes(report))
    assert outcomes, report["errors"]
    assert {name: told for name, told in outcomes.items() if told} == {}
    assert report["stats"]["expected"] == len(outcomes)


def _run(suite: Path, variables: dict[str, str]) -> dict[str, Any]:
    """Run Playwright, and leave no browser behind."""
    environment = {
        "PATH": os.environ["PATH"],
        "CHROMIUM": shutil.which("chromium") or "",
        **variables,
    }
    command = ["node", "node_modules/@playwright/test/cli.js", "test", "--config", CONFIGURATION.name]
    with subprocess.Popen(
        bound(command), cwd=suite, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    ) as playwright:  # fmt: skip
        try:
            printed, errors = playwright.communicate(timeout=AT_MOST)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(playwright.pid, signal.SIGKILL)
    assert printed.startswith("{"), printed + errors
    report: dict[str, Any] = json.loads(printed)
    return report


def _outcomes(report: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Names of tests, and what is wrong with each."""
    waiting = list(report["suites"])
    while waiting:
        group = waiting.pop()
        waiting += group.get("suites", [])
        for spec in group.get("specs", []):
            results = [result for one in spec["tests"] for result in one["results"]]
            wrong = [error["message"] for result in results for error in result["errors"]]
            yield spec["title"], "" if spec["ok"] else "\n".join(wrong) or "did not run"
