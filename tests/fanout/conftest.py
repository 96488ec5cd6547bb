"""What the tests of the engine share."""

from __future__ import annotations

import functools
import select
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mercure_hub.fanout.writer import Ring
from mercure_hub.protocol.matching.matcher import Matcher
from tests.certificates import self_signed
from tests.fanout.bench import Bench


def _descriptors() -> set[str]:
    found: set[str] = set()
    for one in Path("/proc/self/fd").iterdir():
        try:
            found.add(f"{one.name} {one.readlink()}")
        except FileNotFoundError:  # the directory itself
            continue
    return found


@pytest.fixture(scope="session")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate with its key."""
    return self_signed(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def no_descriptor_left() -> Iterator[None]:
    """Each descriptor that a test opens is closed at its end.

    What other tests left to the garbage collector may go meanwhile.
    """
    before = _descriptors()
    yield
    assert _descriptors() - before == set()


@functools.cache
def lacks_ring() -> str | None:
    """Why this machine has no io_uring."""
    try:
        Ring().close()
    except OSError as error:
        return f"no io_uring here: {error.strerror}"
    return None


WAYS = {
    "one call for many": (True, 1),
    "a call for each": (True, sys.maxsize),
    "a watcher for each": (False, sys.maxsize),
}
"""Whether there is an epoll, and the number of writes from which one call makes them."""


@pytest.fixture(autouse=True, params=WAYS)
def _system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything holds whatever the kernel has for writing to many sockets and watching them."""
    has_epoll, ring_from = WAYS[request.param]
    if has_epoll and not hasattr(select, "epoll"):
        pytest.skip("no epoll here")
    if ring_from == 1 and lacks_ring():
        pytest.skip(str(lacks_ring()))
    monkeypatch.setattr(Bench, "ring_from", ring_from)
    monkeypatch.setattr(Bench, "use_epoll", has_epoll)


@pytest.fixture
def bench(no_descriptor_left: None) -> Iterator[Bench]:
    """An engine with the limits that are the default."""
    bench = Bench()
    yield bench
    bench.close()


@pytest.fixture
def evaluations(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each pattern has been tried for a topic."""
    counted: Counter[str] = Counter()
    evaluate = Matcher._evaluate

    def count(self: Matcher, *arguments: Any) -> bool:
        counted[self.value] += 1
        return evaluate(self, *arguments)

    monkeypatch.setattr(Matcher, "_evaluate", count)
    return counted
