"""Keys that are configured as ``@`` and the path of a file: the only place that reads these files."""

from __future__ import annotations

import os
from pathlib import Path

from mercure_hub.protocol.errors import KeyMaterialError
from mercure_hub.protocol.tokens.keys import Key, load


def load_key(value: str, algorithm: str = "") -> Key:
    """Read a key that verifies tokens.

    :param value: a secret, a PEM text, or ``@`` and the path of a file that holds either.
    :param algorithm: JWA names separated by spaces; empty: HS256 for a secret, else what fits the key.
    :raises KeyMaterialError: with the reason and the remedy; never with key material.
    """
    return load(key_text(value), algorithm, exists=os.path.exists)


def key_text(value: str) -> str:
    """The text of a configured key: the content of the file for ``@`` and a path, else the value itself.

    :raises KeyMaterialError: the file cannot be read.
    """
    if not value.startswith("@"):
        return value
    path = value[1:]
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text file"
        # Without a slash it may be a secret that begins with @.
        shown = repr(path) if "/" in path else "whose name follows the @"
        raise KeyMaterialError(f"the key file {shown} cannot be read: {reason}") from None
