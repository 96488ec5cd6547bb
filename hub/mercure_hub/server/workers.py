"""Several processes on one port and one log: started, watched, replaced and stopped by their parent.

The parent serves nobody. It makes the listening sockets, one for each worker: the kernel spreads the
connections over them, and those that come while a worker is replaced wait in its socket. Between workers
there are a doorbell for the log and counts for the connection limits; all else they share is in the log.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from mercure_hub.config.loading import reloaded
from mercure_hub.config.settings import SettingError, Settings
from mercure_hub.fanout.quota import SharedCounts
from mercure_hub.metrics.tally import Board
from mercure_hub.protocol.errors import StorageError, StorageUnusable
from mercure_hub.server import logs
from mercure_hub.server.lifecycle import HANDLED, Place, Process, Successor, serve_alone, settle
from mercure_hub.server.logs import INTERVAL as ROTATION_INTERVAL
from mercure_hub.server.logs import rotation_of
from mercure_hub.server.sockets import listening_sockets, metrics_socket, notify, url_of
from mercure_hub.storage.sqlite.locks import Doorbell, bells
from mercure_hub.storage.sqlite.retention import since_boot

_STOP = (signal.SIGTERM, signal.SIGINT)
_WATCHED = (*HANDLED, signal.SIGCHLD)
_READY = b"ready"
_START = 60.0  # seconds for a worker to start
_END = 20.0  # seconds for the workers to stop, before they are killed
_LOOK = 0.1  # seconds between two looks at the signals that wait
_TRIES = 5  # starts that may fail one after the other before the hub gives up
_LONGEST_PAUSE = 5.0
_SHORT_LIFE = 1.0  # seconds; a worker that dies sooner is not replaced at once

_REASONS: Mapping[str, type[SettingError | StorageError]] = {
    one.__name__: one for one in (SettingError, StorageUnusable, StorageError)
}
"""Why a worker cannot start, by the name that it tells its parent."""

_log = logging.getLogger("mercure_hub.server")


def serve(settings: Settings, announce: Callable[[str], None], reread: Callable[[], Settings]) -> None:
    """Run a hub, in as many processes as it shall have, until it is told to stop.

    :param announce: called with the hub's URL once it accepts connections.
    :param reread: the settings as they are now; raises ``SettingError``.
    :raises SettingError: the hub cannot start.
    :raises StorageError: the log cannot be opened.
    """
    # Until there are handlers, a signal to reload or to hand over would end the hub.
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGHUP, signal.SIGUSR2))
    if settings.workers == 1:
        serve_alone(settings, announce, reread)
    else:
        Workers(settings, reread).run(announce)


@dataclass
class _Worker:
    """A child process.

    :param number: from 0.
    :param pid: 0 when there is none.
    :param failures: starts that failed since one succeeded.
    :param started: monotonic time at which it began to serve.
    :param due: monotonic time at which it is to be started again.
    :param listens: descriptor on which it tells how its start went; -1 when it has.
    :param words: what it has told.
    :param deadline: monotonic time until which it may take.
    """

    number: int
    pid: int = 0
    failures: int = 0
    started: float = 0.0
    due: float = 0.0
    listens: int = -1
    words: bytes = b""
    deadline: float = 0.0

    @property
    def is_starting(self) -> bool:
        """Whether its process is there and does not serve yet."""
        return self.listens >= 0

    @property
    def serves(self) -> bool:
        """Whether its process does what it is there for."""
        return bool(self.pid) and not self.is_starting

    def forget(self) -> None:
        """Take note that its process is gone: who kills number 0 kills all of the hub's group."""
        self.pid = 0
        self.stop_listening()

    def stop_listening(self) -> None:
        """It tells nothing more of its start."""
        if self.is_starting:
            os.close(self.listens)
            self.listens = -1


class Workers:
    """The parent of the processes that serve.

    :param settings: of the hub.
    :param reread: the settings as they are now, for a worker that reloads.
    :raises SettingError: the address cannot be used.
    """

    def __init__(self, settings: Settings, reread: Callable[[], Settings]) -> None:
        count = settings.workers
        self._settings = settings
        self._reread = reread
        self._metrics = metrics_socket(settings)
        self._listening = listening_sockets(settings, count)
        self._board = Board(count)
        self._bells = bells(count)
        self._connections = SharedCounts(count)
        self._clock_offset = time.time() - since_boot()  # of workers that replace others too
        self._life = os.pipe()  # its writing end is open as long as this process lives
        self._workers = [_Worker(number) for number in range(count)]

    def run(self, announce: Callable[[str], None]) -> None:
        """Serve until SIGTERM or SIGINT.

        :param announce: called with the hub's URL once all workers accept connections.
        :raises SettingError: a worker cannot start.
        :raises StorageError: the log cannot be opened.
        """
        gc.freeze()  # before the fork: what is never looked at again stays shared
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
        try:
            if self._start_all():
                announce(url_of(self._listening[0], is_tls=bool(self._settings.tls_cert)))
                self._watch()
        finally:
            self._stop()
            for number in HANDLED:  # the process ends: one more signal changes nothing
                signal.signal(number, signal.SIG_IGN)
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _start_all(self) -> bool:
        """Start the workers, one after the other: the first one makes the tables.

        :returns: false when the hub is told to stop meanwhile.
        :raises SettingError: one cannot start.
        :raises StorageError: one cannot open the log.
        """
        for worker in self._workers:
            self._start(worker)
            while worker.is_starting:
                number = self._next_signal(_START, (*_STOP, signal.SIGHUP))
                if number in _STOP:
                    return False
                if number == signal.SIGHUP:
                    self._reload()
                self._look_at(worker)
        return True

    def _watch(self) -> None:
        rotation = rotation_of(self._settings, time.time())
        while True:
            due = [worker.due - time.monotonic() for worker in self._workers if not worker.pid]
            number = self._next_signal(min([*due, 3600.0 if rotation is None else ROTATION_INTERVAL]))
            if number in _STOP:
                return
            if number == signal.SIGHUP:
                self._reload()
            if number == signal.SIGUSR2 and self._hand_over():
                return
            if rotation is not None:
                rotation.check(time.time())
            self._bury()
            for worker in self._workers:
                if worker.is_starting:
                    self._attempt(self._look_at, worker)
                elif not worker.pid and time.monotonic() >= worker.due:
                    self._attempt(self._start, worker)

    def _next_signal(self, timeout: float, numbers: Sequence[int] = _WATCHED) -> int | None:
        """Wait for a signal, or for what a worker tells that starts.

        :param timeout: seconds to wait at most.
        :param numbers: of the signals that count.
        """
        starting = [worker for worker in self._workers if worker.is_starting]
        if starting:
            # A signal that is kept back ends no select(), so that looks up now and then.
            listens = [worker.listens for worker in starting]
            select.select(listens, [], [], max(min(timeout, _LOOK), 0.0))
            timeout = 0.0
        received = signal.sigtimedwait(numbers, max(timeout, 0.0))
        return None if received is None else received.si_signo

    def _reload(self) -> None:
        """Take over what the workers will, and have them reload.

        Those that are forked later have to trust the same keys.
        """
        logs.reopen()
        try:
            self._settings = reloaded(self._settings, self._reread())
            self._clock_offset = time.time() - since_boot()
        except SettingError as error:
            _log.error("nothing was reloaded: %s", error)
        _signal(self._pids, signal.SIGHUP)

    @property
    def _sockets(self) -> list[socket.socket]:
        return self._listening if self._metrics is None else [*self._listening, self._metrics]

    @property
    def _pids(self) -> list[int]:
        return [worker.pid for worker in self._workers if worker.pid]

    def _hand_over(self) -> bool:
        """Start another hub on these sockets, and have the workers give way to it once it serves.

        :returns: it serves.
        """
        _log.info("another hub is started to take over")
        try:
            successor = Successor([listening.fileno() for listening in self._listening])
        except OSError as error:
            _log.error("it cannot be started, so this one goes on: %s", error)
            return False
        if not successor.is_ready(_wait_to_read):
            if not _is_told_to_stop():
                _log.error("it did not start, so this one goes on; its own lines tell why")
            return False
        notify(os.environ, f"MAINPID={successor.pid}")
        for listening in self._sockets:
            listening.close()
        _signal(self._pids, signal.SIGUSR2)
        deadline = time.monotonic() + self._settings.drain + _END
        while self._pids and time.monotonic() < deadline:
            received = signal.sigtimedwait([signal.SIGCHLD, *_STOP], 0.5)
            if received is not None and received.si_signo in _STOP:
                break  # at once, then
            for worker in self._workers:
                if worker.pid and os.waitpid(worker.pid, os.WNOHANG)[0]:
                    worker.forget()
        return True

    def _bury(self) -> None:
        """Take note of the workers that ended."""
        for worker in self._workers:
            if not worker.serves:
                continue
            pid, status = os.waitpid(worker.pid, os.WNOHANG)
            if pid:
                _log.error(
                    "worker %d (process %d) %s; another one takes its place", worker.number, pid, _end(status)
                )
                # At once: its clients come to the others, before another worker is there.
                self._connections.clear(worker.number)
                worker.forget()
                worker.due = time.monotonic()
                if worker.due - worker.started < _SHORT_LIFE:  # whatever it was, it may happen again
                    worker.due += _SHORT_LIFE

    def _attempt(self, step: Callable[[_Worker], None], worker: _Worker) -> None:
        """Do a step of a worker's start; when it fails, there will be another attempt.

        :raises SettingError: it has failed too often, and no other worker serves.
        :raises StorageError: the same.
        :raises OSError: the same.
        """
        try:
            step(worker)
        except (SettingError, StorageError, OSError) as error:
            worker.failures += 1
            if worker.failures >= _TRIES and not any(one.serves for one in self._workers):
                raise
            pause = min(0.2 * 2**worker.failures, _LONGEST_PAUSE)
            worker.due = time.monotonic() + pause
            _log.error(
                "worker %d could not start: %s; again in %.1f s", worker.number, error, pause
            )  # the error tells what to do; a traceback would not

    def _start(self, worker: _Worker) -> None:
        """Fork a worker, which tells later how its start went.

        :raises OSError: the system has no room for another process now.
        """
        listens, tells = os.pipe()
        try:
            pid = os.fork()
        except OSError:
            os.close(listens)
            os.close(tells)
            raise
        if pid == 0:
            os.close(listens)
            os._exit(self._work(worker.number, tells))
        os.close(tells)
        worker.pid, worker.listens, worker.words = pid, listens, b""
        worker.deadline = time.monotonic() + _START

    def _look_at(self, worker: _Worker) -> None:
        """Take what a worker tells of its start.

        :raises SettingError: it cannot.
        :raises StorageError: it cannot open the log.
        """
        is_late = time.monotonic() >= worker.deadline
        if not is_late:
            if not select.select([worker.listens], [], [], 0)[0]:
                return
            words = os.read(worker.listens, 4096)
            worker.words += words
            if words:
                return
        worker.stop_listening()
        if worker.words == _READY:
            worker.failures = 0
            worker.started = time.monotonic()
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker.pid, signal.SIGKILL)
        _, status = os.waitpid(worker.pid, 0)
        self._connections.clear(worker.number)
        worker.forget()
        kind, _, text = worker.words.decode().partition(":")
        text = text or f"worker {worker.number} {_end(status)} while it started"
        raise _REASONS.get(kind, StorageError)(text)

    def _work(self, number: int, tells: int) -> int:
        """The life of a worker, in the child.

        :returns: exit status.
        """
        try:
            os.close(self._life[1])
            for other, listening in enumerate(self._listening):
                if other != number:
                    listening.close()
            logs.name_worker(number)
            others = [fd for other, fd in enumerate(self._bells) if other != number]
            place = Place(
                self._listening[number],
                Doorbell(self._bells[number], others),
                self._connections.of(number),
                self._life[0],
                self._metrics,
                self._board.of(number),
                self._clock_offset,
            )
            try:
                process = Process(self._settings, place)
                settle()
                process.run(lambda _: _tell(tells, _READY), self._reread)
            except (SettingError, StorageError) as error:
                _tell(tells, f"{type(error).__name__}:{error}".encode())
                return 2
        except BaseException:
            _log.exception("a worker failed; this is a defect of the hub")
            return 1
        finally:
            logging.shutdown()
        return 0

    def _stop(self) -> None:
        """Stop the workers, and kill those that do not."""
        for listening in self._sockets:
            listening.close()
        left = self._pids
        _signal(left, signal.SIGTERM)
        for worker in self._workers:
            if worker.is_starting:  # it serves nobody yet
                _signal([worker.pid], signal.SIGKILL)
                worker.stop_listening()
        deadline = time.monotonic() + _END
        while left:
            left = [pid for pid in left if os.waitpid(pid, os.WNOHANG)[0] == 0]
            remaining = deadline - time.monotonic()
            if left and remaining <= 0:
                _log.error("%d workers did not stop within %d s and are killed", len(left), _END)
                _signal(left, signal.SIGKILL)
                for pid in left:
                    os.waitpid(pid, 0)
                break
            if left:
                signal.sigtimedwait([signal.SIGCHLD], min(remaining, 1.0))
        for fd in (*self._life, *self._bells):
            os.close(fd)


def _signal(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _wait_to_read(descriptor: int) -> bool:
    """Wait for a successor, but not when this hub is told to stop."""
    deadline = time.monotonic() + _START
    while time.monotonic() < deadline and not _is_told_to_stop():
        if select.select([descriptor], [], [], _LOOK)[0]:
            return True
    return False


def _is_told_to_stop() -> bool:
    """Whether a signal that is kept back means the end."""
    return not signal.sigpending().isdisjoint(_STOP)


def _tell(fd: int, words: bytes) -> None:
    os.write(fd, words)
    os.close(fd)


def _end(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
