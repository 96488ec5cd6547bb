"""What ``make`` says when it cannot make its virtual environment."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.minutes

SCRIPT = Path(__file__).with_name("venv.sh")


def make(folder: Path, python: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", SCRIPT, python, folder / ".venv"],
        env={**os.environ, "TEST_SETUP": "no"},
        capture_output=True,
        text=True,
        check=False,
    )


def python_that(folder: Path, *, has_venv: bool, does: str = "exit 0") -> str:
    """A Python for which importing ensurepip ends so, and everything else like this."""
    program = folder / "python"
    program.write_text(f'#!/bin/sh\n[ "$1" = -c ] && exit {0 if has_venv else 1}\n{does}\n')
    program.chmod(0o755)
    return str(program)


def test_make_names_a_folder_that_is_not_writable(tmp_path: Path) -> None:
    """As root, by another user: root may write everywhere."""
    is_root = os.geteuid() == 0
    folder = Path(tempfile.mkdtemp())  # not pytest's, which is closed to other users
    shutil.copy(SCRIPT, folder)
    folder.chmod(0o555)
    try:
        done = subprocess.run(
            ["sh", "venv.sh", "python3", ".venv"],
            cwd=folder,
            user="nobody" if is_root else None,
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        folder.chmod(0o755)
        shutil.rmtree(folder)
    assert done.returncode == 1
    assert f"may not write to {folder}, where" in done.stderr
    assert "chown" in done.stderr and "python3-venv" not in done.stderr


def test_make_names_the_package_of_venv(tmp_path: Path) -> None:
    done = make(tmp_path, python_that(tmp_path, has_venv=False))
    assert done.returncode == 1
    assert done.stderr.startswith("Python has no venv.")
    assert "apt-get install -y python3-venv" in done.stderr


def test_make_shows_any_other_error_of_python(tmp_path: Path) -> None:
    done = make(
        tmp_path, python_that(tmp_path, has_venv=True, does="echo No space left on device >&2; exit 1")
    )
    assert done.returncode == 1
    assert "No space left on device" in done.stderr and "python3-venv" not in done.stderr
    assert not (tmp_path / ".venv").exists()


def test_make_creates_the_environment(tmp_path: Path) -> None:
    done = make(tmp_path, python_that(tmp_path, has_venv=True, does='mkdir "$3"'))
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / ".venv").is_dir()
