"""Three layers of tests: seconds, minutes, servers.

The marks ``minutes`` and ``servers`` put a module, or a test, into its layer. What has none is in the layer
of seconds: it starts no process and uses no network; files, threads and Unix sockets are allowed. Browsers
and web servers of the system are for ``servers`` alone, and what ``make foreign`` runs is a part of its own.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, TypeVar

import pytest

LAYERS = ("seconds", "minutes", "servers", "foreign")
_LONGEST = (  # a minute or more each
    *("test_javascript_fallback.py", "test_chat.py", "test_apache.py"),
    *("test_cluster.py", "test_several_hubs.py"),
)
_PROCESS = {"subprocess.Popen", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.system"}
_PROGRAMS = {
    *("apache2", "caddy", "chromedriver", "chromium", "h2load", "haproxy", "nghttp", "nghttpd", "nginx"),
    *("npm", "supervisord"),
}
_NETWORK = {"socket.bind", "socket.connect"}
_INTERNET = {socket.AF_INET, socket.AF_INET6}

T = TypeVar("T")


class WrongLayer(Exception):
    """A test does what is not for its layer."""


def layer_of(item: pytest.Item) -> int:
    """Its layer, as an index.

    :raises pytest.UsageError: the marks name two.
    """
    found = {mark.name for mark in item.iter_markers() if mark.name in LAYERS}
    if len(found) > 1:
        raise pytest.UsageError(f"{item.nodeid} has the marks {' and '.join(sorted(found))}: leave one")
    return LAYERS.index(found.pop()) if found else 0


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark those of seconds, so that ``-m seconds`` finds them. What takes longest begins, in whole files."""
    weights: dict[object, tuple[int, bool]] = {}
    for item in items:
        layer = layer_of(item)
        if not layer:
            item.add_marker("seconds")
        weight = (layer, item.path.name in _LONGEST)
        weights[item.path] = max(weight, weights.get(item.path, weight))
    items.sort(key=lambda item: weights[item.path], reverse=True)


class Watch:
    """Knows which test runs, and forbids it what is not for its layer."""

    def __init__(self) -> None:
        self._layer = len(LAYERS)
        self._others: set[int | None] = set()
        self._complaint = ""

    def begin(self, layer: int) -> None:
        """A test begins: what this thread and new ones do from now on is done by it."""
        self._others = {one.ident for one in threading.enumerate()} - {threading.get_ident()}
        self._layer = layer

    def end(self) -> None:
        self._layer = len(LAYERS)

    def check(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Judge an event of the interpreter.

        :raises WrongLayer: it is not for the layer of the test.
        """
        if event in _PROCESS:
            needed, done = 1, "starts a process"
            if event == "subprocess.Popen":
                program = Path(os.fsdecode(arguments[0])).name
                done = f"starts {program}"
                if program in _PROGRAMS and "-v" not in arguments[1]:
                    needed = 2
        elif event in _NETWORK and arguments[0].family in _INTERNET:
            needed, done = 1, "uses the network"
        else:
            return
        if self._layer < needed and threading.get_ident() not in self._others:
            self._complaint = (
                f"the test {done}, which is not for the layer of {LAYERS[self._layer]}: mark its module, "
                f"pytestmark = pytest.mark.{LAYERS[needed]}, or the test alone if the others do not"
            )
            raise WrongLayer(self._complaint)

    def forget(self) -> None:
        """What was complained about was on purpose."""
        self._complaint = ""

    def phase(self) -> Generator[None, T, T]:
        """Around the setup or the call of a test.

        :raises WrongLayer: the code under test has swallowed it.
        """
        self._complaint = ""
        result = yield
        if self._complaint:
            raise WrongLayer(self._complaint)
        return result


watch = Watch()


def _install(judge: Callable[[str, tuple[Any, ...]], None]) -> None:
    events = _PROCESS | _NETWORK

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in events:  # not names of the module, which is emptied before the interpreter ends
            judge(event, arguments)

    sys.addaudithook(hook)


_install(watch.check)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, T, T]:
    watch.begin(layer_of(item))
    try:
        return (yield)
    finally:
        watch.end()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup() -> Generator[None, T, T]:
    return (yield from watch.phase())


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call() -> Generator[None, T, T]:
    return (yield from watch.phase())


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown() -> None:
    watch.end()  # what ends may be a fixture of the session, such as a browser
