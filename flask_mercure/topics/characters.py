"""What the values of an update and of a subscription may be made of (spec, Terminology; RFC 9110)."""

from __future__ import annotations

import re

from flask_mercure.errors import InvalidArgument
from mercure_hub.protocol.topics import forbidden_character

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")  # with lone surrogates, which UTF-8 cannot carry
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
        raise InvalidArgument(
            f"{argument} holds the control or format character {found}: {value[:80]!r}. A user's text may "
            "hold some, as emoji do: put it into a topic with build_topic()"
        )
    return value


def check_text(value: str, argument: str) -> str:
    """Refuse what a user's text cannot be, also when it is percent-encoded.

    Format characters may be in it: emoji of several code points and the names of many languages have them.

    :param value: to be checked.
    :param argument: what it is, for the error.
    :raises InvalidArgument: it is empty, or has a control character or a lone surrogate.
    """
    if not value:
        raise InvalidArgument(f"{argument} holds an empty string")
    found = _CONTROL.search(value)
    if found:
        raise InvalidArgument(f"{argument} holds the control character U+{ord(found[0]):04X}: {value[:80]!r}")
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
