"""Runs: events on a topic of their own, such as the answer of a language model, with exactly one end.

What a page sees of a run is what the hub's history has, in its order, from ``earliest`` on: a page that is
loaded late sees the same. The rules by which updates become a run are in :class:`Reading`, and once more in
``static/runs.js``.

* The first end counts, whoever publishes it: the run itself, or :meth:`flask_mercure.Mercure.stop`.
* A job that is tried again publishes another attempt, with another ``stream``. The newest attempt counts,
  from its first event on.

So a run follows its own topic, without a thread: the one that publishes looks at the subscription between two
updates. It learns that it was stopped, that an earlier attempt has ended, or that a newer one has begun, in
whichever process. To know all that was published before it began, it publishes an update ``start`` and reads
up to that.
"""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import AsyncIterable, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Literal, Protocol

from flask_mercure.errors import HubUnreachable, MercureError
from flask_mercure.publishing.stream import (
    Delivery,
    Grouping,
    Writer,
    publish_all,
    publish_all_async,
)
from flask_mercure.updates import as_text

Ending = Literal["done", "stopped", "error"]

_ENDINGS: tuple[Ending, ...] = ("done", "stopped", "error")
_FIRST_LOOK = 5.0  # seconds in which the own first update comes back, before the source starts without it

_log = logging.getLogger("flask_mercure")


@dataclass(frozen=True, slots=True)
class Run:
    """How a run ended, and what its subscribers have of it.

    :param ended: ``done``; ``stopped``; ``error``, which another attempt has published; or ``superseded``: a
        newer attempt of the job goes on with it, and this one has nothing to do any more.
    :param events: in order; strings that follow each other are joined.
    """

    ended: Literal["done", "stopped", "error", "superseded"]
    events: list[Any]

    @property
    def text(self) -> str:
        """The strings among the events, joined."""
        return "".join(event for event in self.events if isinstance(event, str))


class EventForm:
    """A source of events: anything that can be written as JSON."""

    def read(self, item: Any, /) -> tuple[Any, int]:
        if isinstance(item, str):
            return item, len(item)
        text = as_text(item)
        return json.loads(text), len(text)  # a copy: the source may go on to change its own

    def piece(self, items: Iterable[Any], /) -> dict[str, Any]:
        return {"kind": "events", "events": list(joined(items))}

    def done(self, items: Iterable[Any], /) -> dict[str, Any]:  # noqa: ARG002 - subscribers have them all
        return {"kind": "done"}


def joined(events: Iterable[Any]) -> Iterator[Any]:
    """The events, with those strings joined that follow each other."""
    for is_text, several in groupby(events, lambda event: isinstance(event, str)):
        if is_text:
            yield "".join(several)
        else:
            yield from several


def ending(topic: str, error: str | None) -> tuple[dict[str, Any], str]:
    """The update that ends a run from outside, and its id: always the same, so that it is stored once.

    :param error: what happened; ``None``: it was stopped.
    """
    id = uuid.uuid5(uuid.NAMESPACE_URL, topic).urn
    if error is None:
        return {"run": topic, "kind": "stopped"}, id
    return {"run": topic, "kind": "error", "message": error}, id


@dataclass
class Reading:
    """A run as its updates tell, in the order of the history."""

    ended: Ending | None = None
    newest: str | None = None
    """``stream`` of the attempt that began last."""
    events: list[Any] = field(default_factory=list)
    """Of the newest attempt that has any."""
    _current: str | None = None
    _next: int = 0
    _superseded: set[str] = field(default_factory=set)

    def add(self, update: Any) -> None:
        """Note an update; what does not belong to a run is ignored."""
        if self.ended is not None or not isinstance(update, dict):
            return
        match update:
            case {"kind": "start", "stream": str(stream)}:
                self.newest = stream
            case {"kind": "events", "stream": str(stream), "seq": int(number), "events": list(events)}:
                self._add_events(stream, number, events)
            case {"kind": kind} if kind in _ENDINGS:
                self.ended = kind

    def _add_events(self, stream: str, number: int, events: list[Any]) -> None:
        if stream in self._superseded:
            return
        if stream != self._current:
            if self._current is not None:
                self._superseded.add(self._current)
            self._current = stream
            self._next = 0
            self.events = []
        if number >= self._next:  # a lower one comes again
            self._next = number + 1
            self.events += events


class Events(Protocol):
    """A subscription to the topic of a run, from its beginning."""

    def wait(self, timeout: float | None = None) -> Any:
        """The next event, which has ``data``.

        :raises TimeoutError: there was none in that time.
        """

    def close(self) -> None:
        """End the subscription."""


class Watch:
    """Reads the topic of a run along with its other subscribers.

    :param subscribe: to the topic, from its beginning.
    :param topic: for the log.
    :param stream: of this attempt.
    """

    def __init__(self, subscribe: Callable[[], Events], topic: str, stream: str) -> None:
        self._subscribe = subscribe
        self._topic = topic
        self._stream = stream
        self._events: Events | None = None
        self._is_deaf = False
        self._has_begun = False
        self.reading = Reading()

    def begun(self) -> None:
        self._read(_FIRST_LOOK)

    def have_ended_it(self) -> bool:
        self._read(0.0)
        return self.reading.ended is not None or self.is_superseded

    @property
    def is_superseded(self) -> bool:
        """Whether another attempt began later."""
        return self._has_begun and self.reading.newest != self._stream

    def close(self) -> None:
        if self._events is not None:
            self._events.close()

    def _read(self, patience: float) -> None:
        """Read what there is; with patience, wait for the own first update."""
        if self._is_deaf:
            return
        try:
            if self._events is None:
                self._events = self._subscribe()
            while self.reading.ended is None:
                self._add(self._events.wait(0.0 if self._has_begun else patience).data)
        except TimeoutError:
            return
        except HubUnreachable:  # perhaps not for long
            return
        except MercureError as error:
            self._is_deaf = True
            _log.warning(
                "the run on %r will not notice when it is stopped, since its topic cannot be read: %s",
                self._topic,
                error,
            )

    def _add(self, data: str) -> None:
        try:
            update = json.loads(data)
        except (ValueError, RecursionError):
            return
        self.reading.add(update)
        self._has_begun = self._has_begun or self.reading.newest == self._stream


class Attempt:
    """One attempt to publish a run; begins at once, and is used once.

    :param topic: of the run.
    :param delivery: of the updates.
    :param grouping: how events are joined to updates.
    :param subscribe: to the topic, from its beginning; ``None``: nobody else publishes on it.
    """

    def __init__(
        self, topic: str, delivery: Delivery, grouping: Grouping, subscribe: Callable[[], Events] | None
    ) -> None:
        stream = str(uuid.uuid4())
        self._watch = None if subscribe is None else Watch(subscribe, topic, stream)
        head = {"run": topic, "stream": stream}
        self._writer = Writer(delivery, grouping, EventForm(), head, self._watch)

    def publish(self, events: Iterable[Any], error: str | None) -> Run:
        """Publish events as they come; see :meth:`flask_mercure.Mercure.stream_events`.

        :param events: closed at the end if it can be.
        :param error: what subscribers get when ``events`` raises; ``None``: they do not get an end then.
        """
        publish_all(events, self._writer, error)
        return self._run()

    async def publish_async(self, events: AsyncIterable[Any], error: str | None) -> Run:
        """Publish events of an asynchronous source; see :meth:`publish`."""
        await publish_all_async(events, self._writer, error)
        return self._run()

    def _run(self) -> Run:
        if self._watch is None or not self._writer.is_ended_by_others:
            return Run("done", list(joined(self._writer.published())))
        reading = self._watch.reading
        return Run(reading.ended or "superseded", list(joined(reading.events)))
