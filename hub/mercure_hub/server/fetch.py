"""Gets a JWK set by URL, and trusts nothing on the way.

One GET, over TLS: no redirect, no proxy, no more than ``_MAX_SIZE`` octets and ``_DEADLINE`` seconds.
The address that is checked is the one that is connected to, so a name cannot lead into a private
network, not even one that resolves differently the next time. All waiting is cooperative.
"""

from __future__ import annotations

import errno
import http.client
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
from mercure_hub.protocol.addresses import is_loopback, is_public
from mercure_hub.protocol.issuer import RemoteKeys
from mercure_hub.protocol.jwk_set import lifetime

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
