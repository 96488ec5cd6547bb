"""What the tests of the engine share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fanout.bench import Bench


def _descriptors() -> set[str]:
    found: set[str] = set()
    for one in Path("/proc/self/fd").iterdir():
        try:
            found.add(f"{one.name} {one.readlink()}")
        except FileNotFoundError:  # the directory itself
            continue
    return found


@pytest.fixture
def no_descriptor_left() -> Iterator[None]:
    """Each descriptor that a test opens is closed at its end, and none that it did not open."""
    before = _descriptors()
    yield
    assert _descriptors() == before


@pytest.fixture
def bench(no_descriptor_left: None) -> Iterator[Bench]:
    """An engine with the limits that are the default."""
    bench = Bench()
    yield bench
    bench.close()
