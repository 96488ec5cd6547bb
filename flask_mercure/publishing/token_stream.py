"""Streams text that is made bit by bit, such as the tokens of a language model, to one topic.

The bits are joined to pieces, each of them an update: a model makes a hundred tokens a second, and a page
that is drawn anew ten times a second looks the same. One thread publishes while the other one takes the
bits, so that a piece leaves in time when the model hesitates, and that the model waits when the hub does.
"""

from __future__ import annotations

import contextvars
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from flask_mercure.errors import InvalidArgument

_MOST_WAITING = 64  # pieces of the usual size that may wait for the hub before the source has to


@dataclass(frozen=True, slots=True)
class Grouping:
    """How bits are joined.

    :param interval: seconds from one update to the next, at least.
    :param size: characters that leave at once, whatever the time.
    :raises InvalidArgument: a value is out of range.
    """

    interval: float = 0.1
    size: int = 2000

    def __post_init__(self) -> None:
        if not 0 <= self.interval <= 60:
            raise InvalidArgument(f"interval is {self.interval!r}; give seconds from 0 to 60")
        if self.size < 1:
            raise InvalidArgument(f"size is {self.size!r}; give a number of characters, 1 or more")


Publish = Callable[[dict[str, Any]], object]
"""Publishes the data of one update, and returns once the hub has it."""


def stream(
    tokens: Iterable[str],
    publish: Publish,
    grouping: Grouping,
    *,
    stream_id: str | None = None,
    error: str = "The answer broke off.",
    clock: Callable[[], float] = time.monotonic,
) -> str:
    """Publish bits of text as they come, in order.

    Updates are JSON objects with ``stream``, the id; ``seq``, counted from 0 without gaps; and ``kind``:
    ``text`` with ``text``; at the end ``done`` with the whole ``text``, so that a page that missed a piece is
    right in the end; or ``error`` with ``message`` when the source raises.

    :param tokens: the source; closed at the end where it can be, as generators can.
    :param publish: of one update.
    :param grouping: how bits are joined.
    :param stream_id: tells this text from others of the topic; default: a new UUID.
    :param error: what subscribers read when the source raises. Not the error itself, which may say too much.
    :param clock: monotonic time in seconds.
    :returns: the whole text.
    :raises TypeError: a bit is no ``str``.
    :raises Exception: of the source or of ``publish``, as it was.
    """
    writer = _Writer(publish, grouping, stream_id or str(uuid.uuid4()), clock)
    whole: list[str] = []
    # The context of the caller: the app, its request, the current span.
    context = contextvars.copy_context()
    thread = threading.Thread(target=context.run, args=(writer.run,), name="mercure-stream", daemon=True)
    thread.start()
    try:
        for token in tokens:
            if not isinstance(token, str):
                raise TypeError(f"the stream gave a {type(token).__name__}; it has to give str")
            whole.append(token)
            writer.put(token)
        writer.end({"kind": "done", "text": "".join(whole)})
    except BaseException:
        writer.end({"kind": "error", "message": error})
        raise
    finally:
        thread.join()
        close = getattr(tokens, "close", None)
        if close is not None:
            close()
    writer.check()
    return "".join(whole)


class _Writer:
    """Collects text and publishes it in a thread of its own."""

    def __init__(
        self, publish: Publish, grouping: Grouping, stream_id: str, clock: Callable[[], float]
    ) -> None:
        self._publish = publish
        self._grouping = grouping
        self._id = stream_id
        self._clock = clock
        self._changed = threading.Condition()
        self._text: list[str] = []
        self._size = 0
        self._last: dict[str, Any] | None = None
        self._failure: BaseException | None = None
        self._sequence = 0

    def put(self, text: str) -> None:
        """Add text; waits while the hub is slower than the source.

        :raises Exception: an earlier update could not be published.
        """
        if not text:
            return
        with self._changed:
            self._changed.wait_for(
                lambda: self._size < self._grouping.size * _MOST_WAITING or self._failure is not None
            )
            self.check()
            self._text.append(text)
            self._size += len(text)
            self._changed.notify_all()

    def end(self, last: dict[str, Any]) -> None:
        """Have the rest published, and a last update after it."""
        with self._changed:
            if self._last is None:
                self._last = last
            self._changed.notify_all()

    def check(self) -> None:
        """Raise what kept an update from being published."""
        if self._failure is not None:
            raise self._failure

    def run(self) -> None:
        """Publish until the end, or until an update fails."""
        next_at = self._clock()
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: bool(self._text) or self._last is not None)
                    while not self._is_due() and (rest := next_at - self._clock()) > 0:
                        self._changed.wait(rest)
                    text, self._text, self._size = "".join(self._text), [], 0
                    last = self._last
                    self._changed.notify_all()
                next_at = self._clock() + self._grouping.interval
                if text:
                    self._send({"kind": "text", "text": text})
                if last is not None:
                    self._send(last)
                    return
        except BaseException as error:
            with self._changed:
                self._failure = error
                self._changed.notify_all()

    def _is_due(self) -> bool:
        return self._last is not None or self._size >= self._grouping.size

    def _send(self, content: dict[str, Any]) -> None:
        self._publish({"stream": self._id, "seq": self._sequence, **content})
        self._sequence += 1
