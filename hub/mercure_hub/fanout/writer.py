"""Writes to many sockets: in one system call where that pays, else one by one.

A fan-out is thousands of small writes of the same bytes. What a write costs outside of TCP, entering the
kernel and its share of Python, is paid once for hundreds of them when io_uring makes them in one call.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import mmap
import os
import socket
import struct
import sys
import termios
from array import array
from collections.abc import Callable, Sequence
from operator import sub
from typing import Any, Literal

from mercure_hub.fanout.tls import TlsLayer, first_record

_MAX_BUFFERS = 512  # of one writev(); the kernel's limit is 1024
_INT = struct.Struct("i")
_SO_NWRITE = 0x1024  # getsockopt(2) of macOS

_SETUP, _ENTER = 425, 426  # numbers of the system calls, the same on nearly all machines
_CQ_SIZE, _SUBMIT_ALL, _SINGLE_ISSUER, _DEFER_TASK_WORK = 1 << 3, 1 << 7, 1 << 12, 1 << 13
_FLAGS = (_SUBMIT_ALL | _SINGLE_ISSUER | _DEFER_TASK_WORK, 0)  # the best first; old kernels lack some
_SINGLE_MAPPING = 1
_QUEUE_OF_ENTRIES = 0x10000000  # offset in the ring's file
_PARAMETERS = 120
_SEND = 26  # the operation
_DO_NOT_WAIT = 0x40 | 0x4000  # MSG_DONTWAIT, MSG_NOSIGNAL
_ENTRY, _COMPLETION = 64, 16  # bytes
_WRAP = 0xFFFFFFFF

_log = logging.getLogger("mercure_hub.fanout")

Incomplete = list[tuple[int, int]]
"""Indexes of descriptors that did not take everything, with the bytes that they took or a negative errno."""


class Writer:
    """Writes without waiting.

    :param use_ring: write through io_uring where the kernel offers it.
    :param ring_from: writes from which one call for all is cheaper than their own, with the Python around it.
    """

    def __init__(self, *, use_ring: bool = True, ring_from: int = 24) -> None:
        self._ring: Ring | None = None
        self._may_open = use_ring
        self._ring_from = ring_from

    def write(self, fds: array[int], data: bytes) -> Incomplete:
        """Write the same bytes to each of the descriptors, as much as it takes without waiting.

        :param fds: of sockets that do not block.
        :param data: not empty.
        """
        ring = self._ring_for(len(fds))
        if ring is None:
            return one_by_one(fds, data)
        try:
            return ring.write(fds, data)
        except RingFailed as failure:
            return self._without_ring(failure, one_by_one(fds[failure.tried :], data))

    def write_pieces(self, fds: array[int], data: bytes, ends: Sequence[int]) -> Incomplete:
        """Write to each of the descriptors a piece of its own.

        :param fds: of sockets that do not block; at least one.
        :param data: the pieces, one after the other.
        :param ends: where each ends.
        """
        ring = self._ring_for(len(fds))
        if ring is None:
            return pieces_one_by_one(fds, data, ends)
        try:
            return ring.write_pieces(fds, data, ends)
        except RingFailed as failure:
            start = ends[failure.tried - 1] if failure.tried else 0
            left = [end - start for end in ends[failure.tried :]]
            rest = pieces_one_by_one(fds[failure.tried :], data[start:], left)
            return self._without_ring(failure, rest)

    def _ring_for(self, count: int) -> Ring | None:
        if count < self._ring_from:
            return None
        # Opened late: a small hub never needs it, and a ring belongs to the thread that opens it.
        return self._open() if self._may_open else self._ring

    def _without_ring(self, failure: RingFailed, rest: Incomplete) -> Incomplete:
        _log.warning("%s; from now on each delivery is a system call of its own", failure)
        self.close()
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
        """Close the ring; later writes are made one by one."""
        ring, self._ring = self._ring, None
        self._may_open = False
        if ring is not None:
            ring.close()


def one_by_one(fds: array[int], data: bytes) -> Incomplete:
    """The same as ``Ring.write``, with a system call for each descriptor."""
    size = len(data)
    write = os.write
    incomplete: Incomplete = []
    for index, fd in enumerate(fds):
        try:
            written = write(fd, data)
        except OSError as error:
            written = -(error.errno or errno.EIO)
        if written != size:
            incomplete.append((index, written))
    return incomplete


def pieces_one_by_one(fds: array[int], data: bytes, ends: Sequence[int]) -> Incomplete:
    """The same as ``Ring.write_pieces``, with a system call for each descriptor."""
    incomplete: Incomplete = []
    start = 0
    for index, (fd, end) in enumerate(zip(fds, ends, strict=True)):
        try:
            written = os.write(fd, data[start:end])
        except OSError as error:
            written = -(error.errno or errno.EIO)
        if written != end - start:
            incomplete.append((index, written))
        start = end
    return incomplete


def write_front(fd: int, tls: TlsLayer | None, queue: list[bytes | memoryview]) -> int:
    """Write as much as a socket takes from the front of a queue.

    :param fd: descriptor of the socket, which does not block.
    :param tls: the TLS layer over it, if there is one.
    :param queue: of pieces; at least one.
    :returns: bytes written.
    :raises OSError: the socket takes nothing (``BlockingIOError``, ``ssl.SSLWantWriteError``), or is broken.
    """
    if tls is not None and not tls.is_sealed_by_kernel:
        return tls.send(first_record(queue))
    if len(queue) == 1:
        return os.write(fd, queue[0])
    return os.writev(fd, queue[:_MAX_BUFFERS])


def remove_front(queue: list[bytes | memoryview], written: int) -> None:
    """Remove the bytes that were written from the front of a queue."""
    complete = 0
    for data in queue:
        if written < len(data):
            break
        written -= len(data)
        complete += 1
    del queue[:complete]
    if written:
        queue[0] = memoryview(queue[0])[written:]


def unsent(fd: int) -> int:
    """How many bytes written to a socket the other side has not acknowledged (SIOCOUTQ, tcp(7)).

    The kernel calls a socket writable when a third of its buffer is free, which a slow client may take
    minutes to bring about; this number falls with all that it takes.

    :returns: 0 where the system does not tell.
    :raises OSError: it is not a socket.
    """
    if sys.platform == "darwin":
        sock = socket.socket(fileno=fd)
        try:
            return sock.getsockopt(socket.SOL_SOCKET, _SO_NWRITE)
        finally:
            sock.detach()
    if not hasattr(termios, "TIOCOUTQ"):
        return 0
    number: int = _INT.unpack(fcntl.ioctl(fd, termios.TIOCOUTQ, bytes(_INT.size)))[0]
    return number


class RingFailed(Exception):
    """The kernel did not make the writes; the ring cannot be used any more.

    :param tried: how many of the descriptors have been written to.
    :param incomplete: those among them that did not take everything.
    """

    def __init__(self, reason: str, tried: int, incomplete: Incomplete) -> None:
        super().__init__(reason)
        self.tried = tried
        self.incomplete = incomplete


class Ring:
    """Many writes in one system call, through Linux's io_uring; to be used by one thread.

    The writes are described in memory that is shared with the kernel, a slice of them at a time, and made by
    one call. Each is told not to wait, so all are complete when the call returns. Nothing is compiled: ctypes
    makes the two system calls, io_uring_setup(2) and io_uring_enter(2). Kernels have all of it since 5.6;
    containers often forbid it.

    :param entries: how many writes one call takes, a power of two; each takes 80 bytes of memory.
    :raises OSError: the kernel or a filter of system calls has no io_uring, or lacks what is needed of it.
    """

    def __init__(self, entries: int = 512) -> None:
        self._call, self._address = _load()
        self._fd, parameters = self._set_up(entries)
        self._maps: list[mmap.mmap] = []
        self._views: list[memoryview[int]] = []
        try:
            self._map(parameters)
            _try_out(self)
        except BaseException:
            self.close()
            raise

    def _set_up(self, entries: int) -> tuple[int, bytes]:
        failure = OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        for flags in _FLAGS:
            # As many results as writes: then the results of a call are adjacent, too.
            asked = struct.pack("<III", 0, entries, flags | _CQ_SIZE)
            parameters = bytearray(asked.ljust(_PARAMETERS, b"\0"))
            try:
                return self._call(_SETUP, entries, parameters), bytes(parameters)
            except OSError as error:
                failure = error
                if error.errno != errno.EINVAL:
                    break
        raise failure

    def _map(self, parameters: bytes) -> None:
        entries, completions, _, _, _, features = struct.unpack_from("<6I", parameters)
        _, tail, _, _, _, _, order = struct.unpack_from("<7I", parameters, 40)
        results_head, results_tail, _, _, _, results, _ = struct.unpack_from("<7I", parameters, 80)
        if not features & _SINGLE_MAPPING or completions != entries:
            raise OSError(errno.ENOSYS, "io_uring of this kernel is too old")
        queues = self._mapped(max(order + 4 * entries, results + _COMPLETION * entries), 0)
        writes = self._mapped(_ENTRY * entries, _QUEUE_OF_ENTRIES)
        self._entries = entries
        self._counters = self._view(queues, "I")
        self._tail, self._results_head, self._results_tail = tail // 4, results_head // 4, results_tail // 4
        self._counters[order // 4 : order // 4 + entries] = memoryview(array("I", range(entries)))
        self._results = self._view(queues, "i", results, results + _COMPLETION * entries)[2::4]
        self._names = self._view(queues, "Q", results, results + _COMPLETION * entries)[0::2]
        as_int, as_long = self._view(writes, "i"), self._view(writes, "Q")
        self._descriptors, self._sizes, self._addresses = as_int[1::16], as_int[6::16], as_long[2::8]
        self._views += [self._results, self._names, self._descriptors, self._sizes, self._addresses]
        # What is the same in each write is set only here.
        as_int[0::16] = memoryview(array("i", [_SEND]) * entries)
        as_int[7::16] = memoryview(array("i", [_DO_NOT_WAIT]) * entries)
        as_long[4::8] = memoryview(array("Q", range(entries)))  # the name of its result: its index
        self._next = 0
        self._total = 0

    def _mapped(self, size: int, offset: int) -> mmap.mmap:
        mapped = mmap.mmap(self._fd, size, mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0), offset=offset)
        self._maps.append(mapped)
        mapped.madvise(mmap.MADV_DONTFORK)
        return mapped

    def _view(
        self, mapped: mmap.mmap, form: Literal["i", "I", "Q"], start: int = 0, end: int | None = None
    ) -> memoryview[int]:
        whole = memoryview(mapped)
        part = whole[start:end]
        view = part.cast(form)
        self._views += [whole, part, view]
        return view

    def write(self, fds: array[int], data: bytes) -> Incomplete:
        """Write the same bytes to each of the descriptors, as much as it takes without waiting.

        :param fds: of sockets.
        :param data: not empty.
        :raises RingFailed: the kernel did not make the writes.
        """
        count, address = len(fds), self._address(data)  # which we refer to until the end
        return self._write(fds, array("i", [len(data)]) * count, array("Q", [address]) * count)

    def write_pieces(self, fds: array[int], data: bytes, ends: Sequence[int]) -> Incomplete:
        """Write to each of the descriptors a piece of its own, as much as it takes without waiting.

        :param fds: of sockets; at least one.
        :param data: the pieces, one after the other.
        :param ends: where each ends.
        :raises RingFailed: the kernel did not make the writes.
        """
        address = self._address(data)  # which we refer to until the end
        starts = [0, *ends[:-1]]
        return self._write(
            fds, array("i", map(sub, ends, starts)), array("Q", [address + start for start in starts])
        )

    def _write(self, fds: array[int], every_size: array[int], every_address: array[int]) -> Incomplete:
        given, all_sizes, addresses = memoryview(fds), memoryview(every_size), memoryview(every_address)
        incomplete: Incomplete = []
        done = 0
        while done < len(fds):
            start = self._next
            count = min(len(fds) - done, self._entries - start)
            end = start + count
            sizes = all_sizes[done : done + count]
            self._descriptors[start:end] = given[done : done + count]
            self._addresses[start:end] = addresses[done : done + count]
            self._sizes[start:end] = sizes
            before, self._total = self._total, (self._total + count) & _WRAP
            self._counters[self._tail] = self._total
            problem = "io_uring took some of the writes only"
            try:
                taken = self._call(_ENTER, self._fd, count, 0, 0, None, 0)
            except OSError as error:
                taken, problem = 0, f"io_uring: {error.strerror}"
            complete = (self._counters[self._results_tail] - before) & _WRAP
            seen = min(complete, taken)
            with self._results[start : start + seen] as results:
                is_whole = results == sizes
            if not is_whole:
                # Before Linux 6.2 a socket that takes nothing is reported ahead of those before it.
                names = self._names[start : start + seen].tolist()
                results_by_name = dict(zip(names, self._results[start : start + seen].tolist(), strict=True))
                # Nobody knows how much a write has sent that was begun and has no result.
                each = ((at, results_by_name.get(start + at, -errno.ECANCELED)) for at in range(taken))
                incomplete += [(done + at, one) for at, one in each if one != sizes[at]]
            if taken != count or complete != count:
                raise RingFailed(problem, done + taken, incomplete)
            self._counters[self._results_head] = self._total
            self._next = end % self._entries
            done += count
        return incomplete

    def close(self) -> None:
        """Give back the descriptor and the memory."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
        while self._views:
            self._views.pop().release()
        while self._maps:
            self._maps.pop().close()


def _load() -> tuple[Callable[..., int], Callable[[bytes], int]]:
    """The C library's ``syscall``, during which other threads run; and the address of bytes in memory.

    :raises OSError: this is not Linux, or ctypes cannot be used here.
    """
    if sys.platform != "linux":  # other systems have other calls under these numbers
        raise OSError(errno.ENOSYS, "not a Linux kernel")
    try:
        import ctypes  # noqa: PLC0415 - some hardened systems refuse the memory it asks for

        function = ctypes.CDLL(None, use_errno=True).syscall
    except (ImportError, AttributeError, MemoryError) as error:
        raise OSError(errno.ENOSYS, f"ctypes cannot be used: {type(error).__name__}") from error

    def call(*arguments: Any) -> int:
        given = [
            (ctypes.c_char * len(one)).from_buffer(one) if isinstance(one, bytearray) else one
            for one in arguments
        ]
        result: int = function(*given)
        if result < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return result

    def address(data: bytes) -> int:
        return ctypes.cast(ctypes.c_char_p(data), ctypes.c_void_p).value or 0

    return call, address


def _try_out(ring: Ring) -> None:
    """Check that writes go out, return at once if they would have to wait, and have results.

    :raises OSError: they do not.
    """
    with contextlib.ExitStack() as stack:
        pairs = [
            [stack.enter_context(one) for one in socket.socketpair(type=socket.SOCK_DGRAM)] for _ in range(4)
        ]
        for number, (ours, theirs) in enumerate(pairs):
            ours.setblocking(False)
            theirs.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while number % 2:  # every second one is full
                    ours.send(b"full")
        try:
            incomplete = ring.write(array("i", [ours.fileno() for ours, _ in pairs]), b"data")
        except RingFailed as error:
            raise OSError(errno.ENOSYS, str(error)) from error
        received = [theirs.recv(64) for _, theirs in pairs]
    if incomplete != [(1, -errno.EAGAIN), (3, -errno.EAGAIN)] or received != [b"data", b"full"] * 2:
        raise OSError(errno.ENOSYS, "io_uring of this kernel does not write as expected")
