"""TLS whose records Linux seals and opens (kTLS, docs.kernel.org/networking/tls.html).

OpenSSL makes the handshake on the socket itself and passes the keys to the kernel. From then on the socket
is written to and read like a plain one, and what OpenSSL holds for the connection is given back.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import ssl
import sys
from pathlib import Path

from mercure_hub.fanout.tls import TlsLayer, TlsServer, borrowed

_ULPS = Path("/proc/sys/net/ipv4/tcp_available_ulp")
_ENABLE = getattr(ssl, "OP_ENABLE_KTLS", 0)  # since Python 3.12
_PATIENCE = 1.0  # seconds for a handshake with ourselves

_NOT_LOADED = "the kernel's module is not loaded (modprobe tls)"
_TCP_ULP = 31
_SOL_TLS = 282
_TX, _RX = 1, 2  # options: the keys of a direction
_SET_RECORD_TYPE, _GET_RECORD_TYPE = 1, 2
_ALERT = b"\x15"  # a type of records
_CLOSE_NOTIFY = b"\x01\x00"
_CONTROL = 256  # bytes of a record that is no content; more cannot be an alert


def obstacle(context: ssl.SSLContext, ulps: Path = _ULPS) -> str:
    """What keeps the kernel from sealing for the server with this certificate; empty if nothing does.

    :param context: with the certificate.
    :param ulps: file that lists what the kernel can have above TCP.
    """
    if not _ENABLE:
        return "Python 3.12 or newer is needed, with OpenSSL 3"
    # A try by root would have the kernel load its module.
    try:
        if "tls" not in ulps.read_text(encoding="ascii").split():
            return _NOT_LOADED
    except OSError:  # systemd may hide the file (ProcSubset=pid)
        if sys.platform != "linux" or os.geteuid() == 0:
            return "this system does not tell whether it has kTLS"
    before = context.options
    try:
        if _try_out(KernelTlsServer(context)):
            return ""
        reason = "OpenSSL 3.2 or newer is needed, built with kTLS"
    except FileNotFoundError:
        reason = _NOT_LOADED
    except OSError as error:
        reason = f"a handshake with ourselves failed: {error}"
    context.options = before
    return reason


class KernelTlsServer(TlsServer):
    """Begins TLS that the kernel goes on with.

    :param context: with the certificate, for the server's side.
    """

    def __init__(self, context: ssl.SSLContext) -> None:
        super().__init__(context)
        context.options |= _ENABLE

    def accept(self, fd: int) -> TlsLayer:
        """The TLS layer over a connection, before its handshake."""
        sock = socket.socket(fileno=fd)
        try:
            sock.setblocking(False)  # or Python would have the descriptor block
            return SocketTls(self.context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False))
        except BaseException:
            sock.close()
            raise


class SocketTls(TlsLayer):
    """A connection whose handshake OpenSSL makes on the socket.

    It stays so for a client whose cipher the kernel does not know (TLS 1.2 with CBC): then each record is
    written by itself.

    :param sock: the server's side.
    """

    __slots__ = ("_sock",)

    def __init__(self, sock: ssl.SSLSocket) -> None:
        super().__init__(sock.fileno())
        self._sock = sock

    def do_handshake(self) -> None:
        """Go on with the handshake."""
        self._sock.do_handshake()

    def established(self) -> TlsLayer:
        """Leave the connection to the kernel, if it has the keys of both directions."""
        sock = self._sock
        if sock.pending() or not (_has_keys(sock, _TX) and _has_keys(sock, _RX)):
            return self
        protocol = sock.selected_alpn_protocol()
        self.fd = -1
        return KernelTls(sock.detach(), protocol)

    def recv(self, size: int) -> bytes:
        """What the client sent."""
        return self._sock.recv(size)

    def send(self, data: bytes | memoryview) -> int:
        """Seal bytes and write them."""
        return self._sock.send(data)

    def unwrap(self) -> None:
        """Tell the client that the stream ends here."""
        self._sock.unwrap()

    def selected_alpn_protocol(self) -> str | None:
        """What was agreed on in the handshake."""
        return self._sock.selected_alpn_protocol()

    def close(self) -> None:
        """Close the socket."""
        self.fd = -1
        self._sock.close()


class KernelTls(TlsLayer):
    """A connection after its handshake: what is written to its descriptor, the kernel seals.

    A client that changes its keys (KeyUpdate, RFC 8446 section 4.6.3) is disconnected, because kernels before
    Linux 6.14 cannot go on with new ones. Browsers do not change them.

    :param fd: descriptor of its socket.
    :param protocol: what was agreed on in the handshake.
    """

    __slots__ = ("_protocol",)

    is_sealed_by_kernel = True

    def __init__(self, fd: int, protocol: str | None) -> None:
        super().__init__(fd)
        self._protocol = protocol

    def do_handshake(self) -> None:
        """Nothing: it is done."""

    def recv(self, size: int) -> bytes:
        """What the client sent."""
        try:
            return os.read(self.fd, size)
        except OSError as error:
            if error.errno == errno.EIO:
                return self._control()
            if error.errno == errno.EBADMSG:
                raise ConnectionAbortedError from None  # it is not sealed with the client's key
            raise

    def _control(self) -> bytes:
        """Read a record that is no content; empty if it tells the end.

        :raises OSError: it tells something else.
        """
        with borrowed(self.fd) as sock:
            content, ancillary, _, _ = sock.recvmsg(_CONTROL, socket.CMSG_SPACE(1))
        if ancillary != [(_SOL_TLS, _GET_RECORD_TYPE, _ALERT)] or content != _CLOSE_NOTIFY:
            raise ConnectionAbortedError
        return b""

    def send(self, data: bytes | memoryview) -> int:
        """Have bytes sealed and written."""
        return os.write(self.fd, data)

    def unwrap(self) -> None:
        """Tell the client that the stream ends here."""
        with borrowed(self.fd) as sock:
            sock.sendmsg([_CLOSE_NOTIFY], [(_SOL_TLS, _SET_RECORD_TYPE, _ALERT)])

    def selected_alpn_protocol(self) -> str | None:
        """What was agreed on in the handshake."""
        return self._protocol


def _has_keys(sock: socket.socket, direction: int) -> bool:
    try:
        sock.getsockopt(_SOL_TLS, direction, 4)
    except OSError:
        return False
    return True


def _try_out(server: TlsServer) -> bool:
    """Whether the kernel takes over after a handshake with ourselves.

    :raises FileNotFoundError: the kernel's module is not loaded.
    :raises OSError: the handshake failed.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with socket.create_server(("127.0.0.1", 0)) as listening:
        with socket.create_connection(listening.getsockname(), _PATIENCE) as sock:
            sock.setsockopt(socket.IPPROTO_TCP, _TCP_ULP, b"tls")
            theirs = context.wrap_socket(sock, do_handshake_on_connect=False)
        with theirs:
            accepted, _ = listening.accept()
            for one in (theirs, accepted):
                one.setblocking(False)
            ours = server.accept(accepted.detach())
            try:
                ours = shake_hands(theirs, ours, _PATIENCE)
            finally:
                ours.close()
    return ours.is_sealed_by_kernel


def shake_hands(theirs: ssl.SSLSocket, ours: TlsLayer, patience: float) -> TlsLayer:
    """Make the handshake between two ends in this process.

    :param theirs: the client's end, which does not block.
    :param ours: the server's.
    :param patience: seconds for which nothing may arrive.
    :returns: the layer of the server's end afterwards.
    :raises OSError: it failed, or took too long.
    """
    arrived = select.poll()
    arrived.register(theirs, select.POLLIN)
    arrived.register(ours.fd, select.POLLIN)
    waiting: list[ssl.SSLSocket | TlsLayer] = [theirs, ours]
    while True:
        for end in list(waiting):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
            waiting.remove(end)
        if not waiting:
            return ours.established()
        if not arrived.poll(patience * 1000):
            raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
