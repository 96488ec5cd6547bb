"""Streams text that is made bit by bit, such as the tokens of a language model, to one topic.

The bits are joined to pieces, each of them an update: a model makes a hundred tokens a second, and a page
that is drawn anew ten times a second looks the same. One thread publishes while the other one takes the
bits, so that a piece leaves in time when the model hesitates, and that the model waits when the hub does.

While the hub is away, a piece is tried again under its id and its number, by which a page knows a repeat;
what the model makes meanwhile becomes the next piece. The last update, ``done`` or ``error``, is tried
whatever became of those before it: a page that waits has to learn of the end.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import random
import threading
import time
import uuid
from collections.abc import AsyncIterable, Callable, Iterable
from dataclasses import dataclass
from typing import Any

from flask_mercure.errors import InvalidArgument, MercureError
from flask_mercure.publishing import retry
from mercure_hub.protocol.update import new_id

_MOST_WAITING = 64  # pieces of the usual size that may wait for the hub before the source has to
_PATIENCE = 30.0


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


@dataclass(frozen=True, slots=True)
class Delivery:
    """How the updates of a text get to the hub.

    :param publish: publishes the data of one update under an id, and returns once the hub has it.
    :param log: writes down that the update of an id was not published, and why.
    :param raises: whether such a failure ends the text; if not, the next pieces are tried.
    :param patience: seconds for which the hub may be away before an update counts as failed.
    :param chance: gives numbers from 0 to 1.
    """

    publish: Callable[[dict[str, Any], str], object]
    log: Callable[[str, MercureError], object]
    raises: bool = True
    patience: float = _PATIENCE
    chance: Callable[[], float] = random.random


def stream(
    tokens: Iterable[str],
    delivery: Delivery,
    grouping: Grouping,
    *,
    stream_id: str | None = None,
    error: str = "The answer broke off.",
) -> str:
    """Publish bits of text as they come, in order.

    Updates are JSON objects with ``stream``, the id; ``seq``, counted from 0; and ``kind``: ``text`` with
    ``text``; at the end ``done`` with the whole ``text``, so that a page that missed a piece is right in the
    end; or ``error`` with ``message`` when the source raises, or an update could not be published.

    :param tokens: the source; closed at the end where it can be, as generators can.
    :param delivery: of the updates.
    :param grouping: how bits are joined.
    :param stream_id: tells this text from others of the topic; default: a new UUID.
    :param error: what subscribers read when the source raises. Not the error itself, which may say too much.
    :returns: the whole text.
    :raises TypeError: ``tokens`` cannot be iterated over, or a bit is no ``str``.
    :raises Exception: of the source, or of an update that could not be published, as it was.
    """
    if not isinstance(tokens, Iterable):
        raise TypeError(
            f"tokens is a {type(tokens).__name__}, no iterable of str; await mercure.astream() if async"
        )
    writer = _Writer(delivery, grouping, stream_id)
    try:
        for token in tokens:
            writer.wait_for_room()
            writer.put(token)
        writer.done()
    except BaseException as failure:
        writer.broke_off(error, failure)
        raise
    finally:
        try:
            writer.join()
        finally:
            close = getattr(tokens, "close", None)
            if close is not None:
                close()
    return writer.whole()


async def astream(
    tokens: AsyncIterable[str],
    delivery: Delivery,
    grouping: Grouping,
    *,
    stream_id: str | None = None,
    error: str = "The answer broke off.",
) -> str:
    """Publish bits of text as an asynchronous source gives them; the event loop never waits for the hub.

    Arguments, updates and result are those of :func:`stream`. A cancelled task ends the text with ``error``.

    :raises TypeError: ``tokens`` cannot be iterated over with ``async for``, or a bit is no ``str``.
    :raises Exception: of the source, or of an update that could not be published, as it was.
    """
    if not isinstance(tokens, AsyncIterable):
        raise TypeError(
            f"tokens is a {type(tokens).__name__}, no async iterable of str; use mercure.stream()"
        )
    writer = _Writer(delivery, grouping, stream_id)
    try:
        async for token in tokens:
            if writer.is_full:
                await asyncio.to_thread(writer.wait_for_room)
            writer.put(token)
        writer.done()
    except BaseException as failure:
        writer.broke_off(error, failure)
        raise
    finally:
        try:
            await asyncio.to_thread(writer.join)
        finally:  # also of a task that is cancelled again while the hub is slow
            close = getattr(tokens, "aclose", None) or getattr(tokens, "close", None)
            if close is not None:
                closing = close()
                if inspect.isawaitable(closing):
                    await closing
    return writer.whole()


class _Writer:
    """Collects text and publishes it in a thread of its own, which starts at once."""

    def __init__(self, delivery: Delivery, grouping: Grouping, stream_id: str | None) -> None:
        self._delivery = delivery
        self._grouping = grouping
        self._id = stream_id or str(uuid.uuid4())
        self._all: list[str] = []
        self._changed = threading.Condition()
        self._text: list[str] = []
        self._size = 0
        self._last: dict[str, Any] | None = None
        self._is_hasty = False
        self._failure: BaseException | None = None
        self._is_complete = False
        self._sequence = 0
        self._away_since: float | None = None
        # The context of the caller: the app, its request, the current span.
        context = contextvars.copy_context()
        self._thread = threading.Thread(
            target=context.run, args=(self._run,), name="mercure-stream", daemon=True
        )
        self._thread.start()

    @property
    def is_full(self) -> bool:
        """Whether the source has made much more than the hub has taken."""
        return self._size >= self._grouping.size * _MOST_WAITING

    def wait_for_room(self) -> None:
        """Wait while the hub is slower than the source."""
        with self._changed:
            self._changed.wait_for(
                lambda: not self.is_full or self._failure is not None or self._last is not None
            )

    def put(self, text: str) -> None:
        """Add text.

        :raises TypeError: it is no ``str``.
        :raises Exception: an earlier update could not be published.
        """
        if not isinstance(text, str):
            raise TypeError(f"the stream gave a {type(text).__name__}; it has to give str")
        with self._changed:
            if self._failure is not None:
                raise self._failure
            if text:
                self._all.append(text)
                self._text.append(text)
                self._size += len(text)
                self._changed.notify_all()

    def done(self) -> None:
        """The source has ended."""
        self._end({"kind": "done", "text": "".join(self._all)})

    def broke_off(self, message: str, failure: BaseException) -> None:
        """The source, or the publishing of its text, has failed.

        :param message: for subscribers.
        :param failure: one that is no ``Exception``, such as the end of the process, does not wait for a hub.
        """
        self._is_hasty = not isinstance(failure, Exception)
        self._end({"kind": "error", "message": message})

    def join(self) -> None:
        """Wait until the last update was published, or given up."""
        self._thread.join()

    def whole(self) -> str:
        """The text; once subscribers have it with ``done``, it does not matter that they missed a piece.

        :raises Exception: what kept them from it.
        """
        if self._failure is not None and not self._is_complete:
            raise self._failure
        return "".join(self._all)

    def _end(self, last: dict[str, Any]) -> None:
        with self._changed:
            if self._last is None:
                self._last = last
            self._changed.notify_all()

    def _run(self) -> None:
        """Publish until the end."""
        next_at = time.monotonic()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._text) or self._last is not None)
                while not self._is_due() and (rest := next_at - time.monotonic()) > 0:
                    self._changed.wait(rest)
                text, self._text, self._size = "".join(self._text), [], 0
                last = self._last
                self._changed.notify_all()
            next_at = time.monotonic() + self._grouping.interval
            if text and self._failure is None:
                self._send({"kind": "text", "text": text})
            if last is not None:
                self._is_complete = self._send(last) and last["kind"] == "done"
                return

    def _is_due(self) -> bool:
        return self._last is not None or self._size >= self._grouping.size

    def _send(self, content: dict[str, Any]) -> bool:
        """Publish an update, if need be in several attempts.

        :returns: whether the hub has it.
        """
        update = {"stream": self._id, "seq": self._sequence, **content}
        self._sequence += 1
        update_id = new_id()
        attempts = 0
        while True:
            try:
                self._delivery.publish(update, update_id)
            except MercureError as error:
                attempts += 1
                if self._waits_for_hub(error, attempts):
                    continue
                # One who meets the source's own failure would not learn that its subscribers still wait.
                if not self._delivery.raises or content["kind"] == "error":
                    self._delivery.log(update_id, error)
                if self._delivery.raises:
                    self._fail(error)
            except BaseException as error:
                self._fail(error)
            else:
                self._away_since = None
                return True
            return False

    def _waits_for_hub(self, error: MercureError, attempts: int) -> bool:
        """Wait for the next attempt, if there shall be one."""
        pause = retry.pause(error, attempts, self._delivery.chance())
        if pause is None:
            return False
        now = time.monotonic()
        if self._away_since is None:
            self._away_since = now
        if now + pause > self._away_since + self._delivery.patience:
            return False
        with self._changed:
            return not self._changed.wait_for(lambda: self._is_hasty, pause)

    def _fail(self, error: BaseException) -> None:
        with self._changed:
            if self._failure is None:
                self._failure = error
            self._changed.notify_all()
