"""Event streams that stay open while other things are tried, and what came when."""

from __future__ import annotations

import selectors
import socket
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from flask_mercure.doctor.connection import Endpoint, Unreachable, close, dial, time_left, words
from flask_mercure.doctor.exchange import Framing, Head, read_head, request
from mercure_hub.protocol.event_stream import Parser

_ACCEPTED = {"Accept": "text/event-stream", "Accept-Encoding": "gzip", "Cache-Control": "no-cache"}


@dataclass(frozen=True, slots=True)
class Refused:
    """The answer is no event stream.

    :param head: of the answer.
    """

    head: Head


class Stream:
    """An open subscription; times are on the monotonic clock.

    :param name: for messages.
    :param sock: connected.
    :param head: of the answer.
    :param rest: what has come with it.
    :param sent_at: when the request went out.
    """

    def __init__(self, name: str, sock: socket.socket, head: Head, rest: bytes, sent_at: float) -> None:
        self.name = name
        self.head = head
        self.opened_at = time.monotonic()
        self.head_after = self.opened_at - sent_at
        self.last_at = self.opened_at
        self.ended_at: float | None = None
        self.events: dict[str, float] = {}
        self.comments: list[float] = []
        self.has_begun = False
        self._sock = sock
        self._framing = Framing(head)
        self._parser = Parser()
        sock.setblocking(False)
        self._take(rest)

    def fileno(self) -> int:
        """For selectors."""
        return self._sock.fileno()

    @property
    def is_open(self) -> bool:
        """Whether nobody has ended it."""
        return self.ended_at is None

    def read(self) -> None:
        """Take what has arrived."""
        while self.is_open:
            try:
                octets = self._sock.recv(65536)
            except (BlockingIOError, ssl.SSLWantReadError):
                return
            except OSError:
                octets = b""
            if octets:
                self._take(octets)
            if not octets or self._framing.is_complete:
                self.ended_at = time.monotonic()

    def close(self) -> None:
        """End it from our side."""
        close(self._sock)

    def _take(self, octets: bytes) -> None:
        if octets:
            self.last_at = time.monotonic()
        plain = self._framing.feed(octets)
        if not plain:
            return
        self.has_begun = True
        now = time.monotonic()
        events = list(self._parser.feed(plain))
        for event in events:
            self.events.setdefault(event.data, now)
        if not events and plain.lstrip().startswith(b":"):
            self.comments.append(now)


def subscribe(
    endpoint: Endpoint,
    trust: ssl.SSLContext | None,
    query: str,
    headers: Mapping[str, str],
    seconds: float,
) -> Stream | Refused:
    """Open a subscription.

    :param query: with its matchers, encoded.
    :param headers: with the token.
    :param seconds: until the head of the answer must be there.
    :raises Unreachable: there is no answer.
    """
    deadline = time.monotonic() + seconds
    sock = dial(endpoint, trust, deadline)
    sent_at = time.monotonic()
    try:
        sock.settimeout(time_left(deadline))
        try:
            sock.sendall(request(endpoint, "GET", f"{endpoint.path}?{query}", {**_ACCEPTED, **headers}))
        except OSError as error:
            raise Unreachable("answer", words(error)) from None
        head, rest = read_head(sock, deadline)
        if head.status == 200 and head.media_type == "text/event-stream":
            return Stream(endpoint.setting, sock, head, rest, sent_at)
    except BaseException:
        close(sock)
        raise
    close(sock)
    return Refused(head)


def listen(streams: Sequence[Stream], seconds: float, is_enough: Callable[[], bool]) -> None:
    """Read from streams until there is enough, all have ended, or the time is over."""
    deadline = time.monotonic() + seconds
    with selectors.DefaultSelector() as selector:
        for stream in dict.fromkeys(streams):
            stream.read()
            if stream.is_open:
                selector.register(stream, selectors.EVENT_READ, stream)
        while not is_enough() and selector.get_map():
            left = deadline - time.monotonic()
            if left <= 0:
                return
            for key, _ in selector.select(left):
                stream = key.data
                stream.read()
                if not stream.is_open:
                    selector.unregister(stream)
