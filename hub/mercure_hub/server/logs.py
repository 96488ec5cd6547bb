"""Logging: text for people or JSON for collectors, to standard error or to files that may be renamed."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import stat
import sys
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from threading import get_ident
from typing import Protocol

REQUESTS = "mercure_hub.access"
"""Name of the logger of requests."""

BATCH = 0.1
"""Seconds for which a line may wait for others, which are then written with it."""

_ALL = "mercure_hub"
_OWN = "mercure_hub.server"
_MOST = 256  # lines that wait
_PIPE_BUF = 4096  # bytes that a pipe takes whole, also when other processes write to it
_NEWLINE = ord("\n")

_encode = json.JSONEncoder(ensure_ascii=False).encode
_quote = json.encoder.encode_basestring  # what the encoder does with a str, in a tenth of the time


class _Form(logging.Formatter, ABC):
    """How lines look.

    :param pattern: of the date and the time of a second, for strftime.
    """

    def __init__(self, pattern: str) -> None:
        super().__init__()
        self._pattern = pattern
        self._second = (-1, "")  # the last one that was rendered: many lines have the same

    def second(self, now: float) -> str:
        """The date and the time of a moment.

        :param now: seconds since the epoch.
        """
        number, text = self._second
        if number != int(now):
            text = time.strftime(self._pattern, time.localtime(now))
            self._second = (int(now), text)
        return text

    @abstractmethod
    def name_worker(self, name: int | str) -> None:
        """Name the process in each line."""

    @abstractmethod
    def line(
        self, now: float, level: str, logger: str, message: str, fields: Mapping[str, object] | None = None
    ) -> str:
        """A line, without the character that ends it."""

    @abstractmethod
    def request(self, now: float, peer: str, method: str, target: str, *, status: int, ms: float) -> str:
        """The line of a request, of level info and logger ``REQUESTS``: in one step, as there may be many.

        :param target: without secrets.
        :param ms: milliseconds until the answer was ready.
        """


class _Text(_Form):
    def __init__(self) -> None:
        super().__init__("%Y-%m-%d %H:%M:%S")
        self._worker = ""

    def name_worker(self, name: int | str) -> None:
        self._worker = f"[{name}] "

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - overridden
        return self.line(record.created, record.levelname, record.name, record.message)

    def line(
        self,
        now: float,
        level: str,
        logger: str,  # noqa: ARG002
        message: str,
        fields: Mapping[str, object] | None = None,  # noqa: ARG002
    ) -> str:
        return f"{self.second(now)},{int(now % 1 * 1000):03d} {level:<7} {self._worker}{message}"

    def request(self, now: float, peer: str, method: str, target: str, *, status: int, ms: float) -> str:
        return (
            f"{self.second(now)},{int(now % 1 * 1000):03d} INFO    {self._worker}"
            f'{peer} "{method} {target}" {status} {ms:.1f} ms'
        )


class _Json(_Form):
    def __init__(self) -> None:
        super().__init__("%Y-%m-%dT%H:%M:%S%z")
        self._worker = ""

    def name_worker(self, name: int | str) -> None:
        self._worker = f', "worker": {_encode(name)}'

    def format(self, record: logging.LogRecord) -> str:
        fields = dict(getattr(record, "fields", None) or {})
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return self.line(record.created, record.levelname, record.name, record.getMessage(), fields)

    def line(
        self, now: float, level: str, logger: str, message: str, fields: Mapping[str, object] | None = None
    ) -> str:
        more = f", {_encode(fields)[1:-1]}" if fields else ""
        return (
            f'{{"time": "{self.second(now)}", "level": {_quote(level.lower())}, "logger": {_quote(logger)}, '
            f'"message": {_quote(message)}{self._worker}{more}}}'
        )

    def request(self, now: float, peer: str, method: str, target: str, *, status: int, ms: float) -> str:
        message = f'{peer} "{method} {target}" {status} {ms:.1f} ms'
        return (
            f'{{"time": "{self.second(now)}", "level": "info", "logger": "{REQUESTS}", '
            f'"message": {_quote(message)}{self._worker}, "peer": {_quote(peer)}, '
            f'"method": {_quote(method)}, "target": {_quote(target)}, "status": {status}, '
            f'"ms": {round(ms, 1)}}}'
        )


class _Output:
    """A descriptor that lines are written to.

    :param descriptor: of standard error.
    :param encoding: of the text.
    """

    def __init__(self, descriptor: int, encoding: str) -> None:
        self._encoding = encoding
        self._take(descriptor)

    def _take(self, descriptor: int) -> None:
        self._descriptor = descriptor
        status = os.fstat(descriptor)
        self._identity = status.st_dev, status.st_ino
        self._takes_all = stat.S_ISREG(status.st_mode)
        self._is_torn = False

    def check(self) -> None:
        """Open the file anew if its path names another one now."""

    def close(self) -> None:
        """Close the file; ``check`` opens it again."""

    def write(self, text: str) -> None:
        """Write whole lines, so that those of other processes do not get between their parts.

        :param text: ends with the last line.
        :raises OSError: it cannot be written, or not all of it.
        """
        content = text.encode(self._encoding, "backslashreplace")
        if self._is_torn:
            content = b"\n" + content
        for part in (content,) if self._takes_all else _parts(content):
            rest = memoryview(part)
            while rest:
                written = os.write(self._descriptor, rest)
                self._is_torn = rest[written - 1] != _NEWLINE
                rest = rest[written:]

    def tell(self, error: OSError) -> None:
        """Say elsewhere that lines are lost."""


class _File(_Output):
    """A file that may be renamed: before each batch it is checked whether its path still names it.

    If the new file cannot be opened, because the folder belongs to somebody else or no descriptor is left,
    lines go to the old file: no request may fail because of its log line.

    :param path: of the file, which is appended to.
    :raises OSError: it cannot be opened.
    """

    def __init__(self, path: str) -> None:
        self._path = str(Path(path).absolute())
        self._has_failed = False
        super().__init__(self._open(), "utf-8")

    def _open(self) -> int:
        return os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)

    def check(self) -> None:
        if self._descriptor >= 0:
            with contextlib.suppress(OSError):
                there = os.stat(self._path)  # noqa: PTH116 - once for each batch
                if (there.st_dev, there.st_ino) == self._identity:
                    return
        try:
            fresh = self._open()
        except OSError as error:
            if not self._has_failed:
                _tell(
                    f"{self._path!r} cannot be opened anew: {error.strerror}; "
                    "lines go on into the file that had this name"
                )
            self._has_failed = True
            return
        self._has_failed = False
        self.close()
        self._take(fresh)

    def close(self) -> None:
        old, self._descriptor = self._descriptor, -1
        if old >= 0:
            with contextlib.suppress(OSError):
                os.close(old)

    def tell(self, error: OSError) -> None:
        _tell(f"{self._path!r} cannot be written: {error.strerror}; log lines are lost")


def _parts(content: bytes) -> Iterator[bytes]:
    """Whole lines, as many at a time as a pipe takes at once."""
    start = 0
    while len(content) - start > _PIPE_BUF:
        end = content.rfind(b"\n", start, start + _PIPE_BUF) + 1 or content.index(b"\n", start) + 1
        yield content[start:end]
        start = end
    yield content[start:]


def _tell(message: str) -> None:
    if sys.stderr is not None:
        with contextlib.suppress(OSError):
            print(f"mercure-hub: {message}", file=sys.stderr)  # noqa: T201


class Timer(Protocol):
    """Calls a function in an event loop at an interval."""

    def again(self, callback: Callable[[], None]) -> object:
        """Begin to call it. Unlike ``start``, which goes on with what was left when the timer was stopped."""

    def stop(self) -> object:
        """Call it no more, until ``again``."""

    def close(self) -> object:
        """Stop for good."""


class Loop(Protocol):
    """An event loop."""

    def timer(self, after: float, repeat: float, ref: bool) -> Timer:
        """Make a timer.

        :param after: seconds until the first call.
        :param repeat: seconds between two.
        :param ref: whether the loop goes on as long as it runs.
        """


class Lines(logging.Handler):
    """Writes lines in the order in which they came, some of them in batches.

    A warning is written at once, with what waits before it. Lines of lower levels wait for ``BATCH`` seconds
    if the process has a timer for them. What cannot be written is lost, and is counted: no request may fail
    because of its log line.

    :param output: where to.
    :param form: how lines look.
    """

    def __init__(self, output: _Output, form: _Form) -> None:
        super().__init__()
        self.form = form
        self.setFormatter(form)
        self._output = output
        self._waiting: deque[str] = deque()
        self._timer: Timer | None = None
        self._thread = 0
        self._is_due = False
        self._lost = 0

    def gather(self, timer: Timer | None) -> None:
        """Write in batches from now on.

        :param timer: with the interval ``BATCH``, in the event loop of this thread; ``None``: write each line
            at once.
        """
        old, self._timer = self._timer, timer
        self._thread, self._is_due = get_ident(), False
        if old is not None:
            old.stop()
            old.close()
        self.flush()

    def put(self, line: str) -> None:
        """Take a line that the form has made, of level info."""
        self._waiting.append(line)
        # Checked after the line was appended, and reset before lines are taken: none stays behind.
        if not self._is_due or len(self._waiting) >= _MOST:
            self._pass_on()

    def emit(self, record: logging.LogRecord) -> None:
        """Take a record."""
        try:
            line = self.format(record)
        except Exception:  # its arguments do not fit its message
            self.handleError(record)
        else:
            if record.levelno < logging.WARNING:
                self.put(line)
            else:
                self._waiting.append(line)
                self.flush()

    def _pass_on(self) -> None:
        """Write what waits, or begin to wait for more."""
        if self._is_due or self._timer is None or get_ident() != self._thread:
            self.flush()
        else:
            self._is_due = True
            self._timer.again(self._on_time)

    def _on_time(self) -> None:
        if self._timer is not None:
            self._timer.stop()
        self._is_due = False
        self.flush()

    def flush(self) -> None:
        """Write what waits."""
        self.acquire()  # other threads log as well
        try:
            lines = []
            while self._waiting:
                lines.append(self._waiting.popleft())
            if lines:
                self._write(lines)
        finally:
            self.release()

    def _write(self, lines: list[str]) -> None:
        text = "\n".join(lines) + "\n"
        try:
            self._output.check()
            if self._lost:
                lost = f"up to {self._lost} log lines before this one could not be written"
                text = f"{self.form.line(time.time(), 'WARNING', _OWN, lost)}\n{text}"
            self._output.write(text)
        except OSError as error:
            if not self._lost:
                self._output.tell(error)
            self._lost += len(lines)
        else:
            self._lost = 0

    def reopen(self) -> None:
        """Reopen the file if it was renamed, without waiting for the next line."""
        self.acquire()
        try:
            self._output.check()
        finally:
            self.release()

    def close(self) -> None:
        """Write what waits."""
        self.gather(None)
        self._output.close()
        super().close()


def configure(level: str, style: str, path: str, access_path: str = "") -> None:
    """Set up the logger ``mercure_hub`` and nothing else.

    :param level: lowest level that is written.
    :param style: ``text`` or ``json``.
    :param path: file to append to; empty for standard error.
    :param access_path: file for the lines of requests, written whatever the level; empty: with the rest.
    :raises OSError: a file cannot be opened.
    """
    everything, requests = logging.getLogger(_ALL), logging.getLogger(REQUESTS)
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
        if isinstance(handler.formatter, _Form):
            handler.formatter.name_worker(name)


def gather(loop: Loop) -> None:
    """Write lines in batches from now on, in a process that has an event loop.

    :param loop: of this thread.
    """
    for handler in _handlers():
        if isinstance(handler, Lines):
            handler.gather(loop.timer(BATCH, BATCH, ref=False))


def write_at_once() -> None:
    """Write what waits, and from now on each line at once, because the event loop ends."""
    for handler in _handlers():
        if isinstance(handler, Lines):
            handler.gather(None)


def reopen() -> None:
    """Reopen files that were renamed, without waiting for the next line."""
    for handler in _handlers():
        if isinstance(handler, Lines):
            handler.reopen()


def only_handler(logger: logging.Logger) -> Lines | None:
    """The handler of a logger, if it is one of ours and nobody else has put another there."""
    found: list[logging.Handler] = []
    one: logging.Logger | None = logger
    while one is not None:
        found += one.handlers
        one = one.parent if one.propagate else None
    return found[0] if len(found) == 1 and isinstance(found[0], Lines) else None


def _handlers() -> list[logging.Handler]:
    return [*logging.getLogger(_ALL).handlers, *logging.getLogger(REQUESTS).handlers]


def _handler(path: str, style: str) -> logging.Handler:
    form = _Json() if style == "json" else _Text()
    if path:
        return Lines(_File(path), form)
    try:
        return Lines(_Output(sys.stderr.fileno(), sys.stderr.encoding), form)
    except (AttributeError, OSError, ValueError):  # it is closed, or replaced by an object
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(form)
        return handler
