"""What the kernel reports about many sockets: that one has input or room, or that its other side has left.

Linux reports all of it through one descriptor, an edge-triggered epoll, which the event loop watches.
Elsewhere the event loop watches each socket itself, by whatever the system has for that (kqueue, select).
"""

from __future__ import annotations

import select
from collections.abc import Callable
from typing import Any, Protocol

_INPUT, _ROOM = 1, 2  # to the event loop

_EVENTS = 128  # that are handled at once

Report = Callable[[int, bool, bool], None]
"""Called with a descriptor, whether it has input, and whether its other side has left."""


class IoWatcher(Protocol):
    """What an event loop calls when a descriptor is ready."""

    def start(self, callback: Callable[..., object], *arguments: object) -> object:
        """Call this from now on, whenever the descriptor is ready."""

    def stop(self) -> object:
        """Call nothing."""

    def close(self) -> object:
        """Stop for good."""


class Loop(Protocol):
    """What is needed of the event loop; gevent's has it."""

    def io(self, fd: int, events: int) -> Any:
        """An ``IoWatcher``: events are 1 for input, 2 for room."""


class Readiness(Protocol):
    """Watches sockets and calls what ``report`` is set to."""

    report: Report

    def attach(self, loop: Loop) -> None:
        """Report from now on, in this event loop."""

    def add(self, fd: int, *, reads: bool) -> None:
        """Watch a socket, and report when its other side leaves.

        :param reads: report input too. Where the system tells of an end only by an empty read, input is
            reported of all, and has to be read.
        :raises OSError: the limits of the kernel are reached.
        """

    def await_room(self, fd: int) -> None:
        """Report when a watched socket that was full has room again."""

    def remove(self, fd: int) -> None:
        """Watch a socket no more; to be called before it is closed."""

    def close(self) -> None:
        """Watch nothing any more."""


def readiness(*, use_epoll: bool) -> Readiness:
    """The best of this system.

    :param use_epoll: use epoll where the kernel has it.
    """
    return Epoll() if use_epoll and hasattr(select, "epoll") else Watchers()


def _nobody(fd: int, has_input: bool, has_left: bool) -> None:
    """Before anybody wants to know."""


class Epoll:
    """All sockets in one edge-triggered epoll: nothing to do for those that are idle or written to."""

    def __init__(self) -> None:
        self.report: Report = _nobody
        self._epoll = select.epoll()
        self._interest = select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET
        self._hung_up = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
        self._watcher: IoWatcher | None = None

    def attach(self, loop: Loop) -> None:
        """Have the event loop watch the epoll."""
        watcher: IoWatcher = loop.io(self._epoll.fileno(), _INPUT)
        watcher.start(self._poll)
        self._watcher = watcher

    def add(self, fd: int, *, reads: bool) -> None:
        """Watch for everything at once; input only if it ``reads``."""
        self._epoll.register(fd, self._interest | select.EPOLLIN if reads else self._interest)

    def await_room(self, fd: int) -> None:
        """Nothing: room is always reported."""

    def remove(self, fd: int) -> None:
        """Nothing: the kernel forgets what is closed."""

    def close(self) -> None:
        """Close the epoll."""
        if self._watcher is not None:
            self._watcher.stop()
            self._watcher.close()
        self._epoll.close()

    def _poll(self) -> None:
        for fd, events in self._epoll.poll(0, _EVENTS):
            self.report(fd, bool(events & select.EPOLLIN), bool(events & self._hung_up))


class Watchers:
    """A watcher of the event loop for the input of each socket, and one for room while a socket is full."""

    def __init__(self) -> None:
        self.report: Report = _nobody
        self._loop: Loop | None = None
        self._input: dict[int, IoWatcher] = {}
        self._room: dict[int, IoWatcher] = {}

    def attach(self, loop: Loop) -> None:
        """Watch in this event loop, before the first ``add``."""
        self._loop = loop

    def add(self, fd: int, *, reads: bool) -> None:  # noqa: ARG002 - an end is an empty read
        """Watch for input."""
        self._start(self._input, fd, _INPUT, self._note_input)

    def await_room(self, fd: int) -> None:
        """Watch for room until there is some."""
        if fd in self._input:
            self._start(self._room, fd, _ROOM, self._note_room)

    def remove(self, fd: int) -> None:
        """Stop both watchers."""
        for watchers in (self._input, self._room):
            watcher = watchers.pop(fd, None)
            if watcher is not None:
                watcher.stop()
                watcher.close()

    def close(self) -> None:
        """Stop all watchers."""
        for fd in list(self._input):
            self.remove(fd)

    def _start(
        self, watchers: dict[int, IoWatcher], fd: int, events: int, callback: Callable[[int], None]
    ) -> None:
        watcher = watchers.get(fd)
        if watcher is None:
            assert self._loop is not None
            watcher = watchers[fd] = self._loop.io(fd, events)
        watcher.start(callback, fd)

    def _note_input(self, fd: int) -> None:
        self.report(fd, True, False)

    def _note_room(self, fd: int) -> None:
        self._room[fd].stop()  # it would be called again and again; who is still full asks again
        self.report(fd, False, False)
