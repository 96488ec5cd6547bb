"""Proxies that do to a hub's streams what real ones do when they are not set up for them."""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

_PIECE = 65536


def unchanged(data: bytes) -> bytes:
    return data


@contextmanager
def proxy(
    port: int,
    *,
    holds: bool | Callable[[], bool] = False,
    passes_head: bool = False,
    silence: float | None = None,
    request: Callable[[bytes], bytes] = unchanged,
    answer: Callable[[bytes], bytes] = unchanged,
) -> Iterator[int]:
    """Run a proxy before a port of the loopback.

    :param holds: keep an event stream back until it ends; a function is asked for each one.
    :param passes_head: but not the head of the response.
    :param silence: seconds after which a quiet connection is cut.
    :param request: changes each piece that goes to the hub.
    :param answer: changes each piece that comes from it.
    :returns: its own port.
    """
    listening = socket.create_server(("127.0.0.1", 0))
    stop, stopped = socket.socketpair()
    threads: list[threading.Thread] = []

    def serve() -> None:
        while True:
            ready, _, _ = select.select([listening, stopped], [], [])
            if stopped in ready:
                return
            client, _ = listening.accept()
            threads.append(threading.Thread(target=relay, args=(client,)))
            threads[-1].start()

    def connect() -> socket.socket:
        return socket.create_connection(("127.0.0.1", port))

    def relay(client: socket.socket) -> None:
        held = b""
        is_held = False
        with client, suppress(ConnectionRefusedError), connect() as upstream:
            while True:
                ready, _, _ = select.select([client, upstream, stopped], [], [], silence)
                if not ready or stopped in ready:
                    return
                try:
                    if client in ready:
                        data = client.recv(_PIECE)
                        if not data:
                            return
                        upstream.sendall(request(data))
                    if upstream in ready:
                        data = upstream.recv(_PIECE)
                        if not data:
                            client.sendall(held)
                            return
                        data = answer(data)
                        if not is_held and b"text/event-stream" in data:
                            is_held = holds() if callable(holds) else holds
                            if is_held and passes_head:
                                head, end, data = data.partition(b"\r\n\r\n")
                                client.sendall(head + end)
                        if is_held:
                            held += data
                        else:
                            client.sendall(data)
                except OSError:
                    return

    acceptor = threading.Thread(target=serve)
    acceptor.start()
    try:
        yield int(listening.getsockname()[1])
    finally:
        stop.close()
        for thread in [acceptor, *threads]:
            thread.join()
        listening.close()
        stopped.close()
