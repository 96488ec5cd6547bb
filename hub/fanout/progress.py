"""Tells whether a client takes anything, also when its socket is not writable."""

from __future__ import annotations

import fcntl
import struct
import termios

_INT = struct.Struct("i")


def unsent(fd: int) -> int:
    """How many bytes written to a socket the other side has not acknowledged (SIOCOUTQ, tcp(7)).

    The kernel calls a socket writable when a third of its buffer is free, which a slow client may take
    minutes to bring about; this number falls with all that it takes.

    :raises OSError: it is no socket.
    """
    number: int = _INT.unpack(fcntl.ioctl(fd, termios.TIOCOUTQ, bytes(_INT.size)))[0]
    return number
