"""The wire to an engine: late, one-way, reset, or led elsewhere."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from threading import Thread

import pytest

from chaos.wire import Way, Wire
from tests.hub.running import TIMEOUT

pytestmark = pytest.mark.minutes


class Echo:
    """A server that sends back what it gets, after its name."""

    def __init__(self, name: bytes) -> None:
        self._name = name
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address: tuple[str, int] = self._listening.getsockname()
        self.got: list[bytes] = []
        Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        try:
            while True:
                connection, _ = self._listening.accept()
                Thread(target=self._serve, args=(connection,), daemon=True).start()
        except OSError:
            return

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            try:
                while data := connection.recv(100):
                    self.got.append(data)
                    connection.sendall(self._name + data)
            except OSError:
                return

    def close(self) -> None:
        with suppress(OSError):  # when it was closed before
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()


@contextmanager
def echo(name: bytes = b"") -> Iterator[Echo]:
    made = Echo(name)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def engine() -> Iterator[Echo]:
    with echo() as made:
        yield made


@pytest.fixture
def wire(engine: Echo) -> Iterator[Wire]:
    with Wire(engine.address) as made:
        yield made


@pytest.fixture
def connect(wire: Wire) -> Iterator[Callable[[], socket.socket]]:
    with ExitStack() as stack:
        yield lambda: stack.enter_context(socket.create_connection(("127.0.0.1", wire.port), TIMEOUT))


def asked(connection: socket.socket, data: bytes = b"a") -> bytes:
    """What is answered."""
    connection.sendall(data)
    return connection.recv(100)


def test_it_carries_both_ways_and_tells_of_the_end(connect: Callable[[], socket.socket]) -> None:
    connection = connect()
    assert asked(connection) == b"a"
    connection.shutdown(socket.SHUT_WR)
    assert connection.recv(100) == b""


@pytest.mark.parametrize("way", Way)
def test_what_one_way_loses_arrives_after_it_is_mended(
    way: Way, wire: Wire, engine: Echo, connect: Callable[[], socket.socket]
) -> None:
    before = connect()
    assert asked(before) == b"a"
    wire.hold([way])
    for connection in (before, connect()):
        connection.settimeout(0.2)
        with pytest.raises(TimeoutError):
            asked(connection, b"b")
        connection.settimeout(TIMEOUT)
    assert engine.got.count(b"b") == (0 if way is Way.UP else 2)
    wire.hold([])
    assert before.recv(100) == b"b"


def test_it_can_be_late(wire: Wire, connect: Callable[[], socket.socket]) -> None:
    connection = connect()
    wire.delay(0.1)
    begin = time.monotonic()
    assert asked(connection) == b"a"
    assert time.monotonic() - begin >= 0.2  # there and back
    wire.delay(0.0)
    assert asked(connection) == b"a"


def test_it_can_reset_and_then_take_new_connections(wire: Wire, connect: Callable[[], socket.socket]) -> None:
    connection = connect()
    assert asked(connection) == b"a"
    wire.reset()
    with pytest.raises(ConnectionResetError):
        connection.recv(100)
    assert asked(connect()) == b"a"


def test_it_can_lead_to_another_engine(wire: Wire, connect: Callable[[], socket.socket]) -> None:
    connection = connect()
    assert asked(connection) == b"a"
    with echo(b"other ") as other:
        wire.lead_to(other.address)
        with pytest.raises(ConnectionResetError):
            connection.recv(100)
        assert asked(connect()) == b"other a"


def test_an_engine_that_is_gone_refuses(
    wire: Wire, engine: Echo, connect: Callable[[], socket.socket]
) -> None:
    engine.close()
    with pytest.raises(ConnectionResetError):
        connect().recv(100)
