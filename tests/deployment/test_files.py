"""What docs/deployment.md and docs/systemd say exists, and the unit is one."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from mercure_hub.config.settings import TABLE
from tests.deployment.site import PAGE, ROOT
from tests.needs import need

HUBS = ROOT / "docs" / "nginx" / "mercure-hubs.conf"
UNIT = ROOT / "docs" / "systemd" / "mercure-hub.service"
PAGES = [
    PAGE,
    ROOT / "docs" / "coming-from.md",
    *(ROOT / "docs" / folder / "README.md" for folder in ("nginx", "caddy", "docker")),
]
ENVIRONMENT = ROOT / "docs" / "systemd" / "hub.env"


def test_the_settings_exist() -> None:
    known = {setting.variable for setting in TABLE}
    known |= set(re.findall(r"MERCURE_[A-Z_]+", (ROOT / "docs" / "extension.md").read_text()))
    folders = ("apache", "nginx", "caddy", "supervisor", "docker")
    files = [file for folder in folders for file in (ROOT / "docs" / folder).iterdir()]
    for file in (PAGE, UNIT, ENVIRONMENT, *files):
        assert set(re.findall(r"MERCURE_[A-Z_]+", file.read_text())) <= known, file


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_files_exist(page: Path) -> None:
    text = page.read_text()
    for path in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (page.parent / path).exists(), path
    for path in re.findall(r"(?<![\w/])docs/[\w./-]+", text):
        assert (ROOT / path).exists(), path


def test_proxies_wait_longer_than_a_heartbeat() -> None:
    (heartbeat,) = (float(setting.default) for setting in TABLE if setting.name == "heartbeat")
    for file in (ROOT / "docs" / "apache").glob("mercure*.conf"):
        (timeout,) = set(re.findall(r" timeout=(\d+)", file.read_text()))
        assert float(timeout) > 2 * heartbeat
    for file in set((ROOT / "docs" / "nginx").glob("mercure*.conf")) - {HUBS}:
        (timeout,) = re.findall(r"proxy_read_timeout (\d+)s;", file.read_text())
        assert float(timeout) > 2 * heartbeat


@pytest.mark.minutes
def test_the_unit(tmp_path: Path) -> None:
    """With the path of a program that is here."""
    need("systemd")
    text = UNIT.read_text()
    assert re.findall(r"^Exec(Start|Reload)=(.*)$", text, re.MULTILINE) == [
        ("Start", "/opt/mercure/bin/mercure-hub"),
        ("Reload", "/opt/mercure/bin/mercure-hub check --quiet"),
        ("Reload", "/bin/kill -HUP $MAINPID"),
    ]
    unit = tmp_path / UNIT.name
    unit.write_text(text.replace("/opt/mercure/bin/mercure-hub", sys.executable))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
