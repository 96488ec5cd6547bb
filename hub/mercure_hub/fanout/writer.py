"""Writes the same octets to many sockets: in one system call where that pays, else one by one."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import struct
import termios
from array import array

from mercure_hub.fanout.ring import Incomplete, Ring, RingFailed

_WORTH = 24  # writes from which one call for all is cheaper than their own, with the Python around it

_INT = struct.Struct("i")

_log = logging.getLogger("mercure_hub.fanout")


class Writer:
    """Writes without waiting.

    :param use_ring: write through io_uring where the kernel offers it.
    """

    def __init__(self, *, use_ring: bool) -> None:
        self._ring: Ring | None = None
        self._may_open = use_ring

    def write(self, fds: array[int], octets: bytes) -> Incomplete:
        """Write the same octets to each of the descriptors, as much as it takes without waiting.

        :param fds: of sockets that do not block.
        :param octets: not empty.
        """
        if len(fds) < _WORTH:
            return one_by_one(fds, octets)
        # Only now: a small hub never needs it, and a ring belongs to the thread that opens it.
        ring = self._open() if self._may_open else self._ring
        if ring is None:
            return one_by_one(fds, octets)
        try:
            return ring.write(fds, octets)
        except RingFailed as failure:
            _log.warning("%s; from now on each delivery is a system call of its own", failure)
            self.close()
            rest = one_by_one(fds[failure.tried :], octets)
            return failure.incomplete + [(failure.tried + at, written) for at, written in rest]

    def _open(self) -> Ring | None:
        self._may_open = False
        try:
            self._ring = Ring()
        except OSError as error:
            _log.info("each delivery is a system call of its own: no io_uring here (%s)", error.strerror)
        else:
            _log.info("deliveries go through io_uring")
        return self._ring

    def close(self) -> None:
        """Give back what the kernel lent."""
        ring, self._ring = self._ring, None
        self._may_open = False
        if ring is not None:
            ring.close()


def one_by_one(fds: array[int], octets: bytes) -> Incomplete:
    """The same as ``Ring.write``, with a system call for each of them."""
    size = len(octets)
    write = os.write
    incomplete: Incomplete = []
    for place, fd in enumerate(fds):
        try:
            written = write(fd, octets)
        except OSError as error:
            written = -(error.errno or errno.EIO)
        if written != size:
            incomplete.append((place, written))
    return incomplete


def unsent(fd: int) -> int:
    """How many bytes written to a socket the other side has not acknowledged (SIOCOUTQ, tcp(7)).

    The kernel calls a socket writable when a third of its buffer is free, which a slow client may take
    minutes to bring about; this number falls with all that it takes.

    :raises OSError: it is no socket.
    """
    number: int = _INT.unpack(fcntl.ioctl(fd, termios.TIOCOUTQ, bytes(_INT.size)))[0]
    return number
