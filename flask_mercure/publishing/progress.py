"""The progress of a job while it goes on, with exactly one end.

A job takes thousands of steps a second, and a page shows some of them. So a thread publishes the newest state
at intervals, and the job never waits for the hub: an update that the hub does not take is left out, since
the next one says more. The end is tried again for a while: a page that shows a bar must learn of it.

Pages read the topic from its beginning. The longer a job takes, the longer the intervals become, so there
is not much to read: some hundreds of updates after a day.
"""

from __future__ import annotations

import contextvars
import json
import logging
import math
import threading
import time
from collections.abc import Iterable, Iterator, Sized
from numbers import Integral, Real
from types import TracebackType
from typing import Any, Self, TypeVar

from flask_mercure.errors import InvalidArgument, MercureError
from flask_mercure.publishing.retry import next_attempt
from flask_mercure.publishing.stream import Delivery
from flask_mercure.updates import as_text
from mercure_hub.protocol.update import new_id

FAILED = "The job has failed."
"""What subscribers get by default when the job raises."""

_SHARE = 100  # of the time that a job has taken: the least interval

_Item = TypeVar("_Item")
_log = logging.getLogger("flask_mercure")


def pause(interval: float, elapsed: float) -> float:
    """Seconds until the next update.

    :param interval: seconds, at least.
    :param elapsed: seconds that the job has taken.
    """
    return max(interval, elapsed / _SHARE)


class Progress:
    """How far a job is; :meth:`flask_mercure.Mercure.progress` makes it, for a ``with`` block.

    Methods may be called from several threads, and never wait for the hub.

    :param delivery: of the updates.
    :param total: number of steps; ``None`` if it is not known.
    :param interval: seconds from one update to the next, at least.
    :param error: what subscribers get when the block raises; ``None``: they do not get an end then.
    """

    def __init__(self, delivery: Delivery, total: float | None, interval: float, error: str | None) -> None:
        if not 0.05 <= interval <= 60:
            raise InvalidArgument(f"interval is {interval!r}; give seconds from 0.05 to 60")
        self._delivery = delivery
        self._interval = interval
        self._error = error
        self._changed = threading.Condition()
        self._value: float = 0
        self._total = None if total is None else _number(total, "total")
        self._label: str | None = None
        self._result: Any = None
        self._end: dict[str, Any] | None = None
        self._is_open = False
        self._is_over = False
        self._is_hasty = False
        self._is_hub_away = False
        # The context of the caller: the app, the current span.
        context = contextvars.copy_context()
        self._thread = threading.Thread(
            target=context.run, args=(self._run,), name="mercure-progress", daemon=True
        )

    @property
    def value(self) -> float:
        """Steps that are done."""
        return self._value

    @property
    def total(self) -> float | None:
        """Number of steps, which may become known on the way; ``None`` as long as it is not."""
        return self._total

    @total.setter
    def total(self, total: float | None) -> None:
        self._set(total=None if total is None else _number(total, "total"))

    @property
    def result(self) -> Any:
        """What pages get with the end of a job that is done, such as the URL of a report; as JSON."""
        return self._result

    @result.setter
    def result(self, result: Any) -> None:
        self._result = result if isinstance(result, str) else json.loads(as_text(result))

    def __call__(self, count: float = 1, *, label: str | None = None) -> None:
        """Take a step, or several.

        :param count: of steps; 0 to change the label only.
        :param label: what the job is doing; default: as before.
        :raises InvalidArgument: the count is not a number.
        :raises RuntimeError: it is not inside of the ``with`` block.
        """
        self._set(step=_number(count, "count"), label=label)

    def set(self, value: float, *, label: str | None = None) -> None:
        """Say how many steps are done.

        :param value: number of steps, also fewer than before.
        :param label: what the job is doing; default: as before.
        :raises InvalidArgument: the value is not a number.
        :raises RuntimeError: it is not inside of the ``with`` block.
        """
        self._set(value=_number(value, "value"), label=label)

    def of(self, items: Iterable[_Item]) -> Iterator[_Item]:
        """Iterate over items; each is a step, once the next one is asked for.

        :param items: their number is the total, if they have a length and no total was given.
        """
        if self._total is None and isinstance(items, Sized):
            self.total = len(items)
        for item in items:
            yield item
            self()

    def __enter__(self) -> Self:
        self._thread.start()
        self._is_open = True
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._changed:
            self._is_over = True
            # Whoever ends the process does not wait: one attempt, no more.
            self._is_hasty = error is not None and not isinstance(error, Exception)
            if error is None:
                result = {} if self._result is None else {"result": self._result}
                self._end = {**self._state(), "state": "done", **result}
            elif self._error is not None:
                self._end = {**self._state(), "state": "failed", "message": self._error}
            self._changed.notify_all()
        self._thread.join()

    def _set(
        self,
        *,
        step: float = 0,
        value: float | None = None,
        total: float | None = None,
        label: str | None = None,
    ) -> None:
        if label is not None and not isinstance(label, str):
            raise TypeError(f"label is {label!r}; give text")
        with self._changed:
            if not self._is_open or self._is_over:
                raise RuntimeError("steps are taken inside of: with mercure.progress(...) as step")
            self._value = (self._value if value is None else value) + step
            self._total = self._total if total is None else total
            self._label = self._label if label is None else label
            self._changed.notify_all()

    def _state(self) -> dict[str, Any]:
        return {"state": "running", "value": self._value, "total": self._total, "label": self._label}

    def _run(self) -> None:
        """Publish until the end."""
        begun = time.monotonic()
        shown: dict[str, Any] | None = None
        next_at = begun
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._is_over or self._state() != shown)  # noqa: B023
                while not self._is_over and (rest := next_at - time.monotonic()) > 0:
                    self._changed.wait(rest)
                is_over, state, end = self._is_over, self._state(), self._end
            if shown is None or not is_over:
                shown = state
                self._try(state)
                now = time.monotonic()
                next_at = now + pause(self._interval, now - begun)
            if is_over:
                if end is not None:
                    self._publish_end(end)
                return

    def _try(self, state: dict[str, Any]) -> None:
        """Publish a state. The log has the first of several failures in a row."""
        id = new_id()
        try:
            self._delivery.publish(state, id)
        except MercureError as error:
            if not self._is_hub_away:
                self._delivery.log(id, error)
            self._is_hub_away = True
        except Exception:  # of a token factory of the app's own: the job goes on
            if not self._is_hub_away:
                _log.exception("the progress of a job is not published")
            self._is_hub_away = True
        else:
            self._is_hub_away = False

    def _publish_end(self, end: dict[str, Any]) -> None:
        id = new_id()
        until = time.monotonic() + self._delivery.patience
        attempts = 0
        while True:
            try:
                self._delivery.publish(end, id)
            except MercureError as error:
                attempts += 1
                rest = next_attempt(error, attempts, self._delivery.chance())
                if self._is_hasty or rest is None or time.monotonic() + rest > until:
                    self._delivery.log(id, error)
                    return
                time.sleep(rest)
            except Exception:
                _log.exception("the end of a job is not published")
                return
            else:
                return


def _number(given: Any, name: str) -> float:
    """A number of steps.

    :raises InvalidArgument: it is not a number, 0 or more.
    """
    # Those of NumPy too, as what a data frame counts is: JSON has none of them.
    is_number = not isinstance(given, bool) and isinstance(given, Real)
    if not is_number or not 0 <= given < math.inf:
        raise InvalidArgument(f"{name} is {given!r}; give a number of steps, 0 or more")
    return int(given) if isinstance(given, Integral) else float(given)
