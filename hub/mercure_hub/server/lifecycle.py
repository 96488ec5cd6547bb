"""The hub as a process: puts the parts together, serves until a signal, ends in order."""

from __future__ import annotations

import gc
import logging
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, MutableMapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import gevent
from gevent.event import Event
from gevent.hub import Waiter

from mercure_hub.broker.broker import Broker
from mercure_hub.config.loading import reloaded
from mercure_hub.config.settings import TABLE, SettingError, Settings
from mercure_hub.endpoints.authorization import Gatekeeper, Unread
from mercure_hub.endpoints.debugger.pages import Pages, features, token_for
from mercure_hub.endpoints.hub import Hub
from mercure_hub.endpoints.routes import watch
from mercure_hub.fanout import encoding
from mercure_hub.fanout.endings import Ending, Reason
from mercure_hub.fanout.engine import EngineLimits
from mercure_hub.fanout.quota import ConnectionLimits, Quota, Siblings
from mercure_hub.fanout.subscriber import Subscriber
from mercure_hub.metrics.tally import Board, ProcessFigures, Tally
from mercure_hub.protocol.tokens.access_token import TokenVerifier
from mercure_hub.protocol.tokens.issuer import Issuer
from mercure_hub.protocol.update import PublicationLimits
from mercure_hub.server import logs
from mercure_hub.server.channel import READ, is_ready
from mercure_hub.server.connection import Connection, OpenRequests, Site
from mercure_hub.server.http import Addressing
from mercure_hub.server.jwks import Fetcher, KeySources
from mercure_hub.server.listener import Listener
from mercure_hub.server.logs import INTERVAL as ROTATION_INTERVAL
from mercure_hub.server.logs import AccessLog, Rotation, rotation_of
from mercure_hub.server.sockets import (
    HANDED_OVER,
    SUCCESSION,
    listening_sockets,
    metrics_socket,
    notify,
    url_of,
)
from mercure_hub.server.tls import renew, tls_context
from mercure_hub.storage.interface import Retention
from mercure_hub.storage.sqlite.link import SqliteLink
from mercure_hub.storage.sqlite.locks import Doorbell, bells
from mercure_hub.storage.store import Store

_READY = b"ready"


class Successor:
    """A hub that is to take over.

    :param sockets: descriptors of the listening sockets.
    :raises OSError: it cannot be started.
    """

    def __init__(self, sockets: Sequence[int]) -> None:
        self.listens, tells = os.pipe()
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
            os.close(self.listens)
            raise
        finally:
            os.close(tells)

    @property
    def pid(self) -> int:
        """Its process."""
        return self._child.pid

    def is_ready(self, wait: Callable[[int], bool]) -> bool:
        """Whether it serves; when it does not, it is ended.

        :param wait: waits until a descriptor is readable, false when that takes too long.
        """
        try:
            serves = wait(self.listens) and os.read(self.listens, 16) == _READY
        finally:
            os.close(self.listens)
        if serves:
            self._child.returncode = 0  # it outlives this process, and nobody here waits for it
        else:
            self._child.kill()
            self._child.wait()
        return serves

    def abandon(self) -> None:
        """End it, for the hub that it should follow is told to stop before it serves."""
        self._child.terminate()


def tell_predecessor(environment: MutableMapping[str, str]) -> None:
    """Tell the hub whose sockets were taken over that this one serves now, if there is one.

    :raises SettingError: it was stopped meanwhile, and so this one is not wanted.
    """
    descriptor = int(environment.pop(SUCCESSION, "") or -1)
    if descriptor < 0:
        return
    try:
        os.write(descriptor, _READY)
    except BrokenPipeError:
        raise SettingError("the hub that this one should take over from has stopped; start it anew") from None
    finally:
        os.close(descriptor)


HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2)
"""The signals that a hub acts on."""

_OTHER_DESCRIPTORS = 64  # for publishers, the log and files
_MANY_DESCRIPTORS = 1 << 20
_OPEN_REQUESTS = 256 << 20  # bytes that connections which wait for their client may take
_OPEN_BODIES = 16  # of the largest size, that have to have room in it
_START = 60.0  # seconds for another hub to start
_PAUSE = 0.02
_FIGURES = 1.0  # seconds between two looks at what the system says of this process
_COMPRESS_FROM = 256  # bytes: the frame of a smaller event saves next to nothing
_DRAIN = 3.0  # seconds for requests under way when the hub is told to stop

_log = logging.getLogger("mercure_hub.server")


@dataclass(frozen=True, slots=True)
class Place:
    """What a process has among its siblings.

    :param listening: its socket, bound to the same port as theirs.
    :param doorbell: wakes those that read the log.
    :param siblings: the counts of their connections.
    :param parent: descriptor that becomes readable when the parent is gone.
    :param metrics: their common socket for those who watch over them, if they have one.
    :param tally: counts what happens here.
    :param clock_offset: by how much the wall clock is ahead of the time since boot where it is right.
    """

    listening: socket.socket
    doorbell: Doorbell
    siblings: Siblings
    parent: int
    metrics: socket.socket | None
    tally: Tally
    clock_offset: float


class Process:
    """A hub that serves.

    :param settings: checked settings.
    :param place: among several processes; ``None`` for the only one.
    :raises SettingError: an address, a certificate or the database cannot be used.
    """

    def __init__(self, settings: Settings, place: Place | None = None) -> None:
        self._tls = tls_context(settings)
        self._settings = settings
        self._stopping = Event()
        self._serves = Event()
        self._metrics = metrics_socket(settings) if place is None else place.metrics
        self._listening = listening_sockets(settings, 1)[0] if place is None else place.listening
        self._tally = Board(1).of(0) if place is None else place.tally
        self._noting: gevent.Greenlet | None = None
        self._lacks_figures = False
        self._parent = None if place is None else place.parent
        self._rotating: gevent.Greenlet | None = None
        self._successor: Successor | None = None
        self._is_leaving = False
        self._own_bells = bells(1) if place is None else []
        doorbell = Doorbell(self._own_bells[0], ()) if place is None else place.doorbell
        link = SqliteLink(
            settings.transport_url,
            Retention(settings.history_size, settings.history_max_age),
            time.time,
            doorbell,
            offset=None if place is None else place.clock_offset,
        )
        transport: Store[Waiter | None] = Store(link)
        self._broker = Broker(
            transport,
            EngineLimits(
                settings.heartbeat,
                settings.dispatch_timeout,
                compress_from=_compress_from(settings),
            ),
            time.monotonic,
            Quota(
                ConnectionLimits(
                    settings.max_connections,
                    settings.max_connections_per_address,
                    settings.max_connections_per_token,
                    _raise_descriptor_limit() - _OTHER_DESCRIPTORS,
                ),
                None if place is None else place.siblings,
            ),
            subscriptions=settings.subscriptions,
            tally=self._tally,
        )
        if settings.debugger:
            self._broker.engine.unread = Unread().tell
        self._broker.sample()  # before the start is counted: a worker that died has left its figures there
        self._figures = ProcessFigures(self._tally)
        self._verifier = TokenVerifier(
            settings.issuers, settings.protocol, knows_its_url=settings.knows_its_url
        )
        self._key_sources = self._sources(settings)
        site = Site(
            hub=_hub(settings, self._broker, self._verifier, self._renew_keys, self._note_figures),
            addressing=Addressing(
                "http" if self._tls is None else "https",
                settings.public_url,
                settings.allowed_urls,
                settings.trusted_proxies,
            ),
            access_log=AccessLog(),
            max_body=settings.max_request_body_size,
            tls=self._tls,
            replay_timeout=settings.dispatch_timeout or 600.0,
            open_requests=OpenRequests(
                max(_OPEN_REQUESTS, _OPEN_BODIES * settings.max_request_body_size),
                time.monotonic,
                Connection.make_room,
            ),
        )
        self._listener = Listener(site, self._listening)
        self._watched: Listener | None = None
        if self._metrics is not None:
            self._watched = Listener(replace(site, tls=None, route=watch, any_url=True), self._metrics)
        if settings.metrics or self._metrics is not None:
            from mercure_hub.metrics import exposition  # noqa: F401, PLC0415 - the first to ask need not wait for it

    @property
    def address(self) -> tuple[str, int]:
        """Address and port that the hub listens on."""
        host, port = self._listening.getsockname()[:2]
        return str(host), int(port)

    @property
    def url(self) -> str:
        """Scheme, address and port that the hub listens on."""
        return url_of(self._listening, is_tls=self._tls is not None)

    def run(self, announce: Callable[[str], None], reread: Callable[[], Settings]) -> None:
        """Serve until SIGTERM or SIGINT; SIGHUP reloads, SIGUSR2 has another hub take over.

        :param announce: called with the hub's URL once it accepts connections.
        :param reread: the settings as they are now; raises ``SettingError``.
        """
        leave = self.give_way if self._parent is not None else self.hand_over
        watchers: list[object] = [
            gevent.signal_handler(signal.SIGTERM, self.stop),
            gevent.signal_handler(signal.SIGINT, self.stop),
            gevent.signal_handler(signal.SIGHUP, self._once_it_serves, partial(self.reload, reread)),
            gevent.signal_handler(signal.SIGUSR2, self._once_it_serves, leave),
        ]
        if self._parent is not None:  # nobody would stop or replace this process any more
            orphaned = gevent.get_hub().loop.io(self._parent, 1)
            orphaned.start(self.stop)
            watchers.append(orphaned)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (*HANDLED, signal.SIGCHLD))  # there are handlers now
        try:
            if self._is_started():
                announce(self.url)
                self.wait()
        finally:
            self.close()
            for number in HANDLED:  # the process ends: one more signal changes nothing
                signal.signal(number, signal.SIG_IGN)
            del watchers

    def _is_started(self) -> bool:
        """Start, unless told to stop meanwhile: another process may keep the log for long."""

        def attempt() -> Exception | None:
            try:
                self.start()
            except Exception as error:  # raised below: gevent would print it
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
        """Open the log and accept connections."""
        self._broker.open()
        self._key_sources.start()
        self._listener.start()
        if self._watched is not None:
            self._watched.start()
        self._noting = gevent.spawn(self._keep_noting)
        rotation = rotation_of(self._settings, time.time()) if self._parent is None else None
        if rotation is not None:  # among several processes it is the parent's business
            self._rotating = gevent.spawn(_rotate, rotation)
        self._serves.set()

    def wait(self) -> None:
        """Serve until ``stop`` is called."""
        self._stopping.wait()

    def stop(self) -> None:
        """Have ``wait`` return."""
        self._stopping.set()

    def reload(self, reread: Callable[[], Settings]) -> None:
        """Take over what can change while the hub runs: certificates, keys, files of the log.

        Streams go on, but for those whose token a key verified that is not trusted any more. What is wrong is
        logged, and what was before goes on.

        :param reread: gives the settings as they are now.
        """
        logs.reopen()
        try:
            new = reread()
            settings = reloaded(self._settings, new)
            if self._tls is not None and settings.tls_cert:
                renew(self._tls, settings)
        except SettingError as error:
            _log.error("nothing was reloaded: %s", error)
            return
        self._broker.trust_clock()
        before = self._key_sources
        before.close()
        self._verifier.trust_only(settings.issuers)
        self._key_sources = self._sources(settings)
        self._key_sources.adopt(before)
        self._key_sources.start()
        gevent.spawn(self._end_untrusted)
        logging.getLogger("mercure_hub").setLevel(settings.log_level.upper())
        restart = [
            row.variable
            for row in TABLE
            if not row.is_reloadable and getattr(new, row.name) != getattr(self._settings, row.name)
        ]
        _log.info("certificates, keys and log files were reloaded")
        if restart:
            _log.warning("%s changed and will count after a restart", ", ".join(restart))

    def hand_over(self) -> None:
        """Start another hub on this socket, and give way to it once it serves."""
        if self._is_leaving or self._stopping.is_set():  # told twice: one successor is enough
            return
        self._is_leaving = True
        if self._is_succeeded():
            self._end_by_and_by()
        else:
            self._is_leaving = False

    def _is_succeeded(self) -> bool:
        _log.info("another hub is started to take over")
        try:
            self._successor = Successor([self._listening.fileno()])
        except OSError as error:
            _log.error("it cannot be started, so this one goes on: %s", error)
            return False
        is_ready = self._successor.is_ready(_wait_to_read)
        if is_ready:
            notify(os.environ, f"MAINPID={self._successor.pid}")
        elif not self._stopping.is_set():
            _log.error("it did not start, so this one goes on; its own lines tell why")
        self._successor = None
        return is_ready

    def give_way(self) -> None:
        """Accept no more, end the streams one after the other, then stop.

        Their clients come back to the other hub, with their cursors.
        """
        if not self._is_leaving:
            self._is_leaving = True
            self._end_by_and_by()

    def _end_by_and_by(self) -> None:
        seconds = self._settings.drain
        _log.info("another hub accepts connections; the streams here end within %g s", seconds)
        self._broker.is_draining = True
        if self._rotating is not None:  # the other hub does it now
            self._rotating.kill()
        self._listener.stop()
        streams = list(self._broker.engine)
        self._listener.drain(_DRAIN)
        self._end(streams, Ending(Reason.HANDOVER))
        self.stop()

    def _end(self, subscribers: Sequence[Subscriber], ending: Ending) -> None:
        """End streams one after the other: their clients shall not come back all at once."""
        started = time.monotonic()
        for number, subscriber in enumerate(subscribers):
            due = started + self._settings.drain * number / len(subscribers)
            while time.monotonic() < due and not self._stopping.is_set():
                gevent.sleep(_PAUSE)
            self._broker.end(subscriber, ending)

    def _renew_keys(self, issuer: str) -> bool:
        return self._key_sources.renew(issuer)

    def _sources(self, settings: Settings) -> KeySources:
        return KeySources(settings.issuers, Fetcher(), self._trust, time.monotonic)

    def _trust(self, issuer: Issuer) -> None:
        self._verifier.trust(issuer)
        gevent.spawn(self._end_untrusted)

    def _end_untrusted(self) -> None:
        """End the streams whose token would be refused now, for its key was taken away."""
        trusted: dict[int, bool] = {}  # by the identity of a key: those of RSA have no hash
        untrusted = []
        for subscriber in self._broker.everyone():
            key = subscriber.grant.key
            if key is not None and id(key) not in trusted:
                trusted[id(key)] = self._verifier.trusts(key, "subscribe")
            if key is not None and not trusted[id(key)]:
                untrusted.append(subscriber)
        self._end(untrusted, Ending(Reason.KEY_IS_GONE))

    def _note_figures(self) -> None:
        self._broker.sample()
        try:
            self._figures.write(time.time())
        except OSError as error:  # no descriptor is left, say
            if not self._lacks_figures:
                _log.error("what the system says of this process cannot be read: %s", error.strerror)
            self._lacks_figures = True
        else:
            self._lacks_figures = False

    def _keep_noting(self) -> None:
        while True:
            self._note_figures()
            gevent.sleep(_FIGURES)

    def close(self) -> None:
        """Accept no more, answer what has begun, end the streams, write what is queued."""
        if self._serves.is_set():  # of one that could not start, the reason is what counts
            _log.info("the hub stops")
        if self._successor is not None:
            self._successor.abandon()
        if self._rotating is not None:
            self._rotating.kill()
        self._broker.is_draining = True
        self._listener.stop()
        if self._watched is not None:
            self._watched.stop()
        if self._noting is not None:
            self._noting.kill()
        self._key_sources.close()
        self._broker.end_replays(Ending(Reason.HUB_STOPS))
        self._listener.drain(_DRAIN)
        self._broker.drain(_DRAIN)
        self._broker.close()
        for bell in self._own_bells:
            os.close(bell)


def _rotate(rotation: Rotation) -> None:
    while True:
        gevent.sleep(ROTATION_INTERVAL)
        rotation.check(time.time())


def _wait_to_read(descriptor: int) -> bool:
    return is_ready(descriptor, READ, _START)


def _hub(
    settings: Settings,
    broker: Broker,
    verifier: TokenVerifier,
    renew_keys: Callable[[str], bool],
    note_figures: Callable[[], None],
) -> Hub:
    return Hub(
        broker=broker,
        gatekeeper=Gatekeeper(
            verifier,
            time.time,
            settings.protocol,
            settings.cookie_name,
            settings.anonymous,
            frozenset(settings.publish_origins),
            tuple(one.identifier for one in settings.issuers if one.is_authorization_server),
            renew_keys,
        ),
        protocol=settings.protocol,
        subscriptions=settings.subscriptions,
        cors_origins=frozenset(settings.cors_origins),
        lifetime=settings.write_timeout,
        max_heavy_patterns=settings.max_heavy_patterns,
        limits=PublicationLimits(),
        compression=broker.compresses,
        websocket=settings.websocket,
        metrics=settings.metrics,
        note_figures=note_figures,
        debugger=_debugger(settings) if settings.debugger else None,
    )


def _debugger(settings: Settings) -> Pages:
    known = features(
        subscriptions=settings.subscriptions,
        protocol=settings.protocol,
        anonymous=settings.anonymous,
        playground=settings.playground,
    )
    return Pages(known, token_for(settings.protocol, time.time)) if settings.playground else Pages(known)


def _compress_from(settings: Settings) -> int | None:
    if settings.compression == "off":
        return None
    if not encoding.is_available():
        _log.warning(
            "MERCURE_COMPRESSION=%s has no effect, for backports.zstd is missing: pip install backports.zstd",
            settings.compression,
        )
        return None
    return _COMPRESS_FROM


def _raise_descriptor_limit() -> int:
    """Take as many descriptors as the system lets us have: each subscriber is one.

    :returns: how many there are.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _MANY_DESCRIPTORS if hard == resource.RLIM_INFINITY else hard
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        soft = most
    return _MANY_DESCRIPTORS if soft == resource.RLIM_INFINITY else soft


def serve_alone(settings: Settings, announce: Callable[[str], None], reread: Callable[[], Settings]) -> None:
    """Run a hub in this process until it is told to stop.

    :param announce: called with the hub's URL once it accepts connections.
    :param reread: the settings as they are now.
    :raises SettingError: the hub cannot start.
    :raises StorageError: the log cannot be opened.
    """
    process = Process(settings)
    gc.freeze()  # what is loaded now stays: never look at it again
    settle()
    process.run(announce, reread)


def settle() -> None:
    """Tune the interpreter for a process that serves."""
    gc.set_threshold(20_000, 20, 50)
    sys.setswitchinterval(0.001)  # the log's writer needs the interpreter for moments, and soon
