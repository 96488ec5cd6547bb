"""An engine with a clock that the test turns, and readers at the other end of real sockets."""

from __future__ import annotations

import functools
import select
import socket
import ssl
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from mercure_hub.fanout.encoding import Form
from mercure_hub.fanout.endings import Ending, Reason
from mercure_hub.fanout.engine import Engine, EngineLimits
from mercure_hub.fanout.subscriber import Subscriber
from mercure_hub.fanout.tls import TlsLayer
from mercure_hub.protocol.event_stream import Event, Parser
from mercure_hub.protocol.hub_url import Identity
from mercure_hub.protocol.matching.matcher import Matcher, make
from mercure_hub.protocol.matching.table import Scope
from mercure_hub.protocol.tokens.grant import ANONYMOUS, Grant
from mercure_hub.protocol.topics import MatcherType
from mercure_hub.protocol.update import Update
from mercure_hub.storage.interface import Entry

HUB = Identity("https://hub.example.com/.well-known/mercure")
FOREVER = float("inf")
START = 1000.0
HUB_STOPS = Ending(Reason.HUB_STOPS)
LEFT = Ending(Reason.CLOSED_BY_CLIENT)

_SMALLEST = 4096


def exact(topic: str) -> Matcher:
    return make(MatcherType.EXACT, topic, HUB.url)


def pattern(value: str) -> Matcher:
    return make(MatcherType.URLPATTERN, value, HUB.url)


def template(value: str) -> Matcher:
    return make(MatcherType.TEMPLATE, value, HUB.url)


def may_read(*matchers: Matcher) -> Grant:
    return Grant(subscribe=Scope(matchers))


def subscriber(
    *matchers: Matcher,
    grant: Grant = ANONYMOUS,
    ends_at: float = FOREVER,
    form: Form = Form.PLAIN,
) -> Subscriber:
    return Subscriber(
        matchers=matchers,
        grant=grant,
        identity=HUB,
        peer="192.0.2.1",
        connected_at=int(START),
        ends_at=ends_at,
        form=form,
    )


class TestLoop:
    """An event loop that turns when the test says so."""

    __test__ = False

    def __init__(self) -> None:
        self._started: list[_Watcher] = []

    def io(self, fd: int, events: int) -> _Watcher:
        return _Watcher(self._started, fd, events)

    def ready(self, timeout: float = 0.0) -> list[_Watcher]:
        """The watchers whose descriptor is ready, after so many seconds at most."""
        poll = select.poll()
        wanted: dict[int, int] = {}
        for one in self._started:
            wanted[one.fd] = wanted.get(one.fd, 0) | (select.POLLIN if one.events == 1 else select.POLLOUT)
        for fd, events in wanted.items():
            poll.register(fd, events)
        found = dict(poll.poll(timeout * 1000))
        broken = select.POLLHUP | select.POLLERR
        return [
            one
            for one in self._started
            if found.get(one.fd, 0) & (broken | (select.POLLIN if one.events == 1 else select.POLLOUT))
        ]

    def turn(self) -> None:
        """Call the watchers whose descriptor is ready, each once."""
        for one in self.ready():
            if one in self._started:
                one.call()

    def close(self) -> None:
        assert self._started == []


class _Watcher:
    def __init__(self, started: list[_Watcher], fd: int, events: int) -> None:
        self._all = started
        self.fd = fd
        self.events = events
        self.call: Callable[[], object] = lambda: None

    def start(self, callback: Callable[..., object], *arguments: object) -> None:
        self.call = functools.partial(callback, *arguments)
        if self not in self._all:
            self._all.append(self)

    def stop(self) -> None:
        if self in self._all:
            self._all.remove(self)

    def close(self) -> None:
        self.stop()


@dataclass(eq=False)
class Reader:
    """The client's end of a connection."""

    sock: socket.socket
    subscriber: Subscriber
    ours: socket.socket | TlsLayer
    received: bytearray = field(default_factory=bytearray)
    at_end: bool = False

    def read(self, most: int | None = None) -> bytes:
        """Take what has arrived, or ``most`` bytes of it; never waits."""
        taken = bytearray()
        while most is None or len(taken) < most:
            try:
                data = self.sock.recv(1 << 20 if most is None else most - len(taken))
            except (BlockingIOError, ssl.SSLWantReadError):
                break
            except (ConnectionError, ssl.SSLEOFError):
                self.at_end = True
                break
            if not data:
                self.at_end = True
                break
            taken += data
        self.received += taken
        return bytes(taken)

    def events(self) -> list[Event]:
        """Every event up to now, from the first byte on."""
        self.read()
        return list(Parser().feed(bytes(self.received)))

    def ids(self) -> list[str]:
        return [event.id for event in self.events()]

    def close(self) -> None:
        self.sock.close()

    def reset(self) -> None:
        """End the connection with a reset."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        self.sock.close()


class Bench:
    """The engine under test.

    ``gone`` lists the subscribers that were reported as gone, with the reason. ``ring_from`` is the number of
    writes from which they are made in one system call; with ``use_epoll`` all sockets are one descriptor to
    the event loop.
    """

    ring_from = 24
    use_epoll = hasattr(select, "epoll")

    def __init__(self, limits: EngineLimits | None = None, *, use_epoll: bool | None = None) -> None:
        self.now = START
        self.gone: list[tuple[Subscriber, str]] = []
        limits = replace(
            limits or EngineLimits(),
            ring_from=self.ring_from,
            use_epoll=self.use_epoll if use_epoll is None else use_epoll,
        )
        self.engine = Engine(limits, lambda: self.now, self._on_gone)
        self._loop = TestLoop()
        self.engine.attach(self._loop)
        self._sequence = 0
        self._open: list[socket.socket] = []

    def _on_gone(self, gone: Subscriber, ending: Ending) -> None:
        self.gone.append((gone, ending.text))

    def close(self) -> None:
        for one in self.engine:
            self.engine.drop(one, HUB_STOPS)
        self.engine.close()
        self._loop.close()
        for sock in self._open:
            sock.close()

    def adopt(self, sock: socket.socket) -> None:
        """Close a reader's end when the bench is closed."""
        self._open.append(sock)

    def connect(
        self,
        *matchers: Matcher,
        grant: Grant = ANONYMOUS,
        ends_at: float = FOREVER,
        tcp: bool = False,
        small: bool = False,
        start: bool = True,
        form: Form = Form.PLAIN,
    ) -> Reader:
        """A subscriber with its connection.

        :param small: as little room in the kernel as it gives.
        :param start: hand it to the engine at once.
        """
        ours, theirs = loopback_pair() if tcp else socket.socketpair()
        for sock in (ours, theirs):
            sock.setblocking(False)
            if small:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SMALLEST)
                # TCP with a tiny window waits for its timers.
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536 if tcp else _SMALLEST)
        self.adopt(theirs)
        reader = Reader(theirs, subscriber(*matchers, grant=grant, ends_at=ends_at, form=form), ours)
        if start:
            self.start(reader)
        return reader

    def start(self, reader: Reader) -> None:
        """Hand a reader's connection to the engine."""
        if isinstance(reader.ours, TlsLayer):
            self.engine.start(reader.subscriber, reader.ours.fd, reader.ours)
        else:
            self.engine.start(reader.subscriber, reader.ours.detach())

    def poll(self) -> None:
        """Let the engine handle what the kernel reports now."""
        self._loop.turn()

    def has_news(self, timeout: float = 0.0) -> bool:
        """Whether there is something to ``poll``, after so many seconds at most."""
        return bool(self._loop.ready(timeout))

    def update(self, *topics: str, data: str = "", private: bool = False) -> Entry:
        """The next update of the log; its id is its sequence."""
        self._sequence += 1
        return Entry(self._sequence, Update(topics, data, str(self._sequence), private))

    def dispatch(self, *entries: Entry, between: Callable[[int], None] = lambda _: None) -> int:
        """Dispatch updates in one batch.

        :param between: called after each slice but the last one, with the number of slices so far.
        :returns: the number of slices.
        """
        slices = 1
        for _ in self.engine.dispatch(entries):
            between(slices)
            slices += 1
        return slices

    def publish(self, *topics: str, data: str = "", private: bool = False) -> Entry:
        """Dispatch one update."""
        entry = self.update(*topics, data=data, private=private)
        self.dispatch(entry)
        return entry

    def tick(self, seconds: float = 0.0) -> None:
        """Let time pass, then do what is due."""
        self.now += seconds
        for _ in self.engine.tick():
            pass

    def reasons(self) -> list[str]:
        return [reason for _, reason in self.gone]


def loopback_pair() -> tuple[socket.socket, socket.socket]:
    """Both ends of a TCP connection."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        theirs = socket.create_connection(listening.getsockname(), timeout=10)
        ours, _ = listening.accept()
    theirs.settimeout(None)
    return ours, theirs


def ids(entries: Iterable[Entry]) -> list[str]:
    return [entry.update.id for entry in entries]


def encoded(entries: Sequence[Entry]) -> bytes:
    return b"".join(entry.update.encode() for entry in entries)
