"""Fuzzing: each file states an invariant, and looks for inputs that break it.

An ordinary run is short and tries the same inputs each time. ``FUZZ=30 pytest tests/fuzz`` looks for
thirty minutes, each time elsewhere. What such a run finds becomes an ``@example`` of its test.
"""

from __future__ import annotations

import os
import time

import pytest
from hypothesis import HealthCheck, settings

_SECONDS = float(os.environ.get("FUZZ", "0")) * 60
_share = [0.0]

settings.register_profile(
    "fuzz",
    max_examples=1000 if _SECONDS else 50,
    derandomize=not _SECONDS,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
settings.load_profile("fuzz")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Share out the time."""
    own = [item for item in items if item.path.parent.name == "fuzz"]
    _share[0] = _SECONDS / max(1, len(own))


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """In a long run, repeat a test until its time is over."""
    if not _SECONDS:
        return None
    ends = time.monotonic() + _share[0]
    while True:
        pyfuncitem.obj()
        if time.monotonic() >= ends:
            return True
