"""A small hub that makes the mistakes it is told to, so that the load generator can find them."""

from __future__ import annotations

import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

Deliver = Callable[[Sequence[socket.socket], list[bytes]], None]
"""Gets the subscribers and all events so far; sends whatever it likes."""

_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
_OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class FaultyHub:
    """Requests as they came are in ``heads``.

    :param deliver: called for each publication.
    :param greeting: sent to each subscriber after the head of the response.
    :param tls: with it, everything goes over TLS.
    """

    def __init__(self, deliver: Deliver, greeting: bytes, tls: ssl.SSLContext | None) -> None:
        self.heads: list[str] = []
        self._deliver = deliver
        self._greeting = greeting
        self._tls = tls
        self._events: list[bytes] = []
        self._subscribers: list[socket.socket] = []
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._open: list[socket.socket] = []
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._start(self._accept)

    @property
    def address(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self._listening.getsockname()[1]}"

    def close(self) -> None:
        """End everything."""
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._threads[0].join(10)
        for sock in self._open:
            sock.close()
        for thread in self._threads:
            thread.join(10)
            assert not thread.is_alive()

    def _start(self, function: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=function, args=arguments)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listening.accept()
            except OSError:
                return
            if self._tls is not None:
                sock = self._tls.wrap_socket(sock, server_side=True)
            self._open.append(sock)
            self._start(self._serve, sock)

    def _serve(self, sock: socket.socket) -> None:
        received = b""
        while True:
            try:
                more = sock.recv(65536)
            except OSError:
                return
            if not more:
                return
            received += more
            head, end, body = received.partition(b"\r\n\r\n")
            if not end:
                continue
            length = re.search(rb"Content-Length: (\d+)", head)
            if length is not None and len(body) < int(length[1]):
                continue
            received = b""
            with self._lock:
                self.heads.append(head.decode())
                if head.startswith(b"GET"):
                    self._subscribers.append(sock)
                    sock.sendall(_HEAD + self._greeting)
                    continue
                self._events.append(b"data: " + body.partition(b"data=")[2] + b"\n\n")
                sock.sendall(_OK)
                self._deliver(self._subscribers, self._events)


@contextmanager
def faulty_hub(
    deliver: Deliver, greeting: bytes = b"", tls: ssl.SSLContext | None = None
) -> Iterator[FaultyHub]:
    """A hub for the length of a ``with`` block."""
    hub = FaultyHub(deliver, greeting, tls)
    try:
        yield hub
    finally:
        hub.close()


def correct(subscribers: Sequence[socket.socket], events: list[bytes]) -> None:
    """The newest event to all."""
    for sock in subscribers:
        sock.sendall(events[-1])
