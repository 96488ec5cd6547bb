"""What belongs to one process: threads do not come along into a forked child, and what waits ends with it.

The process is told by its number. Hooks of ``os.fork`` alone would not do: uWSGI forks its workers without
calling them, and Windows has none. Nor would ``atexit`` alone: a process that ends by ``os._exit`` does not
call it.
"""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Generic, TypeVar

_T = TypeVar("_T")


class OfProcess(Generic[_T]):
    """A value that each process has of its own.

    :param make: gives it, for a process that has none yet; of two threads that call it at once, both get the
        same value.
    """

    def __init__(self, make: Callable[[], _T]) -> None:
        self._make = make
        # The value of a parent stays, unused: a thread of the parent may have held its locks at the fork.
        self._values: dict[int, _T] = {}

    def get(self) -> _T:
        process = os.getpid()
        value = self._values.get(process)
        return self._values.setdefault(process, self._make()) if value is None else value

    def known(self) -> _T | None:
        """The value, if this process has one."""
        return self._values.get(os.getpid())


class AtEnd:
    """Calls a function when a process ends, in whatever way ends with notice.

    :param end: may be called more than once.
    """

    def __init__(self, end: Callable[[], object]) -> None:
        self._end = end
        self._attended = OfProcess(self._attend)
        self._attends_to_celery = False
        atexit.register(end)

    def attend(self) -> None:
        """Have it called at the end of this process too, which may be a child of another library's making."""
        self._attended.get()

    def _attend(self) -> bool:
        # Both libraries end their children with os._exit, after these calls. Nothing is imported for it.
        process = sys.modules.get("multiprocessing.process")
        if process is not None and process.parent_process() is not None:
            import_module("multiprocessing.util").Finalize(None, self._end, exitpriority=0)
        if "celery" in sys.modules and not self._attends_to_celery:
            self._attends_to_celery = True
            import_module("celery.signals").worker_process_shutdown.connect(self._of_celery, weak=False)
        return True

    def _of_celery(self, **_: object) -> None:
        self._end()


def ends_without_notice() -> bool:
    """Whether this is a job of RQ, whose process ends with ``os._exit`` right after it and calls nothing."""
    rq = sys.modules.get("rq")
    return rq is not None and rq.get_current_job() is not None
