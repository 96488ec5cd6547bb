"""The hub's log: text for people, JSON for collectors."""

from __future__ import annotations

import json
import logging
import sys

_TEXT = "%(asctime)s %(levelname)-7s %(message)s"
_TEXT_OF_WORKER = "%(asctime)s %(levelname)-7s [{number}] %(message)s"


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


def configure(level: str, style: str, path: str) -> None:
    """Set up the logger ``hub`` and nothing else.

    :param level: lowest level that is written.
    :param style: ``text`` or ``json``.
    :param path: file to append to; empty for standard error.
    :raises OSError: the file cannot be opened.
    """
    handler: logging.Handler = (
        logging.FileHandler(path, encoding="utf-8", errors="backslashreplace")
        if path
        else logging.StreamHandler(sys.stderr)
    )
    handler.setFormatter(_JsonFormatter() if style == "json" else logging.Formatter(_TEXT))
    logger = logging.getLogger("hub")
    for old in list(logger.handlers):
        logger.removeHandler(old)
        old.close()
    logger.addHandler(handler)
    logger.setLevel(level.upper())
    logger.propagate = False


def name_worker(number: int) -> None:
    """Have each line tell which of several processes wrote it."""
    for handler in logging.getLogger("hub").handlers:
        if isinstance(handler.formatter, _JsonFormatter):
            handler.formatter.worker = number
        else:
            handler.setFormatter(logging.Formatter(_TEXT_OF_WORKER.format(number=number)))
