"""The load generator, built for these tests."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.needs import need

SOURCE = Path(__file__).parents[2] / "bench"


@pytest.fixture(scope="session")
def sseload(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program; its warnings are errors, as in every build."""
    if not sys.platform.startswith("linux"):
        pytest.skip("the load generator needs Linux")
    need("gcc", "libc6-dev", "libssl-dev", "make")
    folder = tmp_path_factory.mktemp("bench")
    for path in (*SOURCE.glob("*.[ch]"), SOURCE / "Makefile"):
        shutil.copy(path, folder)
    subprocess.run(["make", "-C", str(folder)], check=True, capture_output=True)
    return folder / "sseload"
