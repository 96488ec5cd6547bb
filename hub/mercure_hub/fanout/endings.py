"""Why subscriptions end: for the log, for the metrics, and for the close frame of a WebSocket."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from enum import Enum

from mercure_hub.protocol.websocket import GOING_AWAY, REVOKED, VIOLATION


class Reason(Enum):
    """A reason why a subscription ends.

    ``text`` is for people, ``label`` is its value in the metrics, ``code`` is sent in the close frame of a
    WebSocket (RFC 6455 section 7.4.1).
    """

    CLOSED_BY_CLIENT = "closed by the client", "client", GOING_AWAY
    TIME_IS_OVER = "its time is over", "time", GOING_AWAY
    TOKEN_EXPIRED = "its time is over", "time", VIOLATION  # this code tells clients to get a new token
    HUB_STOPS = "the hub stops", "stop", GOING_AWAY
    HANDOVER = "another hub takes over", "handover", GOING_AWAY
    KEY_IS_GONE = "the key of its token is no longer trusted", "key", VIOLATION
    REVOKED = "its token was revoked", "revoked", REVOKED
    INCOMPLETE = "an update could not be sent", "incomplete", GOING_AWAY
    DISCARDED = "updates that it should still get were discarded", "incomplete", GOING_AWAY
    UNREADABLE = "the history could not be read", "incomplete", GOING_AWAY
    TOOK_NOTHING = "took nothing for", "slow", GOING_AWAY
    BEHIND = "fell behind by more than", "slow", GOING_AWAY
    PROTOCOL_VIOLATION = "sent what it must not:", "violation", VIOLATION
    SOCKET_ERROR = "the socket failed:", "other", GOING_AWAY

    def __init__(self, text: str, label: str, code: int) -> None:
        self.text = text
        self.label = label
        self.code = code


@dataclass(frozen=True, slots=True)
class Ending:
    """Why and how one subscription ends.

    :param reason: the kind of ending.
    :param detail: completes the text of the reason.
    :param answer: code of the close frame, if it is not the reason's own.
    """

    reason: Reason
    detail: str = ""
    answer: int | None = None

    @property
    def text(self) -> str:
        """The reason for people; also sent in a close frame."""
        return f"{self.reason.text} {self.detail}" if self.detail else self.reason.text

    @property
    def code(self) -> int:
        """The code of a WebSocket's close frame."""
        return self.reason.code if self.answer is None else self.answer


def took_nothing(seconds: float) -> Ending:
    """The client read nothing for so long."""
    return Ending(Reason.TOOK_NOTHING, f"{seconds:g} s")


def behind(size: int) -> Ending:
    """More bytes wait for the client than the hub keeps."""
    return Ending(Reason.BEHIND, f"{size} bytes")


def ending_of(error: OSError) -> Ending:
    """What the error of a socket means for its subscriber."""
    if isinstance(error, ConnectionError | ssl.SSLError):
        return Ending(Reason.CLOSED_BY_CLIENT)
    return Ending(Reason.SOCKET_ERROR, error.strerror or type(error).__name__)
