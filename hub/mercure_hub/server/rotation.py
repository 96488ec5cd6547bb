"""Rotation of log files: hub.log becomes hub.log.1, and so on.

One process renames. All processes notice with their next lines (``logs.py``): no line is lost, and nothing
has to be agreed upon.
"""

from __future__ import annotations

import contextlib
import logging
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mercure_hub.config.settings import Settings

ROTATION_INTERVAL = 2.0
"""Seconds between two checks."""

_HOUR = 3600
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}

_log = logging.getLogger("mercure_hub.server")


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
