"""Blocking storage calls, run in threads while the event loop goes on."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import gevent
from gevent.hub import Waiter

from mercure_hub.protocol.errors import StorageAway, StorageError

T = TypeVar("T")
Argument = TypeVar("Argument")


@dataclass(frozen=True, slots=True)
class _Joint:
    """A part of a call that is made once for all that wait at the same time."""

    function: Callable[[Sequence[Any]], Sequence[Any]]
    argument: Any


_Call = Callable[[], Any] | _Joint
_Waiting = tuple[_Call, Waiter]

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
        return self._wait(function)  # type: ignore[no-any-return]

    def run_jointly(self, function: Callable[[Sequence[Argument]], Sequence[T]], argument: Argument) -> T:
        """The same for a function of many arguments that is called once for all that wait at the same time.

        :param function: returns the results in order.
        """
        return self._wait(_Joint(function, argument))  # type: ignore[no-any-return]

    def _wait(self, call: _Call) -> Any:
        waiter: Waiter = Waiter()
        self._waiting.append((call, waiter))
        if self._busy < _LANES and not self._is_scheduled:
            self._is_scheduled = True
            gevent.get_hub().loop.run_callback(self._start)  # after everything else in this turn of the loop
        outcome = waiter.get()
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
            outcomes = _outcomes([call for call, _ in some])
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


def _outcomes(calls: Sequence[_Call]) -> list[object]:
    try:
        outcomes: list[object] = gevent.get_hub().threadpool.apply(_run_all, (calls,))
    except RuntimeError as error:  # of the pool; what the functions raise is returned as a value
        raise _no_thread(error) from error
    return outcomes


def _run_all(calls: Sequence[_Call]) -> list[object]:
    away: StorageAway | None = None

    def attempt(function: Callable[[], object]) -> object:
        nonlocal away
        if away is not None:  # each attempt may take seconds
            return _Raised(StorageAway(away.detail))
        try:
            return function()
        except StorageAway as error:
            away = error
            return _Raised(error)
        except Exception as error:
            return _Raised(error)

    outcomes: list[object] = [None] * len(calls)
    joint: dict[Callable[[Sequence[Any]], Sequence[Any]], list[int]] = {}
    for index, call in enumerate(calls):
        if isinstance(call, _Joint):
            joint.setdefault(call.function, []).append(index)
        else:
            outcomes[index] = attempt(call)
    for function, indexes in joint.items():
        arguments = [
            call.argument for call in calls if isinstance(call, _Joint) and call.function == function
        ]
        together = attempt(partial(function, arguments))
        for number, index in enumerate(indexes):
            if not isinstance(together, _Raised):
                outcomes[index] = together[number]  # type: ignore[index]
            elif len(indexes) == 1:
                outcomes[index] = together
            else:  # one of them may be the reason
                alone = attempt(partial(function, [arguments[number]]))
                outcomes[index] = alone if isinstance(alone, _Raised) else alone[0]  # type: ignore[index]
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
