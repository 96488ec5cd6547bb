"""Several processes on one port and one history: their parent starts, watches, replaces and stops them.

The parent serves no client. It creates the listening sockets, one for each worker: the kernel spreads
connections over them, and those that arrive while a worker is replaced wait in its socket. Workers share
a doorbell and the counts for connection limits; everything else they share is in the history.

With an engine that several machines share, one more process, the feeder, reads it for all workers.
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
from mercure_hub.server.assembly import Inherited
from mercure_hub.server.feeder import Feed, feed_workers
from mercure_hub.server.lifecycle import (
    HANDLED,
    SUCCESSOR_START,
    Process,
    Successor,
    serve_alone,
    starter,
    tune_interpreter,
)
from mercure_hub.server.rotation import ROTATION_INTERVAL, rotation_of
from mercure_hub.server.signals import Signals
from mercure_hub.server.sockets import listening_sockets, metrics_socket, url_of
from mercure_hub.storage.address import address_of
from mercure_hub.storage.doorbell import Doorbell, bells
from mercure_hub.storage.engines import load_driver
from mercure_hub.storage.sqlite.retention import since_boot

_STOP = (signal.SIGTERM, signal.SIGINT)
_WATCHED = (*HANDLED, signal.SIGCHLD)
_READY = b"ready"
_START = 60.0  # seconds for a worker to start
_END = 20.0  # seconds for the workers to stop, before they are killed
_FEEDER_END = 5.0  # the same for the feeder
_LOOK = 0.1  # seconds between two looks at a process that starts
_TRIES = 5  # failed starts in a row before the hub gives up
_LONGEST_PAUSE = 5.0
_SHORT_LIFE = 1.0  # seconds; a worker that dies sooner is not replaced at once

_REASONS: Mapping[str, type[SettingError | StorageError]] = {
    one.__name__: one for one in (SettingError, StorageUnusable, StorageError)
}
"""Why a worker cannot start, by the name that it reports to its parent."""

_log = logging.getLogger("mercure_hub.server")


def serve(settings: Settings, announce: Callable[[str], None], reread: Callable[[], Settings]) -> None:
    """Run a hub, in as many processes as configured, until it is told to stop.

    :param announce: called with the hub's URL once it accepts connections.
    :param reread: returns the current settings; raises ``SettingError``.
    :raises SettingError: the hub cannot start.
    :raises StorageError: the history cannot be opened.
    """
    # Before there are handlers, a signal to reload or to hand over would end the hub.
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGHUP, signal.SIGUSR2))
    if settings.workers == 1:
        serve_alone(settings, announce, reread)
    else:
        Workers(settings, reread).run(announce)


@dataclass
class _Worker:
    """A child process.

    :param number: from 0; the feeder comes after the workers.
    :param role: in words, if it is no worker.
    :param pid: 0 without a process.
    :param failures: failed starts since one succeeded.
    :param started: monotonic time at which it began to serve.
    :param due: monotonic time at which to start it again.
    :param reports: descriptor on which it reports how its start went; ``None`` unless it is starting.
    :param report: what it has reported so far.
    :param deadline: monotonic time at which its start has taken too long.
    """

    number: int
    role: str = ""
    pid: int = 0
    failures: int = 0
    started: float = 0.0
    due: float = 0.0
    reports: int | None = None
    report: bytes = b""
    deadline: float = 0.0

    @property
    def name(self) -> str:
        """Which process it is, in words."""
        return self.role or f"worker {self.number}"

    @property
    def is_starting(self) -> bool:
        """Whether it has a process that does not serve yet."""
        return self.reports is not None

    @property
    def serves(self) -> bool:
        """Whether it has a process that serves clients."""
        return bool(self.pid) and not self.is_starting

    def forget(self) -> None:
        """Note that its process is gone."""
        self.pid = 0
        self.stop_reporting()

    def stop_reporting(self) -> None:
        """Expect no more reports of its start."""
        if self.reports is not None:
            os.close(self.reports)
            self.reports = None


class Workers:
    """The parent of the processes that serve.

    :param settings: checked settings.
    :param reread: returns the current settings, for a reload.
    :raises SettingError: an address cannot be used.
    :raises StorageError: the driver of the engine is not installed.
    """

    def __init__(self, settings: Settings, reread: Callable[[], Settings]) -> None:
        count = settings.workers
        self._settings = settings
        self._reread = reread
        self._metrics = metrics_socket(settings)
        self._listening = listening_sockets(settings, count)
        address = address_of(settings.transport_url)
        load_driver(address)
        self._board = Board(count, ("feeder",) if address.is_shared else ())
        self._bells = bells(count)
        self._feed = Feed.make(self._bells, os.environ) if address.is_shared else None
        self._connections = SharedCounts(count)
        self._clock_offset = time.time() - since_boot()  # also for workers that replace others
        self._starter = starter(os.environ)
        self._life = os.pipe()  # its writing end stays open as long as this process lives
        self._workers = [_Worker(number) for number in range(count)]
        self._feeder = _Worker(count, "the feeder") if self._feed else None

    def run(self, announce: Callable[[str], None]) -> None:
        """Serve until SIGTERM or SIGINT.

        :param announce: called with the hub's URL once all workers accept connections.
        :raises SettingError: a worker cannot start.
        :raises StorageError: the history cannot be opened.
        """
        gc.freeze()  # before the fork: memory that the collector never touches stays shared
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
        self._signals = Signals(_WATCHED)
        try:
            if self._start_all():
                announce(url_of(self._listening[0], is_tls=bool(self._settings.tls_cert)))
                self._watch()
        finally:
            self._stop()
            self._signals.close()
            for number in HANDLED:  # the process ends; another signal must not change how
                signal.signal(number, signal.SIG_IGN)
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _start_all(self) -> bool:
        """Start the processes one after the other, because the first one creates the tables.

        :returns: false when the hub is told to stop meanwhile.
        :raises SettingError: a worker cannot start.
        :raises StorageError: a worker cannot open the history.
        """
        for worker in self._processes:
            self._start(worker)
            while worker.is_starting:
                number = self._next_signal(_START, (*_STOP, signal.SIGHUP))
                if number in _STOP:
                    return False
                if number == signal.SIGHUP:
                    self._reload()
                self._check_start(worker)
        return True

    def _watch(self) -> None:
        rotation = rotation_of(self._settings, time.time())
        while True:
            due = [worker.due - time.monotonic() for worker in self._processes if not worker.pid]
            number = self._next_signal(min([*due, 3600.0 if rotation is None else ROTATION_INTERVAL]))
            if number in _STOP:
                return
            if number == signal.SIGHUP:
                self._reload()
            if number == signal.SIGUSR2 and self._is_succeeded():
                return
            if rotation is not None:
                rotation.check(time.time())
            self._note_deaths()
            for worker in self._processes:
                if worker.is_starting:
                    self._attempt(self._check_start, worker)
                elif not worker.pid and time.monotonic() >= worker.due:
                    self._attempt(self._start, worker)

    def _next_signal(self, timeout: float, numbers: Sequence[signal.Signals] = _WATCHED) -> int | None:
        """Wait for a signal, for a report of a worker that is starting, or for the end of the hub's starter.

        :param timeout: seconds to wait at most.
        :param numbers: of the signals to wait for.
        :returns: the signal, or ``None``.
        """
        reports = [worker.reports for worker in self._processes if worker.reports is not None]
        watched = reports if self._starter is None else [*reports, self._starter]
        number = self._signals.wait(min(timeout, _LOOK) if reports else timeout, numbers, watched)
        if number is None and self._starter is not None and select.select([self._starter], [], [], 0)[0]:
            return signal.SIGTERM
        return number

    def _reload(self) -> None:
        """Reload the settings here and in the workers: workers forked later have to trust the same keys."""
        logs.reopen()
        try:
            self._settings = reloaded(self._settings, self._reread())
            self._clock_offset = time.time() - since_boot()
        except SettingError as error:
            _log.error("nothing was reloaded: %s", error)
        _signal([worker.pid for worker in self._processes if worker.pid], signal.SIGHUP)

    @property
    def _processes(self) -> list[_Worker]:
        """The workers, after the feeder."""
        return self._workers if self._feeder is None else [self._feeder, *self._workers]

    @property
    def _sockets(self) -> list[socket.socket]:
        return self._listening if self._metrics is None else [*self._listening, self._metrics]

    @property
    def _pids(self) -> list[int]:
        """Of the workers."""
        return [worker.pid for worker in self._workers if worker.pid]

    def _is_succeeded(self) -> bool:
        """Start another hub on these sockets, and let the workers give way to it once it serves.

        :returns: it serves, and the workers have ended, or will be stopped.
        """
        successor = Successor.start([listening.fileno() for listening in self._listening])
        if successor is None or not successor.takes_over(self._wait_to_read, self._is_told_to_stop):
            return False
        for listening in self._sockets:
            listening.close()
        _signal(self._pids, signal.SIGUSR2)
        deadline = time.monotonic() + self._settings.drain + _END
        while self._pids and time.monotonic() < deadline:
            if self._signals.wait(0.5, (signal.SIGCHLD, *_STOP)) in _STOP:
                break  # at once
            for worker in self._workers:
                if worker.pid and os.waitpid(worker.pid, os.WNOHANG)[0]:
                    worker.forget()
        return True

    def _wait_to_read(self, descriptor: int) -> bool:
        """Wait for a successor, unless this hub is told to stop."""
        deadline = time.monotonic() + SUCCESSOR_START
        while time.monotonic() < deadline and not self._is_told_to_stop():
            if select.select([descriptor], [], [], _LOOK)[0]:
                return True
        return False

    def _is_told_to_stop(self) -> bool:
        return self._signals.have_come(_STOP)

    def _note_deaths(self) -> None:
        """Note processes that ended, and when to replace them."""
        for worker in self._processes:
            if not worker.serves:
                continue
            pid, status = os.waitpid(worker.pid, os.WNOHANG)
            if pid:
                _log.error("%s (process %d) %s; it is replaced", worker.name, pid, _end(status))
                # Now: its clients go to the other workers before it is replaced.
                self._forget(worker)
                worker.due = time.monotonic()
                if worker.due - worker.started < _SHORT_LIFE:  # whatever the cause, it may happen again
                    worker.due += _SHORT_LIFE

    def _attempt(self, step: Callable[[_Worker], None], worker: _Worker) -> None:
        """Do a step of a worker's start; if it fails, plan another attempt.

        :raises SettingError: too many attempts have failed, and no other worker serves.
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
            # Without a traceback: the error says what to do.
            _log.error("%s could not start: %s; again in %.1f s", worker.name, error, pause)

    def _forget(self, worker: _Worker) -> None:
        if worker is not self._feeder:
            self._connections.clear(worker.number)
        worker.forget()

    def _start(self, worker: _Worker) -> None:
        """Fork a worker, which reports later how its start went.

        :raises OSError: the system has no room for another process now.
        """
        reports, tells = os.pipe()
        try:
            pid = os.fork()
        except OSError:
            os.close(reports)
            os.close(tells)
            raise
        if pid == 0:
            os.close(reports)
            os._exit(self._live(worker, tells))
        os.close(tells)
        worker.pid, worker.reports, worker.report = pid, reports, b""
        worker.deadline = time.monotonic() + _START

    def _check_start(self, worker: _Worker) -> None:
        """Read what a starting worker reports.

        :raises SettingError: it cannot start.
        :raises StorageError: it cannot open the history.
        """
        if worker.reports is None:
            return
        if time.monotonic() < worker.deadline:
            if not select.select([worker.reports], [], [], 0)[0]:
                return
            received = os.read(worker.reports, 4096)
            worker.report += received
            if received:
                return
        worker.stop_reporting()
        if worker.report == _READY:
            worker.failures = 0
            worker.started = time.monotonic()
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker.pid, signal.SIGKILL)
        _, status = os.waitpid(worker.pid, 0)
        self._forget(worker)
        kind, _, text = worker.report.decode().partition(":")
        text = text or f"{worker.name} {_end(status)} while it started"
        raise _REASONS.get(kind, StorageError)(text)

    def _live(self, worker: _Worker, tells: int) -> int:
        """The life of a process, in the child.

        :returns: exit status.
        """
        try:
            self._signals.close()
            os.close(self._life[1])
            if self._feed is not None:
                os.close(self._feed.life[1])
            try:
                if worker is self._feeder:
                    self._feed_workers(tells)
                else:
                    self._work(worker.number, tells)
            except (SettingError, StorageError) as error:
                _tell(tells, f"{type(error).__name__}:{error}".encode())
                return 2
        except BaseException:
            _log.exception("%s failed; this is a defect of the hub", worker.name)
            return 1
        finally:
            logging.shutdown()
        return 0

    def _work(self, number: int, tells: int) -> None:
        for other, listening in enumerate(self._listening):
            if other != number:
                listening.close()
        logs.name_worker(number)
        # A fed worker rings no other worker: its updates come back from the feeder.
        others = [bell for other, bell in enumerate(self._bells) if other != number and self._feed is None]
        inherited = Inherited(
            number,
            self._listening[number],
            Doorbell(self._bells[number], others),
            self._connections.of(number),
            self._life[0],
            self._metrics,
            self._board.of(number),
            self._clock_offset,
            self._feed,
        )
        process = Process(self._settings, inherited)
        tune_interpreter()
        process.run(lambda _: _tell(tells, _READY), self._reread)

    def _feed_workers(self, tells: int) -> None:
        assert self._feed is not None
        for listening in self._sockets:
            listening.close()
        logs.name_worker("feeder")
        tune_interpreter()
        feed_workers(
            self._settings,
            self._feed,
            self._board.of(len(self._workers)),
            lambda: _tell(tells, _READY),
        )

    def _stop(self) -> None:
        """Stop the workers, and kill those that do not stop in time."""
        for listening in self._sockets:
            listening.close()
        left = self._pids
        _signal(left, signal.SIGTERM)
        for worker in self._workers:
            if worker.is_starting:  # it serves nobody yet
                _signal([worker.pid], signal.SIGKILL)
                worker.stop_reporting()
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
                self._signals.wait(min(remaining, 1.0), (signal.SIGCHLD,))
        self._stop_feeder()
        for fd in self._life:
            os.close(fd)
        for bell in self._bells:
            bell.close()

    def _stop_feeder(self) -> None:
        """Wait for the end of the feeder, after the workers, and remove what they shared."""
        if self._feeder is None or self._feed is None:
            return
        os.close(self._feed.life[1])
        pid, is_starting = self._feeder.pid, self._feeder.is_starting
        self._feeder.stop_reporting()
        deadline = time.monotonic() + (0.0 if is_starting else _FEEDER_END)
        while pid and os.waitpid(pid, os.WNOHANG)[0] == 0:
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                _signal([pid], signal.SIGKILL)
                os.waitpid(pid, 0)
                break
            self._signals.wait(min(remaining, 1.0), (signal.SIGCHLD,))
        self._feed.remove()


def _signal(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _tell(fd: int, words: bytes) -> None:
    os.write(fd, words)
    os.close(fd)


def _end(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
