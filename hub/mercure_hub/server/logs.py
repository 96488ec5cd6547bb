"""The hub's log: text for people, JSON for collectors; requests beside the rest or in a file of their own."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
from logging.handlers import WatchedFileHandler

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
