"""The ways from clients to hubs: direct, through a proxy that can cut, from a host whose link can break."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
from collections.abc import Awaitable, Callable

from chaos.hosts import Host
from chaos.plan import Route
from chaos.record import ANY

_CONNECT = 15.0  # seconds
_READ = 65536
_ETHERNET = 1460  # bytes of a segment


class Proxy:
    """A TCP proxy in front of hubs.

    :param upstream: opens a connection to a hub for a client, which it knows by its address.
    """

    def __init__(self, upstream: Callable[[tuple[str, int]], Awaitable[socket.socket]]) -> None:
        self._upstream = upstream
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._flows = asyncio.Event()
        self._flows.set()
        self.address = ("", 0)

    async def start(self) -> None:
        """Begin to accept."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, limit=_READ)
        self.address = self._server.sockets[0].getsockname()[:2]

    async def close(self) -> None:
        """Accept no more and cut everything."""
        if self._server is not None:
            self._server.close()
        self.cut()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        """End all connections at once, on both sides."""
        for task in self._tasks:
            task.cancel()

    def stall(self) -> None:
        """Forward nothing from now on."""
        self._flows.clear()

    def flow(self) -> None:
        """Forward again."""
        self._flows.set()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        with contextlib.suppress(OSError, asyncio.CancelledError):
            await self._connect(reader, writer)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            upstream = await self._upstream(writer.get_extra_info("peername"))
            upstream_reader, upstream_writer = await asyncio.open_connection(sock=upstream)
        except OSError:
            writer.transport.abort()
            return
        try:
            # What one side ends, the other one is told of; what is on its way arrives first.
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(reader, upstream_writer))
                group.create_task(self._pump(upstream_reader, writer))
        except* OSError:
            pass
        finally:
            writer.transport.abort()
            upstream_writer.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(_READ):
            await self._flows.wait()
            writer.write(data)
            await writer.drain()
        with contextlib.suppress(OSError, RuntimeError):
            writer.write_eof()


class Network:
    """How clients reach the hubs.

    :param addresses: of the hubs, known later than this.
    """

    def __init__(self, *addresses: tuple[str, int]) -> None:
        self.addresses = list(addresses)
        self.proxy = Proxy(self._balanced)
        self.host: Host | None = None
        self.are_ready: list[bool] = []
        """For each hub, whether it was ready at the last look: the proxy prefers those that were."""
        self._cuts = {Route.PROXY: 0, Route.HOST: 0}
        self._turn = itertools.count()
        self._nodes: dict[tuple[str, int], int] = {}  # by the address of a client at the proxy

    def note_cut(self, route: Route) -> None:
        """Take note that connections on a route do not carry anything any more."""
        self._cuts[route] += 1

    def cuts(self, route: Route) -> int:
        """How often a route was cut: a client that sees it change lost its connection to the network."""
        return self._cuts.get(route, 0)

    async def connect(self, route: Route, receive_buffer: int = 0, node: int = 0) -> socket.socket:
        """Open a connection to a hub.

        :param receive_buffer: bytes of the socket of a client that is to feel slow; 0: as the system has it.
        :param node: the hub, unless the proxy chooses it.
        :raises OSError: there is none to be had.
        """
        async with asyncio.timeout(_CONNECT):  # its TimeoutError is an OSError
            if route is Route.HOST and self.host is not None:
                sock = await asyncio.to_thread(self.host.make_socket)
                return await _connected(sock, (self.host.hub_address, self.addresses[node][1]))
            if route is Route.PROXY:
                return await _open(self.proxy.address, receive_buffer)
            return await _open(self.addresses[node], receive_buffer)

    def node_of(self, sock: socket.socket, route: Route, node: int) -> int:
        """The hub at the other end of a connection; ``ANY``: the proxy has found none.

        :param node: that was asked for.
        """
        if route is not Route.PROXY:
            return node
        try:
            return self._nodes.get(sock.getsockname(), ANY)
        except OSError:
            return ANY

    async def _balanced(self, client: tuple[str, int]) -> socket.socket:
        """Connect to one hub after the other: of those that are ready, or of all, or of those that accept."""
        self._nodes.pop(client, None)
        first = next(self._turn)
        nodes = [(first + number) % len(self.addresses) for number in range(len(self.addresses))]
        nodes.sort(key=lambda node: node < len(self.are_ready) and not self.are_ready[node])
        for node in nodes:
            try:
                sock = await _open(self.addresses[node], 0)
            except OSError as error:
                failure = error
                continue
            self._nodes[client] = node
            return sock
        raise failure


async def _open(address: tuple[str, int], receive_buffer: int) -> socket.socket:
    sock = socket.socket()
    if receive_buffer:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        # The segments of the loopback are so long that the hub's buffer would hold megabytes for this client.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, _ETHERNET)
    return await _connected(sock, address)


async def _connected(sock: socket.socket, address: tuple[str, int]) -> socket.socket:
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.get_running_loop().sock_connect(sock, address)
    except BaseException:
        sock.close()
        raise
    return sock
