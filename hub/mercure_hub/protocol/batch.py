"""Many updates in one request: an extension of this hub to the protocol (docs/protocol.md).

A batch is a JSON array of objects whose members are named like the fields of a publication, and obey the
same rules. Where one of them is wrong the whole batch is: the error names it with a JSON pointer.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from mercure_hub.protocol import update
from mercure_hub.protocol.errors import ContentTooLarge, InvalidRequest
from mercure_hub.protocol.form import Pairs
from mercure_hub.protocol.update import PublicationLimits, Update

MEDIA_TYPE = "application/json"
ACCEPT_POST = f"application/x-www-form-urlencoded, {MEDIA_TYPE}"
"""What the hub's URL takes by POST, told in the header ``Accept-Post`` (W3C Linked Data Platform, 7.1)."""

METADATA = "flask_mercure_batch"
"""Member of the metadata document with the limits of a batch."""

_KINDS = {str: "text", bool: "true or false", int: "a whole number"}


def parse(body: bytes, limits: PublicationLimits) -> list[Update]:
    """Read a batch.

    Members that are not known are ignored. The reserved namespace is not checked here, see
    ``mercure_hub.protocol.identity.is_reserved``.

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
            updates.append(update.from_form(list(_fields(item)), limits))
        except InvalidRequest as error:
            raise at(index, error) from None
    return updates


def at(index: int, error: InvalidRequest) -> InvalidRequest:
    """An error in one update as an error of the batch.

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
        # Of json: what it expected and where, without a part of the body.
        reason = error.msg if isinstance(error, json.JSONDecodeError) else "a number has too many digits"
        place = f" at character {error.pos}" if isinstance(error, json.JSONDecodeError) else ""
        raise InvalidRequest(f"The body is not JSON: {reason}{place}.") from None
    if not isinstance(document, list):
        raise InvalidRequest("The body is no JSON array; send a list of updates.")
    return document


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object; one that says two things about, say, ``private`` says nothing."""
    members = dict(pairs)
    if len(members) < len(pairs):
        raise InvalidRequest("A JSON object of the body has two members of the same name.")
    return members


def _count_topics(item: Any) -> int:
    found = item.get("topic") if isinstance(item, dict) else None
    return len(found) if isinstance(found, list) else 1


def _fields(item: Any) -> Iterator[tuple[str, str]]:
    """An update as the fields of a form, for one set of rules."""
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
    if _value("private", item.get("private", False), bool):
        yield "private", "on"
    for name in ("id", "type"):
        if item.get(name) is not None:
            yield name, _value(name, item[name], str)
    if item.get("retry") is not None:
        yield "retry", str(_value("retry", item["retry"], int))


def _value(name: str, value: Any, kind: type) -> Any:
    """A value of one JSON type; what decides who reads an update must not be guessed at."""
    if type(value) is not kind:
        raise InvalidRequest(f"{name} is not {_KINDS[kind]}.", name)
    return value


def encode(publications: Sequence[Pairs]) -> bytes:
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
                case "private":
                    item[name] = True
                case "retry":
                    item[name] = int(value)
                case _:
                    item[name] = value
        items.append(item)
    return json.dumps(items, ensure_ascii=False, separators=(",", ":")).encode()
