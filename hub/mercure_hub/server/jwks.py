"""The keys that issuers publish as a JWK set at a URL: when they are fetched, and how.

They are fetched at the start, before they expire, and when a token names an unknown key. A set is used until
it has been replaced. If its URL no longer answers, its keys are trusted for another ``_GRACE`` seconds.
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

_EARLY = 0.8  # part of its lifetime after which a set is renewed
_GRACE = 86400.0
_LAST_RETRY = 300.0
_BETWEEN = 30.0  # seconds between two fetches that tokens cause: junk must not make us a nuisance
_DEADLINE = 10.0
_CONNECT = 3.0  # seconds for one of several addresses
_MAX_SIZE = 256 << 10
_MAX_LOOKUPS = 3  # threads of gevent's pool that a silent name server can hold

_log = logging.getLogger("mercure_hub.keys")

Address = tuple[socket.AddressFamily, Any]
Resolve = Callable[[str, int], Sequence[Address]]
Fetch = Callable[[RemoteKeys], "Fetched"]
Trust = Callable[[Issuer], None]


@dataclass(frozen=True, slots=True)
class KeyTimes:
    """When key sets are fetched, in seconds.

    :param tick: between two looks at whether a set is due.
    :param first_retry: after a fetch failed; each further attempt waits twice as long.
    :param patience: for which a token with an unknown key waits for a fetch.
    """

    tick: float = 1.0
    first_retry: float = 10.0
    patience: float = 5.0


class KeySource:
    """The JWK set of one issuer.

    :param issuer: with its configured keys.
    :param remote: where its set is.
    :param fetch: fetches it; waits cooperatively.
    :param trust: called with the issuer and all its keys when they have changed.
    :param clock: monotonic time in seconds.
    :param times: when to fetch.
    """

    def __init__(
        self,
        issuer: Issuer,
        remote: RemoteKeys,
        fetch: Fetch,
        trust: Trust,
        clock: Callable[[], float],
        *,
        times: KeyTimes,
    ) -> None:
        self._issuer = issuer
        self._remote = remote
        self._fetch = fetch
        self._trust = trust
        self._clock = clock
        self._times = times
        self._keys: tuple[Key, ...] = ()
        self._due = self._asked = float("-inf")
        self._ends = float("inf")
        self._failures = 0
        self._fetching: gevent.Greenlet | None = None
        url = urlsplit(remote.url)._replace(query="").geturl()  # a query may hold a password
        self._name = f"the keys of {issuer.identifier!r} at {url}"

    def adopt(self, before: KeySource) -> None:
        """Use the keys of the source that this one replaces until they are fetched again."""
        if before._remote == self._remote and before._keys:
            self._ends = before._ends
            self._set(before._keys)

    def tick(self) -> None:
        """Fetch when it is time to, and drop keys that could not be renewed for too long."""
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
        """Fetch for a token whose key is unknown, unless it is too early, and wait for the result.

        :returns: the keys have changed.
        """
        before = self._keys
        fetching = self._fetching
        if fetching is None:
            now = self._clock()
            if now - self._asked < _BETWEEN:
                return False
            self._asked = now
            fetching = self._start()
        fetching.join(self._times.patience)
        return self._keys is not before

    def close(self) -> None:
        """Cancel a fetch that has begun, and begin no other."""
        self._asked = self._due = float("inf")
        if self._fetching is not None:
            self._fetching.kill()

    def _start(self) -> gevent.Greenlet:
        self._fetching = gevent.spawn(self._run)
        return self._fetching

    def _run(self) -> None:
        try:
            fetched = self._fetch(self._remote)
            key_set = jwk_set.parse(fetched.body, self._remote.algorithms, is_public=True)
        except (FetchError, KeyMaterialError) as error:
            self._failed(str(error))
        except Exception:
            _log.exception("fetching keys failed; this is a defect of the hub")
            self._failed("a defect of the hub")
        else:
            self._succeeded(key_set, fetched.lifetime)
        finally:
            self._fetching = None

    def _succeeded(self, key_set: jwk_set.KeySet, lifetime: float) -> None:
        now = self._clock()
        self._failures = 0
        self._due = now + lifetime * _EARLY
        self._ends = now + lifetime + _GRACE
        for reason in key_set.refused:
            _log.warning("%s: %s", self._name, reason)
        if not key_set.keys:
            _log.error("%s: none of them can be used, so what they sign is refused", self._name)
        if key_set.keys != self._keys:
            _log.info("%s are new: %d, good for %.0f s", self._name, len(key_set.keys), lifetime)
            self._set(key_set.keys)

    def _failed(self, reason: str) -> None:
        delay = min(self._times.first_retry * 2.0**self._failures, _LAST_RETRY)
        self._failures = min(self._failures + 1, 10)
        self._due = self._clock() + delay
        what = "the ones from before go on" if self._keys else "what they sign is refused"
        _log.warning("%s cannot be fetched: %s; %s, next attempt in %.0f s", self._name, reason, what, delay)

    def _set(self, keys: tuple[Key, ...]) -> None:
        self._keys = keys
        self._trust(self._issuer.with_keys(keys))


class KeySources:
    """The JWK sets of all issuers that publish one at a URL.

    :param issuers: the trusted issuers.
    :param fetch: fetches a set; waits cooperatively.
    :param trust: called with an issuer and all its keys when they have changed.
    :param clock: monotonic time in seconds.
    :param times: when to fetch.
    """

    def __init__(
        self,
        issuers: Sequence[Issuer],
        fetch: Fetch,
        trust: Trust,
        clock: Callable[[], float],
        times: KeyTimes | None = None,
    ) -> None:
        self._fetch = fetch
        self._trust = trust
        self._clock = clock
        self._times = times or KeyTimes()
        self._sources = self._sources_of(issuers)
        self._greenlet: gevent.Greenlet | None = None

    def _sources_of(self, issuers: Sequence[Issuer]) -> dict[str, KeySource]:
        return {
            issuer.identifier: KeySource(
                issuer, issuer.remote, self._fetch, self._trust, self._clock, times=self._times
            )
            for issuer in issuers
            if issuer.remote is not None
        }

    def start(self) -> None:
        """Begin to fetch, in the background: a hub starts even if no issuer answers."""
        if self._sources:
            self._greenlet = gevent.spawn(self._run)

    def replace(self, issuers: Sequence[Issuer], fetch: Fetch) -> None:
        """Go on with other issuers after ``close``.

        Keys that were fetched before stay in use until they are fetched again: an issuer may be down now.

        :param fetch: a new one, which reads the certificates that the system trusts now.
        """
        self._fetch = fetch
        before, self._sources = self._sources, self._sources_of(issuers)
        for identifier, source in self._sources.items():
            if identifier in before:
                source.adopt(before[identifier])
        self.start()

    def renew(self, identifier: str) -> bool:
        """Fetch an issuer's keys for a token whose key is unknown, and wait for the result.

        :param identifier: of the issuer.
        :returns: its keys have changed.
        """
        source = self._sources.get(identifier)
        return source is not None and source.renew()

    def close(self) -> None:
        """Stop fetching."""
        if self._greenlet is not None:
            self._greenlet.kill()
        for source in self._sources.values():
            source.close()

    def _run(self) -> None:
        while True:
            for source in self._sources.values():
                source.tick()
            gevent.sleep(self._times.tick)


class FetchError(Exception):
    """A JWK set could not be fetched; the message says why, and quotes nothing of the answer."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """The answer to a fetch.

    :param body: should be a JWK set.
    :param lifetime: seconds for which it may be used.
    """

    body: bytes
    lifetime: float


class Fetcher:
    """Fetches JWK sets, and trusts nothing on the way.

    A fetch is one GET over TLS, without redirects or proxies, bounded in bytes and seconds. It connects to
    the address that was checked, so a name cannot lead into a private network, even if it resolves to
    something else the next time. All waiting is cooperative.

    :param tls: context with the trusted certificates; by default those of the system.
    :param resolve: returns the addresses of a host.
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
        """Fetch the set of an issuer.

        :raises FetchError: it cannot be fetched.
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
        # The lookup runs in a thread, which outlives the deadline if the name server is silent.
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
        raise FetchError(f"the answer is over {_MAX_SIZE} bytes")
    return Fetched(body, lifetime(response.getheader("Cache-Control", ""), response.getheader("Age", "")))


def _resolve(host: str, port: int) -> Sequence[Address]:
    addresses = gevent.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [(family, address) for family, _, _, _, address in addresses]


def _outcome(resolve: Resolve, host: str, port: int) -> Sequence[Address] | Exception:
    """The addresses, or the error as a value: gevent would print a raised one."""
    try:
        return resolve(host, port)
    except (OSError, ValueError) as error:
        return error
    except RuntimeError as error:  # no thread can be started
        return OSError(errno.EAGAIN, str(error))


def _connected(addresses: Sequence[Address]) -> Any:
    """A connection to the first address that accepts one."""
    failure = OSError("its host has no address")
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
            reason = "its host is not a valid host name"
        case TimeoutError():
            reason = f"no connection within {_CONNECT:g} s"
        case http.client.HTTPException() | ValueError():
            reason = "the answer is not HTTP"
        case _:
            reason = getattr(error, "strerror", None) or type(error).__name__
    return reason
