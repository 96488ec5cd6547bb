"""What the tests of Apache share, and browsers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deployment.site import shared_environment
from tests.examples.conftest import chromium
from tests.needs import need

__all__ = ["chromium", "environment"]


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A virtual environment with the Python of mod_wsgi; needs Apache, too."""
    need("apache2", "libapache2-mod-wsgi-py3", "python3", "curl")
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    with shared_environment(shared) as venv:
        yield venv
