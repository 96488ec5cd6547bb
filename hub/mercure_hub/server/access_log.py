"""One line for each request, without the tokens that old clients put into URLs."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable
from urllib.parse import unquote_plus

from mercure_hub.server.logs import REQUESTS, only_handler

_SECRET_NAMES = frozenset({"authorization", "access_token", "token", "jwt"})
_DELIMITER = re.compile(r"([?&;#])")
# A JWT, wherever it stands; it cannot begin within a word, or the search would be quadratic.
_TOKEN = re.compile(r"(?:(?<![\w-])|(?<=%[0-9A-F]{2}))eyJ[\w-]*(?:\.|%2e)[\w.%-]*", re.IGNORECASE)
_REDACTED = "[redacted]"
_MAX_TARGET = 500

# Most targets hold none of this, so they are neither taken apart nor searched for a JWT.
_SUSPECTS = "token", "authorization", "jwt", "eyj"
_ENCODED_NAME = re.compile(r"(?:^|[?&;#])[^=?&;#%+]*+[%+][^=?&;#]*+=")


def redact(target: str) -> str:
    """A request target without tokens, shortened, safe to print on one line."""
    shown = target if _is_harmless(target) else _redact_all(target)
    if len(shown) > _MAX_TARGET:
        shown = shown[:_MAX_TARGET] + "..."
    return shown if shown.isprintable() else ascii(shown)[1:-1]


def _is_harmless(target: str) -> bool:
    """Whether a target certainly has no token in it. There is no cache: it would keep what clients send."""
    lowered = target.lower()
    for suspect in _SUSPECTS:
        if suspect in lowered:
            return False
    return ("%" not in target and "+" not in target) or _ENCODED_NAME.search(target) is None


def _redact_all(target: str) -> str:
    shown = "".join(_redact_parameter(part) for part in _DELIMITER.split(target))
    return _TOKEN.sub(_REDACTED, shown)


def _redact_parameter(part: str) -> str:
    name, equals, _ = part.partition("=")
    if not equals:
        return part
    plain = unquote_plus(name).strip() if "%" in name or "+" in name else name
    if plain.lower() in _SECRET_NAMES:
        return f"{name}={_REDACTED}"
    return part


class InfoLog:
    """Writes lines of level info of which there may be as many as requests.

    They pass by the records of ``logging``, unless others' handlers want these.

    :param name: of the logger.
    :param clock: seconds since the epoch.
    """

    def __init__(self, name: str, clock: Callable[[], float] = time.time) -> None:
        self._name = name
        self._log = logging.getLogger(name)
        self._clock = clock
        self._handler = only_handler(self._log)

    @property
    def is_on(self) -> bool:
        """Whether lines are wanted."""
        return self._log.isEnabledFor(logging.INFO)

    def info(self, message: str, fields: dict[str, object] | None = None) -> None:
        """Write a line. The caller has asked ``is_on``.

        :param message: for people.
        :param fields: what the message says, for JSON.
        """
        if self._handler is None:
            self._log.info("%s", message, extra={"fields": fields})
        else:
            handler = self._handler
            handler.put(handler.form.line(self._clock(), "INFO", self._name, message, fields))


class AccessLog(InfoLog):
    """Writes a line for each request, without the tokens that old clients put into URLs."""

    def __init__(self) -> None:
        super().__init__(REQUESTS)

    def write(self, peer: str, method: str, target: bytes, status: int, seconds: float) -> None:
        """Log a request that was answered.

        :param peer: address of the client.
        :param target: raw request target.
        :param seconds: until the answer was ready.
        """
        shown = redact(target.decode("latin-1"))
        ms = seconds * 1e3
        handler = self._handler
        if handler is not None:
            handler.put(handler.form.request(self._clock(), peer, method, shown, status=status, ms=ms))
            return
        self.info(
            f'{peer} "{method} {shown}" {status} {ms:.1f} ms',
            {"peer": peer, "method": method, "target": shown, "status": status, "ms": round(ms, 1)},
        )

    def write_refused(self, peer: str, status: int, reason: str) -> None:
        """Log bytes that were not a request."""
        if self.is_on:
            self.info(f"{peer} {status} {reason}", {"peer": peer, "status": status})
