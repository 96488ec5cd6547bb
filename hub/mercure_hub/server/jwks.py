"""The keys that issuers publish by URL: fetched at the start, before they end, and when one is unknown.

A set is used until it has been replaced. When its URL stops to answer, the keys go on for ``_GRACE``
seconds after they should have been renewed; then nobody vouches for them any more.
"""

from __future__ import annotations

import errno
import http.client
import logging
import socket
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import gevent
import gevent.pool
import gevent.socket
import gevent.ssl

from mercure_hub import __version__
from mercure_hub.config.issuers import ALLOW
from mercure_hub.protocol.errors import KeyMaterialError
from mercure_hub.protocol.hosts import is_loopback, is_public
from mercure_hub.protocol.tokens import jwk_set
from mercure_hub.protocol.tokens.issuer import Issuer, RemoteKeys
from mercure_hub.protocol.tokens.jwk_set import lifetime
from mercure_hub.protocol.tokens.keys import Key

_DEADLINE = 10.0
_CONNECT = 3.0  # for one address of several
_MAX_SIZE = 256 << 10
_MAX_LOOKUPS = 3  # threads of gevent's pool that a silent name server can hold

Address = tuple[socket.AddressFamily, Any]
Resolve = Callable[[str, int], Sequence[Address]]


class FetchError(Exception):
    """There is no JWK set at the URL now; the message says why, and repeats nothing of the answer."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """The answer to a fetch.

    :param body: what should be a JWK set.
    :param lifetime: seconds for which it is good.
    """

    body: bytes
    lifetime: float


class Fetcher:
    """Fetches JWK sets.

    :param tls: context with the trusted certificates; by default those of the system.
    :param resolve: finds the addresses of a host.
    :param deadline: seconds for a fetch.
    """

    def __init__(
        self, tls: ssl.SSLContext | None = None, resolve: Resolve | None = None, deadline: float = _DEADLINE
    ) -> None:
        self._tls = tls
        self._resolve = resolve or _resolve
        self._deadline = deadline
        self._lookups = gevent.pool.Pool(_MAX_LOOKUPS)

    def __call__(self, remote: RemoteKeys) -> Fetched:
        """Get the set of an issuer.

        :raises FetchError: it cannot be had.
        """
        late = FetchError(f"it did not arrive within {self._deadline:g} s")
        try:
            with gevent.Timeout(self._deadline, late):
                return self._get(remote)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise FetchError(_reason(error)) from None

    def _get(self, remote: RemoteKeys) -> Fetched:
        parts = urlsplit(remote.url)
        host = parts.hostname or ""
        is_tls = parts.scheme == "https"
        port = parts.port or (443 if is_tls else 80)
        connection = http.client.HTTPConnection(host, port)
        try:
            connection.sock = self._connect(host, port, is_tls, allow_private=remote.allow_private)
            connection.auto_open = 0
            target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            fields = {
                "Host": parts.netloc,
                "Accept": "application/jwk-set+json, application/json",
                "User-Agent": f"mercure-hub/{__version__}",
                "Connection": "close",
            }
            connection.request("GET", target, headers=fields)
            with connection.getresponse() as response:
                return _fetched(response)
        finally:
            connection.close()

    def _connect(self, host: str, port: int, is_tls: bool, *, allow_private: bool) -> Any:
        # The look-up runs in a thread, which outlives the deadline if the name server is silent.
        addresses = self._lookups.spawn(_outcome, self._resolve, host, port).get()
        if isinstance(addresses, Exception):
            raise addresses
        permitted = [
            (family, address)
            for family, address in addresses
            if (allow_private or is_public(address[0])) and (is_tls or is_loopback(address[0]))
        ]
        if not permitted:
            raise FetchError(
                f"its host has only private addresses; permit it with {ALLOW}"
                if is_tls
                else "its host is not this one, and plain HTTP goes no further"
            )
        sock = _connected(permitted)
        try:
            return self._context().wrap_socket(sock, server_hostname=host) if is_tls else sock
        except BaseException:
            sock.close()
            raise

    def _context(self) -> ssl.SSLContext:
        if self._tls is None:
            self._tls = gevent.ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            self._tls.minimum_version = ssl.TLSVersion.TLSv1_2
            self._tls.load_default_certs()
        return self._tls


def _fetched(response: http.client.HTTPResponse) -> Fetched:
    if response.status != 200:
        hint = ", and redirects are not followed" if 300 <= response.status < 400 else ""
        raise FetchError(f"the answer has the status {response.status}{hint}")
    body = response.read(_MAX_SIZE + 1)
    if len(body) > _MAX_SIZE:
        raise FetchError(f"the answer is over {_MAX_SIZE} octets")
    return Fetched(body, lifetime(response.getheader("Cache-Control", ""), response.getheader("Age", "")))


def _resolve(host: str, port: int) -> Sequence[Address]:
    found = gevent.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [(family, address) for family, _, _, _, address in found]


def _outcome(resolve: Resolve, host: str, port: int) -> Sequence[Address] | Exception:
    """Addresses or the error, as a value: gevent would print an exception."""
    try:
        return resolve(host, port)
    except (OSError, ValueError) as error:
        return error
    except RuntimeError as error:  # no thread can be started
        return OSError(errno.EAGAIN, str(error))


def _connected(addresses: Sequence[Address]) -> Any:
    """A connection to the first address that accepts one."""
    failure = OSError("it has no address")
    for family, address in addresses:
        sock = gevent.socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.settimeout(_CONNECT)
            sock.connect(address)
            sock.settimeout(None)
        except OSError as error:
            sock.close()
            failure = error
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    raise failure


def _reason(error: Exception) -> str:
    match error:
        case ssl.SSLCertVerificationError():
            reason = f"its certificate is not trusted: {error.verify_message}"
        case ssl.SSLError():
            reason = f"TLS failed: {error.reason}"
        case socket.gaierror():
            reason = f"its host is not found: {error.strerror}"
        case UnicodeError():
            reason = "its host is no host name"
        case TimeoutError():
            reason = f"no connection within {_CONNECT:g} s"
        case http.client.HTTPException() | ValueError():
            reason = "the answer is not HTTP"
        case _:
            reason = getattr(error, "strerror", None) or type(error).__name__
    return reason


_TICK = 1.0
_EARLY = 0.8  # of its lifetime: when a set is renewed
_GRACE = 86400.0
_FIRST_RETRY, _LAST_RETRY = 10.0, 300.0
_PAUSE = 30.0  # seconds between two fetches that tokens cause: junk must not make us a nuisance
_PATIENCE = 5.0  # seconds that a token waits for a fetch

_log = logging.getLogger("mercure_hub.keys")

Fetch = Callable[[RemoteKeys], Fetched]
Trust = Callable[[Issuer], None]


class KeySource:
    """The JWK set of one issuer.

    :param issuer: with the keys of its own.
    :param remote: where its set is.
    :param fetch: gets it; waits cooperatively.
    :param trust: is given the issuer with all its keys when they have changed.
    :param clock: monotonic time in seconds.
    """

    def __init__(
        self, issuer: Issuer, remote: RemoteKeys, fetch: Fetch, trust: Trust, clock: Callable[[], float]
    ) -> None:
        self._issuer = issuer
        self._remote = remote
        self._fetch = fetch
        self._trust = trust
        self._clock = clock
        self._keys: tuple[Key, ...] = ()
        self._due = self._asked = float("-inf")
        self._ends = float("inf")
        self._failures = 0
        self._fetching: gevent.Greenlet | None = None
        place = urlsplit(remote.url)._replace(query="").geturl()  # a query may hold a password
        self._name = f"the keys of {issuer.identifier!r} at {place}"

    def adopt(self, before: KeySource) -> None:
        """Go on with the keys of a source that this one takes the place of, until they are fetched anew."""
        if before._remote == self._remote and before._keys:
            self._ends = before._ends
            self._set(before._keys)

    def tick(self) -> None:
        """Fetch when it is time to, and give up keys that could not be renewed for too long."""
        now = self._clock()
        if now >= self._ends:
            _log.error(
                "%s could not be renewed for too long: what they sign is refused from now on", self._name
            )
            self._ends = float("inf")
            self._set(())
        if self._fetching is None and now >= self._due:
            self._start()

    def renew(self) -> bool:
        """Fetch for a token whose key is not known, and wait until that has ended; or it is too early.

        :returns: the keys are other ones now.
        """
        before = self._keys
        fetching = self._fetching
        if fetching is None:
            now = self._clock()
            if now - self._asked < _PAUSE:
                return False
            self._asked = now
            fetching = self._start()
        fetching.join(_PATIENCE)
        return self._keys is not before

    def close(self) -> None:
        """End a fetch that is under way, and begin no other."""
        self._asked = self._due = float("inf")
        if self._fetching is not None:
            self._fetching.kill()

    def _start(self) -> gevent.Greenlet:
        self._fetching = gevent.spawn(self._run)
        return self._fetching

    def _run(self) -> None:
        try:
            fetched = self._fetch(self._remote)
            found = jwk_set.parse(fetched.body, self._remote.algorithms, is_public=True)
        except (FetchError, KeyMaterialError) as error:
            self._failed(str(error))
        except Exception:
            _log.exception("fetching keys failed; this is a defect of the hub")
            self._failed("a defect of the hub")
        else:
            self._succeeded(found, fetched.lifetime)
        finally:
            self._fetching = None

    def _succeeded(self, found: jwk_set.KeySet, lifetime: float) -> None:
        now = self._clock()
        self._failures = 0
        self._due = now + lifetime * _EARLY
        self._ends = now + lifetime + _GRACE
        for reason in found.refused:
            _log.warning("%s: %s", self._name, reason)
        if not found.keys:
            _log.error("%s: none of them can be used, so what they sign is refused", self._name)
        if found.keys != self._keys:
            _log.info("%s are new: %d, good for %.0f s", self._name, len(found.keys), lifetime)
            self._set(found.keys)

    def _failed(self, reason: str) -> None:
        delay = min(_FIRST_RETRY * 2.0**self._failures, _LAST_RETRY)
        self._failures = min(self._failures + 1, 10)
        self._due = self._clock() + delay
        what = "the ones from before go on" if self._keys else "what they sign is refused"
        _log.warning("%s cannot be fetched: %s; %s, next attempt in %.0f s", self._name, reason, what, delay)

    def _set(self, keys: tuple[Key, ...]) -> None:
        self._keys = keys
        self._trust(self._issuer.with_keys(keys))


class KeySources:
    """The JWK sets of all issuers that have one at a URL.

    :param issuers: those that the hub trusts.
    :param fetch: see ``KeySource``.
    :param trust: see there.
    :param clock: see there.
    """

    def __init__(
        self, issuers: Sequence[Issuer], fetch: Fetch, trust: Trust, clock: Callable[[], float]
    ) -> None:
        self._sources = {
            issuer.identifier: KeySource(issuer, issuer.remote, fetch, trust, clock)
            for issuer in issuers
            if issuer.remote is not None
        }
        self._greenlet: gevent.Greenlet | None = None

    def adopt(self, before: KeySources) -> None:
        """Go on with the keys that were fetched before a reload: an issuer may be down at the moment."""
        for identifier, source in self._sources.items():
            if identifier in before._sources:
                source.adopt(before._sources[identifier])

    def start(self) -> None:
        """Begin to fetch, in the background: a hub whose issuers do not answer starts all the same."""
        if self._sources:
            self._greenlet = gevent.spawn(self._run)

    def renew(self, identifier: str) -> bool:
        """Have an issuer's keys fetched, for a token whose key is not known; waits for it.

        :param identifier: of the issuer.
        :returns: it has other keys now.
        """
        source = self._sources.get(identifier)
        return source is not None and source.renew()

    def close(self) -> None:
        """Fetch no more."""
        if self._greenlet is not None:
            self._greenlet.kill()
        for source in self._sources.values():
            source.close()

    def _run(self) -> None:
        while True:
            for source in self._sources.values():
                source.tick()
            gevent.sleep(_TICK)
