"""A test that does more than its layer allows is stopped."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Generator

import pytest

from tests import layers
from tests.layers import LAYERS, Watch, WrongLayer

PYTHON = ("/usr/bin/python3", ["python3", "-m", "mercure_hub"], None, None)
NGINX = ("/usr/sbin/nginx", ["nginx", "-g", "daemon off;"], None, None)


@pytest.fixture
def internet() -> Generator[socket.socket, None, None]:
    with socket.socket() as sock:
        yield sock


@pytest.fixture
def unix() -> Generator[socket.socket, None, None]:
    with socket.socket(socket.AF_UNIX) as sock:
        yield sock


def watching(layer: str) -> Watch:
    watch = Watch()
    watch.begin(LAYERS.index(layer))
    return watch


def run(watch: Watch, test: Callable[[], None]) -> None:
    """A phase of a test."""
    phase: Generator[None, None, None] = watch.phase()
    next(phase)
    test()
    with pytest.raises(StopIteration):
        next(phase)


@pytest.mark.parametrize("event", ["socket.bind", "socket.connect"])
def test_the_network_is_for_minutes(event: str, internet: socket.socket, unix: socket.socket) -> None:
    with pytest.raises(WrongLayer, match=r"uses the network.* pytestmark = pytest\.mark\.minutes"):
        watching("seconds").check(event, (internet, ("127.0.0.1", 0)))
    watching("seconds").check(event, (unix, "socket"))
    for layer in ("minutes", "servers"):
        watching(layer).check(event, (internet, ("127.0.0.1", 0)))


def test_processes_are_for_minutes_and_programs_of_the_system_for_servers() -> None:
    with pytest.raises(WrongLayer, match=r"starts python3.* pytest\.mark\.minutes"):
        watching("seconds").check("subprocess.Popen", PYTHON)
    with pytest.raises(WrongLayer, match=r"starts a process.* pytest\.mark\.minutes"):
        watching("seconds").check("os.fork", ())
    for layer in ("seconds", "minutes"):
        with pytest.raises(WrongLayer, match=r"starts nginx.* pytest\.mark\.servers"):
            watching(layer).check("subprocess.Popen", NGINX)
    watching("minutes").check("subprocess.Popen", PYTHON)
    watching("minutes").check("subprocess.Popen", ("/usr/sbin/nginx", ["nginx", "-v"], None, None))
    watching("servers").check("subprocess.Popen", NGINX)


def test_what_the_code_under_test_swallows_is_told_at_the_end() -> None:
    watch = watching("seconds")

    def swallow() -> None:
        with pytest.raises(WrongLayer):
            watch.check("os.fork", ())

    with pytest.raises(WrongLayer, match="starts a process"):
        run(watch, swallow)
    run(watch, lambda: None)  # and not again


def test_threads_of_earlier_tests_are_not_blamed_on_this_one() -> None:
    watch, go = Watch(), threading.Event()
    failed: list[WrongLayer] = []

    def late() -> None:
        assert go.wait(10)
        try:
            watch.check("os.fork", ())
        except WrongLayer as error:
            failed.append(error)

    earlier = threading.Thread(target=late)
    earlier.start()
    watch.begin(0)
    own = threading.Thread(target=late)
    own.start()
    go.set()
    earlier.join()
    own.join()
    assert len(failed) == 1


def test_between_tests_all_is_allowed() -> None:
    watch = watching("seconds")
    watch.end()
    watch.check("os.fork", ())


def test_this_test_itself_is_watched(internet: socket.socket) -> None:
    with pytest.raises(WrongLayer):
        internet.bind(("127.0.0.1", 0))
    layers.watch.forget()
