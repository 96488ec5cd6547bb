"""One request and its answer on a socket of its own: HTTP/1.1 (RFC 9112), parsed by h11.

``requests`` cannot do what is needed here: stop waiting for the next bytes and wait again later, be woken by
another thread (both for subscribers), or show each step of a connection by itself (for the doctor).
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import SplitResult, quote, urlsplit

import h11
from requests.utils import DEFAULT_CA_BUNDLE_PATH
from urllib3.exceptions import NewConnectionError
from urllib3.exceptions import TimeoutError as Urllib3TimeoutError
from urllib3.util.ssl_ import create_urllib3_context
from werkzeug.datastructures import Headers

_MAX_HEAD = 65536
_PIECE = 65536
_KEPT_IN_TARGETS = "/?%:@!$&'()*+,;=~-._"


class ConnectionBroken(OSError):
    """The connection was lost in the middle of an answer, or what came breaks the rules of HTTP/1.1."""


class NotHTTP(ConnectionBroken):
    """What answers there does not speak HTTP/1.1."""


def describe(error: BaseException) -> str:
    """Why a connection failed, as the system says it: the innermost cause of an error of any library."""
    while (cause := _cause_of(error)) is not None:
        error = cause
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate verify failed: {error.verify_message}".rstrip(".")
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.replace("_", " ").lower()
    if isinstance(error, TimeoutError):
        return "timed out"
    words = error.strerror if isinstance(error, OSError) else None
    return (words or str(error) or type(error).__name__).strip().rstrip(".")


def has_timed_out(error: BaseException | None) -> bool:
    """Whether a time limit is the innermost cause of an error of any library."""
    while error is not None:
        if isinstance(error, TimeoutError):
            return True
        error = _cause_of(error)
    return False


def _cause_of(error: BaseException) -> BaseException | None:
    """The error that urllib3 or requests has wrapped."""
    wrapped = [error.__cause__, getattr(error, "reason", None), *error.args]
    if isinstance(error, Urllib3TimeoutError | NewConnectionError):
        # urllib3 1 raises these without "from". For others, the context may be an error of the app's.
        wrapped.append(error.__context__)
    return next((one for one in wrapped if isinstance(one, BaseException) and one is not error), None)


def tls_context(verify: bool | str) -> ssl.SSLContext:
    """The rules of TLS with which everything here connects to a hub: those of requests.

    :param verify: check the certificate: True, False, or the path of a CA file or folder.
    :raises OSError: the path cannot be read as certificates.
    """
    context = create_urllib3_context()
    if verify is False:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context
    context.verify_mode = ssl.CERT_REQUIRED
    context.check_hostname = True
    authorities = DEFAULT_CA_BUNDLE_PATH if verify is True else verify
    if Path(authorities).is_dir():
        context.load_verify_locations(capath=authorities)
    else:
        context.load_verify_locations(cafile=authorities)
    return context


@dataclass(frozen=True, slots=True)
class Head:
    """Status and headers of an answer.

    :param status: status code.
    :param headers: in their order; values are ISO 8859-1, as they came.
    """

    status: int
    headers: Headers

    @property
    def media_type(self) -> str:
        """``Content-Type`` without parameters, in lower case."""
        return self.headers.get("Content-Type", "").partition(";")[0].strip().lower()

    @property
    def date(self) -> float | None:
        """The ``Date``, in seconds since the epoch."""
        try:
            return parsedate_to_datetime(self.headers.get("Date", "")).timestamp()
        except ValueError:
            return None


class Exchange:
    """A request and its answer, without a socket.

    :param method: of the request.
    :param url: http or https.
    :param headers: besides ``Host`` and ``Content-Length``; sent as UTF-8.
    :param content: of the request.
    :raises ValueError: a header holds a character that HTTP does not allow.

    ``request`` is to be sent. ``head`` is ``None`` until it has arrived. ``is_complete`` tells whether the
    answer has ended, and ``error`` why it cannot be read to its end.
    """

    def __init__(self, method: str, url: str, headers: Mapping[str, str], content: bytes = b"") -> None:
        parts = urlsplit(url)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        fields = {"Host": parts.netloc.rpartition("@")[2], **headers}
        if content or method == "POST":
            fields["Content-Length"] = str(len(content))
        self.head: Head | None = None
        self.is_complete = False
        self.error: ConnectionBroken | None = None
        self._parser = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MAX_HEAD)
        try:
            head = h11.Request(
                method=method,
                target=quote(target, safe=_KEPT_IN_TARGETS),
                headers=[(name.encode(), value.strip(" \t").encode()) for name, value in fields.items()],
            )
        except h11.LocalProtocolError:  # its text has the value, which may be a token
            head = None
        if head is None:
            raise ValueError(
                "a header of the request holds a line end or another character that HTTP forbids"
            )
        sent = [self._parser.send(head)]
        if content:
            sent.append(self._parser.send(h11.Data(data=content)))
        sent.append(self._parser.send(h11.EndOfMessage()))
        self.request = b"".join(piece for piece in sent if piece)

    @property
    def is_over(self) -> bool:
        """Whether nothing more can be read."""
        return self.is_complete or self.error is not None

    def feed(self, received: bytes) -> bytes:
        """Take what arrived, cut anywhere; nothing says that the connection has ended.

        :returns: what it holds of the content of the answer.
        """
        content: list[bytes] = []
        try:
            self._parser.receive_data(received)
            while not self.is_complete:
                event = self._parser.next_event()
                if isinstance(event, h11.Data):
                    content.append(bytes(event.data))
                elif isinstance(event, h11.Response):
                    fields = [(name.decode(), value.decode("latin-1")) for name, value in event.headers]
                    self.head = Head(event.status_code, Headers(fields))
                elif isinstance(event, h11.EndOfMessage):
                    self.is_complete = True
                elif not isinstance(event, h11.InformationalResponse):
                    break
        except h11.RemoteProtocolError as error:
            self.error = self._broken(error, has_ended=not received)
        else:
            if not received and not self.is_complete:
                self.error = self._broken(None, has_ended=True)
        return b"".join(content)

    def _broken(self, error: h11.RemoteProtocolError | None, *, has_ended: bool) -> ConnectionBroken:
        if has_ended:
            if self.head is None:
                return ConnectionBroken("the server closed the connection without an answer")
            return ConnectionBroken("the connection ended in the middle of the answer")
        if self.head is None:
            return NotHTTP("what answers there is not HTTP/1.1")
        return ConnectionBroken(f"the answer breaks the rules of HTTP/1.1: {error}")


def receive_head(sock: socket.socket, exchange: Exchange, deadline: float) -> tuple[Head, bytes]:
    """Wait for the head of an answer, passing over interim ones.

    :param sock: on which the request was sent.
    :param deadline: on the monotonic clock.
    :returns: the head, and what came with it of the content.
    :raises TimeoutError: it did not come in time, however much came.
    :raises OSError: the connection was lost, or something else came.
    """
    content = b""
    while exchange.head is None:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("no complete answer in time")
        sock.settimeout(left)
        content = exchange.feed(sock.recv(_PIECE))
        if exchange.error is not None and exchange.head is None:
            raise exchange.error
    return exchange.head, content


class StreamedAnswer:
    """An answer to a GET request that is read as it comes; the head has arrived.

    :param sock: connected.
    :param exchange: its request is sent on the socket.
    :param timeout: seconds until the head is there.
    :raises OSError: there is no answer.
    """

    def __init__(self, sock: socket.socket, exchange: Exchange, timeout: float) -> None:
        self._sock = sock
        self._exchange = exchange
        deadline = time.monotonic() + timeout
        sock.settimeout(timeout)
        sock.sendall(exchange.request)
        self.head, self._held = receive_head(sock, exchange, deadline)

    def read(self, timeout: float | None) -> bytes:
        """What arrives next of the content.

        :param timeout: seconds to wait, ``None`` for ever. After a ``TimeoutError`` it can be called again.
        :returns: the bytes; none at the end of the answer.
        :raises TimeoutError: nothing came in that time.
        :raises OSError: the connection broke.
        """
        content, self._held = self._held, b""
        while not content and not self._exchange.is_complete:
            if self._exchange.error is not None:
                raise self._exchange.error
            # With a timeout of 0, the socket would not wait at all.
            self._sock.settimeout(None if timeout is None else max(timeout, 0.001))
            content = self._exchange.feed(self._sock.recv(_PIECE))
        return content

    def wake(self) -> None:
        """Let a ``read`` in another thread return; the connection is of no more use."""
        with contextlib.suppress(OSError):
            # Not the method of SSLSocket, which forgets its state while another thread may use it.
            socket.socket.shutdown(self._sock, socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the socket."""
        self._sock.close()


def get(
    url: str,
    headers: Mapping[str, str],
    *,
    verify: bool | str,
    connect_timeout: float,
    answer_timeout: float,
) -> StreamedAnswer:
    """Send a GET request and wait for the head of the answer.

    :param url: http or https.
    :param headers: besides ``Host``; sent as UTF-8.
    :param verify: check the certificate: True, False, or the path of a CA file or folder.
    :param connect_timeout: seconds for the connection.
    :param answer_timeout: seconds for the head.
    :raises OSError: there is no connection, or no answer.
    """
    exchange = Exchange("GET", url, {**headers, "Connection": "close"})
    sock = _connected(urlsplit(url), verify, connect_timeout)
    try:
        return StreamedAnswer(sock, exchange, answer_timeout)
    except BaseException:
        sock.close()
        raise


def _connected(parts: SplitResult, verify: bool | str, timeout: float) -> socket.socket:
    is_tls = parts.scheme == "https"
    address = (parts.hostname or "", parts.port or (443 if is_tls else 80))
    sock = socket.create_connection(address, timeout)
    if not is_tls:
        return sock
    try:
        return tls_context(verify).wrap_socket(sock, server_hostname=parts.hostname)
    except BaseException:
        sock.close()
        raise
