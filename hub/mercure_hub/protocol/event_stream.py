"""Server-Sent Events: encoding, and a parser that takes the stream in pieces (HTML standard, 9.2)."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

HEARTBEAT = b":\n"

LIVE = b": live\n"
"""The comment that follows the history: an extension of this hub (docs/protocol.md)."""

TOPIC_FIELD = "topic"
"""The field that names a topic of an event: an extension of this hub (docs/protocol.md)."""

WITH = "with"
"""The parameter that asks for more than the protocol sends; an extension of this hub."""

WITH_TOPICS = "topics"
"""Its value that asks for the topics of each update."""

_MAX_RETRY = 2**31 - 1  # browsers keep it in 32 bits or more


def encode(event_id: str, data: str, event: str | None = None, retry: int | None = None) -> bytes:
    """Encode one event.

    :param event_id: the ``id`` field; free of control characters. Without one the client keeps its position.
    :param data: any text; each line becomes a ``data`` field, split on CR, LF and CRLF, so that no
        value can inject a field (spec, Server-Sent Events Field Injection).
    :param event: the ``event`` field.
    :param retry: reconnection time in milliseconds.
    """
    head = f"id: {event_id}\n" if event_id else ""
    if event:
        head += f"event: {event}\n"
    if retry is not None:
        head += f"retry: {retry}\n"
    if "\r" in data:
        data = data.replace("\r\n", "\n").replace("\r", "\n")
    if "\n" in data:
        data = data.replace("\n", "\ndata: ")
    return f"{head}data: {data}\n\n".encode()


def encode_topics(topics: Iterable[str]) -> bytes:
    """The fields that name topics; clients that do not know them ignore them (HTML standard, 9.2.6).

    :param topics: free of control characters, as the topics of all updates are.
    """
    return "".join([f"{TOPIC_FIELD}: {topic}\n" for topic in topics]).encode()


def retry_from(digits: str) -> int | None:
    """Read a reconnection time.

    :returns: milliseconds, clamped to 31 bits (``int`` refuses thousands of digits), or ``None`` when
        the value does not consist of ASCII digits.
    """
    if not (digits.isascii() and digits.isdigit()):
        return None
    return min(int(digits.lstrip("0")[:11] or "0"), _MAX_RETRY)


@dataclass(frozen=True, slots=True)
class Event:
    """A received event.

    :param data: the lines, joined by LF.
    :param id: the last event id in force when the event was dispatched.
    :param type: the event type, ``message`` by default.
    :param topics: those of its topics that the hub named; see ``encode_topics``.
    """

    data: str
    id: str
    type: str
    topics: tuple[str, ...] = ()

    def json(self) -> Any:
        """The data, read as JSON.

        :raises ValueError: it is not JSON.
        """
        return json.loads(self.data)


class Parser:
    """Reads an event stream as it arrives.

    :param last_event_id: the id in force before the first event.

    ``last_event_id`` and ``retry`` (milliseconds, or ``None``) are for the next connection of the client.
    """

    def __init__(self, last_event_id: str = "") -> None:
        self.last_event_id = last_event_id
        self.retry: int | None = None
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._rest: list[str] = []
        self._after_cr = False
        self._started = False
        self._id = last_event_id
        self._type = ""
        self._data: list[str] = []
        self._topics: list[str] = []

    def feed(self, data: bytes) -> Iterator[Event]:
        """Take the next piece of the stream.

        :param data: any number of bytes, cut anywhere.
        :returns: the events that are complete now.
        """
        text = self._decoder.decode(data)
        if not self._started and text:
            self._started = True
            text = text.removeprefix("\ufeff")
        if self._after_cr and text:
            self._after_cr = False
            text = text.removeprefix("\n")
        if text.endswith("\r"):
            self._after_cr = True
        text = text.replace("\r\n", "\n").replace("\r", "\n")
        if "\n" not in text:
            self._rest.append(text)
            return
        *lines, rest = "".join([*self._rest, text]).split("\n")
        self._rest = [rest]
        for line in lines:
            if line:
                self._field(line)
            else:
                event = self._dispatch()
                if event is not None:
                    yield event

    def _field(self, line: str) -> None:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
        elif name == "event":
            self._type = value
        elif name == TOPIC_FIELD:
            self._topics.append(value)
        elif name == "id" and "\0" not in value:
            self._id = value
        elif name == "retry":
            retry = retry_from(value)
            self.retry = self.retry if retry is None else retry

    def _dispatch(self) -> Event | None:
        self.last_event_id = self._id
        data, event_type, topics = self._data, self._type, self._topics
        self._data, self._type, self._topics = [], "", []
        if not data:
            return None
        return Event("\n".join(data), self._id, event_type or "message", tuple(topics))
