"""Bells: whoever waits is woken, once for many rings."""

from __future__ import annotations

import os
import select
from collections.abc import Iterator
from contextlib import closing

import pytest

from mercure_hub.storage.doorbell import Bell, Doorbell, bells


@pytest.fixture(autouse=True, params=["eventfd", "pipe"])
def _system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "pipe":
        monkeypatch.delattr(os, "eventfd", raising=False)
    elif not hasattr(os, "eventfd"):
        pytest.skip("no eventfd here")


@pytest.fixture
def bell() -> Iterator[Bell]:
    with closing(Bell()) as bell:
        yield bell


def has_rung(bell: Bell) -> bool:
    return bool(select.select([bell], [], [], 0)[0])


def test_many_rings_are_heard_as_one(bell: Bell) -> None:
    assert not has_rung(bell)
    for _ in range(10):
        bell.ring()
    assert has_rung(bell)
    bell.silence()
    assert not has_rung(bell)
    bell.silence()


def test_nobody_has_to_listen(bell: Bell) -> None:
    """A pipe that is full takes no more, and has rung."""
    for _ in range(20_000):
        bell.ring()
    assert has_rung(bell)
    bell.silence()
    bell.silence()
    assert not has_rung(bell)


def test_a_closed_bell_does_not_ring() -> None:
    bell = Bell()
    bell.close()
    bell.close()
    bell.ring()
    assert bell.fileno() == -1


def test_a_doorbell_rings_at_the_others() -> None:
    first, second, third = all_bells = bells(3)
    door = Doorbell(first, [second, third])
    door.ring()
    assert [has_rung(bell) for bell in all_bells] == [False, True, True]
    assert door.others == 2
    door.wait(0)
    door.ring_own()
    door.wait(10)
    assert not has_rung(first)
    for bell in all_bells:
        bell.close()


def test_an_inherited_bell_is_the_same(bell: Bell) -> None:
    if hasattr(os, "eventfd"):
        descriptor = os.dup(bell.fileno())
        with closing(Bell((descriptor, descriptor))) as inherited:
            inherited.ring()
            assert has_rung(bell)
