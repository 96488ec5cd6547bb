"""Rules of the life of a process that need no process."""

from __future__ import annotations

import pytest

from mercure_hub.server.lifecycle import delays


@pytest.mark.parametrize(
    ("count", "seconds", "expected"),
    [
        (0, 10.0, []),
        (1, 10.0, [0.0]),
        (2, 10.0, [0.0, 5.0]),
        (4, 10.0, [0.0, 2.5, 5.0, 7.5]),
        (3, 0.0, [0.0, 0.0, 0.0]),
    ],
)
def test_ends_of_streams_are_spread_evenly(count: int, seconds: float, expected: list[float]) -> None:
    assert list(delays(count, seconds)) == expected
