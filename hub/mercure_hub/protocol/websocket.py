"""WebSockets as a second way to receive: the handshake, the messages, and what a client may send (RFC 6455).

A client has nothing to say: pings, pongs, a close, empty messages. Whatever else its frames announce is
refused by their head, before any of it is read.
"""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from hashlib import sha1

from mercure_hub.protocol.errors import InvalidRequest, UpgradeRequired
from mercure_hub.protocol.update import Update

VERSION = "13"
GOING_AWAY, PROTOCOL_ERROR, NO_CONTENT, NOT_UTF8, VIOLATION, TOO_LARGE = 1001, 1002, 1003, 1007, 1008, 1009
"""Codes of close frames (RFC 6455 section 7.4.1)."""

REVOKED = 4401
"""Code of a close frame for a token that was revoked, of those for private use (RFC 6455 section 7.4.2)."""

NO_STATUS = 1005
"""Stands for a close frame without a code; never sent."""

BUDGET = 4096
"""Bytes that a client may send between two heartbeats."""

_GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_KEY = re.compile(r"[A-Za-z0-9+/]{21}[AQgw]==")  # 16 bytes
_TEXT, _BINARY, _CLOSE, _PING, _PONG = 1, 2, 8, 9, 10
_NORMAL = 1000
_MOST_CONTROL = 125
_MOST_NAMED = 512  # a message up to here is content that nobody wants, above it is too large besides
_HEAD = 2
_MASK = 4

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def accept_key(headers: Mapping[str, str]) -> str | None:
    """Check a handshake (RFC 6455 section 4.2.1).

    :param headers: of a GET request, by lower-case name.
    :returns: value of ``Sec-WebSocket-Accept``; ``None`` when no WebSocket is asked for.
    :raises InvalidRequest: a WebSocket is asked for in the wrong way.
    :raises UpgradeRequired: in another version; or the field that asks was lost on the way.
    """
    key = headers.get("sec-websocket-key")
    if key is None and "upgrade" not in headers:
        return None
    if not _has(headers, "upgrade", "websocket"):
        if key is None:
            return None
        raise UpgradeRequired(
            "This is a WebSocket handshake without its Upgrade field: a proxy before the hub took it out.",
            "Upgrade",
        )
    if not _has(headers, "connection", "upgrade"):
        raise InvalidRequest("The Connection field does not name Upgrade.", "Connection")
    if headers.get("sec-websocket-version") != VERSION:
        raise UpgradeRequired(
            f"The version of WebSocket that is spoken is {VERSION}.", "Sec-WebSocket-Version"
        )
    if key is None or not _KEY.fullmatch(key):
        raise InvalidRequest("The key is not 16 bytes in Base64.", "Sec-WebSocket-Key")
    return b64encode(sha1((key + _GUID).encode(), usedforsecurity=False).digest()).decode()


def _has(headers: Mapping[str, str], name: str, token: str) -> bool:
    return token in (one.strip().lower() for one in headers.get(name, "").split(","))


LIVE = b'{"live":true}'
"""The message that follows the history, for clients that ask for it: an extension (docs/protocol.md)."""


def message(update: Update, topics: Sequence[str] | None = None) -> bytes:
    """An update as a message: a JSON object with ``id``, ``type``, ``data`` and, if it has one, ``retry``.

    :param topics: for its member ``topics``; ``None`` for none.
    """
    document: dict[str, object] = {
        "id": update.id,
        "type": update.type or "message",
        "data": update.data,
    }
    if update.retry is not None:
        document["retry"] = update.retry
    if topics is not None:
        document["topics"] = topics
    return _encode(document).encode("utf-8", "backslashreplace")  # \ud800 is how JSON writes a half pair


class Violation(Enum):
    """What a client sent although it must not; ``code`` and ``text`` are for the close frame."""

    TOO_MUCH = VIOLATION, f"more than {BUDGET} bytes within a heartbeat"
    UNKNOWN_FRAME = PROTOCOL_ERROR, "a frame of no known kind"
    UNMASKED = PROTOCOL_ERROR, "a frame without a mask"
    BAD_CONTROL_FRAME = PROTOCOL_ERROR, "a control frame in pieces or over 125 bytes"
    BAD_CODE = PROTOCOL_ERROR, "a close frame with no valid code"
    BAD_TEXT = NOT_UTF8, "a close frame whose reason is not UTF-8"
    MESSAGE = NO_CONTENT, "a message; subscribers have nothing to send"
    LARGE_MESSAGE = TOO_LARGE, "a message, and a large one; subscribers have nothing to send"

    def __init__(self, code: int, text: str) -> None:
        self.code = code
        self.text = text


@dataclass(frozen=True, slots=True)
class Close:
    """The client closes the connection.

    :param code: of the close frame that answers; ``NO_STATUS`` if the client's had none.
    """

    code: int


class WebSocket:
    """The receiving half of a connection: a reader of frames that never holds more than one small one.

    :param ends_with_token: the connection ends because the token does.
    """

    __slots__ = ("_left", "_rest", "ends_with_token")

    def __init__(self, *, ends_with_token: bool) -> None:
        self.ends_with_token = ends_with_token
        self._rest = b""
        self._left = BUDGET

    def renew(self) -> None:
        """Let the client send as much again."""
        self._left = BUDGET

    def take(self, received: bytes) -> tuple[bytes | None, Close | Violation | None]:
        """Take what was received.

        :returns: content of a pong to send, for the newest ping; and why the connection ends now, if it does.
        """
        self._left -= len(received)
        if self._left < 0:
            return None, Violation.TOO_MUCH
        data = self._rest + received if self._rest else received
        pong: bytes | None = None
        start = 0
        while len(data) - start >= _HEAD:
            first, second = data[start], data[start + 1]
            wrong = _wrong(first, second, data[start + _HEAD : start + _HEAD + 8])
            if wrong is not None:
                return None, wrong
            end = start + _HEAD + _MASK + (second & 0x7F)
            if end > len(data):
                break
            content = _unmask(data[start + _HEAD : end])
            start = end
            if first & 0x0F == _CLOSE:
                return None, _answer_to(content)
            if first & 0x0F == _PING:
                pong = content
        self._rest = data[start:]
        return pong, None


def _wrong(first: int, second: int, extended: bytes) -> Violation | None:
    """What is wrong with the head of a frame."""
    opcode, length = first & 0x0F, second & 0x7F
    if first & 0x70 or opcode not in (_TEXT, _BINARY, _CLOSE, _PING, _PONG):
        return Violation.UNKNOWN_FRAME
    if not second & 0x80:
        return Violation.UNMASKED
    if opcode >= _CLOSE and (not first & 0x80 or length > _MOST_CONTROL):
        return Violation.BAD_CONTROL_FRAME
    if opcode >= _CLOSE or (length == 0 and first & 0x80):
        return None
    if length == 126 and len(extended) >= 2:
        length = int.from_bytes(extended[:2], "big")
    if length == 127 or (length > 126 and length > _MOST_NAMED):
        return Violation.LARGE_MESSAGE
    return Violation.MESSAGE


def _unmask(masked: bytes) -> bytes:
    mask, content = masked[:_MASK], masked[_MASK:]
    return bytes([byte ^ mask[index & 3] for index, byte in enumerate(content)])


def _answer_to(content: bytes) -> Close | Violation:
    """What a close frame asks for."""
    if not content:
        return Close(NO_STATUS)
    code = int.from_bytes(content[:2], "big")
    if len(content) == 1 or not _may_be_sent(code):
        return Violation.BAD_CODE
    try:
        content[2:].decode()
    except UnicodeDecodeError:
        return Violation.BAD_TEXT
    return Close(code)


def _may_be_sent(code: int) -> bool:
    return (_NORMAL <= code <= 1014 and code not in (1004, 1005, 1006)) or 3000 <= code <= 4999
