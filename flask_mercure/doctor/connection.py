"""Connections with deadlines: the name, the socket, TLS, and why one of them failed."""

from __future__ import annotations

import os
import socket
import ssl
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

from requests.utils import DEFAULT_CA_BUNDLE_PATH
from urllib3.util.ssl_ import create_urllib3_context

_PORTS = {"http": 80, "https": 443}

Stage = Literal["name", "connect", "tls", "answer"]


class Unreachable(Exception):
    """There is no answer.

    :param stage: what did not work.
    :param reason: why, in the words of the system.
    :param code: of a certificate that was refused (OpenSSL's ``X509_V_ERR_``), else 0.
    """

    def __init__(self, stage: Stage, reason: str, code: int = 0) -> None:
        super().__init__(f"{stage}: {reason}")
        self.stage = stage
        self.reason = reason
        self.code = code


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A URL of the hub.

    :param url: checked by the configuration.
    :param setting: the key that it comes from.
    """

    url: str
    setting: str

    @property
    def scheme(self) -> str:
        """``http`` or ``https``."""
        return urlsplit(self.url).scheme

    @property
    def host(self) -> str:
        """Name or address, without brackets."""
        return urlsplit(self.url).hostname or ""

    @property
    def port(self) -> int:
        """The port, also where the URL leaves it out."""
        return urlsplit(self.url).port or _PORTS[self.scheme]

    @property
    def path(self) -> str:
        """The path."""
        return urlsplit(self.url).path

    @property
    def origin(self) -> str:
        """Scheme and authority."""
        return origin_of(self.url)

    @property
    def named(self) -> str:
        """For messages."""
        return f"{self.setting} {self.url}"


def origin_of(url: str) -> str:
    """The origin of a URL as browsers write it: host in lower case, no default port."""
    parts = urlsplit(url)
    host = (parts.hostname or "").lower()
    host = f"[{host}]" if ":" in host else host
    port = "" if parts.port in (None, _PORTS.get(parts.scheme)) else f":{parts.port}"
    return f"{parts.scheme}://{host}{port}"


def as_the_app(verify: bool | str) -> ssl.SSLContext:
    """Trust what the app trusts when it publishes: the rules of requests, with ``MERCURE_VERIFY_TLS``."""
    context = create_urllib3_context()
    if verify is False:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context
    context.verify_mode = ssl.CERT_REQUIRED
    context.check_hostname = True
    place = DEFAULT_CA_BUNDLE_PATH if verify is True else str(verify)
    if os.path.isdir(place):  # noqa: PTH112 - as requests does
        context.load_verify_locations(capath=place)
    else:
        context.load_verify_locations(cafile=place)
    return context


def as_browsers() -> ssl.SSLContext:
    """Trust what this machine trusts, which is the nearest to what browsers do."""
    return ssl.create_default_context()


def dial(
    endpoint: Endpoint, trust: ssl.SSLContext | None, deadline: float, protocols: Sequence[str] = ()
) -> socket.socket:
    """Connect, with TLS where the URL says so.

    :param trust: for https.
    :param deadline: on the monotonic clock.
    :param protocols: to offer by ALPN.
    :raises Unreachable: what did not work.
    """
    sock = _first_that_answers(endpoint, deadline)
    if endpoint.scheme == "http" or trust is None:
        return sock
    trust.set_alpn_protocols(list(protocols or ("http/1.1",)))
    try:
        sock.settimeout(time_left(deadline))
        return trust.wrap_socket(sock, server_hostname=endpoint.host)
    except ssl.SSLCertVerificationError as error:
        sock.close()
        raise Unreachable("tls", error.verify_message, error.verify_code) from None
    except ssl.SSLError as error:
        sock.close()
        raise Unreachable("tls", _ssl_words(error)) from None
    except OSError as error:
        sock.close()
        raise Unreachable("tls", words(error)) from None


def certificate(endpoint: Endpoint, deadline: float) -> bytes | None:
    """The certificate that is served, whoever signed it, in DER; nothing but the handshake is sent.

    :returns: ``None`` when it cannot be had.
    """
    context = create_urllib3_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with dial(endpoint, context, deadline) as sock:
            return sock.getpeercert(binary_form=True) if isinstance(sock, ssl.SSLSocket) else None
    except (Unreachable, OSError):
        return None


def _first_that_answers(endpoint: Endpoint, deadline: float) -> socket.socket:
    failure = "no address"
    for family, address in _addresses(endpoint, deadline):
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.settimeout(time_left(deadline))
            sock.connect(address)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError as error:
            sock.close()
            failure = words(error)
        else:
            return sock
    raise Unreachable("connect", failure)


def _addresses(endpoint: Endpoint, deadline: float) -> list[tuple[int, Any]]:
    """Ask the resolver; it has no time limit of its own, so a thread waits for it and is left behind."""
    found: list[tuple[int, Any]] = []
    failure: list[str] = []

    def ask() -> None:
        try:
            answers = socket.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM)
            found.extend((family, address) for family, _, _, _, address in answers)
        except (OSError, UnicodeError) as error:
            failure.append(words(error))

    thread = threading.Thread(target=ask, name="resolver", daemon=True)
    thread.start()
    thread.join(time_left(deadline))
    if found:
        return found
    raise Unreachable("name", failure[0] if failure else "the resolver gave no answer in time")


def time_left(deadline: float) -> float:
    """Seconds until a deadline, for a socket: never 0, which would not wait at all."""
    return max(deadline - time.monotonic(), 0.001)


def words(error: Exception) -> str:
    """Why something failed, as the system says it."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


def _ssl_words(error: ssl.SSLError) -> str:
    if error.reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST"):
        return "the server speaks no TLS on this port"
    return (error.reason or words(error)).replace("_", " ").lower()


def close(sock: socket.socket) -> None:
    """Close, whatever state it is in."""
    with suppress(OSError):
        sock.close()
