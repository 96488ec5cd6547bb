"""How processes on one database find each other and take turns to write.

Both rest on the kernel: a process that dies, however it dies, loses its locks. So a locked seat is a living
process, and whoever waits for the turn gets it.
"""

from __future__ import annotations

import contextlib
import errno
import threading
from collections.abc import Iterator
from concurrent.futures import Future, InvalidStateError

from mercure_hub.storage.sqlite.numbered_locks import NumberedLocks, numbered_locks

BOUND = 3.0
"""Seconds to wait for the turn. A publisher that gives up before it is answered, mostly after five, cannot
tell what became of its update."""

_TURN = 0  # the number of the lock that is the turn to write
_SEATS = 1  # that of the first seat
_MOST = 1024
_NEXT = _SEATS + _MOST  # that of the lock that is the head of the queue for the turn


class TurnTimeout(OSError):
    """The turn to write did not come in time."""


class Seats:
    """The lock file of a database.

    Seat and turn are neighbours, and so have holders of their own (``numbered_locks.ByteLocks``).

    :param path: of the file, which is made if it is missing, for its owner only. It stays empty.
    :raises OSError: it cannot be opened.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._locks = numbered_locks(path, create=True)
        self._turn: NumberedLocks | None = None
        self._own_turn = threading.Lock()  # the file's lock does not separate the threads of a process
        self.own = -1

    def take(self) -> int:
        """Take the first free seat, until ``close`` or the end of the process.

        :raises OSError: there is none.
        """
        for seat in range(_MOST):
            if self._locks.lock(_SEATS + seat):
                self.own = seat
                return seat
        raise OSError(f"all {_MOST} seats in {self._path!r} are taken")

    def is_taken(self, seat: int) -> bool:
        """Whether a living process has a seat."""
        return seat == self.own or self._locks.is_taken(_SEATS + seat)

    def others(self) -> int:
        """How many other living processes have a seat."""
        return self._locks.count_taken(_SEATS, _NEXT)

    def take_turn(self) -> None:
        """Wait until nobody else writes, however long that takes; the others wait until ``return_turn``.

        :raises OSError: the file cannot be locked.
        """
        self._own_turn.acquire()
        try:
            if self._turn is None:
                self._turn = self._another_holder()
            _wait_for_turn(self._turn)
        except BaseException:
            self._close_turn()
            self._own_turn.release()
            raise

    def return_turn(self) -> None:
        """Let the next one write."""
        try:
            if self._turn is not None:
                self._turn.unlock(_TURN)
        except OSError:
            self._close_turn()
        finally:
            self._own_turn.release()

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """``take_turn`` and ``return_turn`` as a context."""
        self.take_turn()
        try:
            yield
        finally:
            self.return_turn()

    @contextlib.contextmanager
    def turn_within(self, seconds: float) -> Iterator[None]:
        """As ``turn``, but wait no longer than this.

        :raises TurnTimeout: others had it all the time.
        :raises OSError: the file cannot be locked.
        """
        locks = self._another_holder()
        turn: Future[None] = Future()

        def wait() -> None:
            try:
                try:
                    _wait_for_turn(locks)
                except OSError as error:
                    turn.set_exception(error)
                else:
                    turn.set_result(None)
            except InvalidStateError:  # cancelled: nobody waits any more
                locks.close()

        try:
            threading.Thread(target=wait, name="mercure-turn", daemon=True).start()
        except RuntimeError as error:
            locks.close()
            raise OSError(errno.EAGAIN, str(error)) from None
        try:
            try:
                turn.result(seconds)
            except TimeoutError:
                raise TurnTimeout(self.why_no_turn(seconds)) from None
            yield
        finally:
            if not turn.cancel():
                locks.close()  # which gives the turn back

    def why_no_turn(self, seconds: float) -> str:
        """Words for a turn that does not come.

        :param seconds: how long it has been waited for.
        """
        pid = None
        with contextlib.suppress(OSError):
            pid = self._locks.pid_of_holder(_TURN)
        who = "another process" if pid is None else f"process {pid}"
        return (
            f"{who} has held the lock on {self._path!r} for more than {seconds:.0f} s: "
            "mercure-hub history at work, or a process that stands still"
        )

    def close(self) -> None:
        """Give back the seat and the turn."""
        self._close_turn()
        self._locks.close()
        self.own = -1

    def _another_holder(self) -> NumberedLocks:
        another = numbered_locks(self._path, create=False)
        if not another.is_of_same_file(self._locks):
            another.close()
            raise OSError(f"{self._path!r} was replaced while the hub was running; restart the hub")
        return another

    def _close_turn(self) -> None:
        """Give back the turn in the way that cannot fail."""
        turn, self._turn = self._turn, None
        if turn is not None:
            turn.close()


def _wait_for_turn(locks: NumberedLocks) -> None:
    # Queue behind waiting processes: the kernel gives a free lock to whoever asks first, and a busy writer
    # would starve the others.
    locks.wait(_NEXT)
    locks.wait(_TURN)
    locks.unlock(_NEXT)
