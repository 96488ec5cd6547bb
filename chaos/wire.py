"""The wire from one node to its engine: a TCP proxy that is late, that loses one direction, or that resets.

It is a process of its own, so that the load of the checker does not delay anything. ``python -m chaos.wire``
reads its orders from standard input, one a line.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import socket
import struct
import subprocess
import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from chaos.node import ROOT

_READ = 65536
_MOST = 64  # parts that are on their way in one direction
_TIMEOUT = 10.0
_NO_LINGER = struct.pack("ii", 1, 0)


class Way(enum.StrEnum):
    """A direction."""

    UP = "up"
    """From the node to the engine."""
    DOWN = "down"


class Wire:
    """The wire of one node; as a context manager it ends.

    :param target: address and port of the engine.
    :param host: address on which the node finds it.
    """

    def __init__(self, target: tuple[str, int], host: str = "127.0.0.1") -> None:
        self._target = target
        self.host = host
        self._process: subprocess.Popen[str] | None = None
        self.port = 0

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(  # noqa: S603 - our own command
            [sys.executable, "-m", "chaos.wire", self.host, self._target[0], str(self._target[1])],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.communicate()
        self._process.wait(_TIMEOUT)

    def hold(self, ways: Sequence[Way]) -> None:
        """Deliver nothing in some directions from now on; without any, deliver all again."""
        self._order("hold", *ways)

    def delay(self, seconds: float) -> None:
        """Deliver everything late, in each direction."""
        self._order("delay", str(seconds))

    def reset(self) -> None:
        """End all connections with RST, on both sides."""
        self._order("reset")

    def lead_to(self, target: tuple[str, int]) -> None:
        """Lead new connections to another server, and reset the old ones."""
        self._order("to", target[0], str(target[1]))

    def _order(self, *words: str) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(" ".join(words) + "\n")
        self._process.stdin.flush()
        self._process.stdout.readline()


class _Forwarder:
    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self._delay = 0.0
        self._flows = {way: asyncio.Event() for way in Way}
        for event in self._flows.values():
            event.set()
        self._tasks: set[asyncio.Task[None]] = set()

    def obey(self, words: Sequence[str]) -> None:
        match words:
            case ["hold", *ways]:
                for way, event in self._flows.items():
                    (event.clear if way in ways else event.set)()
            case ["delay", seconds]:
                self._delay = float(seconds)
            case ["reset"]:
                self._reset()
            case ["to", host, port]:
                self._target = host, int(port)
                self._reset()
            case _:
                raise ValueError(words)

    def _reset(self) -> None:
        for task in self._tasks:
            task.cancel()

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        with contextlib.suppress(asyncio.CancelledError):
            await self._connect(reader, writer)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            engine_reader, engine_writer = await asyncio.open_connection(*self._target)
        except OSError:
            _reset(writer)
            return
        try:
            async with asyncio.TaskGroup() as group:
                for way, source, sink in (
                    (Way.UP, reader, engine_writer),
                    (Way.DOWN, engine_reader, writer),
                ):
                    parts: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_MOST)
                    group.create_task(self._take(source, parts))
                    group.create_task(self._deliver(way, parts, sink))
        except* OSError:
            pass
        finally:
            _reset(writer)
            _reset(engine_writer)

    async def _take(self, reader: asyncio.StreamReader, parts: asyncio.Queue[tuple[float, bytes]]) -> None:
        data = b" "
        while data:
            data = await reader.read(_READ)
            await parts.put((asyncio.get_running_loop().time() + self._delay, data))

    async def _deliver(
        self, way: Way, parts: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter
    ) -> None:
        while True:
            due, data = await parts.get()
            late = due - asyncio.get_running_loop().time()
            if late > 0:
                await asyncio.sleep(late)
            await self._flows[way].wait()
            if not data:
                with contextlib.suppress(OSError, RuntimeError):
                    writer.write_eof()
                return
            writer.write(data)
            await writer.drain()


def _reset(writer: asyncio.StreamWriter) -> None:
    """End a connection with RST, unless both sides have ended it before."""
    sock = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
    writer.transport.abort()


async def _main(host: str, target: tuple[str, int]) -> None:
    forwarder = _Forwarder(target)
    server = await asyncio.start_server(forwarder.accept, host, 0, limit=_READ)
    _say(str(server.sockets[0].getsockname()[1]))
    orders = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(orders), sys.stdin
    )
    while line := await orders.readline():
        forwarder.obey(line.decode().split())
        _say("done")


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], (sys.argv[2], int(sys.argv[3]))))
