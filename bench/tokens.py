"""Tokens for publishers and subscribers, of both generations of the protocol."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import jwt

Generation = Literal["1.0", "0.x"]
Matcher = tuple[str, str]
"""Type (``exact`` or ``urlpattern``) and value."""

EVERYTHING: Matcher = ("exact", "*")
_LAST = 4102444800  # of the year 2099


@dataclass(frozen=True, slots=True)
class Mint:
    """Makes tokens that a hub accepts.

    :param secret: the hub's HMAC key.
    :param resource: the hub's public URL, which tokens of 1.0 name in ``aud``.
    :param generation: of the protocol.
    """

    secret: str
    resource: str
    generation: Generation = "1.0"

    def token(
        self, action: Literal["publish", "subscribe"], topics: Sequence[Matcher], name: str = ""
    ) -> str:
        """A token for one action.

        :param topics: what it allows.
        :param name: its subject, which makes it differ from others.
        """
        if self.generation == "0.x":
            claims = {"mercure": {action: [selector(topic) for topic in topics]}, "sub": name}
            return jwt.encode(claims, self.secret, "HS256")
        detail = {
            "type": "https://mercure.rocks/authorization-detail",
            "actions": [action],
            "topics": [
                {"match": value} if kind == "exact" else {"match": value, "match_type": kind}
                for kind, value in topics
            ],
        }
        content = {
            "iss": "urn:flask-mercure",
            "aud": self.resource,
            "sub": name,
            "exp": _LAST,
            "authorization_details": [detail],
        }
        return jwt.encode(content, self.secret, "HS256", headers={"typ": "at+jwt"})


def selector(matcher: Matcher) -> str:
    """The topic selector of 0.x that says the same: its patterns are URI Templates."""
    kind, value = matcher
    return value if kind == "exact" else re.sub(r":(\w+)$", r"{\1}", value)


def write_header(path: Path, *tokens: str) -> Path:
    """Write tokens as header fields, one a line, in a file that only its owner reads."""
    path.touch(mode=0o600)
    path.write_text("".join(f"Authorization: Bearer {token}\n" for token in tokens))
    return path
