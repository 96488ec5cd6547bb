"""Text and events that are published while they are made, such as the tokens of a language model.

They are joined to pieces, each of which is an update: a model makes a hundred tokens a second, and a page
that is drawn ten times a second looks the same. One thread publishes while another takes the tokens, so
that a piece leaves in time when the model pauses, and the model waits when the hub does.

While the hub is away, a piece is tried again under its id and its number, by which a page recognises a
repeat; what the model makes meanwhile becomes the next piece. The last update, ``done`` or ``error``, is
tried even if others failed: a waiting page must learn of the end.

Text is what this module publishes itself; :mod:`flask_mercure.publishing.runs` adds runs of events.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import random
import threading
import time
import uuid
from collections.abc import AsyncIterable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from flask_mercure.config.values import OnFailure, check_policy
from flask_mercure.errors import InvalidArgument, MercureError
from flask_mercure.publishing.events import log_failure
from flask_mercure.publishing.pipeline import Pipeline
from flask_mercure.publishing.retry import next_attempt
from flask_mercure.state import HubState
from flask_mercure.updates import Update, as_text
from mercure_hub.protocol.update import new_id

_MAX_WAITING = 64  # pieces of full size that wait for the hub; then the source has to wait
_PATIENCE = 30.0
_LOOK = 0.5  # seconds between two looks at what others publish, while the source gives nothing
BROKEN_OFF = "The answer broke off."
"""What subscribers get by default when the source raises."""


@dataclass(frozen=True, slots=True)
class Grouping:
    """How tokens or events are joined to updates.

    :param interval: seconds from one update to the next, at least.
    :param size: characters, of events as JSON, that are sent at once, whatever the interval.
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

    :param publish: publishes the content of one update under an id, and returns once the hub has it.
    :param log: writes to the log that the update of an id was not published, and why.
    :param raises: whether such a failure ends the text; if not, the next updates are tried.
    :param patience: seconds for which the hub may be away before an update counts as failed.
    :param chance: gives random numbers from 0 to 1.
    """

    publish: Callable[[dict[str, Any], str], object]
    log: Callable[[str, MercureError], object]
    raises: bool = True
    patience: float = _PATIENCE
    chance: Callable[[], float] = random.random


def delivery_to(
    pipeline: Pipeline,
    hub: HubState,
    topics: str | Iterable[str],
    *,
    private: bool,
    type: str | None,
    on_failure: OnFailure | None,
) -> Delivery:
    """Publish a text on a hub; raises for wrong arguments before the source starts.

    The outbox is bypassed: its updates come with a commit, and a page waits for these.

    :raises InvalidArgument: the hub would refuse an argument.
    :raises ValueError: there is no such policy.
    """
    template = Update(topics, "", private, type=type).publication()
    policy = pipeline.settings.on_failure if on_failure is None else check_policy(on_failure)

    def publish(content: dict[str, Any], id: str) -> None:
        update = replace(template, data=as_text(content), id=id)
        pipeline.publish(hub, [update], "background" if policy == "background" else "raise")

    def log(id: str, error: MercureError) -> None:
        log_failure(replace(template, id=id), str(error))

    return Delivery(publish, log, raises=policy == "raise")


class Form(Protocol):
    """What a source gives, and the content of its updates."""

    def read(self, item: Any, /) -> tuple[Any, int]:
        """What is kept of an item that the source gave, and its size in characters.

        :raises TypeError: the source must not give this.
        """

    def piece(self, items: Sequence[Any], /) -> dict[str, Any]:
        """The update with some of them."""

    def done(self, items: Sequence[Any], /) -> dict[str, Any]:
        """The last update, once the source has given all of them."""


class TextForm:
    """A source of text."""

    def read(self, item: Any, /) -> tuple[str, int]:
        if not isinstance(item, str):
            raise TypeError(f"the stream gave a {type(item).__name__}; it must give str")
        return item, len(item)

    def piece(self, items: Sequence[str], /) -> dict[str, Any]:
        return {"kind": "text", "text": "".join(items)}

    def done(self, items: Sequence[str], /) -> dict[str, Any]:
        return {"kind": "done", "text": "".join(items)}


class Others(Protocol):
    """What others publish on the topic. All methods are called by the thread that publishes."""

    def begun(self) -> None:
        """The first update, of the kind ``start``, is published: get to know what there is up to it."""

    def have_ended_it(self) -> bool:
        """Whether nothing more is to be published."""

    def close(self) -> None:
        """No more calls follow."""


def publish_text(
    tokens: Iterable[str],
    delivery: Delivery,
    grouping: Grouping,
    *,
    stream_id: str | None = None,
    error: str = BROKEN_OFF,
) -> str:
    """Publish text as it comes, in order.

    Updates are JSON objects with ``stream``, the id; ``seq``, counted from 0; and ``kind``: ``text`` with
    ``text``; at the end ``done`` with the whole ``text``, so that a page that missed a piece ends up
    complete; or ``error`` with ``message`` when the source raises, or an update could not be published.

    :param tokens: the source; closed at the end if it can be, as generators can.
    :param delivery: of the updates.
    :param grouping: how tokens are joined to updates.
    :param stream_id: tells this text from others of the topic; default: a new UUID.
    :param error: what subscribers get when the source raises, in place of its message, which may hold
        secrets.
    :returns: the whole text.
    :raises TypeError: ``tokens`` is not iterable, or a token is not a ``str``.
    :raises Exception: the source's, or the one of an update that could not be published.
    """
    if not isinstance(tokens, Iterable):
        raise TypeError(
            f"tokens is a {type(tokens).__name__}, not an iterable of str; await mercure.astream() if async"
        )
    writer = Writer(delivery, grouping, TextForm(), {"stream": stream_id or str(uuid.uuid4())})
    publish_all(tokens, writer, error)
    return "".join(writer.published())


async def publish_async_text(
    tokens: AsyncIterable[str],
    delivery: Delivery,
    grouping: Grouping,
    *,
    stream_id: str | None = None,
    error: str = BROKEN_OFF,
) -> str:
    """Publish text of an asynchronous source; the event loop never waits for the hub.

    Arguments, updates and result are those of :func:`publish_text`. A cancelled task ends the text with
    ``error``.

    :raises TypeError: ``tokens`` is not an async iterable, or a token is not a ``str``.
    :raises Exception: the source's, or the one of an update that could not be published.
    """
    if not isinstance(tokens, AsyncIterable):
        raise TypeError(
            f"tokens is a {type(tokens).__name__}, not an async iterable of str; use mercure.stream()"
        )
    writer = Writer(delivery, grouping, TextForm(), {"stream": stream_id or str(uuid.uuid4())})
    await publish_all_async(tokens, writer, error)
    return "".join(writer.published())


def publish_all(source: Iterable[Any], writer: Writer, error: str | None) -> None:
    """Publish what a source gives, until its end or until others end it.

    :param source: closed at the end if it can be.
    :param writer: not used before.
    :param error: what subscribers get when the source raises; ``None``: they do not get an end then.
    :raises Exception: the source's, or the one of an update that could not be published.
    """
    try:
        if writer.begin():
            for item in source:
                writer.wait_for_room()
                if not writer.put(item):
                    break
        writer.done()
    except BaseException as failure:
        writer.broke_off(error, failure)
        raise
    finally:
        try:
            writer.join()
        finally:
            close = getattr(source, "close", None)
            if close is not None:
                close()


async def publish_all_async(source: AsyncIterable[Any], writer: Writer, error: str | None) -> None:
    """Publish what an asynchronous source gives; see :func:`publish_all`."""
    try:
        if await asyncio.to_thread(writer.begin):
            async for item in source:
                if writer.is_full:
                    await asyncio.to_thread(writer.wait_for_room)
                if not writer.put(item):
                    break
        writer.done()
    except BaseException as failure:
        writer.broke_off(error, failure)
        raise
    finally:
        try:
            await asyncio.to_thread(writer.join)
        finally:  # also if the task is cancelled again while the hub is slow
            close = getattr(source, "aclose", None) or getattr(source, "close", None)
            if close is not None:
                closing = close()
                if inspect.isawaitable(closing):
                    await closing


class Writer:
    """Collects what a source gives and publishes it in a thread of its own, which starts at once.

    :param delivery: of the updates.
    :param grouping: how items are joined to updates.
    :param form: of items and updates.
    :param head: what all updates begin with.
    :param others: who may end it, too; they are told of an update ``start`` before the source starts.
    """

    def __init__(
        self,
        delivery: Delivery,
        grouping: Grouping,
        form: Form,
        head: Mapping[str, Any],
        others: Others | None = None,
    ) -> None:
        self._delivery = delivery
        self._grouping = grouping
        self._form = form
        self._head = head
        self._others = others
        self._all: list[Any] = []
        self._changed = threading.Condition()
        self._waiting: list[Any] = []
        self._size = 0
        self._last: dict[str, Any] | None = None
        self._has_begun = others is None
        self._is_closing = False
        self._is_hasty = False
        self._failure: BaseException | None = None
        self._is_complete = False
        self._sequence = 0
        self._away_since: float | None = None
        self.is_ended_by_others = False
        # The context of the caller: the app, its request, the current span.
        context = contextvars.copy_context()
        self._thread = threading.Thread(
            target=context.run, args=(self._run,), name="mercure-stream", daemon=True
        )
        self._thread.start()

    @property
    def is_full(self) -> bool:
        """Whether the source is far ahead of the hub."""
        return self._size >= self._grouping.size * _MAX_WAITING

    def begin(self) -> bool:
        """Wait until the source may start.

        :returns: whether it should: others may have ended it.
        :raises Exception: the update ``start`` could not be published.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._has_begun)
            if self._failure is not None and self._delivery.raises:
                raise self._failure
            return not self.is_ended_by_others

    def wait_for_room(self) -> None:
        """Wait while the hub is slower than the source."""
        with self._changed:
            self._changed.wait_for(lambda: not self.is_full or self._failure is not None or self._is_over)

    def put(self, item: Any) -> bool:
        """Add an item.

        :returns: whether more are wanted.
        :raises TypeError: it is not of the form.
        :raises Exception: an earlier update could not be published.
        """
        kept, size = self._form.read(item)
        with self._changed:
            if self._failure is not None:
                raise self._failure
            if size:
                self._all.append(kept)
                self._waiting.append(kept)
                self._size += size
                self._changed.notify_all()
            return not self.is_ended_by_others

    def done(self) -> None:
        """The source has ended."""
        self._end(self._form.done(self._all))

    def broke_off(self, message: str | None, failure: BaseException) -> None:
        """The source, or the publishing of what it gave, has failed.

        :param message: for subscribers; ``None``: they do not get an end.
        :param failure: after one that is not an ``Exception``, such as the end of the process, the last
            update is tried once only.
        """
        self._is_hasty = not isinstance(failure, Exception)
        self._end(None if message is None else {"kind": "error", "message": message})

    def join(self) -> None:
        """Wait until the last update is published or given up."""
        self._thread.join()

    def published(self) -> list[Any]:
        """The items; once subscribers have the end, which is ``done``, a missing piece does not matter.

        :raises Exception: the failure, if they do not have it.
        """
        if self._failure is not None and not self._is_complete:
            raise self._failure
        return self._all

    @property
    def _is_over(self) -> bool:
        return self._is_closing or self.is_ended_by_others

    def _end(self, last: dict[str, Any] | None) -> None:
        with self._changed:
            if not self._is_closing:
                self._is_closing = True
                self._last = last
            self._changed.notify_all()

    def _run(self) -> None:
        """Publish until the end."""
        try:
            if self._others is not None and self._send({"kind": "start"}):
                self._others.begun()
                self._look()
            with self._changed:
                self._has_begun = True
                self._changed.notify_all()
            self._publish()
        except BaseException as error:
            self._fail(error)
        finally:
            with self._changed:
                self._has_begun = True
                self._changed.notify_all()
            if self._others is not None:
                self._others.close()

    def _publish(self) -> None:
        next_at = time.monotonic()
        while not self.is_ended_by_others:
            with self._changed:
                self._changed.wait_for(
                    lambda: bool(self._waiting) or self._is_closing, _LOOK if self._others else None
                )
                while self._waiting and not self._is_due() and (rest := next_at - time.monotonic()) > 0:
                    self._changed.wait(rest)
                waiting, self._waiting, self._size = self._waiting, [], 0
                is_closing = self._is_closing
                self._changed.notify_all()
            if self._look():
                return
            if waiting and self._failure is None:
                next_at = time.monotonic() + self._grouping.interval
                self._send(self._form.piece(waiting))
            if is_closing:
                if self._last is not None and not self._look():
                    self._is_complete = self._send(self._last) and self._last["kind"] == "done"
                return

    def _look(self) -> bool:
        """Whether others have ended it."""
        if self._others is not None and self._others.have_ended_it():
            with self._changed:
                self.is_ended_by_others = True
                self._changed.notify_all()
        return self.is_ended_by_others

    def _is_due(self) -> bool:
        return self._is_closing or self._size >= self._grouping.size

    def _send(self, content: dict[str, Any]) -> bool:
        """Publish an update, in several attempts if necessary.

        :returns: whether the hub has it.
        """
        update = {**self._head, "seq": self._sequence, **content}
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
                # The caller gets the source's error, which does not tell that subscribers still wait.
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
        """Wait for the next attempt, if there is one."""
        rest = next_attempt(error, attempts, self._delivery.chance())
        if rest is None:
            return False
        now = time.monotonic()
        if self._away_since is None:
            self._away_since = now
        if now + rest > self._away_since + self._delivery.patience:
            return False
        with self._changed:
            return not self._changed.wait_for(lambda: self._is_hasty, rest)

    def _fail(self, error: BaseException) -> None:
        with self._changed:
            if self._failure is None:
                self._failure = error
            self._changed.notify_all()
