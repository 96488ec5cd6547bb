"""The hub's log: text for people, JSON for collectors; requests beside the rest or in a file of their own."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from logging.handlers import WatchedFileHandler
from pathlib import Path
from urllib.parse import unquote_plus

from mercure_hub.config.settings import Settings
from mercure_hub.server.http import Message

_TEXT = "%(asctime)s %(levelname)-7s %(message)s"
_TEXT_OF_WORKER = "%(asctime)s %(levelname)-7s [{number}] %(message)s"
_ALL = "mercure_hub"
_REQUESTS = "mercure_hub.access"


class _JsonFormatter(logging.Formatter):
    worker: int | None = None

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if self.worker is not None:
            line["worker"] = self.worker
        fields = getattr(record, "fields", None)
        if isinstance(fields, dict):
            line |= fields
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


class _File(WatchedFileHandler):
    """Looks before each line whether the file is still the one of that name.

    When the new one cannot be opened, for the folder belongs to somebody else or no descriptor is left, the
    lines go on into the old one: no request may fail because of its line in the log.
    """

    _has_failed = False

    def reopenIfNeeded(self) -> None:  # noqa: N802 - overridden
        """Open the file anew where it has been renamed or removed."""
        with contextlib.suppress(OSError):
            there = os.stat(self.baseFilename)  # noqa: PTH116 - once for each line
            if (there.st_dev, there.st_ino) == (self.dev, self.ino):
                return
        try:
            fresh = self._open()
        except OSError as error:
            if not self._has_failed and sys.stderr is not None:
                with contextlib.suppress(OSError):
                    print(  # noqa: T201
                        f"mercure-hub: {self.baseFilename!r} cannot be opened anew: {error.strerror}; "
                        "lines go on into the file that had this name",
                        file=sys.stderr,
                    )
            self._has_failed = True
            return
        self._has_failed = False
        old, self.stream = self.stream, fresh
        if old is not None:
            with contextlib.suppress(OSError):  # a full disk: what was buffered is lost
                old.close()
        self._statstream()


def configure(level: str, style: str, path: str, access_path: str = "") -> None:
    """Set up the logger ``hub`` and nothing else.

    :param level: lowest level that is written.
    :param style: ``text`` or ``json``.
    :param path: file to append to; empty for standard error.
    :param access_path: file for the lines of requests, written whatever the level; empty: with the rest.
    :raises OSError: a file cannot be opened.
    """
    everything, requests = logging.getLogger(_ALL), logging.getLogger(_REQUESTS)
    handler = _handler(path, style)
    access_handler = _handler(access_path, style) if access_path else None
    for logger in (everything, requests):
        for old in list(logger.handlers):
            logger.removeHandler(old)
            old.close()
    everything.addHandler(handler)
    everything.setLevel(level.upper())
    everything.propagate = False
    requests.propagate = access_handler is None
    requests.setLevel(logging.NOTSET if access_handler is None else logging.INFO)
    if access_handler is not None:
        requests.addHandler(access_handler)


def name_worker(number: int) -> None:
    """Have each line tell which of several processes wrote it."""
    for handler in _handlers():
        if isinstance(handler.formatter, _JsonFormatter):
            handler.formatter.worker = number
        else:
            handler.setFormatter(logging.Formatter(_TEXT_OF_WORKER.format(number=number)))


def reopen() -> None:
    """Open the files anew, where they have been renamed; each line does it too."""
    for handler in _handlers():
        if isinstance(handler, _File):
            handler.acquire()  # the log's threads write as well
            try:
                handler.reopenIfNeeded()
            finally:
                handler.release()


def _handlers() -> list[logging.Handler]:
    return [*logging.getLogger(_ALL).handlers, *logging.getLogger(_REQUESTS).handlers]


def _handler(path: str, style: str) -> logging.Handler:
    handler: logging.Handler = (
        _File(path, encoding="utf-8", errors="backslashreplace")
        if path
        else logging.StreamHandler(sys.stderr)
    )
    handler.setFormatter(_JsonFormatter() if style == "json" else logging.Formatter(_TEXT))
    return handler


INTERVAL = 2.0
"""Seconds between two checks."""

_HOUR = 3600
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}

_log = logging.getLogger("mercure_hub.server")


def rotation_of(settings: Settings, now: float) -> Rotation | None:
    """The rotation that the settings ask for, if they do.

    :param now: seconds since the epoch.
    """
    paths = [Path(path) for path in (settings.log_file, settings.access_log) if path]
    when = settings.log_rotate
    if not paths or not when:
        return None
    sized = re.fullmatch(r"([0-9]+)([kmg]?)", when, re.IGNORECASE)
    rule = (
        RotationRule(size=int(sized[1]) * _UNITS[sized[2].lower()], keep=settings.log_keep)
        if sized
        else RotationRule(interval=when, keep=settings.log_keep)
    )
    return Rotation(paths, rule, now)


@dataclass(frozen=True, slots=True)
class RotationRule:
    """When files are renamed.

    :param size: octets from which on a file is; 0: whatever its size.
    :param interval: ``hourly``, ``daily``, or empty.
    :param keep: how many renamed files stay.
    """

    size: int = 0
    interval: str = ""
    keep: int = 7


class Rotation:
    """Renames the files of a log.

    :param paths: of the files.
    :param rule: when.
    :param now: seconds since the epoch.
    """

    def __init__(self, paths: Sequence[Path], rule: RotationRule, now: float) -> None:
        self._paths = paths
        self._rule = rule
        self._has_failed = False
        # A file that was last written yesterday is renamed at the start.
        self._ends = {path: self._end(min(now, _written(path, now))) for path in paths}

    def check(self, now: float) -> None:
        """Rename what is due; what cannot be renamed is logged, and grows.

        :param now: seconds since the epoch.
        """
        for path in self._paths:
            if now < self._ends[path] and not self._is_large(path):
                continue
            self._ends[path] = self._end(now)
            try:
                self._rename(path)
            except OSError as error:
                if not self._has_failed:
                    _log.error("the log %s cannot be rotated: %s", path, error.strerror)
                self._has_failed = True
            else:
                self._has_failed = False

    def _is_large(self, path: Path) -> bool:
        if not self._rule.size:
            return False
        with contextlib.suppress(OSError):  # whoever writes to it tells
            return path.stat().st_size >= self._rule.size
        return False

    def _rename(self, path: Path) -> None:
        if not path.exists() or path.stat().st_size == 0:
            return
        keep = self._rule.keep
        if not keep:
            path.unlink()
            return
        for number in range(keep - 1, 0, -1):
            with contextlib.suppress(FileNotFoundError):
                _numbered(path, number).replace(_numbered(path, number + 1))
        path.replace(_numbered(path, 1))

    def _end(self, start: float) -> float:
        """When the hour or the day is over, in local time, that a moment is in."""
        if self._rule.interval == "hourly":
            return start - start % _HOUR + _HOUR
        if self._rule.interval == "daily":
            day = time.localtime(start)
            return time.mktime((day.tm_year, day.tm_mon, day.tm_mday + 1, 0, 0, 0, 0, 0, -1))
        return float("inf")


def _numbered(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.{number}")


def _written(path: Path, default: float) -> float:
    with contextlib.suppress(OSError):
        return path.stat().st_mtime
    return default


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
