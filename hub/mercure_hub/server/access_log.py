"""One line for each request, without the tokens that old clients put into URLs."""

from __future__ import annotations

import logging
import re
from urllib.parse import unquote_plus

from mercure_hub.server.http import Message

_SECRET_NAMES = frozenset({"authorization", "access_token", "token", "jwt"})
_DELIMITER = re.compile(r"([?&;#])")
# A JWT, wherever it stands; it cannot begin within a word, or the search would be quadratic.
_TOKEN = re.compile(r"(?:(?<![\w-])|(?<=%[0-9A-F]{2}))eyJ[\w-]*(?:\.|%2e)[\w.%-]*", re.IGNORECASE)
_REDACTED = "[redacted]"
_MAX_TARGET = 500


def redact(target: str) -> str:
    """A request target without tokens, shortened, safe to print on one line."""
    shown = "".join(_redact_parameter(part) for part in _DELIMITER.split(target))
    shown = _TOKEN.sub(_REDACTED, shown)
    if len(shown) > _MAX_TARGET:
        shown = shown[:_MAX_TARGET] + "..."
    return shown if shown.isprintable() else ascii(shown)[1:-1]


def _redact_parameter(part: str) -> str:
    name, equals, _ = part.partition("=")
    if not equals:
        return part
    plain = unquote_plus(name).strip() if "%" in name or "+" in name else name
    if plain.lower() in _SECRET_NAMES:
        return f"{name}={_REDACTED}"
    return part


class AccessLog:
    """Writes to the logger ``hub.access``."""

    def __init__(self) -> None:
        self._log = logging.getLogger("mercure_hub.access")

    @property
    def is_on(self) -> bool:
        """Whether lines are wanted."""
        return self._log.isEnabledFor(logging.INFO)

    def write(self, peer: str, message: Message, status: int, seconds: float) -> None:
        """Note a request that was answered.

        :param seconds: until the answer was ready.
        """
        target = redact(message.target.decode("latin-1"))
        self._log.info(
            '%s "%s %s" %d %.1f ms',
            peer,
            message.method,
            target,
            status,
            seconds * 1e3,
            extra={
                "fields": {
                    "peer": peer,
                    "method": message.method,
                    "target": target,
                    "status": status,
                    "ms": round(seconds * 1e3, 1),
                }
            },
        )

    def write_refused(self, peer: str, status: int, reason: str) -> None:
        """Note octets that were no request."""
        self._log.info("%s %d %s", peer, status, reason, extra={"fields": {"peer": peer, "status": status}})
