"""Tests on a Linux from which everything is taken that macOS does not have (``make test PORTABLE=yes``).

A test that needs what only Linux has carries the mark ``linux`` with a reason, and is skipped there.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

FOLDER = Path(__file__).with_name("portable")
IS_PORTABLE = str(FOLDER) in os.environ.get("PYTHONPATH", "").split(os.pathsep)

ENVIRONMENT = {"PYTHONPATH": str(FOLDER)} if IS_PORTABLE else {}
"""What the hubs that tests start as processes need."""


def skip_if_about_linux(item: pytest.Item) -> None:
    """Skip what is about Linux."""
    mark = item.get_closest_marker("linux")
    if mark is not None and IS_PORTABLE:
        item.add_marker(pytest.mark.skip(reason=f"Linux only: {mark.args[0]}"))
