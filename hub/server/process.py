"""The hub as a process: puts the parts together, serves until a signal, ends in order."""

from __future__ import annotations

import gc
import logging
import resource
import signal
import socket
import ssl
import sys
import time
from collections.abc import Callable

import gevent
from gevent.event import Event
from gevent.hub import Waiter

from hub.broker import Broker
from hub.endpoints.authorization import Gatekeeper
from hub.endpoints.hub import Hub
from hub.fanout import compression
from hub.fanout.engine import EngineLimits
from hub.fanout.quota import ConnectionLimits, Quota
from hub.protocol.access_token import TokenVerifier
from hub.protocol.update import PublicationLimits
from hub.server.access_log import AccessLog
from hub.server.address import Addressing
from hub.server.connection import Site
from hub.server.fetch import Fetcher
from hub.server.jwks import KeySources
from hub.server.listener import Listener, bind
from hub.settings import SettingError, Settings
from hub.transport.sqlalchemy import Retention, SqlTransport

_OTHER_DESCRIPTORS = 64  # for publishers, the log and files
_MANY_DESCRIPTORS = 1 << 20
_DRAIN = 3.0  # seconds for requests under way when the hub is told to stop

_log = logging.getLogger("hub.server")


class Process:
    """A hub that serves.

    :param settings: checked settings.
    :raises SettingError: an address, a certificate or the database cannot be used.
    """

    def __init__(self, settings: Settings) -> None:
        tls = _tls_context(settings)
        self._scheme = "http" if tls is None else "https"
        self._stopping = Event()
        self._listening = _bind(settings)
        transport: SqlTransport[Waiter | None] = SqlTransport(
            settings.transport_url, Retention(settings.history_size, settings.history_max_age), time.time
        )
        self._broker = Broker(
            transport,
            EngineLimits(
                settings.heartbeat, settings.dispatch_timeout, compress_from=_compress_from(settings)
            ),
            time.monotonic,
            Quota(
                ConnectionLimits(
                    settings.max_connections or _raise_descriptor_limit() - _OTHER_DESCRIPTORS,
                    settings.max_connections_per_address,
                    settings.max_connections_per_token,
                )
            ),
            subscriptions=settings.subscriptions,
        )
        verifier = TokenVerifier(settings.issuers(), settings.protocol)
        self._key_sources = KeySources(settings.issuers(), Fetcher(), verifier.trust, time.monotonic)
        site = Site(
            hub=_hub(settings, self._broker, verifier, self._key_sources),
            addressing=Addressing(
                self._scheme,
                settings.public_url,
                settings.allowed_urls,
                settings.trusted_proxies,
            ),
            access_log=AccessLog(),
            max_body=settings.max_request_body_size,
            tls=tls,
            replay_timeout=settings.dispatch_timeout or 600.0,
        )
        self._listener = Listener(site, self._listening)

    @property
    def address(self) -> tuple[str, int]:
        """Address and port that the hub listens on."""
        host, port = self._listening.getsockname()[:2]
        return str(host), int(port)

    @property
    def url(self) -> str:
        """Scheme, address and port that the hub listens on."""
        host, port = self.address
        return f"{self._scheme}://{f'[{host}]' if ':' in host else host}:{port}"

    def run(self, announce: Callable[[str], None]) -> None:
        """Serve until SIGTERM or SIGINT.

        :param announce: called with the hub's URL once it accepts connections.
        """
        signals = (signal.SIGTERM, signal.SIGINT)
        watchers = [gevent.signal_handler(number, self.stop) for number in signals]
        try:
            self.start()
            announce(self.url)
            self.wait()
        finally:
            self.close()
            for number in signals:  # the process ends: one more signal changes nothing
                signal.signal(number, signal.SIG_IGN)
            del watchers

    def start(self) -> None:
        """Open the log and accept connections."""
        self._broker.open()
        self._key_sources.start()
        self._listener.start()

    def wait(self) -> None:
        """Serve until ``stop`` is called."""
        self._stopping.wait()

    def stop(self) -> None:
        """Have ``wait`` return."""
        self._stopping.set()

    def close(self) -> None:
        """Accept no more, answer what has begun, end the streams, write what is queued."""
        _log.info("the hub stops")
        self._listener.stop()
        self._key_sources.close()
        self._listener.drain(_DRAIN)
        self._broker.drain(_DRAIN)
        self._broker.close()


def _hub(settings: Settings, broker: Broker, verifier: TokenVerifier, key_sources: KeySources) -> Hub:
    return Hub(
        broker=broker,
        gatekeeper=Gatekeeper(
            verifier,
            time.time,
            settings.protocol,
            settings.cookie_name,
            settings.anonymous,
            frozenset(settings.publish_origins),
            tuple(one.identifier for one in settings.issuers() if one.is_authorization_server),
            key_sources.renew,
        ),
        protocol=settings.protocol,
        subscriptions=settings.subscriptions,
        cors_origins=frozenset(settings.cors_origins),
        lifetime=settings.write_timeout,
        limits=PublicationLimits(),
        compression=broker.compresses,
    )


def _compress_from(settings: Settings) -> int | None:
    if settings.compression == "off":
        return None
    if not compression.is_available():
        _log.warning(
            "MERCURE_COMPRESSION=%s has no effect, for backports.zstd is missing: pip install backports.zstd",
            settings.compression,
        )
        return None
    return settings.compression_min_size


def _bind(settings: Settings) -> socket.socket:
    host, port = settings.listen
    try:
        return bind(host, port)
    except OSError as error:
        remedy = (
            "stop what uses it, or choose another port" if error.errno == 98 else "choose another address"
        )
        raise SettingError(
            f"MERCURE_LISTEN: cannot listen on {host}:{port}: {error.strerror}; {remedy}"
        ) from None


def _tls_context(settings: Settings) -> ssl.SSLContext | None:
    if not settings.tls_cert:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    files = " and ".join(repr(path) for path in (settings.tls_cert, settings.tls_key) if path)
    try:
        # An empty passphrase: OpenSSL would ask for one on the terminal.
        context.load_cert_chain(settings.tls_cert, settings.tls_key or None, password="")
    except ssl.SSLError:
        raise SettingError(
            f"MERCURE_TLS_CERT: {files} cannot be used: something in it is not PEM, certificate and key do "
            "not belong together, or the key has a passphrase"
        ) from None
    except OSError as error:
        raise SettingError(f"MERCURE_TLS_CERT: {files} cannot be read: {error.strerror}") from None
    context.set_alpn_protocols(["http/1.1"])
    return context


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


def serve(settings: Settings, announce: Callable[[str], None]) -> None:
    """Run a hub until it is told to stop.

    :param announce: called with the hub's URL once it accepts connections.
    :raises SettingError: the hub cannot start.
    """
    process = Process(settings)
    gc.freeze()  # what is loaded now stays: never look at it again
    gc.set_threshold(20_000, 20, 50)
    sys.setswitchinterval(0.001)  # the log's writer needs the interpreter for moments, and soon
    process.run(announce)
