"""Blocking storage calls, run in threads while the event loop goes on."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import gevent
from gevent.hub import Waiter

from mercure_hub.protocol.errors import StorageError

T = TypeVar("T")
_Waiting = tuple[Callable[[], Any], Waiter]

_LANES = 2  # more threads would only compete for the interpreter
_AT_ONCE = 16  # each may bring a page of updates into memory


class Lookups:
    """Lookups in the history by the greenlets of one event loop.

    Lookups that wait at the same time share one trip into a thread: the trip costs more than the lookup, and
    thousands of clients come back at once after a proxy has restarted.
    """

    def __init__(self) -> None:
        self._waiting: deque[_Waiting] = deque()
        self._busy = 0
        self._is_scheduled = False

    def run(self, function: Callable[[], T]) -> T:
        """Run a function in a thread and wait for its result.

        :param function: may block, but not for longer than reading a page takes.
        :raises StorageError: no thread can be started.
        :raises Exception: what the function raised, usually ``StorageError``.
        """
        waiter: Waiter = Waiter()
        self._waiting.append((function, waiter))
        if self._busy < _LANES and not self._is_scheduled:
            self._is_scheduled = True
            gevent.get_hub().loop.run_callback(self._start)  # after everything else in this turn of the loop
        outcome: T | _Raised = waiter.get()
        if isinstance(outcome, _Raised):
            raise outcome.error
        return outcome

    def _start(self) -> None:
        self._is_scheduled = False
        while self._waiting and self._busy < _LANES:
            some = [self._waiting.popleft() for _ in range(min(_AT_ONCE, len(self._waiting)))]
            self._busy += 1
            gevent.spawn(self._run_together, some)  # a greenlet can wait for a free thread, the loop cannot

    def _run_together(self, some: Sequence[_Waiting]) -> None:
        outcomes: Sequence[object]
        try:
            outcomes = _outcomes([function for function, _ in some])
        except Exception as error:
            outcomes = [_Raised(error)] * len(some)
        finally:
            self._busy -= 1
        self._start()
        # Only the event loop may switch to a waiter.
        gevent.get_hub().loop.run_callback(_answer, some, outcomes)


def reserve_threads() -> None:
    """Start all threads of the pool now: later the system may have none left.

    :raises StorageError: they cannot be started.
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
        outcomes: list[object] = gevent.get_hub().threadpool.apply(_run_all, (functions,))
    except RuntimeError as error:  # of the pool; what the functions raise is returned as a value
        raise _no_thread(error) from error
    return outcomes


def _run_all(functions: Sequence[Callable[[], object]]) -> list[object]:
    outcomes: list[object] = []
    for function in functions:
        try:
            outcomes.append(function())
        except Exception as error:
            outcomes.append(_Raised(error))
    return outcomes


class _Raised:
    """An error as a value: gevent would print a raised one."""

    def __init__(self, error: Exception) -> None:
        self.error = error


def _answer(some: Sequence[_Waiting], outcomes: Sequence[object]) -> None:
    for (_, waiter), outcome in zip(some, outcomes, strict=True):
        waiter.switch(outcome)


def _no_thread(error: RuntimeError) -> StorageError:
    return StorageError(
        f"the history cannot be read or written: {error}; allow more threads (TasksMax, ulimit -u)"
    )
