"""Many writes in one system call, through Linux's io_uring.

A fan-out is thousands of small writes of the same octets. Here they are described in memory that is shared
with the kernel, a slice of them at a time, and made by one call: what a write costs outside of TCP, the way
into the kernel and out and the part of Python, is paid once for hundreds. Nothing is compiled; ctypes makes
the two system calls. Each write is told not to wait, so all are complete when the call returns.

io_uring_setup(2), io_uring_enter(2). Kernels have all of it since 5.6; containers often forbid it.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import socket
import struct
from array import array
from collections.abc import Callable
from typing import Any, Literal

_SETUP, _ENTER = 425, 426  # numbers of the system calls, the same on nearly all machines
_CQ_SIZE, _SUBMIT_ALL, _SINGLE_ISSUER, _DEFER_TASK_WORK = 1 << 3, 1 << 7, 1 << 12, 1 << 13
_FLAGS = (_SUBMIT_ALL | _SINGLE_ISSUER | _DEFER_TASK_WORK, 0)  # the best first; old kernels know only some
_SINGLE_MAPPING = 1
_QUEUE_OF_ENTRIES = 0x10000000  # the place in the ring's file
_PARAMETERS = 120
_SEND = 26  # the operation
_DO_NOT_WAIT = 0x40 | 0x4000  # MSG_DONTWAIT, MSG_NOSIGNAL
_ENTRY, _COMPLETION = 64, 16  # octets
_WRAP = 0xFFFFFFFF

Incomplete = list[tuple[int, int]]
"""Places of descriptors that did not take everything, with the octets that they took or a negative errno."""


class RingFailed(Exception):
    """The kernel did not do what it was asked for; the ring cannot be used any more.

    :param tried: how many of the descriptors have been written to.
    :param incomplete: those among them that did not take everything.
    """

    def __init__(self, reason: str, tried: int, incomplete: Incomplete) -> None:
        super().__init__(reason)
        self.tried = tried
        self.incomplete = incomplete


class Ring:
    """A pair of queues, for writes and for their results. To be used by one thread.

    :param entries: how many writes one call takes, a power of two; each takes 80 octets of memory.
    :raises OSError: this kernel, or a filter of system calls, has no io_uring, or not what is needed of it.
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
            # As many places for results as for writes: then those of a call stand together, too.
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
        # What is the same in each write stands there once and for all.
        as_int[0::16] = memoryview(array("i", [_SEND]) * entries)
        as_int[7::16] = memoryview(array("i", [_DO_NOT_WAIT]) * entries)
        as_long[4::8] = memoryview(array("Q", range(entries)))  # the name that its result has: its place
        self._next = 0
        self._total = 0

    def _mapped(self, size: int, place: int) -> mmap.mmap:
        mapped = mmap.mmap(self._fd, size, mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0), offset=place)
        self._maps.append(mapped)
        mapped.madvise(mmap.MADV_DONTFORK)
        return mapped

    def _view(
        self, mapped: mmap.mmap, form: Literal["i", "I", "Q"], start: int = 0, end: int | None = None
    ) -> memoryview[int]:
        octets = memoryview(mapped)
        part = octets[start:end]
        view = part.cast(form)
        self._views += [octets, part, view]
        return view

    def write(self, fds: array[int], octets: bytes) -> Incomplete:
        """Write the same octets to each of the descriptors, as much as it takes without waiting.

        :param fds: of sockets.
        :param octets: not empty.
        :raises RingFailed: see there.
        """
        given = memoryview(fds)
        size, address = len(octets), self._address(octets)  # which stay there: they are ours meanwhile
        incomplete: Incomplete = []
        done = 0
        while done < len(fds):
            start = self._next
            count = min(len(fds) - done, self._entries - start)
            end = start + count
            sizes = memoryview(array("i", [size]) * count)
            self._descriptors[start:end] = given[done : done + count]
            self._addresses[start:end] = memoryview(array("Q", [address]) * count)
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
                # Before Linux 6.2 who takes nothing is reported ahead of those before it.
                names = self._names[start : start + seen].tolist()
                found = dict(zip(names, self._results[start : start + seen].tolist(), strict=True))
                # Of what was begun and has no result, nobody knows how much has been sent.
                each = ((at, found.get(start + at, -errno.ECANCELED)) for at in range(taken))
                incomplete += [(done + at, one) for at, one in each if one != size]
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
    """The C library's ``syscall``, during which other threads run; and where octets lie in memory.

    :raises OSError: ctypes cannot be used here.
    """
    try:
        import ctypes  # noqa: PLC0415 - some hardened systems refuse the memory that it asks for

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

    def address(octets: bytes) -> int:
        return ctypes.cast(ctypes.c_char_p(octets), ctypes.c_void_p).value or 0

    return call, address


def _try_out(ring: Ring) -> None:
    """Find out whether writes go out, come back at once if they would have to wait, and have their results.

    :raises OSError: it is not so.
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
            incomplete = ring.write(array("i", [ours.fileno() for ours, _ in pairs]), b"octets")
        except RingFailed as error:
            raise OSError(errno.ENOSYS, str(error)) from error
        received = [theirs.recv(64) for _, theirs in pairs]
    if incomplete != [(1, -errno.EAGAIN), (3, -errno.EAGAIN)] or received != [b"octets", b"full"] * 2:
        raise OSError(errno.ENOSYS, "io_uring of this kernel does not write as expected")
