"""An update, and the form a publisher sends to make one (spec, Publication)."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from mercure_hub.protocol import event_stream
from mercure_hub.protocol.cursor import EARLIEST
from mercure_hub.protocol.errors import ContentTooLarge, InvalidRequest
from mercure_hub.protocol.form import Pairs
from mercure_hub.protocol.topics import WILDCARD, forbidden_character

HUB_EVENT_TYPE = "mercure"


@dataclass(frozen=True, slots=True)
class Update:
    """A new version of a resource, on its way to the subscribers.

    :param topics: the canonical topic and the alternate ones.
    :param data: the content, opaque to the hub.
    :param id: cursor of the update in the hub's log.
    :param private: only for subscribers whose token allows one of the topics.
    :param type: Server-Sent Events ``event`` field.
    :param retry: Server-Sent Events ``retry`` field, in milliseconds.
    """

    topics: tuple[str, ...]
    data: str
    id: str
    private: bool = False
    type: str | None = None
    retry: int | None = None

    def encode(self) -> bytes:
        """The update as one Server-Sent Event."""
        return event_stream.encode(self.id, self.data, self.type, self.retry)


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


def new_id() -> str:
    """A fresh id: opaque and random, so that it tells nothing of other updates (spec, Reconciliation)."""
    # UUIDv4 (RFC 9562 section 5.4). An object of uuid.UUID takes five times as long to make and to print.
    digits = secrets.token_hex(16)
    variant = "89ab"[int(digits[16], 16) & 3]
    return f"urn:uuid:{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}"


def from_form(form: Pairs, limits: PublicationLimits) -> Update:
    """Read the form that a publisher sent.

    Fields that are not known are ignored. The reserved namespace is not checked here, see
    ``mercure_hub.protocol.identity.is_reserved``.

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
                "The topic * is the wildcard of subscribers, nobody can publish to it.", "topic"
            )
    return Update(
        topics=tuple(dict.fromkeys(topics)),
        data=single.get("data", ""),
        id=_event_id(single.get("id", ""), limits),
        private="private" in single,
        type=_event_type(single.get("type", ""), limits),
        retry=_retry(single.get("retry")),
    )


def _check(field: str, value: str, limits: PublicationLimits) -> None:
    if len(value) > limits.topic_length:
        raise ContentTooLarge(
            f"The {field} has {len(value)} characters; the limit is {limits.topic_length}.", field
        )
    found = forbidden_character(value)
    if found:
        raise InvalidRequest(f"The {field} holds the control or format character {found}.", field)


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
