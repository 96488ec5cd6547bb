"""The composition root: builds the parts of a serving process from its settings."""

from __future__ import annotations

import contextlib
import logging
import resource
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from gevent.hub import Waiter

from mercure_hub.broker.broker import LOG, Broker
from mercure_hub.broker.replay import ReplayLimits
from mercure_hub.config.settings import Settings
from mercure_hub.endpoints.authorization import Gatekeeper, Unread
from mercure_hub.endpoints.debugger.pages import Pages, features, token_for
from mercure_hub.endpoints.hub import Hub
from mercure_hub.endpoints.routes import watch
from mercure_hub.fanout import encoding
from mercure_hub.fanout.engine import EngineLimits
from mercure_hub.fanout.quota import ConnectionLimits, Quota, Siblings
from mercure_hub.fanout.tls import TlsServer
from mercure_hub.metrics.tally import Board, Tally
from mercure_hub.protocol.tokens.access_token import TokenVerifier
from mercure_hub.protocol.tokens.issuer import Issuer
from mercure_hub.protocol.update import PublicationLimits
from mercure_hub.server.access_log import AccessLog, InfoLog
from mercure_hub.server.feeder import Feed
from mercure_hub.server.http import Addressing
from mercure_hub.server.jwks import Fetcher, KeySources, KeyTimes
from mercure_hub.server.listener import Listener
from mercure_hub.server.open_requests import OpenRequests
from mercure_hub.server.site import RequestTimes, Site, Waiting
from mercure_hub.server.sockets import listening_sockets, metrics_socket
from mercure_hub.server.tls import tls_server
from mercure_hub.storage.address import address_of
from mercure_hub.storage.doorbell import Bell, Doorbell, bells
from mercure_hub.storage.engines import link_to, shared_link_to
from mercure_hub.storage.feed.link import FedLink
from mercure_hub.storage.store import Store

_OTHER_DESCRIPTORS = 64  # for publishers, the database and files
_MANY_DESCRIPTORS = 1 << 20
_OPEN_MAX = 10_240  # what macOS allows a process, whatever its hard limit is
_COMPRESS_FROM = 256  # bytes; compressing a smaller event saves next to nothing
_OPEN_BODIES = 16  # request bodies of the largest size that must fit into the memory of open requests

_log = logging.getLogger("mercure_hub.server")


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of a process that are no settings; tests pass smaller ones.

    :param replay: page size and memory of replays.
    :param adoption_interval: seconds between two looks for subscriptions of dead processes; ``None``: 5, and
        60 with SQLite, where the successor of a dead worker looks at its start.
    :param patience: seconds for which a subscriber with a cursor waits for an engine that is away.
    :param requests: how long clients may take for a request.
    :param open_requests: bytes that connections waiting for their clients may take; ``None``: 256 MiB, and
        more if large request bodies are allowed.
    :param sampling: seconds between two samples of the process's metrics.
    :param keys: when key sets are fetched.
    """

    replay: ReplayLimits = field(default_factory=ReplayLimits)
    adoption_interval: float | None = None
    patience: float = 30.0
    requests: RequestTimes = field(default_factory=RequestTimes)
    open_requests: int | None = None
    sampling: float = 1.0
    keys: KeyTimes = field(default_factory=KeyTimes)


@dataclass(frozen=True, slots=True)
class Inherited:
    """What a worker inherits from its parent.

    :param number: its own, from 0.
    :param listening: its socket, bound to the same port as those of its siblings.
    :param doorbell: wakes the processes that read the history.
    :param siblings: the counts of their connections.
    :param parent: descriptor that becomes readable when the parent is gone.
    :param metrics: the common socket for monitoring, if there is one.
    :param tally: counts what happens in this process.
    :param clock_offset: wall clock minus time since boot, in seconds, at a moment when the clock was right.
    :param feed: what the workers read instead of the engine, if they do.
    """

    number: int
    listening: socket.socket
    doorbell: Doorbell
    siblings: Siblings
    parent: int
    metrics: socket.socket | None
    tally: Tally
    clock_offset: float
    feed: Feed | None


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of a serving process.

    :param listening: the listening socket.
    :param tls: of a hub that terminates TLS itself.
    :param broker: connects publishers, history and subscribers.
    :param tally: counts what happens.
    :param verifier: knows the trusted keys.
    :param key_sources: fetches key sets.
    :param listeners: for clients, and for monitoring if it has an address of its own.
    :param bells: to close at the end.
    """

    listening: socket.socket
    tls: TlsServer | None
    broker: Broker
    tally: Tally
    verifier: TokenVerifier
    key_sources: KeySources
    listeners: tuple[Listener, ...]
    bells: tuple[Bell, ...]


def assemble(
    settings: Settings,
    inherited: Inherited | None,
    limits: Limits,
    *,
    sample: Callable[[], None],
    on_keys: Callable[[], None],
) -> Parts:
    """Build the parts of a process; none of them works yet.

    :param inherited: from the parent of several workers; ``None`` for a process that serves alone.
    :param sample: notes the current metrics of the process.
    :param on_keys: called when other keys are trusted than before.
    :raises SettingError: an address, a certificate or the database cannot be used.
    """
    tls = tls_server(settings)
    metrics = metrics_socket(settings) if inherited is None else inherited.metrics
    listening = listening_sockets(settings, 1)[0] if inherited is None else inherited.listening
    own_bells = bells(1) if inherited is None else []
    tally = Board(1).of(0) if inherited is None else inherited.tally
    broker = _broker(settings, inherited, limits, tally, own_bells)
    verifier = TokenVerifier(
        settings.issuers,
        settings.protocol,
        knows_its_url=settings.knows_its_url,
        tells_apart=settings.max_connections_per_token > 0,
    )

    def trust(issuer: Issuer) -> None:
        verifier.trust(issuer)
        on_keys()

    key_sources = KeySources(settings.issuers, Fetcher(), trust, time.monotonic, limits.keys)
    open_requests = limits.open_requests
    if open_requests is None:
        open_requests = max(256 << 20, _OPEN_BODIES * settings.max_request_body_size)
    site = Site(
        hub=_hub(settings, broker, verifier, key_sources, sample),
        addressing=Addressing(
            "http" if tls is None else "https",
            settings.public_url,
            settings.allowed_urls,
            settings.trusted_proxies,
        ),
        access_log=AccessLog(),
        max_body=settings.max_request_body_size,
        tls=tls,
        replay_timeout=settings.dispatch_timeout or 600.0,
        open_requests=OpenRequests(open_requests, time.monotonic, _make_room),
        times=limits.requests,
    )
    listeners = [Listener(site, listening)]
    if metrics is not None:
        listeners.append(Listener(replace(site, tls=None, route=watch, any_url=True), metrics))
    if settings.metrics or metrics is not None:
        from mercure_hub.metrics import exposition  # noqa: F401, PLC0415 - now, so that the first scrape is quick
    return Parts(listening, tls, broker, tally, verifier, key_sources, tuple(listeners), tuple(own_bells))


def _make_room(one: Waiting) -> None:
    one.make_room()


def _store(settings: Settings, inherited: Inherited | None, own_bells: list[Bell]) -> Store[Waiter | None]:
    address = address_of(settings.transport_url)
    kept = settings.kept
    if inherited is None:
        return Store(link_to(address, kept, Doorbell(own_bells[0], ())))
    feed = inherited.feed
    if feed is None:
        return Store(link_to(address, kept, inherited.doorbell, offset=inherited.clock_offset))
    engine = shared_link_to(address, kept, follows=False)
    reads_copy = not kept.rules
    fed = FedLink(engine, inherited.number, feed.path, feed.state, inherited.doorbell, reads_copy=reads_copy)
    return Store(fed, fed)


def _broker(
    settings: Settings, inherited: Inherited | None, limits: Limits, tally: Tally, own_bells: list[Bell]
) -> Broker:
    broker = Broker(
        _store(settings, inherited, own_bells),
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
            None if inherited is None else inherited.siblings,
        ),
        subscriptions=settings.subscriptions,
        tally=tally,
        replay_limits=limits.replay,
        adoption_interval=limits.adoption_interval
        or (5.0 if address_of(settings.transport_url).is_shared else 60.0),
        spread=settings.drain,
        patience=limits.patience,
        log_end=InfoLog(LOG).info,
        revokes=settings.revocations,
    )
    if settings.debugger:
        broker.engine.unread = Unread().tell
    broker.sample()  # before the start is counted: a worker that died has left its numbers there
    return broker


def _hub(
    settings: Settings,
    broker: Broker,
    verifier: TokenVerifier,
    key_sources: KeySources,
    sample: Callable[[], None],
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
            key_sources.renew,
            *(() if broker.revocations is None else (broker.revocations.refuses,)),
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
        note_metrics=sample,
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
            "MERCURE_COMPRESSION=%s has no effect: backports.zstd is missing; pip install backports.zstd",
            settings.compression,
        )
        return None
    return _COMPRESS_FROM


def _raise_descriptor_limit() -> int:
    """Allow as many descriptors as the system permits: each subscriber takes one.

    :returns: how many there are.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _MANY_DESCRIPTORS if hard == resource.RLIM_INFINITY else hard
    for wanted in (most, min(most, _OPEN_MAX)):
        if soft == resource.RLIM_INFINITY or soft >= wanted:
            break
        with contextlib.suppress(OSError, ValueError):  # the limit of macOS is less than it says
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
    return _MANY_DESCRIPTORS if soft == resource.RLIM_INFINITY else soft
