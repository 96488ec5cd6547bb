"""The life of a hub process: start, signals, reload, handing over to another hub, stop."""

from __future__ import annotations

import gc
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from functools import partial

import gevent
from gevent.event import Event

from mercure_hub.config.loading import reloaded
from mercure_hub.config.settings import HANDED_OVER, STARTER, SUCCESSION, TABLE, SettingError, Settings
from mercure_hub.fanout.endings import Ending, Reason
from mercure_hub.fanout.subscriber import Subscriber
from mercure_hub.metrics.tally import ProcessMetrics
from mercure_hub.server import logs, rotation
from mercure_hub.server.assembly import Inherited, Limits, assemble
from mercure_hub.server.channel import READ, is_ready
from mercure_hub.server.jwks import Fetcher
from mercure_hub.server.sockets import notify, url_of
from mercure_hub.server.tls import renew

HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2)
"""The signals that a hub acts on."""

SUCCESSOR_START = 60.0
"""Seconds for a successor to start."""

_READY = b"ready"
_LOOK = 0.02  # seconds between two looks at whether the hub has to stop at once
_DRAIN = 3.0  # seconds for requests that have begun when the hub is told to stop

_log = logging.getLogger("mercure_hub.server")


class Process:
    """A process that serves clients: the only one of its hub, or one of several workers.

    :param settings: checked settings.
    :param inherited: from the parent of several workers; ``None`` for the only process.
    :param limits: limits that are no settings.
    :raises SettingError: an address, a certificate or the database cannot be used.
    """

    def __init__(
        self, settings: Settings, inherited: Inherited | None = None, limits: Limits | None = None
    ) -> None:
        limits = limits or Limits()
        self._settings = settings
        self._sampling = limits.sampling
        self._parts = assemble(
            settings,
            inherited,
            limits,
            sample=self._sample,
            on_keys=partial(gevent.spawn, self._end_untrusted),
        )
        self._metrics = ProcessMetrics(self._parts.tally)
        self._lacks_metrics = False
        self._parent = None if inherited is None else inherited.parent
        self._starter = starter(os.environ) if inherited is None else inherited.parent
        self._successor: Successor | None = None
        self._is_leaving = False
        self._greenlets: list[gevent.Greenlet] = []
        self._rotating: gevent.Greenlet | None = None
        self._serves = Event()
        self._stopping = Event()

    @property
    def address(self) -> tuple[str, int]:
        """Address and port that the hub listens on."""
        host, port = self._parts.listening.getsockname()[:2]
        return str(host), int(port)

    # -- start and signals -----------------------------------------------------------------------

    def run(self, announce: Callable[[str], None], reread: Callable[[], Settings]) -> None:
        """Serve until SIGTERM or SIGINT; SIGHUP reloads, SIGUSR2 hands over to another hub.

        :param announce: called with the hub's URL once it accepts connections.
        :param reread: returns the current settings; raises ``SettingError``.
        """
        leave = self.hand_over if self._parent is None else self.give_way
        watchers: list[object] = [
            gevent.signal_handler(signal.SIGTERM, self.stop),
            gevent.signal_handler(signal.SIGINT, self.stop),
            gevent.signal_handler(signal.SIGHUP, self._once_it_serves, partial(self.reload, reread)),
            gevent.signal_handler(signal.SIGUSR2, self._once_it_serves, leave),
        ]
        if self._starter is not None:  # once it is gone, nobody would stop or replace this process
            orphaned = gevent.get_hub().loop.io(self._starter, READ)
            orphaned.start(self.stop)
            watchers.append(orphaned)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (*HANDLED, signal.SIGCHLD))  # now there are handlers
        try:
            if self._is_started():
                announce(url_of(self._parts.listening, is_tls=self._parts.tls is not None))
                self.wait()
        finally:
            self.close()
            for number in HANDLED:  # the process ends; another signal must not change how
                signal.signal(number, signal.SIG_IGN)
            del watchers

    def _is_started(self) -> bool:
        """Start, unless told to stop meanwhile: another process may lock the database for long."""

        def attempt() -> Exception | None:
            try:
                self.start()
            except Exception as error:  # raised below; gevent would print it
                return error
            return None

        starting = gevent.spawn(attempt)
        gevent.wait([starting, self._stopping], count=1)
        if not starting.ready():
            starting.kill()
            return False
        if starting.value is not None:
            raise starting.value
        return True

    def _once_it_serves(self, action: Callable[[], None]) -> None:
        self._serves.wait()
        action()

    def start(self) -> None:
        """Open the history and accept connections.

        :raises StorageError: the history cannot be opened.
        """
        logs.gather(gevent.get_hub().loop)
        self._parts.broker.open()
        self._parts.key_sources.start()
        for listener in self._parts.listeners:
            listener.start()
        self._greenlets.append(gevent.spawn(self._keep_sampling))
        files = rotation.rotation_of(self._settings, time.time()) if self._parent is None else None
        if files is not None:  # the parent of several workers rotates for all
            self._rotating = gevent.spawn(_rotate, files)
            self._greenlets.append(self._rotating)
        self._serves.set()

    def wait(self) -> None:
        """Serve until ``stop`` is called."""
        self._stopping.wait()

    def stop(self) -> None:
        """Let ``wait`` return."""
        self._stopping.set()

    def close(self) -> None:
        """Accept no more, answer requests that have begun, end the streams, write what is queued."""
        if self._serves.is_set():  # if it could not start, only the reason matters
            _log.info("the hub stops")
        if self._successor is not None:
            self._successor.abandon()
        broker = self._parts.broker
        broker.welcome_nobody()
        for listener in self._parts.listeners:
            listener.stop()
        gevent.killall(self._greenlets)
        self._parts.key_sources.close()
        broker.end_replays(Ending(Reason.HUB_STOPS))
        self._parts.listeners[0].drain(_DRAIN)
        broker.drain(_DRAIN)
        broker.close()
        for bell in self._parts.bells:
            bell.close()
        logs.write_at_once()

    # -- reload ----------------------------------------------------------------------------------

    def reload(self, reread: Callable[[], Settings]) -> None:
        """Apply what can change while the hub runs: certificates, keys, log level and log files.

        Streams go on, except those whose token was verified by a key that is no longer trusted. An error is
        logged, and nothing changes.

        :param reread: returns the current settings; raises ``SettingError``.
        """
        logs.reopen()
        try:
            new = reread()
            settings = reloaded(self._settings, new)
            if self._parts.tls is not None and settings.tls_cert:
                renew(self._parts.tls, settings)
        except SettingError as error:
            _log.error("nothing was reloaded: %s", error)
            return
        self._parts.broker.trust_clock()
        self._parts.key_sources.close()  # first, because this may switch to other greenlets
        self._parts.verifier.trust_only(settings.issuers)
        self._parts.key_sources.replace(settings.issuers, Fetcher())
        gevent.spawn(self._end_untrusted)
        logging.getLogger("mercure_hub").setLevel(settings.log_level.upper())
        restart = [
            row.variable
            for row in TABLE
            if not row.is_reloadable and getattr(new, row.name) != getattr(self._settings, row.name)
        ]
        if new.retention != self._settings.retention:
            restart.append("[[retention]]")
        _log.info("certificates, keys and log files were reloaded")
        if restart:
            _log.warning("%s changed; restart the hub to apply this", ", ".join(restart))

    def _end_untrusted(self) -> None:
        """End the streams whose token would be refused now, because its key is no longer trusted."""
        trusted: dict[int, bool] = {}  # by the identity of a key: RSA keys have no hash
        untrusted = []
        for subscriber in self._parts.broker.everyone():
            key = subscriber.grant.key
            if key is not None and id(key) not in trusted:
                trusted[id(key)] = self._parts.verifier.trusts(key, "subscribe")
            if key is not None and not trusted[id(key)]:
                untrusted.append(subscriber)
        self._end_gradually(untrusted, Ending(Reason.KEY_IS_GONE))

    # -- handing over ----------------------------------------------------------------------------

    def hand_over(self) -> None:
        """Start another hub on this socket, and give way to it once it serves."""
        if self._is_leaving or self._stopping.is_set():  # one successor is enough
            return
        self._is_leaving = True
        self._successor = Successor.start([self._parts.listening.fileno()])
        if self._successor is not None and self._successor.takes_over(_wait_to_read, self._stopping.is_set):
            self._leave()
        else:
            self._is_leaving = False
        self._successor = None

    def give_way(self) -> None:
        """Accept no more, end the streams one after the other, then stop.

        Their clients come back to the other hub, with their cursors.
        """
        if not self._is_leaving:
            self._is_leaving = True
            self._leave()

    def _leave(self) -> None:
        _log.info("another hub accepts connections; the streams here end within %g s", self._settings.drain)
        broker, listener = self._parts.broker, self._parts.listeners[0]
        broker.welcome_nobody()
        if self._rotating is not None:  # the other hub rotates now
            self._rotating.kill()
        listener.stop()
        streams = list(broker.engine)
        listener.drain(_DRAIN)
        self._end_gradually(streams, Ending(Reason.HANDOVER))
        self.stop()

    def _end_gradually(self, subscribers: Sequence[Subscriber], ending: Ending) -> None:
        """End streams one after the other, so that their clients do not all come back at once."""
        started = time.monotonic()
        for subscriber, delay in zip(
            subscribers, delays(len(subscribers), self._settings.drain), strict=True
        ):
            while time.monotonic() < started + delay and not self._stopping.is_set():
                gevent.sleep(_LOOK)
            self._parts.broker.end(subscriber, ending)

    # -- metrics ---------------------------------------------------------------------------------

    def _keep_sampling(self) -> None:
        while True:
            self._sample()
            gevent.sleep(self._sampling)

    def _sample(self) -> None:
        self._parts.broker.sample()
        try:
            self._metrics.write(time.time())
        except OSError as error:  # no descriptor is left, for example
            if not self._lacks_metrics:
                _log.error("the metrics of this process cannot be read: %s", error.strerror)
            self._lacks_metrics = True
        else:
            self._lacks_metrics = False


def delays(count: int, seconds: float) -> Iterator[float]:
    """When to end each of several streams, evenly spread.

    :param count: of the streams.
    :param seconds: within which all have to end.
    :returns: seconds from now, one for each stream; the first ends at once.
    """
    return (seconds * number / count for number in range(count))


def serve_alone(settings: Settings, announce: Callable[[str], None], reread: Callable[[], Settings]) -> None:
    """Run a hub in this process until it is told to stop.

    :param announce: called with the hub's URL once it accepts connections.
    :param reread: returns the current settings; raises ``SettingError``.
    :raises SettingError: the hub cannot start.
    :raises StorageError: the history cannot be opened.
    """
    process = Process(settings)
    gc.freeze()  # what is loaded now stays: the collector need not look at it again
    tune_interpreter()
    process.run(announce, reread)


def tune_interpreter() -> None:
    """Tune the interpreter for a process that serves."""
    gc.set_threshold(20_000, 20, 50)
    sys.setswitchinterval(0.001)  # the storage's writer needs the interpreter briefly, and soon


def _rotate(files: rotation.Rotation) -> None:
    while True:
        gevent.sleep(rotation.ROTATION_INTERVAL)
        files.check(time.time())


def _wait_to_read(descriptor: int) -> bool:
    return is_ready(descriptor, READ, SUCCESSOR_START)


class Successor:
    """A hub that takes over the sockets of this one: an upgrade without a gap.

    It is the same command, started again, so it runs whatever is installed now. For a while both hubs work on
    one history; no connection is refused, and clients of the old hub come back to the new one with their
    cursors.

    :param sockets: descriptors of the listening sockets.
    :raises OSError: it cannot be started.
    """

    def __init__(self, sockets: Sequence[int]) -> None:
        self._listens, tells = os.pipe()
        environment = {
            **os.environ,
            HANDED_OVER: ",".join(map(str, sockets)),
            SUCCESSION: str(tells),
        }
        try:
            self._child = subprocess.Popen(  # noqa: S603 - our own command
                [sys.executable, *sys.orig_argv[1:]], env=environment, pass_fds=(*sockets, tells)
            )
        except OSError:
            os.close(self._listens)
            raise
        finally:
            os.close(tells)

    @classmethod
    def start(cls, sockets: Sequence[int]) -> Successor | None:
        """Start a successor; ``None`` if that fails, which is logged.

        :param sockets: descriptors of the listening sockets.
        """
        _log.info("starting another hub to take over")
        try:
            return cls(sockets)
        except OSError as error:
            _log.error("the successor cannot be started, so this hub goes on: %s", error)
            return None

    def takes_over(self, wait: Callable[[int], bool], is_stopping: Callable[[], bool]) -> bool:
        """Wait until it serves, and tell the service manager then; otherwise kill it.

        :param wait: waits until a descriptor is readable; false when that takes too long.
        :param is_stopping: whether this hub was told to stop meanwhile.
        """
        try:
            serves = wait(self._listens) and os.read(self._listens, 16) == _READY
        finally:
            os.close(self._listens)
        if serves:
            self._child.returncode = 0  # it outlives this process, which does not wait for it
            notify(os.environ, f"MAINPID={self._child.pid}")
            return True
        self._child.kill()
        self._child.wait()
        if not is_stopping():
            _log.error("the successor did not start, so this hub goes on; see the successor's own log lines")
        return False

    def abandon(self) -> None:
        """End it, because this hub is told to stop before the successor serves."""
        self._child.terminate()


def starter(environment: MutableMapping[str, str]) -> int | None:
    """The descriptor that is readable once the process that started this hub is gone.

    :param environment: names it; the name is removed.
    :returns: ``None`` for a hub that outlives that process.
    """
    descriptor = environment.pop(STARTER, "")
    return int(descriptor) if descriptor else None


def tell_predecessor(environment: MutableMapping[str, str]) -> None:
    """Tell the hub whose sockets were taken over, if there is one, that this one serves now.

    :param environment: names the descriptor to tell it through; the name is removed.
    :raises SettingError: the other hub was stopped meanwhile, so this one is not wanted.
    """
    descriptor = int(environment.pop(SUCCESSION, "") or -1)
    if descriptor < 0:
        return
    try:
        os.write(descriptor, _READY)
    except BrokenPipeError:
        raise SettingError("the hub to take over from has stopped; start it anew") from None
    finally:
        os.close(descriptor)
