"""Logging: text for people or JSON for collectors, files that are rotated, and one line for each request."""

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

_TEXT = "%(asctime)s %(levelname)-7s %(message)s"
_TEXT_OF_WORKER = "%(asctime)s %(levelname)-7s [{name}] %(message)s"
_ALL = "mercure_hub"
_REQUESTS = "mercure_hub.access"

_log = logging.getLogger("mercure_hub.server")


class _JsonFormatter(logging.Formatter):
    worker: int | str | None = None

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
    """Checks before each line whether its path still names the file that is open.

    If the new file cannot be opened, because the folder belongs to somebody else or no descriptor is left,
    lines go to the old file: no request may fail because of its log line.
    """

    _has_failed = False

    def reopenIfNeeded(self) -> None:  # noqa: N802 - overridden
        """Reopen the file if it was renamed or removed."""
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
            with contextlib.suppress(OSError):  # the disk is full: what was buffered is lost
                old.close()
        self._statstream()


def configure(level: str, style: str, path: str, access_path: str = "") -> None:
    """Set up the logger ``mercure_hub`` and nothing else.

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


def name_worker(name: int | str) -> None:
    """Name the worker in each line that this process writes.

    :param name: its number, or what it does instead of serving.
    """
    for handler in _handlers():
        if isinstance(handler.formatter, _JsonFormatter):
            handler.formatter.worker = name
        else:
            handler.setFormatter(logging.Formatter(_TEXT_OF_WORKER.format(name=name)))


def reopen() -> None:
    """Reopen files that were renamed, without waiting for the next line."""
    for handler in _handlers():
        if isinstance(handler, _File):
            handler.acquire()  # other threads write as well
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


# -- rotation: hub.log becomes hub.log.1, and so on ----------------------------------------------
#
# One process renames. All processes notice with their next line, because of _File: no line is lost, and
# nothing has to be agreed upon.

ROTATION_INTERVAL = 2.0
"""Seconds between two checks."""

_HOUR = 3600
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


def rotation_of(settings: Settings, now: float) -> Rotation | None:
    """The rotation that the settings ask for; ``None`` if they do not.

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

    :param size: from this many bytes on; 0: whatever the size.
    :param interval: ``hourly``, ``daily``, or empty for never.
    :param keep: how many renamed files stay.
    """

    size: int = 0
    interval: str = ""
    keep: int = 7


class Rotation:
    """Renames log files.

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
        """Rename the files that are due. One that cannot be renamed is logged, and grows.

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
                    _log.error("the log file %s cannot be rotated: %s", path, error.strerror)
                self._has_failed = True
            else:
                self._has_failed = False

    def _is_large(self, path: Path) -> bool:
        if not self._rule.size:
            return False
        with contextlib.suppress(OSError):  # writing to it fails too, and is reported
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
        """When the hour or the day of a moment is over, in local time."""
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


# -- requests ------------------------------------------------------------------------------------

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
    """Writes a line for each request, without the tokens that old clients put into URLs."""

    def __init__(self) -> None:
        self._log = logging.getLogger(_REQUESTS)

    @property
    def is_on(self) -> bool:
        """Whether lines are wanted."""
        return self._log.isEnabledFor(logging.INFO)

    def write(self, peer: str, method: str, target: bytes, status: int, seconds: float) -> None:
        """Log a request that was answered.

        :param peer: address of the client.
        :param target: raw request target.
        :param seconds: until the answer was ready.
        """
        shown = redact(target.decode("latin-1"))
        self._log.info(
            '%s "%s %s" %d %.1f ms',
            peer,
            method,
            shown,
            status,
            seconds * 1e3,
            extra={
                "fields": {
                    "peer": peer,
                    "method": method,
                    "target": shown,
                    "status": status,
                    "ms": round(seconds * 1e3, 1),
                }
            },
        )

    def write_refused(self, peer: str, status: int, reason: str) -> None:
        """Log bytes that were not a request."""
        self._log.info("%s %d %s", peer, status, reason, extra={"fields": {"peer": peer, "status": status}})
