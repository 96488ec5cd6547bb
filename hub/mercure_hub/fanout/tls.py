"""TLS over a non-blocking socket: sealed in memory first, then written like any other bytes.

``ssl.SSLSocket`` writes each record with a system call of its own. Here the records of many subscribers are
sealed into one buffer, so that a fan-out over TLS leaves in as few system calls as a plain one. All
connections share a pair of buffers, which is empty between two calls. Where the kernel seals
(``mercure_hub.fanout.kernel_tls``), nothing of this is needed.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import ClassVar

RECORD = 16 << 10
"""Bytes of the largest record (RFC 8446 section 5.1)."""

_BARREN = 2 * RECORD  # bytes that a client may send before there is content; a part of a record has none
_ANSWERS = 4096  # bytes of answers to a client's TLS messages that may wait for it


class TlsServer:
    """Begins TLS on accepted connections; to be used by one thread.

    :param context: with the certificate, for the server's side.
    """

    def __init__(self, context: ssl.SSLContext) -> None:
        self.context = context
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()

    def accept(self, fd: int) -> TlsLayer:
        """The TLS layer over a connection, before its handshake.

        :param fd: descriptor of a connected, non-blocking socket, which belongs to the layer from now on.
        :raises OSError: the client has left; the socket is closed.
        """
        layer = self.context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        return TlsSocket(fd, layer, self._incoming, self._outgoing)


class TlsLayer(ABC):
    """A connection over TLS, with the methods of ``ssl.SSLSocket`` that the hub needs.

    :param fd: descriptor of its socket.
    """

    __slots__ = ("fd",)

    is_sealed_by_kernel: ClassVar[bool] = False
    """Whether the descriptor is written to as if there were no TLS."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    @abstractmethod
    def do_handshake(self) -> None:
        """Go on with the handshake.

        :raises ssl.SSLWantReadError: it needs more of the client.
        :raises ssl.SSLWantWriteError: the socket is full.
        :raises OSError: it failed.
        """

    def established(self) -> TlsLayer:
        """The layer to use after the handshake, in place of this one."""
        return self

    @abstractmethod
    def recv(self, size: int) -> bytes:
        """What the client sent.

        :param size: bytes to return at most.
        :returns: empty at the end.
        :raises BlockingIOError: nothing whole has arrived; ``ssl.SSLWantReadError`` means the same.
        :raises OSError: the connection is broken.
        """

    @abstractmethod
    def send(self, data: bytes | memoryview) -> int:
        """Seal bytes and write them.

        :param data: not empty; after a refusal, it has to begin with the same bytes again.
        :returns: how many of the bytes are written.
        :raises ssl.SSLWantWriteError: the socket is full; ``BlockingIOError`` means the same.
        :raises OSError: the connection is broken.
        """

    @abstractmethod
    def unwrap(self) -> None:
        """Tell the client that the stream ends here (RFC 8446 section 6.1); does not wait for its answer.

        :raises OSError: that cannot be told.
        """

    @abstractmethod
    def selected_alpn_protocol(self) -> str | None:
        """What the client speaks over the connection, if it said so (RFC 7301)."""

    def shutdown(self, how: int) -> None:
        """End a direction of the connection without a word in TLS.

        :param how: as for ``socket.shutdown``.
        :raises OSError: there is no connection.
        """
        with borrowed(self.fd) as sock:
            sock.shutdown(how)

    def close(self) -> None:
        """Close the socket."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


@contextlib.contextmanager
def borrowed(fd: int) -> Iterator[socket.socket]:
    """A socket object for a descriptor, which stays open afterwards."""
    sock = socket.socket(fileno=fd)
    try:
        yield sock
    finally:
        sock.detach()


class TlsSocket(TlsLayer):
    """A connection whose records are sealed in memory.

    What a call leaves in the shared buffers is taken out before it returns, also when it fails: it would
    reach the client of the next call.

    :param fd: descriptor of its socket.
    :param layer: reads and writes the buffers.
    :param incoming: what the client sent.
    :param outgoing: what it is sent.
    """

    __slots__ = ("_barren", "_covers", "_incoming", "_layer", "_outgoing", "_received", "_unsent")

    def __init__(
        self, fd: int, layer: ssl.SSLObject, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO
    ) -> None:
        super().__init__(fd)
        self._layer = layer
        self._incoming = incoming
        self._outgoing = outgoing
        self._received: bytes | None = None  # and was not asked for yet; None before the handshake is done
        self._unsent = b""  # sealed, and not taken by the socket
        self._barren = 0  # bytes that arrived without content lately
        self._covers = 0  # bytes that were given to ``send`` and are sealed there

    def do_handshake(self) -> None:
        """Go on with the handshake, by what has arrived."""
        while self._received is None:
            self._flush()
            try:
                received = os.read(self.fd, RECORD)
            except BlockingIOError:
                raise ssl.SSLWantReadError from None
            if not received:
                raise ConnectionResetError
            self._incoming.write(received)
            try:
                self._layer.do_handshake()
            except ssl.SSLWantReadError:
                self._collect()
            except OSError:
                self._collect()
                with contextlib.suppress(OSError):
                    self._flush()  # the alert
                raise
            else:
                # A client may send its request together with the end of its handshake.
                self._received = self._decrypt(b"") or b""
        self._flush()

    def recv(self, size: int) -> bytes:
        """What the client sent; the socket is read until a record is whole."""
        received = self._received
        while not received:
            arrived = os.read(self.fd, size)
            if not arrived:
                return b""
            try:
                received = self._decrypt(arrived)
            finally:
                self._answer()
            if received is not None:
                self._barren = max(self._barren - 4 * len(received), 0)
                break
            self._barren += len(arrived)
            if self._barren > _BARREN:
                # Messages of TLS itself, which a client may send faster than they are read.
                raise ConnectionAbortedError
            # The rest of the record may be here already, and the socket is not reported for it again.
        self._received = received[size:]
        return received[:size]

    def send(self, data: bytes | memoryview) -> int:
        """Seal one record and write it; what the socket does not take waits for the next call."""
        if not self._covers:
            if self._unsent:
                self._flush()
            piece = data if len(data) <= RECORD else data[:RECORD]
            try:
                self._layer.write(piece)
            except OSError:
                self._outgoing.read()  # a record that is not whole
                raise
            sealed = self._outgoing.read()
            try:
                written = os.write(self.fd, sealed)
            except BlockingIOError:
                written = 0
            if written == len(sealed):
                return len(piece)
            self.keep(sealed[written:], len(piece))
            raise ssl.SSLWantWriteError
        self._flush()
        covered, self._covers = self._covers, 0
        return covered

    def keep(self, sealed: bytes, covers: int) -> None:
        """Keep what the socket did not take, for the next ``send``.

        :param covers: bytes that the next ``send`` is given and that are sealed already.
        """
        self._unsent = sealed
        self._covers = covers

    def unwrap(self) -> None:
        """Tell the client that the stream ends, unless that would be in the middle of a record."""
        if self._unsent:  # in the middle of a record
            return
        with contextlib.suppress(OSError, ValueError):
            self._layer.unwrap()
        self._collect()
        self._flush()

    def selected_alpn_protocol(self) -> str | None:
        """What was agreed on in the handshake."""
        return self._layer.selected_alpn_protocol()

    def _decrypt(self, arrived: bytes) -> bytes | None:
        """What bytes of the client contain; empty at the end, ``None`` if no record is whole."""
        self._incoming.write(arrived)
        parts: list[bytes] = []
        try:
            while part := self._layer.read(RECORD):
                parts.append(part)
        except ssl.SSLWantReadError:
            if not parts:
                return None
        finally:
            self._collect()
        return b"".join(parts)

    def _answer(self) -> None:
        """Send what TLS itself answers: an alert, or a new key (RFC 8446 section 4.6.3).

        :raises OSError: the client asks for answers and does not read them.
        """
        if not self._unsent:
            return
        if not self._covers:
            try:
                self._flush()
            except ssl.SSLWantWriteError:
                raise ConnectionAbortedError from None  # the next update would overtake the answer
        elif len(self._unsent) > RECORD + _ANSWERS:
            raise ConnectionAbortedError

    def _collect(self) -> None:
        """Empty the shared buffers."""
        self._incoming.read()
        if self._outgoing.pending:
            self._unsent += self._outgoing.read()

    def _flush(self) -> None:
        """Write what is sealed.

        :raises ssl.SSLWantWriteError: the socket does not take all of it.
        :raises OSError: the connection is broken.
        """
        while self._unsent:
            try:
                self._unsent = self._unsent[os.write(self.fd, self._unsent) :]
            except BlockingIOError:
                raise ssl.SSLWantWriteError from None


def seal_each(some: Sequence[TlsSocket], data: bytes) -> tuple[bytes, list[int], list[int]]:
    """Seal the same bytes for each of some connections, which have nothing unsent.

    :param some: connections of one ``TlsServer``; at least one.
    :returns: the records, where those of each connection end, and the indexes of connections that failed.
    """
    outgoing = some[0]._outgoing
    ends: list[int] = []
    failed: list[int] = []
    for one in some:
        try:
            one._layer.write(data)
        except ssl.SSLError:
            failed.append(len(ends))
        ends.append(outgoing.pending)
    return outgoing.read(), ends, failed


def first_record(queue: list[bytes | memoryview]) -> bytes | memoryview:
    """The first bytes that are queued, as many as fit into a TLS record."""
    if len(queue) == 1 or len(queue[0]) >= RECORD:
        return queue[0]
    pieces: list[bytes | memoryview] = []
    room = RECORD
    for data in queue:
        pieces.append(data[:room])
        room -= len(pieces[-1])
        if not room:
            break
    return b"".join(pieces)
