"""What an application publishes, as the text of an update."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Any, Final

from flask import current_app

from flask_mercure.encryption import jwe

if TYPE_CHECKING:
    from flask_mercure.encryption.jwe import Recipients


class Unset(Enum):
    """The value of an argument that was left out."""

    UNSET = 0

    def __repr__(self) -> str:
        return "unset"


# Not None: the key of a user who has none must not lead to an update that everybody can read.
UNSET: Final = Unset.UNSET


def text(data: Any) -> str:
    """Data as a hub takes it: a ``str`` as it is, anything else as JSON, by Flask's provider.

    :raises TypeError: ``data`` is bytes, or cannot be written as JSON.
    """
    if isinstance(data, bytes | bytearray | memoryview):
        raise TypeError("data is bytes, and an update is text: decode it, or encode it as base64")
    return data if isinstance(data, str) else current_app.json.dumps(data)


def encrypted(data: Any, keys: Recipients, content_type: str | None = None) -> str:
    """Data as a JWE; the arguments and errors are those of :meth:`flask_mercure.Mercure.encrypt`."""
    if isinstance(data, bytes | bytearray | memoryview):
        plain: str | bytes = bytes(data)
        usual = "application/octet-stream"
    elif isinstance(data, str):
        plain, usual = data, "text/plain;charset=utf-8"
    else:
        plain, usual = current_app.json.dumps(data), "application/json"
    return jwe.encrypt(plain, keys, usual if content_type is None else content_type)
