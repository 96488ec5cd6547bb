"""The hub's clock and ours: tokens have a beginning and an end."""

from __future__ import annotations

from flask_mercure.doctor.finding import Finding, ok, problem, warning
from mercure_hub.protocol.errors import Section

_ROUNDING = 2.0  # a Date has whole seconds, and the answer takes its time
_TOLERATED = 5.0
_SERIOUS = 60.0


def skew(theirs: float | None, ours: float, lifetime: float) -> Finding:
    """Compare the clocks.

    :param theirs: the ``Date`` of an answer, in seconds since the epoch.
    :param ours: when the answer came.
    :param lifetime: of the app's tokens, in seconds.
    """
    if theirs is None:
        return ok("clock", "the hub's answers have no Date to compare")
    ahead = theirs - ours
    if abs(ahead) <= _TOLERATED + _ROUNDING:
        return ok("clock", "the clocks of hub and app agree")
    seconds = f"{abs(ahead):.0f} s"
    if ahead > 0:
        effect = (
            "each token is expired when it arrives" if ahead >= lifetime else f"tokens end {seconds} early"
        )
        summary = f"the hub's clock is {seconds} ahead of this machine's: {effect}"
    else:
        summary = (
            f"the hub's clock is {seconds} behind this machine's: hubs that look at iat or nbf refuse new "
            "tokens, "
            "and streams outlive their tokens"
        )
    summary += ". Have both machines keep time by NTP (timedatectl)"
    is_serious = abs(ahead) > min(_SERIOUS, lifetime)
    return (problem if is_serious else warning)("clock", summary, Section.CLOCK)
