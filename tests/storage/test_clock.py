"""When the wall clock is believed."""

from __future__ import annotations

import pytest

from mercure_hub.storage.sqlite.retention import Trim, believed, look

HOUR, DAY = 3600.0, 86400.0
GRACE = 30.0
ALL, BY_NUMBER, NOTHING = Trim.ALL, Trim.BY_NUMBER, Trim.NOTHING

# Each look: seconds since the start, how far the wall clock is ahead of what it was, what may be discarded.
STORIES: dict[str, list[tuple[float, float, Trim]]] = {
    "a clock that runs": [(0, 0, ALL), (1, 0, ALL), (DAY, 0, ALL)],
    "a clock that is corrected by less than a minute": [(1, 59, ALL), (2, -1, ALL)],
    "small corrections, again and again": [(1, 50, ALL), (2, 100, ALL), (3, 150, ALL)],
    "a clock that drifts by little each second": [(n, n * 0.01, ALL) for n in range(0, 20_000, 1000)],
    "a jump by a day": [
        (100, DAY, NOTHING),
        (129, DAY, NOTHING),
        (130, DAY, BY_NUMBER),
        (100 + HOUR - 1, DAY, BY_NUMBER),
        (100 + HOUR, DAY, ALL),
        (100 + HOUR + 1, DAY, ALL),
    ],
    "a jump back": [(100, -DAY, NOTHING), (130, -DAY, BY_NUMBER), (100 + HOUR, -DAY, ALL)],
    "a jump by a minute and a half": [(1, 90, NOTHING), (40, 90, BY_NUMBER)],
    "a jump that is taken back": [
        (100, DAY, NOTHING),
        (200, DAY, BY_NUMBER),
        (300, 0, NOTHING),
        (330, 0, ALL),
    ],
    "a second jump begins the hour anew": [
        (100, DAY, NOTHING),
        (100 + HOUR - 10, 2 * DAY, NOTHING),
        (100 + HOUR + 20, 2 * DAY, BY_NUMBER),
        (90 + 2 * HOUR, 2 * DAY, ALL),
    ],
    "a machine that sleeps for a week": [(0, 0, ALL), (7 * DAY, 0, ALL)],
    "a clock that was never set before": [(5, 56 * 365 * DAY, NOTHING), (5 + HOUR, 56 * 365 * DAY, ALL)],
}


@pytest.mark.parametrize("story", STORIES.values(), ids=STORIES)
def test_what_may_be_discarded(story: list[tuple[float, float, Trim]]) -> None:
    belief = believed(1_000_000.0)
    for boot, ahead, allowed in story:
        belief = look(belief, 1_000_000.0 + boot + ahead, boot)
        assert belief.allows(boot, GRACE) is allowed, (boot, ahead)


def test_an_operator_who_reloads_is_believed() -> None:
    belief = look(believed(0.0), DAY, 0.0)
    assert belief.allows(40.0, GRACE) is Trim.BY_NUMBER
    belief = look(believed(DAY), DAY + 41.0, 41.0)
    assert belief.allows(41.0, GRACE) is Trim.ALL
