"""Whether the wall clock can be believed when updates are discarded by their age.

A clock that is set ahead by a day makes the whole history a day old. The time since the machine started does
not jump, and goes on while it sleeps: where the two part, the wall clock was set.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from enum import Enum

TOLERANCE = 60.0
"""Seconds by which the clock may be set without being doubted."""

DOUBT = 3600.0
"""Seconds after which a clock that was set is believed."""


class Trim(Enum):
    """What may be discarded."""

    ALL = "by number and by age"
    BY_NUMBER = "by number only"
    NOTHING = "nothing: it cannot be told what others have read"


@dataclass(frozen=True, slots=True)
class Belief:
    """What is thought of the wall clock. An offset is its time less that since the machine started.

    :param believed: the offset that is believed.
    :param seen: the offset at the last look.
    :param doubted_since: time since the start of the machine, in seconds, at which the clock was set;
        ``None`` while it is believed.
    :param set_at: the same for the last time that it was set, also when it was set back to what it was.
    """

    believed: float
    seen: float
    doubted_since: float | None = None
    set_at: float = float("-inf")

    def allows(self, boot: float, grace: float) -> Trim:
        """What may be discarded now.

        :param boot: seconds since the start of the machine.
        :param grace: seconds for which updates stay for other processes.
        """
        if boot - self.set_at < grace:  # what was stamped before looks older than it is, or younger
            return Trim.NOTHING
        return Trim.ALL if self.doubted_since is None else Trim.BY_NUMBER


def believed(offset: float) -> Belief:
    """Believe the wall clock as it is.

    :param offset: its time less that since the start of the machine.
    """
    return Belief(offset, offset)


def look(belief: Belief, wall: float, boot: float) -> Belief:
    """Compare the clocks.

    :param wall: seconds since the epoch.
    :param boot: seconds since the start of the machine, with those in which it slept.
    """
    offset = wall - boot
    is_set = abs(offset - belief.seen) > TOLERANCE
    set_at = boot if is_set else belief.set_at
    if abs(offset - belief.believed) <= TOLERANCE:
        return Belief(offset, offset, None, set_at)
    since = boot if is_set or belief.doubted_since is None else belief.doubted_since
    if boot - since >= DOUBT:
        return Belief(offset, offset, None, set_at)
    return Belief(belief.believed, offset, since, set_at)


def since_boot() -> float:
    """Seconds since the machine started, with those in which it slept."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
