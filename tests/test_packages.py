"""What of the system the tests need: installed as root, asked for as another user."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import packages
from tests.packages import EVIDENCE, command, install, missing, needed

ROOT = Path(__file__).parents[1]

# apt-get that creates what the packages given to it would bring, and notes the policy that holds meanwhile.
APT_GET = """#!/bin/sh
echo "$@" >> "$NOTES"
case "$*" in *install*) sh "$POLICY"; echo "policy $?" >> "$NOTES"; touch "$BROUGHT" ;; esac
"""
# Tests on a machine that lacks one package, in a project of their own.
PROJECT = """
import pytest
from tests import needs, packages
from tests.needs import need, pytest_runtest_makereport, pytest_sessionfinish

packages.EVIDENCE["nginx"] = packages.EVIDENCE["caddy"] = "/nowhere"

@pytest.fixture(scope="session")
def proxy():
    need("caddy", "python3")
"""
TESTS = """
import pytest
from tests.needs import need

def test_one(proxy): raise AssertionError
def test_two(proxy): raise AssertionError
def test_three(): need("nginx")
def test_four(): pytest.skip("the kernel")
def test_five(): pass
"""


def test_a_layer_needs_what_its_tests_need() -> None:
    assert needed("seconds") == ["python3-venv"]
    assert "postgresql" in needed("minutes") and "nginx" not in needed("minutes")
    assert "nginx" in needed("servers") and "postgresql" not in needed("servers")
    assert needed("not servers") == needed("seconds or minutes") == needed("minutes")
    assert needed("foreign") == needed("seconds")
    assert needed("") == needed("minutes or servers") == sorted(EVIDENCE)


def test_a_program_or_a_file_shows_that_a_package_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = {"a": "program", "b": f"{tmp_path}/lib/*/file", "c": "absent", "d": f"{tmp_path}/absent/*"}
    monkeypatch.setattr(packages, "EVIDENCE", shown)
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "program").touch(mode=0o755)
    (tmp_path / "lib" / "17").mkdir(parents=True)
    (tmp_path / "lib" / "17" / "file").touch()
    assert missing("abcd") == ["c", "d"]


@pytest.fixture
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What apt-get is told, on a machine that lacks supervisor."""
    brought, notes = tmp_path / "supervisord", tmp_path / "notes"
    for name, value in {"NOTES": notes, "BROUGHT": brought, "POLICY": tmp_path / "policy-rc.d"}.items():
        monkeypatch.setenv(name, str(value))
    (tmp_path / "apt-get").write_text(APT_GET)
    (tmp_path / "apt-cache").write_text("#!/bin/sh\n")
    for name in ("apt-get", "apt-cache"):
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("TEST_SETUP", raising=False)
    everything = {name: str(tmp_path) for name in EVIDENCE}
    monkeypatch.setattr(packages, "EVIDENCE", everything | {"supervisor": str(brought)})
    monkeypatch.setattr(packages, "POLICY", tmp_path / "policy-rc.d")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return notes


@pytest.mark.minutes
def test_root_is_told_first_and_no_service_starts(notes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert install(needed("")) == []
    said = capsys.readouterr().out
    assert "supervisor" in said and "nginx" not in said
    update, installed, policy = notes.read_text().splitlines()
    assert " update " in update and installed.endswith("install -y supervisor")
    assert policy == "policy 101"  # not allowed, invoke-rc.d(8)
    assert not packages.POLICY.exists()


@pytest.mark.minutes
def test_installed_packages_are_not_installed_again(notes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    install(needed(""))
    notes.unlink()
    capsys.readouterr()
    assert install(needed("")) == []
    assert not notes.exists() and capsys.readouterr().out == ""


@pytest.mark.minutes
def test_the_machines_policy_on_services_stays(notes: Path) -> None:
    packages.POLICY.write_text("exit 77\n")
    install(needed(""))
    assert notes.read_text().splitlines()[-1] == "policy 77"
    assert packages.POLICY.read_text() == "exit 77\n"


@pytest.mark.minutes
def test_setup_goes_on_without_a_network(notes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (notes.parent / "apt-get").write_text("#!/bin/sh\necho 'E: no network' >&2; exit 100\n")
    assert install(needed("")) == ["supervisor"]
    assert capsys.readouterr().out.endswith("E: no network\nStill missing: supervisor\n")
    assert not packages.POLICY.exists()


@pytest.mark.minutes
def test_a_demo_needs_some_packages_only(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "packages.py", "--only", "caddy"],
        cwd=ROOT / "tests",
        env={"PATH": str(tmp_path), "TEST_SETUP": "no", "CI": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "")  # it is not on this path


@pytest.mark.parametrize("wanted", ["no setup", "another user", "a layer that needs nothing"])
def test_setup_installs_nothing_where_it_must_not(
    wanted: str, notes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if wanted == "no setup":
        monkeypatch.setenv("TEST_SETUP", "no")
    if wanted == "another user":
        monkeypatch.setattr(os, "geteuid", lambda: 1000)
    install(needed("seconds" if wanted == "a layer that needs nothing" else ""))
    assert not notes.exists()


def test_the_command_is_for_who_reads_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert command(["caddy", "nginx"]) == "sudo apt-get install -y caddy nginx"
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert command(["caddy"]) == "apt-get install -y caddy"


def project(folder: Path, *arguments: str, **variables: str) -> list[str]:
    """The lines that pytest ends with."""
    (folder / "conftest.py").write_text(PROJECT)
    (folder / "test_it.py").write_text(TESTS)
    kept = {name: value for name, value in os.environ.items() if name != "CI"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:mercure", *arguments, folder],
        cwd=folder,
        env=kept | {"PYTHONPATH": str(ROOT)} | variables,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.splitlines()


@pytest.mark.minutes
@pytest.mark.parametrize("workers", [[], ["-n", "2"]], ids=["alone", "with xdist"])
def test_the_closing_line_is_a_command(workers: list[str], tmp_path: Path) -> None:
    *before, counts, closing = project(tmp_path, "-rs", *workers)
    assert len([line for line in before if line.startswith("SKIPPED")]) == 3  # caddy, nginx, the kernel
    assert "1 passed, 4 skipped" in counts
    assert closing == f"3 tests were skipped for lack of packages of Debian: {command(['caddy', 'nginx'])}"


@pytest.mark.minutes
def test_no_closing_line_is_printed_when_nothing_is_missing(tmp_path: Path) -> None:
    assert "1 passed, 1 skipped" in project(tmp_path, "-k", "four or five")[-1]


@pytest.mark.minutes
def test_in_ci_a_missing_package_is_a_failure(tmp_path: Path) -> None:
    assert "1 failed, 1 passed, 1 skipped, 2 errors" in project(tmp_path, CI="true")[-1]
