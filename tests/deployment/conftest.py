"""What the tests of Apache share, and browsers."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deployment.site import DEBIAN, SYSTEM_PYTHON, shared_environment
from tests.examples.conftest import chromium

__all__ = ["chromium", "environment"]


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A virtual environment with the Python of mod_wsgi; needs Apache, too."""
    lacking = [
        name
        for name, is_here in {
            "apache2": Path("/usr/sbin/apache2").exists(),
            "libapache2-mod-wsgi-py3": (DEBIAN / "mods-available" / "wsgi.load").exists(),
            "python3-venv": SYSTEM_PYTHON.exists(),
            "curl": shutil.which("curl") is not None,
        }.items()
        if not is_here
    ]
    if lacking:
        message = f"apt-get install {' '.join(lacking)}"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    with shared_environment(shared) as venv:
        yield venv
