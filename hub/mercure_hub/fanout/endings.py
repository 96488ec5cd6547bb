"""Why subscriptions end: in words for the log, and in a few kinds to be counted."""

from __future__ import annotations

CLOSED_BY_CLIENT = "closed by the client"
TIME_IS_OVER = "its time is over"
HUB_STOPS = "the hub stops"
ANOTHER_TAKES_OVER = "another hub takes over"
KEY_IS_GONE = "the key of its token is not trusted any more"
INCOMPLETE = "an update could not be sent"
DISCARDED = "updates that it should still get were discarded"
UNREADABLE = "the history could not be read"

_TOOK_NOTHING = "took nothing for"
_BEHIND = "more than"
_VIOLATION = "sent what it must not:"

_KINDS = {
    CLOSED_BY_CLIENT: "client",
    TIME_IS_OVER: "time",
    HUB_STOPS: "stop",
    ANOTHER_TAKES_OVER: "handover",
    INCOMPLETE: "incomplete",
    DISCARDED: "incomplete",
    UNREADABLE: "incomplete",
    KEY_IS_GONE: "key",
}
_BEGINNINGS = {_TOOK_NOTHING: "slow", _BEHIND: "slow", _VIOLATION: "violation"}


def took_nothing(seconds: float) -> str:
    """Its socket was full for so long."""
    return f"{_TOOK_NOTHING} {seconds:g} s"


def behind(octets: int) -> str:
    """More waits for it than the hub keeps."""
    return f"{_BEHIND} {octets} octets behind"


def violation(what: str) -> str:
    """A WebSocket that is used for more than to receive."""
    return f"{_VIOLATION} {what}"


def kind(reason: str) -> str:
    """The kind of an ending: client, slow, time, stop, handover, incomplete, key, violation, or
    other.
    """
    known = _KINDS.get(reason)
    if known is not None:
        return known
    return next((name for words, name in _BEGINNINGS.items() if reason.startswith(words)), "other")
