"""The same bytes to many sockets, in one system call and one by one: what each took is known exactly."""

from __future__ import annotations

import errno
import itertools
import logging
import os
import socket
import sys
from array import array
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from mercure_hub.fanout import writer as writer_module
from mercure_hub.fanout.writer import Incomplete, Ring, RingFailed, Writer, one_by_one, pieces_one_by_one
from tests.fanout.conftest import lacks_ring

pytestmark = [pytest.mark.usefixtures("no_descriptor_left")]
needs_ring = pytest.mark.skipif(lacks_ring() is not None, reason=str(lacks_ring()))

Write = Callable[["array[int]", bytes], Incomplete]


@pytest.fixture(autouse=True)
def _writing() -> None:
    """Here each test says itself how the bytes are written."""


class Pairs:
    """Connections; ``fds`` are the ends that are written to."""

    def __init__(self, count: int, stack: ExitStack) -> None:
        self.theirs: list[socket.socket] = []
        self.ours: list[socket.socket] = []
        for _ in range(count):
            ours, theirs = (stack.enter_context(one) for one in socket.socketpair())
            ours.setblocking(False)
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            theirs.setblocking(False)
            self.ours.append(ours)
            self.theirs.append(theirs)

    @property
    def fds(self) -> array[int]:
        return array("i", [one.fileno() for one in self.ours])

    def received(self) -> list[bytes]:
        return [_read(one) for one in self.theirs]


def _read(sock: socket.socket) -> bytes:
    parts: list[bytes] = []
    while True:
        try:
            part = sock.recv(1 << 20)
        except BlockingIOError:
            return b"".join(parts)
        if not part:
            return b"".join(parts)
        parts.append(part)


@pytest.fixture
def pairs() -> Iterator[Callable[[int], Pairs]]:
    with ExitStack() as stack:
        yield lambda count: Pairs(count, stack)


@pytest.fixture
def ring() -> Iterator[Ring]:
    opened = Ring(entries=8)
    yield opened
    opened.close()


@pytest.fixture(params=[pytest.param("ring", marks=needs_ring), "one by one"])
def write(request: pytest.FixtureRequest) -> Write:
    if request.param == "one by one":
        return one_by_one
    opened: Ring = request.getfixturevalue("ring")
    return opened.write


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 16, 50])
def test_a_write_reaches_every_socket_each_time(
    write: Write, pairs: Callable[[int], Pairs], count: int
) -> None:
    """With more writes than a call takes, and calls that begin anywhere in the queue."""
    some = pairs(count)
    for round_ in range(5):
        assert write(some.fds, b"%d, " % round_) == []
    assert some.received() == [b"0, 1, 2, 3, 4, "] * count


def test_a_full_socket_takes_what_it_takes_and_then_nothing(
    write: Write, pairs: Callable[[int], Pairs]
) -> None:
    some = pairs(20)
    large = b"x" * (1 << 20)
    for place in (3, 17):
        some.ours[place].send(large)
    assert write(some.fds, b"hello") == [(3, -errno.EAGAIN), (17, -errno.EAGAIN)]
    received = some.received()
    assert [one for place, one in enumerate(received) if place not in (3, 17)] == [b"hello"] * 18
    incomplete = write(some.fds, large)
    assert [place for place, _ in incomplete] == list(range(20))
    assert [written for _, written in incomplete] == [len(one) for one in some.received()]
    assert 0 < min(written for _, written in incomplete) < len(large)


def test_a_socket_that_is_closed_at_the_other_end_stops_no_other_write(
    write: Write, pairs: Callable[[int], Pairs]
) -> None:
    some = pairs(20)
    some.theirs[0].close()
    some.theirs[9].close()
    some.theirs[19].close()
    incomplete = write(some.fds, b"hello")
    assert incomplete == [(0, -errno.EPIPE), (9, -errno.EPIPE), (19, -errno.EPIPE)]
    assert [_read(one) for one in some.theirs if one.fileno() >= 0] == [b"hello"] * 17


def test_a_descriptor_that_is_closed_is_reported(write: Write, pairs: Callable[[int], Pairs]) -> None:
    some = pairs(3)
    fds = some.fds
    some.ours[1].close()
    assert write(fds, b"hello") == [(1, -errno.EBADF)]


@needs_ring
def test_the_counters_of_the_ring_wrap_around(ring: Ring) -> None:
    """They have 32 bits, and a busy hub is there in some hours."""
    before = (1 << 32) - 16
    ring._total = ring._counters[ring._results_tail] = before
    ring._next = before % 8
    seen: list[int] = []

    def call(_number: int, _fd: int, count: int, *_: object) -> int:
        tail = ring._counters[ring._results_tail]
        assert ring._counters[ring._tail] == (tail + count) % (1 << 32)
        for place in range(tail, tail + count):
            ring._results[place % 8] = ring._sizes[place % 8]
            seen.append(ring._descriptors[place % 8])
        ring._counters[ring._results_tail] = (tail + count) % (1 << 32)
        return count

    ring._call = call
    fds = array("i", range(100, 105))
    for _ in range(10):
        assert ring.write(fds, b"hello") == []
    assert seen == list(fds) * 10
    assert ring._total == 34


@needs_ring
def test_the_ring_takes_results_in_another_order_than_the_writes(
    ring: Ring, pairs: Callable[[int], Pairs]
) -> None:
    """Before Linux 6.2 a socket that takes nothing is reported ahead of those before it."""
    real = ring._call

    def call(number: int, fd: int, count: int, *rest: object) -> int:
        start = ring._counters[ring._results_tail]
        taken = real(number, fd, count, *rest)
        places = [place % 8 for place in range(start, start + count)]
        found = [(ring._names[place], ring._results[place]) for place in places]
        for place, (name, result) in zip(places, reversed(found), strict=True):
            ring._names[place], ring._results[place] = name, result
        return taken

    ring._call = call
    some = pairs(20)
    large = b"x" * (1 << 20)
    for place in (1, 9, 18):
        some.ours[place].send(large)
    assert ring.write(some.fds, b"hello") == [(1, -errno.EAGAIN), (9, -errno.EAGAIN), (18, -errno.EAGAIN)]
    received = some.received()
    assert [one for place, one in enumerate(received) if place not in (1, 9, 18)] == [b"hello"] * 17
    incomplete = ring.write(some.fds, large)
    assert [written for _, written in incomplete] == [len(one) for one in some.received()]


def fake_call(results: list[int | OSError]) -> Callable[..., int]:
    """The system call, with what it answers first; the kernel does nothing then."""

    def call(*_: object) -> int:
        result = results.pop(0)
        if isinstance(result, OSError):
            raise result
        return result

    return call


@needs_ring
@pytest.mark.parametrize(
    ("answer", "tried", "incomplete"),
    [
        (OSError(errno.EPERM, "Operation not permitted"), 0, []),
        (OSError(errno.EBUSY, "Device or resource busy"), 0, []),
        (0, 0, []),
        (2, 2, [(0, -errno.ECANCELED), (1, -errno.ECANCELED)]),
        (3, 3, [(0, -errno.ECANCELED), (1, -errno.ECANCELED), (2, -errno.ECANCELED)]),
    ],
    ids=["forbidden from now on", "busy", "took none", "took some, no result", "took all, no result"],
)
def test_a_ring_reports_what_a_failing_kernel_did(
    ring: Ring,
    pairs: Callable[[int], Pairs],
    answer: int | OSError,
    tried: int,
    incomplete: Incomplete,
) -> None:
    ring._call = fake_call([answer])
    with pytest.raises(RingFailed) as failed:
        ring.write(pairs(3).fds, b"hello")
    assert (failed.value.tried, failed.value.incomplete) == (tried, incomplete)
    assert "io_uring" in str(failed.value)


@needs_ring
def test_the_writer_goes_on_without_a_ring_that_failed(
    pairs: Callable[[int], Pairs], caplog: pytest.LogCaptureFixture
) -> None:
    """Two slices went out, the third one was refused: nobody gets it twice and nobody goes without."""
    some = pairs(1100)
    writer = Writer(ring_from=1)
    assert writer.write(some.fds, b"1") == []
    ring = writer._ring
    assert ring is not None
    real, calls = ring._call, 0

    def third_fails(*arguments: object) -> int:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise OSError(errno.EPERM, "Operation not permitted")
        return real(*arguments)

    ring._call = third_fails
    some.theirs[1].close()
    some.theirs[1099].close()
    assert writer.write(some.fds, b"2") == [(1, -errno.EPIPE), (1099, -errno.EPIPE)]
    assert "io_uring: Operation not permitted" in caplog.text
    assert writer.write(some.fds, b"3") == [(1, -errno.EPIPE), (1099, -errno.EPIPE)]
    living = [one for one in some.theirs if one.fileno() >= 0]
    assert [_read(one) for one in living] == [b"123"] * 1098
    writer.close()


@needs_ring
def test_a_writer_opens_a_ring_for_many_writes_only(
    pairs: Callable[[int], Pairs], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Ring] = []

    def open_one() -> Ring:
        opened.append(Ring())
        return opened[0]

    monkeypatch.setattr(writer_module, "Ring", open_one)
    some = pairs(40)
    writer = Writer()
    assert writer.write(some.fds[:10], b"a") == []
    assert opened == []
    assert writer.write(some.fds, b"b") == []
    assert len(opened) == 1
    assert some.received() == [b"ab"] * 10 + [b"b"] * 30
    writer.close()
    writer.close()
    assert writer.write(some.fds, b"c") == []
    assert some.received() == [b"c"] * 40


def refuses(*_: object) -> int:
    raise OSError(errno.EPERM, "Operation not permitted")


def without_ctypes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ctypes", None)


def forbidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "_load", lambda: (refuses, id))


def loses_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that takes the writes and reports nothing, as some that only look like Linux do."""
    real, address = writer_module._load()

    def call(number: int, *arguments: object) -> int:
        return real(number, *arguments) if number == writer_module._SETUP else 1

    monkeypatch.setattr(writer_module, "_load", lambda: (call, address))


@pytest.mark.parametrize("lack", [without_ctypes, forbidden, pytest.param(loses_writes, marks=needs_ring)])
def test_a_writer_goes_without_a_ring_where_there_is_none(
    lack: Callable[[pytest.MonkeyPatch], None],
    pairs: Callable[[int], Pairs],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    lack(monkeypatch)
    some = pairs(40)
    writer = Writer()
    for text in (b"a", b"b"):
        assert writer.write(some.fds, text) == []
    assert some.received() == [b"ab"] * 40
    assert caplog.text.count("no io_uring here") == 1
    writer.close()


def test_a_writer_opens_no_ring_if_told_so(
    pairs: Callable[[int], Pairs], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "Ring", None)
    some = pairs(40)
    writer = Writer(use_ring=False)
    assert writer.write(some.fds, b"a") == []
    assert some.received() == [b"a"] * 40


@needs_ring
def test_a_ring_opens_on_an_old_kernel_without_the_newer_flags(
    pairs: Callable[[int], Pairs], monkeypatch: pytest.MonkeyPatch
) -> None:
    real, address = writer_module._load()

    def call(number: int, *arguments: object) -> int:
        if number == writer_module._SETUP:
            parameters = arguments[1]
            assert isinstance(parameters, bytearray)
            if parameters[9]:  # a flag that came later than the rest
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return real(number, *arguments)

    monkeypatch.setattr(writer_module, "_load", lambda: (call, address))
    ring = Ring(8)
    some = pairs(20)
    assert ring.write(some.fds, b"hello") == []
    assert some.received() == [b"hello"] * 20
    ring.close()


@pytest.fixture(params=[pytest.param("ring", marks=needs_ring), "one by one"])
def write_pieces(request: pytest.FixtureRequest) -> Callable[..., Incomplete]:
    if request.param == "one by one":
        return pieces_one_by_one
    opened: Ring = request.getfixturevalue("ring")
    return opened.write_pieces


@pytest.mark.parametrize("count", [1, 8, 9, 50])
def test_each_socket_gets_its_piece(
    write_pieces: Callable[..., Incomplete], pairs: Callable[[int], Pairs], count: int
) -> None:
    some = pairs(count)
    pieces = [b"%d" % number * (1 + number % 3) for number in range(count)]
    ends = list(itertools.accumulate(map(len, pieces)))
    for _ in range(3):
        assert write_pieces(some.fds, b"".join(pieces), ends) == []
    assert some.received() == [piece * 3 for piece in pieces]


def test_a_full_socket_takes_nothing_of_its_piece(
    write_pieces: Callable[..., Incomplete], pairs: Callable[[int], Pairs]
) -> None:
    some = pairs(12)
    some.ours[4].send(bytes(1 << 20))
    assert write_pieces(some.fds, bytes(24), range(2, 26, 2)) == [(4, -errno.EAGAIN)]


@needs_ring
def test_pieces_that_a_broken_ring_did_not_write_are_written_without_it(
    pairs: Callable[[int], Pairs], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    writer = Writer(ring_from=1)
    some = pairs(4)
    assert writer.write_pieces(some.fds, b"aabbccdd", [2, 4, 6, 8]) == []

    def breaks(ring: Ring, fds: array[int], data: bytes, ends: list[int]) -> Incomplete:
        os.write(fds[0], data[: ends[0]])
        raise RingFailed("io_uring broke", 2, [(1, -errno.ECANCELED)])

    monkeypatch.setattr(Ring, "write_pieces", breaks)
    assert writer.write_pieces(some.fds, b"AABBCCDD", [2, 4, 6, 8]) == [(1, -errno.ECANCELED)]
    assert some.received() == [b"aaAA", b"bb", b"ccCC", b"ddDD"]
    assert "io_uring broke" in caplog.text
    assert writer.write_pieces(some.fds, b"AABBCCDD", [2, 4, 6, 8]) == []
