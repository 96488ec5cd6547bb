"""An update; the form and the batch that publish updates (spec, Publication).

Batches and ``once`` are extensions of this hub (docs/protocol.md)."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from mercure_hub.protocol import event_stream
from mercure_hub.protocol.errors import ContentTooLarge, InvalidRequest
from mercure_hub.protocol.http import Pairs
from mercure_hub.protocol.topics import WILDCARD, forbidden_character

HUB_EVENT_TYPE = "mercure"
"""Type of the hub's own events."""

EARLIEST = "earliest"
"""In place of an event id: before all that the hub still has."""


@dataclass(frozen=True, slots=True)
class Update:
    """A new version of a resource, on its way to the subscribers.

    :param topics: the canonical topic and the alternate ones.
    :param data: the content, opaque to the hub.
    :param id: of the update, by which subscribers resume.
    :param private: only for subscribers whose token allows one of the topics.
    :param type: Server-Sent Events ``event`` field.
    :param retry: Server-Sent Events ``retry`` field, in milliseconds.
    :param once: store it only if the history does not have it: an update that is equal in all values above.
        This is a wish of its publisher and no part of the update.
    """

    topics: tuple[str, ...]
    data: str
    id: str
    private: bool = False
    type: str | None = None
    retry: int | None = None
    once: bool = field(default=False, compare=False)

    def encode(self, topics: Sequence[str] | None = None) -> bytes:
        """The update as one Server-Sent Event.

        :param topics: to name in it.
        """
        event = event_stream.encode(self.id, self.data, self.type, self.retry)
        return event if topics is None else event_stream.encode_topics(topics) + event


@dataclass(frozen=True, slots=True)
class PublicationLimits:
    """Maximums for one publication; beyond them the answer is 413.

    :param topics: number of ``topic`` fields.
    :param topic_length: characters of a topic, an id or a type.
    :param updates: number of updates in one batch.
    :param batch_topics: number of topics in one batch, of all its updates together.
    """

    topics: int = 100
    topic_length: int = 2048
    updates: int = 1000
    batch_topics: int = 5000


class _Ids:
    """Makes ids of which those in a row begin alike.

    So the index of a history takes them in at one place, while each random id costs it a page.
    """

    _RUN = 256

    def __init__(self) -> None:
        self._beginning = ""
        self._left = 0

    def make(self) -> str:
        if self._left <= 0:  # of two threads, each may begin anew, which does no harm
            self._beginning, self._left = secrets.token_hex(4), self._RUN
        self._left -= 1
        rest = secrets.token_hex(12)
        variant = "89ab"[int(rest[8], 16) & 3]
        # UUIDv8 (RFC 9562 section 5.8), written directly: uuid.UUID takes five times as long.
        return f"urn:uuid:{self._beginning}-{rest[:4]}-8{rest[5:8]}-{variant}{rest[9:12]}-{rest[12:]}"


_ids = _Ids()


def new_id() -> str:
    """A new id, opaque: nobody can guess it, and it reveals no other one (spec, Reconciliation)."""
    return _ids.make()


def from_form(form: Pairs, limits: PublicationLimits) -> Update:
    """Read the form that a publisher sent.

    Unknown fields are ignored. The reserved namespace is not checked here, see
    ``mercure_hub.protocol.hub_url.is_reserved``.

    :param form: decoded names and values.
    :raises InvalidRequest: a field breaks a rule; the error names the field.
    :raises ContentTooLarge: more or longer topics than ``limits`` allow.
    """
    topics: list[str] = []
    single: dict[str, str] = {}
    for name, value in form:
        if name == "topic":
            topics.append(value)
        else:
            single.setdefault(name, value)
    if not topics:
        raise InvalidRequest("A publication needs at least one topic field.", "topic")
    if len(topics) > limits.topics:
        raise ContentTooLarge(
            f"{len(topics)} topics in one publication; the limit is {limits.topics}.", "topic"
        )
    for topic in topics:
        _check("topic", topic, limits)
        if topic == WILDCARD:
            raise InvalidRequest(
                "The topic * is the wildcard of subscribers; nobody can publish to it.", "topic"
            )
    once = "once" in single
    if once and not single.get("id"):
        raise InvalidRequest(
            "An update that is to be stored once needs an id, the same in each attempt.", "id"
        )
    return Update(
        topics=tuple(dict.fromkeys(topics)),
        data=single.get("data", ""),
        id=_event_id(single.get("id", ""), limits),
        private="private" in single,
        type=_event_type(single.get("type", ""), limits),
        retry=_retry(single.get("retry")),
        once=once,
    )


def _check(field: str, value: str, limits: PublicationLimits) -> None:
    if len(value) > limits.topic_length:
        raise ContentTooLarge(
            f"The {field} has {len(value)} characters; the limit is {limits.topic_length}.", field
        )
    character = forbidden_character(value)
    if character:
        raise InvalidRequest(f"The {field} holds the control or format character {character}.", field)


def _event_id(value: str, limits: PublicationLimits) -> str:
    if not value:
        return new_id()
    _check("id", value, limits)
    if value.startswith("#") or value == EARLIEST:
        raise InvalidRequest(f"The id {value!r} is reserved: it starts with # or is {EARLIEST!r}.", "id")
    return value


def _event_type(value: str, limits: PublicationLimits) -> str | None:
    if not value:
        return None
    _check("type", value, limits)
    if value == HUB_EVENT_TYPE:
        raise InvalidRequest(f"The type {HUB_EVENT_TYPE!r} is reserved for the hub's own events.", "type")
    return value


def _retry(value: str | None) -> int | None:
    if value is None:
        return None
    retry = event_stream.retry_from(value)
    if retry is None:
        raise InvalidRequest(f"The retry {value[:40]!r} is not a number of milliseconds.", "retry")
    return retry


BATCH_MEDIA_TYPE = "application/json"
ACCEPT_POST = f"application/x-www-form-urlencoded, {BATCH_MEDIA_TYPE}"
"""Value of ``Accept-Post``: what the hub's URL takes by POST (W3C Linked Data Platform, 7.1)."""

BATCH_METADATA = "flask_mercure_batch"
"""Member of the metadata document with the limits of a batch."""

ONCE_HEADER, ONCE_VALUE = "Mercure-Once", "?1"
"""In the answer to OPTIONS, and to a publication with the field ``once``: this hub knows it (RFC 9651)."""
ONCE_METADATA = "flask_mercure_once"
"""Member of the metadata document that says the same."""

_KINDS = {str: "text", bool: "true or false", int: "a whole number"}


def from_batch(body: bytes, limits: PublicationLimits) -> list[Update]:
    """Read a batch.

    Unknown members are ignored. The reserved namespace is not checked here, see
    ``mercure_hub.protocol.hub_url.is_reserved``.

    :param body: JSON in UTF-8 (RFC 8259).
    :returns: the updates in order, at least one.
    :raises InvalidRequest: an update breaks a rule; ``field`` points to it (RFC 6901).
    :raises ContentTooLarge: more updates or topics than ``limits`` allow.
    """
    items = _items(body)
    if not items:
        raise InvalidRequest("The batch is empty; send at least one update.")
    if len(items) > limits.updates:
        raise ContentTooLarge(f"{len(items)} updates in one batch; the limit is {limits.updates}.")
    updates: list[Update] = []
    topics = 0
    for index, item in enumerate(items):
        try:
            topics += _count_topics(item)
            if topics > limits.batch_topics:
                raise ContentTooLarge(
                    f"more than {limits.batch_topics} topics in one batch; send it in parts.", "topic"
                )
            updates.append(from_form(list(_fields(item)), limits))
        except InvalidRequest as error:
            raise in_batch(index, error) from None
    return updates


def in_batch(index: int, error: InvalidRequest) -> InvalidRequest:
    """An error in one update as an error of the batch, with a JSON pointer to it (RFC 6901).

    :param index: of the update, counted from 0.
    """
    pointer = f"/{index}" if error.field is None else f"/{index}/{error.field}"
    return type(error)(f"Update {index} (the first is 0): {error.detail}", pointer)


def _items(body: bytes) -> list[Any]:
    try:
        document = json.loads(body.decode(), object_pairs_hook=_members)
    except UnicodeDecodeError:
        raise InvalidRequest("The body is not valid UTF-8.") from None
    except RecursionError:
        raise InvalidRequest("The body is nested too deeply.") from None
    except ValueError as error:
        # The message of json says what it expected; it quotes nothing of the body.
        reason = error.msg if isinstance(error, json.JSONDecodeError) else "a number has too many digits"
        position = f" at character {error.pos}" if isinstance(error, json.JSONDecodeError) else ""
        raise InvalidRequest(f"The body is not JSON: {reason}{position}.") from None
    if not isinstance(document, list):
        raise InvalidRequest("The body is not a JSON array; send a list of updates.")
    return document


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Read an object; one with two values for ``private``, say, is ambiguous."""
    members = dict(pairs)
    if len(members) < len(pairs):
        raise InvalidRequest("A JSON object of the body has two members of the same name.")
    return members


def _count_topics(item: Any) -> int:
    topics = item.get("topic") if isinstance(item, dict) else None
    return len(topics) if isinstance(topics, list) else 1


def _fields(item: Any) -> Iterator[tuple[str, str]]:
    """An update as the fields of a form, so that the same rules apply to both."""
    if not isinstance(item, dict):
        raise InvalidRequest('an update is a JSON object such as {"topic": "books/1", "data": "text"}.')
    topics = item.get("topic", [])
    for topic in topics if isinstance(topics, list) else [topics]:
        yield "topic", _value("topic", topic, str)
    data = _value("data", item.get("data", ""), str)
    try:
        data.encode()
    except UnicodeEncodeError:
        raise InvalidRequest("data holds a lone surrogate, which UTF-8 cannot carry.", "data") from None
    yield "data", data
    for name in ("private", "once"):
        if _value(name, item.get(name, False), bool):
            yield name, "on"
    for name in ("id", "type"):
        if item.get(name) is not None:
            yield name, _value(name, item[name], str)
    if item.get("retry") is not None:
        yield "retry", str(_value("retry", item["retry"], int))


def _value(name: str, value: Any, kind: type) -> Any:
    """A value of one JSON type; none is converted, because ``private`` decides who reads the update."""
    if type(value) is not kind:
        raise InvalidRequest(f"{name} is not {_KINDS[kind]}.", name)
    return value


def to_batch(publications: Sequence[Pairs]) -> bytes:
    """Write a batch.

    :param publications: the fields of each update, as a form has them.
    """
    items: list[dict[str, Any]] = []
    for pairs in publications:
        item: dict[str, Any] = {"topic": [value for name, value in pairs if name == "topic"]}
        for name, value in pairs:
            match name:
                case "topic":
                    continue
                case "private" | "once":
                    item[name] = True
                case "retry":
                    item[name] = int(value)
                case _:
                    item[name] = value
        items.append(item)
    return json.dumps(items, ensure_ascii=False, separators=(",", ":")).encode()
