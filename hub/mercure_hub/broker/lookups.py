"""Blocking work on the log, done in threads while the event loop goes on.

What waits together goes together: a way into a thread and back costs more than a look into the log, and
thousands of clients come back at once. More than two threads would only wait for the interpreter.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import gevent
from gevent.hub import Waiter

from mercure_hub.protocol.errors import StorageError

T = TypeVar("T")
_Waiting = tuple[Callable[[], Any], Waiter]

_LANES = 2
_AT_ONCE = 16  # each may bring a page of updates into memory


class Lookups:
    """To be used by greenlets of one event loop."""

    def __init__(self) -> None:
        self._waiting: deque[_Waiting] = deque()
        self._busy = 0
        self._is_called = False

    def do(self, function: Callable[[], T]) -> T:
        """Run a function in a thread; returns when it has ended.

        :param function: may block; it must not take longer than the reading of a page.
        :raises StorageError: no thread can be started.
        :raises Exception: what it raised, ``StorageError`` as a rule.
        """
        waiter: Waiter = Waiter()
        self._waiting.append((function, waiter))
        if self._busy < _LANES and not self._is_called:
            self._is_called = True
            gevent.get_hub().loop.run_callback(self._begin)  # after all that this turn of the loop brings
        outcome: T | _Raised = waiter.get()
        if isinstance(outcome, _Raised):
            raise outcome.error
        return outcome

    def _begin(self) -> None:
        self._is_called = False
        while self._waiting and self._busy < _LANES:
            some = [self._waiting.popleft() for _ in range(min(_AT_ONCE, len(self._waiting)))]
            self._busy += 1
            gevent.spawn(self._run, some)  # which can wait for a free thread; the event loop cannot

    def _run(self, some: Sequence[_Waiting]) -> None:
        outcomes: Sequence[object]
        try:
            outcomes = _outcomes([function for function, _ in some])
        except Exception as error:
            outcomes = [_Raised(error)] * len(some)
        finally:
            self._busy -= 1
        self._begin()
        loop = gevent.get_hub().loop
        loop.run_callback(_answer, some, outcomes)  # a waiter is switched to from the event loop only


def reserve_threads() -> None:
    """Start the threads for all blocking work: while the hub serves, the system may have none left.

    :raises StorageError: it has none now.
    """
    pool = gevent.get_hub().threadpool
    try:
        pool.size = pool.maxsize
    except RuntimeError as error:
        raise _no_thread(error) from error


def in_thread(function: Callable[[], T]) -> T:
    """Run one blocking function in a thread while the event loop goes on.

    :raises StorageError: no thread can be started.
    :raises Exception: what the function raised.
    """
    (outcome,) = _outcomes([function])
    if isinstance(outcome, _Raised):
        raise outcome.error
    return outcome  # type: ignore[return-value]


def _outcomes(functions: Sequence[Callable[[], object]]) -> list[object]:
    try:
        outcomes: list[object] = gevent.get_hub().threadpool.apply(_all, (functions,))
    except RuntimeError as error:  # of the pool: what the functions raise comes as a value
        raise _no_thread(error) from error
    return outcomes


def _no_thread(error: RuntimeError) -> StorageError:
    return StorageError(
        f"the history cannot be read or written: {error}; allow more threads (TasksMax, ulimit -u)"
    )


def _answer(some: Sequence[_Waiting], outcomes: Sequence[object]) -> None:
    for (_, waiter), outcome in zip(some, outcomes, strict=True):
        waiter.switch(outcome)


class _Raised:
    """An error as a value: gevent would print it."""

    def __init__(self, error: Exception) -> None:
        self.error = error


def _all(functions: Sequence[Callable[[], object]]) -> list[object]:
    outcomes: list[object] = []
    for function in functions:
        try:
            outcomes.append(function())
        except Exception as error:
            outcomes.append(_Raised(error))
    return outcomes
