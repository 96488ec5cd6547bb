"""What the values of an update and of a subscription may be made of (spec, Terminology; RFC 9110)."""

from __future__ import annotations

import re

from flask_mercure.errors import InvalidArgument
from hub.protocol.topics import forbidden_character

_MEDIA_TYPE = re.compile(r"[\w!#$&^.+-]+/[\w!#$&^.+-]+(?:\s*;[\x20-\x7e]*)?", re.ASCII)


def check_characters(value: object, argument: str) -> str:
    """Refuse what the spec forbids in topics, matchers, ids and types (spec, Terminology).

    :param value: to be checked.
    :param argument: name of the caller's argument, for the error.
    :raises InvalidArgument: the value is empty or has a control or format character.
    :raises TypeError: the value is not a string.
    """
    if not isinstance(value, str):
        raise TypeError(f"{argument} is a {type(value).__name__}, it must be a str")
    if not value:
        raise InvalidArgument(f"{argument} holds an empty string")
    found = forbidden_character(value)
    if found:
        raise InvalidArgument(f"{argument} holds the control or format character {found}: {value[:80]!r}")
    return value


def check_media_type(value: str, argument: str) -> str:
    """Refuse what is no media type, such as ``application/json``.

    :param value: to be checked.
    :param argument: name of the caller's argument, for the error.
    :raises InvalidArgument: the value has another form.
    """
    if not _MEDIA_TYPE.fullmatch(value):
        raise InvalidArgument(f"{argument} is {value!r}, not a media type such as application/json")
    return value
